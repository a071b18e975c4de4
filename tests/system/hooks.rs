//! Programs that are told when a reign begins and ends.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, test_kill_process};

use crate::{
    cluster::{Cluster, Layout},
    workload::{Workload, create_ledger},
};

/// A directory for scripts and what they leave, and the machines' `[hooks]`, in which `@` stands for it.
fn hooks(on_promote: &str, on_demote: &str, more: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().display().to_string();
    for (name, script) in [("promote", on_promote), ("demote", on_demote)] {
        std::fs::write(dir.path().join(name), script.replace('@', &path)).unwrap();
    }
    let extra = format!(
        "[hooks]\non_promote = [\"sh\", \"{path}/promote\"]\non_demote = [\"sh\", \"{path}/demote\"]\n{more}\n"
    );
    (dir, extra)
}

/// What the hooks have been told so far: `promote 3`, `demote 3`.
fn told(dir: &Path, member: &str) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(dir.join(member)).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let what = words.next().unwrap().to_owned();
        (what, words.next().unwrap().parse().unwrap())
    };
    text.lines().map(line).collect()
}

const TELL_PROMOTE: &str = "echo \"promote $TANIST_TERM $TANIST_REASON\" >> @/$TANIST_MEMBER; echo hello";
const TELL_DEMOTE: &str = "echo \"demote $TANIST_TERM $TANIST_REASON\" >> @/$TANIST_MEMBER";

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_once_for_each_reign_in_order_whatever_ends_it() {
    let (dir, extra) = hooks(TELL_PROMOTE, TELL_DEMOTE, "");
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    create_ledger(&cluster.client()).await;
    let path = dir.path().to_owned();
    for round in 0..6 {
        let master = cluster.wait_master().await;
        let id = cluster.machines[master].id.clone();
        let view = cluster.view(master).await.unwrap();
        let last = |what: &str| told(&path, &id).last() == Some(&(what.to_owned(), view.term));
        cluster.wait("the reign is told of", || async { last("promote").then_some(()) }).await;
        let heir = view.chain.iter().find(|other| **other != id).unwrap();
        match round % 3 {
            0 => drop(cluster.client().promote(heir).await.unwrap()),
            1 => cluster.kill(master),
            _ => {
                let status = cluster.terminate(master);
                assert!(status.success());
                assert!(last("demote"), "told before the process has ended: {:?}", told(&path, &id));
            }
        }
        cluster.wait_other_master(master).await;
        if cluster.machines[master].child.is_none() {
            cluster.start_machine(master);
        }
        cluster.wait("its end is told of", || async { last("demote").then_some(()) }).await;
        cluster.wait_both_keep_up().await;
    }
    let mut terms = vec![];
    for machine in &cluster.machines {
        let told = told(&path, &machine.id);
        for pair in told.chunks(2) {
            let ended = pair.get(1).is_none_or(|demote| *demote == ("demote".to_owned(), pair[0].1));
            assert!(pair[0].0 == "promote" && ended, "{} was told {told:?}", machine.id);
            terms.push(pair[0].1);
        }
        assert!(told.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{told:?}");
    }
    let reigns = terms.len();
    terms.sort_unstable();
    terms.dedup();
    assert!(terms.len() == reigns && reigns >= 7, "a reign was told of twice: {terms:?}");
    let text: String =
        (1..=3).map(|i| std::fs::read_to_string(path.join(format!("pc-{i}"))).unwrap_or_default()).collect();
    for reason in [" operator\n", " process-ended\n", " stops\n", " succeeds\n"] {
        assert!(text.contains(reason), "{reason:?} in {text}");
    }
    assert!(cluster.log_of(0).contains("hello") || cluster.log_of(1).contains("hello"));
    cluster.assert_no_panic();
}

fn pid_in(file: PathBuf) -> Option<Pid> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok().and_then(Pid::from_raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_that_hangs_delays_no_failover_and_is_killed() {
    // The shell waits for its child: both must go.
    let hang = "echo $$ > @/$TANIST_MEMBER.pid; while [ -e @ ]; do sleep 0.1; done; echo woke";
    let (dir, extra) = hooks(hang, "while [ -e @ ]; do sleep 0.1; done", "timeout = \"40s\"\n");
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    let first = cluster.wait_master().await;
    let id = cluster.machines[first].id.clone();
    let file = dir.path().join(format!("{id}.pid"));
    let pid = cluster.wait("the hook hangs", || async { pid_in(file.clone()) }).await;
    workload.wait_for(20).await;
    workload.take_longest_gap();
    client.demote(&id).await.unwrap();
    let second = cluster.wait_other_master(first).await;
    workload.wait_for(20).await;
    let gap = workload.take_longest_gap();
    cluster.wait("it is killed", || async { test_kill_process(pid).is_err().then_some(()) }).await;
    assert!(gap < Duration::from_secs(30), "the hook's time is 40 s: {gap:?}");
    // Its own on_demote hangs now, and this machine reigns again nevertheless.
    cluster.kill(second);
    workload.wait_for(20).await;
    let gap = workload.take_longest_gap();
    assert!(gap < Duration::from_secs(30), "the hook's time is 40 s: {gap:?}");
    let outcome = workload.finish().await;
    outcome.assert_in(&cluster.data_dir(cluster.wait_master().await));
    cluster.assert_no_panic();
    println!("longest gap {gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_that_takes_too_long_is_killed_and_so_is_what_it_started() {
    let hang = "sleep 1000 & echo $! > @/$TANIST_MEMBER.pid; wait";
    let (dir, extra) = hooks(hang, "true", "timeout = \"300ms\"\n");
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(1) }).await;
    let file = dir.path().join("pc-1.pid");
    let pid = cluster.wait("the hook runs", || async { pid_in(file.clone()) }).await;
    cluster.wait("it is killed", || async { test_kill_process(pid).is_err().then_some(()) }).await;
    cluster
        .wait("it is told why", || async {
            cluster.log_of(0).contains("didn't end within 300ms").then_some(())
        })
        .await;
    assert!(cluster.view(0).await.unwrap().writable, "it isn't required");
}

#[tokio::test(flavor = "multi_thread")]
async fn required_hook_that_fails_refuses_the_throne_where_another_can_have_it() {
    let promote = "if [ -e @/bad-$TANIST_MEMBER ]; then echo 'no address'; exit 3; fi; echo done > @/good-$TANIST_MEMBER";
    let more = "required = true\nretry = \"200ms\"\nrecovery = \"1s\"\n";
    let (dir, extra) = hooks(promote, "true", more);
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    let bad = |machine: usize| dir.path().join(format!("bad-{}", cluster.machines[machine].id));
    let first = cluster.wait_master().await;
    let second = (first + 1) % 3;
    std::fs::write(bad(second), "").unwrap();
    // It may have given the throne away again before anybody sees it there.
    let _ = client.promote(&cluster.machines[second].id).await;
    cluster
        .wait("the throne was refused", || async {
            cluster.log_of(second).contains("stepped down").then_some(())
        })
        .await;
    let now = cluster.wait_master().await;
    assert_ne!(now, second, "{}", cluster.logs());
    assert!(cluster.log_of(second).contains("hooks.on_promote: sh: exit status: 3"), "{}", cluster.logs());
    let unhealthy = |machine: usize| {
        let (cluster, id) = (&cluster, cluster.machines[machine].id.clone());
        async move {
            let master = cluster.master().await?;
            let view = cluster.view(master).await.ok()?;
            Some(view.members.iter().find(|member| member.id == id)?.unhealthy.clone())
        }
    };
    cluster
        .wait("it is fit again after a while", || async {
            unhealthy(second).await.filter(Option::is_none).map(drop)
        })
        .await;

    // Nobody can: somebody reigns nevertheless, says why it shouldn't, and tries again.
    (0..3).for_each(|machine| std::fs::write(bad(machine), "").unwrap());
    let _ = client.demote(&cluster.machines[now].id).await;
    let last = cluster
        .wait("the master says that it isn't fit", || async {
            let master = cluster.master().await?;
            let why = unhealthy(master).await??;
            assert!(why.starts_with("hooks.on_promote: sh: exit status: 3"), "{why}");
            let failures = cluster.log_of(master).matches("a hook failed").count();
            (failures >= 4).then_some(master)
        })
        .await;
    workload.wait_for(20).await;
    (0..3).for_each(|machine| std::fs::remove_file(bad(machine)).unwrap());
    cluster
        .wait("it is fit to reign", || async {
            let master = cluster.master().await?;
            unhealthy(master).await.filter(Option::is_none).map(drop)
        })
        .await;
    let master = cluster.wait_master().await;
    let good = dir.path().join(format!("good-{}", cluster.machines[master].id));
    assert!(good.exists(), "pc-{} reigns after pc-{}:\n{}", master + 1, last + 1, cluster.logs());
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}
