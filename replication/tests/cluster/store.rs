//! A model of the server's store thread: one worker that takes commands in order, and a syncer beside it.
//!
//! Owns what a replica holds and how much of it is on disk. Never talks to a node: `machine.rs` turns what it says
//! into events.

use std::collections::VecDeque;

use bytes::Bytes;
use tanist_replication::{
    ChainHash, Checksum, Encoding, MemberId, Position, Reign, Stamp, Term, TermHistory, Transaction,
};

use super::{
    Rng,
    history::{History, State},
};

/// A transaction as a replica holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub previous: Stamp,
    pub stamp: Stamp,
    /// The call's number; zero for a reign's first transaction.
    pub write: u64,
}

/// Deliberate faults of what is around the core, which the checkers must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Says "stored" before it is.
    SkipSync,
    /// A killed process starts again without syncing what it finds.
    SkipSyncAtStart,
    /// Answers clients when a write is captured, not when it is acknowledged.
    AnswerEarly,
    /// A strong read doesn't wait until what it saw is acknowledged.
    ReadUnacknowledged,
    /// A strong read doesn't look whether the lease is over.
    ReadWithoutLease,
    /// The answers of earlier calls aren't looked up.
    ForgetKeys,
}

impl Mistake {
    pub const ALL: [Mistake; 6] = [
        Mistake::SkipSync,
        Mistake::SkipSyncAtStart,
        Mistake::AnswerEarly,
        Mistake::ReadUnacknowledged,
        Mistake::ReadWithoutLease,
        Mistake::ForgetKeys,
    ];
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is killed: what it has written stays, though not all is on disk yet.
    Killed,
    /// The power fails: of what wasn't synced any part from the beginning may be on disk.
    PowerCut,
    /// Its disk fails a sync: nothing that wasn't synced is left.
    DiskError,
}

#[derive(Debug, Clone)]
pub enum Command {
    Apply(Transaction),
    StartReign(Term),
    EndReign,
    Copy(MemberId),
    Hold(u64),
}

/// One machine's replica and the thread that writes it.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Everything, in order of txid, from 1.
    pub content: Vec<Entry>,
    /// The copy that is waited for, or under way, is to fail.
    pub stop_copy: bool,
    /// So many of the first entries are on disk.
    pub durable: usize,
    /// Checksum of the newest payload; unknown after a restart.
    pub checksum: Checksum,
    pub queue: VecDeque<Command>,
    /// What the worker is doing: commands taken together.
    pub doing: Vec<Command>,
    /// What a copy under way will bring, taken when it began.
    pub copying: Option<Vec<Entry>>,
    pub reign: Option<Term>,
    /// Counts reigns, so that a late sync of an older one is told apart.
    pub reigns: u64,
    pub syncing: bool,
    /// Applies fail while the disk is full.
    pub full: bool,
    /// So many more commands fail with an error of the disk.
    pub errors: u32,
    state: State,
    folded: usize,
    folded_stamp: Stamp,
}

pub fn payload(write: u64) -> Bytes {
    Bytes::from([&write.to_be_bytes()[..], &[0; 56]].concat())
}

impl Store {
    pub fn stamp(&self) -> Stamp {
        self.content.last().map(|entry| entry.stamp).unwrap_or_default()
    }

    pub fn durable_stamp(&self) -> Stamp {
        self.durable.checked_sub(1).map(|last| self.content[last].stamp).unwrap_or_default()
    }

    pub fn holds(&self, stamp: Stamp) -> bool {
        let index = stamp.position.txid.0.checked_sub(1).map(|index| index as usize);
        index.and_then(|index| self.content.get(index)).is_some_and(|entry| entry.stamp == stamp)
    }

    /// Adds a transaction of our own reign.
    pub fn commit(&mut self, term: Term, write: u64) -> Transaction {
        let previous = self.stamp();
        let position = Position { term, txid: previous.position.txid.next() };
        let stamp = Stamp { position, chain: previous.chain.next(self.checksum, position) };
        let payload = payload(write);
        self.checksum = Checksum::of(&payload);
        self.content.push(Entry { previous, stamp, write });
        Transaction {
            previous,
            stamp,
            checksum: self.checksum,
            encoding: Encoding::Plain,
            plain_len: payload.len() as u32,
            payload,
        }
    }

    /// Stores transactions as a backup, in one go: all or nothing.
    pub fn apply(&mut self, transactions: &[Transaction]) -> bool {
        if self.fails() {
            return false;
        }
        let mut end = self.stamp();
        for transaction in transactions {
            if transaction.previous != end {
                return false;
            }
            end = transaction.stamp;
        }
        for transaction in transactions {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&transaction.payload[..8]);
            self.checksum = transaction.checksum;
            let entry = Entry {
                previous: transaction.previous,
                stamp: transaction.stamp,
                write: u64::from_be_bytes(bytes),
            };
            self.content.push(entry);
        }
        true
    }

    pub fn history(&self) -> TermHistory {
        let mut history = TermHistory::default();
        for entry in &self.content {
            let position = entry.stamp.position;
            if history.last().is_none_or(|reign| reign.term < position.term) {
                history.push(Reign { term: position.term, first_txid: position.txid }).unwrap();
            }
        }
        history
    }

    /// What a client would see, from the calls that the transactions stand for.
    pub fn fold(&mut self, history: &History) -> &mut State {
        let known = self.folded.checked_sub(1).and_then(|last| self.content.get(last));
        if known.is_none_or(|entry| entry.stamp != self.folded_stamp) {
            (self.state, self.folded) = (State::default(), 0);
        }
        for entry in &self.content[self.folded..] {
            if let Some(op) = history.op(entry.write) {
                let answer = self.state.run(op.call);
                if op.keyed {
                    self.state.kept.insert(entry.write, answer);
                }
            }
            self.folded_stamp = entry.stamp;
        }
        self.folded = self.content.len();
        &mut self.state
    }

    /// The process ends: all work under way is gone.
    pub fn crash(&mut self, end: End, rng: &mut Rng) {
        let unsynced = (self.content.len() - self.durable) as u64;
        match end {
            End::Killed => {}
            End::PowerCut => self.durable += rng.below(unsynced + 1) as usize,
            End::DiskError => {}
        }
        if end != End::Killed {
            self.content.truncate(self.durable);
        }
        *self = Store {
            durable: self.durable,
            content: std::mem::take(&mut self.content),
            reigns: self.reigns + 1,
            errors: self.errors,
            full: self.full,
            ..Store::default()
        };
    }

    /// Whether the command fails with an error of the disk.
    pub fn fails(&mut self) -> bool {
        let fails = self.errors > 0 || self.full;
        self.errors = self.errors.saturating_sub(1);
        fails
    }

    /// A branch that nobody has: for scripts.
    pub fn forge(&mut self, term: Term, write: u64) -> Stamp {
        let transaction = self.commit(term, write);
        self.durable = self.content.len();
        transaction.stamp
    }
}

/// A chain hash that no real transaction has.
pub fn odd_chain(byte: u8) -> ChainHash {
    ChainHash([byte; 16])
}
