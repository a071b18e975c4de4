//! Writers that are faster than a comparison of all pages: a machine that comes back is in line all the same.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use serde_json::json;
use tanist_api::Statement;
use tanist_client::Client;
use tokio::task::JoinHandle;

use crate::{
    cluster::{Cluster, Layout},
    workload::execute,
};

const ROWS: u64 = 80;
const BYTES: u64 = 250_000;

/// Clients that write other bytes over rows of a table, as fast as they can.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(client: &Client, count: u64) -> Writers {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |which: u64| {
            let (client, stop, written) = (client.clone(), Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                let mut row = which;
                while !stop.load(Relaxed) {
                    let sql = "UPDATE big SET data = randomblob(?) WHERE rowid = ?";
                    let update = Statement::with(sql, vec![json!(BYTES), json!(1 + row % ROWS)]);
                    client.execute(execute(vec![update])).await.unwrap();
                    written.fetch_add(1, Relaxed);
                    row += count + 1;
                }
            })
        };
        let tasks = (0..count).map(writer).collect();
        Writers { stop, written, tasks }
    }

    async fn finish(self) {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_comes_back_empty_is_in_line_although_writers_outrun_the_buffer() {
    let extra = "[replication]\nbuffer = \"1MiB\"\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    cluster.crown(0).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE big(data BLOB)")])).await.unwrap();
    for _ in 0..ROWS {
        let insert = Statement::with("INSERT INTO big VALUES (randomblob(?))", vec![json!(BYTES)]);
        client.execute(execute(vec![insert])).await.unwrap();
    }
    cluster.kill(2);
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(cluster.data_dir(2).join(file));
    }
    let writers = Writers::start(&client, 2);
    let begun = std::time::Instant::now();
    cluster.start_machine(2);
    cluster
        .wait("it is streamed to", || async {
            let view = cluster.view(0).await.ok()?;
            let back = view.members.iter().find(|member| member.id == "pc-3")?;
            (back.progress.as_deref() == Some("stream")).then_some(())
        })
        .await;
    println!("{:?}, {} written", begun.elapsed(), writers.written.load(Relaxed));
    // Without the heir it is the only one that can have each write, and comes to have it, while they go on.
    cluster.kill(1);
    cluster
        .wait("it is in the sync set", || async {
            (cluster.view(0).await.ok()?.sync_set == ["pc-1", "pc-3"]).then_some(())
        })
        .await;
    writers.finish().await;
    cluster.start_machine(1);
    cluster.assert_identical().await;
    let log = cluster.log_of(2);
    let passes: Vec<&str> =
        log.lines().filter(|line| line.contains("rejoin: in line with the master")).collect();
    let (all, changed): (Vec<&str>, Vec<&str>) =
        passes.into_iter().partition(|line| line.contains("only_changed=false"));
    assert!(all.len() == 1 && !changed.is_empty(), "all pages are compared once: {all:?} {changed:?}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_that_is_a_little_behind_is_streamed_to_after_a_restart_of_all() {
    let mut cluster = Cluster::of(3).await;
    cluster.crown(0).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE t(id INTEGER PRIMARY KEY)")])).await.unwrap();
    cluster.wait_both_keep_up().await;
    cluster.assert_identical().await;
    cluster.kill(2);
    for _ in 0..20 {
        client.execute(execute(vec![Statement::new("INSERT INTO t DEFAULT VALUES")])).await.unwrap();
    }
    for i in [1, 0] {
        assert!(cluster.terminate(i).success());
    }
    cluster.start_all();
    cluster.wait_both_keep_up().await;
    cluster.assert_identical().await;
    for i in 0..3 {
        assert!(!cluster.log_of(i).contains("rejoin: comparing"), "{}", cluster.log_of(i));
        assert!(!cluster.data_dir(i).join("recent.transactions").exists(), "of no use any more");
    }
    cluster.assert_no_panic();
}
