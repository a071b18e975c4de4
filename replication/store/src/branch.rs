//! Stamps that this replica has had since the process began: what it can tell the pages since.
//!
//! Owns the answer to "was this ever my state?". Bounded, and empty of everything from before a change that nobody
//! followed. Read `sums.rs` for the pages.

use std::collections::VecDeque;

use tanist_replication::Stamp;

/// Stamps of the last transactions that are kept: 2 MiB, and a minute of the fastest writers.
const KEPT: usize = 65_536;
/// Stamps of snapshots that were given to replicas, which come back from there after a long while.
const GIVEN: usize = 16;

/// Stamps of one branch.
#[derive(Debug, Default)]
pub(crate) struct Branch {
    /// By transaction, with gaps where several were applied at once.
    stamps: VecDeque<Stamp>,
    given: VecDeque<Stamp>,
}

impl Branch {
    /// The replica is `stamp` now, and how it came to that isn't known.
    pub(crate) fn begin(&mut self, stamp: Stamp) {
        self.given.clear();
        self.stamps.clear();
        self.stamps.push_back(stamp);
    }

    /// The replica has come to `stamp` by a change whose pages are known.
    pub(crate) fn follow(&mut self, stamp: Stamp) {
        while self.stamps.back().is_some_and(|known| known.position.txid >= stamp.position.txid) {
            self.stamps.pop_back();
        }
        if self.stamps.len() == KEPT {
            self.stamps.pop_front();
        }
        self.stamps.push_back(stamp);
    }

    /// A replica is being brought to this stamp, which is one of this branch.
    pub(crate) fn give(&mut self, stamp: Stamp) {
        if self.given.contains(&stamp) {
            return;
        }
        if self.given.len() == GIVEN {
            self.given.pop_front();
        }
        self.given.push_back(stamp);
    }

    /// Whether this replica was `stamp` once, and all pages that were written since are known.
    pub(crate) fn holds(&self, stamp: &Stamp) -> bool {
        let found = self.stamps.binary_search_by_key(&stamp.position.txid, |known| known.position.txid);
        self.given.contains(stamp)
            || found.is_ok_and(|at| self.stamps.get(at).is_some_and(|known| known == stamp))
    }
}

#[cfg(test)]
mod tests {
    use tanist_replication::{ChainHash, Position};

    use super::*;

    fn stamp(txid: u64, chain: u8) -> Stamp {
        Stamp { position: Position::new(1, txid), chain: ChainHash([chain; 16]) }
    }

    #[test]
    fn only_own_stamps_are_held_and_none_from_before_a_change_that_nobody_followed() {
        let mut branch = Branch::default();
        branch.begin(stamp(5, 0));
        branch.follow(stamp(6, 1));
        branch.follow(stamp(9, 2));
        assert!(branch.holds(&stamp(5, 0)) && branch.holds(&stamp(6, 1)) && branch.holds(&stamp(9, 2)));
        assert!(!branch.holds(&stamp(6, 2)), "another chain");
        assert!(!branch.holds(&stamp(7, 1)), "applied together with others");
        for txid in 10..10 + KEPT as u64 {
            branch.follow(stamp(txid, 3));
        }
        assert!(!branch.holds(&stamp(9, 2)), "too long ago");
        branch.give(stamp(10, 3));
        for txid in 10 + KEPT as u64..20 + KEPT as u64 {
            branch.follow(stamp(txid, 3));
        }
        assert!(branch.holds(&stamp(10, 3)) && !branch.holds(&stamp(11, 3)), "given to a replica");
        branch.begin(stamp(100_000, 4));
        assert!(!branch.holds(&stamp(10, 3)) && branch.holds(&stamp(100_000, 4)));
    }
}
