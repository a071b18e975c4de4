//! The read pool: a few threads, each with a read-only connection of its own, and a bounded queue.
//!
//! Owns snapshots and their positions. Never decides how fresh is fresh enough: `http/query.rs` does.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
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
    inbox::{Command, Inbox},
    sql::{self, SqlError, SqlLimits},
};

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

enum Job {
    Statements {
        statements: Vec<Statement>,
        sight: Sight,
        respond: oneshot::Sender<Answer>,
    },
    /// A read of the server's own.
    Own(OwnRead),
}

/// Gets the reader, or why there is none; says whether the reader is to be kept.
type OwnRead = Box<dyn FnOnce(Result<&mut Reader, ReadError>, &Source) -> bool + Send>;

/// A handle on the pool; cheap to clone. The threads end with the last handle.
#[derive(Clone)]
pub struct ReadPool {
    jobs: Option<SyncSender<Job>>,
}

impl std::fmt::Debug for ReadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadPool")
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
            return ReadPool { jobs: None };
        }
        let verified = Arc::new(verified);
        let (jobs, queue) = sync_channel(config.queue);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..config.threads {
            let queue = Arc::clone(&queue);
            let source = Source { directory: directory.to_owned(), config, verified: Arc::clone(&verified) };
            let started =
                thread::Builder::new().name(format!("reader-{index}")).spawn(move || work(&queue, &source));
            if let Err(error) = started {
                tracing::error!(%error, "start a reader thread");
            }
        }
        ReadPool { jobs: Some(jobs) }
    }

    /// Whether this machine holds no data.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.jobs.is_none()
    }

    /// Runs the statements on one snapshot.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, statements: Vec<Statement>, sight: Sight) -> Answer {
        let (respond, answer) = oneshot::channel();
        self.send(Job::Statements { statements, sight, respond })?;
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
        let (respond, answer) = oneshot::channel();
        self.send(Job::Own(Box::new(move |reader, source| {
            let found = reader
                .and_then(|reader| snapshot(reader, source, |connection, _| read(connection)))
                .and_then(|found| found.map_err(|error| ReadError::Storage(error.to_string())));
            let keep = found.is_ok();
            let _ = respond.send(found);
            keep
        })))?;
        answer.await.unwrap_or_else(|_| Err(ReadError::Storage("the reader stopped".to_owned())))
    }

    fn send(&self, job: Job) -> Result<(), ReadError> {
        let jobs = self.jobs.as_ref().ok_or(ReadError::Witness)?;
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => ReadError::Overloaded,
            TrySendError::Disconnected(_) => ReadError::Storage("no reader thread runs".to_owned()),
        })
    }
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

fn work(queue: &Mutex<Receiver<Job>>, source: &Source) {
    // One for each sight: what may be read is judged when a statement is prepared, and the prepared ones are kept.
    let (mut all, mut usual): (Option<Reader>, Option<Reader>) = (None, None);
    loop {
        // One thread waits in `recv` while it holds the lock; the others wait for the lock. Both end together.
        let Ok(job) = queue.lock().recv() else { return };
        let (reader, sight) = match &job {
            Job::Statements { sight: Sight::Usual, .. } => (&mut usual, Sight::Usual),
            _ => (&mut all, Sight::All),
        };
        let keep = match job {
            Job::Statements { respond, .. } if respond.is_closed() => true, // nobody waits for it any more
            Job::Statements { statements, respond, .. } => {
                let answer = read(reader, source, &statements, sight);
                let keep = !matches!(answer, Err(ReadError::Storage(_)));
                let _ = respond.send(answer);
                keep
            }
            Job::Own(run) => run(opened(reader, source, sight), source),
        };
        if !keep {
            *reader = None; // opened anew for the next one
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
    read: impl Fn(&Connection, Position) -> T,
) -> Result<T, ReadError> {
    let until = Instant::now() + ADOPTION_TIME;
    loop {
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

fn read(slot: &mut Option<Reader>, source: &Source, statements: &[Statement], sight: Sight) -> Answer {
    let reader = opened(slot, source, sight)?;
    let limits = &source.config.sql;
    let (result, position) = snapshot(reader, source, |connection, position| {
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
