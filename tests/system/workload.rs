//! Clients that write without pause and remember what was acknowledged.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tanist_api::{ExecuteRequest, Statement};
use tanist_client::{Client, Error};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;

/// A running workload.
pub struct Workload {
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<Shared>>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    acknowledged: BTreeSet<String>,
    unknown: BTreeSet<String>,
    last: Option<Instant>,
    longest_gap: Duration,
}

/// What a workload has seen.
pub struct Outcome {
    pub acknowledged: BTreeSet<String>,
    pub unknown: BTreeSet<String>,
}

pub fn execute(statements: Vec<Statement>) -> ExecuteRequest {
    ExecuteRequest { statements, transaction: true }
}

pub async fn create_ledger(client: &Client) {
    client
        .execute(execute(vec![Statement::new("CREATE TABLE IF NOT EXISTS ledger(entry TEXT NOT NULL)")]))
        .await
        .unwrap();
}

impl Workload {
    /// `workers` clients insert distinct entries, each once its predecessor is acknowledged.
    pub fn start(client: &Client, workers: usize, tag: &str) -> Workload {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Mutex::new(Shared::default()));
        let workers = (0..workers)
            .map(|worker| {
                let (client, stop, shared, tag) =
                    (client.clone(), Arc::clone(&stop), Arc::clone(&shared), tag.to_owned());
                tokio::spawn(async move {
                    let mut n = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        let entry = format!("{tag}/{worker}/{n}");
                        n += 1;
                        let insert =
                            Statement::with("INSERT INTO ledger(entry) VALUES (?)", vec![json!(entry)]);
                        let result = client.execute(execute(vec![insert])).await;
                        let mut shared = shared.lock().unwrap();
                        match result {
                            Ok(_) => {
                                let now = Instant::now();
                                if let Some(last) = shared.last {
                                    shared.longest_gap = shared.longest_gap.max(now - last);
                                }
                                shared.last = Some(now);
                                shared.acknowledged.insert(entry);
                            }
                            Err(Error::OutcomeUnknown { .. }) => {
                                shared.unknown.insert(entry);
                            }
                            Err(error) => panic!("write {entry}: {error}"),
                        }
                    }
                })
            })
            .collect();
        Workload { stop, shared, workers }
    }

    pub fn count(&self) -> usize {
        self.shared.lock().unwrap().acknowledged.len()
    }

    /// The longest time without an acknowledged write since the last call.
    pub fn take_longest_gap(&self) -> Duration {
        std::mem::take(&mut self.shared.lock().unwrap().longest_gap)
    }

    /// Waits until `more` further writes are acknowledged.
    pub async fn wait_for(&self, more: usize) {
        let target = self.count() + more;
        let until = Instant::now() + Duration::from_secs(60);
        while self.count() < target {
            assert!(Instant::now() < until, "no {more} further writes in 60 s");
            assert!(!self.workers.iter().any(JoinHandle::is_finished), "a worker ended early");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it: the replicas are identical, each has what was acknowledged once, and no machine has met one of our own bugs.
    /// For clusters without a witness.
    pub async fn finish_on(self, cluster: &Cluster) -> Outcome {
        let outcome = self.finish().await;
        cluster.assert_identical().await;
        (0..cluster.machines.len()).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
        cluster.assert_no_panic();
        outcome
    }

    pub async fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let shared = Arc::into_inner(self.shared).unwrap().into_inner().unwrap();
        Outcome { acknowledged: shared.acknowledged, unknown: shared.unknown }
    }
}

impl Outcome {
    /// Every acknowledged entry stands in the replica exactly once, and nothing that nobody wrote.
    pub fn assert_in(&self, dir: &std::path::Path) {
        self.check_in(dir).unwrap();
    }

    /// What [`Outcome::assert_in`] asserts, as a sentence on what is wrong.
    pub fn check_in(&self, dir: &std::path::Path) -> Result<(), String> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let text = |error: rusqlite::Error| format!("{}: {error}", dir.display());
        let connection = rusqlite::Connection::open_with_flags(dir.join("state.db"), flags).map_err(text)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(text)?;
        let mut statement = connection.prepare("SELECT entry FROM ledger").map_err(text)?;
        let mut found = BTreeSet::new();
        for entry in statement.query_map([], |row| row.get::<_, String>(0)).map_err(text)? {
            let entry = entry.map_err(text)?;
            if found.contains(&entry) {
                return Err(format!("{entry} stands twice in {}", dir.display()));
            }
            found.insert(entry);
        }
        let lost: Vec<_> = self.acknowledged.difference(&found).take(5).collect();
        if !lost.is_empty() {
            return Err(format!("acknowledged writes are lost in {}: {lost:?} ...", dir.display()));
        }
        let invented =
            found.difference(&self.acknowledged).filter(|entry| !self.unknown.contains(*entry)).count();
        if invented > 0 {
            return Err(format!("{invented} entries in {} that nobody wrote", dir.display()));
        }
        Ok(())
    }
}
