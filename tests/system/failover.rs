//! The master dies, is stopped, leaves; everybody dies. Nothing acknowledged is lost and nobody answers twice.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::Consistency;

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout, read},
    workload::{Workload, create_ledger, execute},
};

pub fn rounds() -> usize {
    std::env::var("TANIST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// A random wait that differs from run to run; the test holds for any.
pub fn moment(limit_ms: u64) -> Duration {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    Duration::from_millis(u64::from_le_bytes(bytes) % limit_ms)
}

/// Kills the master again and again under load: nothing is lost. How many writes were acknowledged, and the longest times
/// without one at each kill, in order.
pub async fn kill_masters(layout: &Layout) -> (usize, Vec<Duration>) {
    let mut cluster = Cluster::start(layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 4, "w");
    let mut gaps = vec![];
    for _ in 0..rounds() {
        workload.wait_for(50).await;
        tokio::time::sleep(moment(300)).await;
        let master = cluster.wait_master().await;
        workload.take_longest_gap();
        cluster.kill(master);
        workload.wait_for(50).await;
        gaps.push(workload.take_longest_gap());
        cluster.start_machine(master);
        cluster.wait_back(master).await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty(), "idempotency keys settle every outcome: {:?}", outcome.unknown);
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
    gaps.sort();
    (outcome.acknowledged.len(), gaps)
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_outlive_the_killed_master() {
    let (writes, gaps) = kill_masters(&Layout::of(3)).await;
    println!("{writes} writes over {} kills; longest gaps {gaps:?}", gaps.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn master_stopped_by_sigstop_answers_nothing_stale_when_it_goes_on() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    let old = cluster.wait_master().await;
    client
        .execute(execute(vec![
            Statement::new("CREATE TABLE register(value INTEGER)"),
            Statement::new("INSERT INTO register VALUES (1)"),
        ]))
        .await
        .unwrap();
    cluster.signal(old, Signal::STOP);
    let others = (0..3).filter(|i| *i != old).map(|i| cluster.url(i)).collect::<Vec<_>>().join(",");
    let others = tanist_client::Client::new(&others).unwrap();
    others.execute(execute(vec![Statement::new("UPDATE register SET value = 2")])).await.unwrap();

    // Requests that wait in the stopped process's socket, and others just after it goes on: none may see the past.
    let address = format!("{}:{HTTP_PORT}", cluster.machines[old].ip);
    let body = r#"{"statements":[{"sql":"SELECT value FROM register"}]}"#;
    let ask = move || {
        let address = address.clone();
        async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let request = format!(
                "POST /v1/query HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    let mut asked: Vec<_> = (0..8).map(|_| tokio::spawn(ask())).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.signal(old, Signal::CONT);
    asked.extend((0..200).map(|_| tokio::spawn(ask())));
    for answer in asked {
        let answer = answer.await.unwrap();
        let stale = answer.starts_with("HTTP/1.1 200") && answer.contains("[[1]]");
        assert!(!stale, "the stopped master answered from the past:\n{answer}");
    }
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_machines_killed_at_once_lose_nothing() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 4, "w");
    workload.wait_for(200).await;
    for i in 0..3 {
        cluster.signal(i, Signal::KILL);
    }
    for i in 0..3 {
        cluster.kill(i);
    }
    cluster.start_all();
    workload.wait_for(50).await;
    workload.finish_on(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_backup_delays_writes_no_longer_than_the_sync_timeout_and_catches_up() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 4, "w");
    workload.wait_for(50).await;
    let master = cluster.wait_master().await;
    let view = cluster.view(master).await.unwrap();
    let heir = cluster.index_of(view.sync_set.iter().find(|id| **id != cluster.machines[master].id).unwrap());
    cluster.kill(heir);
    workload.wait_for(200).await;
    cluster.start_machine(heir);
    workload.wait_for(50).await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn master_told_to_stop_says_goodbye_and_is_replaced_before_its_lease_ends() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(50).await;
    let master = cluster.wait_master().await;
    let stopping = Instant::now();
    let status = cluster.terminate(master);
    assert!(status.success(), "{status}\n{}", cluster.log_of(master));
    workload.wait_for(50).await;
    println!("serving again {:?} after SIGTERM", stopping.elapsed());
    let heir = cluster.wait_master().await;
    assert!(cluster.log_of(heir).contains("it said goodbye"), "{}", cluster.logs());
    cluster.start_machine(master);
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(master));
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_data_machines_and_a_witness_survive_the_master() {
    let layout = Layout { ranks: vec![1, 2, 0], ..Layout::of(0) };
    let mut cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(50).await;
    let master = cluster.wait_master().await;
    assert!(master < 2, "a witness never reigns");
    cluster.kill(master);
    workload.wait_for(50).await;
    cluster.start_machine(master);
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    for i in 0..2 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    assert!(!cluster.data_dir(2).join("state.db").exists(), "a witness holds no data");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_lost_its_disk_gets_a_copy_while_the_cluster_serves() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let blob = Statement::new("CREATE TABLE big(data BLOB)");
    client.execute(execute(vec![blob])).await.unwrap();
    for _ in 0..20 {
        let insert = Statement::new("INSERT INTO big VALUES (randomblob(500000))");
        client.execute(execute(vec![insert])).await.unwrap();
    }
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let master = cluster.wait_master().await;
    let lost = (master + 1) % 3;
    cluster.kill(lost);
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(cluster.data_dir(lost).join(file));
    }
    workload.wait_for(50).await;
    cluster.start_machine(lost);
    workload.wait_for(100).await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(lost));
    assert_eq!(read::<i64>(&cluster.data_dir(lost), "SELECT count(*) FROM big"), 20);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_read_sees_every_write_acknowledged_before_it_and_positions_never_go_back() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    client
        .execute(execute(vec![
            Statement::new("CREATE TABLE register(value INTEGER)"),
            Statement::new("INSERT INTO register VALUES (0)"),
        ]))
        .await
        .unwrap();
    let query = QueryRequest { statements: vec![Statement::new("SELECT value FROM register")] };
    for value in 1..=60i64 {
        let update = Statement::with("UPDATE register SET value = ?", vec![json!(value)]);
        client.execute(execute(vec![update])).await.unwrap();
        if value == 30 {
            let master = cluster.wait_master().await;
            cluster.kill(master);
        }
        let answer = client.query(query.clone(), Consistency::Strong, None).await.unwrap();
        assert_eq!(answer.results[0].rows, vec![vec![json!(value)]]);
    }
    cluster.assert_no_panic();
}

/// The helpers that machine `i` has started and that still run.
fn helpers(cluster: &Cluster, i: usize) -> Vec<u32> {
    let parent = format!("PPid:\t{}\n", cluster.pid_of(i));
    let is_helper = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        is_running(*pid) && status.contains(&parent)
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(is_helper).collect()
}

/// The master is killed, then a backup is stopped, and no connection that is refused says so. The longest time without an
/// acknowledged write, and the cluster.
pub async fn end_where_no_connection_is_refused(layout: Layout) -> (Duration, Cluster) {
    // Longer than a write has patience: by silence alone, some would end without an answer.
    let extra = "[timing]\nlease = \"60s\"\ntrust_refused = false\n".to_owned() + &layout.extra;
    let mut cluster = Cluster::start(&Layout { extra, ..layout }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(50).await;
    let first = cluster.wait_master().await;
    cluster.wait_both_keep_up().await;
    workload.take_longest_gap();
    cluster.kill(first);
    workload.wait_for(50).await;
    let second = cluster.wait_master().await;
    assert_ne!(second, first);
    let log = cluster.log_of(second);
    assert!(log.contains("its computer says that its process has ended"), "{log}");
    // The end of a backup, too: the master would wait for its answers.
    cluster.start_machine(first);
    cluster.wait_back(first).await;
    let third = (0..3).find(|i| ![first, second].contains(i)).unwrap();
    assert!(cluster.terminate(third).success());
    workload.wait_for(50).await;
    let gap = workload.take_longest_gap();
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    outcome.assert_in(&cluster.data_dir(second));
    cluster.start_machine(third);
    cluster.wait_back(third).await;
    cluster.assert_no_panic();
    (gap, cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn end_is_told_where_no_connection_is_refused() {
    let extra = "end_notice = true\n".to_owned();
    let (gap, mut cluster) = end_where_no_connection_is_refused(Layout { extra, ..Layout::of(3) }).await;
    println!("longest gap {gap:?}");
    let master = cluster.wait_master().await;
    let (stopped, killed) = ((master + 1) % 3, (master + 2) % 3);
    let (first, second) = (helpers(&cluster, stopped), helpers(&cluster, killed));
    assert_eq!((first.len(), second.len()), (1, 1));
    // Whoever replaces the program's file finds it unused.
    assert!(cluster.terminate(stopped).success());
    assert!(!is_running(first[0]));
    cluster.kill(killed);
    cluster.wait("the helper has ended", || async { (!is_running(second[0])).then_some(()) }).await;
}

/// Whether it is a process, and such a helper.
fn is_running(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.ends_with(b"\0end-notice\0")
}
