//! A whole cluster in memory: real `Node`s on virtual time, joined by a seeded network and model stores.
//!
//! Owns what each machine is; everything that happens follows from the seed. Never judges by itself: `check.rs` holds
//! the invariants, `history.rs` what clients were told. Read `machine.rs` next for how effects are performed, `disk.rs`, `hang.rs`,
//! `store.rs`, `clock.rs` and `network.rs` for the world around a node, `client.rs` for its users, `faults.rs` and
//! `chaos.rs` for random schedules.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

pub mod chaos;
pub mod check;
pub mod client;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod hang;
pub mod history;
pub mod life;
pub mod machine;
pub mod network;
pub mod promise;
pub mod queue;
pub mod rng;
pub mod shrink;
pub mod store;
pub mod trace;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tanist_replication::{Config, Member, MemberId, Rank, Stamp, SuccessionRecord, Timing};

use check::Checker;
use client::Clients;
use history::History;
use machine::Machine;
use network::Network;
pub use queue::Ev;
use queue::Queue;
pub use rng::Rng;
use store::Mistake;

/// Virtual nanoseconds, the same for all.
pub type At = u64;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    /// Name and rank; rank 0 is a witness.
    pub members: Vec<(&'static str, u32)>,
    pub timing: Timing,
    pub sync_backups: usize,
    pub min_sync_backups: usize,
    pub buffer_bytes: usize,
    pub inflight_bytes: usize,
    pub disk_ns: (u64, u64),
    /// Clock rates differ by up to so many parts per million, and clocks by an offset.
    pub drift_ppm: i64,
    pub failback: Option<Duration>,
    pub voter_timeout: Option<Duration>,
    /// For how long each machine honours a lease; `timing` says it where there is none.
    pub leases: Vec<Duration>,
    /// Computers tell the others when a process has ended.
    pub tells_of_end: bool,
    pub mistake: Option<Mistake>,
    pub trace: bool,
}

impl Setup {
    pub fn new(members: &[(&'static str, u32)]) -> Setup {
        Setup {
            seed: 1,
            members: members.to_vec(),
            // In scripts, nothing refuses for a process that lives.
            timing: Timing { trust_refused: true, ..Timing::default() },
            leases: vec![],
            sync_backups: 1,
            min_sync_backups: 0,
            buffer_bytes: 1 << 16,
            inflight_bytes: 4096,
            disk_ns: (MS, MS),
            drift_ppm: 0,
            failback: None,
            voter_timeout: None,
            tells_of_end: false,
            mistake: None,
            trace: std::env::var_os("TANIST_TRACE").is_some(),
        }
    }
}

/// The cluster and its world.
pub struct Cluster {
    pub setup: Setup,
    pub now: At,
    pub rng: Rng,
    pub machines: Vec<Machine>,
    pub ids: BTreeMap<MemberId, usize>,
    pub network: Network,
    pub check: Checker,
    pub trace: Vec<String>,
    pub clients: Clients,
    pub history: History,
    /// Faults to come, and whether timers may be late.
    pub plan: Vec<faults::Planned>,
    pub rough: bool,
    /// So many heartbeats after the last fault somebody served.
    pub served_after: Option<u32>,
    /// The longest lease that any machine was ever told of.
    pub longest_lease: Duration,
    queue: Queue,
    pub events: u64,
}

impl Cluster {
    /// All machines started for the first time, at the same moment.
    pub fn new(setup: Setup) -> Cluster {
        let mut cluster = Cluster::stopped(setup);
        for node in 0..cluster.machines.len() {
            cluster.start(node);
        }
        cluster
    }

    /// All machines installed, none started.
    pub fn stopped(setup: Setup) -> Cluster {
        let members: Vec<Member> = setup
            .members
            .iter()
            .map(|(id, rank)| Member {
                id: id.parse().unwrap(),
                rank: Rank(*rank),
                peer_addresses: vec![],
                urls: vec![],
                absent: false,
            })
            .collect();
        let mut rng = Rng::new(setup.seed);
        let machines = members
            .iter()
            .enumerate()
            .map(|(node, member)| {
                let config = Config {
                    id: member.id.clone(),
                    members: members.clone(),
                    timing: setup.timing.clone(),
                    sync_backups: setup.sync_backups,
                    min_sync_backups: setup.min_sync_backups,
                    buffer_bytes: setup.buffer_bytes,
                    inflight_bytes: setup.inflight_bytes,
                    failback: setup.failback,
                    voter_timeout: setup.voter_timeout,
                    seed: 1,
                };
                let lease = setup.leases.get(node).copied();
                Machine::new(config_with_lease(config, lease), member.rank.is_witness(), &mut rng, &setup)
            })
            .collect();
        let ids = members.iter().enumerate().map(|(i, member)| (member.id.clone(), i)).collect();
        let network = Network::new(members.len());
        let check = Checker::new();
        let longest_lease = setup.leases.iter().copied().max().unwrap_or(setup.timing.lease);
        let mut cluster = Cluster {
            setup,
            now: SECOND,
            rng,
            machines,
            ids,
            network,
            check,
            trace: vec![],
            clients: Clients::default(),
            history: History::default(),
            plan: vec![],
            rough: false,
            served_after: None,
            longest_lease,
            queue: Queue::default(),
            events: 0,
        };
        cluster.push(0, Ev::Look);
        cluster
    }

    pub fn id(&self, name: &str) -> usize {
        self.ids[&name.parse::<MemberId>().unwrap()]
    }

    pub fn name(&self, node: usize) -> &str {
        self.setup.members[node].0
    }

    pub fn push(&mut self, after: u64, ev: Ev) {
        self.queue.push(self.now + after, ev);
    }

    pub fn say(&mut self, what: impl FnOnce(&Cluster) -> String) {
        if self.setup.trace {
            let line = format!("{:>9.3} ms  {}", (self.now - SECOND) as f64 / MS as f64, what(self));
            self.trace.push(line);
        }
    }

    /// Takes the next event; `false` when there is none before `until`.
    fn step(&mut self, until: At) -> bool {
        let Some((at, ev)) = self.queue.pop(until) else { return false };
        self.now = self.now.max(at);
        self.events += 1;
        self.happen(ev);
        true
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time.as_nanos() as u64;
        while self.check.failure.is_none() && self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Lets time pass until the condition holds; how long it took, or `None` when it didn't within `limit`.
    pub fn run_until(&mut self, limit: Duration, condition: impl Fn(&Cluster) -> bool) -> Option<Duration> {
        let start = self.now;
        let until = self.now + limit.as_nanos() as u64;
        while !condition(self) {
            if self.check.failure.is_some() || !self.step(until) {
                self.now = self.now.max(until);
                return None;
            }
        }
        Some(Duration::from_nanos(self.now - start))
    }

    /// The machine's configuration lets it honour leases for so long from its next start on.
    pub fn set_lease(&mut self, node: usize, lease: Duration) {
        let config = self.machines[node].config.clone();
        self.machines[node].config = config_with_lease(config, Some(lease));
        self.longest_lease = self.longest_lease.max(lease);
    }

    /// The machine that serves clients now.
    pub fn serving(&self) -> Option<usize> {
        (0..self.machines.len()).find(|node| self.serves(*node))
    }

    /// Waits for a serving master; its index and how long it took.
    pub fn await_master(&mut self, limit: Duration) -> (usize, Duration) {
        let took = self.run_until(limit, |c| c.serving().is_some());
        self.verify();
        let took = took.unwrap_or_else(|| self.fail(&format!("no master within {limit:?}")));
        (self.serving().unwrap(), took)
    }

    /// A client writes at the serving master; whether it could.
    pub fn write(&mut self) -> bool {
        let Some(node) = self.serving() else { return false };
        self.write_at(node)
    }

    /// Writes and waits for the answer.
    pub fn write_acknowledged(&mut self, limit: Duration) -> bool {
        let before = self.check.acknowledged.len();
        self.write() && self.run_until(limit, |c| c.check.acknowledged.len() > before).is_some()
    }

    /// Ends the test when an invariant was broken, or a client was told what can't be.
    pub fn verify(&self) {
        if let Err(why) = self.history.check(&self.check.branch) {
            self.fail::<()>(&why);
        }
        if let Some(failure) = &self.check.failure {
            self.fail::<()>(failure);
        }
    }

    pub fn fail<T>(&self, why: &str) -> T {
        for line in self.trace.iter().rev().take(150).rev() {
            println!("{line}");
        }
        panic!("{why} (seed {})", self.setup.seed);
    }

    /// The record that the machine has accepted, as `term.version {sync set}`.
    pub fn sync_set(&self, node: usize) -> BTreeSet<String> {
        let record = self.machines[node].hard.as_ref().map(|hard| &hard.record);
        record.map(|r| r.sync_set.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    pub fn stamp(&self, node: usize) -> Stamp {
        self.machines[node].store.stamp()
    }

    /// The record of the machine that serves, or of anyone.
    pub fn record(&self) -> SuccessionRecord {
        let node = self.serving().unwrap_or(0);
        self.machines[node].hard.as_ref().map(|hard| hard.record.clone()).unwrap()
    }

    /// Whether all running data members hold the same, on disk.
    pub fn converged(&self) -> bool {
        let record = self.record();
        let data =
            self.machines.iter().filter(|m| m.running() && !m.witness && !record.rank(&m.id).is_witness());
        let mut stamps = data.map(|m| m.store.durable_stamp());
        let Some(first) = stamps.next() else { return true };
        stamps.all(|stamp| stamp == first)
    }
}

/// The configuration with another lease, and a drift margin that goes with it.
fn config_with_lease(mut config: Config, lease: Option<Duration>) -> Config {
    if let Some(lease) = lease {
        config.timing.drift_margin = lease / 20;
        config.timing.lease = lease;
    }
    config
}

/// The names as a set.
pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}
