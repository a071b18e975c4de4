//! Disks that don't answer, for a while or for ever: each of the store's answers apart, or the votes.
//!
//! Owns what of a machine waits for its disk. As in the server a look at what is under way tells the node after a while, and
//! a vote that can't be stored stops the node alone: clients are served as long as the lease lasts.

use std::collections::VecDeque;

use tanist_replication::{Complaint, Effect, Event};

use super::{Cluster, Ev, MS};

/// So long something may be under way before the node is told.
pub const STALL: u64 = 500 * MS;

/// What doesn't come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hang {
    /// What the store thread does.
    Store,
    /// Syncs of the master's own log.
    Sync,
    /// Writes of term, vote and record: the node waits for them.
    Votes,
    /// All of them.
    All,
}

impl Hang {
    pub const ALL: [Hang; 4] = [Hang::Store, Hang::Sync, Hang::Votes, Hang::All];
}

/// What of a machine waits.
#[derive(Default)]
pub struct Waits {
    pub hang: Option<Hang>,
    /// Answers of the store.
    pub answers: Vec<Ev>,
    /// The call that the store thread is in the middle of, and for whom.
    pub late: Option<(u64, Option<u32>)>,
    /// Nobody looks what is under way.
    pub unseen: bool,
    /// What the node still asks for, behind the vote that isn't stored.
    pub effects: Option<VecDeque<Effect>>,
}

impl Waits {
    /// Whether the node waits for its votes.
    pub fn is_blocked(&self) -> bool {
        self.effects.is_some()
    }

    /// A call that the store thread begins now doesn't come to its end.
    pub fn holds_calls(&self) -> bool {
        matches!(self.hang, Some(Hang::Store | Hang::All))
    }

    pub fn holds_votes(&self) -> bool {
        matches!(self.hang, Some(Hang::Votes | Hang::All))
    }
}

impl Cluster {
    pub fn hang(&mut self, node: usize, what: Hang) {
        // What hangs already has to come back first.
        if self.machines[node].running() && self.machines[node].waits.hang.is_none() {
            self.say(|c| format!("{}'s disk hangs: {what:?}", c.name(node)));
            self.machines[node].waits.hang = Some(what);
        }
    }

    /// Whether this answer of the store doesn't come now.
    pub fn holds_answer(&mut self, node: usize, ev: &Ev) -> bool {
        let waits = &mut self.machines[node].waits;
        let held = matches!(
            (waits.hang, ev),
            (Some(Hang::Store | Hang::All), Ev::StoreDone { .. })
                | (Some(Hang::Sync | Hang::All), Ev::Synced { .. })
        );
        if held {
            waits.answers.push(ev.clone());
            let life = self.machines[node].life;
            self.push(STALL, Ev::Stalled { node, life });
        }
        held
    }

    /// The store thread begins a call and doesn't come to its end; whether it was free to.
    pub fn hold_call(&mut self, node: usize, op: u64, attempt: Option<u32>) -> bool {
        let machine = &mut self.machines[node];
        if machine.waits.late.is_some() {
            return false;
        }
        machine.waits.late = Some((op, attempt));
        let life = machine.life;
        self.push(STALL, Ev::Stalled { node, life });
        true
    }

    /// The call comes to its end, whoever is the master by now.
    fn end_call(&mut self, node: usize) {
        let Some((op, attempt)) = self.machines[node].waits.late.take() else { return };
        if self.machines[node].gate.is_some() {
            self.write_op(node, op, attempt);
        } else if let Some(term) = self.machines[node].store.reign {
            let store = &mut self.machines[node].store;
            if store.fold(&self.history).kept.contains_key(&op) {
                return; // an earlier try of this call was done here
            }
            let before = store.content.len();
            let transaction = store.commit(term, op);
            self.check_entries(node, before);
            self.deliver(node, Event::Captured(transaction));
        }
    }

    /// Something may have been under way for too long.
    pub fn look_for_stalls(&mut self, node: usize) {
        let waits = &self.machines[node].waits;
        if !waits.unseen && (!waits.answers.is_empty() || waits.late.is_some()) {
            self.deliver(node, Event::Stalled(Some(Complaint::new("its disk doesn't answer"))));
        }
    }

    /// The disk answers again, all that it was asked.
    pub fn release(&mut self, node: usize) {
        if self.machines[node].paused {
            return self.push(MS, Ev::Release { node });
        }
        if self.machines[node].waits.hang.take().is_none() {
            return;
        }
        self.say(|c| format!("{}'s disk answers again", c.name(node)));
        let answers = std::mem::take(&mut self.machines[node].waits.answers);
        if let Some(mut effects) = self.machines[node].waits.effects.take() {
            // Late answers: the driver looks whether the gate is open still.
            if self.machines[node].gate.is_some() && !self.serves(node) {
                effects.retain(|effect| !matches!(effect, Effect::Acknowledge(_)));
                self.forget_waiting(node);
            }
            self.perform_all(node, effects.into());
            let backlog = std::mem::take(&mut self.machines[node].backlog);
            for ev in backlog {
                self.happen(ev);
            }
            self.deliver(node, Event::Tick);
        }
        self.end_call(node);
        for ev in answers {
            self.happen(ev);
        }
        self.deliver(node, Event::Stalled(None));
    }
}
