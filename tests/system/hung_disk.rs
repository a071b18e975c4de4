//! Disks that don't answer, for a while or for ever, on the master and on a backup: another machine serves within seconds, nothing
//! acknowledged is lost, whoever asks how it is gets an answer, and the machine comes back by itself.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout, tanist},
    http_input::{raw, request},
    power::shim,
    workload::{Workload, create_ledger, execute},
};

/// `health.stall` of these tests.
const STALL: Duration = Duration::from_millis(1000);
/// From the hang to the next acknowledged write: until it is noticed, or the lease has ended, an election, and what a busy
/// computer takes.
const BOUND: Duration = Duration::from_secs(8);

fn extra() -> String {
    format!("[health]\nstall = \"{}ms\"\nrecovery = \"1s\"\n", STALL.as_millis())
}

fn control(cluster: &Cluster, i: usize) -> PathBuf {
    cluster.machines[i].config.with_file_name("hang")
}

/// Three machines whose disks can hang, with a ledger and both backups near.
async fn hangable() -> Option<Cluster> {
    let library = shim("hang")?;
    let extra = extra() + "[log]\ndirectory = \"data/log\"\n[hooks]\non_promote = [\"true\"]\n";
    let mut cluster = Cluster::lay_out(&Layout { extra, ..Layout::of(3) });
    for i in 0..3 {
        cluster.machines[i].environment = vec![
            ("LD_PRELOAD", library.clone()),
            ("TANIST_HANG", control(&cluster, i)),
            ("TANIST_HANG_ROOT", cluster.data_dir(i)),
        ];
    }
    cluster.start_all();
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    cluster.wait_both_keep_up().await;
    Some(cluster)
}

/// From now on these calls of machine `i` hang: `sync -wal 0`.
fn hang(cluster: &Cluster, i: usize, what: &str) {
    let new = control(cluster, i).with_extension("new");
    std::fs::write(&new, what).unwrap();
    std::fs::rename(new, control(cluster, i)).unwrap();
}

fn release(cluster: &Cluster, i: usize) {
    std::fs::remove_file(control(cluster, i)).unwrap();
}

/// All that a machine must tell at any time, and how long the slowest took.
async fn slowest_answer(cluster: &Cluster, i: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for path in ["/healthz", "/readyz", "/metrics", "/v1/cluster"] {
        let began = Instant::now();
        let (status, answer) = raw(&cluster.machines[i].ip, request("GET", path, b"")).await;
        assert!(status == 200 || status == 503, "{path}: {status} {answer}");
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

/// Clients write while `what` hangs on the master for ever; gives how long nobody was acknowledged. Then it comes back.
async fn master_hangs(what: &str, for_ever: bool) {
    let Some(mut cluster) = hangable().await else { return };
    let master = cluster.wait_master().await;
    let workload = Workload::start(&cluster.client(), 3, "hang");
    workload.wait_for(20).await;
    workload.take_longest_gap();
    hang(&cluster, master, what);
    let next = cluster.wait_other_master(master).await;
    workload.wait_for(20).await;
    let gap = workload.take_longest_gap();
    println!("{what}: no write was acknowledged for {gap:.2?}");
    assert!(gap < BOUND, "{what}: {gap:?}\n{}", cluster.logs());
    assert_ne!(next, master);
    let slowest = slowest_answer(&cluster, master).await;
    assert!(slowest < Duration::from_secs(2), "{what}: {slowest:?}");
    if for_ever {
        stops_in_time(&mut cluster, master).await;
        release(&cluster, master);
        cluster.start_machine(master);
    } else {
        release(&cluster, master);
    }
    cluster.wait_back(master).await;
    workload.finish_on(&cluster).await;
}

/// It is told to stop, and ends although its disk doesn't answer, saying why it couldn't end well.
async fn stops_in_time(cluster: &mut Cluster, i: usize) {
    cluster.signal(i, Signal::TERM);
    let mut child = cluster.machines[i].child.take().unwrap();
    let until = Instant::now() + Duration::from_secs(40);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it doesn't end\n{}", cluster.logs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!status.success(), "{status}");
    let log = cluster.log_of(i);
    assert!(log.contains("ended without waiting for its disk"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn master_whose_wal_syncs_hang_is_relieved() {
    master_hangs("sync state.db-wal 0", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn master_whose_writes_hang_is_relieved() {
    master_hangs("write state.db-wal 0", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn master_whose_whole_disk_hangs_for_ever_is_relieved_and_stops_in_time() {
    master_hangs("all * 0", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn master_whose_http_thread_hangs_is_relieved() {
    let Some(cluster) = hangable().await else { return };
    let master = cluster.wait_master().await;
    hang(&cluster, master, "http * 0");
    cluster.wait_other_master(master).await;
    assert!(cluster.log_of(master).contains("the threads that serve HTTP don't go on"), "{}", cluster.logs());
    release(&cluster, master);
    cluster.wait_back(master).await;
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

/// Nobody waits for the log, nor for the hooks' thread.
#[tokio::test(flavor = "multi_thread")]
async fn log_and_hooks_that_hang_cost_nobody_the_role() {
    let Some(mut cluster) = hangable().await else { return };
    let master = cluster.wait_master().await;
    hang(&cluster, master, "all tanist.log 0");
    let workload = Workload::start(&cluster.client(), 2, "log");
    let until = Instant::now() + STALL * 3;
    while Instant::now() < until {
        workload.wait_for(5).await;
        assert_eq!(cluster.master().await, Some(master), "{}", cluster.logs());
    }
    let heir = cluster.index_of(&cluster.view(master).await.unwrap().chain[1]);
    hang(&cluster, heir, "all hooks.reign 0");
    cluster.crown(heir).await;
    let until = Instant::now() + STALL * 3;
    while Instant::now() < until {
        workload.wait_for(5).await;
        assert_eq!(cluster.master().await, Some(heir), "{}", cluster.logs());
    }
    release(&cluster, master);
    release(&cluster, heir);
    workload.finish().await;
    assert!(cluster.terminate(heir).success(), "{}", cluster.logs());
    cluster.start_machine(heir);
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

/// Below `health.stall`, but no handover ever got its own sync in time.
#[tokio::test(flavor = "multi_thread")]
async fn master_with_slow_syncs_can_be_demoted() {
    let Some(cluster) = hangable().await else { return };
    let master = cluster.wait_master().await;
    hang(&cluster, master, "sync state.db-wal 900");
    let workload = Workload::start(&cluster.client(), 1, "slow");
    workload.wait_for(2).await;
    let id = cluster.machines[master].id.clone();
    let began = Instant::now();
    cluster.client().demote(&id).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let next = cluster.wait_master().await;
    assert_ne!(next, master);
    release(&cluster, master);
    workload.finish().await;
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn master_whose_votes_hang_loses_the_role_by_its_lease_and_says_so() {
    let Some(mut cluster) = hangable().await else { return };
    let master = cluster.wait_master().await;
    let view = cluster.view(master).await.unwrap();
    let heir = cluster.index_of(&view.chain[1]);
    let third = 3 - master - heir;
    hang(&cluster, master, "all node.db-wal 0");
    // The sync set changes, and the master can't store the record.
    cluster.signal(heir, Signal::STOP);
    cluster
        .wait("the old master says what it waits for", || async {
            let view = cluster.view(master).await.ok()?;
            let told = view.notice?.contains("hasn't answered a write of votes to node.db");
            (told && !view.writable && view.master.is_none()).then_some(())
        })
        .await;
    let (status, _) = raw(&cluster.machines[master].ip, request("GET", "/readyz", b"")).await;
    assert_eq!(status, 503);
    cluster.signal(heir, Signal::CONT);
    cluster.wait_other_master(master).await;
    let insert = Statement::new("INSERT INTO ledger(entry) VALUES ('after')");
    cluster.client().execute(execute(vec![insert])).await.unwrap();
    assert!(cluster.view(third).await.is_ok());
    release(&cluster, master);
    cluster.assert_identical().await;
    cluster.kill(third);
    cluster.start_machine(third);
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_whose_disk_hangs_is_left_out_and_comes_back_by_itself() {
    let Some(cluster) = hangable().await else { return };
    let master = cluster.wait_master().await;
    let heir = cluster.index_of(&cluster.view(master).await.unwrap().chain[1]);
    let workload = Workload::start(&cluster.client(), 2, "backup");
    workload.wait_for(10).await;
    workload.take_longest_gap();
    hang(&cluster, heir, "all state.db-wal 0");
    let id = cluster.machines[heir].id.clone();
    cluster
        .wait("it is left out, last in the chain, and says what hangs", || async {
            let view = cluster.view(master).await.ok()?;
            let member = view.members.iter().find(|member| member.id == id)?;
            let told = member.unhealthy.as_ref()?.contains("hasn't answered");
            (told && !view.sync_set.contains(&id) && view.chain.last() == Some(&id)).then_some(())
        })
        .await;
    workload.wait_for(20).await;
    let gap = workload.take_longest_gap();
    println!("a backup hangs: no write was acknowledged for {gap:.2?}");
    assert!(gap < BOUND, "{gap:?}");
    assert!(slowest_answer(&cluster, heir).await < Duration::from_secs(2));
    release(&cluster, heir);
    cluster.wait_both_keep_up().await;
    cluster
        .wait("it is fit again", || async {
            let view = cluster.view(master).await.ok()?;
            let member = view.members.iter().find(|member| member.id == id)?;
            member.unhealthy.is_none().then_some(())
        })
        .await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(heir));
    cluster.assert_no_panic();
}

/// A file system of its own that can be frozen; thawed, unmounted and detached with it.
struct Frozen {
    at: PathBuf,
}

fn run(program: &str, args: &[&str]) -> bool {
    let done = Command::new(program).args(args).output();
    done.is_ok_and(|output| output.status.success())
}

impl Frozen {
    /// `None`, with a word, where this computer doesn't allow it.
    fn mount(image: &Path, at: &Path) -> Option<Frozen> {
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
        let (from, to) = (image.to_str().unwrap(), at.to_str().unwrap());
        let made = run("mkfs.ext4", &["-q", "-F", from]) && run("mount", &["-o", "loop", from, to]);
        if !made {
            eprintln!("this computer lets nobody mount an ext4 file system in a file: left out");
            return None;
        }
        let frozen = Frozen { at: at.to_owned() };
        if !(frozen.freeze() && frozen.thaw()) {
            eprintln!("this computer lets nobody freeze a file system (fsfreeze): left out");
            return None;
        }
        Some(frozen)
    }

    fn freeze(&self) -> bool {
        run("fsfreeze", &["-f", self.at.to_str().unwrap()])
    }

    fn thaw(&self) -> bool {
        run("fsfreeze", &["-u", self.at.to_str().unwrap()])
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
        for _ in 0..20 {
            if run("umount", &[self.at.to_str().unwrap()]) {
                return; // which detaches the loop device, too
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // Its processes, which end after a failed test, keep it until then.
        run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn master_on_a_frozen_file_system_is_relieved_and_comes_back_when_it_thaws() {
    let mut cluster = Cluster::lay_out(&Layout { extra: extra(), ..Layout::of(3) });
    let image = cluster.machines[0].config.with_file_name("disk.img");
    let Some(disk) = Frozen::mount(&image, &cluster.data_dir(0)) else { return };
    cluster.start_all();
    cluster.crown(0).await;
    create_ledger(&cluster.client()).await;
    cluster.wait_both_keep_up().await;
    let workload = Workload::start(&cluster.client(), 3, "frozen");
    workload.wait_for(20).await;
    workload.take_longest_gap();
    assert!(disk.freeze());
    cluster.wait_other_master(0).await;
    workload.wait_for(20).await;
    let gap = workload.take_longest_gap();
    println!("frozen: no write was acknowledged for {gap:.2?}");
    let slowest = slowest_answer(&cluster, 0).await;
    let began = Instant::now();
    let config = cluster.machines[0].config.to_str().unwrap().to_owned();
    let (_, said) =
        tokio::task::spawn_blocking(move || tanist(&["doctor", "--config", &config])).await.unwrap();
    let doctor = began.elapsed();
    assert!(disk.thaw());
    assert!(gap < BOUND, "{gap:?}\n{}", cluster.logs());
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(doctor < Duration::from_secs(40), "{doctor:?}: {said}");
    assert!(said.contains("hasn't answered"), "{said}");
    cluster.wait_back(0).await;
    workload.finish_on(&cluster).await;
    for i in 0..3 {
        cluster.kill(i);
    }
    drop(disk);
}
