//! What goes wrong in a random schedule, as a plan that is made before it runs, so that faults can be left out one by one.
//!
//! Owns the kinds of faults and how each is done. Never breaks what the protocol builds on: disks keep what they
//! synced, clocks keep within the drift margin, a bulk link reports its loss, and where an operator vouches for it
//! (`trust_refused`) a refused connection means that the process has ended.

use std::time::Duration;

use tanist_replication::{Complaint, Event, Member, MemberChange, Rank};

use super::{At, Cluster, Ev, MS, Rng, SECOND, Setup, hang::Hang, network::Weather, store::End};

/// A fault and its time, counted from the beginning of the schedule.
#[derive(Debug, Clone)]
pub struct Planned {
    pub at: At,
    pub fault: Fault,
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    Node(usize),
    /// Whoever serves then, or else this one.
    Master(usize),
}

#[derive(Debug, Clone)]
pub enum Fault {
    Crash {
        who: Who,
        end: End,
        away: u64,
    },
    /// In the middle of what an event makes it do.
    CrashWithin {
        who: Who,
        effects: u64,
        away: u64,
    },
    Stop {
        who: Who,
        away: u64,
    },
    Pause {
        who: Who,
        ns: u64,
    },
    Cut {
        who: Who,
        other: usize,
    },
    CutWay {
        who: Who,
        other: usize,
        to_it: bool,
    },
    Isolate {
        who: Who,
    },
    /// A bit for each machine: those with a one don't hear those with a zero, nor the other way round.
    Split {
        side: u64,
    },
    Flap {
        who: Who,
        other: usize,
        every: u64,
        times: u32,
    },
    Heal,
    Weather(Weather),
    SlowLink {
        who: Who,
        other: usize,
        ns: u64,
    },
    SlowDisk {
        who: Who,
        ns: u64,
    },
    DiskFull {
        who: Who,
    },
    /// So many commands of the store fail.
    DiskErrors {
        who: Who,
        count: u32,
    },
    /// A sync fails: the process ends.
    SyncFails {
        who: Who,
        away: u64,
    },
    /// A disk doesn't answer for a while.
    DiskHangs {
        who: Who,
        what: Hang,
        ns: u64,
    },
    ClockRate {
        who: Who,
        ppm: i64,
    },
    CaptureBreaks {
        who: Who,
    },
    HandOver {
        who: Who,
        to: Option<usize>,
    },
    ChangeMembers {
        node: usize,
        kind: u64,
        address: u64,
    },
    /// A bit for each machine that loses power, `away` until the last has it again; the master of the time may be
    /// elsewhere, and the links from there to the site stay down.
    SiteOut {
        site: u64,
        elsewhere: bool,
        cut: bool,
        away: u64,
    },
    Health {
        who: Who,
        healthy: bool,
    },
    /// A firewall or a port forwarder refuses connections to a machine that lives, and resets what is open, as seen by those of
    /// the others that have a one.
    Refuse {
        who: Who,
        seen_by: u64,
    },
    /// The machine starts again with another lease.
    Lease {
        who: Who,
        lease: Duration,
        end: Option<End>,
        away: u64,
    },
    /// Its links pass nothing in bulk, or little, and control messages late.
    Limp {
        who: Who,
        starves: bool,
        late_per_mille: u64,
    },
    /// Its program doesn't know the level of the cluster: it can begin no term until the repair.
    OldProgram {
        who: Who,
    },
    /// Disks, links and programs are as they were.
    Repair,
}

pub fn rough_weather(rng: &mut Rng) -> Weather {
    Weather {
        delay_ns: (MS / 10, rng.between(MS, 20 * MS)),
        lag_ns: rng.between(10 * MS, 900 * MS),
        lag_per_mille: rng.below(40),
        loss_per_mille: rng.below(60),
        double_per_mille: rng.below(60),
        ordered: rng.chance(500),
    }
}

/// Now and then, a machine whose links are bad for a while. From a generator of its own, so that all else stays as it is.
pub fn limping(seed: u64, machines: usize, length: u64) -> Vec<Planned> {
    let mut rng = Rng::new(seed ^ 0x0011_4B00);
    if !rng.chance(200) {
        return vec![];
    }
    let node = rng.below(machines as u64) as usize;
    let who = if rng.chance(700) { Who::Master(node) } else { Who::Node(node) };
    let at = rng.between(0, length);
    let late_per_mille = if rng.chance(500) { rng.below(300) } else { 0 };
    let limp = Fault::Limp { who, starves: rng.chance(700), late_per_mille };
    let mut plan = vec![Planned { at, fault: limp }];
    if rng.chance(300) {
        let who = Who::Node(rng.below(machines as u64) as usize);
        let fault = Fault::Limp { who, starves: true, late_per_mille: 0 };
        plan.push(Planned { at: rng.between(at, length), fault });
    }
    if rng.chance(500) {
        plan.push(Planned { at: rng.between(at, length), fault: Fault::Repair });
    }
    plan
}

/// The faults of a schedule of this length, from a generator of their own.
pub fn plan(setup: &Setup, length: u64, rng: &mut Rng) -> Vec<Planned> {
    let every = rng.between(60 * MS, 1200 * MS);
    let mut plan = vec![];
    if rng.chance(800) {
        plan.push(Planned { at: 0, fault: Fault::Weather(rough_weather(rng)) });
    }
    let mut at = rng.between(0, SECOND);
    while at < length {
        plan.push(Planned { at, fault: fault(setup, rng) });
        at += rng.between(every / 10, every * 2);
    }
    hangs(setup, length, &mut plan);
    plan
}

/// A lease that somebody may have written into a file.
pub fn some_lease(rng: &mut Rng) -> Duration {
    Duration::from_millis([300, 1000, 1000, 1000, 3000][rng.below(5) as usize])
}

/// Disks that don't answer, from a generator of their own, so that the other faults are what they were.
fn hangs(setup: &Setup, length: u64, plan: &mut Vec<Planned>) {
    let mut rng = Rng::new(setup.seed ^ 0x00D1_5C5E);
    if !rng.chance(300) {
        return;
    }
    for _ in 0..=rng.below(3) {
        let node = rng.below(setup.members.len() as u64) as usize;
        let who = if rng.chance(600) { Who::Master(node) } else { Who::Node(node) };
        let what = Hang::ALL[rng.below(Hang::ALL.len() as u64) as usize];
        let ns = if rng.chance(300) { 60 * SECOND } else { rng.between(MS, 2 * SECOND) };
        plan.push(Planned { at: rng.below(length), fault: Fault::DiskHangs { who, what, ns } });
    }
}

fn fault(setup: &Setup, rng: &mut Rng) -> Fault {
    let machines = setup.members.len() as u64;
    let node = rng.below(machines) as usize;
    // The master is where it hurts most.
    let who = if rng.chance(400) { Who::Master(node) } else { Who::Node(node) };
    let other = rng.below(machines) as usize;
    let away = if rng.chance(500) { rng.between(MS, 200 * MS) } else { rng.between(MS, 3 * SECOND) };
    let end = if rng.chance(500) { End::PowerCut } else { End::Killed };
    match rng.below(49) {
        0..=4 => Fault::Crash { who, end, away },
        5..=7 => Fault::CrashWithin { who, effects: rng.below(6), away: away + 300 * MS },
        8 => Fault::Stop { who, away },
        // Often for so long that another reigns when it goes on.
        9..=11 => {
            Fault::Pause { who, ns: if rng.chance(500) { rng.between(1100 * MS, 2500 * MS) } else { away } }
        }
        12..=13 => Fault::Cut { who, other },
        14..=16 => Fault::CutWay { who, other, to_it: rng.chance(500) },
        17 => Fault::Isolate { who },
        18 => Fault::Split { side: rng.below(1 << machines) },
        19 => Fault::Flap {
            who,
            other,
            every: rng.between(10 * MS, 400 * MS),
            times: rng.between(2, 10) as u32,
        },
        20..=24 => Fault::Heal,
        25 => Fault::Weather(rough_weather(rng)),
        26 => Fault::SlowLink { who, other, ns: rng.between(5 * MS, 600 * MS) },
        27..=28 => Fault::SlowDisk { who, ns: rng.between(5 * MS, 1500 * MS) },
        29 => Fault::DiskFull { who },
        30 => Fault::DiskErrors { who, count: rng.between(1, 4) as u32 },
        31 => Fault::SyncFails { who, away },
        32 if setup.drift_ppm != 0 => {
            let limit = setup.drift_ppm as u64;
            Fault::ClockRate { who, ppm: rng.below(2 * limit + 1) as i64 - limit as i64 }
        }
        33 => Fault::CaptureBreaks { who },
        34..=36 => Fault::HandOver { who, to: rng.chance(500).then_some(other) },
        37..=39 => Fault::ChangeMembers { node, kind: rng.below(3), address: rng.below(9) },
        40..=41 => {
            let site = if rng.chance(600) { u64::MAX } else { rng.below(1 << machines) };
            Fault::SiteOut { site, elsewhere: rng.chance(500), cut: rng.chance(500), away: away.min(SECOND) }
        }
        42 => Fault::Health { who, healthy: rng.chance(400) },
        45..=46 => {
            Fault::Refuse { who, seen_by: if rng.chance(500) { u64::MAX } else { rng.below(1 << machines) } }
        }
        47..=48 if !setup.leases.is_empty() => {
            Fault::Lease { who, lease: some_lease(rng), end: rng.chance(800).then_some(end), away }
        }
        43 => Fault::OldProgram { who },
        _ => Fault::Repair,
    }
}

impl Cluster {
    fn who(&self, who: Who) -> usize {
        match who {
            Who::Node(node) => self.node(node),
            Who::Master(node) => self.serving().unwrap_or(self.node(node)),
        }
    }

    /// A plan may be tried on fewer machines than it was made for.
    fn node(&self, node: usize) -> usize {
        node % self.machines.len()
    }

    /// The fault of this number in the plan happens.
    pub fn fault(&mut self, number: usize) {
        let Some(planned) = self.plan.get(number) else { return };
        let fault = planned.fault.clone();
        self.say(|_| format!("-- fault: {fault:?}"));
        match fault {
            Fault::Crash { who, end, away } => {
                let node = self.who(who);
                self.crash_with(node, end);
                self.push(away, Ev::Restart { node });
            }
            Fault::CrashWithin { who, effects, away } => {
                let node = self.who(who);
                self.machines[node].crash_after = Some(effects);
                self.push(away, Ev::Restart { node });
            }
            Fault::Stop { who, away } => {
                let node = self.who(who);
                self.stop(node);
                self.push(away, Ev::Restart { node });
            }
            Fault::Pause { who, ns } => self.pause(self.who(who), ns),
            Fault::Cut { who, other } => self.cut(self.who(who), self.node(other)),
            Fault::CutWay { who, other, to_it } => {
                let (node, other) = (self.who(who), self.node(other));
                if to_it { self.cut_way(other, node) } else { self.cut_way(node, other) }
            }
            Fault::Isolate { who } => self.isolate(self.who(who)),
            Fault::Split { side } => self.split(side),
            Fault::Flap { who, other, every, times } => {
                let (node, other) = (self.who(who), self.node(other));
                self.flap(node, other, times, every);
            }
            Fault::Heal => self.heal(),
            Fault::Weather(weather) => self.network.weather = weather,
            Fault::SlowLink { who, other, ns } => {
                let (node, other) = (self.who(who), self.node(other));
                self.network.ways[node][other].slow_ns = ns;
            }
            Fault::SlowDisk { who, ns } => {
                let node = self.who(who);
                self.machines[node].disk_ns = (ns / 4, ns);
            }
            Fault::DiskFull { who } => self.disk_full(self.who(who), true),
            Fault::DiskErrors { who, count } => {
                let node = self.who(who);
                self.machines[node].store.errors = count;
            }
            Fault::SyncFails { who, away } => {
                let node = self.who(who);
                self.disk_error(node);
                self.push(away, Ev::Restart { node });
            }
            Fault::DiskHangs { who, what, ns } => {
                let node = self.who(who);
                self.hang(node, what);
                self.push(ns, Ev::Release { node });
            }
            Fault::ClockRate { who, ppm } => {
                let (node, now) = (self.who(who), self.now);
                self.machines[node].clock.set_rate(now, ppm);
            }
            Fault::CaptureBreaks { who } => self.break_capture(self.who(who)),
            Fault::HandOver { who, to } => {
                let node = self.who(who);
                let to = to.map(|to| self.machines[self.node(to)].id.clone());
                self.deliver(node, Event::HandOver { to, why: "asked to".to_owned() });
            }
            Fault::ChangeMembers { node, kind, address } => {
                self.change_members(self.node(node), kind, address)
            }
            Fault::SiteOut { site, elsewhere, cut, away } => {
                let master = self.serving().filter(|_| elsewhere);
                let site = site & !master.map_or(0, |master| 1 << master);
                if cut {
                    self.split(site);
                }
                for node in 0..self.machines.len() {
                    if site >> node & 1 == 1 {
                        self.crash_with(node, End::PowerCut);
                        let away = self.rng.between(MS, away.max(2 * MS));
                        self.push(away, Ev::Restart { node });
                    }
                }
            }
            Fault::Health { who, healthy } => {
                let unhealthy = (!healthy).then(|| Complaint::new("a fault"));
                self.deliver(self.who(who), Event::Health(unhealthy));
            }
            Fault::Refuse { who, seen_by } => self.refuse_for_the_living(self.who(who), seen_by),
            Fault::Lease { who, lease, end, away } => {
                let node = self.who(who);
                self.set_lease(node, lease);
                match end {
                    Some(end) => self.crash_with(node, end),
                    None => self.stop(node),
                }
                self.push(away, Ev::Restart { node });
            }
            Fault::Limp { who, starves, late_per_mille } => {
                self.limp(self.who(who), starves, late_per_mille);
            }
            Fault::OldProgram { who } => {
                let node = self.who(who);
                self.deliver(node, Event::Barred(true));
                self.deliver(node, Event::Health(Some(Complaint::new("its program is too old"))));
            }
            Fault::Repair => self.repair(),
        }
    }

    /// Where an operator has vouched that it doesn't happen, it doesn't.
    pub fn refuse_for_the_living(&mut self, node: usize, seen_by: u64) {
        if self.setup.timing.trust_refused || !self.machines[node].running() {
            return;
        }
        let id = self.machines[node].id.clone();
        for peer in (0..self.machines.len()).filter(|peer| *peer != node && seen_by >> peer & 1 == 1) {
            if !self.machines[peer].running() {
                continue;
            }
            self.break_bulk(peer, node);
            let life = self.machines[peer].life;
            let notice = self.rng.between(MS, 10 * MS);
            self.push(notice, Ev::Node { to: peer, life, event: Event::LinkDown(id.clone()) });
            self.push(notice + 2 * MS, Ev::Node { to: peer, life, event: Event::Refused(id.clone()) });
            self.push(notice + 50 * MS, Ev::Node { to: peer, life, event: Event::LinkUp(id.clone()) });
        }
    }

    fn split(&mut self, side: u64) {
        for a in 0..self.machines.len() {
            for b in 0..a {
                if (side >> a & 1) != (side >> b & 1) {
                    self.cut(a, b);
                }
            }
        }
    }

    /// Disks take everything again at their usual pace, and links are as fast as ever.
    pub fn repair(&mut self) {
        for node in 0..self.machines.len() {
            self.machines[node].disk_ns = self.setup.disk_ns;
            self.machines[node].store.errors = 0;
            self.release(node);
            self.disk_full(node, false);
            self.deliver(node, Event::Barred(false));
            for way in &mut self.network.ways[node] {
                way.slow_ns = 0;
            }
            if self.network.ways[node].iter().any(|way| way.starves || way.late_per_mille > 0) {
                self.limp(node, false, 0);
            }
        }
    }

    pub fn disk_full(&mut self, node: usize, full: bool) {
        let store = &mut self.machines[node].store;
        store.full = full;
        if !full && store.reign.is_some() && store.durable < store.content.len() {
            self.sync(node);
        }
    }

    /// Removes the machine, brings it back as it is, moves it, or makes it a witness for a while.
    fn change_members(&mut self, node: usize, kind: u64, address: u64) {
        let Some(master) = self.serving() else { return };
        let record = self.record();
        let (name, rank) = self.setup.members[node];
        let id = self.machines[node].id.clone();
        let member = |rank: u32| Member {
            id: name.parse().unwrap(),
            rank: Rank(rank),
            peer_addresses: vec![address.to_string()],
            urls: vec![],
            absent: false,
        };
        // Two data members stay, so that every write has two homes as it did.
        let spare = record.members.iter().filter(|m| !m.rank.is_witness()).count() > 2;
        let change = match (record.member(&id), kind) {
            (None, _) => MemberChange::Add(member(rank)),
            (Some(_), 0) if spare => MemberChange::Remove(id),
            (Some(_), 1) if spare => MemberChange::Update(member(0)),
            _ => MemberChange::Update(member(rank)),
        };
        self.deliver(master, Event::ChangeMembers(change));
    }
}
