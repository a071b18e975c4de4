//! The invariants I1..I6, checked over the whole cluster while it runs.
//!
//! Owns everything that was acknowledged and every stamp ever made. Never changes anything: the first broken
//! invariant is kept and ends the run. Read `promise.rs` next for what each message promises.

use std::collections::BTreeMap;

use tanist_replication::{
    Effect, Event, MemberId, Position, RecordKey, Stamp, SuccessionRecord, Term, status::RoleName,
};

use super::{At, Cluster, Ev, MS, client::Outcome, history::REGISTERS, store::Entry};

/// An answered write.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub stamp: Stamp,
    pub at: At,
    pub write: u64,
}

pub struct Checker {
    pub failure: Option<String>,
    pub acknowledged: Vec<Acknowledged>,
    /// Everything acknowledged, a reign's own transactions too: stamp and call, from txid 1.
    pub branch: Vec<(Stamp, u64)>,
    /// When each was.
    branch_at: Vec<At>,
    entries: BTreeMap<Position, Entry>,
    pub votes: BTreeMap<(usize, Term), MemberId>,
    pub masters: BTreeMap<Term, usize>,
    /// The newest record that a majority of its voters has accepted.
    pub committed: Option<SuccessionRecord>,
    /// Every record ever kept,
    pub known: BTreeMap<RecordKey, SuccessionRecord>,
    /// and the highest version that each machine has accepted in each term.
    pub accepted: BTreeMap<(usize, Term), u64>,
    /// Reigns that opened their gate, and where they stood then.
    pub opened: BTreeMap<Term, (usize, Stamp)>,
    pub reads: u64,
    /// The value that a client saw last in each register.
    pub seen: [u64; REGISTERS],
    /// A script took a disk away, or changed what was on it: what it held can't be expected.
    pub disks_lost: bool,
}

impl Checker {
    pub fn new() -> Checker {
        Checker {
            failure: None,
            acknowledged: vec![],
            branch: vec![],
            branch_at: vec![],
            entries: BTreeMap::new(),
            votes: BTreeMap::new(),
            masters: BTreeMap::new(),
            committed: None,
            known: BTreeMap::new(),
            accepted: BTreeMap::new(),
            opened: BTreeMap::new(),
            reads: 0,
            seen: [0; REGISTERS],
            disks_lost: false,
        }
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}

impl Cluster {
    /// I3: what a position stands for never differs.
    pub fn check_entries(&mut self, node: usize, from: usize) {
        for entry in &self.machines[node].store.content[from..] {
            let known = self.check.entries.entry(entry.stamp.position).or_insert_with(|| entry.clone());
            if known != entry {
                let why = format!("I3: two contents at {:?}: {known:?}, {entry:?}", entry.stamp.position);
                self.check.failure.get_or_insert(why);
            }
        }
    }

    /// I2, I5: everything acknowledged before `before` is in the machine's replica. Stamps name all that lies before.
    fn holds_acknowledged(&self, node: usize, before: At) -> Result<(), String> {
        let store = &self.machines[node].store;
        let count = self.check.branch_at.partition_point(|at| *at < before);
        let Some((newest, _)) = count.checked_sub(1).map(|last| self.check.branch[last]) else {
            return Ok(());
        };
        if store.holds(newest) {
            return Ok(());
        }
        let (name, at) = (self.name(node), store.stamp().position);
        Err(format!("{name} at {at} lacks acknowledged {}", newest.position))
    }

    /// I1: no two machines serve at the same moment.
    pub fn check_one_master(&mut self) {
        let serving: Vec<usize> = (0..self.machines.len()).filter(|node| self.serves(*node)).collect();
        if serving.len() > 1 {
            let names: Vec<_> = serving.iter().map(|node| self.name(*node).to_owned()).collect();
            self.check.fail(format!("I1: {} serve at the same time", names.join(" and ")));
        }
    }

    pub fn check_gate(&mut self, node: usize, term: Term) {
        if let Err(why) = self.holds_acknowledged(node, At::MAX) {
            self.check.fail(format!("I2: master of term {term}: {why}"));
        }
        if self.check.committed.as_ref().is_none_or(|record| record.key.term < term) {
            self.check.fail(format!("R5: the master of term {term} serves before its record is committed"));
        }
        let stamp = self.stamp(node);
        self.check.opened.insert(term, (node, stamp));
        self.check_one_master();
    }

    /// A machine says that everything up to here is acknowledged.
    pub fn acknowledge(&mut self, node: usize, position: Position) {
        self.say(|c| format!("{} acknowledges {position}", c.name(node)));
        let opening = self.machines[node].gate.is_none();
        if !opening && !self.serves(node) {
            let why = format!("I6: {} acknowledges {position} without gate and lease", self.name(node));
            self.check.fail(why);
        }
        self.extend_branch(node, position);
        self.check_heirs();
        self.machines[node].acknowledged = self.machines[node].acknowledged.max(position);
        self.answer_waiting(node, position);
        self.reads_done(node);
    }

    /// I2: what is acknowledged is one branch, whoever says so.
    fn extend_branch(&mut self, node: usize, position: Position) {
        let content = &self.machines[node].store.content;
        let txid = position.txid.0 as usize;
        let known = self.check.branch.len().min(txid);
        let agrees = known.checked_sub(1).is_none_or(|last| {
            content.get(last).is_some_and(|entry| entry.stamp == self.check.branch[last].0)
        });
        let there = content.get(txid.wrapping_sub(1)).is_some_and(|entry| entry.stamp.position == position);
        if !agrees || !there {
            let why = format!("I2: {position} is acknowledged beside another branch, or isn't there");
            self.check.fail(why);
            return;
        }
        let new = content[self.check.branch.len().min(txid)..txid].iter().map(|e| (e.stamp, e.write));
        self.check.branch.extend(new);
        self.check.branch_at.resize(self.check.branch.len(), self.now);
    }

    /// Answers the writes up to a position.
    pub fn answer_waiting(&mut self, node: usize, position: Position) {
        while let Some(waiting) = self.machines[node].waiting.front().cloned()
            && waiting.txid <= position.txid
        {
            self.machines[node].waiting.pop_front();
            let stamp = self.machines[node].store.content[waiting.txid.0 as usize - 1].stamp;
            let at = self.now;
            self.check.acknowledged.push(Acknowledged { stamp, at, write: waiting.op });
            match waiting.attempt {
                Some(attempt) => {
                    let outcome = Outcome::Done(waiting.answer, stamp.position);
                    self.answer(waiting.op, attempt, outcome);
                }
                None => {
                    if let Some(op) = self.history.op_mut(waiting.op) {
                        op.returned = Some((at, waiting.answer, stamp.position));
                    }
                }
            }
        }
    }

    /// The reign has ended: nobody knows what becomes of the writes that wait.
    pub fn forget_waiting(&mut self, node: usize) {
        for waiting in std::mem::take(&mut self.machines[node].waiting) {
            if let Some(attempt) = waiting.attempt {
                self.answer(waiting.op, attempt, Outcome::Unknown);
            }
        }
        for read in std::mem::take(&mut self.machines[node].reading) {
            self.answer(read.op, read.attempt, Outcome::Refused);
        }
    }

    /// I4: a copy never takes away what was acknowledged.
    pub fn check_copy(&mut self, node: usize, content: &[Entry]) {
        let has = |content: &[Entry], index: usize| {
            content.get(index).is_some_and(|entry| entry.stamp == self.check.branch[index].0)
        };
        let held = &self.machines[node].store.content;
        let newest = (0..self.check.branch.len().min(held.len())).rev().find(|index| has(held, *index));
        if let Some(lost) = newest.filter(|index| !has(content, *index)) {
            let lost = self.check.branch[lost].0.position;
            let why = format!("I4: copying takes acknowledged {lost} from {}", self.name(node));
            self.check.fail(why);
        }
    }

    /// I4: a replica is after its start what it had reported before.
    pub fn check_start(&mut self, node: usize) {
        let machine = &self.machines[node];
        if machine.reported != Stamp::default() && !machine.store.holds(machine.reported) {
            let why =
                format!("I4: {} lost {}, which it had reported", self.name(node), machine.reported.position);
            self.check.fail(why);
        }
    }

    /// An observer looks at every serving master and at some backup.
    pub fn look(&mut self) {
        let after = if self.rough { self.rng.between(5 * MS, 60 * MS) } else { 50 * MS };
        self.push(after, Ev::Look);
        for node in 0..self.machines.len() {
            if self.serves(node)
                && let Err(why) = self.holds_acknowledged(node, self.now)
            {
                self.check.fail(format!("I5: strong read at the master: {why}"));
            }
        }
        let node = self.rng.below(self.machines.len() as u64) as usize;
        let machine = &self.machines[node];
        let Some(inner) = machine.node.as_ref().filter(|_| !machine.witness && !self.serves(node)) else {
            return;
        };
        let status = inner.status();
        let follows = status.role == RoleName::Backup;
        if let Some(fresh) = status.fresh_as_of.filter(|_| follows && !self.check.disks_lost) {
            if fresh > machine.clock.read(self.now) {
                self.check.fail(format!("I5: {} is said to be fresh as of a time to come", self.name(node)));
                return;
            }
            let moment = machine.clock.moment(fresh).saturating_sub(1000);
            if let Err(why) = self.holds_acknowledged(node, moment) {
                self.check.fail(format!("I5: read said to be fresh: {why}"));
            }
        }
    }

    /// Delivers an event to a node and gives its effects, for scripts.
    pub fn effects_of(&mut self, node: usize, event: Event) -> Vec<Effect> {
        self.machines[node].effects = Some(vec![]);
        self.deliver(node, event);
        self.machines[node].effects.take().unwrap_or_default()
    }
}
