//! A page changes on a disk by itself: it is found, and replaced from another machine, while the cluster serves.

use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tanist_api::{QueryRequest, Statement};
use tanist_client::{Client, Consistency};
use tokio::task::JoinHandle;

use crate::{
    cluster::{Cluster, Layout, read},
    outside::reports,
    workload::{Workload, create_ledger, execute},
};

const PAGE: u64 = 4096;

async fn with_rows() -> Cluster {
    with_rows_on(3).await
}

async fn with_rows_on(machines: u32) -> Cluster {
    let extra = "[store]\nscrub = \"64MiB\"\nwal_limit = \"1MiB\"".to_owned();
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(machines) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let fill =
        "INSERT INTO kept(data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        SELECT randomblob(1800) FROM n";
    client
        .execute(execute(vec![Statement::new("CREATE TABLE kept(id INTEGER PRIMARY KEY, data BLOB)")]))
        .await
        .unwrap();
    for _ in 0..8 {
        client.execute(execute(vec![Statement::new(fill)])).await.unwrap();
    }
    cluster.settle().await;
    cluster
}

/// Changes some bytes of a page of `kept` in the machine's file, once it is there and not in the WAL alone.
async fn rot(cluster: &Cluster, i: usize) -> u64 {
    wait_in_file(cluster, i).await;
    let page = 100;
    change(&cluster.data_dir(i).join("state.db"), page);
    page
}

async fn wait_in_file(cluster: &Cluster, i: usize) {
    let file = cluster.data_dir(i).join("state.db");
    cluster
        .wait("a checkpoint has brought rows into the file", || async {
            let bytes = std::fs::metadata(&file).ok()?.len();
            (bytes > 1 << 20).then_some(())
        })
        .await;
}

fn change(file: &Path, page: u64) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let at = (page - 1) * PAGE + 3000;
    let mut bytes = [0; 16];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&bytes).unwrap();
}

/// What all rows come to; the same on every machine, and always.
const TOTAL: &str = "SELECT count(*), sum(length(data)), sum(unicode(hex(data))), max(hex(data)) FROM kept";

/// Reads all rows again and again, on one machine or on the master; every answer must be the right one.
fn read_all(client: &Client, consistency: Consistency) -> (JoinHandle<usize>, Arc<AtomicBool>) {
    let (client, stop) = (client.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let query = QueryRequest { statements: vec![Statement::new(TOTAL)] };
        let mut right: Option<Vec<Vec<serde_json::Value>>> = None;
        let mut answers = 0;
        while !stopped.load(Ordering::Relaxed) {
            // The client asks again while a machine has no answer.
            let answer = client.query(query.clone(), consistency, None).await.unwrap();
            let rows = &answer.results[0].rows;
            assert_eq!(right.get_or_insert_with(|| rows.clone()), rows, "a wrong answer");
            answers += 1;
        }
        answers
    });
    (task, stop)
}

async fn wait_healed(cluster: &Cluster, i: usize, page: u64) {
    cluster
        .wait("the page was found and replaced", || async {
            let log = cluster.log_of(i);
            // Whoever came first, the scrub or a read.
            (log.contains("not what was written")
                && log.contains(&format!("page={page}"))
                && log.contains("rejoin finished"))
            .then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotten_page_of_a_backup_is_replaced_and_no_request_notices() {
    let cluster = with_rows().await;
    let master = cluster.wait_master().await;
    let backup = (master + 1) % 3;
    let workload = Workload::start(&cluster.client(), 2, "w");
    let (here, stop_here) = read_all(&cluster.client_of(backup), Consistency::Local);
    cluster.wait("reads have begun", || async { (!here.is_finished()).then_some(()) }).await;
    let page = rot(&cluster, backup).await;
    wait_healed(&cluster, backup, page).await;
    stop_here.store(true, Ordering::Relaxed);
    assert!(here.await.unwrap() > 0);
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    assert_eq!(read::<i64>(&cluster.data_dir(backup), "SELECT count(*) FROM kept"), 2400);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn master_with_a_rotten_page_hands_over_and_heals_as_a_backup() {
    let cluster = with_rows().await;
    let master = cluster.wait_master().await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    let (strong, stop_strong) = read_all(&cluster.client(), Consistency::Strong);
    let page = rot(&cluster, master).await;
    wait_healed(&cluster, master, page).await;
    stop_strong.store(true, Ordering::Relaxed);
    assert!(strong.await.unwrap() > 0);
    assert_ne!(cluster.wait_master().await, master);
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    let reason: String = read(&cluster.data_dir(master), "SELECT group_concat(reason) FROM tanist_terms");
    assert!(reason.contains("succeeds"), "{reason}");
    cluster.assert_no_panic();
}

/// A page rots where nothing else shows it: it isn't in the WAL, and the machine was killed.
async fn rot_while_it_stands(cluster: &mut Cluster, i: usize) {
    let file = cluster.data_dir(i).join("state.db");
    cluster.kill(i);
    change(&file, 100);
    cluster.start_machine(i);
}

async fn wait_mended(cluster: &Cluster, i: usize) {
    cluster
        .wait("the replica that differs is brought in line, with a report", || async {
            let log = cluster.log_of(i);
            let now = cluster.master().await?;
            let (_, after) = log.split_once("replica is distrusted")?;
            let done = after.contains("rejoin finished");
            (done && reports(cluster, i) == 1 && now != i).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_that_rotted_while_its_machine_stood_is_replaced_and_saved() {
    for machines in [3, 2] {
        let mut cluster = with_rows_on(machines).await;
        let backup = (cluster.wait_master().await + 1) % machines as usize;
        wait_in_file(&cluster, backup).await;
        rot_while_it_stands(&mut cluster, backup).await;
        wait_mended(&cluster, backup).await;
        cluster.assert_identical().await;
        cluster.assert_no_panic();
    }
}
