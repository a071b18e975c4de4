//! What a machine's store does with the node's commands, and when it says so.
//!
//! Turns a model store into events, each after the time its disk takes. Never decides whether a transaction fits:
//! `store.rs` does.

use tanist_replication::{Event, Stamp, Term};

use super::{
    Cluster, Ev, MS,
    client::Waiting,
    history::{Answer, Call, Op},
    store::{Command, End, Entry, Mistake},
};

/// Writes that may wait for their answer; more are refused, as by the server.
const WAITING: usize = 40;

impl Cluster {
    fn disk(&mut self, node: usize) -> u64 {
        let (low, high) = self.machines[node].disk_ns;
        self.rng.between(low, high)
    }

    pub fn command(&mut self, node: usize, command: Command) {
        self.machines[node].store.queue.push_back(command);
        self.work(node);
    }

    /// The worker takes what comes next; transactions in a row are stored together.
    fn work(&mut self, node: usize) {
        let store = &mut self.machines[node].store;
        if !store.doing.is_empty() {
            return;
        }
        let Some(first) = store.queue.pop_front() else { return };
        let apply = matches!(first, Command::Apply(_));
        let copy = if let Command::Copy(from) = &first { Some(self.ids[from]) } else { None };
        store.doing.push(first);
        while apply && matches!(store.queue.front(), Some(Command::Apply(_))) {
            store.doing.extend(store.queue.pop_front());
        }
        let mut after = self.disk(node);
        if let Some(from) = copy {
            let reached = self.network.open(node, from) && self.machines[from].running();
            after += if reached { self.rng.between(2 * MS, 200 * MS) } else { 300 * MS };
            let content = reached.then(|| self.machines[from].store.content.clone());
            self.machines[node].store.copying = content;
        }
        let life = self.machines[node].life;
        self.push(after, Ev::StoreDone { node, life });
    }

    pub fn store_done(&mut self, node: usize) {
        let doing = std::mem::take(&mut self.machines[node].store.doing);
        let mut transactions = vec![];
        for command in doing {
            match command {
                Command::Apply(transaction) => transactions.push(transaction),
                Command::StartReign(term) => self.start_reign(node, term),
                Command::EndReign => {
                    let store = &mut self.machines[node].store;
                    store.reign = None;
                    store.reigns += 1;
                    store.syncing = false;
                    store.durable = store.content.len();
                    let stamp = store.stamp();
                    self.deliver(node, Event::ReignEnded(stamp));
                }
                Command::Hold(hold) => self.deliver(node, Event::WritesHeld(hold)),
                Command::Copy(from) => self.copied(node, self.ids[&from]),
            }
        }
        if !transactions.is_empty() {
            let mistake = self.setup.mistake;
            let store = &mut self.machines[node].store;
            let before = store.content.len();
            if store.apply(&transactions) {
                if mistake == Some(Mistake::SkipSync) {
                    let life = self.machines[node].life;
                    self.push(2000 * MS, Ev::LateSync { node, life });
                } else {
                    store.durable = store.content.len();
                }
                self.check_entries(node, before);
                let stamp = self.machines[node].store.stamp();
                self.deliver(node, Event::Stored(stamp));
            } else {
                let stamp = store.stamp();
                self.deliver(node, Event::ApplyFailed(stamp));
            }
        }
        if self.machines[node].running() {
            self.work(node);
        }
    }

    fn start_reign(&mut self, node: usize, term: Term) {
        let migrations = self.rng.below(2);
        let store = &mut self.machines[node].store;
        let base = store.stamp();
        if store.fails() {
            let why = "the disk takes nothing".to_owned();
            self.deliver(node, Event::ReignFailed { term, stamp: base, why });
            return;
        }
        let before = store.content.len();
        store.reign = Some(term);
        store.reigns += 1;
        let transactions = (0..=migrations).map(|_| store.commit(term, 0)).collect();
        let history = store.history();
        self.check_entries(node, before);
        self.deliver(node, Event::ReignStarted { term, base, transactions, history });
        self.sync(node);
    }

    fn copied(&mut self, node: usize, from: usize) {
        let content = self.machines[node].store.copying.take();
        let reached = self.network.open(node, from) && self.machines[from].running();
        let stopped = std::mem::take(&mut self.machines[node].store.stop_copy);
        match content {
            Some(content) if reached && !stopped && !self.machines[node].store.fails() => {
                self.take_copy(node, content);
                let stamp = self.stamp(node);
                self.deliver(node, Event::CopyFinished(stamp));
            }
            _ => {
                let stamp = self.stamp(node);
                self.deliver(node, Event::CopyFailed(stamp));
            }
        }
    }

    fn take_copy(&mut self, node: usize, content: Vec<Entry>) {
        self.check_copy(node, &content);
        let machine = &mut self.machines[node];
        machine.reported = Stamp::default();
        machine.store.durable = content.len();
        machine.store.content = content;
    }

    /// What the store was doing when its process ended may have reached the disk, or not.
    pub fn end_work(&mut self, node: usize) {
        let store = &mut self.machines[node].store;
        let doing = std::mem::take(&mut store.doing);
        if doing.is_empty() || !self.rng.chance(500) {
            return;
        }
        let mut transactions = vec![];
        let before = self.machines[node].store.content.len();
        for command in doing {
            let store = &mut self.machines[node].store;
            match command {
                Command::Apply(transaction) => transactions.push(transaction),
                Command::StartReign(term) if !store.fails() => drop(store.commit(term, 0)),
                Command::Copy(_) => {
                    if let Some(content) = store.copying.take()
                        && !store.stop_copy
                    {
                        self.take_copy(node, content);
                    }
                    return;
                }
                Command::StartReign(_) | Command::EndReign | Command::Hold(_) => {}
            }
        }
        self.machines[node].store.apply(&transactions);
        self.check_entries(node, before);
    }

    /// The master's own disk follows behind.
    pub fn sync(&mut self, node: usize) {
        if !self.machines[node].running() {
            return; // it crashed on the way
        }
        if self.setup.mistake == Some(Mistake::SkipSync) {
            let life = self.machines[node].life;
            self.push(2000 * MS, Ev::LateSync { node, life });
            let len = self.machines[node].store.content.len();
            let stamp = self.machines[node].store.content[len - 1].stamp;
            self.deliver(node, Event::Stored(stamp));
            return;
        }
        let store = &mut self.machines[node].store;
        if store.syncing || store.full {
            return;
        }
        store.syncing = true;
        let (reign, len) = (store.reigns, store.content.len());
        let life = self.machines[node].life;
        let after = self.disk(node);
        self.push(after, Ev::Synced { node, life, reign, len });
    }

    pub fn synced(&mut self, node: usize, len: usize) {
        let store = &mut self.machines[node].store;
        store.syncing = false;
        store.durable = store.durable.max(len);
        let stamp = store.content[len - 1].stamp;
        let more = store.content.len() > len;
        self.deliver(node, Event::Stored(stamp));
        if more && self.machines[node].store.reign.is_some() {
            self.sync(node);
        }
    }

    /// A script's write at a machine that may be master; whether it took it.
    pub fn write_at(&mut self, node: usize) -> bool {
        let value = self.history.ops.len() as u64 + 1;
        let op = self.history.begin(Op {
            client: usize::MAX,
            call: Call::Append { list: 0, value },
            keyed: false,
            invoked: self.now,
            returned: None,
            attempt: 0,
            untouched: true,
            over: false,
        });
        let took = self.write_op(node, op, None);
        if let Some(op) = self.history.op_mut(op) {
            (op.over, op.untouched) = (true, !took);
        }
        took
    }

    /// The writer takes a call, unless it can't now: then nothing was done.
    pub fn write_op(&mut self, node: usize, op: u64, attempt: Option<u32>) -> bool {
        let machine = &self.machines[node];
        let idle = machine.store.doing.is_empty() && machine.store.queue.is_empty();
        let open = machine.gate.is_some() && machine.gate == machine.store.reign;
        if machine.waiting.len() >= WAITING {
            return false;
        }
        if !open || !idle || machine.held || !machine.writes_allowed || machine.store.full || machine.paused {
            return false;
        }
        if machine.waits.holds_calls() {
            return self.hold_call(node, op, attempt);
        }
        let Some((call, keyed)) = self.history.op(op).map(|of| (of.call, of.keyed)) else { return false };
        let store = &mut self.machines[node].store;
        let before = store.content.len();
        let term = store.reign.unwrap_or_default();
        let state = store.fold(&self.history);
        let kept = if self.setup.mistake == Some(Mistake::ForgetKeys) { None } else { state.kept.get(&op) };
        let (answer, writes) = match kept {
            Some(answer) => (answer.clone(), false),
            None => {
                let answer = state.answer(call);
                let writes = keyed || answer != Answer::Set(false);
                (answer, writes)
            }
        };
        let transaction = writes.then(|| store.commit(term, op));
        self.check_entries(node, before);
        let position = self.stamp(node).position;
        let waiting = Waiting { txid: position.txid, op, attempt, answer };
        self.machines[node].waiting.push_back(waiting);
        if self.setup.mistake == Some(Mistake::AnswerEarly) || position <= self.machines[node].acknowledged {
            self.answer_waiting(node, position);
        }
        let Some(transaction) = transaction else { return true };
        self.deliver(node, Event::Captured(transaction));
        if self.machines[node].running() {
            self.sync(node);
        }
        true
    }

    /// A sync fails: the server says so to its node and ends.
    pub fn disk_error(&mut self, node: usize) {
        if self.machines[node].running() && !self.machines[node].paused {
            self.say(|c| format!("{}'s disk fails", c.name(node)));
            self.deliver(node, Event::StorageFailed("input/output error".to_owned()));
            self.crash_with(node, End::DiskError);
        }
    }

    /// Something changed the master's database behind its back.
    pub fn break_capture(&mut self, node: usize) {
        let Some(term) = self.machines[node].store.reign else { return };
        if self.machines[node].paused {
            return; // the writer would have to notice first
        }
        let store = &mut self.machines[node].store;
        let before = store.content.len();
        let stamp = store.commit(term, 0).stamp;
        self.check_entries(node, before);
        self.say(|c| format!("{}: capture breaks at {}", c.name(node), stamp.position));
        self.deliver(node, Event::CaptureBroken(stamp));
        if self.machines[node].running() {
            self.sync(node);
        }
    }
}
