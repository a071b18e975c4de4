//! One machine: its node, what it keeps on disk, its store, its gate and its clock.
//!
//! Performs effects in order, as the server's driver does, and may crash between two of them. Never decides anything
//! about succession. Read `check.rs` for what is looked at on the way.

use std::collections::VecDeque;

use tanist_replication::status::RoleName;
use tanist_replication::{Config, Effect, Event, HardState, MemberId, Message, Node, Term, Time, Txid};

use super::{
    At, Cluster, Ev, MS, Rng, Setup,
    store::{Command, Store},
};

pub struct Machine {
    pub config: Config,
    pub id: MemberId,
    pub witness: bool,
    pub node: Option<Node>,
    /// Counts starts.
    pub life: u32,
    /// `node.db`.
    pub hard: Option<HardState>,
    pub clean: bool,
    /// `state.db`.
    pub store: Store,
    pub disk_ns: (u64, u64),
    offset: u64,
    ppm: i64,
    pub paused: bool,
    backlog: Vec<Ev>,
    pub gate: Option<Term>,
    /// On this machine's clock.
    pub lease: Time,
    pub writes_allowed: bool,
    /// Clients' writes wait while the throne is handed over.
    pub held: bool,
    /// Ends cleanly as soon as it isn't the master any more.
    leaving: bool,
    /// How the last handover ended.
    pub handover: Option<Result<MemberId, String>>,
    /// How the last change of members ended.
    pub change: Option<Result<(), String>>,
    /// Clients that wait for an answer: transaction and write.
    pub waiting: VecDeque<(Txid, u64)>,
    ticket: u64,
    /// Crashes after so many more effects.
    pub crash_after: Option<u64>,
    /// Effects of the newest event, for scripts that look at their order.
    pub effects: Vec<Effect>,
}

impl Machine {
    pub fn new(config: Config, witness: bool, rng: &mut Rng, setup: &Setup) -> Machine {
        let drift = setup.drift_ppm;
        let random = if drift == 0 { 0 } else { rng.below(2 * drift as u64 + 1) as i64 - drift };
        Machine {
            id: config.id.clone(),
            config,
            witness,
            node: None,
            life: 0,
            hard: None,
            clean: true,
            store: Store::default(),
            disk_ns: setup.disk_ns,
            offset: if drift == 0 { 0 } else { rng.below(1 << 40) },
            ppm: random,
            paused: false,
            backlog: vec![],
            gate: None,
            lease: Time(0),
            writes_allowed: true,
            held: false,
            leaving: false,
            handover: None,
            change: None,
            waiting: VecDeque::new(),
            ticket: 0,
            crash_after: None,
            effects: vec![],
        }
    }

    pub fn running(&self) -> bool {
        self.node.is_some()
    }

    /// This machine's clock at a moment of virtual time.
    pub fn clock(&self, at: At) -> Time {
        let shift = (i128::from(at) * i128::from(self.ppm) / 1_000_000) as i64;
        Time(self.offset + at.saturating_add_signed(shift))
    }

    /// The moment of virtual time when this machine's clock shows `time`, or just after.
    pub fn moment(&self, time: Time) -> At {
        let own = i128::from(time.0.saturating_sub(self.offset));
        let mut at = (own * 1_000_000 / i128::from(1_000_000 + self.ppm)) as u64;
        while self.clock(at) < time {
            at += 1;
        }
        at
    }
}

impl Cluster {
    /// Whether clients are served here now.
    pub fn serves(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        let lease = machine.clock(self.now) < machine.lease;
        machine.running() && !machine.paused && machine.gate.is_some() && lease
    }

    pub fn start(&mut self, node: usize) {
        if self.machines[node].running() {
            return;
        }
        let seed = self.rng.next();
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.config.seed = seed;
        let stamp = machine.store.durable_stamp();
        let clean = std::mem::take(&mut machine.clean);
        let time = machine.clock(now);
        machine.node = Some(Node::new(machine.config.clone(), machine.hard.clone(), stamp, clean, time));
        self.say(|c| format!("{} starts at {}", c.name(node), stamp.position));
        for peer in 0..self.machines.len() {
            if peer != node {
                self.link_changed(node, peer, 10 * MS);
            }
        }
        self.deliver(node, Event::Tick);
    }

    /// The process ends at once; its machine then refuses connections, unless that went down too.
    pub fn crash(&mut self, node: usize, machine_too: bool) {
        if !self.machines[node].running() {
            return;
        }
        self.say(|c| format!("{} crashes{}", c.name(node), if machine_too { ", power cut" } else { "" }));
        self.end(node);
        self.notice_end(node, !machine_too);
    }

    /// The others notice a little later, where the machine is still there to refuse connections.
    fn notice_end(&mut self, node: usize, refuses: bool) {
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
    fn end_cleanly(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let reigns = machine.node.as_ref().is_some_and(|node| node.status().role == RoleName::Master);
        if machine.leaving && !reigns {
            machine.store.durable = machine.store.content.len();
            machine.clean = true;
            self.end(node);
            self.notice_end(node, true);
        }
    }

    fn end(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        machine.node = None;
        machine.gate = None;
        machine.waiting.clear();
        machine.backlog.clear();
        machine.paused = false;
        machine.crash_after = None;
        machine.writes_allowed = true;
        machine.held = false;
        machine.leaving = false;
        machine.store.crash();
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

    pub fn happen(&mut self, ev: Ev) {
        match ev {
            Ev::Message { from, to, life, bulk, message } => {
                let stale = bulk.is_some_and(|epoch| epoch != self.network.ways[from][to].epoch);
                let blocked = self.network.ways[from][to].blocked;
                if stale || blocked || self.machines[to].life != life {
                    return;
                }
                if self.machines[to].paused {
                    let ev = Ev::Message { from, to, life, bulk: None, message };
                    self.machines[to].backlog.push(ev);
                    return;
                }
                let from = self.machines[from].id.clone();
                self.deliver(to, Event::Message { from, message });
            }
            Ev::Node { to, life, event } => {
                if self.machines[to].life != life {
                    return;
                }
                if let Event::Refused(peer) = &event
                    && self.machines[self.ids[peer]].running()
                {
                    return; // it is up again
                }
                self.deliver(to, event);
            }
            Ev::Tick { node, life, ticket } => {
                let machine = &self.machines[node];
                if machine.life == life && machine.ticket == ticket && !machine.paused {
                    self.deliver(node, Event::Tick);
                }
            }
            Ev::StoreDone { node, life } => {
                if self.machines[node].life == life && !self.backlogged(node, Ev::StoreDone { node, life }) {
                    self.store_done(node);
                }
            }
            Ev::Synced { node, life, reign, len } => {
                let same = self.machines[node].life == life && self.machines[node].store.reigns == reign;
                if same && !self.backlogged(node, Ev::Synced { node, life, reign, len }) {
                    self.synced(node, len);
                }
            }
            Ev::LateSync { node, life } => {
                if self.machines[node].life == life {
                    let store = &mut self.machines[node].store;
                    store.durable = store.content.len();
                }
            }
            Ev::Resume { node, life } => {
                if self.machines[node].life == life && self.machines[node].paused {
                    self.resume(node);
                }
            }
            // One that is still leaving is started when it has left.
            Ev::Restart { node } if self.machines[node].leaving => self.push(20 * MS, Ev::Restart { node }),
            Ev::Restart { node } => self.start(node),
            Ev::BulkBroken { from, to, epoch } => self.bulk_broken(from, to, epoch),
            Ev::LinkNotice { a, b, number } => self.link_notice(a, b, number),
            Ev::Client => self.client(),
            Ev::Fault => self.fault(),
        }
    }

    fn backlogged(&mut self, node: usize, ev: Ev) -> bool {
        let machine = &mut self.machines[node];
        if machine.paused {
            machine.backlog.push(ev);
        }
        machine.paused
    }

    fn resume(&mut self, node: usize) {
        self.say(|c| format!("{} goes on", c.name(node)));
        self.machines[node].paused = false;
        let backlog = std::mem::take(&mut self.machines[node].backlog);
        if self.rng.chance(500) {
            self.deliver(node, Event::Tick);
        }
        for ev in backlog {
            self.happen(ev);
        }
        self.deliver(node, Event::Tick);
    }

    /// Hands an event to a node and does what it asks for.
    pub fn deliver(&mut self, node: usize, event: Event) {
        let now = self.now;
        let machine = &mut self.machines[node];
        if machine.paused {
            let life = machine.life;
            machine.backlog.push(Ev::Node { to: node, life, event });
            return;
        }
        let time = machine.clock(now);
        let Some(inner) = &mut machine.node else { return };
        let said = self.setup.trace.then(|| describe(&event));
        let effects = inner.handle(time, event);
        let deadline = inner.deadline();
        if let Some(said) = said.filter(|said| !said.is_empty()) {
            self.say(|c| format!("{} <- {said}", c.name(node)));
        }
        if deadline <= time {
            let why = format!("{} is due at {deadline:?}, after handling at {time:?}", self.name(node));
            self.check.fail(format!("deadline: {why}"));
        }
        self.machines[node].effects.clone_from(&effects);
        for effect in effects {
            if let Some(left) = self.machines[node].crash_after {
                if left == 0 {
                    self.crash(node, true);
                    return;
                }
                self.machines[node].crash_after = Some(left - 1);
            }
            self.perform(node, effect);
        }
        if !self.machines[node].running() {
            return;
        }
        if deadline != Time::NEVER {
            let late = if self.chaos.is_some() { self.rng.below(2 * MS) } else { 0 };
            let machine = &mut self.machines[node];
            machine.ticket += 1;
            let (life, ticket) = (machine.life, machine.ticket);
            let after = machine.moment(deadline).saturating_sub(now) + late;
            self.push(after, Ev::Tick { node, life, ticket });
        } else {
            self.machines[node].ticket += 1;
        }
        self.end_cleanly(node);
    }

    fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist(hard) => self.machines[node].hard = Some(hard),
            Effect::Send { to, message } => {
                self.check_send(node, &to, &message);
                let to = self.ids[&to];
                if self.setup.trace && !matches!(message, Message::Heartbeat(_) | Message::HeartbeatReply(_))
                {
                    self.say(|c| format!("{} -> {}: {}", c.name(node), c.name(to), say_message(&message)));
                }
                self.send(node, to, message);
            }
            Effect::Apply(transaction) => self.command(node, Command::Apply(transaction)),
            Effect::StartReign { term, .. } => self.command(node, Command::StartReign(term)),
            Effect::EndReign => {
                self.machines[node].waiting.clear();
                self.command(node, Command::EndReign);
            }
            Effect::StartCopy { from } => self.command(node, Command::Copy(from)),
            Effect::Acknowledge(position) => self.acknowledge(node, position),
            Effect::OpenGate { term } => {
                self.say(|c| format!("{} OPENS THE GATE, term {term}", c.name(node)));
                self.machines[node].gate = Some(term);
                self.check_gate(node, term);
            }
            Effect::ExtendLease { until } => {
                self.machines[node].lease = until;
                self.check_one_master();
            }
            Effect::CloseGate => {
                self.machines[node].gate = None;
                self.machines[node].held = false;
            }
            Effect::HoldWrites(hold) => {
                self.machines[node].held = true;
                self.command(node, Command::Hold(hold));
            }
            Effect::ReleaseWrites => self.machines[node].held = false,
            Effect::Connect(_) => {}
            Effect::MembersChanged(result) => self.machines[node].change = Some(result),
            Effect::HandoverEnded(result) => self.machines[node].handover = Some(result),
            Effect::AllowWrites(allowed) => self.machines[node].writes_allowed = allowed,
            Effect::Note(note) => {
                if note.what == "protocol violation" {
                    self.check.fail(format!("{}: {} {}", self.name(node), note.what, note.why));
                }
                let peer = note.peer.map(|peer| format!(" {peer}")).unwrap_or_default();
                self.say(|c| format!("{}: {}{peer}: {}", c.name(node), note.what, note.why));
            }
        }
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Tick | Event::Message { .. } | Event::Captured(_) => String::new(),
        Event::Stored(stamp) => format!("stored {}", stamp.position),
        Event::ReignStarted { term, base, .. } => format!("reign {term} started on {}", base.position),
        Event::ApplyFailed(s) => format!("apply failed, at {}", s.position),
        Event::ReignEnded(s) => format!("reign ended at {}", s.position),
        Event::CopyFinished(s) => format!("copy finished at {}", s.position),
        Event::CopyFailed(s) => format!("copy failed at {}", s.position),
        other => format!("{other:?}"),
    }
}

fn say_message(message: &Message) -> String {
    match message {
        Message::Append { term, transaction } => {
            format!("append {} (term {term})", transaction.stamp.position)
        }
        Message::Stored(report) => format!("stored {} (term {})", report.stamp.position, report.term),
        Message::Refused(report) => format!("refused, at {} (term {})", report.stamp.position, report.term),
        Message::VoteReply(r) => format!("vote {} for {}, record {}", r.granted, r.term, r.record.key),
        Message::PreVoteReply(r) => format!("pre-vote {} for {}, record {}", r.granted, r.term, r.record.key),
        other => format!("{other:?}"),
    }
}
