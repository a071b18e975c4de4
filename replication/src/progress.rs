//! What the master knows of each peer, and how far it may send.
//!
//! Owns the flow control of one peer's stream. Decides nothing about the sync set (`role/sync_set.rs`).

use std::{collections::VecDeque, time::Duration};

use crate::{
    complaint::Complaint,
    frame::Stamp,
    member::Addresses,
    pace::{Pace, Verdict},
    position::{Position, Txid},
    succession::RecordKey,
    time::Time,
};

/// A backup outside the sync set is sent to at most so often,
const TRAIL_EVERY: Duration = Duration::from_millis(20);
/// unless so many transactions wait for it.
const TRAIL_TRANSACTIONS: u64 = 64;

/// A backup that does well brings at least so many bytes a second onto its disk, over a slow link too.
const SLOWEST: u64 = 4 << 20;

/// How a replica gets its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Its place on the branch isn't known yet.
    Probe,
    /// Transactions are sent as they come.
    Stream {
        /// The next transaction to send.
        next: Txid,
        /// Sent and not reported stored: id and payload bytes.
        inflight: VecDeque<(Txid, usize)>,
        /// Sum of the bytes in `inflight`.
        inflight_bytes: usize,
        /// Since when it streams without a break.
        since: Time,
    },
    /// It must be brought in line by page hashes first (R12).
    Resync,
}

impl Progress {
    /// Name for status displays.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Progress::Probe => "probe",
            Progress::Stream { .. } => "stream",
            Progress::Resync => "rejoin",
        }
    }

    /// A fresh stream after the replica's position.
    #[must_use]
    pub fn stream_after(txid: Txid, now: Time) -> Progress {
        Progress::Stream { next: txid.next(), inflight: VecDeque::new(), inflight_bytes: 0, since: now }
    }
}

/// One peer, as the master sees it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// How it gets its data.
    pub progress: Progress,
    /// Newest transaction of *this* branch that it has on disk.
    pub stored: Option<Txid>,
    /// When it last reported more than before.
    pub stored_at: Time,
    /// What it last reported, on whatever branch.
    pub reported: Option<Stamp>,
    /// Record it has accepted.
    pub accepted: RecordKey,
    /// Where it says it is reached, if our record says something else.
    pub moved: Option<Addresses>,
    /// When the newest heartbeat that it answered was sent.
    pub lease_from: Option<Time>,
    /// How long its lease lasts, as far as this master may count on it (R11).
    pub lease: Option<Time>,
    /// For how long it last promised to honour a lease.
    pub promised: Option<Duration>,
    /// The longest promise that may still have bound it then.
    pub longest: Option<Duration>,
    /// When its last answer came.
    pub last_answer: Time,
    /// `sent` of its answer to the newest heartbeat, on its own clock.
    pub echo: Option<Time>,
    /// Since when it lacks something that it should store, without storing anything.
    pub waiting_since: Option<Time>,
    /// It was waited for in vain: it counts again once it stores something, or lacks nothing.
    pub stuck: bool,
    /// When it is to be sent what it lacks, if that was put off to send more at once.
    pub send_at: Option<Time>,
    /// When it was last sent something that nobody waits for.
    pub trailed_at: Time,
    /// Its process is known to have ended.
    pub gone: bool,
    /// Its database is another than ours at this position, and it hasn't taken notice yet.
    pub differs: Option<Position>,
    /// Why it shouldn't reign, as it last said.
    pub unhealthy: Option<Complaint>,
    /// Since when it is as healthy, or as unhealthy, as it is.
    pub health_since: Time,
    /// Since when, as it says, it has had something to store, and stored nothing, or refuses to.
    pub busy_since: Option<Time>,
    /// When an answer to a heartbeat was late the last time.
    pub late_at: Option<Time>,
    /// How long answers to heartbeats take, smoothed.
    pub round: Duration,
    /// How fast it stores,
    pub pace: Pace,
    /// and whether that is slow beside the others.
    pub slow: Verdict,
}

impl Peer {
    /// A peer of which nothing is known yet, given the benefit of the doubt from `now`.
    #[must_use]
    pub fn unknown(now: Time) -> Peer {
        Peer {
            progress: Progress::Probe,
            stored: None,
            stored_at: now,
            reported: None,
            accepted: RecordKey::BLANK,
            moved: None,
            lease_from: None,
            lease: None,
            promised: None,
            longest: None,
            last_answer: now,
            echo: None,
            waiting_since: None,
            stuck: false,
            send_at: None,
            trailed_at: Time::default(),
            gone: false,
            differs: None,
            unhealthy: None,
            health_since: now,
            busy_since: None,
            late_at: None,
            round: Duration::ZERO,
            pace: Pace::default(),
            slow: Verdict::default(),
        }
    }

    /// Whether it has said in this reign how it is, and is fit to reign.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.unhealthy.is_none() && self.lease_from.is_some()
    }

    /// How long it may store nothing (R9): `timeout`, and what a large transaction takes on its way.
    fn patience(&self, timeout: Duration) -> Duration {
        let Progress::Stream { inflight_bytes, .. } = &self.progress else { return timeout };
        timeout + Duration::from_millis(*inflight_bytes as u64 * 1000 / SLOWEST)
    }

    /// Whether it has stored nothing of what it lacks for too long (R9).
    #[must_use]
    pub fn waits_in_vain(&self, now: Time, timeout: Duration) -> bool {
        self.waiting_since.is_some_and(|since| now.since(since) >= self.patience(timeout))
    }

    /// Whether it answers and stores within `timeout` (R9).
    #[must_use]
    pub fn keeps_up(&self, now: Time, timeout: Duration) -> bool {
        !self.gone
            && !self.stuck
            && now.since(self.last_answer) < timeout
            && !self.waits_in_vain(now, timeout)
    }

    /// Whether it is being streamed to.
    #[must_use]
    pub fn streams(&self) -> bool {
        matches!(self.progress, Progress::Stream { .. })
    }

    /// Since when it is being streamed to without a break.
    #[must_use]
    pub fn streams_since(&self) -> Option<Time> {
        match &self.progress {
            Progress::Stream { since, .. } => Some(*since),
            Progress::Probe | Progress::Resync => None,
        }
    }

    /// It has stored everything up to `position` of this branch. `asked` is when the question was sent, if it is an
    /// answer: one to a question from after its last report that says less than that means a lost disk (R8), any
    /// other was overtaken.
    pub fn on_stored(&mut self, position: Position, asked: Option<Time>, now: Time) {
        self.pace.stored(position.txid, now);
        if let Progress::Stream { inflight, inflight_bytes, next, .. } = &mut self.progress {
            while let Some((txid, bytes)) = inflight.front().copied()
                && txid <= position.txid
            {
                inflight.pop_front();
                *inflight_bytes -= bytes;
            }
            *next = (*next).max(position.txid.next());
        }
        if self.stored.is_some_and(|stored| stored >= position.txid) {
            if asked.is_some_and(|asked| asked > self.stored_at) {
                self.stored = Some(position.txid);
            }
            return;
        }
        self.stored = Some(position.txid);
        self.stored_at = now;
        self.stuck = false;
        if let Progress::Stream { inflight, .. } = &self.progress {
            self.waiting_since = if inflight.is_empty() { None } else { Some(now) };
        }
    }

    /// Whether nothing of what was sent has been stored for too long: it may have been lost on the way.
    #[must_use]
    pub fn stalls(&self, now: Time, timeout: Duration) -> bool {
        let Progress::Stream { inflight, since, .. } = &self.progress else { return false };
        !inflight.is_empty() && now.since(self.stored_at.max(*since)) >= self.patience(timeout)
    }

    /// For a backup that nobody waits for: whether what it lacks, up to `limit`, is put off, so that it gets more at
    /// once and its disk and the link are spared.
    pub fn puts_off(&mut self, limit: Txid, now: Time) -> bool {
        let Progress::Stream { next, .. } = &self.progress else { return false };
        let lacks = (limit.0 + 1).saturating_sub(next.0);
        self.send_at = None;
        if lacks == 0 {
            return true;
        }
        let due = self.trailed_at + TRAIL_EVERY;
        if now < due && lacks < TRAIL_TRANSACTIONS {
            self.send_at = Some(due);
            return true;
        }
        self.trailed_at = now;
        false
    }

    /// Back to the start: what was sent may be lost. It goes on being waited for.
    pub fn probe(&mut self) {
        self.progress = Progress::Probe;
        self.send_at = None;
        self.pace.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_transaction_on_its_way_is_given_its_time() {
        let (start, timeout) = (Time::default(), Duration::from_secs(1));
        let mut peer = Peer::unknown(start);
        peer.waiting_since = Some(start);
        let after = |ms| start + Duration::from_millis(ms);
        let mut sent = |bytes| {
            peer.progress = Progress::stream_after(Txid(0), start);
            if let Progress::Stream { inflight, inflight_bytes, .. } = &mut peer.progress {
                inflight.push_back((Txid(1), bytes));
                *inflight_bytes += bytes;
            }
            peer.clone()
        };
        for (bytes, ms) in [(1000, 1000), (16 << 20, 5000), (256 << 20, 65_000)] {
            let mut peer = sent(bytes);
            peer.last_answer = after(ms);
            assert!(peer.keeps_up(after(ms - 1), timeout) && !peer.stalls(after(ms - 1), timeout));
            assert!(!peer.keeps_up(after(ms), timeout) && peer.stalls(after(ms), timeout));
        }
        let silent = sent(256 << 20);
        assert!(!silent.keeps_up(after(1000), timeout), "who doesn't answer isn't waited for");
    }
}
