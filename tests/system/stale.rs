//! Strong reads at one machine without pause while others write: none may miss what was acknowledged before it began. Over plain
//! HTTP to that machine alone: a client would go to whomever it is sent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tanist_api::Statement;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    cluster::Cluster,
    http_input::{raw, request},
    workload::execute,
};

/// Writes that are made elsewhere.
const WRITES: i64 = 40;
/// A machine that doesn't answer in this time is asked again.
const ANSWER_TIME: Duration = Duration::from_millis(500);

pub struct StrongReads {
    stop: Arc<AtomicBool>,
    /// The newest value that was acknowledged.
    acknowledged: Arc<AtomicI64>,
    answered: Arc<AtomicUsize>,
    stale: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// A register with the value 0; who reigns.
pub async fn make_register(cluster: &Cluster) -> usize {
    let statements =
        ["CREATE TABLE register(value INTEGER)", "INSERT INTO register VALUES (0)"].map(Statement::new);
    cluster.client().execute(execute(statements.into())).await.unwrap();
    cluster.wait_master().await
}

/// The value, if this machine itself answers a strong read.
async fn read(ip: &str) -> Option<i64> {
    let body = br#"{"statements":[{"sql":"SELECT value FROM register"}]}"#;
    let request = request("POST", "/v1/query?consistency=strong", body);
    let (status, answer) = timeout(ANSWER_TIME, raw(ip, request)).await.ok()?;
    let rows = answer.split_once("\"rows\":[[").filter(|_| status == 200)?.1;
    rows.split_once(']')?.0.parse().ok()
}

impl StrongReads {
    /// Reads at this machine, and waits until it has answered some.
    pub async fn start(cluster: &Cluster, at: usize) -> StrongReads {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicI64::new(0));
        let answered = Arc::new(AtomicUsize::new(0));
        let stale = Arc::new(Mutex::new(vec![]));
        let task = {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (answered, stale) = (Arc::clone(&answered), Arc::clone(&stale));
            let ip = cluster.machines[at].ip.clone();
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let before = acknowledged.load(SeqCst);
                    match read(&ip).await {
                        Some(value) => {
                            answered.fetch_add(1, SeqCst);
                            if value < before {
                                stale
                                    .lock()
                                    .unwrap()
                                    .push(format!("{value} after {before} was acknowledged"));
                            }
                        }
                        None => tokio::time::sleep(Duration::from_millis(2)).await,
                    }
                }
            })
        };
        cluster
            .wait("it answers strong reads", || async { (answered.load(SeqCst) > 20).then_some(()) })
            .await;
        StrongReads { stop, acknowledged, answered, stale, task }
    }

    /// None was stale.
    pub async fn finish(self) {
        self.stop.store(true, SeqCst);
        self.task.await.unwrap();
        let (stale, answered) = (self.stale.lock().unwrap(), self.answered.load(SeqCst));
        let count = stale.len();
        assert!(
            stale.is_empty(),
            "{count} of {answered} strong reads were stale, such as {:?}",
            stale.first()
        );
    }
}

/// Writes at the others, as soon as one of them reigns.
pub async fn write_elsewhere(cluster: &Cluster, old: usize, reads: &StrongReads) {
    let others: Vec<usize> = (0..cluster.machines.len()).filter(|i| *i != old).collect();
    let until = Instant::now() + Duration::from_secs(60);
    for value in 1..=WRITES {
        let body = format!(r#"{{"statements":[{{"sql":"UPDATE register SET value = {value}"}}]}}"#);
        'tries: loop {
            for other in &others {
                let request = request("POST", "/v1/execute", body.as_bytes());
                let answer = timeout(ANSWER_TIME, raw(&cluster.machines[*other].ip, request)).await;
                if answer.is_ok_and(|(status, _)| status == 200) {
                    break 'tries;
                }
            }
            assert!(Instant::now() < until, "nobody else takes writes\n{}", cluster.logs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reads.acknowledged.store(value, SeqCst);
    }
    // Time for reads after the last one.
    tokio::time::sleep(Duration::from_millis(200)).await;
}
