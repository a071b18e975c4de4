//! Which pages a rejoin goes through: all of the master's, or only those that were written since the replica's position.
//!
//! Owns the list's form on the wire. Read `copy.rs` and `rejoin.rs` for its two ends.

use crate::{error::StoreError, wal::is_lock_page};

/// Longer lists aren't sent: then all pages are compared.
pub(crate) const LIST_LIMIT: usize = 4 << 20;

/// Pages in ascending order, by their place in it from 1 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Every page of a database with so many.
    All(u32),
    /// These alone.
    These(Vec<u32>),
}

impl Walk {
    /// A list that came from elsewhere, for a database of `pages` pages. The first page is always in it.
    pub(crate) fn these(list: Vec<u32>, page_size: u32, pages: u32) -> Result<Walk, StoreError> {
        let ascending = list.windows(2).all(|pair| matches!(pair, [first, second] if first < second));
        let fits = list.first() == Some(&1) && list.last().is_some_and(|last| *last <= pages);
        if !ascending || !fits || list.iter().any(|page| is_lock_page(*page, page_size)) {
            let why = format!("a list of {} pages, expected ascending ones from 1 to {pages}", list.len());
            return Err(StoreError::Exchange(why));
        }
        Ok(Walk::These(list))
    }

    /// How many pages there are to go through.
    pub(crate) fn len(&self) -> u32 {
        match self {
            Walk::All(pages) => *pages,
            Walk::These(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        }
    }

    /// The page at a place, which is one from 1 to the length.
    pub(crate) fn page(&self, place: u32) -> u32 {
        match self {
            Walk::All(_) => place,
            Walk::These(list) => {
                place.checked_sub(1).and_then(|at| list.get(at as usize)).copied().unwrap_or(u32::MAX)
            }
        }
    }

    /// The pages from one place up to before another.
    pub(crate) fn pages(&self, places: std::ops::Range<u32>) -> impl Iterator<Item = u32> + '_ {
        places.map(|place| self.page(place))
    }

    pub(crate) fn is_all(&self) -> bool {
        matches!(self, Walk::All(_))
    }

    /// How many of its pages come after `page`.
    pub(crate) fn after(&self, page: u32) -> u32 {
        let count = match self {
            Walk::All(pages) => return pages.saturating_sub(page),
            Walk::These(list) => list.len() - list.partition_point(|listed| *listed <= page),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_from_elsewhere_is_taken_only_as_a_master_sends_it() {
        let walk = Walk::these(vec![1, 3, 9], 4096, 9).unwrap();
        assert_eq!((walk.len(), walk.page(2), walk.after(3), walk.after(0)), (3, 3, 1, 3));
        assert_eq!(walk.pages(2..4).collect::<Vec<_>>(), [3, 9]);
        for wrong in [vec![], vec![2, 3], vec![1, 3, 3], vec![1, 9, 4], vec![1, 10]] {
            assert!(Walk::these(wrong.clone(), 4096, 9).is_err(), "{wrong:?}");
        }
        let lock_page = (1 << 30) / 4096 + 1;
        assert!(Walk::these(vec![1, lock_page], 4096, lock_page + 5).is_err());
    }
}
