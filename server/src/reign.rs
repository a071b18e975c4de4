//! Whether this machine reigns, for a program that embeds it.
//!
//! Owns nothing: the gate decides, and the driver tells. Read `gate.rs`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{clock, gate::Gate, hooks::Throne};

/// Follows whether a machine reigns: for application logic that only the master does. See [`Server::reign`](crate::Server::reign).
///
/// By the time a program acts on an answer it may be over. What must not be done twice belongs into a write through the
/// cluster: only the true master's is acknowledged.
#[derive(Debug, Clone)]
pub struct ReignObserver {
    throne: watch::Receiver<Throne>,
    gate: Arc<Gate>,
}

impl ReignObserver {
    pub(crate) fn new(throne: watch::Receiver<Throne>, gate: Arc<Gate>) -> ReignObserver {
        ReignObserver { throne, gate }
    }

    /// The term in which this machine reigns now, under a valid lease (R11); `None` when it doesn't.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.gate.is_open(clock::now_ns()).map(|term| term.0)
    }

    /// The master, as this machine sees it now.
    #[must_use]
    pub fn master(&self) -> Option<String> {
        self.gate.view().cluster.master.clone()
    }

    /// Waits until a reign of this machine begins or ends, and gives the term of the one that has begun. Its lease may be
    /// a moment away then, or over: who acts asks [`ReignObserver::term`]. May be dropped and called again.
    ///
    /// # Errors
    /// [`Stopped`], when the machine has.
    pub async fn changed(&mut self) -> Result<Option<u64>, Stopped> {
        self.throne.changed().await.map_err(|_| Stopped)?;
        Ok(self.throne.borrow_and_update().term().map(|term| term.0))
    }
}

/// The machine has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine has stopped")]
pub struct Stopped;
