//! The network between the machines: delays, loss, duplicates, cuts in one or both directions.
//!
//! Owns which way is open and which connection a bulk message belongs to. Never changes a message. A control message
//! may be lost, doubled or overtaken; a bulk message only with its whole connection, which is then reported.

use tanist_replication::{Event, Message};

use super::{Cluster, Ev, MS};

/// Limits of what the network does to messages.
#[derive(Debug, Clone)]
pub struct Weather {
    pub delay_ns: (u64, u64),
    /// Now and then a message takes so much longer.
    pub lag_ns: u64,
    pub lag_per_mille: u64,
    pub loss_per_mille: u64,
    pub double_per_mille: u64,
    /// Messages of one link keep their order.
    pub ordered: bool,
}

impl Weather {
    pub fn fair() -> Weather {
        Weather {
            delay_ns: (MS / 2, MS / 2),
            lag_ns: 0,
            lag_per_mille: 0,
            loss_per_mille: 0,
            double_per_mille: 0,
            ordered: true,
        }
    }
}

/// One direction between two machines.
#[derive(Debug, Clone, Default)]
pub struct Way {
    pub blocked: bool,
    /// The bulk connection's number; messages of an older one never arrive.
    pub epoch: u32,
    pub broken: bool,
    /// Every message on it takes so much longer.
    pub slow_ns: u64,
    /// What goes in bulk doesn't arrive, and the connection stays.
    pub starves: bool,
    held: bool,
    /// So many messages have to be sent again by the system, and hold up those behind them.
    pub late_per_mille: u64,
    last_control: u64,
    last_bulk: u64,
}

pub struct Network {
    pub weather: Weather,
    pub ways: Vec<Vec<Way>>,
    /// Whether the two know of each other that the link is up.
    pub linked: Vec<Vec<bool>>,
    notices: Vec<Vec<u64>>,
}

impl Network {
    pub fn new(machines: usize) -> Network {
        Network {
            weather: Weather::fair(),
            ways: vec![vec![Way::default(); machines]; machines],
            linked: vec![vec![false; machines]; machines],
            notices: vec![vec![0; machines]; machines],
        }
    }

    pub fn open(&self, a: usize, b: usize) -> bool {
        !self.ways[a][b].blocked && !self.ways[b][a].blocked
    }
}

impl Cluster {
    fn delay(&mut self) -> u64 {
        let (low, high) = self.network.weather.delay_ns;
        let lag = self.network.weather.lag_per_mille;
        let longer =
            if lag > 0 && self.rng.chance(lag) { self.rng.below(self.network.weather.lag_ns) } else { 0 };
        self.rng.between(low, high) + longer
    }

    pub fn send(&mut self, from: usize, to: usize, message: Message) {
        let bulk = matches!(message, Message::Append { .. });
        if bulk {
            self.send_bulk(from, to, message);
            return;
        }
        let weather = self.network.weather.clone();
        let lost = self.network.ways[from][to].blocked || self.rng.chance(weather.loss_per_mille);
        if lost || !self.machines[to].running() {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(weather.double_per_mille));
        for copy in 0..copies {
            let slow = self.network.ways[from][to].slow_ns + self.sent_again(from, to);
            let mut at = self.now + self.delay() + slow + copy * self.delay() * 3;
            let way = &mut self.network.ways[from][to];
            if (weather.ordered || way.late_per_mille > 0) && copy == 0 {
                at = at.max(way.last_control);
                way.last_control = at;
            }
            let life = self.machines[to].life;
            self.push(at - self.now, Ev::Message { from, to, life, bulk: None, message: message.clone() });
        }
    }

    /// How long it takes until the system has sent what was lost again.
    fn sent_again(&mut self, from: usize, to: usize) -> u64 {
        let late = self.network.ways[from][to].late_per_mille;
        if late > 0 && self.rng.chance(late) { self.rng.between(200 * MS, 800 * MS) } else { 0 }
    }

    fn send_bulk(&mut self, from: usize, to: usize, message: Message) {
        if self.network.ways[from][to].blocked || !self.machines[to].running() {
            self.break_bulk(from, to);
        }
        if self.network.ways[from][to].broken {
            return; // the sender will be told
        }
        if self.network.ways[from][to].starves {
            self.network.ways[from][to].held = true;
            return;
        }
        let slow = self.network.ways[from][to].slow_ns;
        let again = self.sent_again(from, to);
        let at = (self.now + self.delay() + slow + again).max(self.network.ways[from][to].last_bulk);
        let way = &mut self.network.ways[from][to];
        way.last_bulk = at;
        let epoch = way.epoch;
        let life = self.machines[to].life;
        if self.network.weather.double_per_mille > 0 && self.rng.chance(5) {
            let late = self.delay() * 4;
            let message = message.clone();
            self.push(at - self.now + late, Ev::Message { from, to, life, bulk: Some(epoch), message });
        }
        self.push(at - self.now, Ev::Message { from, to, life, bulk: Some(epoch), message });
    }

    /// The bulk connection is lost with what was on it; the sender learns it a little later.
    pub fn break_bulk(&mut self, from: usize, to: usize) {
        let way = &mut self.network.ways[from][to];
        if way.broken {
            return;
        }
        way.broken = true;
        way.epoch += 1;
        let epoch = way.epoch;
        let notice = self.rng.between(5 * MS, 150 * MS);
        self.push(notice, Ev::BulkBroken { from, to, epoch });
    }

    pub fn bulk_broken(&mut self, from: usize, to: usize, epoch: u32) {
        let way = &mut self.network.ways[from][to];
        if way.epoch != epoch {
            return;
        }
        way.broken = false;
        way.last_bulk = 0;
        let peer = self.machines[to].id.clone();
        self.deliver(from, Event::BulkDown(peer));
    }

    /// From now on one machine's links, both ways, pass nothing in bulk (`starves`), and control messages are late so often.
    pub fn limp(&mut self, node: usize, starves: bool, late_per_mille: u64) {
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            self.limp_link(node, other, starves, late_per_mille);
        }
    }

    pub fn limp_link(&mut self, a: usize, b: usize, starves: bool, late_per_mille: u64) {
        self.say(|c| {
            let (a, b) = (c.name(a), c.name(b));
            format!("between {a} and {b}: bulk held {starves}, {late_per_mille} of 1000 late")
        });
        for (from, to) in [(a, b), (b, a)] {
            let way = &mut self.network.ways[from][to];
            way.starves = starves;
            way.late_per_mille = late_per_mille;
            if !starves && std::mem::take(&mut way.held) {
                self.break_bulk(from, to);
            }
        }
    }

    /// Cuts both directions.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut_way(a, b);
        self.cut_way(b, a);
    }

    pub fn cut_way(&mut self, from: usize, to: usize) {
        if from == to || self.network.ways[from][to].blocked {
            return;
        }
        self.say(|c| format!("cut {} -> {}", c.name(from), c.name(to)));
        self.network.ways[from][to].blocked = true;
        self.break_bulk(from, to);
        self.link_changed(from, to, 300 * MS);
    }

    pub fn isolate(&mut self, node: usize) {
        for other in 0..self.machines.len() {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    pub fn heal(&mut self) {
        self.say(|_| "all ways open again".to_owned());
        for a in 0..self.machines.len() {
            for b in 0..self.machines.len() {
                self.network.ways[a][b].blocked = false;
            }
        }
        for a in 0..self.machines.len() {
            for b in 0..a {
                self.link_changed(a, b, 5 * MS);
            }
        }
    }

    /// Cuts the two off each other, or joins them, and does the opposite after a while.
    pub fn flap(&mut self, a: usize, b: usize, left: u32, every: u64) {
        if left == 0 || left.is_multiple_of(2) && !self.network.open(a, b) {
            for (from, to) in [(a, b), (b, a)] {
                self.network.ways[from][to].blocked = false;
            }
            self.say(|c| format!("{} and {} reach each other again", c.name(a), c.name(b)));
            self.link_changed(a, b, 5 * MS);
        } else {
            self.cut(a, b);
        }
        if left > 0 && a != b {
            self.push(every, Ev::Flap { a, b, left: left - 1, every });
        }
    }

    /// Both ends look at their control link after a while.
    pub fn link_changed(&mut self, a: usize, b: usize, within: u64) {
        let (a, b) = (a.min(b), a.max(b));
        self.network.notices[a][b] += 1;
        let number = self.network.notices[a][b];
        let after = self.rng.between(within / 2, within);
        self.push(after, Ev::LinkNotice { a, b, number });
    }

    pub fn link_notice(&mut self, a: usize, b: usize, number: u64) {
        if self.network.notices[a][b] != number {
            return;
        }
        let up = self.network.open(a, b) && self.machines[a].running() && self.machines[b].running();
        if up == self.network.linked[a][b] {
            return;
        }
        self.network.linked[a][b] = up;
        for (node, peer) in [(a, b), (b, a)] {
            let peer = self.machines[peer].id.clone();
            self.deliver(node, if up { Event::LinkUp(peer) } else { Event::LinkDown(peer) });
        }
    }
}
