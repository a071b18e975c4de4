//! How fast a replica stores what it is sent, and whether that is slow beside the others.
//!
//! Owns the measuring and the hysteresis. Decides nothing about the sync set (`role/sync_set.rs`).

use std::{collections::VecDeque, time::Duration};

use crate::{position::Txid, time::Time};

/// So many of the newest are kept,
const KEPT: usize = 32;
/// and none that is older.
const WINDOW: Duration = Duration::from_secs(5);
/// Fewer say nothing,
const LEAST: usize = 3;
/// but that what is under way for so long is slow.
const LONG: Duration = Duration::from_millis(500);
/// Faster than this nobody is slow, whatever the others do,
pub const FLOOR: Duration = Duration::from_millis(50);
/// and nobody who takes less than so many times as long as the best of the others.
pub const TIMES: u32 = 4;
/// It must have been so for this long.
const FOR: Duration = Duration::from_secs(3);
/// Whoever was slow counts as such for so long at least; the second time for twice as long, up to 32 times.
const REST: Duration = Duration::from_secs(30);
const MOST_DOUBLINGS: u32 = 5;

/// What it takes from when a transaction leaves until it is known to be stored. One at a time is measured.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    under_way: Option<(Txid, Time)>,
    samples: VecDeque<(Time, Duration)>,
}

impl Pace {
    /// This transaction leaves.
    pub fn leaves(&mut self, txid: Txid, now: Time) {
        self.under_way.get_or_insert((txid, now));
    }

    /// Everything up to here is stored.
    pub fn stored(&mut self, up_to: Txid, now: Time) {
        if let Some((txid, since)) = self.under_way
            && txid <= up_to
        {
            self.under_way = None;
            if self.samples.len() == KEPT {
                self.samples.pop_front();
            }
            self.samples.push_back((now, now.since(since)));
        }
    }

    /// What was under way may be lost.
    pub fn forget(&mut self) {
        self.under_way = None;
    }

    /// The median of the newest, and of what is still under way if that takes long; `None` when nothing is known.
    #[must_use]
    pub fn typical(&self, now: Time) -> Option<Duration> {
        let newest = self.samples.iter().filter(|(at, _)| now.since(*at) <= WINDOW);
        let mut took: Vec<Duration> = newest.map(|(_, took)| *took).collect();
        let waits = self.under_way.map(|(_, since)| now.since(since)).filter(|waits| *waits >= FLOOR);
        took.extend(waits);
        if took.len() < LEAST {
            return waits.filter(|waits| *waits >= LONG);
        }
        took.sort_unstable();
        Some(took[took.len() / 2])
    }
}

/// Whether somebody is slow beside the others, with hysteresis.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    suspect_since: Option<Time>,
    /// How long it takes, and the best of the others, as they were when it was found slow; and for how long it counts.
    slow: Option<(Duration, Duration, Time)>,
    times: u32,
}

impl Verdict {
    /// Takes what it takes and what the best of the others takes; whether it has become slow or, `false`, isn't any more.
    pub fn on_pace(&mut self, took: Option<Duration>, best: Option<Duration>, now: Time) -> Option<bool> {
        let (Some(took), Some(best)) = (took, best) else {
            self.suspect_since = None; // nothing is written: nothing is known
            return None;
        };
        let slow = took > FLOOR && took > best.saturating_mul(TIMES);
        if let Some((_, _, until)) = self.slow {
            // Half as much, so that it doesn't go back and forth.
            let recovered = now >= until && took < (best.saturating_mul(TIMES) / 2).max(FLOOR / 2);
            if recovered {
                self.slow = None;
                self.suspect_since = None;
                return Some(false);
            }
            if slow {
                self.slow = Some((took, best, until));
            }
            return None;
        }
        if !slow {
            self.suspect_since = None;
            return None;
        }
        let since = *self.suspect_since.get_or_insert(now);
        if now.since(since) < FOR {
            return None;
        }
        let until = now + REST.saturating_mul(1 << self.times.min(MOST_DOUBLINGS));
        self.times = self.times.saturating_add(1);
        self.slow = Some((took, best, until));
        Some(true)
    }

    /// What it takes and what the best of the others takes, while it is slow.
    #[must_use]
    pub fn slow(&self) -> Option<(Duration, Duration)> {
        self.slow.map(|(took, best, _)| (took, best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pace_is_the_median_of_what_was_measured_lately() {
        let (start, mut pace) = (Time::default(), Pace::default());
        let mut now = start;
        for (n, took) in [2, 400, 3, 2, 5].into_iter().enumerate() {
            let txid = Txid(n as u64);
            pace.leaves(txid, now);
            pace.leaves(Txid(99), now + ms(1)); // one at a time
            assert_eq!(pace.typical(now).is_some(), n >= LEAST);
            now = now + ms(took);
            pace.stored(txid, now);
        }
        assert_eq!(pace.typical(now), Some(ms(3)));
        pace.leaves(Txid(9), now);
        pace.forget();
        pace.stored(Txid(9), now + ms(900));
        assert_eq!(pace.typical(now + ms(900)), Some(ms(3)), "what was lost isn't measured");
        assert_eq!(pace.typical(now + WINDOW + ms(1)), None);
        for n in 0..1000 {
            pace.leaves(Txid(n), now);
            pace.stored(Txid(n), now);
        }
        assert_eq!(pace.samples.len(), KEPT);
    }

    #[test]
    fn slow_is_who_is_slow_beside_the_others_for_a_while_and_stays_so_for_a_while() {
        let (start, mut verdict) = (Time::default(), Verdict::default());
        let at = |second| start + Duration::from_secs(second);
        let mut look = |second, took, best| verdict.on_pace(Some(ms(took)), Some(ms(best)), at(second));
        assert_eq!(look(0, 400, 200), None, "all are");
        assert_eq!(look(9, 40, 1), None, "fast enough");
        assert_eq!(look(10, 400, 3), None);
        assert_eq!(look(12, 10, 3), None, "it was a moment");
        assert_eq!(look(13, 400, 3), None);
        assert_eq!(look(15, 400, 3), None);
        assert_eq!(look(16, 400, 3), Some(true));
        assert_eq!(look(20, 2, 3), None, "not back at once");
        assert_eq!(look(47, 400, 3), None);
        assert_eq!(look(48, 2, 3), Some(false));
        assert_eq!(look(50, 400, 3), None);
        assert_eq!(look(53, 400, 3), Some(true));
        assert_eq!(look(100, 2, 3), None, "twice as long");
        assert_eq!(look(113, 2, 3), Some(false));
        assert_eq!(verdict.on_pace(None, Some(ms(1)), at(114)), None, "nothing is written");
        assert_eq!(verdict.slow(), None);
    }
}
