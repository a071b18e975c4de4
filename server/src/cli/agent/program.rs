//! Calls the user's program: JSON in, text out, bounded in time and size.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::{
    family::Scope,
    program::{self, Call, Kept},
};

/// A program that prints more has failed.
const OUTPUT_BYTES: usize = 256 << 10;
/// Of its standard error so much is looked at, for the first line.
const ERROR_BYTES: usize = 4096;

/// A program and how it is called.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The program and its arguments.
    pub(super) arguments: Vec<String>,
    pub(super) node: String,
    pub(super) timeout: Duration,
}

impl Program {
    /// Runs it; what it prints, or why it failed.
    pub(super) async fn run(&self, input: &Value, revision: Option<i64>) -> Result<String, String> {
        let Some((name, arguments)) = self.arguments.split_first() else {
            return Err("no program".to_owned());
        };
        let mut command = Command::new(name);
        command.args(arguments).env("TANIST_NODE", &self.node);
        // Its own right is the agent's alone.
        command.env_remove("TANIST_TOKEN");
        if let Some(revision) = revision {
            command.env("TANIST_REVISION", revision.to_string());
        }
        let (output, errors) = (Kept::default(), Kept::default());
        let input = Some(input.to_string());
        let call = Call { what: name, input, limit: self.timeout, scope: Scope::Program };
        let ended = program::run(command, call, output.up_to(OUTPUT_BYTES + 1), errors.up_to(ERROR_BYTES));
        let status = ended.await?;
        let (output, errors) = (output.take(), errors.take());
        if !status.success() {
            let errors = String::from_utf8_lossy(&errors);
            let line = errors.lines().map(str::trim).find(|line| !line.is_empty());
            return Err(line.map_or_else(|| format!("{name}: {status}"), str::to_owned));
        }
        if output.len() > OUTPUT_BYTES {
            return Err(format!("{name} printed more than {OUTPUT_BYTES} bytes"));
        }
        String::from_utf8(output).map_err(|_| format!("{name} printed something that isn't UTF-8"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use serde_json::json;

    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
            node: "n1".to_owned(),
            timeout: Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn program_gets_json_and_gives_text_within_its_limits() {
        let state = json!({ "channel": 3 });
        let echo = shell("cat; echo; echo $TANIST_NODE $TANIST_REVISION").run(&state, Some(7)).await.unwrap();
        assert_eq!(echo, "{\"channel\":3}\nn1 7\n");
        assert_eq!(shell("exit 0").run(&state, None).await.unwrap(), "", "it needn't read");
        let failed = shell("echo out; echo; echo 'no bus' >&2; exit 3").run(&state, None).await.unwrap_err();
        assert_eq!(failed, "no bus");
        assert!(shell("exit 3").run(&state, None).await.unwrap_err().contains('3'));
        let much = shell("head -c 400000 /dev/zero").run(&state, None).await.unwrap_err();
        assert!(much.contains("more than 262144 bytes"), "{much}");
        let odd = shell("printf '\\377'").run(&state, None).await.unwrap_err();
        assert!(odd.contains("UTF-8"), "{odd}");
        let hung = Program { timeout: Duration::from_millis(50), ..shell("exec sleep 1000") };
        assert!(hung.run(&state, None).await.unwrap_err().contains("didn't end within 50ms"));
        // It ends when the test does.
        let here = tempfile::tempdir().unwrap();
        let left = format!("while [ -e '{}' ]; do sleep 0.05; done & echo {{}}", here.path().display());
        let left = shell(&left).run(&state, None).await.unwrap();
        assert_eq!(left.trim(), "{}", "what it has left running isn't waited for");
        let large = json!({ "blob": "x".repeat(200_000) });
        assert_eq!(shell("cat").run(&large, None).await.unwrap().len(), large.to_string().len());
        let missing = Program { arguments: vec!["/no/such".to_owned()], ..shell("") };
        assert!(missing.run(&state, None).await.unwrap_err().contains("/no/such can't be run"));
    }
}
