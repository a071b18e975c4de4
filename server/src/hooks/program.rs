//! A hook's program: killed with all that it started, its output in the log.

use std::time::Duration;

use tokio::process::Command;

use crate::{
    family::Scope,
    program::{self, Call},
};

/// A longer line is cut.
const LINE_BYTES: usize = 1024;
/// More lines of one run aren't logged.
const LINES: usize = 100;

/// Runs a program to its end. Dropped before that, or after `limit`, it is killed with its process group.
///
/// # Errors
/// When it can't be run, fails, or doesn't end in time: why.
pub(super) async fn run(command: Command, name: &'static str, limit: Duration) -> Result<(), String> {
    let what = format!("hooks.{name}: {}", command.as_std().get_program().display());
    let call = Call { what: &what, input: None, limit, scope: Scope::All };
    let status = program::run(command, call, Lines::log(name), Lines::log(name)).await?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}")) }
}

/// Puts lines into the log.
struct Lines {
    hook: &'static str,
    line: Vec<u8>,
    left: usize,
}

impl Lines {
    fn log(hook: &'static str) -> impl FnMut(&[u8]) + Send + 'static {
        let mut lines = Lines { hook, line: vec![], left: LINES };
        move |bytes| lines.take(bytes)
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() || self.left == 0 {
            return;
        }
        self.left -= 1;
        tracing::info!(hook = self.hook, "{}", String::from_utf8_lossy(&line).trim_end());
        if self.left == 0 {
            tracing::info!(hook = self.hook, "it says more, which isn't shown");
        }
    }
}

/// The last line may have no end.
impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
    }
}
