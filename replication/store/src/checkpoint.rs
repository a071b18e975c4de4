//! Moves the WAL's pages into the database file, so that the WAL starts over instead of growing.
//!
//! Owns the rule that the WAL starts over only where everything is captured. Never waits for readers: one that stays
//! keeps the WAL growing, and the outcome says so. Read `database.rs` for the guard.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ffi};

use crate::{
    connection::{self, Use},
    database::{Database, Mode},
    doubt::Doubt,
    error::StoreError,
    wal,
};

/// The WAL of a database whose disk is nearly full is checkpointed from this length on.
const LOW_WAL_BYTES: u64 = 1 << 20;

/// What a checkpoint came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointOutcome {
    /// Frames in the WAL.
    pub wal_frames: u32,
    /// Frames of them that are in the database file now.
    pub checkpointed_frames: u32,
    /// An outside writer's commits have to be captured first (by an empty batch).
    pub uncaptured: bool,
}

impl CheckpointOutcome {
    /// Whether everything is in the database file, so that the next commit starts the WAL over (unless a reader that
    /// began earlier is still at it).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.checkpointed_frames == self.wal_frames
    }

    /// Whether a reader (or another checkpoint) stood in the way: the WAL grows until it is gone.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.uncaptured && !self.is_complete()
    }
}

impl Database {
    /// Bytes of the WAL in use.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        wal::wal_bytes(self.captured.frames, self.page_size)
    }

    /// Bytes of the WAL from which a checkpoint is due.
    #[must_use]
    pub fn wal_limit(&self) -> u64 {
        self.options.wal_limit_bytes
    }

    /// Whether the WAL is long enough for a [`Checkpointer::passive`] in the background and then
    /// [`Database::checkpoint_step`].
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        // Until it is known what becomes of what has no number, the state before it must stay to be read.
        self.captured.frames >= self.checkpoint_at && !self.unnumbered && !self.holding
    }

    pub(crate) fn limit_frames(&self) -> u32 {
        let limit = self.options.wal_limit_bytes;
        let limit = if self.low { limit.min(LOW_WAL_BYTES) } else { limit };
        let frames = limit / (u64::from(self.page_size) + 24);
        u32::try_from(frames).unwrap_or(u32::MAX).max(1)
    }

    /// Checkpoints what the background has left over, between batches (or applies). If everything is in the database
    /// file then, the next commit starts the WAL over.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when an outside writer doesn't let go within the busy timeout; SQLite's and the disk's.
    pub fn checkpoint_step(&mut self) -> Result<CheckpointOutcome, StoreError> {
        let outcome = match self.mode {
            Mode::Master { .. } => self.checkpoint_as_master()?,
            Mode::Backup { .. } => self.checkpoint_as_backup()?,
        };
        if !outcome.uncaptured {
            // Until the WAL starts over the next attempt is due after another quarter of the limit.
            self.checkpoint_at = outcome.wal_frames.saturating_add((self.limit_frames() / 4).max(1));
        }
        Ok(outcome)
    }

    /// With the write lock held, so that the guard moves exactly to the captured point and nobody writes meanwhile.
    fn checkpoint_as_master(&mut self) -> Result<CheckpointOutcome, StoreError> {
        self.let_go()?;
        self.sqlite("take the write lock", |db| {
            db.writer.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
        })?;
        let result = self.checkpoint_locked();
        let rollback = self.sqlite("release the write lock", |db| {
            db.writer.prepare_cached("ROLLBACK")?.execute([]).map(drop)
        });
        let outcome = result?;
        rollback?;
        Ok(outcome)
    }

    fn checkpoint_locked(&mut self) -> Result<CheckpointOutcome, StoreError> {
        let now = self.wal_index()?;
        if now.change != self.captured.change {
            return Ok(CheckpointOutcome {
                wal_frames: now.frames,
                checkpointed_frames: now.backfilled,
                uncaptured: true,
            });
        }
        self.move_captured(now);
        // First let the checkpoint go up to the captured point, then move the guard off the WAL: its snapshot is
        // then the database file, and the WAL may start over.
        self.renew_guard()?;
        let outcome = self.sqlite("checkpoint", |db| passive(&db.checkpoints))?;
        self.renew_guard()?;
        self.mode = Mode::Master { guard: now.frames };
        Ok(outcome)
    }

    fn checkpoint_as_backup(&mut self) -> Result<CheckpointOutcome, StoreError> {
        self.ensure_locked()?;
        let outcome = self.sqlite("checkpoint", |db| passive(&db.checkpoints))?;
        // A new snapshot, which doesn't use the WAL if everything is in the database file.
        self.sqlite("release the write lock", |db| {
            db.writer.prepare_cached("ROLLBACK")?.execute([]).map(drop)
        })?;
        self.lock(self.captured.change)?;
        Ok(outcome)
    }

    /// A checkpointer with a connection of its own, for a background thread.
    ///
    /// # Errors
    /// When the database can't be opened.
    pub fn background_checkpointer(&self) -> Result<Checkpointer, StoreError> {
        Ok(Checkpointer {
            connection: connection::open(&self.dir, Use::Checkpointer, &self.options)?,
            path: self.path.clone(),
            doubt: self.wal_file.doubt(),
        })
    }

    /// A handle that syncs the WAL from another thread.
    ///
    /// # Errors
    /// When the WAL file can't be opened.
    pub fn wal_sync(&self) -> Result<WalSync, StoreError> {
        Ok(self.wal_file.clone())
    }
}

pub(crate) fn passive(connection: &Connection) -> Result<CheckpointOutcome, rusqlite::Error> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let frames = |index| row.get::<_, i64>(index).map(|frames| u32::try_from(frames).unwrap_or(0));
        // Busy: another connection is checkpointing, and the numbers may be missing.
        let busy = row.get::<_, i64>(0)? != 0;
        Ok(CheckpointOutcome {
            wal_frames: if busy { frames(1)?.max(1) } else { frames(1)? },
            checkpointed_frames: if busy { 0 } else { frames(2)? },
            uncaptured: false,
        })
    })
}

/// Writes the WAL's pages into the database file, syncs it and begins the WAL anew; gives up the write lock meanwhile.
pub(crate) fn write_anew(writer: &Connection) -> Result<(), rusqlite::Error> {
    writer.execute_batch("ROLLBACK")?;
    let busy: bool = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    writer.execute_batch("BEGIN IMMEDIATE")?;
    if busy { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)) } else { Ok(()) }
}

/// Checkpoints in the background, beside the writer. `Send`.
#[derive(Debug)]
pub struct Checkpointer {
    connection: Connection,
    path: std::path::PathBuf,
    doubt: Arc<Doubt>,
}

impl Checkpointer {
    /// Copies into the database file what no reader and no guard holds back, without waiting for anybody; syncs both
    /// files.
    ///
    /// # Errors
    /// SQLite's and the disk's.
    pub fn passive(&mut self) -> Result<CheckpointOutcome, StoreError> {
        passive(&self.connection).map_err(|error| {
            let error = StoreError::sqlite(&self.path, "checkpoint", error);
            if error.is_failed_sync() {
                self.doubt.raise();
            }
            error
        })
    }
}

/// Syncs the WAL file: what was committed before the call is *stored* (on this disk) after it. `Send`, cheap to clone.
#[derive(Debug, Clone)]
pub struct WalSync {
    file: Arc<File>,
    doubt: Arc<Doubt>,
    times: Arc<Mutex<SyncTimes>>,
}

/// How long the disk takes, as far as nobody has asked for it yet.
#[derive(Debug, Default)]
struct SyncTimes {
    longest: Duration,
    under_way: Option<Instant>,
}

impl WalSync {
    pub(crate) fn open(dir: &Path, doubt: Arc<Doubt>) -> Result<WalSync, StoreError> {
        let path = connection::wal_path(dir);
        // Unlike the database file the WAL carries no locks that another handle could drop.
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(WalSync { file: Arc::new(file), doubt, times: Arc::default() }),
            Err(source) => Err(StoreError::Io { path, doing: "open the WAL", source }),
        }
    }

    /// Makes everything written to the WAL durable, data only (`fdatasync`).
    ///
    /// # Errors
    /// The system's. After one, nothing written since the last good sync may be reported as stored; the replica is in doubt,
    /// durably.
    pub fn sync(&self) -> io::Result<()> {
        self.times().under_way = Some(Instant::now());
        let synced = self.file.sync_data();
        let mut times = self.times();
        if let Some(begun) = times.under_way.take() {
            times.longest = times.longest.max(begun.elapsed());
        }
        drop(times);
        synced.inspect_err(|_| self.doubt.raise())
    }

    pub(crate) fn doubt(&self) -> Arc<Doubt> {
        Arc::clone(&self.doubt)
    }

    /// How long the longest sync since the last call took, one that still lasts included; zero when there was none.
    #[must_use]
    pub fn take_longest(&self) -> Duration {
        let mut times = self.times();
        let lasts = times.under_way.map_or(Duration::ZERO, |begun| begun.elapsed());
        std::mem::take(&mut times.longest).max(lasts)
    }

    fn times(&self) -> MutexGuard<'_, SyncTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
