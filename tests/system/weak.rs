//! Nine machines on one weak computer: two processors for all of them together, 2 GB for each, and other work beside them. Only with
//! `TANIST_WEAK=1`, as root (control groups); for figures with `--release`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, Layout},
    workload::{Workload, create_ledger},
};

const PROCESSORS: u32 = 2;
const MEMORY: u64 = 2 << 30;
/// How long is looked at, idle and busy.
const LOOK: Duration = Duration::from_secs(20);

/// Control groups, of either version, that are removed with it.
struct Groups {
    cpu: PathBuf,
    /// One for each machine.
    memory: Vec<PathBuf>,
}

impl Groups {
    fn new(count: usize) -> Option<Groups> {
        let name = format!("tanist-weak-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let place = |controller: &str| if unified { root.to_owned() } else { root.join(controller) };
        let cpu = place("cpu").join(&name);
        fs::create_dir(&cpu).ok()?;
        let groups = Groups {
            memory: (0..count)
                .map(|i| match unified {
                    true => cpu.join(format!("pc-{}", i + 1)),
                    false => place("memory").join(format!("{name}-{}", i + 1)),
                })
                .collect(),
            cpu,
        };
        let period = 100_000;
        if unified {
            fs::write(groups.cpu.join("cpu.max"), format!("{} {period}", PROCESSORS * period)).ok()?;
            fs::write(groups.cpu.join("cgroup.subtree_control"), "+memory").ok()?;
        } else {
            fs::write(groups.cpu.join("cpu.cfs_period_us"), period.to_string()).ok()?;
            fs::write(groups.cpu.join("cpu.cfs_quota_us"), (PROCESSORS * period).to_string()).ok()?;
        }
        for memory in &groups.memory {
            fs::create_dir(memory).ok()?;
            let limit = if unified { "memory.max" } else { "memory.limit_in_bytes" };
            fs::write(memory.join(limit), MEMORY.to_string()).ok()?;
        }
        Some(groups)
    }

    fn take(&self, pid: u32, machine: Option<usize>) {
        let memory = machine.map(|machine| &self.memory[machine]);
        // In version 2 the leaf is in the other one; nobody may be in both.
        let of_cpu = Some(&self.cpu).filter(|cpu| !memory.is_some_and(|memory| memory.starts_with(cpu)));
        for group in [of_cpu, memory].into_iter().flatten() {
            fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.memory.iter().chain([&self.cpu]) {
            let gone = || fs::remove_dir(group).is_ok() || !group.exists();
            let until = Instant::now() + Duration::from_secs(5);
            while !gone() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Other work, until it is dropped.
struct Work(Vec<Child>);

impl Work {
    fn start(groups: &Groups, count: u32) -> Work {
        let burn = || {
            let child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
            groups.take(child.id(), None);
            child
        };
        Work((0..count).map(|_| burn()).collect())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Processor time of a process in seconds, and its memory in MiB (largest so far).
fn usage(pid: u32) -> (f64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    ((ticks(11) + ticks(12)) / 100.0, kib >> 10)
}

fn pids(cluster: &Cluster) -> Vec<u32> {
    cluster.machines.iter().filter_map(|machine| machine.child.as_ref()).map(Child::id).collect()
}

/// The reigns so far: one for each change of master.
async fn term(cluster: &Cluster) -> u64 {
    let master = cluster.wait_master().await;
    cluster.view(master).await.unwrap().term
}

/// Kills the master; how long nobody took writes.
async fn kill_master(cluster: &mut Cluster, groups: &Groups, workload: &Workload) -> Duration {
    let master = cluster.wait_master().await;
    let began = Instant::now();
    cluster.kill(master);
    workload.wait_for(1).await;
    let paused = began.elapsed();
    cluster.start_machine(master);
    groups.take(cluster.machines[master].child.as_ref().unwrap().id(), Some(master));
    cluster.wait_back(master).await;
    paused
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_machines_share_a_weak_computer_with_other_work() {
    if std::env::var_os("TANIST_WEAK").is_none() {
        eprintln!("only with TANIST_WEAK=1: left out");
        return;
    }
    let Some(groups) = Groups::new(9) else {
        eprintln!("this computer lets nobody make control groups: left out");
        return;
    };
    let mut cluster = Cluster::lay_out(&Layout::of(9));
    cluster.start_all();
    for (machine, pid) in pids(&cluster).into_iter().enumerate() {
        groups.take(pid, Some(machine));
    }
    create_ledger(&cluster.client()).await;

    let before: Vec<_> = pids(&cluster).into_iter().map(usage).collect();
    tokio::time::sleep(LOOK).await;
    let after: Vec<_> = pids(&cluster).into_iter().map(usage).collect();
    let spent: Vec<f64> = before.iter().zip(&after).map(|(before, after)| after.0 - before.0).collect();
    let percent = |seconds: f64| 100.0 * seconds / LOOK.as_secs_f64();
    println!(
        "idle: {:.1} % of a processor for all nine, {:.1} % for the busiest; at most {} MiB each",
        percent(spent.iter().sum()),
        percent(spent.iter().copied().fold(0.0, f64::max)),
        after.iter().map(|(_, memory)| memory).max().unwrap()
    );

    let reigned = term(&cluster).await;
    let work = Work::start(&groups, 2 * PROCESSORS);
    let workload = Workload::start(&cluster.client(), 3, "busy");
    tokio::time::sleep(LOOK).await;
    let busy = term(&cluster).await;
    println!("beside {} busy loops, writing: {} changes of master", 2 * PROCESSORS, busy - reigned);
    assert_eq!(busy, reigned, "heartbeats came too late");

    let mut pauses = vec![];
    for _ in 0..5 {
        pauses.push(kill_master(&mut cluster, &groups, &workload).await);
    }
    pauses.sort();
    println!("kill -9 of the master beside them: {pauses:.0?}");
    drop(work);
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    for i in 0..9 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    let most = pids(&cluster).into_iter().map(|pid| usage(pid).1).max().unwrap();
    println!("{} writes acknowledged, none lost; at most {most} MiB each", outcome.acknowledged.len());
    cluster.assert_no_panic();
}
