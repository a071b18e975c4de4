//! The read pool: a few threads, each with a read-only connection of its own, and a bounded queue. The server's own reads
//! have threads and a queue of their own, so that no statement of a user's is in their way.
//!
//! Owns snapshots and their positions, and the replacement of threads that are stuck. Never decides how fresh is fresh
//! enough: `http/query.rs` does.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tanist_api::Statement;
use tanist_replication::Position;
use tanist_store::{PageSums, Reader, StoreError, open_reader};
use tokio::sync::oneshot;

use crate::{
    clock,
    inbox::{Command, Inbox},
    sql::{self, SqlError, SqlLimits},
};

/// Threads for the server's own reads.
const OWN_THREADS: usize = 2;
/// The server's own reads that may wait.
const OWN_QUEUE: usize = 1024;
/// A read that goes on for so long past its limit is stuck: it is in the middle of something that SQLite can't leave.
const GRACE: Duration = Duration::from_secs(2);

/// Settings of the pool.
#[derive(Debug, Clone, Copy)]
pub struct ReadPoolConfig {
    /// Threads, each with a connection.
    pub threads: usize,
    /// Reads that may wait; one more is refused.
    pub queue: usize,
    /// Page cache of each connection, in bytes.
    pub cache_bytes: u64,
    /// Limits on results.
    pub sql: SqlLimits,
    /// How long a read's statements may run together.
    pub time_limit: Duration,
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Too many reads wait.
    #[error("too many reads wait")]
    Overloaded,
    /// All threads are in statements that don't end.
    #[error(
        "all readers are stuck in statements that don't end; they were told to long ago (limits.statement_time)"
    )]
    Stuck,
    /// This machine holds no data.
    #[error("this machine is a witness and holds no data")]
    Witness,
    /// A statement was refused.
    #[error(transparent)]
    Sql(SqlError),
    /// A page isn't what was written; it is being replaced.
    #[error(
        "page {0} of this machine's database isn't what was written; it is being replaced from another machine"
    )]
    Rotten(u32),
    /// The database can't be read.
    #[error("{0}")]
    Storage(String),
}

/// A write from outside looks rotten until the master adopts it: so long is waited for that,
const ADOPTION_TIME: Duration = Duration::from_millis(1000);
/// and so long between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The store thread is told of a rotten page at most so often.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// A read's answer.
#[derive(Debug)]
pub struct ReadDone {
    /// The snapshot's position.
    pub position: Position,
    /// JSON array of the statements' results.
    pub answer: Bytes,
}

type Answer = Result<ReadDone, ReadError>;

/// What users' SQL may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Everything: an admin's, or where there are no tokens.
    All,
    /// Not the hashes of tokens, others' answers, and the record of changes by SQL.
    Usual,
}

struct Job {
    statements: Vec<Statement>,
    sight: Sight,
    respond: oneshot::Sender<Answer>,
}

/// Gets the reader, or why there is none; says whether the reader is to be kept.
type OwnRead = Box<dyn FnOnce(Result<&mut Reader, ReadError>, &Source) -> bool + Send>;

/// A handle on the pool; cheap to clone. The threads end with the last handle.
#[derive(Clone)]
pub struct ReadPool(Option<Queues>);

#[derive(Clone)]
struct Queues {
    jobs: SyncSender<Job>,
    own: SyncSender<OwnRead>,
    crew: Arc<Crew>,
}

impl std::fmt::Debug for ReadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadPool")
    }
}

/// The threads that run users' statements.
struct Crew {
    queue: Mutex<Receiver<Job>>,
    source: Source,
    desks: Mutex<Vec<Arc<Desk>>>,
    /// Threads that were replaced and have not come back.
    stuck: AtomicUsize,
    /// All that were ever replaced.
    replaced: AtomicU64,
}

/// What one thread is at.
#[derive(Default)]
struct Desk {
    /// When it must have ended, by this process's clock; 0: it waits for work.
    due_ns: AtomicU64,
    /// Somebody else has its place.
    given_up: AtomicBool,
    respond: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl Desk {
    fn is_late(&self, now_ns: u64) -> bool {
        let due = self.due_ns.load(Relaxed);
        due != 0 && now_ns > due
    }

    fn answer(&self, answer: Answer) {
        if let Some(respond) = self.respond.lock().take() {
            let _ = respond.send(answer);
        }
    }
}

/// How the threads are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadersHealth {
    /// Stuck now, replaced or not.
    pub(crate) stuck: usize,
    /// Replaced since the start.
    pub(crate) replaced: u64,
}

impl Crew {
    fn hire(self: &Arc<Crew>, index: usize) -> Arc<Desk> {
        let desk = Arc::new(Desk::default());
        let (crew, at) = (Arc::clone(self), Arc::clone(&desk));
        let started = thread::Builder::new().name(format!("reader-{index}")).spawn(move || work(&crew, &at));
        if let Err(error) = started {
            tracing::error!(%error, "start a reader thread");
        }
        desk
    }

    fn look(self: &Arc<Crew>, now_ns: u64) {
        let mut desks = self.desks.lock();
        for index in 0..desks.len() {
            let desk = Arc::clone(&desks[index]);
            if !desk.is_late(now_ns) || desk.given_up.load(Relaxed) {
                continue;
            }
            // Its client needn't wait for what nobody can end.
            desk.answer(Err(ReadError::Sql(SqlError::stuck())));
            if self.stuck.load(Relaxed) >= self.source.config.threads {
                continue;
            }
            desk.given_up.store(true, Relaxed);
            self.stuck.fetch_add(1, Relaxed);
            self.replaced.fetch_add(1, Relaxed);
            tracing::warn!(
                reader = index,
                limit = ?self.source.config.time_limit,
                "a reader is stuck in a statement past its limit: another takes its place"
            );
            desks[index] = self.hire(index);
        }
    }
}

impl ReadPool {
    /// Starts the threads; a witness has none.
    #[must_use]
    pub(crate) fn start(
        directory: &Path,
        config: ReadPoolConfig,
        witness: bool,
        verified: Option<Verified>,
    ) -> ReadPool {
        if witness {
            return ReadPool(None);
        }
        let verified = Arc::new(verified);
        let source = || Source { directory: directory.to_owned(), config, verified: Arc::clone(&verified) };
        let (jobs, queue) = sync_channel(config.queue);
        let crew = Arc::new(Crew {
            queue: Mutex::new(queue),
            source: source(),
            desks: Mutex::default(),
            stuck: AtomicUsize::new(0),
            replaced: AtomicU64::new(0),
        });
        *crew.desks.lock() = (0..config.threads).map(|index| crew.hire(index)).collect();
        let (own, queue) = sync_channel(OWN_QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..OWN_THREADS {
            let (queue, source) = (Arc::clone(&queue), source());
            let name = format!("reader-own-{index}");
            let started = thread::Builder::new().name(name).spawn(move || work_for_own(&queue, &source));
            if let Err(error) = started {
                tracing::error!(%error, "start a reader thread");
            }
        }
        ReadPool(Some(Queues { jobs, own, crew }))
    }

    /// Whether this machine holds no data.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.0.is_none()
    }

    /// Replaces threads that are stuck. To be called now and then.
    pub(crate) fn look(&self, now_ns: u64) {
        if let Some(queues) = &self.0 {
            queues.crew.look(now_ns);
        }
    }

    /// How the threads are.
    pub(crate) fn health(&self, now_ns: u64) -> ReadersHealth {
        let Some(Queues { crew, .. }) = &self.0 else { return ReadersHealth::default() };
        let late = crew.desks.lock().iter().filter(|desk| desk.is_late(now_ns)).count();
        ReadersHealth { stuck: crew.stuck.load(Relaxed) + late, replaced: crew.replaced.load(Relaxed) }
    }

    /// Runs the statements on one snapshot.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, statements: Vec<Statement>, sight: Sight) -> Answer {
        let queues = self.0.as_ref().ok_or(ReadError::Witness)?;
        let now = clock::now_ns();
        if queues.crew.desks.lock().iter().all(|desk| desk.is_late(now)) {
            return Err(ReadError::Stuck);
        }
        let (respond, answer) = oneshot::channel();
        send(&queues.jobs, Job { statements, sight, respond })?;
        answer.await.unwrap_or_else(|_| Err(ReadError::Storage("the reader stopped".to_owned())))
    }

    /// Runs a read of the server's own on one snapshot.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ReadError> {
        let queues = self.0.as_ref().ok_or(ReadError::Witness)?;
        let (respond, answer) = oneshot::channel();
        let job: OwnRead = Box::new(move |reader, source| {
            let found = reader
                .and_then(|reader| snapshot(reader, source, None, |connection, _| read(connection)))
                .and_then(|found| found.map_err(|error| ReadError::Storage(error.to_string())));
            let keep = found.is_ok();
            let _ = respond.send(found);
            keep
        });
        send(&queues.own, job)?;
        answer.await.unwrap_or_else(|_| Err(ReadError::Storage("the reader stopped".to_owned())))
    }
}

fn send<T>(queue: &SyncSender<T>, job: T) -> Result<(), ReadError> {
    queue.try_send(job).map_err(|error| match error {
        TrySendError::Full(_) => ReadError::Overloaded,
        TrySendError::Disconnected(_) => ReadError::Storage("no reader thread runs".to_owned()),
    })
}

/// Where the reader threads read.
struct Source {
    directory: PathBuf,
    config: ReadPoolConfig,
    verified: Arc<Option<Verified>>,
}

/// What makes reads believable.
pub(crate) struct Verified {
    pub(crate) sums: Arc<PageSums>,
    /// To be told of a page that isn't what was written.
    pub(crate) inbox: Arc<Inbox>,
    told: Mutex<Option<Instant>>,
}

impl Verified {
    pub(crate) fn new(sums: Arc<PageSums>, inbox: Arc<Inbox>) -> Verified {
        Verified { sums, inbox, told: Mutex::new(None) }
    }

    fn tell(&self, page: u32) {
        let mut told = self.told.lock();
        if told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            return;
        }
        *told = Some(Instant::now());
        tracing::error!(
            page,
            "a read has found a page that is not what was written: the disk, or somebody, has changed it"
        );
        self.inbox.command(Command::Rotten(format!("page {page} of its database has rotted")));
    }
}

fn work(crew: &Crew, desk: &Desk) {
    // One for each sight: what may be read is judged when a statement is prepared, and the prepared ones are kept.
    let (mut all, mut usual): (Option<Reader>, Option<Reader>) = (None, None);
    loop {
        // One thread waits in `recv` while it holds the lock; the others wait for the lock. Both end together.
        let Ok(Job { statements, sight, respond }) = crew.queue.lock().recv() else { return };
        if respond.is_closed() {
            continue; // nobody waits for it any more
        }
        let reader = match sight {
            Sight::All => &mut all,
            Sight::Usual => &mut usual,
        };
        *desk.respond.lock() = Some(respond);
        let answer = read(reader, sight, &crew.source, desk, &statements);
        let keep = !matches!(answer, Err(ReadError::Storage(_)));
        desk.due_ns.store(0, Relaxed);
        desk.answer(answer);
        if desk.given_up.load(Relaxed) {
            crew.stuck.fetch_sub(1, Relaxed);
            tracing::info!("a reader that was stuck has come back, and ends");
            return;
        }
        if !keep {
            *reader = None; // opened anew for the next one
        }
    }
}

fn work_for_own(queue: &Mutex<Receiver<OwnRead>>, source: &Source) {
    let mut reader: Option<Reader> = None;
    loop {
        let Ok(run) = queue.lock().recv() else { return };
        if !run(opened(&mut reader, source, Sight::All), source) {
            reader = None;
        }
    }
}

fn opened<'r>(
    slot: &'r mut Option<Reader>,
    source: &Source,
    sight: Sight,
) -> Result<&'r mut Reader, ReadError> {
    match slot {
        Some(reader) => Ok(reader),
        None => {
            let sums = source.verified.as_ref().as_ref().map(|verified| Arc::clone(&verified.sums));
            let reader = open_reader(&source.directory, source.config.cache_bytes, sums)
                .map_err(|error| ReadError::Storage(error.to_string()))?;
            Ok(slot.insert(if sight == Sight::All { reader.seeing_all() } else { reader }))
        }
    }
}

/// One snapshot, every page of it as it was written.
fn snapshot<T>(
    reader: &mut Reader,
    source: &Source,
    desk: Option<&Desk>,
    read: impl Fn(&Connection, Position) -> T,
) -> Result<T, ReadError> {
    let until = Instant::now() + ADOPTION_TIME;
    loop {
        if let Some(desk) = desk {
            let most = (source.config.time_limit + GRACE).as_nanos();
            let due = clock::now_ns().saturating_add(u64::try_from(most).unwrap_or(u64::MAX));
            desk.due_ns.store(due, Relaxed);
        }
        reader.set_deadline(Some(Instant::now() + source.config.time_limit));
        match reader.snapshot(|connection, stamp| read(connection, stamp.position)) {
            Err(StoreError::Rotten { .. }) if Instant::now() < until => thread::sleep(LOOK_AGAIN),
            Err(StoreError::Rotten { page }) => {
                if let Some(verified) = source.verified.as_ref() {
                    verified.tell(page);
                }
                return Err(ReadError::Rotten(page));
            }
            other => return other.map_err(|error| ReadError::Storage(error.to_string())),
        }
    }
}

fn read(
    slot: &mut Option<Reader>,
    sight: Sight,
    source: &Source,
    desk: &Desk,
    statements: &[Statement],
) -> Answer {
    let reader = opened(slot, source, sight)?;
    let limits = &source.config.sql;
    let (result, position) = snapshot(reader, source, Some(desk), |connection, position| {
        (sql::run(connection, statements, limits), position)
    })?;
    match result {
        Ok(results) => {
            let answer = serde_json::to_vec(&results).map(Bytes::from).unwrap_or_default();
            Ok(ReadDone { position, answer })
        }
        Err(error) => Err(ReadError::Sql(error.explain(reader.interrupted(), reader.denied()))),
    }
}
