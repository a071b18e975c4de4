//! One machine: its node, what it keeps on disk, its store, its gate and its clock.
//!
//! Performs effects in order, as the server's driver does, and may crash between two of them. Never decides anything
//! about succession. Read `life.rs` for how machines start and end, `check.rs` for what is looked at on the way.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tanist_replication::{
    Config, Effect, Event, HardState, MemberId, Message, Node, Position, Stamp, Term, Time,
};

use super::{
    Cluster, Ev, MS, Rng, Setup,
    client::{Reading, Waiting},
    clock::Clock,
    hang::Waits,
    store::{Command, Store},
    trace,
};

pub struct Machine {
    pub config: Config,
    pub id: MemberId,
    pub witness: bool,
    pub node: Option<Node>,
    /// Counts starts.
    pub life: u32,
    /// The newest life of each machine that was heard in this one.
    pub heard: Vec<u32>,
    /// `node.db`.
    pub hard: Option<HardState>,
    pub clean: bool,
    /// `state.db`.
    pub store: Store,
    pub disk_ns: (u64, u64),
    pub clock: Clock,
    pub paused: bool,
    pub backlog: Vec<Ev>,
    /// What waits for a disk that doesn't answer.
    pub waits: Waits,
    pub gate: Option<Term>,
    /// On this machine's clock.
    pub lease: Time,
    pub writes_allowed: bool,
    /// Clients' writes wait while the throne is handed over.
    pub held: bool,
    /// Ends cleanly as soon as it isn't the master any more.
    pub leaving: bool,
    /// How the last handover ended.
    pub handover: Option<Result<MemberId, String>>,
    /// How the last change of members ended.
    pub change: Option<Result<(), String>>,
    /// Clients that wait for the answer to a write,
    pub waiting: VecDeque<Waiting>,
    /// or to a strong read.
    pub reading: Vec<Reading>,
    /// What this machine, as master, said is acknowledged.
    pub acknowledged: Position,
    /// Newest stamp that it told others is on its disk, of the replica that it has now.
    pub reported: Stamp,
    /// What its replica will be when all that was handed to the store is there.
    pub expected: Stamp,
    /// Term of the transaction that is being handled.
    pub hearing: Option<Term>,
    pub ticket: u64,
    /// Crashes after so many more effects.
    pub crash_after: Option<u64>,
    /// Effects of the newest event, for scripts that look at their order.
    pub effects: Option<Vec<Effect>>,
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
            heard: vec![0; setup.members.len()],
            hard: None,
            clean: true,
            store: Store::default(),
            disk_ns: setup.disk_ns,
            clock: Clock::new(0, if drift == 0 { 0 } else { rng.below(1 << 40) }, random),
            paused: false,
            backlog: vec![],
            waits: Waits::default(),
            gate: None,
            lease: Time(0),
            writes_allowed: true,
            held: false,
            leaving: false,
            handover: None,
            change: None,
            waiting: VecDeque::new(),
            reading: vec![],
            acknowledged: Position::ZERO,
            reported: Stamp::default(),
            expected: Stamp::default(),
            hearing: None,
            ticket: 0,
            crash_after: None,
            effects: None,
        }
    }

    pub fn running(&self) -> bool {
        self.node.is_some()
    }
}

impl Cluster {
    /// Whether clients are served here now.
    pub fn serves(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        machine.running()
            && !machine.paused
            && machine.gate.is_some()
            && machine.clock.read(self.now) < machine.lease
    }

    pub fn happen(&mut self, ev: Ev) {
        if self.ahead(&ev) {
            return;
        }
        match ev {
            Ev::Message { from, to, message, .. } => {
                self.machines[to].heard[from] = self.machines[from].life;
                let from = self.machines[from].id.clone();
                self.deliver(to, Event::Message { from, message });
            }
            Ev::Node { to, event, .. } => {
                if let Event::Refused(peer) = &event
                    && self.setup.timing.trust_refused
                    && self.machines[self.ids[peer]].running()
                {
                    return; // it is up again
                }
                self.deliver(to, event);
            }
            // The links know which process they heard last.
            Ev::Ended { of, ended, to, .. } => {
                if self.machines[to].heard[of] == ended {
                    let peer = self.machines[of].id.clone();
                    self.deliver(to, Event::ProcessEnded(peer));
                }
            }
            Ev::Tick { node, ticket, .. } => {
                if self.machines[node].ticket == ticket {
                    self.deliver(node, Event::Tick);
                }
            }
            Ev::StoreDone { node, .. } | Ev::Synced { node, .. } if self.holds_answer(node, &ev) => {}
            Ev::Stalled { node, .. } => self.look_for_stalls(node),
            Ev::Release { node } => self.release(node),
            Ev::StoreDone { node, .. } => self.store_done(node),
            Ev::Synced { node, reign, len, .. } => {
                if self.machines[node].store.reigns == reign {
                    self.synced(node, len);
                }
            }
            Ev::LateSync { node, .. } => {
                let store = &mut self.machines[node].store;
                store.durable = store.content.len();
            }
            Ev::Resume { node, .. } => {
                if self.machines[node].paused {
                    self.resume(node);
                }
            }
            // One that is still leaving is started when it has left.
            Ev::Restart { node } if self.machines[node].leaving => self.push(20 * MS, Ev::Restart { node }),
            // Nothing starts on a disk that doesn't answer.
            Ev::Restart { node } if self.machines[node].waits.hang.is_some() => {
                self.push(20 * MS, Ev::Restart { node });
            }
            Ev::Restart { node } => self.start(node),
            Ev::BulkBroken { from, to, epoch } => self.bulk_broken(from, to, epoch),
            Ev::LinkNotice { a, b, number } => self.link_notice(a, b, number),
            Ev::Look => self.look(),
            Ev::Think { client } => self.think(client),
            Ev::Request { op, attempt, node, .. } => self.request(op, attempt, node),
            Ev::Sample { op, attempt, node, gate, .. } => self.sample(op, attempt, node, gate),
            Ev::Answer { op, attempt, outcome } => self.answered(op, attempt, outcome),
            Ev::Timeout { op, attempt } => self.timeout(op, attempt),
            Ev::Fault(number) => self.fault(number),
            Ev::Flap { a, b, left, every } => self.flap(a, b, left, every),
        }
    }

    /// Whether it was meant for an earlier life of its machine, or waits until a halted one goes on.
    fn ahead(&mut self, ev: &Ev) -> bool {
        let (node, life) = match *ev {
            Ev::Message { from, to, life, bulk, .. } => {
                let way = &self.network.ways[from][to];
                if way.blocked || bulk.is_some_and(|epoch| epoch != way.epoch) {
                    return true;
                }
                (to, life)
            }
            Ev::Ended { of, to, .. } if self.network.ways[of][to].blocked => return true,
            Ev::Node { to, life, .. } | Ev::Ended { to, life, .. } => (to, life),
            Ev::Tick { node, .. } if self.machines[node].paused || self.machines[node].waits.is_blocked() => {
                return true;
            }
            Ev::Tick { node, life, .. }
            | Ev::Stalled { node, life }
            | Ev::StoreDone { node, life }
            | Ev::Synced { node, life, .. }
            | Ev::Sample { node, life, .. } => (node, life),
            Ev::LateSync { node, life } | Ev::Resume { node, life } => {
                return self.machines[node].life != life || !self.machines[node].running();
            }
            Ev::Request { node, life, op, attempt } => {
                let machine = &self.machines[node];
                if machine.life != life || !machine.running() {
                    self.refuse(op, attempt);
                    return true;
                }
                (node, life)
            }
            _ => return false,
        };
        let machine = &mut self.machines[node];
        if machine.life != life || !machine.running() {
            return true;
        }
        let of_node = matches!(ev, Ev::Message { .. } | Ev::Node { .. } | Ev::Ended { .. });
        if machine.paused || (machine.waits.is_blocked() && of_node) {
            let mut ev = ev.clone();
            if let Ev::Message { bulk, .. } = &mut ev {
                *bulk = None; // it has arrived, whatever becomes of the connection
            }
            machine.backlog.push(ev);
            return true;
        }
        false
    }

    /// Hands an event to a node and does what it asks for.
    pub fn deliver(&mut self, node: usize, event: Event) {
        let now = self.now;
        let machine = &mut self.machines[node];
        if machine.paused || machine.waits.is_blocked() {
            let life = machine.life;
            machine.backlog.push(Ev::Node { to: node, life, event });
            return;
        }
        let time = machine.clock.read(now);
        let Some(inner) = &mut machine.node else { return };
        machine.hearing = match &event {
            Event::Message { message: Message::Append { term, .. }, .. } => Some(*term),
            _ => None,
        };
        match &event {
            Event::Stored(stamp) if stamp.position.txid > machine.expected.position.txid => {
                machine.expected = *stamp;
            }
            Event::ApplyFailed(stamp)
            | Event::ReignEnded(stamp)
            | Event::CopyFinished(stamp)
            | Event::CopyFailed(stamp) => machine.expected = *stamp,
            _ => {}
        }
        let said = self.setup.trace.then(|| trace::event(&event));
        // An assertion that fails ends the schedule like any broken rule.
        let handled = catch_unwind(AssertUnwindSafe(|| (inner.handle(time, event), inner.deadline())));
        if let Some(said) = said.filter(|said| !said.is_empty()) {
            self.say(|c| format!("{} <- {said}", c.name(node)));
        }
        let (effects, deadline) = match handled {
            Ok(handled) => handled,
            Err(panic) => {
                self.check.fail(format!("assert: {}: {}", self.name(node), trace::panic(&*panic)));
                return;
            }
        };
        if deadline <= time {
            let why = format!("{} is due at {deadline:?}, after handling at {time:?}", self.name(node));
            self.check.fail(format!("deadline: {why}"));
        }
        if let Some(kept) = &mut self.machines[node].effects {
            kept.clone_from(&effects);
        }
        self.perform_all(node, effects);
        if !self.machines[node].running() || self.machines[node].waits.is_blocked() {
            return;
        }
        let late = if self.rough && deadline != Time::NEVER { self.rng.below(2 * MS) } else { 0 };
        let machine = &mut self.machines[node];
        machine.ticket += 1;
        if deadline != Time::NEVER {
            let (life, ticket) = (machine.life, machine.ticket);
            let after = machine.clock.moment(deadline).saturating_sub(now) + late;
            self.push(after, Ev::Tick { node, life, ticket });
        }
        self.end_cleanly(node);
    }

    /// Until the machine crashes in between, or its disk doesn't take a vote.
    pub fn perform_all(&mut self, node: usize, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let machine = &mut self.machines[node];
            if let Some(left) = machine.crash_after {
                if left == 0 {
                    self.crash(node, true);
                    return;
                }
                machine.crash_after = Some(left - 1);
            }
            let machine = &mut self.machines[node];
            if let Effect::Persist(hard) = &effect
                && machine.waits.holds_votes()
                && machine.hard.as_ref() != Some(hard)
            {
                effects.push_front(effect);
                machine.waits.effects = Some(effects);
                return;
            }
            self.perform(node, effect);
        }
    }

    fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist(hard) => {
                self.check_persist(node, &hard);
                self.machines[node].hard = Some(hard);
                self.note_record(node);
            }
            Effect::Send { to, message } => {
                self.check_send(node, &to, &message);
                let to = self.ids[&to];
                if self.setup.trace && !trace::is_routine(&message) {
                    self.say(|c| format!("{} -> {}: {}", c.name(node), c.name(to), trace::message(&message)));
                }
                self.send(node, to, message);
            }
            Effect::Apply(transaction) => {
                self.check_apply(node, transaction.previous);
                self.machines[node].expected = transaction.stamp;
                self.command(node, Command::Apply(transaction));
            }
            Effect::StartReign { term, .. } => {
                self.machines[node].acknowledged = Position::ZERO;
                self.command(node, Command::StartReign(term));
            }
            Effect::EndReign => {
                self.forget_waiting(node);
                self.command(node, Command::EndReign);
            }
            Effect::StartCopy { from } => self.command(node, Command::Copy(from)),
            Effect::Distrust { .. } => {
                let (life, stamp) = (self.machines[node].life, self.stamp(node));
                let event = Event::ApplyFailed(Stamp::off_branch(stamp.position));
                self.push(MS, Ev::Node { to: node, life, event });
            }
            Effect::StopCopy => self.machines[node].store.stop_copy = true,
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
            Effect::CloseGate { .. } => {
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
                    self.check.fail(format!("I1: {}: {} {}", self.name(node), note.what, note.why));
                }
                let peer = note.peer.map(|peer| format!(" {peer}")).unwrap_or_default();
                self.say(|c| format!("{}: {}{peer}: {}", c.name(node), note.what, note.why));
            }
        }
    }
}
