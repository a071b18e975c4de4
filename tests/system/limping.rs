//! Machines that fail slowly: what they send doesn't arrive, or their disk is slow. Others take their part.

use std::time::{Duration, Instant};

use crate::{
    cluster::{Cluster, is_long_run},
    cut_off::{Links, cuttable},
    power::{log_dir, powered},
    workload::{Workload, create_ledger},
};

/// Three machines that can be cut off, written to, and the master.
async fn written_to() -> (Cluster, Links, Workload, usize) {
    let (cluster, links) = cuttable("").await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.wait_both_keep_up().await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(50).await;
    let master = cluster.wait_master().await;
    (cluster, links, workload, master)
}

/// Waits until another machine serves; until then the old master doesn't make itself the whole sync set.
async fn wait_relieved(cluster: &Cluster, old: usize) {
    let alone = [cluster.machines[old].id.clone()];
    cluster
        .wait("another machine reigns", || async {
            let view = cluster.view(old).await.ok()?;
            let reigns = view.master.as_ref() == Some(&alone[0]);
            let log = cluster.log_of(old);
            assert!(!reigns || view.sync_set != alone, "it has made itself the whole sync set\n{log}");
            cluster.master().await.filter(|master| *master != old).map(drop)
        })
        .await;
}

/// Heartbeats pass between the master and the others, and no transactions: as when only large packets are lost.
#[tokio::test(flavor = "multi_thread")]
async fn master_whose_transactions_reach_nobody_leaves_the_throne_and_never_acknowledges_alone() {
    let (cluster, links, workload, old) = written_to().await;
    for (_, _, link) in links.iter().filter(|(from, to, _)| *from == old || *to == old) {
        link.starve(true);
    }
    wait_relieved(&cluster, old).await;
    assert!(cluster.log_of(old).contains("what is sent to them doesn't arrive"), "{}", cluster.log_of(old));
    // Both others keep what is written now.
    workload.wait_for(100).await;
    for (_, _, link) in links.iter() {
        link.starve(false);
    }
    workload.finish_on(&cluster).await;
}

/// From now on, or no longer, a sync of the machine's WAL takes 400 ms.
fn set_slow(cluster: &Cluster, i: usize, slow: bool) {
    let file = log_dir(cluster, i).join("slow");
    if slow {
        std::fs::write(&file, "state.db-wal").unwrap();
    } else {
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_with_a_slow_disk_is_replaced_by_the_idle_one() {
    let Some(cluster) = powered(None).await else { return };
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    let view = cluster.view(master).await.unwrap();
    let id = view.sync_set.into_iter().find(|id| *id != cluster.machines[master].id).unwrap();
    let slow = cluster.index_of(&id);
    let workload = Workload::start(&cluster.client(), 4, "w");
    workload.wait_for(100).await;
    set_slow(&cluster, slow, true);
    cluster
        .wait("the idle one has taken its place", || async {
            let view = cluster.view(master).await.ok()?;
            let replaced = view.sync_set.len() == 2 && !view.sync_set.contains(&id);
            let told = view.members.into_iter().find(|member| member.id == id)?.slow?;
            (replaced && told.contains("to store takes")).then_some(())
        })
        .await;
    assert!(cluster.log_of(master).contains("backup is slow"), "{}", cluster.log_of(master));
    // Nobody waits for it any more.
    let began = Instant::now();
    workload.wait_for(200).await;
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "four with each sync, it would be 20 s: {took:?}\n{}",
        cluster.logs()
    );
    set_slow(&cluster, slow, false);
    workload.finish_on(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn master_with_a_slow_disk_hands_over() {
    let Some(cluster) = powered(None).await else { return };
    cluster.wait_both_keep_up().await;
    let old = cluster.wait_master().await;
    let workload = Workload::start(&cluster.client(), 4, "w");
    workload.wait_for(100).await;
    set_slow(&cluster, old, true);
    cluster.wait_other_master(old).await;
    assert!(cluster.log_of(old).contains("this machine is slow"), "{}", cluster.log_of(old));
    workload.wait_for(100).await;
    set_slow(&cluster, old, false);
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty(), "a planned handover costs no request");
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

/// A quarter of the packets on the master's links is lost: most that it sends arrives late.
#[tokio::test(flavor = "multi_thread")]
async fn master_with_a_lossy_link_never_acknowledges_alone_and_another_reigns_in_the_end() {
    if !is_long_run() {
        return;
    }
    let (cluster, links, workload, old) = written_to().await;
    let touching: Vec<_> = links.iter().filter(|(from, to, _)| *from == old || *to == old).collect();
    for (_, _, link) in &touching {
        link.lose(250);
    }
    wait_relieved(&cluster, old).await;
    workload.wait_for(100).await;
    for (_, _, link) in &touching {
        link.lose(0);
    }
    workload.finish_on(&cluster).await;
}
