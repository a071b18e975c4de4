//! One program of the user's: run with a time limit, killed with all that it started, its output in the log.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

/// A longer line is cut.
const LINE_BYTES: usize = 1024;
/// More lines of one run aren't logged.
const LINES: usize = 100;
/// What a program has left running may hold its output open: so long is waited for the rest.
const OUTPUT_TIME: Duration = Duration::from_millis(100);

/// Runs a program to its end. Dropped before that, or after `limit`, it is killed with its process group.
///
/// # Errors
/// When it can't be run, fails, or doesn't end in time: why.
pub(super) async fn run(mut command: Command, name: &'static str, limit: Duration) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let program = command.as_std().get_program().display().to_string();
    let mut child =
        command.spawn().map_err(|error| format!("hooks.{name}: {program} can't be run: {error}"))?;
    let mut group = Group::of(&child);
    let output = Output::log(name, child.stdout.take());
    let errors = Output::log(name, child.stderr.take());
    let status = match timeout(limit, child.wait()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(format!("hooks.{name}: {program}: {error}")),
        Err(_) => return Err(format!("hooks.{name}: {program} didn't end within {limit:?}")),
    };
    // A program that ends well may leave others running, such as a daemon that it has started.
    group.release();
    output.rest().await;
    errors.rest().await;
    if status.success() { Ok(()) } else { Err(format!("hooks.{name}: {program}: {status}")) }
}

/// Kills a process group when it is dropped.
struct Group(Option<u32>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(child.id())
    }

    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.0 else { return };
        #[cfg(unix)]
        if let Some(pid) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        // Elsewhere the program alone is killed, with its handle.
        #[cfg(not(unix))]
        let _ = id;
    }
}

/// Puts lines into the log.
struct Output(JoinHandle<()>);

impl Output {
    fn log(hook: &'static str, from: Option<impl AsyncRead + Unpin + Send + 'static>) -> Output {
        Output(tokio::spawn(async move {
            let Some(mut from) = from else { return };
            let mut lines = Lines { hook, line: vec![], left: LINES };
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = from.read(&mut bytes).await {
                lines.take(&bytes[..count]);
            }
            lines.end_line();
        }))
    }

    async fn rest(mut self) {
        let _ = timeout(OUTPUT_TIME, &mut self.0).await;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Lines {
    hook: &'static str,
    line: Vec<u8>,
    left: usize,
}

impl Lines {
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
