//! The pacing of group commit: when do the writes that wait become a transaction?
//!
//! Owns what is known of the writers: how many there seem to be, how long a commit takes, which transactions are under
//! way. Never sees a write or a clock; times come in as arguments. Read `inbox.rs` for who asks.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tanist_replication::Txid;

/// Transactions under way at once: one gathers writes while the other's frames travel.
const UNDER_WAY: usize = 2;
/// A pause between two arrivals that means that no more come now: a quarter of a commit, within these bounds.
const GAP_MIN: Duration = Duration::from_micros(100);
const GAP_MAX: Duration = Duration::from_millis(2);
/// No write waits longer than this for company, however slow the disk.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// What to do with the writes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Commit them now.
    Start,
    /// Others are expected; look again then at the latest.
    Until(Instant),
    /// An acknowledgement or an arrival changes it.
    Wait,
}

#[derive(Debug)]
struct UnderWay {
    /// `None` while it is being made.
    txid: Option<Txid>,
    writes: usize,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pacing {
    under_way: VecDeque<UnderWay>,
    acknowledged: Txid,
    /// How many seem to write at the same time: each waits for its answer before it writes again.
    writers: usize,
    /// From the start of a transaction to its acknowledgement, smoothed.
    commit: Duration,
    /// Since when writes wait, and when the last of them came.
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Default for Pacing {
    fn default() -> Pacing {
        Pacing {
            under_way: VecDeque::new(),
            acknowledged: Txid::ZERO,
            writers: 1,
            commit: GAP_MIN,
            first: None,
            last: None,
        }
    }
}

impl Pacing {
    /// A write came; `waiting` with it.
    pub(crate) fn on_write(&mut self, waiting: usize, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.writers = self.writers.max(waiting + self.writes_under_way());
    }

    /// All that wait, up to `writes`, become a transaction.
    pub(crate) fn on_start(&mut self, writes: usize, left: usize, now: Instant) {
        self.under_way.push_back(UnderWay { txid: None, writes, since: now });
        self.first = (left > 0).then_some(now);
    }

    /// The transaction was made; or it was empty.
    pub(crate) fn on_captured(&mut self, txid: Option<Txid>, now: Instant) {
        let made = self.under_way.back().is_some_and(|last| last.txid.is_none());
        match txid {
            Some(_) if made => self.under_way.back_mut().into_iter().for_each(|last| last.txid = txid),
            // Not out of waiting writes: the reign's first, or an adopted one.
            Some(_) => self.under_way.push_back(UnderWay { txid, writes: 0, since: now }),
            None if made => drop(self.under_way.pop_back()),
            None => {}
        }
        // The acknowledgement may have been faster than the word that there is something to acknowledge.
        self.on_acknowledged(self.acknowledged, now);
    }

    /// Everything up to here is acknowledged.
    pub(crate) fn on_acknowledged(&mut self, txid: Txid, now: Instant) {
        self.acknowledged = txid;
        while self.under_way.front().is_some_and(|first| first.txid.is_some_and(|made| made <= txid)) {
            if let Some(done) = self.under_way.pop_front() {
                let took = now.saturating_duration_since(done.since).min(GATHER_MAX * 4);
                self.commit = (self.commit * 7 + took) / 8;
            }
        }
    }

    /// The reign ended: nothing is under way.
    pub(crate) fn on_closed(&mut self) {
        *self = Pacing { commit: self.commit, ..Pacing::default() };
    }

    /// What to do with the writes that wait.
    pub(crate) fn pace(&mut self, waiting: usize, batch_limit: usize, now: Instant) -> Pace {
        if waiting == 0 || !self.has_room() {
            return Pace::Wait;
        }
        if waiting >= (self.writers / 2).clamp(1, batch_limit) {
            return Pace::Start;
        }
        // Small transactions one behind the other cost more than they gain: let this one grow.
        if !self.under_way.is_empty() {
            return Pace::Wait;
        }
        let gap = (self.commit / 4).clamp(GAP_MIN, GAP_MAX);
        let quiet = self.last.map_or(now, |last| last + gap);
        let until = self.first.map_or(now, |first| quiet.min(first + self.commit.min(GATHER_MAX)));
        if until > now {
            return Pace::Until(until);
        }
        // Those that were expected didn't come: they are no longer expected.
        self.writers = waiting;
        Pace::Start
    }

    /// Whether another transaction may be begun beside those under way.
    pub(crate) fn has_room(&self) -> bool {
        self.under_way.len() < UNDER_WAY
    }

    fn writes_under_way(&self) -> usize {
        self.under_way.iter().map(|transaction| transaction.writes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;
    const MS: Duration = Duration::from_millis(1);

    /// Starts what waits as transaction `txid`.
    fn start(pacing: &mut Pacing, txid: u64, writes: usize, now: Instant) {
        pacing.on_start(writes, 0, now);
        pacing.on_captured(Some(Txid(txid)), now);
    }

    fn arrive(pacing: &mut Pacing, count: usize, now: Instant) {
        for waiting in 1..=count {
            pacing.on_write(waiting, now);
        }
    }

    #[test]
    fn only_writer_never_waits_for_company() {
        let (mut pacing, mut now) = (Pacing::default(), Instant::now());
        for txid in 1..50 {
            pacing.on_write(1, now);
            assert_eq!(pacing.pace(1, LIMIT, now), Pace::Start);
            start(&mut pacing, txid, 1, now);
            now += MS;
            pacing.on_acknowledged(Txid(txid), now);
        }
    }

    #[test]
    fn second_transaction_grows_until_it_is_half_of_the_writers() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        arrive(&mut pacing, 32, now);
        start(&mut pacing, 1, 32, now);
        arrive(&mut pacing, 32, now);
        assert_eq!(pacing.pace(20, LIMIT, now + MS), Pace::Wait);
        assert_eq!(pacing.pace(32, LIMIT, now + MS), Pace::Start);
        start(&mut pacing, 2, 32, now);
        assert_eq!(pacing.pace(900, LIMIT, now + MS), Pace::Wait, "two are under way");
    }

    #[test]
    fn writers_that_come_back_one_by_one_are_waited_for_while_they_keep_coming() {
        let (mut pacing, mut now) = (Pacing::default(), Instant::now());
        for txid in 1..40 {
            arrive(&mut pacing, 64, now);
            start(&mut pacing, txid, 64, now);
            now += 4 * MS;
            pacing.on_acknowledged(Txid(txid), now);
        }
        for waiting in 1..32 {
            now += GAP_MIN / 2;
            pacing.on_write(waiting, now);
            assert!(matches!(pacing.pace(waiting, LIMIT, now), Pace::Until(at) if at > now), "{waiting}");
        }
        pacing.on_write(32, now);
        assert_eq!(pacing.pace(32, LIMIT, now), Pace::Start);
    }

    #[test]
    fn writers_that_went_away_cost_one_short_wait() {
        let (mut pacing, mut now) = (Pacing::default(), Instant::now());
        arrive(&mut pacing, 64, now);
        start(&mut pacing, 1, 64, now);
        now += MS;
        pacing.on_acknowledged(Txid(1), now);
        pacing.on_write(1, now);
        let Pace::Until(at) = pacing.pace(1, LIMIT, now) else { panic!("one of 64 did not wait") };
        assert!(at <= now + GAP_MAX);
        assert_eq!(pacing.pace(1, LIMIT, at), Pace::Start);
        start(&mut pacing, 2, 1, at);
        pacing.on_acknowledged(Txid(2), at + MS);
        pacing.on_write(1, at + MS);
        assert_eq!(pacing.pace(1, LIMIT, at + MS), Pace::Start);
    }

    #[test]
    fn waiting_for_company_ends_after_one_commit_although_more_keep_coming() {
        let (mut pacing, mut now) = (Pacing::default(), Instant::now());
        arrive(&mut pacing, 600, now);
        start(&mut pacing, 1, 600, now);
        pacing.on_acknowledged(Txid(1), now + MS);
        let began = now;
        let mut waiting = 0;
        loop {
            waiting += 1;
            pacing.on_write(waiting, now);
            if pacing.pace(waiting, LIMIT, now) == Pace::Start {
                break;
            }
            now += GAP_MIN / 10;
            assert!(now - began <= MS, "{waiting} waited for {:?}", now - began);
        }
    }

    #[test]
    fn acknowledgement_that_overtakes_the_capture_leaves_nothing_under_way() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        arrive(&mut pacing, 8, now);
        pacing.on_start(8, 0, now);
        pacing.on_acknowledged(Txid(1), now);
        pacing.on_captured(Some(Txid(1)), now);
        pacing.on_write(1, now);
        assert!(
            matches!(pacing.pace(1, LIMIT, now), Pace::Until(_)),
            "waits for company, not for a transaction"
        );
    }

    #[test]
    fn transaction_without_change_is_not_under_way() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        for _ in 0..5 {
            pacing.on_write(1, now);
            pacing.on_start(1, 0, now);
            pacing.on_captured(None, now);
        }
        pacing.on_captured(None, now);
        pacing.on_write(1, now);
        assert_eq!(pacing.pace(1, LIMIT, now), Pace::Start);
    }
}
