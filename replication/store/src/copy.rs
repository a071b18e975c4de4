//! Full copies of a database: out of a live one, and into a backup in one transaction.
//!
//! Owns the walk over all pages and the check that none is missing. Never blocks readers or the writer. Read
//! `apply.rs` for how pages are put in place.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::Connection;
use tanist_replication::{Pages, PagesWriter, Stamp};

use crate::{
    connection,
    database::{Database, Mode},
    error::StoreError,
    tables,
    wal::{self, is_lock_page},
};

const CACHE_BYTES: u64 = 512 << 10;

/// Reads a whole database in one snapshot, on a connection of its own. While it lives the WAL can't start over.
#[derive(Debug)]
pub struct CopyOut {
    connection: Connection,
    path: PathBuf,
    stamp: Stamp,
    page_size: u32,
    pages: u32,
    next: u32,
}

impl CopyOut {
    /// Opens the database in `dir` and its snapshot.
    ///
    /// # Errors
    /// When it can't be opened or read.
    pub fn open(dir: &Path) -> Result<CopyOut, StoreError> {
        let path = connection::database_path(dir);
        let connection = connection::open_read_only(dir, CACHE_BYTES)?;
        let error = |error| StoreError::sqlite(&path, "begin a copy", error);
        connection.execute_batch("BEGIN").map_err(error)?;
        let stamp = tables::read_stamp(&connection, &path)?;
        let number =
            |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0)).map_err(error);
        let (page_size, pages) = (number("page_size")?, number("page_count")?);
        Ok(CopyOut { connection, path, stamp, page_size, pages, next: 1 })
    }

    /// The stamp of the snapshot.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Size of a page in bytes.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Pages of the snapshot; the one with SQLite's lock bytes (at 1 GiB) is counted but not copied.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The next `max_pages` pages (at least one) as a payload for [`CopyIn::chunk`]; `None` at the end.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn next_chunk(&mut self, max_pages: u32) -> Result<Option<Bytes>, StoreError> {
        let end = self.next.saturating_add(max_pages.max(1)).min(self.pages.saturating_add(1));
        let mut writer = PagesWriter::new(self.page_size, (end - self.next.min(end)) as usize);
        while self.next < end || (writer.is_empty() && self.next <= self.pages) {
            if !is_lock_page(self.next, self.page_size) {
                wal::read_page(&self.connection, self.next, writer.page(self.next))
                    .map_err(|error| StoreError::sqlite(&self.path, "copy a page", error))?;
            }
            self.next += 1;
        }
        Ok(if writer.is_empty() { None } else { Some(writer.finish(self.pages)) })
    }
}

/// A full copy on its way into a backup: one SQLite transaction. Dropped unfinished, nothing has changed.
#[derive(Debug)]
pub struct CopyIn<'d> {
    database: &'d mut Database,
    /// One bit per page that has come.
    seen: Vec<u64>,
    highest: u32,
    first: Option<Box<[u8]>>,
    finished: bool,
}

impl Database {
    /// Begins to replace everything in this backup, a diverged one included, by a copy of pages of `page_size` bytes.
    /// Readers see the old state until the copy is finished; memory is bounded by the writer's cache.
    ///
    /// # Errors
    /// On a master, with another page size, or when the lock can't be had.
    pub fn begin_copy(&mut self, page_size: u32) -> Result<CopyIn<'_>, StoreError> {
        if page_size != self.page_size {
            return Err(StoreError::PageSize { found: page_size, expected: self.page_size });
        }
        match self.mode {
            Mode::Master { .. } => return Err(StoreError::Mode { operation: "full copy", wanted: "backup" }),
            Mode::Backup { locked: true } => {}
            Mode::Backup { locked: false } => match self.lock(self.captured.change) {
                // It is about to be replaced.
                Ok(()) | Err(StoreError::ForeignWrite { .. }) => {}
                Err(error) => return Err(error),
            },
        }
        Ok(CopyIn { database: self, seen: Vec::new(), highest: 0, first: None, finished: false })
    }
}

impl CopyIn<'_> {
    /// Writes the pages of a chunk of [`CopyOut::next_chunk`].
    ///
    /// # Errors
    /// When the chunk is malformed or SQLite refuses.
    pub fn chunk(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        let pages = Pages::parse(chunk)?;
        if pages.page_size() != self.database.page_size {
            return Err(StoreError::PageSize { found: pages.page_size(), expected: self.database.page_size });
        }
        pages.iter().try_for_each(|(page, image)| self.page(page, image))
    }

    /// Writes one page, in any order.
    ///
    /// # Errors
    /// When the number or size is wrong or SQLite refuses.
    pub fn page(&mut self, page: u32, image: &[u8]) -> Result<(), StoreError> {
        let database = &*self.database;
        if image.len() != database.page_size as usize {
            let found = u32::try_from(image.len()).unwrap_or(u32::MAX);
            return Err(StoreError::PageSize { found, expected: database.page_size });
        }
        if page == 0 || is_lock_page(page, database.page_size) {
            return Err(StoreError::CopyPage { page, pages: self.highest });
        }
        if page == 1 {
            self.first = Some(image.into());
        } else {
            database.sqlite("write a copied page", |db| {
                db.writer
                    .prepare_cached("INSERT INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)")?
                    .execute((page, image))
                    .map(drop)
            })?;
        }
        let word = page as usize / 64;
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << (page % 64);
        self.highest = self.highest.max(page);
        Ok(())
    }

    /// Checks that all `database_pages` pages have come, commits and syncs them, and gives the replica's new stamp.
    ///
    /// # Errors
    /// [`StoreError::CopyPage`] and nothing is changed; [`StoreError::CopyStamp`] when the copy holds another position
    /// than `expected` (it stands).
    pub fn finish(mut self, database_pages: u32, expected: Stamp) -> Result<Stamp, StoreError> {
        let page_size = self.database.page_size;
        let missing = (1..=database_pages).find(|page| {
            let word = self.seen.get(*page as usize / 64).copied().unwrap_or(0);
            word & (1 << (page % 64)) == 0 && !is_lock_page(*page, page_size)
        });
        let past_end = (self.highest > database_pages).then_some(self.highest);
        if let Some(page) = missing.or(past_end) {
            return Err(StoreError::CopyPage { page, pages: database_pages });
        }
        let first = self.first.take();
        let database = &mut *self.database;
        let written = database.sqlite("write the first page of a copy", |db| {
            if let Some(image) = first.as_deref() {
                db.leave_full_auto_vacuum(image)?;
            }
            db.write_first_page(first.as_deref(), database_pages)
        });
        self.finished = true;
        let diverged = std::mem::replace(&mut database.diverged, false);
        if let Err(error) = database.finish_apply(written) {
            database.diverged |= diverged;
            return Err(error);
        }
        database.stamp = tables::read_stamp(&database.observer, &database.path)?;
        database.history = tables::read_history(&database.observer, &database.path)?;
        database.last_checksum = tanist_replication::Checksum::default();
        if database.stamp == expected {
            Ok(expected)
        } else {
            Err(StoreError::CopyStamp { found: database.stamp, expected })
        }
    }
}

impl Drop for CopyIn<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.database.abandon();
        }
    }
}
