//! The seam between HTTP and the store thread: one write, its answer, and why it may have none.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tanist_api::Statement;
use tanist_replication::Position;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    audit::Author,
    clock,
    gate::Gate,
    inbox::{Command, Inbox},
    sql::SqlError,
    state::{Change, Refusal},
    watch::{Unfit, WatchTable},
};

/// Who waits for the store looks so often whether the gate is open still,
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// and waits no longer when it was shut so many times in a row.
const SHUT_LOOKS: u32 = 2;

/// A key that makes a repeated write return its first answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// As the client sent it: 1 to 200 visible ASCII characters.
    pub key: String,
    /// The name of whose key it is: two tokens may use the same one. Empty where there are no tokens.
    pub token: String,
    /// Hash of the request, so that a key can't be used for another one.
    pub fingerprint: [u8; 32],
}

/// What a write does.
#[derive(Debug)]
pub enum WriteWork {
    /// Users' SQL, run in order, all or nothing.
    Statements(Vec<Statement>),
    /// A change of Tanist's own state.
    State(Box<Change>),
}

/// A write, checked as far as it can be without the database.
#[derive(Debug)]
pub struct WriteRequest {
    /// What to do.
    pub work: WriteWork,
    /// The client's key, if it gave one.
    pub idempotency: Option<Idempotency>,
    /// How long the statements may run together.
    pub time_limit: Duration,
    /// Under whose name users' SQL is recorded, if it is; changes of state have their own history.
    pub author: Option<Author>,
}

/// A write that every member of the sync set has on disk (R7).
#[derive(Debug, Clone)]
pub struct WriteDone {
    /// Where it stands.
    pub position: Position,
    /// JSON array of the statements' results, or what the change of state made.
    pub answer: Bytes,
    /// Whether this is the first answer to the same key, given again.
    pub replayed: bool,
}

/// Why a write has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// This machine doesn't serve writes; nothing was done.
    #[error("this machine is not the master")]
    NotMaster,
    /// Too many writes wait; nothing was done.
    #[error("too many writes wait")]
    Overloaded,
    /// R10: `min_sync_backups` forbids writes now; nothing was done.
    #[error("{0}")]
    NotEnoughBackups(String),
    /// A statement was refused; nothing was done.
    #[error("{0}")]
    Sql(SqlError),
    /// A change of state was refused; nothing was done.
    #[error("{0}")]
    State(Refusal),
    /// The key came with another request before; nothing was done.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// The write was committed here, and whether it lasts isn't known.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// A table that can't be watched; nothing was done.
    #[error("{0}")]
    Unfit(Unfit),
    /// Another program holds the write lock of the database; nothing was done.
    #[error("{0}")]
    Locked(String),
    /// Another program has written to the master's database what can't be numbered; nothing was done.
    #[error("{0}")]
    OutsideWrite(String),
    /// The disk is nearly full; nothing was done.
    #[error("{0}")]
    NoRoom(String),
    /// The disk refused; nothing was done.
    #[error("{0}")]
    Storage(String),
}

/// Where HTTP hands writes in; cheap to clone.
#[derive(Debug, Clone)]
pub struct WriterHandle {
    inbox: Arc<Inbox>,
    gate: Arc<Gate>,
}

impl WriterHandle {
    /// A handle on the store thread's inbox. Who waits for it while the gate is shut is told that the outcome is unknown.
    #[must_use]
    pub fn new(inbox: Arc<Inbox>, gate: Arc<Gate>) -> WriterHandle {
        WriterHandle { inbox, gate }
    }

    fn hangs(&self) -> bool {
        let (stalls, now) = (self.gate.stalls(), clock::now_ns());
        stalls.is_disk(now) || stalls.driver(now).is_some()
    }

    /// The store thread's answer, or word that nobody knows: after the gate is shut it comes at once, unless the disk, or the
    /// driver, doesn't go on.
    async fn answer(
        &self,
        mut answer: oneshot::Receiver<Result<WriteDone, WriteError>>,
    ) -> Result<WriteDone, WriteError> {
        let mut shut = 0;
        loop {
            match timeout(LOOK_EVERY, &mut answer).await {
                Ok(answer) => {
                    let stopped = |_| Err(WriteError::OutcomeUnknown("the server stopped".to_owned()));
                    return answer.unwrap_or_else(stopped);
                }
                // A statement that doesn't end is no reason to send it to the next master at once.
                Err(_) if self.gate.is_open(clock::now_ns()).is_some() || !self.hangs() => shut = 0,
                Err(_) if shut < SHUT_LOOKS => shut += 1,
                Err(_) => {
                    let why = "this machine stopped being the master while its store was busy with it";
                    return Err(WriteError::OutcomeUnknown(why.to_owned()));
                }
            }
        }
    }

    /// Whether the store thread is stuck.
    pub(crate) fn is_stuck(&self, now_ns: u64) -> bool {
        self.inbox.pulse().is_stuck(now_ns)
    }

    /// How many writes wait for a transaction.
    pub(crate) fn queued(&self) -> usize {
        self.inbox.queued()
    }

    /// Begins or ends the telling of a table's rows, and waits until that is acknowledged (R7). Repeating it is harmless.
    ///
    /// # Errors
    /// As [`WriterHandle::write`].
    pub(crate) async fn watch(&self, asked: WatchTable) -> Result<WriteDone, WriteError> {
        let (respond, answer) = oneshot::channel();
        self.inbox.command(Command::Watch(asked, respond));
        self.answer(answer).await
    }

    /// Does the write and waits until it is acknowledged (R7).
    ///
    /// # Errors
    /// See [`WriteError`]: all but `OutcomeUnknown` mean that nothing was done.
    pub async fn write(&self, request: WriteRequest) -> Result<WriteDone, WriteError> {
        let (respond, answer) = oneshot::channel();
        self.inbox.write(request, respond);
        self.answer(answer).await
    }
}
