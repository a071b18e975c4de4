//! Which pages of a database have changed since a snapshot of it: what an increment between two copies must hold.
//!
//! Owns the comparison. Takes the word of the sums that are kept as pages are written (`sums.rs`) where they know every page, and reads
//! the whole database where they don't: after a start, a rejoin, or a change that nobody followed.

use crate::{
    error::StoreError,
    snapshot::Snapshot,
    sums::{Candidates, Moment, PageSum, PageSums, Seen, sum},
    wal::is_lock_page,
};

/// The sum of every page of a database as it was. 8 bytes a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownPages(Vec<PageSum>);

/// How a snapshot differs from what was known; see [`KnownPages::accept`].
#[derive(Debug)]
pub struct Changes {
    changed: Vec<(u32, PageSum)>,
    pages: u32,
}

/// Why a snapshot can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// A page is another than it was written, as one is that rotted, and as all of a write from outside are until it has
    /// got its number. Whether it is the one or the other, a later snapshot tells.
    #[error("page {0} is another than it was written")]
    Unsettled(u32),
    /// What is written to the snapshot isn't known yet; a later try succeeds.
    #[error("the newest pages aren't known yet")]
    Behind,
    /// The database can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Changes {
    /// How many pages are another.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.changed.len()).unwrap_or(u32::MAX)
    }
}

impl KnownPages {
    /// A page of the database, as it was; pages may come in any order, and a later image of the same page counts.
    pub fn set(&mut self, page: u32, image: &[u8]) {
        self.place(page, sum(page, image));
    }

    /// So many pages has the database.
    pub fn resize(&mut self, pages: u32) {
        self.0.resize(pages as usize, PageSum::MAX);
    }

    /// From now on the snapshot is what is known.
    pub fn accept(&mut self, changes: Changes) {
        self.resize(changes.pages);
        for (page, sum) in changes.changed {
            self.place(page, sum);
        }
    }

    /// Hands each page of `snapshot` that is another than the known one to `take`, in order. `sums` are those of the database.
    ///
    /// # Errors
    /// When the snapshot can't be compared or read, or `take` refuses. Nothing is known then that wasn't before.
    pub fn changes<E: From<ChangesError>>(
        &self,
        snapshot: &Snapshot,
        sums: &PageSums,
        mut take: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<Changes, E> {
        let target = snapshot.target();
        let position = target.stamp.position;
        let mut image = vec![0; target.page_size as usize];
        let mut changes = Changes { changed: vec![], pages: target.pages };
        let read = |page, image: &mut [u8]| -> Result<PageSum, E> {
            snapshot.page(page, image).map_err(|error| E::from(error.into()))?;
            Ok(sum(page, image))
        };
        match sums.candidates(position, target.pages, &self.0) {
            Candidates::Unknown => return Err(ChangesError::Behind.into()),
            Candidates::These(candidates) => {
                for (page, written) in candidates {
                    let found = read(page, &mut image)?;
                    // Judged by what was known when the candidates were: a write from outside that has got its number since
                    // has pages that aren't among them.
                    if written.is_some_and(|written| written != found) {
                        return Err(ChangesError::Unsettled(page).into());
                    }
                    if self.at(page) != Some(found) {
                        take(page, &image)?;
                        changes.changed.push((page, found));
                    }
                }
            }
            Candidates::All => {
                let moment = Moment { position, change: None };
                for page in (1..=target.pages).filter(|page| !is_lock_page(*page, target.page_size)) {
                    let found = read(page, &mut image)?;
                    if sums.see_sum(moment, page, found) == Some(Seen::Wrong) {
                        return Err(ChangesError::Unsettled(page).into());
                    }
                    if self.at(page) != Some(found) {
                        take(page, &image)?;
                        changes.changed.push((page, found));
                    }
                }
            }
        }
        Ok(changes)
    }

    fn at(&self, page: u32) -> Option<PageSum> {
        page.checked_sub(1).and_then(|index| self.0.get(index as usize)).copied()
    }

    fn place(&mut self, page: u32, sum: PageSum) {
        let Some(index) = page.checked_sub(1) else { return };
        if self.0.len() <= index as usize {
            self.resize(page);
        }
        self.0[index as usize] = sum;
    }
}
