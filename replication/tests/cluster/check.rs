//! The invariants I1..I6 and the promises of R1, checked over the whole cluster while it runs.
//!
//! Owns everything that was acknowledged and every stamp ever made. Never changes anything: the first broken
//! invariant is kept and ends the run.

use std::collections::BTreeMap;

use tanist_replication::{Effect, Event, MemberId, Message, Position, Stamp, Term};

use super::{At, Cluster, Ev, MS, store::Entry};

type Key = (Position, [u8; 16]);

fn key(stamp: Stamp) -> Key {
    (stamp.position, stamp.chain.0)
}

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
    entries: BTreeMap<Key, Entry>,
    votes: BTreeMap<(usize, Term), MemberId>,
    masters: BTreeMap<Term, usize>,
    /// Reigns that opened their gate, and where they stood then.
    pub opened: BTreeMap<Term, (usize, Stamp)>,
    pub reads: u64,
}

impl Checker {
    pub fn new(_machines: usize) -> Checker {
        Checker {
            failure: None,
            acknowledged: vec![],
            entries: BTreeMap::new(),
            votes: BTreeMap::new(),
            masters: BTreeMap::new(),
            opened: BTreeMap::new(),
            reads: 0,
        }
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}

impl Cluster {
    /// I3: what a stamp stands for never differs.
    pub fn check_entries(&mut self, node: usize, from: usize) {
        for entry in &self.machines[node].store.content[from..] {
            let known = self.check.entries.entry(key(entry.stamp)).or_insert_with(|| entry.clone());
            if known != entry {
                let why = format!("I3: two contents at {:?}: {known:?}, {entry:?}", entry.stamp.position);
                self.check.failure.get_or_insert(why);
            }
        }
    }

    /// I2, I5: everything acknowledged before `before` is in the machine's replica.
    fn holds_acknowledged(&self, node: usize, before: At) -> Result<(), String> {
        let store = &self.machines[node].store;
        for done in &self.check.acknowledged {
            if done.at < before && !store.holds(done.stamp) {
                let (name, at) = (self.name(node), store.stamp().position);
                return Err(format!("{name} at {at} lacks acknowledged {}", done.stamp.position));
            }
        }
        Ok(())
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
        let stamp = self.stamp(node);
        self.check.opened.insert(term, (node, stamp));
        self.check_one_master();
    }

    pub fn acknowledge(&mut self, node: usize, position: Position) {
        let before = self.check.acknowledged.len();
        while let Some((txid, write)) = self.machines[node].waiting.front().copied()
            && txid <= position.txid
        {
            self.machines[node].waiting.pop_front();
            let stamp = self.machines[node].store.content[txid.0 as usize - 1].stamp;
            let at = self.now;
            self.check.acknowledged.push(Acknowledged { stamp, at, write });
        }
        if self.check.acknowledged.len() == before {
            return;
        }
        self.say(|c| format!("{} acknowledges {position}", c.name(node)));
        if !self.serves(node) {
            let why = format!("I6: {} acknowledges {position} without gate and lease", self.name(node));
            self.check.fail(why);
        }
        // I2 for an answer of an old reign that comes after a new one has begun.
        let Some((term, (_, opened))) = self.check.opened.last_key_value() else { return };
        let (term, mut stamp) = (*term, *opened);
        let Some(newest) = self.check.acknowledged.last().map(|done| done.stamp) else { return };
        if term > position.term {
            while stamp.position.txid > newest.position.txid {
                let Some(entry) = self.check.entries.get(&key(stamp)) else { break };
                stamp = entry.previous;
            }
            if stamp != newest {
                self.check.fail(format!("I2: {position} is acknowledged, the reign of term {term} lacks it"));
            }
        }
    }

    /// I4: a copy never takes away what was acknowledged.
    pub fn check_copy(&mut self, node: usize, content: &[Entry]) {
        let has = |stamp: Stamp| {
            let index = (stamp.position.txid.0 as usize).wrapping_sub(1);
            content.get(index).is_some_and(|entry| entry.stamp == stamp)
        };
        let store = &self.machines[node].store;
        let lost = self.check.acknowledged.iter().find(|done| store.holds(done.stamp) && !has(done.stamp));
        if let Some(lost) = lost {
            let why =
                format!("I4: copying takes acknowledged {} from {}", lost.stamp.position, self.name(node));
            self.check.fail(why);
        }
    }

    /// R1, R6, I1: a promise leaves only when it is on disk.
    pub fn check_send(&mut self, node: usize, to: &MemberId, message: &Message) {
        let hard = self.machines[node].hard.clone();
        let name = self.name(node).to_owned();
        match message {
            Message::VoteReply(reply) if reply.granted => {
                let kept = hard.is_some_and(|h| h.term == reply.term && h.voted_for.as_ref() == Some(to));
                if !kept {
                    self.check.fail(format!("R1: {name}'s vote in term {} isn't on its disk", reply.term));
                }
                let given = self.check.votes.entry((node, reply.term)).or_insert_with(|| to.clone());
                if given != to {
                    self.check.fail(format!("R1: {name} votes twice in term {}", reply.term));
                }
            }
            Message::Vote(request) => {
                let me = self.machines[node].id.clone();
                let kept = hard.is_some_and(|h| h.term == request.term && h.voted_for == Some(me.clone()));
                let given = self.check.votes.entry((node, request.term)).or_insert_with(|| me.clone());
                if !kept || *given != me {
                    self.check
                        .fail(format!("R1: {name} stands in term {} without its own vote", request.term));
                }
            }
            Message::HeartbeatReply(reply) => {
                let kept = hard.as_ref().map(|hard| hard.record.key).unwrap_or_default();
                if reply.accepted > kept {
                    self.check
                        .fail(format!("R6: {name} says it accepted {}, on disk is {kept}", reply.accepted));
                }
                if let Some(stamp) = reply.stamp {
                    self.check_report(node, stamp);
                }
            }
            Message::Heartbeat(heartbeat) => {
                let kept = hard.as_ref().map(|hard| hard.record.key).unwrap_or_default();
                if heartbeat.record.key > kept {
                    self.check
                        .fail(format!("R6: {name} proposes {}, on disk is {kept}", heartbeat.record.key));
                }
                let master = *self.check.masters.entry(heartbeat.term).or_insert(node);
                if master != node {
                    self.check.fail(format!("I1: two masters in term {}", heartbeat.term));
                }
            }
            Message::Stored(report) => self.check_report(node, report.stamp),
            _ => {}
        }
    }

    /// A replica reports only what is on its disk.
    fn check_report(&mut self, node: usize, stamp: Stamp) {
        let store = &self.machines[node].store;
        let durable = store.durable_stamp().position.txid >= stamp.position.txid;
        let holds = stamp == Stamp::default() || store.holds(stamp);
        let may_lie = self.setup.mistake.is_some() || self.machines[node].witness;
        if !may_lie && (!durable || !holds) {
            let why = format!("R7: {} reports {}, which isn't on its disk", self.name(node), stamp.position);
            self.check.fail(why);
        }
    }

    /// What clients do now and then: a write, a strong read at the master, a bounded read at some backup.
    pub fn client(&mut self) {
        let every = self.client_every;
        if every == 0 {
            self.push(50 * MS, Ev::Client);
            return;
        }
        let after = self.rng.between(every / 4, every * 2);
        self.push(after, Ev::Client);
        for node in 0..self.machines.len() {
            if self.serves(node) {
                if let Err(why) = self.holds_acknowledged(node, self.now) {
                    self.check.fail(format!("I5: strong read at the master: {why}"));
                }
                self.check.reads += 1;
                for _ in 0..self.rng.between(1, 4) {
                    self.write_at(node);
                }
            }
        }
        let node = self.rng.below(self.machines.len() as u64) as usize;
        let machine = &self.machines[node];
        let Some(inner) = machine.node.as_ref().filter(|_| !machine.witness && !self.serves(node)) else {
            return;
        };
        let status = inner.status();
        let follows = status.role == tanist_replication::status::RoleName::Backup;
        if let Some(fresh) = status.fresh_as_of.filter(|_| follows) {
            let moment = machine.moment(fresh).saturating_sub(1000);
            if let Err(why) = self.holds_acknowledged(node, moment) {
                self.check.fail(format!("I5: read said to be fresh: {why}"));
            }
        }
    }

    /// Delivers an event to a node and gives its effects, for scripts.
    pub fn effects_of(&mut self, node: usize, event: Event) -> Vec<Effect> {
        self.deliver(node, event);
        self.machines[node].effects.clone()
    }
}
