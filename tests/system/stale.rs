//! Strong reads at one machine without pause while others write: none may miss what was acknowledged before it began.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst},
};
use std::time::Duration;

use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::Consistency;
use tokio::task::JoinHandle;

use crate::{cluster::Cluster, workload::execute};

/// Writes that are made elsewhere.
const WRITES: i64 = 40;

pub struct StrongReads {
    stop: Arc<AtomicBool>,
    /// The newest value that was acknowledged.
    acknowledged: Arc<AtomicI64>,
    answered: Arc<AtomicUsize>,
    stale: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// A register with the value 0; who reigns.
pub async fn make_register(cluster: &Cluster) -> usize {
    let statements =
        ["CREATE TABLE register(value INTEGER)", "INSERT INTO register VALUES (0)"].map(Statement::new);
    cluster.client().execute(execute(statements.into())).await.unwrap();
    cluster.wait_master().await
}

impl StrongReads {
    /// Reads at this machine, and waits until it has answered some.
    pub async fn start(cluster: &Cluster, at: usize) -> StrongReads {
        let mut reads = StrongReads {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            answered: Arc::default(),
            stale: Arc::default(),
            tasks: vec![],
        };
        for _ in 0..2 {
            let client = cluster.builder().hosts(&cluster.url(at)).deadline(Duration::from_millis(300));
            let client = client.build().unwrap();
            let (stop, acknowledged) = (Arc::clone(&reads.stop), Arc::clone(&reads.acknowledged));
            let (answered, stale) = (Arc::clone(&reads.answered), Arc::clone(&reads.stale));
            reads.tasks.push(tokio::spawn(async move {
                let query = QueryRequest { statements: vec![Statement::new("SELECT value FROM register")] };
                while !stop.load(SeqCst) {
                    let before = acknowledged.load(SeqCst);
                    match client.query(query.clone(), Consistency::Strong, None).await {
                        Ok(answer) => {
                            let value = answer.results[0].rows[0][0].as_i64().unwrap();
                            answered.fetch_add(1, SeqCst);
                            if value < before {
                                stale
                                    .lock()
                                    .unwrap()
                                    .push(format!("{value} after {before} was acknowledged"));
                            }
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                    }
                }
            }));
        }
        cluster
            .wait("it answers strong reads", || async { (reads.answered.load(SeqCst) > 50).then_some(()) })
            .await;
        reads
    }

    /// None was stale.
    pub async fn finish(self) {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let stale = self.stale.lock().unwrap();
        let (count, first) = (stale.len(), stale.first());
        assert!(
            stale.is_empty(),
            "{count} of {} strong reads were stale, such as {first:?}",
            self.answered.load(SeqCst)
        );
    }
}

/// Writes at the others, as soon as one of them reigns.
pub async fn write_elsewhere(cluster: &Cluster, old: usize, reads: &StrongReads) {
    let others = (0..cluster.machines.len()).filter(|i| *i != old).map(|i| cluster.url(i));
    let others = others.collect::<Vec<_>>().join(",");
    let client = cluster.builder().hosts(&others).deadline(Duration::from_secs(60)).build().unwrap();
    for value in 1..=WRITES {
        let update = Statement::with("UPDATE register SET value = ?", vec![json!(value)]);
        client.execute(execute(vec![update])).await.unwrap();
        reads.acknowledged.store(value, SeqCst);
    }
    // Time for reads after the last one.
    tokio::time::sleep(Duration::from_millis(200)).await;
}
