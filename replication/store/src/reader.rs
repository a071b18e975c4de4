//! Connections for users' reads.
//!
//! Owns nothing but its connection: a reader thread makes its own. Never writes, not even when told to. Read
//! `authorizer.rs` for what users may read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rusqlite::{Connection, limits::Limit};
use tanist_replication::Stamp;

use crate::{
    account,
    authorizer::UserMode,
    connection,
    error::StoreError,
    limits::{self, Interrupted, Limits},
    sums::{Moment, PageSums},
    tables,
    verify::{self, Snapshot},
};

/// A read-only connection with the rules for users' SQL. `Send`, not `Sync`.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    user_mode: UserMode,
    limits: Limits,
    path: PathBuf,
    sums: Option<Arc<PageSums>>,
}

/// Opens the database in `dir` for users' reads with a page cache of `cache_bytes`. With the sums of its pages, each page that is
/// read from the disk is compared.
///
/// # Errors
/// When it can't be opened.
pub fn open_reader(dir: &Path, cache_bytes: u64, sums: Option<Arc<PageSums>>) -> Result<Reader, StoreError> {
    let path = connection::database_path(dir);
    let mut connection = connection::open_read_only(dir, cache_bytes)?;
    let mut hooks = || {
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        Ok((UserMode::install(&mut connection)?, Limits::install(&mut connection, limits::READS)?))
    };
    let (user_mode, limits) = hooks().map_err(|error| StoreError::sqlite(&path, "open a reader", error))?;
    if sums.is_some() {
        verify::watch(&connection).map_err(|error| StoreError::sqlite(&path, "open a reader", error))?;
    }
    Ok(Reader { connection, user_mode, limits, path, sums })
}

impl Reader {
    /// Lets users' SQL read what isn't everybody's: hashes of tokens, others' answers, the record of changes by SQL.
    #[must_use]
    pub fn seeing_all(self) -> Reader {
        self.user_mode.see_all();
        self
    }
}

impl Reader {
    /// Runs `read` on one snapshot, with the stamp of it. Users' SQL may be prepared with `prepare_cached` here.
    ///
    /// # Errors
    /// When the snapshot can't be had, and [`StoreError::Rotten`] when what was read isn't what was written; else what
    /// `read` returns is its own affair.
    pub fn snapshot<T>(&mut self, read: impl FnOnce(&Connection, Stamp) -> T) -> Result<T, StoreError> {
        let verified = self.sums.clone().map(Snapshot::begin);
        let result = self.read(verified.as_ref(), read);
        if account::is_beyond() {
            self.connection.flush_prepared_statement_cache();
        }
        match verified.as_ref().and_then(Snapshot::wrong) {
            Some(page) => Err(StoreError::Rotten { page }),
            None => result,
        }
    }

    fn read<T>(
        &self,
        verified: Option<&Snapshot>,
        read: impl FnOnce(&Connection, Stamp) -> T,
    ) -> Result<T, StoreError> {
        let error = |error| StoreError::sqlite(&self.path, "read a snapshot", error);
        self.connection.execute_batch("BEGIN").map_err(error)?;
        let _end = EndSnapshot(&self.connection);
        let stamp = tables::read_stamp(&self.connection, &self.path)?;
        if let Some(verified) = verified {
            verified.at(Moment::read(&self.connection, stamp.position).map_err(error)?);
        }
        let _users = self.user_mode.enter();
        Ok(read(&self.connection, stamp))
    }

    /// The stamp of the newest state.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn stamp(&self) -> Result<Stamp, StoreError> {
        tables::read_stamp(&self.connection, &self.path)
    }

    /// The connection, for the server's own reads: without the rules for users' SQL.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Statements that run past `deadline` are interrupted, until another is set.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.limits.set_deadline(deadline);
    }

    /// Why a statement was interrupted since the deadline was set, if one was.
    #[must_use]
    pub fn interrupted(&self) -> Option<Interrupted> {
        self.limits.interrupted()
    }

    /// What was denied in the last snapshot, such as `ATTACH or VACUUM`.
    #[must_use]
    pub fn denied(&self) -> Option<String> {
        self.user_mode.denied()
    }
}

struct EndSnapshot<'c>(&'c Connection);

impl Drop for EndSnapshot<'_> {
    fn drop(&mut self) {
        // SQLite itself ends it when there was no memory.
        if self.0.is_autocommit() {
            return;
        }
        if let Err(error) = self.0.execute_batch("ROLLBACK") {
            tracing::error!(%error, "end a snapshot");
        }
    }
}
