//! What clients asked and were told, and whether that is linearizable.
//!
//! Writes have a total order, the acknowledged branch, so the checker needs no search: it takes that order as the
//! witness, puts every read right behind the transaction that its answer names, and checks that (1) this order agrees
//! with real time and (2) every answer is what a single machine would have given in this order. If both hold, the order
//! *is* a linearization, so nothing that isn't linearizable passes. And since an answer's position is part of what the
//! product promises, a history that only some other order could explain is a failure as well. A call whose outcome the
//! client doesn't know may stand anywhere after its beginning, or nowhere; it may not stand there twice.

use std::collections::BTreeMap;

use tanist_replication::{Position, Stamp};

use super::At;

/// How many registers and lists there are.
pub const REGISTERS: usize = 3;
pub const LISTS: usize = 2;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write { register: usize, value: u64 },
    CompareAndSet { register: usize, expected: u64, value: u64 },
    Append { list: usize, value: u64 },
    Read { register: usize },
    ReadList { list: usize },
}

impl Call {
    pub fn reads(self) -> bool {
        matches!(self, Call::Read { .. } | Call::ReadList { .. })
    }
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Whether the register was what was expected.
    Set(bool),
    Value(u64),
    List(Vec<u64>),
}

/// The database as a client sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub registers: [u64; REGISTERS],
    pub lists: [Vec<u64>; LISTS],
    /// Answers by idempotency key.
    pub kept: BTreeMap<u64, Answer>,
}

impl State {
    /// What a call gives.
    pub fn answer(&self, call: Call) -> Answer {
        match call {
            Call::Write { .. } | Call::Append { .. } => Answer::Done,
            Call::CompareAndSet { register, expected, .. } => {
                Answer::Set(self.registers[register] == expected)
            }
            Call::Read { register } => Answer::Value(self.registers[register]),
            Call::ReadList { list } => Answer::List(self.lists[list].clone()),
        }
    }

    /// Runs a call.
    pub fn run(&mut self, call: Call) -> Answer {
        let answer = self.answer(call);
        match call {
            Call::Write { register, value } => self.registers[register] = value,
            Call::CompareAndSet { register, value, .. } if answer == Answer::Set(true) => {
                self.registers[register] = value;
            }
            Call::Append { list, value } => self.lists[list].push(value),
            _ => {}
        }
        answer
    }
}

/// One call of one client.
#[derive(Debug, Clone)]
pub struct Op {
    pub client: usize,
    pub call: Call,
    /// Repeated with an idempotency key when its outcome isn't known.
    pub keyed: bool,
    pub invoked: At,
    /// When the client had its answer, what it was, and the position that came with it.
    pub returned: Option<(At, Answer, Position)>,
    pub attempt: u32,
    /// All attempts so far were refused before anything was done.
    pub untouched: bool,
    /// The client has given up, or has its answer.
    pub over: bool,
}

#[derive(Default)]
pub struct History {
    /// By number, from 1.
    pub ops: Vec<Op>,
}

impl History {
    pub fn begin(&mut self, op: Op) -> u64 {
        self.ops.push(op);
        self.ops.len() as u64
    }

    pub fn op(&self, number: u64) -> Option<&Op> {
        self.ops.get((number as usize).checked_sub(1)?)
    }

    pub fn op_mut(&mut self, number: u64) -> Option<&mut Op> {
        self.ops.get_mut((number as usize).checked_sub(1)?)
    }

    /// Whether the history is linearizable with `branch`, the acknowledged transactions, as the order of writes.
    pub fn check(&self, branch: &[(Stamp, u64)]) -> Result<(), String> {
        let judged = self.order(branch).and_then(|order| {
            self.check_time(&order)?;
            self.check_answers(branch)
        });
        judged.map_err(|why| format!("linearizability: {why}"))
    }

    /// Every call that took effect or was answered, in the order of the witness.
    fn order(&self, branch: &[(Stamp, u64)]) -> Result<Vec<u64>, String> {
        let mut place = vec![0_usize; self.ops.len() + 1];
        for (index, (stamp, write)) in branch.iter().enumerate() {
            let Some(op) = self.op(*write) else { continue };
            let write = *write as usize;
            if place[write] != 0 {
                return Err(format!("{op:?} took effect twice, again at {}", stamp.position));
            }
            place[write] = index + 1;
            if op.over && op.untouched && op.returned.is_none() {
                return Err(format!("{op:?} was refused every time, but stands at {}", stamp.position));
            }
        }
        let mut points = vec![];
        for (index, op) in self.ops.iter().enumerate() {
            let number = index as u64 + 1;
            let at = place[index + 1];
            let Some((_, answer, position)) = &op.returned else {
                if at > 0 {
                    points.push((at, 0, op.invoked, number));
                }
                continue;
            };
            let txid = position.txid.0 as usize;
            let named = txid.checked_sub(1).and_then(|index| branch.get(index));
            if *position != Position::ZERO && named.is_none_or(|(stamp, _)| stamp.position != *position) {
                return Err(format!("{op:?} was answered at {position}, which nobody keeps"));
            }
            // A comparison that failed, and left no key, wrote nothing.
            let wrote = !op.call.reads() && (op.keyed || *answer != Answer::Set(false));
            if wrote && (at == 0 || at > txid) {
                return Err(format!("{op:?} was answered at {position}, but stands at {at}"));
            }
            points.push(if wrote { (at, 0, op.invoked, number) } else { (txid, 1, op.invoked, number) });
        }
        points.sort_unstable();
        Ok(points.into_iter().map(|(_, _, _, number)| number).collect())
    }

    /// No call stands behind one that began only after it had been answered.
    fn check_time(&self, order: &[u64]) -> Result<(), String> {
        let mut latest: Option<&Op> = None;
        for op in order.iter().filter_map(|number| self.op(*number)) {
            if let (Some(before), Some((returned, _, _))) = (latest, &op.returned)
                && *returned < before.invoked
            {
                return Err(format!("{before:?} stands before {op:?}, which had ended before it began"));
            }
            if latest.is_none_or(|latest| op.invoked > latest.invoked) {
                latest = Some(op);
            }
        }
        Ok(())
    }

    /// Every answer is what one machine would have given.
    fn check_answers(&self, branch: &[(Stamp, u64)]) -> Result<(), String> {
        let mut behind: BTreeMap<usize, Vec<&Op>> = BTreeMap::new();
        for op in &self.ops {
            if let Some((_, answer, position)) = &op.returned
                && (op.call.reads() || (!op.keyed && *answer == Answer::Set(false)))
            {
                behind.entry(position.txid.0 as usize).or_default().push(op);
            }
        }
        let mut state = State::default();
        for txid in 0..=branch.len() {
            if let Some(op) = txid.checked_sub(1).and_then(|index| self.op(branch[index].1)) {
                let right = state.run(op.call);
                compare(op, &right)?;
            }
            for op in behind.get(&txid).into_iter().flatten() {
                let right = state.run(op.call);
                compare(op, &right)?;
            }
        }
        Ok(())
    }
}

fn compare(op: &Op, right: &Answer) -> Result<(), String> {
    match &op.returned {
        Some((_, answer, _)) if answer != right => Err(format!("{op:?} should have given {right:?}")),
        _ => Ok(()),
    }
}
