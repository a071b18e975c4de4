//! More machines are lost than a cluster can bear: it waits, says for whom, and goes on only on an operator's word.

use serde_json::json;

use crate::{
    cluster::{Cluster, Layout, read, tanist},
    http_input::{raw, request},
    workload::{Workload, create_ledger},
};

/// pc-1 and pc-2, the sync set, are lost; pc-4 and pc-5 stood still while the last writes were made; pc-3 followed.
async fn with_holders_lost() -> (Cluster, usize) {
    let mut cluster =
        Cluster::start(&Layout { extra: "[timing]\nvoter_timeout = \"off\"".to_owned(), ..Layout::of(5) })
            .await;
    cluster.crown(0).await;
    create_ledger(&cluster.client()).await;
    let before = Workload::start(&cluster.client(), 2, "before");
    before.wait_for(20).await;
    let kept = before.finish().await.acknowledged.len();
    cluster.settle().await;
    cluster.kill(3);
    cluster.kill(4);
    let after = Workload::start(&cluster.client(), 2, "after");
    after.wait_for(20).await;
    after.finish().await;
    cluster
        .wait("pc-1 and pc-2 hold everything", || async {
            let views = [cluster.view(0).await.ok()?, cluster.view(2).await.ok()?];
            views.iter().all(|view| view.sync_set == ["pc-1", "pc-2"]).then_some(())
        })
        .await;
    cluster.kill(0);
    cluster.kill(1);
    (cluster, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_holders_are_waited_for_until_an_operator_gives_them_up() {
    let (mut cluster, kept) = with_holders_lost().await;
    cluster.start_machine(3);
    cluster.start_machine(4);
    cluster
        .wait("pc-5 says whom it waits for", || async {
            let notice = cluster.view(4).await.ok()?.notice?;
            (notice.contains("the acknowledged data is on pc-1, pc-2")
                && notice.contains("not reached from here"))
            .then_some(())
        })
        .await;
    // The list of members says what the notice says: yes of these two, and of nobody else that he doesn't hold all.
    let view = cluster.view(4).await.unwrap();
    let known: Vec<_> = view.members.iter().map(|member| member.in_sync).collect();
    assert_eq!(known, [Some(true), Some(true), None, None, None], "{view:?}");
    let (code, text) = tanist(&["status", "--hosts", &cluster.url(4)]);
    assert!(code == Some(0) && text.matches("unknown").count() >= 3, "{text}");
    let hosts = cluster.hosts();
    let (code, text) = tanist(&["promote", "pc-5", "--force", "--hosts", &hosts]);
    assert!(code == Some(2) && text.contains("--accept-data-loss") && text.contains("pc-1, pc-2"), "{text}");
    // pc-3 was there longer than pc-5.
    let (code, text) = tanist(&["promote", "pc-5", "--force", "--accept-data-loss", "--hosts", &hosts]);
    assert!(code == Some(1) && text.contains("pc-3 holds more"), "{text}\n{}", cluster.logs());
    assert_eq!(cluster.master().await, None);
    let (code, text) = tanist(&["promote", "pc-3", "--force", "--accept-data-loss", "--hosts", &hosts]);
    assert!(code == Some(0) && text.contains("pc-3 reigns"), "{text}\n{}", cluster.logs());
    let workload = Workload::start(&cluster.client(), 2, "then");
    workload.wait_for(20).await;
    let then = workload.finish().await.acknowledged.len();
    // The lost ones are found again: they follow, and what only they held is not mixed in.
    cluster.start_machine(0);
    cluster.start_machine(1);
    cluster.assert_identical().await;
    let count = |entries: &str| {
        let sql = format!("SELECT count(*) FROM ledger WHERE entry LIKE '{entries}/%'");
        usize::try_from(read::<i64>(&cluster.data_dir(0), &sql)).unwrap()
    };
    assert_eq!((count("before"), count("then")), (kept, then));
    let reason: String =
        read(&cluster.data_dir(0), "SELECT reason FROM tanist_terms WHERE reason LIKE 'forced%'");
    assert!(reason.contains("accepting data loss: an operator asked pc-3 to; stood at"), "{reason}");
    assert!(reason.contains("pc-1, pc-2"), "{reason}");
    assert_jump(&cluster, 0, &reason);
    cluster.assert_no_panic();
}

/// The events of the reign that began so have numbers that no lost event can have had.
fn assert_jump(cluster: &Cluster, i: usize, reason: &str) {
    let data = read::<String>(
        &cluster.data_dir(i),
        "SELECT data FROM tanist_events WHERE id > 1000000 ORDER BY id LIMIT 1",
    );
    let data: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!((&data["what"], &data["reason"]), (&json!("reign"), &json!(reason)));
}

#[tokio::test(flavor = "multi_thread")]
async fn force_is_refused_where_it_is_not_needed_or_not_meant() {
    let cluster = Cluster::of(3).await;
    let master = cluster.wait_master().await;
    let (other, third) = ((master + 1) % 3, (master + 2) % 3);
    let id = |i: usize| format!("pc-{}", i + 1);
    let (ip, own, term) = (&cluster.machines[other].ip, id(other), cluster.view(master).await.unwrap().term);
    for (body, status, contains) in [
        (json!({"member": own, "force": true}), 400, "force without accept_data_loss"),
        (json!({"member": own, "accept_data_loss": true}), 400, "accept_data_loss without force"),
        (
            json!({"member": id(third), "force": true, "accept_data_loss": true}),
            400,
            "ask that machine itself",
        ),
        (
            json!({"member": "pc-9", "force": true, "accept_data_loss": true}),
            400,
            "expected one of pc-1, pc-2, pc-3",
        ),
        (
            json!({"member": own, "force": true, "accept_data_loss": true}),
            409,
            &*format!("{} reigns", id(master)),
        ),
    ] {
        let (found, answer) =
            raw(ip, request("POST", "/v1/cluster/promote", body.to_string().as_bytes())).await;
        assert!(found == status && answer.contains(contains), "{body}: {answer}");
    }
    assert_eq!(cluster.view(master).await.unwrap().term, term);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_majority_is_left_behind_by_recover() {
    let mut cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    let config = cluster.machines[1].config.to_str().unwrap().to_owned();
    let recover = |more: &[&str]| tanist(&[&["recover", "--config", &config], more].concat());
    let (code, text) = recover(&["--members", "pc-2", "--accept-data-loss"]);
    assert!(code == Some(1) && text.contains("must be stopped") && text.contains("in use"), "{text}");
    for i in 0..3 {
        cluster.kill(i);
    }
    let (code, text) = recover(&["--members", "pc-2,pc-9", "--accept-data-loss"]);
    assert!(code == Some(1) && text.contains("pc-9 was no member"), "{text}");
    let (code, text) = recover(&["--members", "pc-2"]);
    assert!(code == Some(2) && text.contains("nothing was changed"), "{text}");
    cluster.start_machine(1);
    cluster.wait("pc-2 waits for the others", || async { cluster.view(1).await.ok()?.notice }).await;
    cluster.kill(1);
    let (code, text) = recover(&["--members", "pc-2", "--accept-data-loss"]);
    assert!(code == Some(0) && text.contains("Left behind: pc-1, pc-3"), "{text}");
    cluster.start_machine(1);
    cluster.wait_master().await;
    let workload = Workload::start(&cluster.client(), 1, "alone");
    workload.wait_for(5).await;
    workload.finish().await;
    let reason: String =
        read(&cluster.data_dir(1), "SELECT reason FROM tanist_terms ORDER BY term DESC LIMIT 1");
    assert!(reason.starts_with("recovered by an operator with pc-2; stood at"), "{reason}");
    assert_jump(&cluster, 1, &reason);
    // A new machine takes the place of a lost one.
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    let ip = cluster.machines[2].ip.clone();
    let (code, text) = tanist(&[
        "members",
        "add",
        "pc-3",
        "--rank",
        "3",
        "--peer",
        &format!("{ip}:7450"),
        "--url",
        &format!("http://{ip}:8080"),
        "--hosts",
        &cluster.url(1),
    ]);
    assert!(code == Some(0), "{text}");
    cluster.start_machine(2);
    cluster
        .wait("pc-3 holds everything too", || async {
            (cluster.view(1).await.ok()?.sync_set.len() == 2).then_some(())
        })
        .await;
    cluster.machines.remove(0);
    cluster.assert_identical().await;
    let rows: i64 = read(&cluster.data_dir(1), "SELECT count(*) FROM ledger WHERE entry LIKE 'w/%'");
    assert_eq!(usize::try_from(rows).unwrap(), outcome.acknowledged.len());
    let members: String =
        read(&cluster.data_dir(1), "SELECT group_concat(member || ' ' || role, ', ') FROM tanist_v_cluster");
    assert_eq!(members, "pc-2 master, pc-3 backup");
    cluster.assert_no_panic();
}
