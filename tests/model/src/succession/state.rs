//! What the machines, their disks and the network hold.

use super::log::Log;
use crate::machines::{Id, Set};

/// A succession record; ordered by term and version, which name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// The reign that proposed it.
    pub term: u8,
    /// Its number in the reign, from 1.
    pub version: u8,
    /// Who reigns.
    pub master: Id,
    /// Who must store a write before it is acknowledged.
    pub sync: Set,
    /// Who votes.
    pub members: Set,
}

/// What a machine is, and what it knows only as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A backup or a witness.
    Follower,
    /// It stands in its own term.
    Candidate,
    /// It has won its own term. Its newest proposal is the record it has accepted itself.
    Master {
        /// The newest of its records that a majority has accepted, as far as it knows.
        committed: Option<Record>,
        /// It answers clients.
        serving: bool,
    },
}

/// One machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// On disk: its term.
    pub term: u8,
    /// On disk: whom it has voted for in this term.
    pub voted_for: Option<Id>,
    /// On disk: the highest record it has accepted.
    pub record: Record,
    /// The replica as a power cut would leave it.
    pub disk: Log,
    /// The replica as it is seen now: more than `disk`, or a copy that will replace it.
    pub seen: Log,
    /// What it knows to be acknowledged, where disks forget.
    pub known: Log,
    /// Gone with a crash.
    pub role: Role,
}

impl Node {
    /// How many transactions it takes to hold the first one of its own reign.
    ///
    /// # Panics
    /// When it doesn't reign.
    pub fn begun(&self) -> u32 {
        self.seen.len_to(super::log::Entry::Reign(self.term)).expect("a master has begun its reign")
    }
}

/// What has been sent. A message once sent may arrive at any time later, in any order, again and again, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// A vote, with the record of the voter. The candidate's own is at once its request for others.
    Grant {
        /// The term voted in.
        term: u8,
        /// For whom.
        to: Id,
        /// The voter.
        from: Id,
        /// The voter's accepted record (R1).
        record: Record,
        /// What the voter knows to be acknowledged.
        known: Log,
    },
    /// A record is accepted. The master's own acceptance is at once its proposal.
    Accepted {
        /// What was accepted.
        record: Record,
        /// By whom.
        from: Id,
    },
    /// The transactions of a master up to here.
    Append {
        /// Its reign.
        term: u8,
        /// The master.
        from: Id,
        /// All it holds, from the beginning.
        log: Log,
    },
    /// A backup has this on its disk.
    Stored {
        /// In which reign it reports.
        term: u8,
        /// The backup.
        from: Id,
        /// All on its disk.
        log: Log,
    },
    /// A master tells how far it has acknowledged, where disks forget.
    Acknowledged {
        /// The master.
        from: Id,
        /// All it held up to there.
        log: Log,
    },
    /// A master has given up for an heir.
    Goodbye {
        /// The reign that ends.
        term: u8,
        /// Who stands next.
        heir: Id,
        /// All the master held, for the property; the heir doesn't look at it.
        log: Log,
    },
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The machines, by number.
    pub nodes: Vec<Node>,
    /// All that was sent, sorted.
    pub sent: Vec<Message>,
    /// The number of the next client write.
    pub next_write: u8,
    /// To be checked: per write, in which term it was acknowledged, plus one; 0 if it wasn't.
    pub acknowledged: [u8; 4],
    /// To be checked: per write, in which term a master began to serve with it, plus one; 0 if none did.
    pub shown: [u8; 4],
    /// To be checked: who won each term.
    pub winners: [Set; 4],
    /// To be checked: a disk lost an acknowledged write (I4).
    pub went_back: bool,
    /// To be checked: an heir won without all its predecessor held.
    pub heir_lacks: bool,
    /// To be checked: an heir serves.
    pub handed_over: bool,
    /// A disk has forgotten what was on it. It happens once.
    pub forgot: Option<Id>,
    /// To be checked: somebody won without what one of his voters knew to be acknowledged.
    pub loss_ignored: bool,
}

impl State {
    /// Puts a message on its way. A report replaces the reports it continues: they tell the master nothing more, and
    /// that they arrive instead of this one only means that the master does nothing yet.
    pub fn send(&mut self, message: Message) {
        if let Message::Stored { term, from, log } = message {
            self.sent.retain(|each| {
                !matches!(*each, Message::Stored { term: t, from: f, log: l }
                    if (t, f) == (term, from) && log.starts_with(l))
            });
        }
        if let Err(at) = self.sent.binary_search(&message) {
            self.sent.insert(at, message);
        }
    }

    /// Who has accepted the record.
    pub fn accepted_by(&self, record: Record) -> Set {
        self.sent.iter().fold(Set::default(), |set, message| match *message {
            Message::Accepted { record: r, from } if r == record => set.with(from),
            _ => set,
        })
    }

    /// Who has reported in `term` to hold the first `len` transactions of `log` on disk.
    pub fn stored_by(&self, term: u8, log: Log, len: u32) -> Set {
        self.sent.iter().fold(Set::default(), |set, message| match *message {
            Message::Stored { term: t, from, log: l } if t == term && l.starts_with(log.prefix(len)) => {
                set.with(from)
            }
            _ => set,
        })
    }
}
