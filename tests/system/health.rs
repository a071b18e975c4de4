//! Machines that say that they aren't fit to reign.

use std::path::PathBuf;

use crate::{
    cluster::{Cluster, Layout, tanist},
    workload::{Workload, create_ledger},
};

/// Three machines whose check fails as long as a file is there; it says what the file holds.
async fn checked() -> (Cluster, impl Fn(usize) -> PathBuf) {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().display().to_string();
    let extra = format!(
        "[health]\nprogram = [\"sh\", \"-c\", \"! cat {path}/sick-$TANIST_MEMBER 2>/dev/null\"]\nevery = \"100ms\"\n\
         failures = 2\nrecovery = \"500ms\"\nslow_sync = \"off\"\nmin_free = \"off\"\n"
    );
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let ids: Vec<_> = cluster.machines.iter().map(|machine| machine.id.clone()).collect();
    (cluster, move |machine| dir.path().join(format!("sick-{}", ids[machine])))
}

#[tokio::test(flavor = "multi_thread")]
async fn unhealthy_machines_leave_the_throne_and_the_front_of_the_chain() {
    let (cluster, sick) = checked().await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let master = cluster.wait_master().await;
    let chain = |view: &tanist_api::Cluster| view.chain.clone();
    let first = cluster.view(master).await.unwrap();
    let heir = cluster.machines.iter().position(|machine| machine.id == first.chain[1]).unwrap();
    let third = 3 - master - heir;
    let name = |machine: usize| cluster.machines[machine].id.clone();

    std::fs::write(sick(heir), "bus 3 down\nmore\n").unwrap();
    for machine in 0..3 {
        cluster
            .wait("all know that the heir has sunk to the end of the chain", || async {
                let view = cluster.view(machine).await.ok()?;
                (chain(&view) == [name(master), name(third), name(heir)]).then_some(())
            })
            .await;
    }
    cluster
        .wait("the healthy one has taken its place", || async {
            let view = cluster.view(master).await.ok()?;
            let member = view.members.iter().find(|member| member.id == name(heir))?;
            assert_eq!(member.unhealthy.as_deref(), Some("bus 3 down"));
            (member.in_sync == Some(false) && view.sync_set.contains(&name(third))).then_some(())
        })
        .await;
    let (code, text) = tanist(&["status", "--hosts", &cluster.url(master)]);
    assert!(code == Some(0) && text.contains(&format!("{} isn't healthy: bus 3 down", name(heir))), "{text}");

    std::fs::write(sick(master), "no devices").unwrap();
    cluster
        .wait("the healthy one reigns", || async {
            let view = cluster.view(third).await.ok()?;
            (view.master == Some(name(third)) && view.writable).then_some(())
        })
        .await;
    workload.wait_for(20).await;

    std::fs::remove_file(sick(master)).unwrap();
    cluster
        .wait("it is healthy again", || async {
            let view = cluster.view(third).await.ok()?;
            let member = view.members.iter().find(|member| member.id == name(master))?;
            (member.unhealthy.is_none() && view.chain[1] == name(master)).then_some(())
        })
        .await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty(), "nobody noticed: {:?}", outcome.unknown);
    let view = cluster.view(third).await.unwrap();
    assert_eq!(view.master, Some(name(third)), "being healthy again takes the throne from nobody");
    cluster.assert_identical().await;
    for machine in 0..3 {
        outcome.assert_in(&cluster.data_dir(machine));
    }
    cluster.assert_no_panic();
}
