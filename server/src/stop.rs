//! The system's ways of asking this process to end.
//!
//! Owns which of them count: SIGTERM and SIGINT on Unix, and SIGHUP for programs that aren't servers; on Windows Ctrl-C,
//! Ctrl-Break, the end of the console and of the system. What is done then is for the callers to say.

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

/// Listens for SIGHUP. A server reads its configuration again then, as daemons do; other programs end with their terminal.
#[derive(Debug)]
pub(crate) struct Hangups(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangups {
    /// From now on. To be called inside a tokio runtime.
    pub(crate) fn new() -> Hangups {
        Hangups(
            #[cfg(unix)]
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
                .inspect_err(|error| tracing::warn!(%error, "SIGHUP ends this process"))
                .ok(),
        )
    }

    /// Returns with the next one. Windows has none, and tells otherwise of a closed console.
    pub(crate) async fn recv(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Returns with the first one, the end of the terminal being one.
pub(crate) async fn stop_signal_or_hangup() -> &'static str {
    let mut hangups = Hangups::new();
    tokio::select! {
        signal = stop_signal() => signal,
        () = hangups.recv() => "hangup",
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
