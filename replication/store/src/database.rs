//! The replicated database of one machine: as master its only numbered writer, as backup the holder of its write lock.
//!
//! Owns the connections, the replica's stamp and the point up to which the WAL is captured. Never opens `state.db` by
//! another way than SQLite, and never leaves a captured point unguarded. Read `batch.rs` for the master, `apply.rs`
//! for the backup.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rusqlite::{Connection, config::DbConfig};
use tanist_replication::{Checksum, Pages, Position, Stamp, Term, TermHistory, Transaction};

use crate::{
    Options, Reserve, Room,
    authorizer::UserMode,
    batch::Batch,
    checkpoint::WalSync,
    connection::{self, Use},
    doubt::Doubt,
    encode::{Decoder, Encoder},
    error::StoreError,
    limits::{self, Limits},
    memory::{Mark, Memory, WalPlace},
    opening::{Before, Replica},
    sqlite_file::{self, WalIndex},
    sums::{Moment, PageSums},
    tables, wal,
};

/// What a master's commit has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    /// There was nothing to commit.
    Nothing,
    /// A transaction to be sent to the backups. It is committed here but not yet synced.
    Transaction(Transaction),
    /// The commit stands here, but its pages could not be captured (frames were lost, or there are too many): every
    /// backup must rejoin to come to this stamp.
    Break(Stamp),
}

impl Captured {
    /// The stamp after the commit, if there was one.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        match self {
            Captured::Nothing => None,
            Captured::Transaction(transaction) => Some(transaction.stamp),
            Captured::Break(stamp) => Some(*stamp),
        }
    }
}

/// What the database is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Takes numbered writes. `guard` is the frame up to which the guard lets a checkpoint go.
    Master { guard: u32 },
    /// Applies a master's transactions; `locked` while it holds the write lock (always, but for an outside process
    /// that got in between).
    Backup { locked: bool },
}

/// The replicated database of one machine. `Send`, not `Sync`: one thread owns it.
pub struct Database {
    /// The writer; every statement of it runs on this struct's thread.
    pub(crate) writer: Connection,
    /// As master the guard: its read transaction keeps frames that aren't captured from being overwritten. As backup
    /// it reads what the writer has applied.
    pub(crate) observer: Connection,
    pub(crate) checkpoints: Connection,
    pub(crate) dir: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) options: Options,
    pub(crate) user_mode: UserMode,
    pub(crate) limits: Limits,
    pub(crate) gate: CommitGate,
    pub(crate) wal_file: WalSync,
    pub(crate) mode: Mode,
    /// A write that isn't the master's is in this replica, or pages that hold no database.
    pub(crate) diverged: bool,
    /// Behind the captured point stands what others have committed before this process began. A master adopts it; a backup
    /// has diverged by it.
    pub(crate) unnumbered: bool,
    /// It can't be told from the WAL what that is, nor sent: backups must rejoin.
    pub(crate) base_lost: bool,
    /// It holds less than was stored, up to here: its WAL was lost.
    pub(crate) lost: Option<Position>,
    /// What is remembered of it.
    pub(crate) memory: Memory,
    /// The writer holds the master's write lock between two batches.
    pub(crate) holding: bool,
    /// What the master has written since didn't lead to what it has: the next rejoin compares all pages.
    pub(crate) compare_all: bool,
    /// The disk is nearly full.
    pub(crate) low: bool,
    pub(crate) page_size: u32,
    pub(crate) sums: Arc<PageSums>,
    /// *Captured* up to here (master); *applied* up to here (backup).
    pub(crate) captured: WalIndex,
    pub(crate) stamp: Stamp,
    /// Checksum of the transaction at `stamp`; zero when not known.
    pub(crate) last_checksum: Checksum,
    pub(crate) history: TermHistory,
    pub(crate) outside_commits: u64,
    /// At which level a reign on an empty database begins.
    pub(crate) founding_level: Option<usize>,
    /// A table of the users refers to one of Tanist's: foreign keys are enforced for users' SQL alone.
    pub(crate) foreign_keys_found: bool,
    /// The change counter up to which writes from outside can't be numbered, and why.
    pub(crate) refused_outside: Option<(u32, String)>,
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Decoder,
    pub(crate) scratch: Vec<u8>,
    /// The WAL's length in frames from which the next checkpoint is due.
    pub(crate) checkpoint_at: u32,
}

impl Database {
    /// Opens (or creates) the database in `dir`, as backup and holding its write lock.
    ///
    /// # Errors
    /// Typed by cause and naming the file: not a database, damaged, read-only, disk full, locked by another process,
    /// unfit SQLite library, impossible position rows.
    pub fn open(dir: &Path, options: Options) -> Result<Database, StoreError> {
        connection::prepare_once(dir);
        connection::check_library()?;
        let path = connection::database_path(dir);
        let (memory, remembered) = Memory::open(dir)?;
        if memory.mark() == Mark::Unreadable && !options.alone {
            return Err(StoreError::GivenUp { path });
        }
        let before = Before::of(dir, remembered);
        let mut writer = connection::open(dir, Use::Writer, &options)?;
        let observer = connection::open(dir, Use::Observer, &options)?;
        let checkpoints = connection::open(dir, Use::Checkpointer, &options)?;
        let error = |error| StoreError::sqlite(&path, "open the database", error);
        let (user_mode, limits, gate) = hooks(&mut writer).map_err(error)?;
        let page_size =
            writer.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0)).map_err(error)?;
        writer.execute_batch("BEGIN IMMEDIATE").map_err(error)?;
        // Before anything is said to be stored: what is read here may never have been synced.
        sqlite_file::sync_files(&writer)
            .map_err(|error| StoreError::sqlite(&path, "sync what was found", error))?;
        let doubt = Arc::new(Doubt::of(dir));
        let replica = before.open(&writer, &path, page_size, &options, &doubt, &memory)?;
        let Replica { captured, stamp, unnumbered, base_lost, diverged, lost, proven } = replica;
        let history = tables::read_history(&writer, &path)?;
        connection::sync_dir(dir)?;
        let wal_file = WalSync::open(dir, doubt)?;
        let mut database = Database {
            writer,
            observer,
            checkpoints,
            dir: dir.to_owned(),
            path,
            options,
            user_mode,
            limits,
            gate,
            wal_file,
            mode: Mode::Backup { locked: true },
            diverged,
            unnumbered,
            base_lost,
            lost,
            memory,
            holding: false,
            compare_all: false,
            low: false,
            page_size,
            sums: Arc::new(PageSums::unknown(
                page_size,
                captured.pages,
                Moment { position: stamp.position, change: Some(captured.change) },
            )),
            captured,
            stamp,
            last_checksum: Checksum::default(),
            history,
            outside_commits: 0,
            founding_level: None,
            refused_outside: None,
            foreign_keys_found: false,
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            scratch: Vec::new(),
            checkpoint_at: 0,
        };
        database.checkpoint_at = database.limit_frames();
        if let Some(proven) = proven {
            database.sums.proven(database.moment(), database.captured.pages, &proven);
        }
        database.sums.is_now(stamp, false);
        Ok(database)
    }

    /// What this replica is: its newest transaction and the chain hash in its row.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Who reigned from which transaction on, on this replica's branch.
    #[must_use]
    pub fn history(&self) -> &TermHistory {
        &self.history
    }

    /// Size of a page in bytes.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Size of the database in pages at the last captured or applied transaction.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.captured.pages
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the database takes numbered writes.
    #[must_use]
    pub fn is_master(&self) -> bool {
        matches!(self.mode, Mode::Master { .. })
    }

    /// Whether the replica holds, from before it was opened, what others have written and nobody has numbered. If this machine
    /// becomes the master it adopts that; otherwise it has diverged.
    #[must_use]
    pub fn is_unnumbered(&self) -> bool {
        self.unnumbered
    }

    /// Whether this backup has the write lock. Another program may hold it, after this machine was the master.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.mode == Mode::Backup { locked: true }
    }

    /// Takes the write lock as backup, if it is to be had.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another program holds it; [`StoreError::ForeignWrite`]: somebody has written meanwhile.
    pub fn take_lock(&mut self) -> Result<(), StoreError> {
        self.ensure_locked()
    }

    /// Whether the replica holds a write that isn't the master's, or no readable database, so that only a rejoin helps.
    #[must_use]
    pub fn is_diverged(&self) -> bool {
        self.diverged || self.unnumbered || self.lost.is_some() || self.is_doubted()
    }

    /// Whether the replica holds less than this machine had stored.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Why no term can begin on this replica before it was brought in line, if that is so.
    #[must_use]
    pub fn is_barred(&self) -> Option<String> {
        if self.is_doubted() {
            return Some("a sync of its disk failed: its replica must be written anew first".to_owned());
        }
        if let Some(stored) = self.lost {
            let found = self.stamp.position;
            return Some(format!(
                "its replica holds {found}, but had stored {stored}: its WAL was lost, or an older file was put in its place; \
                 another machine must bring it in line, or put back what is missing while it is stopped"
            ));
        }
        self.diverged
            .then(|| "its replica isn't what was written, and must be brought in line first".to_owned())
    }

    /// What is remembered of the replica at its next start.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// Where the WAL ends, for [`Memory::note`].
    #[must_use]
    pub fn wal_place(&self) -> WalPlace {
        WalPlace::of(&self.captured)
    }

    /// Whether a sync has failed, so that nothing of the replica counts before a rejoin has written it anew.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.wal_file.doubt().stands()
    }

    /// How much room the disk has; with little of it the WAL is kept short. `None` where none is held back.
    pub fn look_at_room(&mut self) -> Option<Room> {
        let room = self.options.reserve.as_ref()?.room()?;
        let low = room.is_low() || (self.low && !room.is_plenty());
        if low != self.low {
            self.low = low;
            self.checkpoint_at = self.limit_frames();
        }
        Some(room)
    }

    /// Whether the disk was nearly full when its room was last looked at.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.low
    }

    /// The room that is held back for this database, if any.
    #[must_use]
    pub fn reserve(&self) -> Option<&Reserve> {
        self.options.reserve.as_deref()
    }

    /// Whether a rejoin must compare all pages, and not only those that the master has written since this replica's stamp.
    #[must_use]
    pub fn must_compare_all(&self) -> bool {
        self.compare_all || self.unnumbered || self.is_diverged()
    }

    /// Whether a sync has failed and the mark of it could not be made durable: the next process would know nothing of it.
    #[must_use]
    pub fn is_doubt_unmarked(&self) -> bool {
        self.wal_file.doubt().is_unmarked()
    }

    /// Commits by other processes that were adopted into numbered transactions since the database was opened.
    #[must_use]
    pub fn outside_commits(&self) -> u64 {
        self.outside_commits
    }

    /// Becomes master: from now on outside writes are possible, and adopted. What the WAL holds at this moment counts
    /// as captured. Does nothing on a master.
    ///
    /// # Errors
    /// When the replica is diverged, the lock can't be had, or SQLite fails; the database stays backup.
    pub fn become_master(&mut self) -> Result<(), StoreError> {
        if self.is_master() {
            return Ok(());
        }
        self.ensure_locked()?;
        // The guard starts while the lock is held, so it stands at the captured point exactly.
        self.renew_guard()?;
        if let Err(error) = self.reopen_writer() {
            self.end_guard()?;
            return Err(error);
        }
        self.mode = Mode::Master { guard: self.captured.frames };
        // From here on it is found and adopted like every write from outside.
        self.unnumbered = false;
        Ok(())
    }

    /// Becomes backup, and takes the write lock. Does nothing on a backup.
    ///
    /// # Errors
    /// The database *is* backup then. [`StoreError::Busy`]: an outside process holds the lock; whatever comes next tries to
    /// take it, and looks whether that process has written. [`StoreError::ForeignWrite`]: an outside write was never
    /// captured; the replica must rejoin.
    pub fn become_backup(&mut self) -> Result<(), StoreError> {
        if !self.is_master() {
            return Ok(());
        }
        self.mode = Mode::Backup { locked: false };
        self.limits.lift();
        let config =
            |db: &Database| db.writer.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).map(drop);
        self.end_guard().and_then(|()| self.sqlite("become backup", config))?;
        self.lock(self.captured.change)
    }

    /// Begins a batch of requests: one SQLite transaction, one number.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when an outside writer doesn't let go within the busy timeout, [`StoreError::Term`] for a
    /// term older than the replica's.
    pub fn begin(&mut self, term: Term) -> Result<Batch<'_>, StoreError> {
        Batch::begin(self, term)
    }

    /// Takes the master's write lock and keeps it, so that nobody else commits before this machine is a backup, or until the
    /// next batch or [`Database::let_go`]. `false`: others have committed what must be adopted first; the lock isn't held.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another program doesn't let go within `patience`.
    pub fn hold(&mut self, patience: Duration) -> Result<bool, StoreError> {
        if self.holding || !self.is_master() {
            return Ok(true);
        }
        let usual = Duration::from_millis(self.options.busy_timeout_ms.into());
        let set = |db: &Database, time| {
            db.sqlite("set how long a lock is waited for", |db| db.writer.busy_timeout(time))
        };
        set(self, patience)?;
        let taken = self.sqlite("take the write lock", |db| {
            db.writer.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
        });
        set(self, usual)?;
        taken?;
        self.holding = true;
        if self.outside_change()? {
            self.let_go()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Gives back the lock that [`Database::hold`] has taken.
    ///
    /// # Errors
    /// SQLite's.
    pub fn let_go(&mut self) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.holding) {
            return Ok(());
        }
        self.sqlite("release the write lock", |db| {
            db.writer.prepare_cached("ROLLBACK")?.execute([]).map(drop)
        })
    }

    /// Whether the master's write lock is held between two batches.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// Bytes that others have written to the WAL and nobody has numbered.
    ///
    /// # Errors
    /// When the WAL index can't be read.
    pub fn outside_bytes(&self) -> Result<u64, StoreError> {
        let now = self.wal_index()?;
        let from = if now.salts == self.captured.salts { self.captured.frames } else { 0 };
        Ok(u64::from(now.frames.saturating_sub(from)) * u64::from(self.page_size))
    }

    /// Whether others have committed since the last capture. Costs a few memory reads; an empty batch adopts them.
    ///
    /// # Errors
    /// When the WAL index can't be read.
    pub fn outside_change(&mut self) -> Result<bool, StoreError> {
        Ok(self.wal_index()?.change != self.captured.change)
    }

    /// Checks that the master reigns with `term` or is about to.
    pub(crate) fn check_term(&self, term: Term) -> Result<(), StoreError> {
        if !self.is_master() {
            return Err(StoreError::Mode { operation: "write", wanted: "master" });
        }
        if term < self.stamp.position.term {
            return Err(StoreError::Term { term, position: self.stamp.position, no_reign: false });
        }
        Ok(())
    }

    /// The stamp of the next transaction.
    pub(crate) fn next_stamp(&self, term: Term) -> Stamp {
        let position = Position { term, txid: self.stamp.position.txid.next() };
        Stamp { position, chain: self.stamp.chain.next(self.last_checksum, position) }
    }

    /// Outside writers may have touched the term history.
    fn reload_history(&mut self) {
        match tables::read_history(&self.writer, &self.path) {
            Ok(history) => self.history = history,
            Err(error) => tracing::error!(%error, "term history changed from outside; keeping the old one"),
        }
    }

    /// Captures what was committed since the last capture as the transaction `stamp`, whose row is in it. Can't fail:
    /// the commit stands, and what can't be captured is a break.
    pub(crate) fn capture(&mut self, stamp: Stamp) -> Captured {
        let previous = std::mem::replace(&mut self.stamp, stamp);
        self.base_lost = false;
        let range = self.wal_index().and_then(|now| {
            let from = self.captured;
            self.move_captured(now);
            let whole = previous == Stamp::default();
            let limit = self.options.payload_limit();
            wal::read_range(&self.writer, &from, &now, whole, limit, &mut self.scratch)
                .map_err(|error| StoreError::sqlite(&self.path, "capture a transaction", error))
        });
        match range {
            Ok(wal::Range::Payload { plain, commits }) => {
                let outside = u64::from(commits.saturating_sub(1));
                if outside > 0 {
                    tracing::warn!(outside, position = %stamp.position, "adopted writes from outside");
                    self.outside_commits += outside;
                    self.reload_history();
                }
                match Pages::parse(plain.clone()) {
                    Ok(pages) => self.sums.written(self.moment(), pages.database_pages(), pages.iter()),
                    Err(_) => self.sums.forget(self.moment(), self.captured.pages),
                }
                self.sums.is_now(stamp, true);
                let checksum = Checksum::of(&plain);
                self.last_checksum = checksum;
                let plain_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
                let (encoding, payload) = self.encoder.encode(plain);
                if self.scratch.capacity() > 1 << 20 {
                    self.scratch = Vec::new();
                }
                Captured::Transaction(Transaction { previous, stamp, checksum, encoding, plain_len, payload })
            }
            Ok(wal::Range::Break(why)) => {
                tracing::error!(why, position = %stamp.position, "backups must rejoin");
                self.last_checksum = Checksum::default();
                self.sums.forget(self.moment(), self.captured.pages);
                self.sums.is_now(stamp, false);
                self.reload_history();
                Captured::Break(stamp)
            }
            Err(error) => {
                tracing::error!(%error, position = %stamp.position, "backups must rejoin");
                self.last_checksum = Checksum::default();
                self.sums.forget(self.moment(), self.captured.pages);
                self.sums.is_now(stamp, false);
                Captured::Break(stamp)
            }
        }
    }

    /// What the replica is now, as a reader finds it.
    pub(crate) fn moment(&self) -> Moment {
        Moment { position: self.stamp.position, change: Some(self.captured.change) }
    }

    /// Sums of all pages, to compare them with the disk and with other replicas.
    #[must_use]
    pub fn sums(&self) -> Arc<PageSums> {
        Arc::clone(&self.sums)
    }

    /// The replica is not what it should be, such as with a page that has changed on its disk: it applies nothing more
    /// before a rejoin has brought it in line.
    pub fn distrust(&mut self) {
        self.memory.set_mark(Mark::Damaged);
        self.diverged = true;
    }

    /// SQLite can't read the replica well enough to have it brought in line: the next start puts it aside.
    pub fn give_up(&mut self) {
        self.memory.set_mark(Mark::Unreadable);
        self.diverged = true;
    }

    /// Somebody else has written to the replica. That is remembered before anything else is done about it.
    pub(crate) fn foreign_write(&mut self) -> StoreError {
        self.memory.set_mark(Mark::Foreign);
        self.diverged = true;
        StoreError::ForeignWrite { path: self.path.clone() }
    }

    /// Takes the write lock as backup, unless it is held, and makes sure that nobody wrote meanwhile.
    pub(crate) fn ensure_locked(&mut self) -> Result<(), StoreError> {
        if self.diverged {
            return Err(StoreError::ForeignWrite { path: self.path.clone() });
        }
        if self.is_doubted() {
            return Err(StoreError::Doubted { path: self.path.clone() });
        }
        if let Some(stored) = self.lost {
            return Err(StoreError::Lost { path: self.path.clone(), found: self.stamp.position, stored });
        }
        match self.mode {
            Mode::Backup { locked: true } => Ok(()),
            Mode::Backup { locked: false } => self.lock(self.captured.change),
            Mode::Master { .. } => {
                Err(StoreError::Mode { operation: "apply a master's transactions", wanted: "backup" })
            }
        }
    }

    /// Takes the write lock as backup. The WAL index must have counted to `expected` by then.
    pub(crate) fn lock(&mut self, expected: u32) -> Result<(), StoreError> {
        self.mode = Mode::Backup { locked: false };
        if !std::mem::take(&mut self.holding) {
            self.sqlite("take the write lock", |db| {
                db.writer.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
            })?;
        }
        self.mode = Mode::Backup { locked: true };
        self.check_foreign(expected)
    }

    /// Moves the applied point to the present, at which the WAL index must have counted to `expected`.
    fn check_foreign(&mut self, expected: u32) -> Result<(), StoreError> {
        let now = self.wal_index()?;
        self.move_captured(now);
        if now.change == expected { Ok(()) } else { Err(self.foreign_write()) }
    }

    /// Moves the captured (applied) point to `now`.
    pub(crate) fn move_captured(&mut self, now: WalIndex) {
        if now.salts != self.captured.salts {
            // The WAL has started over, which it does only when the guard reads nothing from it.
            self.checkpoint_at = self.limit_frames();
            if let Mode::Master { guard } = &mut self.mode {
                *guard = 0;
            }
        }
        self.captured = now;
    }

    /// Opens the guard's read transaction anew, at the present end of the WAL.
    pub(crate) fn renew_guard(&mut self) -> Result<(), StoreError> {
        self.end_guard()?;
        self.sqlite("renew the guard", |db| {
            db.observer.prepare_cached("BEGIN")?.execute([])?;
            let mut read =
                db.observer.prepare_cached("SELECT count(*) FROM (SELECT 1 FROM sqlite_schema LIMIT 1)")?;
            read.query_row([], |row| row.get::<_, i64>(0))?;
            Ok(())
        })
    }

    fn end_guard(&mut self) -> Result<(), StoreError> {
        if self.observer.is_autocommit() {
            return Ok(());
        }
        self.sqlite("end the guard", |db| db.observer.prepare_cached("COMMIT")?.execute([]).map(drop))
    }

    /// Replaces the backup's writer by a master's, which gives up the write lock. It has to be a new connection: what
    /// the old one has parsed of pages that were replaced under it no longer holds.
    fn reopen_writer(&mut self) -> Result<(), StoreError> {
        let mut writer = connection::open(&self.dir, Use::Writer, &self.options)?;
        let error = |error| StoreError::sqlite(&self.path, "open the database", error);
        let hooks = hooks(&mut writer).map_err(error)?;
        writer.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(error)?;
        let stamp = tables::read_stamp(&writer, &self.path)?;
        if stamp != self.stamp {
            // The last apply could not be synced, and wasn't reported as stored.
            self.last_checksum = Checksum::default();
            self.history = tables::read_history(&writer, &self.path)?;
            self.stamp = stamp;
            self.sums.is_now(stamp, false);
        }
        (self.user_mode, self.limits, self.gate) = hooks;
        self.foreign_keys_found = false; // its keys are enforced, until something else is found
        self.writer = writer;
        Ok(())
    }

    pub(crate) fn wal_index(&self) -> Result<WalIndex, StoreError> {
        wal_index(&self.writer, self.page_size)
            .map_err(|error| StoreError::sqlite(&self.path, "read the WAL index", error))
    }

    pub(crate) fn sqlite<T>(
        &self,
        doing: &'static str,
        operation: impl FnOnce(&Database) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        operation(self).map_err(|error| {
            let error = StoreError::sqlite(&self.path, doing, error);
            if error.is_failed_sync() {
                self.wal_file.doubt().raise();
            }
            error
        })
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}

/// The WAL index; sizes that a WAL never written doesn't tell come from the database.
pub(crate) fn wal_index(connection: &Connection, page_size: u32) -> Result<WalIndex, rusqlite::Error> {
    let mut index = sqlite_file::wal_index(connection)?;
    if index.page_size == 0 {
        index.page_size = page_size;
    }
    if index.pages == 0 {
        index.pages = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    }
    Ok(index)
}

fn hooks(writer: &mut Connection) -> Result<(UserMode, Limits, CommitGate), rusqlite::Error> {
    Ok((UserMode::install(writer)?, Limits::install(writer, limits::WRITES)?, CommitGate::install(writer)?))
}

/// Lets only the store's own commits pass: SQL that SQLite threw out of its transaction mustn't commit by itself.
#[derive(Debug, Clone)]
pub(crate) struct CommitGate(Arc<AtomicBool>);

impl CommitGate {
    fn install(connection: &mut Connection) -> Result<CommitGate, rusqlite::Error> {
        let open = Arc::new(AtomicBool::new(false));
        let hook = Arc::clone(&open);
        connection.commit_hook(Some(move || !hook.load(Relaxed)))?;
        Ok(CommitGate(open))
    }

    /// Runs `commit` with the gate open.
    pub(crate) fn pass<T>(&self, commit: impl FnOnce() -> T) -> T {
        self.0.store(true, Relaxed);
        let result = commit();
        self.0.store(false, Relaxed);
        result
    }
}
