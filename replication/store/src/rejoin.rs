//! The receiving end of a rejoin (R12): a replica asks for the pages that differ from a master's snapshot, stages them,
//! and puts all of them in place in one transaction.
//!
//! Owns the order of the questions and the proof that the result is the master's database. Never changes anything before
//! all is there and proven, nor before what a diverged replica held is saved. Read `copy.rs` for the other end,
//! `staging.rs` for the file in between and `divergence/mod.rs` for what is saved.

use std::collections::VecDeque;

use bytes::Bytes;
use tanist_replication::{Checksum, Pages, Position, Stamp, TermHistory, Txid};

use crate::{
    checkpoint,
    database::{Database, Mode},
    divergence::{self, ReportContext},
    error::StoreError,
    memory::Mark,
    page_hash::{PAGE_HASH_BYTES, PageHash, PageHasher, window_pages},
    snapshot::Target,
    staging::Staging,
    sums::{self, PageSum},
    tables,
    wal::{self, is_lock_page},
    walk::Walk,
};

/// A question for the master: which of these pages differ?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The place of the first page: its number, unless only changed pages are compared.
    pub first: u32,
    /// How many pages it is about.
    pub count: u32,
    /// Their hashes, one after another; fewer than `count` when the replica ends earlier.
    pub hashes: Bytes,
}

/// How far a rejoin is, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RejoinCounts {
    /// To be compared.
    pub pages: u32,
    /// Compared so far.
    pub compared: u32,
    /// Received so far.
    pub received: u32,
    /// Staged by an earlier try.
    pub staged_before: u32,
}

/// What a rejoin came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejoined {
    /// The replica's stamp now, *stored*.
    pub stamp: Stamp,
    /// The report of what was replaced, if the replica had diverged.
    pub report: Option<String>,
}

/// A rejoin under way. Dropped unfinished, nothing has changed, and what was staged serves the next try.
#[derive(Debug)]
pub struct Rejoin<'d> {
    pub(crate) database: &'d mut Database,
    pub(crate) staging: Staging,
    pub(crate) target: Target,
    hasher: PageHasher,
    walk: Walk,
    next: u32,
    /// Questions without their answer: first page and the one after the last.
    waiting: VecDeque<(u32, u32)>,
    image: Vec<u8>,
    counts: RejoinCounts,
    report: Option<String>,
    /// Sums of the pages that were proven.
    proven: Vec<(u32, PageSum)>,
    /// All pages are asked for and written: what this replica reads of its own may not be on the disk.
    anew: bool,
}

impl Database {
    /// Opens the staging file with what is left of an earlier try, which may take a while when that is much.
    ///
    /// # Errors
    /// On a master, when the lock can't be had, or the file can't be used.
    pub fn open_staging(&mut self) -> Result<Staging, StoreError> {
        if std::mem::take(&mut self.unnumbered) {
            let now = self.wal_index()?;
            self.foreign_write();
            self.base_lost = false;
            self.move_captured(now);
        }
        match self.mode {
            Mode::Master { .. } => return Err(StoreError::Mode { operation: "rejoin", wanted: "backup" }),
            Mode::Backup { locked: true } => {}
            Mode::Backup { locked: false } => match self.lock(self.captured.change) {
                // It is about to be replaced.
                Ok(()) | Err(StoreError::ForeignWrite { .. }) => {}
                Err(error) => return Err(error),
            },
        }
        Staging::open(&self.dir, self.stamp, self.page_size, self.options.reserve.clone())
    }

    /// Has the next write begin the WAL from its start: what is behind frames whose sync failed isn't found after a power cut.
    fn begin_wal_anew(&mut self) -> Result<(), StoreError> {
        let outcome = self.sqlite("checkpoint", |db| checkpoint::passive(&db.checkpoints))?;
        self.sqlite("release the write lock", |db| {
            if db.writer.is_autocommit() { Ok(()) } else { db.writer.execute_batch("ROLLBACK") }
        })?;
        match self.lock(self.captured.change) {
            Ok(()) | Err(StoreError::ForeignWrite { .. }) => {}
            Err(error) => return Err(error),
        }
        if outcome.is_complete() {
            Ok(())
        } else {
            Err(StoreError::Busy { path: self.path.clone(), doing: "begin the WAL anew" })
        }
    }

    /// Begins to bring this backup, a diverged one included, in line with `target`; pages are hashed with `key`.
    /// Readers see the old state until it is finished; memory is bounded.
    ///
    /// # Errors
    /// When the target can't be this database's, such as with another page size.
    pub fn begin_rejoin(
        &mut self,
        staging: Staging,
        key: [u8; 32],
        target: Target,
    ) -> Result<Rejoin<'_>, StoreError> {
        if target.page_size != self.page_size {
            return Err(StoreError::PageSize { found: target.page_size, expected: self.page_size });
        }
        if target.pages == 0 || target.stamp == Stamp::default() {
            return Err(StoreError::Exchange("the master offers an empty database".to_owned()));
        }
        let staged_before = u32::try_from(staging.len()).unwrap_or(u32::MAX);
        let counts = RejoinCounts { pages: target.pages, staged_before, ..RejoinCounts::default() };
        let image = vec![0; self.page_size as usize];
        let hasher = PageHasher::new(key);
        let walk = Walk::All(target.pages);
        let waiting = VecDeque::new();
        let anew = self.is_doubted();
        if anew {
            self.begin_wal_anew()?;
        }
        // What is compared must come from the disk: the cache may hold what a page was before it rotted.
        self.sqlite("drop the cache", |db| db.writer.release_memory())?;
        Ok(Rejoin {
            database: self,
            staging,
            target,
            hasher,
            walk,
            next: 1,
            waiting,
            image,
            counts,
            report: None,
            proven: vec![],
            anew,
        })
    }
}

impl Rejoin<'_> {
    /// Compares `changed` alone: all that the master has written since it was what this replica is now. Together with the
    /// others, which then are as they were, they make the master's snapshot, as transactions would.
    ///
    /// # Errors
    /// When the list isn't one of the snapshot's pages, leaves out pages by which the database has grown, or this replica
    /// isn't one that the master's transactions follow.
    pub fn only(mut self, changed: Vec<u32>) -> Result<Self, StoreError> {
        let Target { page_size, pages, stamp, ref history } = self.target;
        let walk = Walk::these(changed, page_size, pages)?;
        let own = self.database.stamp.position;
        let have = self.database.captured.pages;
        let unwritten = (have + 1..=pages).contains(&wal::lock_page(page_size));
        let expected = pages.saturating_sub(have) - u32::from(unwritten);
        let follows = own != Position::ZERO && history.contains(own, stamp.position);
        if !follows || self.database.must_compare_all() || walk.after(have) != expected {
            self.database.compare_all = true;
            let why = format!(
                "{} changed pages of {pages} don't lead from {own} with {have} pages to {}: all are compared next time",
                walk.len(),
                stamp.position
            );
            return Err(StoreError::Exchange(why));
        }
        self.counts.pages = walk.len();
        self.walk = walk;
        Ok(self)
    }

    /// How far it is.
    #[must_use]
    pub fn counts(&self) -> RejoinCounts {
        self.counts
    }

    /// Questions that wait for their answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// Where this replica's history and the master's part, if the replica has diverged and isn't merely behind.
    #[must_use]
    pub fn diverged_after(&self) -> Option<Position> {
        let own = self.database.stamp.position;
        let on_branch = self.target.history.contains(own, self.target.stamp.position);
        if on_branch {
            // A write that no master numbered is in it, or what was there before any.
            let foreign = own == Position::ZERO && self.database.captured.pages > 1;
            return (self.database.diverged || foreign).then_some(own);
        }
        Some(common(&self.database.history, own, &self.target.history, self.target.stamp.position))
    }

    /// The next question; `None` when all pages were asked for.
    ///
    /// # Errors
    /// When this replica or the staging file can't be read.
    pub fn question(&mut self) -> Result<Option<Question>, StoreError> {
        let places = self.walk.len();
        if self.next > places {
            return Ok(None);
        }
        let first = self.next;
        let count = window_pages(self.target.page_size).min(places - first + 1);
        let mut hashes = Vec::with_capacity(count as usize * PAGE_HASH_BYTES);
        let mut known = 0;
        for place in first..first + count {
            let page = self.walk.page(place);
            let here = !is_lock_page(page, self.target.page_size) && self.read(page)?;
            let hash = if here { self.hasher.page(page, &self.image) } else { PageHash::NONE };
            hashes.extend_from_slice(&hash.0);
            if here {
                known = hashes.len();
            }
        }
        hashes.truncate(known);
        self.next = first + count;
        self.waiting.push_back((first, self.next));
        Ok(Some(Question { first, count, hashes: hashes.into() }))
    }

    /// Reads a page as it would be now: staged, or as in this replica; `false` when there is none.
    fn read(&mut self, page: u32) -> Result<bool, StoreError> {
        if self.staging.get(page, &mut self.image)? {
            return Ok(true);
        }
        if self.anew { Ok(false) } else { self.read_own(page) }
    }

    /// Reads a page of this replica.
    fn read_own(&mut self, page: u32) -> Result<bool, StoreError> {
        if page > self.database.captured.pages {
            return Ok(false);
        }
        let image = &mut self.image;
        self.database.sqlite("read a page", |db| wal::read_page(&db.writer, page, image))?;
        Ok(true)
    }

    /// Stages the answer to the oldest question without one.
    ///
    /// # Errors
    /// When it is malformed or isn't an answer to that question, or the disk fails or is full.
    pub fn answer(&mut self, pages: Bytes) -> Result<(), StoreError> {
        let pages = Pages::parse(pages)?;
        let Some((first, end)) = self.waiting.pop_front() else {
            return Err(StoreError::Exchange("an answer without a question".to_owned()));
        };
        if pages.page_size() != self.target.page_size {
            return Err(StoreError::PageSize { found: pages.page_size(), expected: self.target.page_size });
        }
        let mut expected = self.walk.pages(first..end);
        for (page, image) in pages.iter() {
            let asked = expected.any(|asked| asked == page);
            if !asked || is_lock_page(page, self.target.page_size) {
                let (first, last) = (self.walk.page(first), self.walk.page(end - 1));
                let why = format!("page {page} came, expected ascending ones from {first} to {last}");
                return Err(StoreError::Exchange(why));
            }
            self.staging.put(page, image)?;
            self.counts.received += 1;
        }
        self.counts.compared = end - 1;
        Ok(())
    }

    /// Saves durably what a diverged replica is about to lose; gives the report's name. Does nothing on a replica that
    /// is merely behind, or when it was done before.
    ///
    /// # Errors
    /// When the report can't be written in full, for instance because the disk is full.
    pub fn save_divergence(&mut self, context: &ReportContext<'_>) -> Result<Option<&str>, StoreError> {
        if self.report.is_none()
            && let Some(common) = self.diverged_after()
        {
            self.report = divergence::save(self, common, context)?;
        }
        Ok(self.report.as_deref())
    }

    /// Puts everything in place in one transaction and syncs it, once all answers are there and the result is proven to
    /// have the master's `whole` hash. Saves what a diverged replica held before.
    ///
    /// # Errors
    /// Nothing is changed, but for [`StoreError::Io`] with `sync the WAL`: done, but perhaps not durable.
    pub fn finish(mut self, whole: [u8; 32], context: &ReportContext<'_>) -> Result<Rejoined, StoreError> {
        if !self.waiting.is_empty() || self.next <= self.walk.len() {
            return Err(StoreError::Exchange("the end came before all pages".to_owned()));
        }
        self.save_divergence(context)?;
        self.staging.check_room(self.staging.len() as u64)?;
        let written = self.write(&whole);
        let Rejoin { database, staging, target, report, proven, anew, walk, .. } = self;
        let wal_before = database.captured;
        let wrong = matches!(written, Err(StoreError::Assembled { .. }));
        let diverged = std::mem::replace(&mut database.diverged, false);
        if let Err(error) = database.finish_apply(written) {
            database.diverged |= diverged;
            database.compare_all |= wrong;
            if wrong && let Err(error) = staging.discard() {
                tracing::warn!(%error, "throw the staged pages away");
            }
            return Err(error);
        }
        if anew {
            // Behind frames that may be missing on the disk it would be lost with them.
            if wal_before.frames > 0 && database.captured.salts == wal_before.salts {
                database.diverged |= diverged;
                let path = database.path.clone();
                return Err(StoreError::Busy { path, doing: "begin the WAL anew" });
            }
            database.wal_file.doubt().settle()?;
        }
        database.stamp = tables::read_stamp(&database.observer, &database.path)?;
        database.history = tables::read_history(&database.observer, &database.path)?;
        database.last_checksum = Checksum::default();
        database.compare_all = false;
        match walk {
            Walk::All(_) => database.sums.proven(database.moment(), target.pages, &proven),
            Walk::These(_) => database.sums.followed(database.moment(), target.pages, &proven),
        }
        database.sums.is_now(database.stamp, !walk.is_all());
        database.lost = None;
        let (stamp, wal) = (database.stamp, database.wal_place());
        database.memory.set(|facts| {
            facts.set_stamp(stamp);
            (facts.wal, facts.mark) = (wal, Mark::Sound);
        })?;
        // Of no use from now on: it was begun for another stamp.
        if let Err(error) = staging.discard() {
            tracing::warn!(%error, "after a rejoin");
        }
        if database.stamp != target.stamp {
            let why = format!("the database holds {:?}, announced was {:?}", database.stamp, target.stamp);
            return Err(StoreError::Exchange(why));
        }
        Ok(Rejoined { stamp: target.stamp, report })
    }

    /// Writes the staged pages into the open transaction and proves what it then holds. Page 1 comes last; see
    /// `Database::write_pages`.
    fn write(&mut self, whole: &[u8; 32]) -> Result<(), StoreError> {
        let Target { page_size, pages, stamp, .. } = self.target;
        let places = self.walk.len();
        for place in 2..=places {
            let page = self.walk.page(place);
            if !self.staging.contains(page) {
                continue;
            }
            self.staging.get(page, &mut self.image)?;
            let image = self.image.as_slice();
            self.database.sqlite("write a page of a rejoin", |db| {
                db.writer
                    .prepare_cached("INSERT INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)")?
                    .execute((page, image))
                    .map(drop)
            })?;
        }
        let mut hasher = self.hasher.whole(page_size, pages);
        self.read(1)?;
        let first = self.image.clone();
        hasher.add(self.hasher.page(1, &first));
        self.proven.push((1, sums::sum(1, &first)));
        let old_pages = self.database.captured.pages;
        for place in 2..=places {
            let page = self.walk.page(place);
            if is_lock_page(page, page_size) {
                continue;
            }
            if page <= old_pages {
                let image = &mut self.image;
                self.database.sqlite("prove a rejoin", |db| wal::read_page(&db.writer, page, image))?;
            } else if !self.staging.get(page, &mut self.image)? {
                // SQLite doesn't show pages past the old end yet: they are proven as they were staged.
                return Err(StoreError::Assembled { stamp });
            }
            hasher.add(self.hasher.page(page, &self.image));
            self.proven.push((page, sums::sum(page, &self.image)));
        }
        if hasher.finish() != *whole {
            return Err(StoreError::Assembled { stamp });
        }
        self.database.sqlite("write the first page of a rejoin", |db| {
            db.leave_full_auto_vacuum(&first)?;
            db.write_first_page(Some(&first), pages)
        })
    }

    /// Goes through the pages whose content in this replica is about to change or go.
    pub(crate) fn replaced(
        &mut self,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Target { page_size, pages, .. } = self.target;
        let mut new = vec![0; page_size as usize];
        for page in 1..=self.database.captured.pages {
            let goes = page > pages;
            if is_lock_page(page, page_size) || !(goes || self.staging.contains(page)) {
                continue;
            }
            self.read_own(page)?;
            let differs = goes || {
                self.staging.get(page, &mut new)?;
                self.hasher.page(page, &self.image) != self.hasher.page(page, &new)
            };
            if differs {
                each(page, &self.image)?;
            }
        }
        Ok(())
    }

    /// Goes through the pages of the database as it will be, the one with SQLite's lock bytes as zeros.
    pub(crate) fn resulting(
        &mut self,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for page in 1..=self.target.pages {
            if is_lock_page(page, self.target.page_size) || !self.read(page)? {
                self.image.fill(0);
            }
            each(page, &self.image)?;
        }
        Ok(())
    }
}

/// The newest position that both branches hold.
fn common(own: &TermHistory, own_tip: Position, other: &TermHistory, other_tip: Position) -> Position {
    let same = own.reigns().iter().zip(other.reigns()).take_while(|(own, other)| own == other).count();
    let histories = [own, other];
    let parts_at = histories.iter().filter_map(|history| history.reigns().get(same));
    let ends = parts_at.map(|reign| Txid(reign.first_txid.0.saturating_sub(1)));
    let txid = ends.chain([own_tip.txid, other_tip.txid]).min().unwrap_or_default();
    own.term_of(txid).map_or(Position::ZERO, |term| Position { term, txid })
}
