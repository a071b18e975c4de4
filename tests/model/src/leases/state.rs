//! What the machines know and promise. Times are what is left of them, in units of the machine's own clock.

use crate::machines::{Id, Set};

/// The most machines in a model.
pub const MOST: usize = 5;

/// A succession record, as far as it says who votes; ordered by term and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// The reign that proposed it.
    pub term: u8,
    /// Its number in the reign.
    pub version: u8,
    /// Who votes.
    pub members: Set,
}

/// A master's newest heartbeat.
///
/// It replaces the one before. What an older one would still do, this one does as well and for longer, or the older one
/// would have done before this one was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// What is left of the lease that counts from when it was sent.
    pub left: u8,
    /// Whose answers are on their way: for how long each promises to honour the lease; 0 if there is none.
    pub answered: [u8; MOST],
    /// The master says that it serves.
    pub serving: bool,
    /// Which answer of the backup the master had when it sent this.
    pub echo: u8,
}

/// What a machine is; gone with a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It votes.
    Follower,
    /// It stands in its own term.
    Candidate {
        /// Who has voted for it, itself included.
        votes: Set,
        /// The highest record among the votes.
        highest: Record,
    },
    /// It has won its own term.
    Master {
        /// On its way.
        heartbeat: Option<Heartbeat>,
        /// What is left of the lease from each machine.
        grants: [u8; MOST],
        /// The newest answer of the backup that calls itself current: the last reign that had acknowledged anything when the
        /// answer was sent, plus one; 0 if there is none. For the backup it is a moment of its clock.
        echo: u8,
        /// What is left of the lease that it had when it counted last. Of use only by mistake.
        counted: u8,
        /// The newest of its records that a majority has accepted, as far as it knows.
        committed: Option<Record>,
        /// Who has accepted its newest record, itself included.
        accepted: Set,
    },
    /// It has said goodbye and answers nevertheless. Only by mistake.
    Retired {
        /// What is left of the lease from each machine.
        grants: [u8; MOST],
    },
}

impl Role {
    /// A master at the beginning of its reign.
    pub fn master(id: Id, committed: Option<Record>) -> Self {
        Self::Master {
            heartbeat: None,
            grants: [0; MOST],
            echo: 0,
            counted: 0,
            committed,
            accepted: Set::of(&[id]),
        }
    }
}

/// One machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine {
    /// On disk: its term.
    pub term: u8,
    /// On disk: whom it has voted for in this term.
    pub voted_for: Option<Id>,
    /// On disk: the highest record it has accepted.
    pub record: Record,
    /// On disk: the longest promise that may still bind it. On disk before a longer one is given.
    pub kept: u8,
    /// How long its configuration lets it honour a lease from when it hears of it.
    pub length: u8,
    /// How long what an earlier process has promised may last, counted from the start; 0 if that is of no interest any more.
    pub former: u8,
    /// Other machines from which a firewall has cut this one off, as it seems to it. Only by mistake.
    pub closed: Set,
    /// How long it will still honour a lease.
    pub promise: u8,
    /// Of which reign; 0 if it honours none.
    pub promised: u8,
    /// How long it will still vote for nobody, after a restart.
    pub wait: u8,
    /// The last reign it may have made a promise to before the restart; 0 if it doesn't wait.
    pub waits_for: u8,
    /// What it is.
    pub role: Role,
}

impl Machine {
    /// A machine that has promised nothing.
    pub fn new(term: u8, voted_for: Option<Id>, record: Record, length: u8) -> Self {
        Self {
            term,
            voted_for,
            record,
            kept: length,
            length,
            former: 0,
            closed: Set::default(),
            promise: 0,
            promised: 0,
            wait: 0,
            waits_for: 0,
            role: Role::Follower,
        }
    }

    /// It has just started, and this is the longest promise that may still bind it.
    pub fn keep(&mut self, kept: u8) {
        self.kept = kept;
        self.former = if kept == self.length { 0 } else { kept };
    }

    /// Once the longest promise of an earlier process is over, only its own bind it.
    pub fn outlive(&mut self, by: u8) {
        if self.former > 0 {
            self.former = self.former.saturating_sub(by);
            if self.former == 0 {
                self.kept = self.length;
            }
        }
    }

    /// Whether it is the master of this reign.
    pub fn reigns(&self, term: u8) -> bool {
        self.term == term && matches!(self.role, Role::Master { .. })
    }

    /// R6: takes over a higher term, and leaves whatever it was in the lower one.
    pub fn adopt(&mut self, term: u8) {
        if term > self.term {
            self.term = term;
            self.voted_for = None;
            self.role = Role::Follower;
        }
    }

    /// What it promised doesn't bind it any more.
    pub fn release(&mut self) {
        (self.promise, self.promised) = (0, 0);
    }

    /// Nor does what it may have promised before its restart.
    pub fn stop_waiting(&mut self) {
        (self.wait, self.waits_for) = (0, 0);
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The machines, by number.
    pub machines: Vec<Machine>,
    /// The records that were proposed, sorted. Each may arrive at any time later.
    pub proposed: Vec<Record>,
    /// To be checked: the last reign in which a write was acknowledged.
    pub acknowledged: u8,
    /// To be checked: a backup called itself current on the word of a second master.
    pub current: bool,
    /// To be checked: a backup called itself current as of a moment before which a later master had acknowledged something.
    pub misled: bool,
    /// The reigns whose masters have said goodbye. That may be heard at any time later, again and again, or never.
    pub goodbyes: Set,
    /// To be checked: no time has passed since the last goodbye.
    pub just_now: bool,
}
