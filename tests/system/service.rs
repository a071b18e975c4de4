//! The program that runs only on the master.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    cluster::{Cluster, Layout},
    workload::create_ledger,
};

/// Holds a lock as long as it lives, and says so in a file common to all machines; says `clash` when another holds it.
/// Takes its time to end, so that it matters who waits for it.
const SERVICE: &str = r#"
exec 9> @/lock
flock --nonblock 9 || { echo "clash $TANIST_MEMBER $TANIST_TERM" >> @/log; exit 1; }
echo "start $TANIST_MEMBER $TANIST_TERM $$ $PPID" >> @/log
trap 'echo "stop $TANIST_MEMBER $TANIST_TERM" >> @/log; sleep 0.4; exit 0' TERM
while :; do sleep 0.02; done
"#;

struct Started {
    member: String,
    term: u64,
    pid: Pid,
    guard: Pid,
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

/// The last start, if there is one in this term or a later one.
fn started(dir: &Path, least: u64) -> Option<Started> {
    let text = log(dir);
    assert!(!text.contains("clash"), "two ran at once:\n{text}");
    let line = text.lines().rfind(|line| line.starts_with("start"))?;
    let words: Vec<_> = line.split(' ').collect();
    let pid = |i: usize| Pid::from_raw(words.get(i)?.parse().ok()?);
    let started = Started {
        member: words.get(1)?.to_string(),
        term: words.get(2)?.parse().ok()?,
        pid: pid(3)?,
        guard: pid(4)?,
    };
    (started.term >= least).then_some(started)
}

fn layout(dir: &Path, script: &str) -> Layout {
    let path = dir.display().to_string();
    std::fs::write(dir.join("service"), script.replace('@', &path)).unwrap();
    Layout { extra: format!("[service]\ncommand = [\"sh\", \"{path}/service\"]\n"), ..Layout::of(3) }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_never_runs_on_two_machines_at_once_whatever_ends_a_reign() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path();
    let mut cluster = Cluster::start(&layout(path, SERVICE)).await;
    create_ledger(&cluster.client()).await;
    let mut least = 1;
    for round in 0..6 {
        let now = cluster.wait("the service runs", || async { started(path, least) }).await;
        least = now.term + 1;
        let master = cluster.index_of(&now.member);
        let mut stopped = false;
        match round {
            0 | 4 => cluster.kill(master),
            1 | 5 => {
                cluster.signal(master, Signal::STOP);
                stopped = true;
            }
            2 => drop(cluster.client().demote(&now.member).await.unwrap()),
            _ => assert!(cluster.terminate(master).success()),
        }
        let next = cluster.wait("the next one's service runs", || async { started(path, least) }).await;
        assert!(next.member != now.member, "round {round}: {}", log(path));
        assert!(test_kill_process(now.pid).is_err(), "round {round}: the old one lives:\n{}", log(path));
        if stopped {
            cluster.signal(master, Signal::CONT);
        }
        if cluster.machines[master].child.is_none() {
            cluster.start_machine(master);
        }
        cluster.wait_both_keep_up().await;
    }
    let last = cluster.wait("the service runs", || async { started(path, least) }).await;
    (0..3).for_each(|i| cluster.kill(i));
    cluster.wait("nothing is left", || async { test_kill_process(last.pid).is_err().then_some(()) }).await;
    let text = log(path);
    assert!(!text.contains("clash"), "{text}");
    // Killed servers, stopped ones and those that left: every service was asked to end first.
    assert!(text.lines().filter(|line| line.starts_with("stop")).count() >= 6, "{text}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn service_that_ends_is_started_again_and_one_that_does_not_end_is_killed() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path();
    // Ends once by itself; afterwards it can't be asked to.
    let script = r#"
echo "start $TANIST_MEMBER $TANIST_TERM $$ $PPID" >> @/log
trap '' TERM
[ -e @/once ] || { echo > @/once; exit 7; }
while :; do sleep 0.02; done
"#;
    let mut cluster = Cluster::start(&layout(path, script)).await;
    let starts = || log(path).lines().count();
    let first =
        cluster.wait("it is started again", || async { started(path, 1).filter(|_| starts() == 2) }).await;
    let master = cluster.index_of(&first.member);
    assert!(cluster.log_of(master).contains("service ended: exit status: 7"), "{}", cluster.log_of(master));

    // With its guard ends the service, at once and by force; then both are there again.
    kill_process(first.guard, Signal::KILL).unwrap();
    cluster
        .wait("it has ended with its guard", || async { test_kill_process(first.pid).is_err().then_some(()) })
        .await;
    let second = cluster
        .wait("it is started again", || async {
            started(path, 1).filter(|again| again.pid != first.pid && again.guard != first.guard)
        })
        .await;

    assert!(cluster.terminate(master).success());
    assert!(test_kill_process(second.pid).is_err(), "it was killed before the process ended");
    assert!(
        cluster.log_of(master).contains("was killed before the lease ended"),
        "{}",
        cluster.log_of(master)
    );
    cluster.assert_no_panic();
}
