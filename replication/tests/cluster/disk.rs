//! What a machine's store does with the node's commands, and when it says so.
//!
//! Turns a model store into events, each after the time its disk takes. Never decides whether a transaction fits:
//! `store.rs` does.

use tanist_replication::{Event, Term};

use super::{
    Cluster, Ev, MS,
    store::{Command, Mistake},
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
        if store.full {
            let why = "disk full".to_owned();
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
        match content {
            Some(content) if reached && !self.machines[node].store.full => {
                self.check_copy(node, &content);
                let store = &mut self.machines[node].store;
                store.durable = content.len();
                store.content = content;
                let stamp = store.stamp();
                self.deliver(node, Event::CopyFinished(stamp));
            }
            _ => {
                let stamp = self.machines[node].store.stamp();
                self.deliver(node, Event::CopyFailed(stamp));
            }
        }
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

    /// A client's write at a master that serves.
    pub fn write_at(&mut self, node: usize) -> bool {
        let machine = &self.machines[node];
        let idle = machine.store.doing.is_empty() && machine.store.queue.is_empty();
        let open = machine.gate.is_some() && machine.gate == machine.store.reign;
        if machine.waiting.len() >= WAITING {
            return false;
        }
        if !open || !idle || machine.held || !machine.writes_allowed || machine.store.full || machine.paused {
            return false;
        }
        self.next_write += 1;
        let write = self.next_write;
        let store = &mut self.machines[node].store;
        let before = store.content.len();
        let term = store.reign.unwrap_or_default();
        let transaction = store.commit(term, write);
        self.check_entries(node, before);
        let txid = transaction.stamp.position.txid;
        self.machines[node].waiting.push_back((txid, write));
        if self.setup.mistake == Some(Mistake::AnswerEarly) {
            self.acknowledge(node, transaction.stamp.position);
        }
        self.deliver(node, Event::Captured(transaction));
        if self.machines[node].running() {
            self.sync(node);
        }
        true
    }

    /// Something changed the master's database behind its back.
    pub fn break_capture(&mut self, node: usize) {
        let Some(term) = self.machines[node].store.reign else { return };
        self.next_write += 1;
        let write = self.next_write;
        let store = &mut self.machines[node].store;
        let before = store.content.len();
        let stamp = store.commit(term, write).stamp;
        self.check_entries(node, before);
        self.say(|c| format!("{}: capture breaks at {}", c.name(node), stamp.position));
        self.deliver(node, Event::CaptureBroken(stamp));
        if self.machines[node].running() {
            self.sync(node);
        }
    }
}
