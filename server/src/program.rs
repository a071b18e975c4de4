//! Runs one program of the user's: bounded in time, all that it prints read, and killed when nobody waits for it any more.
//!
//! Health checks, hooks and agents call theirs through this; what a program's output means is theirs to say.

use std::{process::ExitStatus, process::Stdio, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

use crate::family::{Family, Scope};

/// What a program has left running may hold its output open: so long is waited for the rest.
const OUTPUT_TIME: Duration = Duration::from_millis(200);

/// How a program is called.
pub(crate) struct Call<'c> {
    /// What it is, for errors.
    pub(crate) what: &'c str,
    /// What it gets on its standard input; it needn't read it.
    pub(crate) input: Option<String>,
    /// How long it may run.
    pub(crate) limit: Duration,
    /// What dies unless it ends in time.
    pub(crate) scope: Scope,
}

/// Runs a program to its end; `output` and `errors` get what it prints, piece by piece. Dropped before that, or after the
/// limit, it is killed.
///
/// # Errors
/// When it can't be run or doesn't end in time: why, in words.
pub(crate) async fn run(
    mut command: Command,
    call: Call<'_>,
    output: impl FnMut(&[u8]) + Send + 'static,
    errors: impl FnMut(&[u8]) + Send + 'static,
) -> Result<ExitStatus, String> {
    let Call { what, input, limit, scope } = call;
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program =
        Family::spawn(command, scope).map_err(|error| format!("{what} can't be run: {error}"))?;
    let (stdin, stdout, stderr) = program.take_streams();
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let readings = [Reading::of(stdout, output), Reading::of(stderr, errors)];
    let status = match timeout(limit, async { tokio::join!(feed, program.wait()).1 }).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(format!("{what}: {error}")),
        Err(_) => return Err(format!("{what} didn't end within {limit:?}")),
    };
    // A program that ends well may leave others running, such as a daemon that it has started.
    program.release();
    for reading in readings {
        reading.rest().await;
    }
    Ok(status)
}

/// Reads all that a program prints, so that it isn't held up.
struct Reading(JoinHandle<()>);

impl Reading {
    fn of(
        from: Option<impl AsyncRead + Unpin + Send + 'static>,
        mut take: impl FnMut(&[u8]) + Send + 'static,
    ) -> Reading {
        Reading(tokio::spawn(async move {
            let Some(mut from) = from else { return };
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut bytes).await {
                take(&bytes[..count]);
            }
        }))
    }

    async fn rest(mut self) {
        let _ = timeout(OUTPUT_TIME, &mut self.0).await;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps the beginning of what a program prints.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    /// Takes what comes, up to `limit` bytes.
    pub(crate) fn up_to(&self, limit: usize) -> impl FnMut(&[u8]) + Send + 'static {
        let kept = Arc::clone(&self.0);
        move |bytes| {
            let mut kept = kept.lock();
            let room = limit.saturating_sub(kept.len());
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// What was kept.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock())
    }
}
