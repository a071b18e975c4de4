//! Who runs the machine: a person at a terminal, systemd, or the service manager of Windows.
//!
//! Owns what passes between the two: wishes come in, phases are told. [`super::run`] knows nothing more of its host.

use tokio::sync::{mpsc, oneshot};

use crate::stop::{Hangups, stop_signal};

/// Wishes that wait for the machine; a host has few, and one that finds no room isn't needed any more.
const WISHES: usize = 8;

/// What a host may want of a running machine.
#[derive(Debug)]
pub enum Wish {
    /// End well: hand over, then stop. Why, in a word, for the log.
    Stop(&'static str),
    /// Look at the configuration now, without waiting for word that it has changed.
    Reload,
    /// Another one shall reign, because this computer goes to sleep. Answered when it is so, or can't be.
    GiveUpThrone(oneshot::Sender<()>),
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It listens and takes part.
    Ready,
    /// It hands over and ends.
    Stopping,
}

/// Who runs the machine.
pub struct Host {
    wishes: mpsc::Receiver<Wish>,
    tell: Box<dyn Fn(Phase) + Send>,
    /// Where log files go when the configuration doesn't say it; `None`: nowhere.
    pub(super) log_directory: Option<std::path::PathBuf>,
    /// Sees what is logged, whatever the log's filter says.
    pub(super) observer: Option<super::logging::Observer>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("log_directory", &self.log_directory).finish_non_exhaustive()
    }
}

impl Host {
    /// A host with its sender of wishes. `tell` is called with every phase and must not block.
    #[must_use]
    pub fn new(tell: impl Fn(Phase) + Send + 'static) -> (mpsc::Sender<Wish>, Host) {
        let (sender, wishes) = mpsc::channel(WISHES);
        (sender, Host { wishes, tell: Box::new(tell), log_directory: None, observer: None })
    }

    /// The ordinary one: signals are wishes, and systemd is told, if it has started this process (`NOTIFY_SOCKET`). To be
    /// called inside a tokio runtime.
    #[must_use]
    pub fn process() -> Host {
        let (wishes, host) = Host::new(tell_systemd);
        let mut hangups = Hangups::new();
        tokio::spawn(async move {
            let mut stop = std::pin::pin!(stop_signal());
            loop {
                let wish = tokio::select! {
                    signal = &mut stop => Wish::Stop(signal),
                    () = hangups.recv() => Wish::Reload,
                };
                let last = matches!(wish, Wish::Stop(_));
                if wishes.send(wish).await.is_err() || last {
                    return;
                }
            }
        });
        host
    }

    /// Where log files go when the configuration doesn't say it.
    #[must_use]
    pub fn with_log_directory(mut self, directory: std::path::PathBuf) -> Host {
        self.log_directory = Some(directory);
        self
    }

    /// One more that sees what is logged, beside the log itself.
    #[must_use]
    pub fn with_observer(mut self, observer: super::logging::Observer) -> Host {
        self.observer = Some(observer);
        self
    }

    /// The next wish. One whose sender is gone has no more of them. May be given up and asked again.
    pub(super) async fn wish(&mut self) -> Wish {
        match self.wishes.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }

    pub(super) fn tell(&self, phase: Phase) {
        (self.tell)(phase);
    }
}

#[cfg(target_os = "linux")]
fn tell_systemd(phase: Phase) {
    use sd_notify::NotifyState;
    let state = match phase {
        Phase::Ready => NotifyState::Ready,
        Phase::Stopping => NotifyState::Stopping,
    };
    // Does nothing where nobody wants to know.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, ?phase, "systemd could not be told");
    }
}

#[cfg(not(target_os = "linux"))]
fn tell_systemd(_: Phase) {}
