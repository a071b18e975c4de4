//! Calls the user's program: JSON in, text out, bounded in time and size.

use std::{process::Stdio, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

/// A program that prints more has failed.
const OUTPUT_BYTES: usize = 256 << 10;
/// Of its standard error so much is looked at, for the first line.
const ERROR_BYTES: usize = 4096;
/// What a program has left running may hold its output open: so long is waited for the rest.
const OUTPUT_TIME: Duration = Duration::from_millis(200);

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
        command.args(arguments).env("TANIST_NODE", &self.node).kill_on_drop(true);
        if let Some(revision) = revision {
            command.env("TANIST_REVISION", revision.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{name} can't be run: {error}"))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let input = input.to_string();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A program that doesn't read it is free to.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let (output, errors) = (Printed::of(stdout, OUTPUT_BYTES + 1), Printed::of(stderr, ERROR_BYTES));
        let ended = timeout(self.timeout, async { tokio::join!(feed, child.wait()).1 }).await;
        let status = match ended {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(format!("{name}: {error}")),
            Err(_) => return Err(format!("{name} didn't end within {:?}", self.timeout)),
        };
        let (output, errors) = (output.all().await, errors.all().await);
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

/// What a program prints. All of it is read, so that the program isn't held up; the beginning is kept.
struct Printed {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Printed {
    fn of(from: Option<impl AsyncRead + Unpin + Send + 'static>, limit: usize) -> Printed {
        let kept = Arc::new(Mutex::new(vec![]));
        let into = Arc::clone(&kept);
        let reading = tokio::spawn(async move {
            let Some(mut from) = from else { return };
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut bytes).await {
                let mut kept = into.lock();
                let room = limit.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..count.min(room)]);
            }
        });
        Printed { kept, reading }
    }

    /// The program has ended: what it has printed.
    async fn all(mut self) -> Vec<u8> {
        let _ = timeout(OUTPUT_TIME, &mut self.reading).await;
        std::mem::take(&mut *self.kept.lock())
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        self.reading.abort();
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
        let left = shell("sleep 1000 & echo {}").run(&state, None).await.unwrap();
        assert_eq!(left.trim(), "{}", "what it has left running isn't waited for");
        let large = json!({ "blob": "x".repeat(200_000) });
        assert_eq!(shell("cat").run(&large, None).await.unwrap().len(), large.to_string().len());
        let missing = Program { arguments: vec!["/no/such".to_owned()], ..shell("") };
        assert!(missing.run(&state, None).await.unwrap_err().contains("/no/such can't be run"));
    }
}
