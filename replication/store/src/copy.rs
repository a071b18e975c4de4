//! The serving end of a rejoin (R12): one snapshot of a living database, compared with a replica page by page.
//!
//! Owns the walk over all pages. Never blocks readers or the writer, and keeps no more than one answer in memory. Read
//! `rejoin.rs` for the other end.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::Connection;
use tanist_replication::{PagesWriter, Stamp, TermHistory};

use crate::{
    connection,
    error::StoreError,
    page_hash::{PAGE_HASH_BYTES, PageHash, PageHasher, WholeHasher, window_pages},
    tables,
    wal::{self, is_lock_page},
};

const CACHE_BYTES: u64 = 512 << 10;

/// What a rejoin leads to: one snapshot of a master's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The snapshot's stamp.
    pub stamp: Stamp,
    /// Size of a page in bytes.
    pub page_size: u32,
    /// Size in pages; the one with SQLite's lock bytes (at 1 GiB) is counted but never travels.
    pub pages: u32,
    /// Who reigned on the snapshot's branch.
    pub history: TermHistory,
}

/// A snapshot of a whole database, on a connection of its own. While it lives the WAL can't start over.
#[derive(Debug)]
pub struct CopyOut {
    connection: Connection,
    path: PathBuf,
    target: Target,
    hasher: PageHasher,
    whole: WholeHasher,
    image: Vec<u8>,
    next: u32,
    moved: u32,
}

impl CopyOut {
    /// Opens the database in `dir` and its snapshot, for a replica that hashes with `key`.
    ///
    /// # Errors
    /// When it can't be opened or read.
    pub fn open(dir: &Path, key: [u8; 32]) -> Result<CopyOut, StoreError> {
        let path = connection::database_path(dir);
        let connection = connection::open_read_only(dir, CACHE_BYTES)?;
        let error = |error| StoreError::sqlite(&path, "begin a copy", error);
        connection.execute_batch("BEGIN").map_err(error)?;
        let stamp = tables::read_stamp(&connection, &path)?;
        let history = tables::read_history(&connection, &path)?;
        let number =
            |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0)).map_err(error);
        let (page_size, pages) = (number("page_size")?, number("page_count")?);
        let hasher = PageHasher::new(key);
        let whole = hasher.whole(page_size, pages);
        let image = vec![0; page_size as usize];
        let target = Target { stamp, page_size, pages, history };
        Ok(CopyOut { connection, path, target, hasher, whole, image, next: 1, moved: 0 })
    }

    /// What the snapshot is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The pages among `count` from `first` on that differ from the replica's, whose hashes follow each other in
    /// `hashes` (fewer, where the replica ends earlier), as a payload of `tanist_replication::Pages`. Questions go
    /// through the database in order.
    ///
    /// # Errors
    /// [`StoreError::Exchange`] for a question that makes no sense; otherwise when the database can't be read.
    pub fn differing(&mut self, first: u32, count: u32, hashes: &[u8]) -> Result<Bytes, StoreError> {
        let Target { page_size, pages, .. } = self.target;
        let end = first.checked_add(count).filter(|end| {
            first == self.next && (1..=window_pages(page_size)).contains(&count) && end - 1 <= pages
        });
        let end = end.ok_or_else(|| {
            StoreError::Exchange(format!(
                "asked for {count} pages from page {first} on, expected at most {} from page {} on, of {pages}",
                window_pages(page_size),
                self.next
            ))
        })?;
        if !hashes.len().is_multiple_of(PAGE_HASH_BYTES) || hashes.len() / PAGE_HASH_BYTES > count as usize {
            let found = hashes.len();
            return Err(StoreError::Exchange(format!("{found} bytes of hashes for {count} pages")));
        }
        let mut theirs = hashes.chunks_exact(PAGE_HASH_BYTES);
        let mut writer = PagesWriter::new(page_size, 0);
        for page in first..end {
            let their = theirs.next();
            if is_lock_page(page, page_size) {
                continue;
            }
            wal::read_page(&self.connection, page, &mut self.image)
                .map_err(|error| StoreError::sqlite(&self.path, "copy a page", error))?;
            let hash = self.hasher.page(page, &self.image);
            self.whole.add(hash);
            if hash == PageHash::NONE || their != Some(&hash.0) {
                writer.page(page).copy_from_slice(&self.image);
                self.moved += 1;
            }
        }
        self.next = end;
        Ok(writer.finish(pages))
    }

    /// Pages given so far.
    #[must_use]
    pub fn moved(&self) -> u32 {
        self.moved
    }

    /// The hash of the whole snapshot, once all pages were asked for.
    #[must_use]
    pub fn whole_hash(&self) -> Option<[u8; 32]> {
        (self.next > self.target.pages).then(|| self.whole.finish())
    }
}
