//! Transactions at and over the limit, and very many small ones: disk and memory stay bounded on every machine, and
//! nobody else is kept waiting for long. With figures of a gigabyte and of 100,000 writes: `TANIST_HUGE=1`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tanist_api::{Problem, Statement, code};
use tanist_client::{Client, Error};

use crate::{
    cluster::{Cluster, Layout, read},
    workload::{Workload, create_ledger, execute},
};

/// Rows of so many bytes each.
const FILL: &str =
    "INSERT INTO big(data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
    SELECT randomblob(?2) FROM n";
/// Files of a WAL are cut to 16 MiB when they start over.
const SHORT_WAL: u64 = 18 << 20;

fn huge() -> bool {
    std::env::var_os("TANIST_HUGE").is_some()
}

fn fill(rows: u64, bytes: u64) -> Statement {
    Statement::with(FILL, vec![json!(rows), json!(bytes)])
}

async fn with_limit(max_transaction: &str) -> Cluster {
    let extra = format!(
        "[replication]\nmax_transaction = \"{max_transaction}\"\n[store]\nwal_limit = \"1MiB\"\n[limits]\nstatement_time = \"60s\""
    );
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.execute(execute(vec![Statement::new("CREATE TABLE big(data BLOB)")])).await.unwrap();
    cluster
}

/// The most memory that a machine had since its start, in bytes.
fn memory(cluster: &Cluster, i: usize) -> u64 {
    let pid = cluster.machines[i].child.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

fn wal(cluster: &Cluster, i: usize) -> u64 {
    std::fs::metadata(cluster.data_dir(i).join("state.db-wal")).unwrap().len()
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Watches how long the WALs become.
struct Longest {
    bytes: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
}

impl Longest {
    fn of(cluster: &Cluster) -> Longest {
        let stop = Arc::new(AtomicBool::new(false));
        let files: Vec<_> = (0..3).map(|i| cluster.data_dir(i).join("state.db-wal")).collect();
        let bytes: Vec<_> = files.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        let (watch, ended) = (bytes.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for (file, longest) in files.iter().zip(&watch) {
                    let now = std::fs::metadata(file).map_or(0, |meta| meta.len());
                    longest.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Longest { bytes, stop }
    }

    fn get(&self, i: usize) -> u64 {
        self.bytes[i].load(Ordering::Relaxed)
    }
}

impl Drop for Longest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn refused(client: &Client, statements: Vec<Statement>) -> Problem {
    match client.execute(execute(statements)).await {
        Err(Error::Problem(problem)) => *problem,
        other => panic!("not refused: {other:?}"),
    }
}

/// Each of the requests is far over the limit, or just over it.
async fn too_large(
    max_transaction: &str,
    limit: u64,
    rows_of_a_megabyte: u64,
    wal_bound: u64,
    memory_bound: u64,
) {
    let cluster = with_limit(max_transaction).await;
    let client =
        Client::builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(120)).build().unwrap();
    let master = cluster.wait_master().await;
    let term = cluster.view(master).await.unwrap().term;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    let longest = Longest::of(&cluster);
    let megabyte = 1_000_000;
    let just_over = limit / megabyte + 2;
    let requests = [
        ("far over, large values", vec![fill(rows_of_a_megabyte, megabyte)]),
        ("far over, small values", vec![fill(rows_of_a_megabyte * 1000, 1000)]),
        ("just over", (0..just_over).map(|_| fill(1, megabyte)).collect()),
    ];
    for (what, statements) in requests {
        workload.take_longest_gap();
        let began = Instant::now();
        let problem = refused(&client, statements).await;
        let took = began.elapsed();
        assert_eq!(
            (problem.status, problem.code.as_str()),
            (413, code::TRANSACTION_TOO_LARGE),
            "{problem:?}"
        );
        let names = [limit.to_string(), "replication.max_transaction".to_owned()];
        assert!(names.iter().all(|name| problem.detail.contains(name)), "{}", problem.detail);
        workload.wait_for(50).await;
        println!(
            "limit {max_transaction}, {what}: refused after {took:?}, others waited {:?}, WALs at most {:?}",
            workload.take_longest_gap(),
            (0..3).map(|i| mib(longest.get(i))).collect::<Vec<_>>(),
        );
    }
    let memory: Vec<_> = (0..3).map(|i| memory(&cluster, i)).collect();
    println!(
        "limit {max_transaction}: master {master}, memory at most {:?}",
        memory.iter().map(|m| mib(*m)).collect::<Vec<_>>()
    );
    assert!(memory.iter().all(|bytes| *bytes < memory_bound), "{memory:?}");
    assert!(longest.get(master) < wal_bound, "the master's WAL had {}", mib(longest.get(master)));
    for i in (0..3).filter(|i| *i != master) {
        assert!(longest.get(i) < SHORT_WAL, "something reached a backup: {}", mib(longest.get(i)));
    }
    cluster
        .wait("all WALs are short", || async { (0..3).all(|i| wal(&cluster, i) < SHORT_WAL).then_some(()) })
        .await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
        assert_eq!(read::<i64>(&cluster.data_dir(i), "SELECT count(*) FROM big"), 0);
    }
    assert_reigns_on(&cluster, master, term).await;
    cluster.assert_no_panic();
}

async fn assert_reigns_on(cluster: &Cluster, master: usize, term: u64) {
    let view = cluster.view(master).await.unwrap();
    let reigns = (view.term, view.master);
    assert_eq!(reigns, (term, Some(cluster.machines[master].id.clone())), "it kept its lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_over_the_limit_is_refused_by_name_and_leaves_nothing() {
    too_large("1MiB", 1 << 20, 200, 12 << 20, 96 << 20).await;
    if huge() {
        too_large("16MiB", 16 << 20, 1000, 80 << 20, 160 << 20).await;
        too_large("256MiB", 256 << 20, 1000, 700 << 20, 700 << 20).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_past_its_time_is_refused_and_the_master_reigns_on() {
    let extra = "[limits]\nstatement_time = \"300ms\"".to_owned();
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let master = cluster.wait_master().await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let endless = "INSERT INTO ledger(entry) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
        SELECT count(*) FROM n";
    for _ in 0..3 {
        let problem = refused(&client, vec![Statement::new(endless)]).await;
        assert_eq!((problem.status, problem.code.as_str()), (408, code::STATEMENT_TIMEOUT), "{problem:?}");
        assert!(problem.detail.contains("limits.statement_time"), "{}", problem.detail);
        workload.wait_for(20).await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(master));
    assert_eq!(cluster.wait_master().await, master, "{}", cluster.logs());
    assert!(!cluster.log_of(master).contains("hand"), "{}", cluster.log_of(master));
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_just_within_a_raised_limit_is_stored_by_all_while_the_master_reigns_on() {
    let (limit, megabytes) = if huge() { ("256MiB", 250) } else { ("32MiB", 30) };
    let cluster = with_limit(limit).await;
    let client =
        Client::builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(120)).build().unwrap();
    let master = cluster.wait_master().await;
    cluster.settle().await;
    let term = cluster.view(master).await.unwrap().term;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    for round in 0..3 {
        workload.take_longest_gap();
        let began = Instant::now();
        client.execute(execute(vec![fill(megabytes, 1_000_000)])).await.unwrap();
        let took = began.elapsed();
        workload.wait_for(50).await;
        println!(
            "{megabytes} MB in one transaction: {took:?}, others waited {:?}",
            workload.take_longest_gap()
        );
        let rows = i64::try_from(megabytes).unwrap() * (round + 1);
        cluster
            .wait("every machine has it", || async {
                let has = |i| read::<i64>(&cluster.data_dir(i), "SELECT count(*) FROM big") == rows;
                (0..3).all(has).then_some(())
            })
            .await;
    }
    let memory: Vec<_> = (0..3).map(|i| mib(memory(&cluster, i))).collect();
    println!("master {master}, memory at most {memory:?}");
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
        let rows = i64::try_from(megabytes * 3).unwrap();
        assert_eq!(read::<i64>(&cluster.data_dir(i), "SELECT count(*) FROM big"), rows);
    }
    let log = cluster.log_of(master);
    assert!(!log.contains("rejoin"), "not streamed:\n{log}");
    // A backup may be left out for a moment, while its checkpoint moves all that: sent again and again it must not be.
    assert!(log.matches("streams to backup").count() <= 8, "sent again:\n{log}");
    assert_reigns_on(&cluster, master, term).await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_small_writes_are_all_counted_and_keep_every_wal_short() {
    let (clients, each) = if huge() { (64, 100_000 / 64) } else { (32, 4_000 / 32) };
    let cluster = with_limit("16MiB").await;
    let longest = Longest::of(&cluster);
    let began = Instant::now();
    let workers: Vec<_> = (0..clients)
        .map(|worker| {
            let client = cluster.client();
            tokio::spawn(async move {
                for n in 0..each {
                    let entry = json!(format!("{worker}/{n}"));
                    let insert = Statement::with("INSERT INTO ledger(entry) VALUES (?)", vec![entry]);
                    client.execute(execute(vec![insert])).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let writes = clients * each;
    println!(
        "{writes} writes in {:?}; WALs at most {:?}, memory at most {:?}",
        began.elapsed(),
        (0..3).map(|i| mib(longest.get(i))).collect::<Vec<_>>(),
        (0..3).map(|i| mib(memory(&cluster, i))).collect::<Vec<_>>(),
    );
    cluster.assert_identical().await;
    for i in 0..3 {
        assert!(longest.get(i) < SHORT_WAL, "{}", mib(longest.get(i)));
        let sql = "SELECT count(DISTINCT entry) * (count(DISTINCT entry) = count(*)) FROM ledger";
        assert_eq!(read::<i64>(&cluster.data_dir(i), sql), i64::from(writes));
    }
    cluster.assert_no_panic();
}
