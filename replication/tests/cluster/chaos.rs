//! Random schedules: which faults come when, and what must hold when they are over.
//!
//! Owns the faults. Never breaks what the protocol builds on: disks keep what they synced, a bulk link reports its
//! loss, a refused connection means that the process has ended.

use std::time::Duration;

use tanist_replication::{Event, Member, MemberChange, Rank, Timing};

use super::{Cluster, Ev, MS, SECOND, Setup, network::Weather, store::Mistake};

/// After the last fault a master serves within this time, and all replicas are alike.
pub const RECOVERY: Duration = Duration::from_secs(10);

pub struct Chaos {
    until: u64,
    /// Mean time between two faults.
    every: u64,
}

/// The cluster that a seed stands for.
pub fn setup_of(seed: u64, mistake: Option<Mistake>, trace: bool) -> Setup {
    let shapes: [&[(&str, u32)]; 5] = [
        &[("a", 1), ("b", 2), ("c", 3)],
        &[("a", 1), ("b", 2), ("w", 0)],
        &[("a", 1), ("b", 2), ("c", 3), ("w", 0)],
        &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)],
        &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("w", 0)],
    ];
    let mut rng = super::Rng::new(seed ^ 0x005E_ED0F);
    let mut setup = Setup::new(shapes[(seed % 5) as usize]);
    setup.seed = seed;
    setup.sync_backups = if rng.chance(300) { 2 } else { 1 };
    setup.min_sync_backups = usize::from(rng.chance(250));
    setup.buffer_bytes = if rng.chance(400) { 640 } else { 1 << 16 };
    // Not both a slow disk and a small window: it would only take long.
    (setup.disk_ns, setup.inflight_bytes) = match rng.below(10) {
        0..=2 => ((MS / 5, 3 * MS), 100),
        3..=6 => ((MS / 5, 3 * MS), 4096),
        _ => ((MS, 60 * MS), 4096),
    };
    setup.drift_ppm = if rng.chance(600) { 20_000 } else { 0 };
    setup.timing = Timing { trust_refused: rng.chance(700), ..Timing::default() };
    setup.failback = rng.chance(200).then_some(Duration::from_millis(700));
    setup.voter_timeout = rng.chance(500).then_some(Duration::from_millis(1500));
    setup.mistake = mistake;
    setup.trace = trace;
    setup
}

fn rough(seed: u64) -> Weather {
    let mut rng = super::Rng::new(seed);
    Weather {
        delay_ns: (MS / 10, rng.between(MS, 20 * MS)),
        lag_ns: rng.between(10 * MS, 900 * MS),
        lag_per_mille: rng.below(40),
        loss_per_mille: rng.below(60),
        double_per_mille: rng.below(60),
        ordered: rng.chance(500),
    }
}

/// Runs a seed's schedule to its end; the cluster with what was found.
pub fn run(seed: u64, mistake: Option<Mistake>, trace: bool) -> Cluster {
    let mut c = Cluster::new(setup_of(seed, mistake, trace));
    let length = c.rng.between(2 * SECOND, 10 * SECOND);
    let every = c.rng.between(60 * MS, 1500 * MS);
    c.network.weather = rough(seed);
    c.client_every = c.rng.between(4 * MS, 60 * MS);
    c.chaos = Some(Chaos { until: c.now + length, every });
    c.push(c.setup.seed % 4 * 300 * MS, Ev::Fault);
    c.run(Duration::from_nanos(length));
    if c.check.failure.is_some() {
        return c;
    }
    c.calm();
    let acknowledged = c.check.acknowledged.len();
    let back = c.run_until(RECOVERY, |c| c.serving().is_some() && c.check.acknowledged.len() > acknowledged);
    if back.is_none() && c.check.failure.is_none() {
        c.check.fail(format!("liveness: no write acknowledged {RECOVERY:?} after the last fault"));
    }
    c.client_every = 0;
    let alike = c.run_until(RECOVERY, |c| c.serving().is_some() && c.converged());
    if alike.is_none() && c.check.failure.is_none() {
        c.check.fail(format!("liveness: replicas differ {RECOVERY:?} after the last write"));
    }
    c
}

impl Cluster {
    /// Ends all faults.
    fn calm(&mut self) {
        self.say(|_| "-- the faults are over".to_owned());
        self.chaos = None;
        self.network.weather = Weather::fair();
        self.heal();
        for node in 0..self.machines.len() {
            let disk = self.setup.disk_ns;
            let machine = &mut self.machines[node];
            machine.disk_ns = disk;
            machine.crash_after = None;
            self.disk_full(node, false);
            if self.machines[node].paused {
                let life = self.machines[node].life;
                self.push(0, Ev::Resume { node, life });
            }
            self.push(0, Ev::Restart { node });
        }
    }

    /// Removes the machine, brings it back as it is, moves it, or makes it a witness for a while.
    fn change_members(&mut self, node: usize) {
        let Some(master) = self.serving() else { return };
        let record = self.record();
        let (name, rank) = self.setup.members[node];
        let id = self.machines[node].id.clone();
        let member = |rank: u32, address: u64| Member {
            id: name.parse().unwrap(),
            rank: Rank(rank),
            peer_addresses: vec![address.to_string()],
            urls: vec![],
            absent: false,
        };
        let address = self.rng.below(9);
        let change = match (record.member(&id), self.rng.below(3)) {
            (None, _) => MemberChange::Add(member(rank, address)),
            // Two data members stay, so that every write has two homes as it did.
            (Some(_), 0) if record.members.iter().filter(|m| !m.rank.is_witness()).count() > 2 => {
                MemberChange::Remove(id)
            }
            (Some(_), 1) if record.members.iter().filter(|m| !m.rank.is_witness()).count() > 2 => {
                MemberChange::Update(member(0, address))
            }
            _ => MemberChange::Update(member(rank, address)),
        };
        self.say(|c| format!("{}: is to do {change:?}", c.name(master)));
        self.deliver(master, Event::ChangeMembers(change));
    }

    pub fn disk_full(&mut self, node: usize, full: bool) {
        let store = &mut self.machines[node].store;
        store.full = full;
        if !full && store.reign.is_some() && store.durable < store.content.len() {
            self.sync(node);
        }
    }

    pub fn fault(&mut self) {
        let Some(chaos) = &self.chaos else { return };
        if self.now >= chaos.until {
            return;
        }
        let every = chaos.every;
        let after = self.rng.between(every / 10, every * 2);
        self.push(after, Ev::Fault);
        let machines = self.machines.len() as u64;
        // The master is where it hurts most.
        let master = self.serving().filter(|_| self.rng.chance(400));
        let node = master.unwrap_or(self.rng.below(machines) as usize);
        let other = self.rng.below(machines) as usize;
        let away = if self.rng.chance(500) {
            self.rng.between(MS, 200 * MS)
        } else {
            self.rng.between(MS, 3 * SECOND)
        };
        match self.rng.below(31) {
            0..=3 => {
                let power = self.rng.chance(400);
                self.crash(node, power);
                self.push(away, Ev::Restart { node });
            }
            4..=6 => {
                self.machines[node].crash_after = Some(self.rng.below(6));
                self.push(away + 300 * MS, Ev::Restart { node });
            }
            7 => {
                self.stop(node);
                self.push(away, Ev::Restart { node });
            }
            8..=9 => self.pause(node, away),
            10..=12 => self.cut(node, other),
            13..=14 => self.cut_way(node, other),
            15 => self.isolate(node),
            16..=19 => self.heal(),
            20 => {
                let seed = self.rng.next();
                self.network.weather = rough(seed);
            }
            21 => {
                let slow = self.rng.between(5 * MS, 1500 * MS);
                self.machines[node].disk_ns = (slow / 4, slow);
            }
            22 => {
                let full = self.rng.chance(400);
                self.disk_full(node, full);
            }
            23 => self.break_capture(node),
            28..=30 => self.change_members(other),
            26..=27 => {
                let to = self.rng.chance(500).then(|| self.machines[other].id.clone());
                self.deliver(node, Event::HandOver { to, why: "asked to".to_owned() });
            }
            24 if self.rng.chance(400) => {
                for node in 0..self.machines.len() {
                    self.crash(node, true);
                    let away = self.rng.between(MS, SECOND);
                    self.push(away, Ev::Restart { node });
                }
            }
            _ => {
                for node in 0..self.machines.len() {
                    self.machines[node].disk_ns = self.setup.disk_ns;
                    self.disk_full(node, false);
                }
            }
        }
    }
}
