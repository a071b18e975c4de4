//! The system's ways of asking this process to end.
//!
//! Owns which of them count: SIGTERM and SIGINT on Unix; on Windows Ctrl-C, Ctrl-Break, the end of the console and of the
//! system. What is done then is for the callers to say.

use std::io;

/// Listens from when it was made.
#[derive(Debug)]
pub(crate) struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
    #[cfg(windows)]
    stop: tokio::signal::windows::CtrlBreak,
    /// Windows ends the process some seconds after it has told of these two, whatever it does.
    #[cfg(windows)]
    close: tokio::signal::windows::CtrlClose,
    #[cfg(windows)]
    shutdown: tokio::signal::windows::CtrlShutdown,
}

impl StopSignals {
    /// # Errors
    /// The system's, when it lets nobody listen.
    #[cfg(unix)]
    pub(crate) fn new() -> io::Result<StopSignals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// A logoff isn't among them: a program that runs as a service is told of everybody's.
    ///
    /// # Errors
    /// The system's, when it lets nobody listen.
    #[cfg(windows)]
    pub(crate) fn new() -> io::Result<StopSignals> {
        use tokio::signal::windows;
        Ok(StopSignals {
            interrupt: windows::ctrl_c()?,
            stop: windows::ctrl_break()?,
            close: windows::ctrl_close()?,
            shutdown: windows::ctrl_shutdown()?,
        })
    }

    /// Returns with the next one, in a word for the log.
    #[cfg(unix)]
    pub(crate) async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminate",
        }
    }

    /// Returns with the next one, in a word for the log.
    #[cfg(windows)]
    pub(crate) async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.stop.recv() => "break",
            _ = self.close.recv() => "the console is closed",
            _ = self.shutdown.recv() => "the system shuts down",
        }
    }
}

/// Returns with the first one.
pub(crate) async fn stop_signal() -> &'static str {
    match StopSignals::new() {
        Ok(mut signals) => signals.recv().await,
        Err(error) => {
            tracing::warn!(%error, "only Ctrl-C stops this process cleanly");
            let _ = tokio::signal::ctrl_c().await;
            "interrupt"
        }
    }
}
