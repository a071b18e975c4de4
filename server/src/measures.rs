//! What this process counts and times as it works, for `/metrics`.
//!
//! Owns the running totals; what a machine *is* at the moment of the question `http/metrics.rs` takes from the view. A
//! measurement costs a lock that nobody holds for long, once for a request or a transaction. Names: [`Measures::register`].

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tanist_replication::Term;

/// From a tenth of a millisecond, a quick disk's sync, to ten seconds, where every patience has ended.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How many writes go together.
const WRITES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];

const UNKNOWN: u64 = u64::MAX;
/// Between two looks at the disk's free room.
const LOOK_AT_DISK: Duration = Duration::from_secs(5);

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// A route of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Route {
    /// `GET`, ...
    pub(crate) method: &'static str,
    /// As the API names it, `/v1/nodes/{id}`; `none` for what isn't there.
    pub(crate) route: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: &'static str,
    code: u16,
}

/// Counts and times since the start of this process. Shared by `Arc`.
#[derive(Debug)]
pub(crate) struct Measures {
    answers: Family<Answered, Counter>,
    requests: Family<Route, Histogram, fn() -> Histogram>,
    queue: Histogram,
    commit: Histogram,
    acknowledgement: Histogram,
    writes: Histogram,
    sync: Histogram,
    apply: Histogram,
    leadership_changes: Counter,
    without_master: Counter<f64, AtomicU64>,
    seen: Mutex<Seen>,
    wal_bytes: AtomicU64,
    database_bytes: AtomicU64,
    /// Room on the disk; [`UNKNOWN`] until it was looked at.
    free_bytes: AtomicU64,
}

/// Who was the master when last looked.
#[derive(Debug, Default)]
struct Seen {
    master: Option<String>,
    term: Term,
    at_ns: u64,
}

impl Default for Measures {
    fn default() -> Measures {
        Measures {
            answers: Family::default(),
            requests: Family::new_with_constructor(seconds as fn() -> Histogram),
            queue: seconds(),
            commit: seconds(),
            acknowledgement: seconds(),
            writes: Histogram::new(WRITES),
            sync: seconds(),
            apply: seconds(),
            leadership_changes: Counter::default(),
            without_master: Counter::default(),
            seen: Mutex::default(),
            wal_bytes: AtomicU64::new(0),
            database_bytes: AtomicU64::new(0),
            free_bytes: AtomicU64::new(UNKNOWN),
        }
    }
}

impl Measures {
    /// Shows all of them under their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests answered, by method, route and status",
            self.answers.clone(),
        );
        let mut times = |name: &str, help: &str, metric: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
        };
        times(
            "write_queue",
            "Master: from a write's arrival until its transaction begins, for each write",
            &self.queue,
        );
        times("commit", "Master: a transaction's SQL and its commit, without a sync", &self.commit);
        times(
            "acknowledgement",
            "Master: from a transaction's commit until the whole sync set has it on disk",
            &self.acknowledgement,
        );
        times("wal_sync", "Master: syncs of the write-ahead log on its own disk", &self.sync);
        times("apply", "Backup: storing of transactions, with their sync", &self.apply);
        registry.register_with_unit(
            "http_request",
            "From a request's head until its answer's head, by method and route",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register("transaction_writes", "Master: writes in a transaction", self.writes.clone());
        registry.register(
            "leadership_changes",
            "Times that another machine, or the same one in a new term, became master, as seen here",
            self.leadership_changes.clone(),
        );
        registry.register_with_unit(
            "without_master",
            "How long no master was known here, since the start",
            Unit::Seconds,
            self.without_master.clone(),
        );
    }

    /// A request was answered.
    pub(crate) fn answered(&self, route: Route, code: u16, took: Duration) {
        let Route { method, route: name } = route;
        self.answers.get_or_create(&Answered { method, route: name, code }).inc();
        self.requests.get_or_create(&route).observe(took.as_secs_f64());
    }

    /// A transaction of writes that have waited so long is to begin.
    pub(crate) fn begun(&self, waited: impl ExactSizeIterator<Item = Duration>) {
        if waited.len() > 0 {
            self.writes.observe(f64::from(u32::try_from(waited.len()).unwrap_or(u32::MAX)));
        }
        waited.for_each(|time| self.queue.observe(time.as_secs_f64()));
    }

    /// It was committed after so long.
    pub(crate) fn committed(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }

    /// So long after that it was acknowledged (R7).
    pub(crate) fn acknowledged(&self, took: Duration) {
        self.acknowledgement.observe(took.as_secs_f64());
    }

    /// The log was synced.
    pub(crate) fn synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
    }

    /// A backup has stored transactions.
    pub(crate) fn applied(&self, took: Duration) {
        self.apply.observe(took.as_secs_f64());
    }

    /// How large this replica and its log are.
    pub(crate) fn sized(&self, database: u64, wal: u64) {
        self.database_bytes.store(database, Relaxed);
        self.wal_bytes.store(wal, Relaxed);
    }

    /// Bytes of the database, and of its log.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        (self.database_bytes.load(Relaxed), self.wal_bytes.load(Relaxed))
    }

    /// Room left on the disk when last looked, in bytes.
    pub(crate) fn free(&self) -> Option<u64> {
        Some(self.free_bytes.load(Relaxed)).filter(|free| *free != UNKNOWN)
    }

    /// Looks at the disk's free room again and again, where a disk that doesn't answer is in nobody's way.
    pub(crate) async fn watch_disk(self: Arc<Measures>, directory: PathBuf) {
        loop {
            let at = directory.clone();
            let free = tokio::task::spawn_blocking(move || fs4::available_space(at)).await;
            self.free_bytes.store(free.ok().and_then(Result::ok).unwrap_or(UNKNOWN), Relaxed);
            tokio::time::sleep(LOOK_AT_DISK).await;
        }
    }

    /// Who is the master now, as far as this machine knows.
    pub(crate) fn saw(&self, master: Option<&str>, term: Term, now_ns: u64) {
        let mut seen = self.seen.lock();
        if seen.master.is_none() && seen.at_ns > 0 {
            let since = Duration::from_nanos(now_ns.saturating_sub(seen.at_ns));
            self.without_master.inc_by(since.as_secs_f64());
        }
        seen.at_ns = now_ns;
        if master.is_some() && (master != seen.master.as_deref() || term != seen.term) {
            // The first one that is seen was perhaps there before this process.
            if seen.term != Term::ZERO {
                self.leadership_changes.inc();
            }
            seen.term = term;
        }
        if master != seen.master.as_deref() {
            seen.master = master.map(str::to_owned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_the_master_and_the_time_without_one_are_counted() {
        let measures = Measures::default();
        let at = |seconds: u64| seconds * 1_000_000_000;
        let counted = || (measures.leadership_changes.get(), measures.without_master.get());
        measures.saw(None, Term(3), at(1));
        measures.saw(Some("a"), Term(3), at(2));
        assert_eq!(counted(), (0, 1.0), "who was there before is no change");
        measures.saw(Some("a"), Term(3), at(9));
        assert_eq!(counted(), (0, 1.0));
        measures.saw(None, Term(3), at(10));
        measures.saw(None, Term(3), at(12));
        measures.saw(Some("b"), Term(4), at(13));
        assert_eq!(counted(), (1, 4.0));
        measures.saw(Some("b"), Term(5), at(14));
        assert_eq!(counted(), (2, 4.0), "the same one in a new term");
    }
}
