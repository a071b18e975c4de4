//! Disks that are full or can't be written, under load.

use std::time::{Duration, Instant};

use serde_json::json;
use tanist_api::{ExecuteRequest, Statement, code};
use tanist_client::{Client, Error};

use crate::{
    cluster::{Cluster, Layout, can_mount},
    workload::{Workload, create_ledger, execute},
};

const SMALL: u64 = 24 << 20;

async fn three_with_a_small_disk(small: usize) -> Cluster {
    let mut cluster =
        Cluster::lay_out(&Layout { extra: "[store]\nwal_limit = \"1MiB\"".to_owned(), ..Layout::of(3) });
    cluster.machines[small].small_disk = Some(SMALL);
    cluster.start_all();
    cluster.crown(0).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.execute(execute(vec![Statement::new("CREATE TABLE big(data BLOB)")])).await.unwrap();
    cluster
}

fn half_a_megabyte() -> ExecuteRequest {
    execute(vec![Statement::with("INSERT INTO big VALUES (randomblob(?))", vec![json!(500_000)])])
}

/// Writes until the small disk must be full long since; the errors on the way.
async fn fill(client: &Client) -> Vec<Error> {
    let mut errors = vec![];
    for _ in 0..100 {
        if let Err(error) = client.execute(half_a_megabyte()).await {
            errors.push(error);
        }
    }
    errors
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_of_a_backup_costs_no_write_and_another_takes_its_place() {
    if !can_mount() {
        return;
    }
    let cluster = three_with_a_small_disk(1).await;
    let client = cluster.client();
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let errors = fill(&client).await;
    assert!(errors.is_empty(), "{:?}", errors.first());
    workload.wait_for(50).await;
    let view = cluster.view(0).await.unwrap();
    assert_eq!(view.sync_set, ["pc-1", "pc-3"], "{}", cluster.logs());
    assert!(cluster.log_of(1).contains("full"), "its log names the reason: {}", cluster.log_of(1));
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    for i in [0, 2] {
        cluster
            .wait("both large disks hold everything", || async {
                let views = (cluster.view(0).await.ok()?, cluster.view(i).await.ok()?);
                (views.0.position == views.1.position).then_some(())
            })
            .await;
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn master_whose_disk_is_full_hands_over_by_itself_and_loses_nothing() {
    if !can_mount() {
        return;
    }
    let cluster = three_with_a_small_disk(0).await;
    let client = Client::builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(20)).build().unwrap();
    let mut acknowledged = 0i64;
    let mut refused = 0;
    let until = Instant::now() + Duration::from_secs(60);
    while acknowledged < 90 {
        assert!(Instant::now() < until, "{acknowledged} acknowledged, {refused} refused\n{}", cluster.logs());
        let heir_reigns =
            cluster.view(1).await.is_ok_and(|view| view.master.is_some_and(|master| master != "pc-1"));
        match client.execute(half_a_megabyte()).await {
            Ok(_) => acknowledged += 1,
            Err(Error::Problem(problem)) if problem.code == code::STORAGE => {
                assert!(!heir_reigns, "only until the heir reigns\n{}", cluster.logs());
                refused += 1;
            }
            Err(error) => panic!("{error}\n{}", cluster.logs()),
        }
    }
    println!("{acknowledged} acknowledged, {refused} refused");
    assert!(cluster.log_of(0).contains("full"), "its log names the reason: {}", cluster.log_of(0));
    let heir = cluster.wait_master().await;
    assert_ne!(heir, 0, "{}", cluster.logs());
    let found: i64 = crate::cluster::read(&cluster.data_dir(heir), "SELECT count(*) FROM big");
    assert_eq!(found, acknowledged);
    cluster.assert_no_panic();
}
