//! Connections for users' reads.
//!
//! Owns nothing but its connection: a reader thread makes its own. Never writes, not even when told to. Read
//! `authorizer.rs` for what users may read.

use std::{path::Path, path::PathBuf, time::Instant};

use rusqlite::Connection;
use tanist_replication::Stamp;

use crate::{
    authorizer::UserMode,
    connection,
    error::StoreError,
    limits::{self, Interrupted, Limits},
    tables,
};

/// A read-only connection with the rules for users' SQL. `Send`, not `Sync`.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    user_mode: UserMode,
    limits: Limits,
    path: PathBuf,
}

/// Opens the database in `dir` for users' reads with a page cache of `cache_bytes`.
///
/// # Errors
/// When it can't be opened.
pub fn open_reader(dir: &Path, cache_bytes: u64) -> Result<Reader, StoreError> {
    let path = connection::database_path(dir);
    let connection = connection::open_read_only(dir, cache_bytes)?;
    let hooks = || Ok((UserMode::install(&connection)?, Limits::install(&connection, limits::READS)?));
    let (user_mode, limits) = hooks().map_err(|error| StoreError::sqlite(&path, "open a reader", error))?;
    Ok(Reader { connection, user_mode, limits, path })
}

impl Reader {
    /// Runs `read` on one snapshot, with the stamp of it. Users' SQL may be prepared with `prepare_cached` here.
    ///
    /// # Errors
    /// When the snapshot can't be had; what `read` returns is its own affair.
    pub fn snapshot<T>(&mut self, read: impl FnOnce(&Connection, Stamp) -> T) -> Result<T, StoreError> {
        let error = |error| StoreError::sqlite(&self.path, "read a snapshot", error);
        self.connection.execute_batch("BEGIN").map_err(error)?;
        let end = EndSnapshot(&self.connection);
        let stamp = tables::read_stamp(&self.connection, &self.path)?;
        let result = {
            let _users = self.user_mode.enter();
            read(&self.connection, stamp)
        };
        drop(end);
        Ok(result)
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
        if let Err(error) = self.0.execute_batch("ROLLBACK") {
            tracing::error!(%error, "end a snapshot");
        }
    }
}
