//! As master: what is to be done about a replica whose database is another than ours at the same position.
//!
//! Owns the judgement, pure. With three the odd one out is wrong; between two, neither of which has noticed anything of its own,
//! the master's stays and the other's is saved. Read `driver.rs` for what follows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tanist_replication::MemberId;

/// A third machine's word is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// A word older than this isn't counted.
const FRESH: Duration = Duration::from_secs(10);
/// The same is said again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// Whose database is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody's, or that can't be said yet.
    None,
    /// This peer's: others have what the master has.
    Odd,
    /// This peer's, because nobody else can say.
    Other,
    /// The master's: two others have the same, which it hasn't.
    Own,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Their sum less ours. It stays the same while neither writes to the pages that differ.
    difference: u64,
    since: Instant,
    said: Option<Instant>,
}

/// The last comparison with each peer.
#[derive(Debug, Default)]
pub(crate) struct Differences(BTreeMap<MemberId, Seen>);

impl Differences {
    /// Nobody is compared any more.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// Two sums at the same position. `others`: how many data members besides these two could say something;
    /// asked only where the two differ.
    pub(crate) fn on_sums(
        &mut self,
        peer: &MemberId,
        theirs: u64,
        own: u64,
        others: impl FnOnce() -> usize,
        now: Instant,
    ) -> Verdict {
        let difference = theirs.wrapping_sub(own);
        let before = self.0.remove(peer).filter(|seen| (seen.difference == 0) == (difference == 0));
        let since = before.as_ref().map_or(now, |seen| seen.since);
        let mut seen = Seen { at: now, difference, since, said: before.and_then(|seen| seen.said) };
        let fresh = || self.0.values().filter(|other| now.saturating_duration_since(other.at) < FRESH);
        let verdict = match difference {
            0 => Verdict::None,
            _ if fresh().any(|other| other.difference == 0) => Verdict::Odd,
            _ if fresh().any(|other| other.difference == difference) => Verdict::Own,
            _ if others() == 0 || now.saturating_duration_since(since) >= PATIENCE => Verdict::Other,
            _ => Verdict::None,
        };
        let quiet = seen.said.is_some_and(|said| now.saturating_duration_since(said) < AGAIN);
        let verdict = if quiet { Verdict::None } else { verdict };
        if verdict != Verdict::None {
            seen.said = Some(now);
        }
        self.0.insert(peer.clone(), seen);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> MemberId {
        name.parse().unwrap()
    }

    #[test]
    fn odd_one_of_three_is_wrong_be_it_a_backup_or_the_master() {
        let (now, mut differences) = (Instant::now(), Differences::default());
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 1, now), Verdict::None, "the third may know");
        assert_eq!(differences.on_sums(&id("c"), 9, 9, || 1, now), Verdict::None);
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 1, now), Verdict::Odd);
        assert_eq!(differences.on_sums(&id("b"), 8, 6, || 1, now), Verdict::None, "just said");
        let later = now + AGAIN;
        assert_eq!(differences.on_sums(&id("b"), 18, 16, || 1, later), Verdict::Odd);
        assert_eq!(differences.on_sums(&id("b"), 16, 16, || 1, later), Verdict::None, "mended");
        // At other positions, but by the same difference.
        let mut differences = Differences::default();
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 1, now), Verdict::None);
        assert_eq!(differences.on_sums(&id("c"), 22, 20, || 1, now), Verdict::Own);
    }

    #[test]
    fn between_two_the_masters_stays_and_three_that_all_differ_are_two_pairs() {
        let (now, mut differences) = (Instant::now(), Differences::default());
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 0, now), Verdict::Other);
        differences.forget();
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 1, now), Verdict::None);
        assert_eq!(differences.on_sums(&id("c"), 8, 5, || 1, now), Verdict::None);
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 1, now + PATIENCE), Verdict::Other);
        // A word from long ago isn't counted.
        differences.forget();
        assert_eq!(differences.on_sums(&id("c"), 5, 5, || 1, now), Verdict::None);
        assert_eq!(differences.on_sums(&id("b"), 7, 5, || 1, now + FRESH), Verdict::None);
    }
}
