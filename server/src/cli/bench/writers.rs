//! Writers that go on over any failover and remember what was acknowledged.
//!
//! Owns the numbers: each writer inserts 0, 1, 2 … and leaves none out, so that a count tells whether one is missing. Never
//! repeats a number under another key.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::json;
use tanist_api::{ExecuteRequest, Statement};
use tanist_client::{Client, Error};
use tokio::task::JoinHandle;

/// Without constraint, so that a write done twice shows.
const CREATE: &str = "CREATE TABLE bench_failover(writer INTEGER NOT NULL, seq INTEGER NOT NULL)";
pub(super) const DROP: &str = "DROP TABLE bench_failover";
const INSERT: &str = "INSERT INTO bench_failover(writer, seq) VALUES (?, ?)";
/// Acknowledged ones that are there; all rows; distinct rows.
pub(super) const COUNT: &str = "SELECT (SELECT count(DISTINCT seq) FROM bench_failover WHERE writer = ?1 AND seq < ?2 \
     AND seq NOT IN (SELECT value FROM json_each(?3))), count(*), count(DISTINCT seq) FROM bench_failover WHERE writer = ?4";
/// Between two writes of one writer: the gap is measured finely enough, and the table stays small.
const PAUSE: Duration = Duration::from_millis(2);

/// What one writer did.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Numbers below were written.
    pub(super) next: u64,
    /// Except that of these it isn't known.
    pub(super) unknown: Vec<u64>,
}

impl Record {
    pub(super) fn acknowledged(&self) -> u64 {
        self.next - self.unknown.len() as u64
    }
}

#[derive(Debug)]
struct Meter {
    last: Instant,
    longest: Duration,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    meter: Mutex<Meter>,
}

impl Shared {
    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running writers.
#[derive(Debug)]
pub(super) struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<Record, Error>>>,
}

/// Makes the table; one that exists isn't ours to fill.
pub(super) async fn create(client: &Client) -> anyhow::Result<()> {
    let request = ExecuteRequest { statements: vec![Statement::new(CREATE)], transaction: true };
    client.execute(request).await.with_context(|| {
        format!("make the benchmark's table (left by an earlier run? `tanist execute \"{DROP}\"`)")
    })?;
    Ok(())
}

impl Writers {
    pub(super) fn start(client: &Client, count: usize) -> Writers {
        let meter = Mutex::new(Meter { last: Instant::now(), longest: Duration::ZERO });
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), meter });
        let tasks =
            (0..count).map(|id| tokio::spawn(write(client.clone(), Arc::clone(&shared), id))).collect();
        Writers { shared, tasks }
    }

    /// Forgets the gaps until now.
    pub(super) fn begin_round(&self) {
        self.shared.meter().longest = Duration::ZERO;
    }

    pub(super) fn acknowledged_after(&self, at: Instant) -> bool {
        self.shared.meter().last > at
    }

    /// The longest time without an acknowledged write since the round began, the current one included.
    pub(super) fn longest_gap(&self) -> Duration {
        let meter = self.shared.meter();
        meter.longest.max(meter.last.elapsed())
    }

    /// Whether all still write.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.tasks.iter().any(JoinHandle::is_finished) {
            bail!("a writer was refused for good; is the cluster out of disk, or the table gone?");
        }
        Ok(())
    }

    pub(super) async fn finish(self) -> anyhow::Result<Vec<Record>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut records = vec![];
        for task in self.tasks {
            records.push(task.await.context("a writer")??);
        }
        Ok(records)
    }
}

async fn write(client: Client, shared: Arc<Shared>, writer: usize) -> Result<Record, Error> {
    let mut record = Record::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let insert = Statement::with(INSERT, vec![json!(writer), json!(record.next)]);
        match client.execute(ExecuteRequest { statements: vec![insert], transaction: true }).await {
            Ok(_) => {
                let now = Instant::now();
                let mut meter = shared.meter();
                let gap = now.saturating_duration_since(meter.last);
                meter.longest = meter.longest.max(gap);
                meter.last = meter.last.max(now);
            }
            Err(Error::OutcomeUnknown { .. } | Error::Unavailable { .. }) => record.unknown.push(record.next),
            Err(error) => return Err(error),
        }
        record.next += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(record)
}
