//! Random schedules: which cluster a seed stands for, and what must hold when its faults are over.

use std::time::Duration;

use tanist_replication::Timing;

use super::{
    Cluster, Ev, MS, Rng, SECOND, Setup,
    client::Clients,
    faults::{self, Planned},
    network::Weather,
    store::Mistake,
};

/// After the last fault a master serves, and has acknowledged a write, within so many heartbeats, whatever happened
/// before. A lease is ten of them, and so is `sync_timeout`: a restarted voter waits a lease (R11), a candidate that isn't
/// eligible another (R4), the winner a `sync_timeout` for a member that doesn't store (R9) and as long for one that is
/// catching up; the rest is for elections that have to be repeated.
pub const SERVES_WITHIN: u32 = 50;
/// And all replicas are alike so many heartbeats after the last write.
pub const ALIKE_WITHIN: u32 = 100;

/// A schedule: all of it follows from the seed, unless faults are left out.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub seed: u64,
    pub setup: Setup,
    pub length: u64,
    pub clients: usize,
    pub every: u64,
    pub loss_per_mille: u64,
    pub plan: Vec<Planned>,
}

pub const SHAPES: [&[(&str, u32)]; 10] = [
    &[("a", 1), ("b", 2), ("c", 3)],
    &[("a", 1), ("b", 2), ("c", 3)],
    &[("a", 1), ("b", 2), ("w", 0)],
    &[("a", 1), ("b", 2), ("w", 0)],
    &[("a", 1), ("b", 2), ("c", 3), ("w", 0)],
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)],
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)],
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("w", 0)],
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 7), ("h", 8), ("i", 9)],
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 7), ("v", 0), ("w", 0)],
];

impl Schedule {
    pub fn of(seed: u64, mistake: Option<Mistake>) -> Schedule {
        let mut rng = Rng::new(seed ^ 0x005E_ED0F);
        let mut setup = Setup::new(SHAPES[rng.below(SHAPES.len() as u64) as usize]);
        setup.seed = seed;
        setup.sync_backups = if rng.chance(350) { 2 } else { 1 };
        setup.min_sync_backups = usize::from(rng.chance(300));
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
        let mut leases = Rng::new(seed ^ 0x001E_A5E5);
        if leases.chance(400) {
            setup.leases = setup.members.iter().map(|_| faults::some_lease(&mut leases)).collect();
        }
        setup.tells_of_end = Rng::new(seed ^ 0x00E4_DED0).chance(400);
        setup.mistake = mistake;
        setup.trace = false;
        let length = rng.between(SECOND, 6 * SECOND);
        Schedule {
            seed,
            length,
            clients: rng.between(1, 4) as usize,
            every: rng.between(10 * MS, 120 * MS),
            loss_per_mille: if rng.chance(300) { 0 } else { rng.below(150) },
            plan: [
                faults::plan(&setup, length, &mut rng),
                faults::limping(seed, setup.members.len(), length),
            ]
            .concat(),
            setup,
        }
    }

    /// Runs to its end; the cluster with what was found.
    pub fn run(&self, trace: bool) -> Cluster {
        let mut c = Cluster::new(Setup { trace, ..self.setup.clone() });
        c.rough = true;
        c.plan.clone_from(&self.plan);
        for (number, planned) in self.plan.iter().enumerate() {
            c.push(planned.at, Ev::Fault(number));
        }
        c.clients = Clients { every: self.every, loss_per_mille: self.loss_per_mille };
        for client in 0..self.clients {
            let first = c.rng.below(500 * MS);
            c.push(first, Ev::Think { client });
        }
        c.run(Duration::from_nanos(self.length));
        if c.check.failure.is_some() {
            return c;
        }
        c.calm();
        c.must_serve();
        c.must_be_alike();
        if c.check.failure.is_none()
            && let Err(why) = c.history.check(&c.check.branch)
        {
            c.check.fail(why);
        }
        c
    }
}

impl Cluster {
    /// Ends all faults.
    fn calm(&mut self) {
        self.say(|_| "-- the faults are over".to_owned());
        self.plan.clear();
        self.clients.loss_per_mille = 0;
        self.network.weather = Weather::fair();
        self.heal();
        self.repair();
        for node in 0..self.machines.len() {
            self.machines[node].crash_after = None;
            if self.machines[node].paused {
                let life = self.machines[node].life;
                self.push(0, Ev::Resume { node, life });
            }
            self.push(0, Ev::Restart { node });
        }
    }

    fn must_serve(&mut self) {
        let heartbeat = self.setup.timing.heartbeat;
        let acknowledged = self.check.acknowledged.len();
        // A machine with the longest lease may have to be waited for.
        let ratio = self.longest_lease.as_secs_f64() / self.setup.timing.lease.as_secs_f64();
        let within = (f64::from(SERVES_WITHIN) * ratio.max(1.0)) as u32;
        for passed in 0..within {
            if self.check.failure.is_some() {
                return;
            }
            if self.serving().is_some() && self.check.acknowledged.len() > acknowledged {
                self.served_after = Some(passed);
                return;
            }
            self.write();
            self.run(heartbeat);
        }
        self.check.fail(format!("liveness: nobody serves {within} heartbeats after the last fault"));
    }

    fn must_be_alike(&mut self) {
        if self.check.failure.is_some() {
            return;
        }
        self.clients.every = 0;
        let within = self.setup.timing.heartbeat * ALIKE_WITHIN;
        let alike = self.run_until(within, |c| c.serving().is_some() && c.converged());
        if alike.is_none() && self.check.failure.is_none() {
            let why = format!("liveness: replicas differ {ALIKE_WITHIN} heartbeats after the last write");
            self.check.fail(why);
        }
    }
}
