//! What waits for the store thread: the protocol's commands in order, and users' writes.
//!
//! Owns the queues. Commands come from the driver, whose own limits bound them; writes beyond the limit are refused at
//! once. Read `pacing.rs` for when writes become a transaction, and `writer.rs` for what becomes of them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tanist_replication::{Member, Position, Term, Transaction};
use tokio::sync::oneshot;

use crate::{
    pacing::{Pace, Pacing},
    rejoin::Link,
    watch::WatchTable,
    watchdog::Pulse,
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
        /// At which level, where the database is empty.
        founding_level: u32,
    },
    /// Become a backup again.
    EndReign,
    /// As master, keep these in the table of members.
    Members(Vec<Member>),
    /// As master, tell the rows of a table, or tell them no more.
    Watch(WatchTable, Respond),
    /// Say that no write is under way; the inbox has been told to begin none.
    Hold(u64),
    /// As master, raise the cluster's level to this one.
    Raise(u32),
    /// Be brought in line with the master's database.
    Rejoin(Link),
    /// The replica isn't what was written any more, and why: it must be brought in line.
    Rotten(String),
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
    /// When it came.
    pub since: Instant,
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
    /// Payload bytes stored by a backup in one go.
    pub apply_bytes: usize,
}

impl Default for InboxLimits {
    fn default() -> InboxLimits {
        InboxLimits { queued_writes: 4096, batch: 1024, apply_bytes: 8 << 20 }
    }
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    writes: VecDeque<QueuedWrite>,
    open: Option<Term>,
    refusal: Option<String>,
    /// Writes wait while the throne is handed over.
    held: bool,
    /// The store thread waits until fewer transactions are under way.
    waits_for_room: bool,
    pacing: Pacing,
}

/// The store thread's inbox.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    ready: Condvar,
    limits: InboxLimits,
    pulse: Pulse,
}

impl Inbox {
    /// An empty inbox, closed to writes.
    #[must_use]
    pub fn new(limits: InboxLimits) -> Inbox {
        Inbox { state: Mutex::default(), ready: Condvar::new(), limits, pulse: Pulse::default() }
    }

    /// What the store thread is at.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
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
        state.held = false;
    }

    /// Closes to writes; those that wait have not begun and are refused.
    pub fn close(&self) {
        let refused: Vec<_> = {
            let mut state = self.state.lock();
            state.open = None;
            state.held = false;
            state.pacing.on_closed();
            state.writes.drain(..).collect()
        };
        for write in refused {
            let _ = write.respond.send(Err(WriteError::NotMaster));
        }
    }

    /// Begins no write until [`Inbox::release`]; those that come wait. The store thread answers when none is under way.
    pub fn hold(&self, hold: u64) {
        self.state.lock().held = true;
        self.command(Command::Hold(hold));
    }

    /// Begins writes again.
    pub fn release(&self) {
        self.state.lock().held = false;
        self.ready.notify_one();
    }

    /// Whether writes wait while the throne is handed over.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state.lock().held
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

    /// A batch became this transaction, which is under way until acknowledged; `None`: nothing was changed.
    pub fn captured(&self, position: Option<Position>) {
        self.state.lock().pacing.on_captured(position.map(|position| position.txid), Instant::now());
    }

    /// Everything up to here is acknowledged: the next batch may start.
    pub fn acknowledged(&self, position: Position) {
        let mut state = self.state.lock();
        state.pacing.on_acknowledged(position.txid, Instant::now());
        if !state.writes.is_empty() || state.waits_for_room {
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
                let now = Instant::now();
                state.writes.push_back(QueuedWrite { request, respond, since: now });
                let waiting = state.writes.len();
                state.pacing.on_write(waiting, now);
                // The first one sets the store thread's alarm, the one that completes a batch ends its wait; all others
                // would wake it for nothing.
                if waiting == 1 || state.pacing.pace(waiting, self.limits.batch, now) == Pace::Start {
                    self.ready.notify_one();
                }
                return;
            }
        };
        if let Some(error) = refusal {
            let _ = respond.send(Err(error));
        }
    }

    /// Writes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.state.lock().writes.len()
    }

    /// Whether another transaction may be begun beside those under way.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.state.lock().pacing.has_room()
    }

    /// Waits, up to `patience`, until another transaction may be begun.
    pub fn wait_for_room(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        state.waits_for_room = true;
        while !state.pacing.has_room()
            && state.commands.is_empty()
            && !self.ready.wait_until(&mut state, until).timed_out()
        {}
        state.waits_for_room = false;
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

    /// Waits until there is a command to perform, up to `patience`.
    pub fn wait_for_command(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.commands.is_empty() && !self.ready.wait_until(&mut state, until).timed_out() {}
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
            let mut wake = until;
            if let Some(term) = state.open.filter(|_| !state.held) {
                let (waiting, now) = (state.writes.len(), Instant::now());
                match state.pacing.pace(waiting, self.limits.batch, now) {
                    Pace::Start => {
                        let count = waiting.min(self.limits.batch);
                        state.pacing.on_start(count, waiting - count, now);
                        return Work::Batch(term, state.writes.drain(..count).collect());
                    }
                    Pace::Until(at) => wake = at.min(until),
                    Pace::Wait => {}
                }
            }
            if self.ready.wait_until(&mut state, wake).timed_out() && Instant::now() >= until {
                return Work::Idle;
            }
        }
    }
}
