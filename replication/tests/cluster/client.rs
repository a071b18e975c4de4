//! Clients: they call, wait, ask another machine, repeat with a key, and sometimes never learn what became of a call.
//!
//! Owns the way of a call to a machine and back; a machine serves it as the server's HTTP side does. Never judges an
//! answer: `history.rs` does.

use tanist_replication::{Position, Term, Txid};

use super::{
    Cluster, Ev, MS,
    history::{Answer, Call, LISTS, Op, REGISTERS},
    store::Mistake,
};

/// A write that waits for its acknowledgement.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub txid: Txid,
    pub op: u64,
    /// Of the client that waits; none when a script wrote.
    pub attempt: Option<u32>,
    pub answer: Answer,
}

/// A strong read that waits until what it saw is acknowledged.
#[derive(Debug, Clone)]
pub struct Reading {
    pub position: Position,
    pub op: u64,
    pub attempt: u32,
    pub gate: Term,
    pub answer: Answer,
}

/// What a machine says to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done(Answer, Position),
    /// Nothing was done.
    Refused,
    /// It may have been done.
    Unknown,
}

/// How clients behave.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Mean time between a client's calls; none while it is zero.
    pub every: u64,
    /// So many requests and answers in a thousand are lost.
    pub loss_per_mille: u64,
}

const REFUSALS: u32 = 40;
const ATTEMPTS: u32 = 6;

impl Cluster {
    pub fn think(&mut self, client: usize) {
        let every = self.clients.every;
        if every == 0 {
            self.push(50 * MS, Ev::Think { client });
            return;
        }
        let value = self.history.ops.len() as u64 + 1;
        let register = self.rng.below(REGISTERS as u64) as usize;
        let list = self.rng.below(LISTS as u64) as usize;
        let call = match self.rng.below(10) {
            0..=1 => Call::Write { register, value },
            2..=3 => {
                // Mostly a value that it has been told, so that some succeed.
                let expected = self.check.seen[register];
                Call::CompareAndSet { register, expected, value }
            }
            4..=6 => Call::Append { list, value },
            7..=8 => Call::Read { register },
            _ => Call::ReadList { list },
        };
        let keyed = !call.reads() && self.rng.chance(700);
        let op = self.history.begin(Op {
            client,
            call,
            keyed,
            invoked: self.now,
            returned: None,
            attempt: 0,
            untouched: true,
            over: false,
        });
        self.attempt(op);
    }

    fn think_later(&mut self, client: usize) {
        let every = self.clients.every.max(MS);
        let after = self.rng.between(every / 4, every * 2);
        self.push(after, Ev::Think { client });
    }

    /// Sends the request to the machine that the client takes for the master.
    fn attempt(&mut self, op: u64) {
        let guess = self.rng.below(self.machines.len() as u64) as usize;
        let Some(of) = self.history.op_mut(op) else { return };
        // Who asks anywhere may find a master that doesn't know yet that it is none.
        let knows = if of.call.reads() { 600 } else { 850 };
        of.attempt += 1;
        let attempt = of.attempt;
        let node = self.serving().filter(|_| self.rng.chance(knows)).unwrap_or(guess);
        let life = self.machines[node].life;
        if !self.rng.chance(self.clients.loss_per_mille) {
            let after = self.rng.between(MS / 10, 2 * MS);
            self.push(after, Ev::Request { op, attempt, node, life });
        }
        let patience = if self.rng.chance(200) { 3500 * MS } else { 1200 * MS };
        let patience = self.rng.between(200 * MS, patience);
        self.push(patience, Ev::Timeout { op, attempt });
    }

    /// A call comes in at a machine.
    pub fn request(&mut self, op: u64, attempt: u32, node: usize) {
        let life = self.machines[node].life;
        let Some(call) = self.history.op(op).map(|of| of.call) else { return };
        let lease =
            self.serves(node) || (call.reads() && self.setup.mistake == Some(Mistake::ReadWithoutLease));
        let Some(gate) = self.machines[node].gate.filter(|_| lease) else {
            self.refuse(op, attempt);
            return;
        };
        if call.reads() {
            let busy = self.rng.chance(80);
            let after = self.rng.between(0, if busy { 1500 * MS } else { MS });
            self.push(after, Ev::Sample { op, attempt, node, life, gate });
        } else if !self.write_op(node, op, Some(attempt)) {
            self.answer(op, attempt, Outcome::Refused);
        }
    }

    pub fn refuse(&mut self, op: u64, attempt: u32) {
        self.answer(op, attempt, Outcome::Refused);
    }

    /// The read sees the database as it is then, and is answered when all that it saw is acknowledged.
    pub fn sample(&mut self, op: u64, attempt: u32, node: usize, gate: Term) {
        let Some(call) = self.history.op(op).map(|of| of.call) else { return };
        let store = &mut self.machines[node].store;
        let answer = store.fold(&self.history).answer(call);
        let position = store.stamp().position;
        let reading = Reading { position, op, attempt, gate, answer };
        if position <= self.machines[node].acknowledged
            || self.setup.mistake == Some(Mistake::ReadUnacknowledged)
        {
            self.read_done(node, reading);
        } else {
            self.machines[node].reading.push(reading);
        }
    }

    /// Answers the reads whose wait is over.
    pub fn reads_done(&mut self, node: usize) {
        let acknowledged = self.machines[node].acknowledged;
        let reading = std::mem::take(&mut self.machines[node].reading);
        let (ready, waiting) = reading.into_iter().partition(|read| read.position <= acknowledged);
        self.machines[node].reading = waiting;
        let ready: Vec<Reading> = ready;
        for read in ready {
            self.read_done(node, read);
        }
    }

    fn read_done(&mut self, node: usize, read: Reading) {
        let same = self.serves(node) && self.machines[node].gate == Some(read.gate);
        let answered = same || self.setup.mistake == Some(Mistake::ReadWithoutLease);
        let outcome = if answered { Outcome::Done(read.answer, read.position) } else { Outcome::Refused };
        self.check.reads += u64::from(answered);
        self.answer(read.op, read.attempt, outcome);
    }

    /// Sends an answer, which may be lost.
    pub fn answer(&mut self, op: u64, attempt: u32, outcome: Outcome) {
        if !self.rng.chance(self.clients.loss_per_mille) {
            let after = self.rng.between(MS / 10, 2 * MS);
            self.push(after, Ev::Answer { op, attempt, outcome });
        }
    }

    pub fn answered(&mut self, op: u64, attempt: u32, outcome: Outcome) {
        let now = self.now;
        let Some(of) = self.history.op_mut(op) else { return };
        if of.over || of.attempt != attempt {
            return;
        }
        let client = of.client;
        match outcome {
            Outcome::Done(answer, position) => {
                if let (Call::Read { register }, Answer::Value(value)) = (of.call, &answer) {
                    self.check.seen[register] = *value;
                }
                of.returned = Some((now, answer, position));
                of.over = true;
                self.think_later(client);
            }
            Outcome::Refused if attempt < REFUSALS && !(of.call.reads() && self.rng.chance(500)) => {
                let pause = self.rng.between(10 * MS, 60 * MS);
                self.push(pause, Ev::Timeout { op, attempt: u32::MAX });
            }
            Outcome::Refused => {
                of.over = true;
                self.think_later(client);
            }
            Outcome::Unknown => self.no_answer(op),
        }
    }

    /// The client's wait is over: `u32::MAX` when it only waited to ask the next machine.
    pub fn timeout(&mut self, op: u64, attempt: u32) {
        let Some(of) = self.history.op(op) else { return };
        if of.over {
            return;
        }
        if attempt == u32::MAX {
            self.attempt(op);
        } else if of.attempt == attempt {
            self.no_answer(op);
        }
    }

    /// It may have been done: only what can be repeated safely is.
    fn no_answer(&mut self, op: u64) {
        let Some(of) = self.history.op_mut(op) else { return };
        let client = of.client;
        of.untouched = false;
        if (of.keyed || of.call.reads()) && of.attempt < ATTEMPTS {
            self.attempt(op);
        } else {
            of.over = true;
            self.think_later(client);
        }
    }
}
