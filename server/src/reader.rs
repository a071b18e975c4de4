//! The read pool: a few threads, each with a read-only connection of its own, and a bounded queue.
//!
//! Owns snapshots and their positions. Never decides how fresh is fresh enough: `http/query.rs` does.

use std::{
    path::Path,
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
use tanist_store::{Reader, StoreError, open_reader};
use tokio::sync::oneshot;

use crate::sql::{self, SqlError, SqlLimits};

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
    /// The database can't be read.
    #[error("{0}")]
    Storage(String),
}

/// A read's answer.
#[derive(Debug)]
pub struct ReadDone {
    /// The snapshot's position.
    pub position: Position,
    /// JSON array of the statements' results.
    pub answer: Bytes,
}

type Answer = Result<ReadDone, ReadError>;

enum Job {
    Statements {
        statements: Vec<Statement>,
        respond: oneshot::Sender<Answer>,
    },
    /// A read of the server's own.
    Own(OwnRead),
}

/// Gets the reader, or why there is none; says whether the reader is to be kept.
type OwnRead = Box<dyn FnOnce(Result<&mut Reader, ReadError>) -> bool + Send>;

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
    pub fn start(directory: &Path, config: ReadPoolConfig, witness: bool) -> ReadPool {
        if witness {
            return ReadPool { jobs: None };
        }
        let (jobs, queue) = sync_channel(config.queue);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..config.threads {
            let (queue, directory) = (Arc::clone(&queue), directory.to_owned());
            let started = thread::Builder::new()
                .name(format!("reader-{index}"))
                .spawn(move || work(&queue, &directory, &config));
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
    pub async fn read(&self, statements: Vec<Statement>) -> Answer {
        let (respond, answer) = oneshot::channel();
        self.send(Job::Statements { statements, respond })?;
        answer.await.unwrap_or_else(|_| Err(ReadError::Storage("the reader stopped".to_owned())))
    }

    /// Runs a read of the server's own on one snapshot.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (respond, answer) = oneshot::channel();
        self.send(Job::Own(Box::new(move |reader| {
            let found = reader.and_then(|reader| match reader.snapshot(|connection, _| read(connection)) {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) => Err(ReadError::Storage(error.to_string())),
                Err(error) => Err(ReadError::Storage(error.to_string())),
            });
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

fn work(queue: &Mutex<Receiver<Job>>, directory: &Path, config: &ReadPoolConfig) {
    let mut reader: Option<Reader> = None;
    loop {
        // One thread waits in `recv` while it holds the lock; the others wait for the lock. Both end together.
        let Ok(job) = queue.lock().recv() else { return };
        let keep = match job {
            Job::Statements { respond, .. } if respond.is_closed() => true, // nobody waits for it any more
            Job::Statements { statements, respond } => {
                let answer = read(&mut reader, directory, config, &statements);
                let keep = !matches!(answer, Err(ReadError::Storage(_)));
                let _ = respond.send(answer);
                keep
            }
            Job::Own(run) => {
                let opened = opened(&mut reader, directory, config);
                if let Ok(reader) = &opened {
                    reader.set_deadline(Some(Instant::now() + config.time_limit));
                }
                run(opened)
            }
        };
        if !keep {
            reader = None; // opened anew for the next one
        }
    }
}

fn opened<'r>(
    slot: &'r mut Option<Reader>,
    directory: &Path,
    config: &ReadPoolConfig,
) -> Result<&'r mut Reader, ReadError> {
    match slot {
        Some(reader) => Ok(reader),
        None => {
            let reader = open_reader(directory, config.cache_bytes)
                .map_err(|error| ReadError::Storage(error.to_string()))?;
            Ok(slot.insert(reader))
        }
    }
}

fn read(
    slot: &mut Option<Reader>,
    directory: &Path,
    config: &ReadPoolConfig,
    statements: &[Statement],
) -> Answer {
    let storage = |error: StoreError| ReadError::Storage(error.to_string());
    let reader = opened(slot, directory, config)?;
    reader.set_deadline(Some(Instant::now() + config.time_limit));
    let result =
        reader.snapshot(|connection, stamp| (sql::run(connection, statements, &config.sql), stamp.position));
    reader.set_deadline(None);
    let (result, position) = result.map_err(storage)?;
    match result {
        Ok(results) => {
            let answer = serde_json::to_vec(&results).map(Bytes::from).unwrap_or_default();
            Ok(ReadDone { position, answer })
        }
        Err(error) => Err(ReadError::Sql(error.explain(reader.interrupted(), reader.denied()))),
    }
}
