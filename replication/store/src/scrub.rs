//! Reads the pages of a living database again, slowly, and finds those that aren't what was written.
//!
//! Owns a connection of its own. Never repairs: the server has the page replaced from another machine. What the operating
//! system has cached is believed: opening the file by another way than SQLite, to get round the cache, would end SQLite's
//! locks when it is closed. Read `sums.rs` for what a page is compared with.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;

use crate::{
    connection,
    error::StoreError,
    sums::{Moment, PageSums, Seen},
    tables,
    wal::{self, is_lock_page},
};

/// SQLite's least: what is read again must not come from its cache.
const CACHE_BYTES: u64 = 64 << 10;

/// Goes round and round over all pages.
#[derive(Debug)]
pub struct Scrub {
    connection: Connection,
    path: PathBuf,
    sums: Arc<PageSums>,
    image: Vec<u8>,
    next: u32,
}

/// What a step has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Pages read.
    pub read: u32,
    /// Pages that aren't what was written.
    pub wrong: Vec<u32>,
    /// The last page was among them: the next step begins anew.
    pub round: bool,
}

impl Scrub {
    /// Opens the database in `dir`, whose sums these are.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(dir: &Path, sums: Arc<PageSums>) -> Result<Scrub, StoreError> {
        let path = connection::database_path(dir);
        let connection = connection::open_read_only(dir, CACHE_BYTES)?;
        let error = |error| StoreError::sqlite(&path, "begin a scrub", error);
        let page_size: u32 =
            connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(error)?;
        Ok(Scrub { connection, path, sums, image: vec![0; page_size as usize], next: 1 })
    }

    /// Reads the next pages, at most so many.
    ///
    /// # Errors
    /// When the database can't be read; SQLite says so by itself when the damage is in what it needs for that.
    pub fn step(&mut self, count: u32) -> Result<Scrubbed, StoreError> {
        let first = self.next;
        let (mut found, pages) = self.look(first, count)?;
        self.next = first.saturating_add(found.read);
        if self.next > pages {
            self.next = 1;
            found.round = true;
        }
        Ok(found)
    }

    /// Whether this page is still not what was written.
    ///
    /// # Errors
    /// As [`Scrub::step`].
    pub fn is_wrong(&mut self, page: u32) -> Result<bool, StoreError> {
        Ok(!self.look(page, 1)?.0.wrong.is_empty())
    }

    fn look(&mut self, first: u32, count: u32) -> Result<(Scrubbed, u32), StoreError> {
        self.sqlite(|connection| connection.execute_batch("BEGIN"))?;
        let looked = self.look_in_snapshot(first, count);
        self.sqlite(|connection| connection.execute_batch("COMMIT"))?;
        looked
    }

    fn look_in_snapshot(&mut self, first: u32, count: u32) -> Result<(Scrubbed, u32), StoreError> {
        let position = tables::read_stamp(&self.connection, &self.path)?.position;
        let moment = self.sqlite(|connection| Moment::read(connection, position))?;
        let pages: u32 = self.sqlite(|connection| {
            connection.pragma_query_value(None, "page_count", |row| row.get::<_, u32>(0))
        })?;
        let page_size = u32::try_from(self.image.len()).unwrap_or(u32::MAX);
        let mut found = Scrubbed::default();
        for page in first..=pages.min(first.saturating_add(count.saturating_sub(1))) {
            if !is_lock_page(page, page_size) {
                wal::read_page(&self.connection, page, &mut self.image)
                    .map_err(|error| StoreError::sqlite(&self.path, "scrub a page", error))?;
                match self.sums.see(moment, page, &self.image) {
                    Some(Seen::Right | Seen::Newer) => {}
                    Some(Seen::Wrong) => found.wrong.push(page),
                    // Committed a moment ago: the same pages come again with the next step.
                    None => break,
                }
            }
            found.read += 1;
        }
        Ok((found, pages))
    }

    fn sqlite<T>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        run(&self.connection).map_err(|error| StoreError::sqlite(&self.path, "scrub", error))
    }
}
