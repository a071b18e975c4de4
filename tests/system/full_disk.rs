//! Disks that are full or can't be written, under load.

use std::time::{Duration, Instant};

use serde_json::json;
use tanist_api::{ExecuteRequest, Problem, QueryRequest, Statement, code};
use tanist_client::{Client, Consistency, Error};

use crate::{
    cluster::{Cluster, Layout, can_mount},
    small_disk::SmallDisk,
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
            Err(Error::Problem(problem))
                if [code::STORAGE, code::DISK_FULL].contains(&problem.code.as_str()) =>
            {
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

/// Three machines, some of them each with a small file system of its own.
async fn three_with_disks(small: &[usize], bytes: u64) -> Cluster {
    let mut cluster =
        Cluster::lay_out(&Layout { extra: "[store]\nwal_limit = \"1MiB\"".to_owned(), ..Layout::of(3) });
    for i in small {
        cluster.machines[*i].disk = Some(SmallDisk::mount(&cluster.data_dir(*i), bytes));
    }
    cluster.start_all();
    cluster.crown(0).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE big(data BLOB)")])).await.unwrap();
    cluster
}

fn disks(cluster: &Cluster) -> impl Iterator<Item = &SmallDisk> {
    cluster.machines.iter().filter_map(|machine| machine.disk.as_ref())
}

/// What a write of half a megabyte is told that is refused, after as many as fit.
async fn write_until_refused(client: &Client) -> (i64, Problem) {
    for written in 0..200 {
        match client.execute(half_a_megabyte()).await {
            Ok(_) => {}
            Err(Error::Problem(problem)) => return (written, *problem),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the disk doesn't get full");
}

async fn rows(client: &Client) -> i64 {
    let query = QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM big")] };
    let answer = client.query(query, Consistency::Strong, None).await.unwrap();
    answer.results[0].rows[0][0].as_i64().unwrap()
}

async fn delete_one(client: &Client) {
    let delete = "DELETE FROM big WHERE rowid = (SELECT max(rowid) FROM big)";
    client.execute(execute(vec![Statement::new(delete)])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_of_all_machines_stop_neither_reads_nor_deletes_nor_elections_nor_starts() {
    if !can_mount() {
        return;
    }
    let mut cluster = three_with_disks(&[0, 1, 2], 32 << 20).await;
    let client = Client::builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(20)).build().unwrap();
    let (mut there, problem) = write_until_refused(&client).await;
    assert!(there > 20, "{there}");
    assert_eq!((problem.status, problem.code.as_str()), (507, code::DISK_FULL), "{problem:?}");
    for part in ["pc-1", "MiB are free", "Free some space", "store.reserve"] {
        assert!(problem.detail.contains(part), "{part}: {problem:?}");
    }
    assert_eq!(rows(&client).await, there);
    delete_one(&client).await;
    // Its pages are free now: as much fits again.
    client.execute(half_a_megabyte()).await.unwrap();
    assert_eq!(rows(&client).await, there);

    // Other programs take what is left.
    disks(&cluster).for_each(SmallDisk::fill);
    for _ in 0..4 {
        delete_one(&client).await;
        there -= 1;
    }
    assert_eq!(rows(&client).await, there);
    disks(&cluster).for_each(SmallDisk::fill);
    // Votes and the beginning of a term.
    cluster.kill(0);
    cluster.wait_master().await;
    assert_eq!(rows(&client).await, there, "{}", cluster.logs());
    delete_one(&client).await;
    there -= 1;

    for i in [1, 2] {
        cluster.kill(i);
    }
    disks(&cluster).for_each(SmallDisk::fill);
    cluster.start_all();
    cluster.wait_master().await;
    assert_eq!(rows(&client).await, there, "{}", cluster.logs());
    let view = cluster.view(0).await.unwrap();
    assert!(
        view.members
            .iter()
            .any(|member| member.unhealthy.as_ref().is_some_and(|why| why.contains("nearly full"))),
        "{view:?}"
    );
    delete_one(&client).await;
    there -= 1;

    disks(&cluster).for_each(SmallDisk::empty);
    disks(&cluster).for_each(|disk| disk.resize(64 << 20));
    cluster
        .wait("all have room again", || async {
            for i in 0..3 {
                let view = cluster.view(i).await.ok()?;
                let own = view.members.iter().find(|member| member.id == view.member)?;
                if own.unhealthy.is_some() {
                    return None;
                }
            }
            Some(())
        })
        .await;
    for _ in 0..30 {
        client.execute(half_a_megabyte()).await.unwrap();
        there += 1;
    }
    assert_eq!(rows(&client).await, there);
    cluster.wait_both_keep_up().await;
    for i in 0..3 {
        assert!(cluster.machines[i].child.as_mut().unwrap().try_wait().unwrap().is_none(), "it runs");
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_of_both_backups_do_not_stop_the_master_and_are_caught_up_with_when_they_have_room() {
    if !can_mount() {
        return;
    }
    let cluster = three_with_disks(&[1, 2], SMALL).await;
    let client = Client::builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(20)).build().unwrap();
    let (mut longest, begun) = (Duration::ZERO, Instant::now());
    for _ in 0..90 {
        let at = Instant::now();
        client.execute(half_a_megabyte()).await.unwrap_or_else(|error| panic!("{error}\n{}", cluster.logs()));
        longest = longest.max(at.elapsed());
    }
    println!("90 writes in {:?}, the longest {longest:?}", begun.elapsed());
    assert!(longest < Duration::from_secs(15), "{longest:?}\n{}", cluster.logs());
    assert_eq!(cluster.view(0).await.unwrap().sync_set, ["pc-1"], "{}", cluster.logs());
    disks(&cluster).for_each(|disk| disk.resize(256 << 20));
    cluster.wait_both_keep_up().await;
    cluster
        .wait("a backup has every write again", || async {
            (cluster.view(0).await.ok()?.sync_set.len() == 2).then_some(())
        })
        .await;
    assert_eq!(rows(&client).await, 90);
    cluster.assert_no_panic();
}
