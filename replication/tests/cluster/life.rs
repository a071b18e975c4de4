//! How machines start, end, are halted and go on.
//!
//! Owns what a process loses when it ends, and who notices. Never touches what is on a disk: `store.rs` does.

use tanist_replication::{Event, Node, Position, Stamp, status::RoleName};

use super::{
    Cluster, Ev, MS, SECOND,
    hang::Waits,
    store::{End, Mistake, Store},
};

impl Cluster {
    pub fn start(&mut self, node: usize) {
        if self.machines[node].running() {
            return;
        }
        let seed = self.rng.next();
        let now = self.now;
        let skips = self.setup.mistake == Some(Mistake::SkipSyncAtStart);
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.heard.fill(0);
        machine.config.seed = seed;
        if !skips {
            machine.store.durable = machine.store.content.len(); // what a killed process had written
        }
        let stamp = machine.store.stamp();
        machine.expected = stamp;
        let clean = std::mem::take(&mut machine.clean);
        let time = machine.clock.read(now);
        machine.node = Some(Node::new(machine.config.clone(), machine.hard.clone(), stamp, clean, time));
        self.say(|c| format!("{} starts at {}", c.name(node), stamp.position));
        self.check_start(node);
        for peer in 0..self.machines.len() {
            if peer != node {
                self.link_changed(node, peer, 10 * MS);
            }
        }
        self.deliver(node, Event::Tick);
    }

    /// The process ends at once; its machine then refuses connections, unless that went down too.
    pub fn crash(&mut self, node: usize, machine_too: bool) {
        self.crash_with(node, if machine_too { End::PowerCut } else { End::Killed });
    }

    pub fn crash_with(&mut self, node: usize, end: End) {
        if !self.machines[node].running() {
            return;
        }
        self.say(|c| format!("{} ends: {end:?}", c.name(node)));
        self.end_work(node);
        self.end(node, end);
        self.notice_end(node, end != End::PowerCut);
    }

    /// `state.db` of a machine that isn't running is lost.
    pub fn lose_replica(&mut self, node: usize) {
        self.say(|c| format!("{}'s replica is lost", c.name(node)));
        self.machines[node].store = Store::default();
        self.machines[node].reported = Stamp::default();
        self.check.disks_lost = true;
    }

    /// The disk of a machine that isn't running has forgotten the newest of what it said was stored.
    pub fn forget_newest(&mut self, node: usize, count: usize) {
        self.say(|c| format!("{}'s disk forgets {count} transactions", c.name(node)));
        let store = &mut self.machines[node].store;
        let left = store.content.len().saturating_sub(count);
        store.content.truncate(left);
        store.durable = store.durable.min(left);
        self.machines[node].reported = Stamp::default();
        self.check.disks_lost = true;
    }

    /// The WAL of a machine that isn't running is cleared away, and with it its newest transactions.
    pub fn lose_tail(&mut self, node: usize, count: usize) {
        self.say(|c| format!("{}'s WAL is lost", c.name(node)));
        let machine = &mut self.machines[node];
        let mut content = std::mem::take(&mut machine.store).content;
        content.truncate(content.len().saturating_sub(count));
        machine.store.durable = content.len();
        machine.store.content = content;
        machine.reported = machine.store.stamp();
        self.check.disks_lost = true;
    }

    /// The others notice a little later, where the machine is still there to refuse connections.
    fn notice_end(&mut self, node: usize, refuses: bool) {
        if refuses && self.setup.tells_of_end {
            self.tell_of_end(node);
        }
        let id = self.machines[node].id.clone();
        for peer in 0..self.machines.len() {
            if peer == node || !self.machines[peer].running() || !self.network.open(node, peer) {
                continue;
            }
            let life = self.machines[peer].life;
            let notice = self.rng.between(MS, 10 * MS);
            if refuses {
                self.push(notice, Ev::Node { to: peer, life, event: Event::LinkDown(id.clone()) });
                self.push(notice + 2 * MS, Ev::Node { to: peer, life, event: Event::Refused(id.clone()) });
            }
        }
    }

    /// Word of the end may be lost, and may come when the machine has long been up again.
    fn tell_of_end(&mut self, node: usize) {
        let ended = self.machines[node].life;
        for to in 0..self.machines.len() {
            if to == node || !self.machines[to].running() || self.rng.chance(100) {
                continue;
            }
            let life = self.machines[to].life;
            let late = if self.rng.chance(200) { 2 * SECOND } else { 10 * MS };
            let delay = self.rng.between(MS, late);
            self.push(delay, Ev::Ended { of: node, ended, to, life });
        }
    }

    /// A clean stop: the node says goodbye, the store syncs, the mark is left.
    pub fn stop(&mut self, node: usize) {
        if !self.machines[node].running() || self.machines[node].paused {
            return;
        }
        self.say(|c| format!("{} is stopped", c.name(node)));
        self.machines[node].leaving = true;
        self.deliver(node, Event::Shutdown);
    }

    /// A machine that was told to stop ends when it isn't the master any more.
    pub fn end_cleanly(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if !machine.leaving {
            return;
        }
        let reigns = machine.node.as_ref().is_some_and(|node| node.status().role == RoleName::Master);
        if !reigns {
            machine.store.durable = machine.store.content.len();
            machine.clean = true;
            self.end(node, End::Killed);
            self.notice_end(node, true);
        }
    }

    fn end(&mut self, node: usize, end: End) {
        let now = self.now;
        let shows = self.rng.below(1 << 40);
        let machine = &mut self.machines[node];
        machine.node = None;
        machine.gate = None;
        machine.waiting.clear();
        machine.reading.clear();
        machine.acknowledged = Position::ZERO;
        machine.backlog.clear();
        machine.waits = Waits { hang: machine.waits.hang, ..Waits::default() };
        machine.paused = false;
        machine.crash_after = None;
        machine.writes_allowed = true;
        machine.held = false;
        machine.leaving = false;
        machine.store.crash(end, &mut self.rng);
        if end == End::PowerCut && self.setup.drift_ppm != 0 {
            machine.clock.restart(now, shows);
        }
        for peer in 0..self.machines.len() {
            if peer != node {
                self.network.linked[node.min(peer)][node.max(peer)] = false;
                self.break_bulk(node, peer);
                self.break_bulk(peer, node);
            }
        }
    }

    /// The process is halted and later goes on as if nothing had happened.
    pub fn pause(&mut self, node: usize, ns: u64) {
        if self.machines[node].running() && !self.machines[node].paused {
            self.say(|c| format!("{} is halted for {} ms", c.name(node), ns / MS));
            self.machines[node].paused = true;
            let life = self.machines[node].life;
            self.push(ns, Ev::Resume { node, life });
        }
    }

    pub fn resume(&mut self, node: usize) {
        self.say(|c| format!("{} goes on", c.name(node)));
        self.machines[node].paused = false;
        let mut backlog = std::mem::take(&mut self.machines[node].backlog);
        // Threads go on in any order: clients may be served, if they can be, before the node hears anything.
        if self.rng.chance(500) {
            backlog.sort_by_key(|ev| !matches!(ev, Ev::Request { .. } | Ev::Sample { .. }));
        } else if self.rng.chance(500) {
            self.deliver(node, Event::Tick);
        }
        for ev in backlog {
            self.happen(ev);
        }
        self.deliver(node, Event::Tick);
    }
}
