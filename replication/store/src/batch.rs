//! A master's batch: requests that are committed, numbered and captured together.
//!
//! Owns the savepoint around each request, so that a bad one fails alone. Never syncs: the caller does that while the
//! transaction travels. Read `wal.rs` for how the pages are found.

use std::{path::Path, time::Instant};

use rusqlite::{CachedStatement, Connection};
use tanist_replication::{Reign, Stamp, Term};

use crate::{
    account,
    authorizer::{foreign_key_to_reserved, reserved_in_sequence, reserved_names},
    database::{Captured, Database, Mode},
    error::StoreError,
    limits::Interrupted,
    sqlite_file, tables,
};

/// The guard follows the captured point when it lags by this many frames.
const GUARD_LAG: u32 = 1024;
/// The same while a checkpoint is due.
const GUARD_LAG_DUE: u32 = 64;

/// SQLite's own.
const NO_PAGE_LIMIT: u32 = 0xffff_fffe;

/// Stands before users' SQL in the statement cache.
const MARK: &str = "/**/";
const MARK_BYTES: i32 = 4;

/// Prepares users' SQL through the connection's statement cache. The text is marked, so that it can never meet a
/// cached statement of the server's own, which the authorizer has let pass.
///
/// # Errors
/// SQLite's, a denial among them (see [`crate::is_denied`]), as if the text weren't marked.
pub fn prepare_user<'c>(
    connection: &'c Connection,
    sql: &str,
) -> Result<CachedStatement<'c>, rusqlite::Error> {
    let marked = format!("{MARK}{sql}");
    connection.prepare_cached(&marked).map_err(|error| in_users_text(error, &marked, sql))
}

/// The error with an offset into what the user has written.
fn in_users_text(error: rusqlite::Error, marked: &str, sql: &str) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqlInputError { error, msg, sql: prepared, offset } => {
            // What stands behind a first statement is prepared by itself, with an offset of its own.
            let before = marked.trim_end().len().saturating_sub(prepared.len());
            let offset = i32::try_from(before).unwrap_or(i32::MAX).saturating_add(offset);
            let offset = offset.saturating_sub(MARK_BYTES).max(0);
            rusqlite::Error::SqlInputError { error, msg, sql: sql.to_owned(), offset }
        }
        error => error,
    }
}

/// One SQLite transaction of the master. Dropped without commit it is rolled back.
#[derive(Debug)]
pub struct Batch<'d> {
    pub(crate) database: &'d mut Database,
    term: Term,
    /// Whether others have committed since the last capture.
    outside: bool,
    /// Requests that have come through.
    kept: u32,
    total_changes: u64,
    /// Pages spilled when it began.
    spilled: u32,
    reign: Option<Reign>,
    lost: bool,
    finished: bool,
}

impl<'d> Batch<'d> {
    pub(crate) fn begin(database: &'d mut Database, term: Term) -> Result<Batch<'d>, StoreError> {
        database.check_term(term)?;
        database.let_go()?;
        database.sqlite("begin a batch", |db| {
            db.writer.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
        })?;
        let mut batch = Batch {
            total_changes: database.writer.total_changes(),
            spilled: sqlite_file::spilled_pages(&database.writer),
            database,
            term,
            outside: false,
            kept: 0,
            reign: None,
            lost: false,
            finished: false,
        };
        batch.follow()?;
        Ok(batch)
    }

    /// Notices what others did; moves the guard along when they did nothing.
    fn follow(&mut self) -> Result<(), StoreError> {
        let database = &mut *self.database;
        let now = database.wal_index()?;
        self.outside = now.change != database.captured.change;
        if self.outside {
            return database.judge_outside(&now);
        }
        database.move_captured(now);
        let due = database.checkpoint_due();
        if let Mode::Master { guard } = database.mode
            && now.frames.saturating_sub(guard) >= if due { GUARD_LAG_DUE } else { GUARD_LAG }
        {
            database.renew_guard()?;
            database.mode = Mode::Master { guard: now.frames };
        }
        Ok(())
    }

    /// The writer's connection, for reads that see what the batch has written. It is not in users' mode.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.database.writer
    }

    /// The data directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.database.dir
    }

    /// The stamp the batch gets when it commits.
    #[must_use]
    pub fn next_stamp(&self) -> Stamp {
        self.database.next_stamp(self.term)
    }

    /// Write statements that run past `deadline` are interrupted, which costs the whole batch
    /// ([`StoreError::BatchLost`]); reads fail alone. Holds for the next request only.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.database.limits.set_deadline(deadline);
    }

    /// Why the last request was interrupted, if it was.
    #[must_use]
    pub fn interrupted(&self) -> Option<Interrupted> {
        self.database.limits.interrupted()
    }

    /// What users' SQL was denied in the last request, such as `PRAGMA journal_mode`.
    #[must_use]
    pub fn denied(&self) -> Option<String> {
        self.database.user_mode.denied()
    }

    /// Whether the last request has altered a table: its columns, or its name.
    #[must_use]
    pub fn altered(&self) -> bool {
        self.database.user_mode.altered()
    }

    /// Whether others have committed since the last capture; the commit adopts it.
    #[must_use]
    pub fn has_outside_change(&self) -> bool {
        self.outside
    }

    /// Lets the database grow by so many pages at most, until that is changed; `None`: as it needs. What needs more is refused
    /// as a full disk would.
    ///
    /// # Errors
    /// SQLite's.
    pub fn limit_growth(&self, pages: Option<u32>) -> Result<(), StoreError> {
        self.database.sqlite("limit the database's growth", |db| {
            let most = match pages {
                None => NO_PAGE_LIMIT,
                Some(more) => {
                    let now: u32 = db.writer.pragma_query_value(None, "page_count", |row| row.get(0))?;
                    now.saturating_add(more).min(NO_PAGE_LIMIT)
                }
            };
            db.writer.pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))
        })
    }

    /// Undoes all that the batch has done: it is lost.
    pub fn give_up(&mut self) {
        self.lost = true;
        if !self.database.writer.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::error!(%error, "roll a batch back");
        }
    }

    /// Whether the last request's failure has cost the whole batch: SQLite has rolled everything back (a conflict clause that
    /// says so, a write that was interrupted). None of its requests has happened.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the batch has outgrown the writer's cache, so that it should be committed before more is added.
    #[must_use]
    pub fn is_large(&self) -> bool {
        sqlite_file::spilled_pages(&self.database.writer) != self.spilled
    }

    /// Runs a user's request: `Ok` keeps what it wrote, `Err` undoes it; the batch goes on, unless it [is
    /// lost](Batch::is_lost). Users' SQL is
    /// prepared with [`prepare_user`] or `Connection::prepare`, never with `prepare_cached` as it is.
    ///
    /// # Errors
    /// [`StoreError::BatchLost`] when SQLite had rolled everything back before; errors for which [`StoreError::is_request`] holds
    /// concern this request alone.
    pub fn request<T, E>(
        &mut self,
        run: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        if self.database.foreign_keys_found {
            self.database.enforce_foreign_keys(true)?;
        }
        let result = self.limited(|database| {
            let _users = database.user_mode.enter();
            run(&database.writer)
        });
        if self.database.foreign_keys_found {
            self.database.enforce_foreign_keys(false)?;
        }
        let mode = &self.database.user_mode;
        if mode.altered() || mode.declared() || mode.renumbered() {
            // The authorizer notes that when a statement is prepared; one from the cache would pass unnoticed.
            self.database.writer.flush_prepared_statement_cache();
        }
        result
    }

    /// Runs the server's own SQL for a request: within the limits of requests, but without the denials of users' SQL.
    ///
    /// # Errors
    /// As [`Batch::request`].
    pub fn change<T, E>(
        &mut self,
        run: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        self.limited(|database| run(&database.writer))
    }

    fn limited<T, E>(
        &mut self,
        run: impl FnOnce(&Database) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        let limit = self.request_pages();
        let start = sqlite_file::spilled_pages(&self.database.writer);
        // While it runs, only a request far over the limit is stopped, since that costs the whole batch.
        let limit_bytes = self.database.options.max_transaction_bytes;
        self.database.limits.set_spill(start, limit.saturating_mul(2), limit_bytes);
        let result = self.in_savepoint(true, |database| {
            let result = run(database);
            // The end of the savepoint is the server's own: interrupted, it would look like a disk that refuses.
            database.limits.lift();
            result
        });
        if account::is_beyond() {
            self.database.writer.flush_prepared_statement_cache();
        }
        result
    }

    /// Runs the server's own writes, to which neither the authorizer's denials nor the size limit apply.
    ///
    /// # Errors
    /// As [`Batch::request`].
    pub fn internal<T, E>(
        &mut self,
        run: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        self.in_savepoint(false, |database| run(&database.writer))
    }

    /// Pages a request may spill: what it writes beyond the cache.
    fn request_pages(&self) -> u32 {
        let options = &self.database.options;
        let bytes = options.max_transaction_bytes.saturating_sub(options.writer_cache_bytes());
        u32::try_from(bytes / u64::from(self.database.page_size)).unwrap_or(u32::MAX / 4)
    }

    fn in_savepoint<T, E>(
        &mut self,
        limited: bool,
        run: impl FnOnce(&Database) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        self.alive()?;
        self.execute("SAVEPOINT tanist_request")?;
        let start = sqlite_file::spilled_pages(&self.database.writer);
        let result = run(self.database);
        if let (true, Err(_)) = (self.database.writer.is_autocommit(), &result) {
            self.lost = true;
            return Ok(result); // SQLite has rolled everything back with it
        }
        self.alive()?;
        let spilled = sqlite_file::spilled_pages(&self.database.writer).wrapping_sub(start);
        let refused = if result.is_ok() { self.refusal(limited, spilled)? } else { None };
        if result.is_ok() && refused.is_none() {
            self.kept += 1;
            self.execute("RELEASE tanist_request")?;
        } else if spilled > 0 && self.kept == 0 {
            // Undone with a savepoint, pages that were spilled would be written again as they were.
            self.execute("ROLLBACK")?;
            self.execute("BEGIN IMMEDIATE")?;
            self.follow()?;
        } else {
            self.execute("ROLLBACK TO tanist_request")?;
            self.execute("RELEASE tanist_request")?;
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(result),
        }
    }

    /// Why a request that has come through can't stay.
    fn refusal(&self, limited: bool, spilled: u32) -> Result<Option<StoreError>, StoreError> {
        let database = &*self.database;
        if limited && spilled > self.request_pages() {
            let limit_bytes = database.options.max_transaction_bytes;
            return Ok(Some(StoreError::TransactionTooLarge { limit_bytes }));
        }
        if sqlite_file::foreign_keys_violated(&database.writer) {
            return Ok(Some(StoreError::ForeignKeys));
        }
        if limited
            && database.user_mode.renumbered()
            && !database
                .sqlite("look for reserved numbers", |db| reserved_in_sequence(&db.writer, &db.checkpoints))?
        {
            return Ok(Some(StoreError::ReservedName { name: "sqlite_sequence".to_owned() }));
        }
        if limited
            && database.user_mode.declared()
            && let Some((table, parent)) =
                database.sqlite("look for foreign keys", |db| foreign_key_to_reserved(&db.writer))?
        {
            return Ok(Some(StoreError::ReservedReference { table, parent }));
        }
        if limited && database.user_mode.altered() {
            let (before, now) = database.sqlite("look for reserved names", |db| {
                Ok((reserved_names(&db.checkpoints)?, reserved_names(&db.writer)?))
            })?;
            let new = now.into_iter().find(|name| !before.contains(name));
            return Ok(new.map(|name| StoreError::ReservedName { name }));
        }
        Ok(None)
    }

    fn execute(&self, sql: &'static str) -> Result<(), StoreError> {
        self.database.sqlite("write a batch", |db| db.writer.prepare_cached(sql)?.execute([]).map(drop))
    }

    /// Fails when SQLite has rolled the transaction back.
    fn alive(&mut self) -> Result<(), StoreError> {
        if self.lost || self.database.writer.is_autocommit() {
            self.lost = true;
            return Err(StoreError::BatchLost { interrupted: self.database.limits.interrupted() });
        }
        Ok(())
    }

    /// Makes this transaction the first of the term's reign by adding its row to the term history.
    ///
    /// # Errors
    /// When the term isn't newer than the last one, or SQLite fails.
    pub fn begin_reign(&mut self, master: &str, reason: &str) -> Result<(), StoreError> {
        let reign = Reign { term: self.term, first_txid: self.next_stamp().position.txid };
        self.database.history.clone().push(reign.clone())?;
        self.internal(|connection| tables::write_reign(connection, &reign, master, reason))?
            .map_err(|error| StoreError::sqlite(&self.database.path, "begin a reign", error))?;
        self.reign = Some(reign);
        Ok(())
    }

    /// Numbers, commits (without sync) and captures the batch. Without writes and outside changes it is rolled back
    /// and leaves no trace.
    ///
    /// # Errors
    /// [`StoreError::BatchLost`] or SQLite's refusal: nothing was committed. [`StoreError::Term`] when the term has
    /// no reign yet.
    pub fn commit(mut self) -> Result<Captured, StoreError> {
        self.alive()?;
        if !self.outside && (self.kept == 0 || self.wrote_nothing()?) {
            return Ok(Captured::Nothing);
        }
        let newest = self.reign.as_ref().or(self.database.history.last()).map(|reign| reign.term);
        if newest != Some(self.term) {
            return Err(StoreError::Term {
                term: self.term,
                position: self.database.stamp.position,
                no_reign: true,
            });
        }
        let stamp = self.next_stamp();
        let database = &mut *self.database;
        database.sqlite("number a batch", |db| tables::write_stamp(&db.writer, &stamp))?;
        database.sqlite("commit a batch", |db| {
            db.gate.pass(|| db.writer.prepare_cached("COMMIT")?.execute([]).map(drop))
        })?;
        self.finished = true;
        if let Some(reign) = self.reign.take() {
            database.history.push(reign)?;
        }
        Ok(database.capture(stamp))
    }

    /// Whether the requests, for all that they succeeded, wrote no page. Not cheap, so asked only when no row changed.
    fn wrote_nothing(&self) -> Result<bool, StoreError> {
        let database = &*self.database;
        if database.writer.total_changes() != self.total_changes {
            return Ok(false);
        }
        database.sqlite("look for changes", |db| {
            let cookie = |connection: &Connection| {
                connection.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0))
            };
            // Nobody else can commit meanwhile, so another connection sees the state before this transaction.
            if cookie(&db.writer)? != cookie(&db.checkpoints)? {
                return Ok(false);
            }
            let before = sqlite_file::written_pages(&db.writer);
            db.writer.cache_flush()?;
            Ok(sqlite_file::written_pages(&db.writer) == before)
        })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.database.limits.lift();
        if !self.finished
            && !self.database.writer.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::error!(%error, "roll a batch back");
        }
    }
}
