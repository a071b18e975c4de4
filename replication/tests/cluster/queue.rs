//! What is going to happen, in order of time.

use std::{cmp::Reverse, collections::BinaryHeap};

use tanist_replication::{Event, Message, Term};

use super::{At, client::Outcome};

/// What is going to happen.
#[derive(Debug, Clone)]
pub enum Ev {
    Message {
        from: usize,
        to: usize,
        life: u32,
        bulk: Option<u32>,
        message: Message,
    },
    /// Something other than a message, for the node's present life only.
    Node {
        to: usize,
        life: u32,
        event: Event,
    },
    /// Word that a life of a process has ended arrives from its computer.
    Ended {
        of: usize,
        ended: u32,
        to: usize,
        life: u32,
    },
    Tick {
        node: usize,
        life: u32,
        ticket: u64,
    },
    /// The store thread has finished what it was doing.
    StoreDone {
        node: usize,
        life: u32,
    },
    /// The first entries of the master's replica are on disk.
    Synced {
        node: usize,
        life: u32,
        reign: u64,
        len: usize,
    },
    /// A store that lied makes its word good, unless the machine crashed before.
    LateSync {
        node: usize,
        life: u32,
    },
    /// A look at what the machine's disk hasn't answered.
    Stalled {
        node: usize,
        life: u32,
    },
    /// A disk that didn't answer does so again.
    Release {
        node: usize,
    },
    Resume {
        node: usize,
        life: u32,
    },
    Restart {
        node: usize,
    },
    BulkBroken {
        from: usize,
        to: usize,
        epoch: u32,
    },
    LinkNotice {
        a: usize,
        b: usize,
        number: u64,
    },
    /// An observer looks at a serving master and at a backup.
    Look,
    /// A client begins its next call.
    Think {
        client: usize,
    },
    /// A client's request reaches a machine.
    Request {
        op: u64,
        attempt: u32,
        node: usize,
        life: u32,
    },
    /// A strong read that passed the gate looks into the database.
    Sample {
        op: u64,
        attempt: u32,
        node: usize,
        life: u32,
        gate: Term,
    },
    /// An answer reaches the client.
    Answer {
        op: u64,
        attempt: u32,
        outcome: Outcome,
    },
    /// The client has waited long enough.
    Timeout {
        op: u64,
        attempt: u32,
    },
    /// The fault of this number in the plan.
    Fault(usize),
    /// Cuts or joins the two for the next time.
    Flap {
        a: usize,
        b: usize,
        left: u32,
        every: u64,
    },
}

struct Due {
    at: At,
    number: u64,
    ev: Box<Ev>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Due>>,
    number: u64,
}

impl Queue {
    /// At the same moment, first come is first served.
    pub fn push(&mut self, at: At, ev: Ev) {
        self.number += 1;
        self.heap.push(Reverse(Due { at, number: self.number, ev: Box::new(ev) }));
    }

    /// The next one not after `until`.
    pub fn pop(&mut self, until: At) -> Option<(At, Ev)> {
        if self.heap.peek().is_none_or(|Reverse(due)| due.at > until) {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| (due.at, *due.ev))
    }
}
