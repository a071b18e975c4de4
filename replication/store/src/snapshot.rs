//! One snapshot of a whole living database, page by page.
//!
//! Owns a read transaction on a connection of its own. Never blocks readers or the writer; but while it lives the WAL
//! can't start over, so whoever holds one must come to an end. Read `copy.rs` (rejoin) and `restore.rs` for its uses.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tanist_replication::{Stamp, TermHistory};

use crate::{
    connection,
    error::StoreError,
    sums::{Moment, PageSums},
    tables,
    wal::{self, is_lock_page},
};

const CACHE_BYTES: u64 = 512 << 10;
/// A write from outside is adopted, or its machine gives up being the master, well within this time.
const ADOPTION_TIME: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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
    /// Opens the database in `dir` and its snapshot, as it is: on a master it may hold what somebody else has committed and
    /// nobody has numbered.
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

    /// Opens the database in `dir`, whose sums these are, and a snapshot of it that holds numbered transactions alone: what
    /// somebody else has just committed is waited for until it is adopted.
    ///
    /// # Errors
    /// When it can't be opened or read; [`StoreError::Unnumbered`] when that takes too long.
    pub fn open_numbered(dir: &Path, sums: &PageSums) -> Result<Snapshot, StoreError> {
        let until = Instant::now() + ADOPTION_TIME;
        loop {
            let snapshot = Snapshot::open(dir)?;
            let moment = Moment::read(&snapshot.connection, snapshot.target.stamp.position)
                .map_err(|error| StoreError::sqlite(&snapshot.path, "begin a copy", error))?;
            if sums.is_numbered(moment) == Some(true) {
                return Ok(snapshot);
            }
            if Instant::now() >= until {
                return Err(StoreError::Unnumbered { position: moment.position });
            }
            drop(snapshot);
            std::thread::sleep(LOOK_AGAIN);
        }
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
