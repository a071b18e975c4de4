//! A short sum of every page, kept as pages are written, by which a page that changes by itself is found.
//!
//! Owns the sums and the transaction up to which they hold. Knows nothing of a page that was neither written nor read
//! since the start. Read `scrub.rs` for who compares them with the disk.

use std::{collections::VecDeque, num::NonZeroU64};

use parking_lot::Mutex;
use rusqlite::Connection;
use tanist_replication::{Position, Stamp, Txid};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{branch::Branch, checksum, snapshot::Target, sqlite_file, wal::is_lock_page, walk::LIST_LIMIT};

/// Change counters of the WAL kept for the last transactions.
const MOMENTS: usize = 1024;

/// Sums of the whole kept for the last transactions, to be compared with those of a replica at another one.
const KEPT: usize = 1024;

/// Sums of all pages of a database, shared between the thread that writes it and those that check it. 16 bytes a page.
#[derive(Debug)]
pub struct PageSums(Mutex<State>);

#[derive(Debug)]
struct State {
    page_size: u32,
    /// The sums are those of the database as of this transaction.
    position: Position,
    pages: Vec<Page>,
    /// How many of the pages have no sum yet.
    unknown: usize,
    /// Sum of all known pages.
    whole: u64,
    /// The sum of the whole after each of the last transactions, as long as all pages are known.
    kept: VecDeque<(Position, u64)>,
    /// The change counter of the WAL after each of the last transactions. A state with another one holds what somebody
    /// else has committed and nobody has numbered.
    moments: VecDeque<Moment>,
    /// What the replica was.
    branch: Branch,
}

/// A state of the database, as a reader has found it or the writer has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The newest numbered transaction in it.
    pub(crate) position: Position,
    /// The change counter of the WAL; `None` where everything is in the database file, and so was numbered.
    pub(crate) change: Option<u32>,
}

impl Moment {
    /// What `connection` reads in its open read transaction, in which its position was read.
    pub(crate) fn read(connection: &Connection, position: Position) -> Result<Moment, rusqlite::Error> {
        Ok(Moment { position, change: sqlite_file::change_read(connection)? })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Page {
    /// `None` is unknown; the lock page, which is never written, is known as 0.
    sum: Option<PageSum>,
    changed: Txid,
}

/// What a page on disk looks like beside its sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// As it was written, or as it was when it was first read.
    Right,
    /// Another than was written.
    Wrong,
    /// It was written since: nothing can be said.
    Newer,
}

/// Pages that may be another in a snapshot than in what is known of an earlier one.
#[derive(Debug)]
pub(crate) enum Candidates {
    /// The sums don't reach as far as the snapshot yet.
    Unknown,
    /// There are pages of which nothing is known: all must be read.
    All,
    /// No others, each with its sum in the snapshot, or `None` where it was written since.
    These(Vec<(u32, Option<PageSum>)>),
}

/// Enough against accidents, and fast: it is made on the way of every write. Never 0.
pub(crate) type PageSum = NonZeroU64;

/// The sum of a page's image, its number included.
pub(crate) fn sum(page: u32, image: &[u8]) -> PageSum {
    let sum = |image: &[u8]| xxh3_64_with_seed(image, page.into());
    let sum = if page == 1 {
        let mut image = image.to_vec();
        checksum::mask_own_bytes(&mut image);
        sum(&image)
    } else {
        sum(image)
    };
    NonZeroU64::new(sum).unwrap_or(NonZeroU64::MIN)
}

impl PageSums {
    /// Sums for a database of so many pages that nobody has looked at yet.
    pub(crate) fn unknown(page_size: u32, pages: u32, moment: Moment) -> PageSums {
        let mut state = State {
            page_size,
            position: moment.position,
            pages: vec![],
            unknown: 0,
            whole: 0,
            kept: VecDeque::new(),
            moments: VecDeque::from([moment]),
            branch: Branch::default(),
        };
        state.resize(pages);
        PageSums(Mutex::new(state))
    }

    /// These pages were written by the transaction that led to `moment`, after which the database has `count` pages.
    pub(crate) fn written<'p>(
        &self,
        moment: Moment,
        count: u32,
        pages: impl Iterator<Item = (u32, &'p [u8])>,
    ) {
        // Hashed before the lock is taken.
        let sums: Vec<_> = pages.map(|(page, image)| (page, sum(page, image))).collect();
        let mut state = self.0.lock();
        state.resize(count);
        for (page, sum) in sums {
            state.set(page, sum, moment.position.txid);
        }
        state.reach(moment);
    }

    /// These are the sums of all pages, as they were read or written a moment ago.
    pub(crate) fn proven(&self, moment: Moment, count: u32, sums: &[(u32, PageSum)]) {
        let mut state = self.0.lock();
        state.resize(0);
        state.kept.clear();
        state.resize(count);
        for entry in &mut state.pages {
            entry.changed = moment.position.txid;
        }
        for (page, sum) in sums {
            state.set(*page, *sum, moment.position.txid);
        }
        state.reach(moment);
    }

    /// These pages were put in place by the transactions that led to `moment`, and no others were written.
    pub(crate) fn followed(&self, moment: Moment, count: u32, sums: &[(u32, PageSum)]) {
        let mut state = self.0.lock();
        state.resize(count);
        for (page, sum) in sums {
            state.set(*page, *sum, moment.position.txid);
        }
        state.reach(moment);
    }

    /// The replica is `stamp` now; `true`: it was changed in a way that these sums have followed.
    pub(crate) fn is_now(&self, stamp: Stamp, followed: bool) {
        let branch = &mut self.0.lock().branch;
        if followed { branch.follow(stamp) } else { branch.begin(stamp) }
    }

    /// The pages of a snapshot, itself numbered, that may be others than when this replica was `since`: those that were written
    /// meanwhile, and the first. `None`: that isn't known, or they are too many to be listed.
    #[must_use]
    pub fn changed_since(&self, since: &Stamp, target: &Target) -> Option<Vec<u32>> {
        let state = self.0.lock();
        let here = target.stamp.position;
        let on_branch = *since != Stamp::default() && target.history.contains(since.position, here);
        if !on_branch || state.position < here || !state.branch.holds(since) {
            return None;
        }
        let changed = |page: &u32| {
            let entry = page.checked_sub(1).and_then(|index| state.pages.get(index as usize));
            let written = entry.is_none_or(|entry| entry.changed > since.position.txid);
            *page == 1 || (written && !is_lock_page(*page, state.page_size))
        };
        let list: Vec<u32> = (1..=target.pages).filter(changed).take(LIST_LIMIT + 1).collect();
        (list.len() <= LIST_LIMIT).then_some(list)
    }

    /// A replica gets the snapshot at `stamp`: it will ask what was written since, however long it takes.
    pub fn give(&self, stamp: Stamp) {
        self.0.lock().branch.give(stamp);
    }

    /// The database was changed in a way that nobody followed.
    pub(crate) fn forget(&self, moment: Moment, count: u32) {
        self.proven(moment, count, &[]);
    }

    /// What was read of a page in a snapshot at `snapshot`; a page without a sum gets this one. `None`: the sums don't
    /// reach as far as the snapshot yet.
    pub(crate) fn see(&self, snapshot: Moment, page: u32, image: &[u8]) -> Option<Seen> {
        self.see_sum(snapshot, page, sum(page, image))
    }

    /// The same for a page whose sum was made already.
    pub(crate) fn see_sum(&self, moment: Moment, page: u32, found: PageSum) -> Option<Seen> {
        let mut state = self.0.lock();
        let snapshot = moment.position;
        if snapshot.txid > state.position.txid {
            return None;
        }
        // Of what somebody else has committed, and nobody has numbered, nothing is known.
        let numbered = state.is_numbered(moment) != Some(false);
        let entry = page.checked_sub(1).and_then(|index| state.pages.get(index as usize));
        let Some(entry) = entry.filter(|_| numbered) else {
            return Some(Seen::Newer);
        };
        Some(match entry.sum {
            _ if entry.changed > snapshot.txid => Seen::Newer,
            None => {
                let changed = entry.changed;
                state.set(page, found, changed);
                state.keep_whole();
                Seen::Right
            }
            Some(known) if known == found => Seen::Right,
            Some(_) => Seen::Wrong,
        })
    }

    /// Which of the first `pages` pages may be another in a snapshot at `snapshot` than in `known`.
    pub(crate) fn candidates(&self, snapshot: Position, pages: u32, known: &[PageSum]) -> Candidates {
        let state = self.0.lock();
        if state.position < snapshot {
            return Candidates::Unknown;
        }
        if state.unknown > 0 {
            return Candidates::All;
        }
        let candidate = |page: u32| {
            let index = page.checked_sub(1)? as usize;
            if is_lock_page(page, state.page_size) {
                return None;
            }
            let now = state.pages.get(index).filter(|entry| entry.changed <= snapshot.txid);
            let sum = now.and_then(|entry| entry.sum);
            (sum.is_none() || sum.as_ref() != known.get(index)).then_some((page, sum))
        };
        Candidates::These((1..=pages).filter_map(candidate).collect())
    }

    /// Whether a state holds numbered transactions alone; `None` when that isn't known: not yet, or no more.
    pub(crate) fn is_numbered(&self, moment: Moment) -> Option<bool> {
        self.0.lock().is_numbered(moment)
    }

    /// The newest transaction and the sum of the whole database after it; `None` while a page is unknown.
    #[must_use]
    pub fn newest(&self) -> Option<(Position, u64)> {
        self.0.lock().kept.back().copied()
    }

    /// The sum of the whole database after this transaction, if it is one of the last.
    #[must_use]
    pub fn at(&self, position: Position) -> Option<u64> {
        let state = self.0.lock();
        let found = state.kept.binary_search_by_key(&position.txid, |(kept, _)| kept.txid).ok()?;
        state.kept.get(found).filter(|(kept, _)| *kept == position).map(|(_, whole)| *whole)
    }

    /// The pages that have no sum yet.
    pub(crate) fn without_sum(&self) -> Vec<u32> {
        let state = self.0.lock();
        (1..).zip(&state.pages).filter(|(_, page)| page.sum.is_none()).map(|(number, _)| number).collect()
    }

    /// Pages, and how many of them have no sum yet.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.pages.len(), state.unknown)
    }
}

impl State {
    fn resize(&mut self, count: u32) {
        let count = count as usize;
        for page in self.pages.drain(count.min(self.pages.len())..) {
            match page.sum {
                Some(sum) => self.whole = self.whole.wrapping_sub(sum.get()),
                None => self.unknown -= 1,
            }
        }
        let added = count - self.pages.len();
        self.unknown += added;
        self.pages.resize(count, Page::default());
        if added > 0 {
            // SQLite's lock bytes are in a page of their own that nobody writes or reads.
            let lock_page = (1 << 30) / self.page_size + 1;
            let here = (count - added + 1..=count).contains(&(lock_page as usize));
            if here && is_lock_page(lock_page, self.page_size) {
                self.set(lock_page, NonZeroU64::MIN, Txid::ZERO);
            }
        }
    }

    fn set(&mut self, page: u32, sum: PageSum, changed: Txid) {
        let Some(entry) = page.checked_sub(1).and_then(|index| self.pages.get_mut(index as usize)) else {
            return;
        };
        match entry.sum.replace(sum) {
            Some(old) => self.whole = self.whole.wrapping_sub(old.get()),
            None => self.unknown -= 1,
        }
        entry.changed = changed;
        self.whole = self.whole.wrapping_add(sum.get());
    }

    fn is_numbered(&self, moment: Moment) -> Option<bool> {
        let known = self.moments.iter().rev().find(|known| known.position == moment.position)?;
        Some(moment.change.is_none() || known.change.is_none() || moment.change == known.change)
    }

    fn reach(&mut self, moment: Moment) {
        self.position = moment.position;
        while self.moments.back().is_some_and(|known| known.position.txid >= moment.position.txid) {
            self.moments.pop_back();
        }
        if self.moments.len() == MOMENTS {
            self.moments.pop_front();
        }
        self.moments.push_back(moment);
        self.keep_whole();
    }

    fn keep_whole(&mut self) {
        let position = self.position;
        if self.unknown > 0 {
            self.kept.clear();
            return;
        }
        // A rejoin may lead back to an older transaction.
        while self.kept.back().is_some_and(|(kept, _)| kept.txid >= position.txid) {
            self.kept.pop_back();
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((position, self.whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(txid: u64) -> Moment {
        Moment { position: Position::new(1, txid), change: Some(u32::try_from(txid).unwrap()) }
    }

    #[test]
    fn page_is_judged_by_what_was_written_as_of_the_snapshot() {
        let sums = PageSums::unknown(512, 2, stamp(5));
        let (old, new) = ([1; 512], [2; 512]);
        assert_eq!(sums.see(stamp(5), 2, &old), Some(Seen::Right), "learned");
        assert_eq!(sums.see(stamp(5), 2, &new), Some(Seen::Wrong));
        sums.written(stamp(6), 2, [(2, new.as_slice())].into_iter());
        assert_eq!(sums.see(stamp(5), 2, &old), Some(Seen::Newer), "an old snapshot");
        assert_eq!(sums.see(stamp(6), 2, &old), Some(Seen::Wrong));
        assert_eq!(sums.see(stamp(7), 2, &new), None, "the sums lag behind the snapshot");
        assert_eq!(sums.see(stamp(6), 9, &new), Some(Seen::Newer));
    }

    #[test]
    fn nothing_is_said_of_a_state_that_holds_what_nobody_has_numbered() {
        let sums = PageSums::unknown(512, 2, stamp(5));
        let (old, new) = ([1; 512], [2; 512]);
        sums.written(stamp(6), 2, [(2, old.as_slice())].into_iter());
        let outside = Moment { change: Some(7), ..stamp(6) };
        assert_eq!(sums.see(outside, 2, &new), Some(Seen::Newer));
        assert_eq!(sums.is_numbered(outside), Some(false));
        assert_eq!(sums.see(stamp(6), 2, &new), Some(Seen::Wrong));
        assert_eq!(sums.see(outside, 1, &new), Some(Seen::Newer), "nor is it remembered");
        assert_eq!(sums.see(stamp(6), 1, &old), Some(Seen::Right));
        sums.written(Moment { change: Some(8), ..stamp(7) }, 2, [(2, new.as_slice())].into_iter());
        assert_eq!(sums.is_numbered(outside), Some(false), "adopted since");
        assert_eq!(sums.is_numbered(Moment { change: None, ..stamp(7) }), Some(true));
        assert_eq!(sums.is_numbered(stamp(9)), None);
    }

    #[test]
    fn whole_sum_depends_on_content_alone_and_needs_every_page() {
        let (one, two, three) = ([1; 512], [2; 512], [3; 512]);
        let sums = PageSums::unknown(512, 3, stamp(1));
        assert_eq!(sums.newest(), None);
        sums.written(stamp(2), 3, [(1, one.as_slice()), (2, &one), (3, &three)].into_iter());
        sums.written(stamp(3), 2, [(2, two.as_slice())].into_iter());
        let other = PageSums::unknown(512, 2, stamp(3));
        other.see(stamp(3), 2, &two);
        assert_eq!(other.counts(), (2, 1));
        other.see(stamp(3), 1, &one);
        assert_eq!(other.newest(), sums.newest());
        assert_eq!(sums.at(Position::new(1, 3)), other.at(Position::new(1, 3)));
        assert!(
            sums.at(Position::new(1, 2)).is_some()
                && sums.at(Position::new(1, 2)) != sums.at(Position::new(1, 3))
        );
        assert_eq!(sums.at(Position::new(2, 3)), None, "another branch");
        sums.forget(stamp(4), 2);
        assert_eq!((sums.newest(), sums.counts()), (None, (2, 2)));
    }

    #[test]
    fn page_of_the_lock_bytes_needs_no_sum() {
        let sums = PageSums::unknown(65536, 16384, stamp(1));
        assert_eq!(sums.counts(), (16384, 16384));
        sums.written(stamp(2), 16385, std::iter::empty());
        assert_eq!(sums.counts(), (16385, 16384));
    }
}
