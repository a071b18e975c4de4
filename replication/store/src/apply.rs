//! A backup's half of replication: puts a master's pages in place.
//!
//! Owns the order of page writes. Never changes anything when a transaction doesn't fit, and never lets a reader see
//! a part of one. Read `encode.rs` for the checks on a payload.

use tanist_replication::{Pages, Stamp, Transaction};

use crate::{
    Reserve,
    database::{Database, Mode},
    error::StoreError,
    tables, wal,
};

/// What an apply came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The replica's stamp now, *stored* (synced).
    pub stamp: Stamp,
    /// Whether a reign began in the transactions, so that [`Database::history`] is another.
    pub history_changed: bool,
}

/// Places of the auto-vacuum settings and the page count in page 1.
const LARGEST_ROOT: usize = 52;
const INCREMENTAL_VACUUM: usize = 64;

impl Database {
    /// Applies `transactions`, which follow this replica and each other, as one SQLite transaction, and syncs it.
    /// Their payloads are held in memory together.
    ///
    /// # Errors
    /// Nothing is changed when a transaction doesn't follow its predecessor or its payload is wrong, and when SQLite
    /// or the disk fails before the commit. [`StoreError::Io`] with `sync the WAL`: applied, but perhaps not durable.
    /// [`StoreError::ForeignWrite`]: the replica must rejoin. It also does, and [`Database::is_diverged`] says so,
    /// when a reign began and the term history in its master's pages can't be read.
    pub fn apply(&mut self, transactions: &[Transaction]) -> Result<Applied, StoreError> {
        if self.unnumbered {
            return Err(self.foreign_write());
        }
        self.ensure_locked()?;
        let Some(last) = transactions.last() else {
            return Ok(Applied { stamp: self.stamp, history_changed: false });
        };
        let payloads = self.check(transactions)?;
        let pages = newest_images(&payloads);
        let database_pages = payloads.last().map_or(0, Pages::database_pages);
        self.check_new_pages(&pages, database_pages, last.stamp)?;
        self.check_room(database_pages)?;
        let written = self.sqlite("apply a transaction", |db| db.write_pages(&pages, database_pages));
        self.finish_apply(written)?;
        let history_changed = last.stamp.position.term != self.stamp.position.term;
        self.stamp = last.stamp;
        self.last_checksum = last.checksum;
        self.sums.written(self.moment(), database_pages, pages.iter().copied());
        self.sums.is_now(self.stamp, true);
        if history_changed {
            match tables::read_history(&self.observer, &self.path) {
                Ok(history) => self.history = history,
                Err(error) => {
                    self.distrust();
                    return Err(error);
                }
            }
        }
        self.note();
        Ok(Applied { stamp: self.stamp, history_changed })
    }

    /// Checks stamps and payloads before anything is written.
    fn check(&mut self, transactions: &[Transaction]) -> Result<Vec<Pages>, StoreError> {
        let mut found = self.stamp;
        let mut payloads = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            let Transaction { previous, stamp, .. } = *transaction;
            let follows = previous == found
                && stamp.position.txid == found.position.txid.next()
                && stamp.position.term >= found.position.term;
            if !follows {
                return Err(StoreError::Predecessor { stamp, previous, found });
            }
            let pages = self.decoder.decode(transaction, self.options.payload_limit())?;
            if pages.page_size() != self.page_size {
                return Err(StoreError::PageSize { found: pages.page_size(), expected: self.page_size });
            }
            found = stamp;
            payloads.push(pages);
        }
        Ok(payloads)
    }

    /// A master sends every page by which the database grows. With one left out the file would have a hole, and with a
    /// size out of thin air no end.
    fn check_new_pages(
        &self,
        pages: &[(u32, &[u8])],
        database_pages: u32,
        stamp: Stamp,
    ) -> Result<(), StoreError> {
        let have = self.captured.pages;
        let is_new = |page: u32| page > have && page <= database_pages;
        let unwritten = is_new(wal::lock_page(self.page_size));
        let expected = database_pages.saturating_sub(have) - u32::from(unwritten);
        let found = pages.iter().filter(|(page, _)| is_new(*page)).count();
        if found == expected as usize {
            Ok(())
        } else {
            Err(StoreError::NewPages { position: stamp.position, found, expected })
        }
    }

    /// What is left on a nearly full disk is for what needs no further pages.
    fn check_room(&self, database_pages: u32) -> Result<(), StoreError> {
        let grows = database_pages > self.captured.pages;
        let least = || self.reserve().and_then(Reserve::room).is_some_and(|room| room.is_least());
        if grows && least() {
            let doing = "apply a transaction by which the database grows, beside the room that is held back";
            return Err(StoreError::DiskFull { path: self.path.clone(), doing });
        }
        Ok(())
    }

    /// Writes page images into the open transaction. Page 1 comes last, because with a new schema cookie in it SQLite
    /// would read the schema again, half of it old.
    pub(crate) fn write_pages(
        &self,
        pages: &[(u32, &[u8])],
        database_pages: u32,
    ) -> Result<(), rusqlite::Error> {
        let first = pages.first().filter(|(page, _)| *page == 1).map(|(_, image)| *image);
        if let Some(image) = first {
            self.leave_full_auto_vacuum(image)?;
        }
        let mut write =
            self.writer.prepare_cached("INSERT INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)")?;
        for (page, image) in pages.iter().filter(|(page, _)| *page > 1 && *page <= database_pages) {
            write.execute((page, image))?;
        }
        self.write_first_page(first, database_pages)
    }

    /// Writes page 1 and sets the database's size; see [`Database::write_pages`].
    pub(crate) fn write_first_page(
        &self,
        image: Option<&[u8]>,
        database_pages: u32,
    ) -> Result<(), rusqlite::Error> {
        if database_pages < self.captured.pages {
            self.cut(database_pages)?;
        }
        if let Some(image) = image {
            // One row: at the end of a statement with several, SQLite would take the new size from this page and then
            // find nothing left to cut.
            let sql = "INSERT INTO sqlite_dbpage (pgno, data) VALUES (1, ?1)";
            self.writer.prepare_cached(sql)?.execute([image])?;
        }
        Ok(())
    }

    /// Has the database cut to `pages` at the commit. Said through a page table of its own, because whoever writes a page
    /// through the same one takes it back; and before page 1, after which no other statement may run.
    fn cut(&self, pages: u32) -> Result<(), rusqlite::Error> {
        self.writer
            .execute_batch("CREATE VIRTUAL TABLE IF NOT EXISTS temp.tanist_cut USING sqlite_dbpage")?;
        let sql = "INSERT INTO temp.tanist_cut (pgno, data) VALUES (?1, NULL)";
        self.writer.prepare_cached(sql)?.execute([pages.saturating_add(1)]).map(drop)
    }

    /// With full auto-vacuum SQLite would move pages at commit when page 1 lists free ones. A master in that mode
    /// never leaves any, but one that has just left the mode may.
    pub(crate) fn leave_full_auto_vacuum(&self, first_page: &[u8]) -> Result<(), rusqlite::Error> {
        let set = |at: usize| first_page.get(at..at + 4).is_some_and(|word| word != [0; 4]);
        if set(LARGEST_ROOT) && !set(INCREMENTAL_VACUUM) {
            return Ok(());
        }
        let full = self.writer.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))? == 1;
        if full { self.writer.pragma_update(None, "auto_vacuum", "INCREMENTAL") } else { Ok(()) }
    }

    /// Commits what `written` says was written and syncs it; rolls back when it wasn't. The cache is dropped, because
    /// what SQLite has parsed of the pages in it no longer holds.
    pub(crate) fn finish_apply(&mut self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        let committed = written.and_then(|()| {
            self.sqlite("commit what was applied", |db| {
                db.gate.pass(|| db.writer.prepare_cached("COMMIT")?.execute([]).map(drop))
            })
        });
        if let Err(error) = committed {
            self.abandon();
            return Err(error);
        }
        self.mode = Mode::Backup { locked: false };
        self.captured.change = self.captured.change.wrapping_add(1);
        self.sqlite("drop the cache", |db| db.writer.release_memory())?;
        // Locked again before the sync, which takes far longer: the moment in which a stranger could write is short.
        self.after_apply();
        self.wal_file.sync().map_err(|source| StoreError::Io {
            path: self.path.clone(),
            doing: "sync the WAL",
            source,
        })
    }

    /// What was applied is on the disk: so it is remembered.
    pub(crate) fn note(&self) {
        if !self.is_diverged() {
            self.memory.note(self.stamp, self.wal_place());
        }
    }

    /// Undoes what was written since the last commit and stands ready again.
    pub(crate) fn abandon(&mut self) {
        let rolled_back = self.sqlite("roll back", |db| {
            if !db.writer.is_autocommit() {
                db.writer.execute_batch("ROLLBACK")?;
            }
            db.writer.release_memory()
        });
        self.mode = Mode::Backup { locked: false };
        if let Err(error) = rolled_back.and_then(|()| self.lock(self.captured.change)) {
            tracing::error!(%error, "stand ready after a rollback");
        }
    }

    /// Takes the lock again. That it can't be had, or that somebody wrote, is the next operation's error: what was
    /// applied is applied.
    pub(crate) fn after_apply(&mut self) {
        // Normally the caller checkpoints in the background well before this.
        if self.captured.frames >= self.limit_frames().saturating_mul(2)
            && let Err(error) = self.sqlite("checkpoint", |db| {
                db.checkpoints.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            })
        {
            tracing::warn!(%error, "checkpoint on a backup");
        }
        if let Err(error) = self.lock(self.captured.change) {
            tracing::error!(%error, "take the write lock after an apply");
        }
    }
}

/// The newest image of each page, ascending.
fn newest_images(payloads: &[Pages]) -> Vec<(u32, &[u8])> {
    let mut images: Vec<(u32, usize, &[u8])> = payloads
        .iter()
        .enumerate()
        .flat_map(|(order, pages)| pages.iter().map(move |(page, image)| (page, order, image)))
        .collect();
    images.sort_unstable_by_key(|(page, order, _)| (*page, std::cmp::Reverse(*order)));
    images.dedup_by_key(|(page, ..)| *page);
    images.into_iter().map(|(page, _, image)| (page, image)).collect()
}
