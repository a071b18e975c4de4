//! What waits for the store thread: the protocol's commands in order, and users' writes.
//!
//! Owns the pacing of group commit: while transactions are under way to the backups, requests gather. Commands come
//! from the driver, whose own limits bound them; writes beyond the limit are refused at once. Read `writer.rs` next.

use std::{
    collections::VecDeque,
    sync::mpsc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tanist_replication::{Position, Term, Transaction, Txid};
use tokio::sync::oneshot;

use crate::{
    copy::CopyPart,
    write::{WriteDone, WriteError, WriteRequest},
};

/// What the driver asks of the store thread, performed in order.
#[derive(Debug)]
pub enum Command {
    /// Store a transaction as a backup.
    Apply(Transaction),
    /// Become writable and write the reign's first transaction.
    StartReign {
        /// The reign.
        term: Term,
        /// For the term history.
        reason: String,
    },
    /// Become a backup again.
    EndReign,
    /// Take over the master's database, part by part.
    Copy(mpsc::Receiver<CopyPart>),
    /// Stop the thread, leaving the database closed.
    Stop,
}

/// Answers one write.
pub(crate) type Respond = oneshot::Sender<Result<WriteDone, WriteError>>;

/// A user's write with its way back.
#[derive(Debug)]
pub struct QueuedWrite {
    /// What to do.
    pub request: WriteRequest,
    /// Whom to tell.
    pub respond: Respond,
}

/// Something for the store thread to do.
#[derive(Debug)]
pub enum Work {
    /// One command.
    Command(Command),
    /// Transactions to store together, in order.
    Apply(Vec<Transaction>),
    /// Writes to commit together in this term.
    Batch(Term, Vec<QueuedWrite>),
    /// Nothing came in time.
    Idle,
}

/// Limits of the inbox.
#[derive(Debug, Clone, Copy)]
pub struct InboxLimits {
    /// Writes that may wait; one more is refused as overloaded.
    pub queued_writes: usize,
    /// Writes in one transaction.
    pub batch: usize,
    /// Transactions captured and not yet acknowledged, before the next batch waits and grows.
    pub inflight: u64,
    /// Payload bytes stored by a backup in one go.
    pub apply_bytes: usize,
}

impl Default for InboxLimits {
    fn default() -> InboxLimits {
        InboxLimits { queued_writes: 4096, batch: 1024, inflight: 2, apply_bytes: 8 << 20 }
    }
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    writes: VecDeque<QueuedWrite>,
    open: Option<Term>,
    refusal: Option<String>,
    captured: Txid,
    acknowledged: Txid,
}

/// The store thread's inbox.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    ready: Condvar,
    limits: InboxLimits,
}

impl Inbox {
    /// An empty inbox, closed to writes.
    #[must_use]
    pub fn new(limits: InboxLimits) -> Inbox {
        Inbox { state: Mutex::default(), ready: Condvar::new(), limits }
    }

    /// Queues a command.
    pub fn command(&self, command: Command) {
        self.state.lock().commands.push_back(command);
        self.ready.notify_one();
    }

    /// Opens to writes of this reign.
    pub fn open(&self, term: Term) {
        let mut state = self.state.lock();
        state.open = Some(term);
        state.refusal = None;
    }

    /// Closes to writes; those that wait have not begun and are refused.
    pub fn close(&self) {
        let refused: Vec<_> = {
            let mut state = self.state.lock();
            state.open = None;
            state.writes.drain(..).collect()
        };
        for write in refused {
            let _ = write.respond.send(Err(WriteError::NotMaster));
        }
    }

    /// Refuses new writes for this reason, or takes them again (R10).
    pub fn refuse(&self, why: Option<String>) {
        let refused: Vec<_> = {
            let mut state = self.state.lock();
            state.refusal.clone_from(&why);
            if why.is_some() { state.writes.drain(..).collect() } else { Vec::new() }
        };
        for write in refused {
            let _ = write.respond.send(Err(WriteError::NotEnoughBackups(why.clone().unwrap_or_default())));
        }
    }

    /// A transaction was captured: it is under way until acknowledged.
    pub fn captured(&self, position: Position) {
        self.state.lock().captured = position.txid;
    }

    /// Everything up to here is acknowledged: the next batch may start.
    pub fn acknowledged(&self, position: Position) {
        let mut state = self.state.lock();
        state.acknowledged = position.txid;
        if !state.writes.is_empty() {
            self.ready.notify_one();
        }
    }

    /// Queues a write, or answers it at once when it can't be taken.
    pub fn write(&self, request: WriteRequest, respond: Respond) {
        let refusal = {
            let mut state = self.state.lock();
            if state.open.is_none() {
                Some(WriteError::NotMaster)
            } else if let Some(why) = &state.refusal {
                Some(WriteError::NotEnoughBackups(why.clone()))
            } else if state.writes.len() >= self.limits.queued_writes {
                Some(WriteError::Overloaded)
            } else {
                state.writes.push_back(QueuedWrite { request, respond });
                self.ready.notify_one();
                return;
            }
        };
        if let Some(error) = refusal {
            let _ = respond.send(Err(error));
        }
    }

    /// Gives writes back to the head of the queue: the batch was full before their turn.
    pub fn put_back(&self, writes: Vec<QueuedWrite>) {
        let mut state = self.state.lock();
        for write in writes.into_iter().rev() {
            if state.open.is_some() {
                state.writes.push_front(write);
            } else {
                let _ = write.respond.send(Err(WriteError::NotMaster));
            }
        }
    }

    /// Waits for something to do, up to `patience`.
    #[must_use]
    pub fn next(&self, patience: Duration) -> Work {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        loop {
            match state.commands.pop_front() {
                Some(Command::Apply(first)) => {
                    let mut bytes = first.payload.len();
                    let mut transactions = vec![first];
                    while bytes < self.limits.apply_bytes
                        && matches!(state.commands.front(), Some(Command::Apply(_)))
                    {
                        if let Some(Command::Apply(next)) = state.commands.pop_front() {
                            bytes += next.payload.len();
                            transactions.push(next);
                        }
                    }
                    return Work::Apply(transactions);
                }
                Some(command) => return Work::Command(command),
                None => {}
            }
            if let Some(term) = state.open
                && !state.writes.is_empty()
                && state.captured.0.saturating_sub(state.acknowledged.0) < self.limits.inflight
            {
                let count = state.writes.len().min(self.limits.batch);
                return Work::Batch(term, state.writes.drain(..count).collect());
            }
            if self.ready.wait_until(&mut state, until).timed_out() {
                return Work::Idle;
            }
        }
    }
}
