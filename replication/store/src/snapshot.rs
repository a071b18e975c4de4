//! One snapshot of a whole living database, page by page.
//!
//! Owns a read transaction on a connection of its own. Never blocks readers or the writer; but while it lives the WAL
//! can't start over, so whoever holds one must come to an end. Read `copy.rs` (rejoin) and `restore.rs` for its uses.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tanist_replication::{Stamp, TermHistory};

use crate::{
    connection,
    error::StoreError,
    tables,
    wal::{self, is_lock_page},
};

const CACHE_BYTES: u64 = 512 << 10;

/// What a snapshot of a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The snapshot's stamp.
    pub stamp: Stamp,
    /// Size of a page in bytes.
    pub page_size: u32,
    /// Size in pages, the one with SQLite's lock bytes (at 1 GiB) included.
    pub pages: u32,
    /// Who reigned on the snapshot's branch.
    pub history: TermHistory,
}

impl Target {
    /// Size of the database in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.pages)
    }
}

/// A snapshot of a whole database, on a connection of its own. While it lives the WAL can't start over.
#[derive(Debug)]
pub struct Snapshot {
    connection: Connection,
    path: PathBuf,
    target: Target,
}

impl Snapshot {
    /// Opens the database in `dir` and its snapshot.
    ///
    /// # Errors
    /// When it can't be opened or read.
    pub fn open(dir: &Path) -> Result<Snapshot, StoreError> {
        let path = connection::database_path(dir);
        let connection = connection::open_read_only(dir, CACHE_BYTES)?;
        let error = |error| StoreError::sqlite(&path, "begin a copy", error);
        connection.execute_batch("BEGIN").map_err(error)?;
        let stamp = tables::read_stamp(&connection, &path)?;
        let history = tables::read_history(&connection, &path)?;
        let number =
            |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0)).map_err(error);
        let (page_size, pages) = (number("page_size")?, number("page_count")?);
        let target = Target { stamp, page_size, pages, history };
        Ok(Snapshot { connection, path, target })
    }

    /// What the snapshot is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Reads a page into `image`, which is as long as a page. The one with SQLite's lock bytes holds nothing: zeros.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn page(&self, page: u32, image: &mut [u8]) -> Result<(), StoreError> {
        if is_lock_page(page, self.target.page_size) {
            image.fill(0);
            return Ok(());
        }
        wal::read_page(&self.connection, page, image)
            .map_err(|error| StoreError::sqlite(&self.path, "copy a page", error))
    }
}
