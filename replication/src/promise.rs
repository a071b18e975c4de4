//! What a voter promises and what a master may count on (R11), where configurations differ: an administrator changes
//! `[timing]` machine by machine.
//!
//! Owns the arithmetic and the words for a difference. Read `role/follower.rs` for who promises, `role/master.rs` for who counts.

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::{
    config::Timing,
    member::MemberId,
    message::HeartbeatReply,
    mistakes::{Mistake, made},
    node::Node,
    role::Role,
    succession::SuccessionRecord,
    time::Time,
};

/// A master sends a heartbeat at least so many times while the shortest promise lasts.
const HEARTBEATS: u32 = 3;
/// But not more often than this, whatever anybody promises.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(5);

/// Nobody's configuration lets it promise so much.
const LONGEST: Duration = Duration::from_secs(3600);

/// What a machine's configuration says of times, as far as others should know. For people: no rule rests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Times {
    /// Between two heartbeats.
    #[n(0)]
    pub heartbeat: Duration,
    /// For how long a heartbeat is honoured.
    #[n(1)]
    pub lease: Duration,
    /// By how much a lease is counted shorter.
    #[n(2)]
    pub drift_margin: Duration,
    /// After which a silent backup is left out.
    #[n(3)]
    pub sync_timeout: Duration,
}

impl Times {
    /// What this differs in from the times of this machine, in words; `None`: in nothing.
    #[must_use]
    pub fn difference(&self, own: &Times) -> Option<String> {
        let pairs = [
            ("timing.heartbeat", self.heartbeat, own.heartbeat),
            ("timing.lease", self.lease, own.lease),
            ("timing.drift_margin", self.drift_margin, own.drift_margin),
            ("timing.sync_timeout", self.sync_timeout, own.sync_timeout),
        ];
        let differing: Vec<_> = pairs
            .into_iter()
            .filter(|(_, theirs, own)| theirs != own)
            .map(|(name, theirs, own)| format!("{name} is {theirs:?} there, {own:?} here"))
            .collect();
        (!differing.is_empty()).then(|| differing.join(", "))
    }
}

impl From<&Timing> for Times {
    fn from(timing: &Timing) -> Times {
        Times {
            heartbeat: timing.heartbeat,
            lease: timing.lease,
            drift_margin: timing.drift_margin,
            sync_timeout: timing.sync_timeout,
        }
    }
}

impl Timing {
    /// How long a master relies on a promise, from when it sent the heartbeat: never for longer than its own configuration
    /// says, and less by the drift margin, which is a share of the lease.
    #[must_use]
    pub(crate) fn counted(&self, promised: Duration) -> Duration {
        let length = if made(Mistake::LeaseUnpromised) { self.lease } else { promised.min(self.lease) };
        let share = self.drift_margin.as_nanos().saturating_mul(length.as_nanos());
        let margin = share.checked_div(self.lease.as_nanos()).unwrap_or(0);
        // Rounded up: a lease must not end late by the rounding.
        let margin = Duration::from_nanos(u64::try_from(margin).unwrap_or(u64::MAX).saturating_add(1));
        length.saturating_sub(margin.min(length))
    }
}

impl Node {
    /// The longest promise that may still bind this machine is to be on its disk before it gives one: whether it has changed.
    pub(crate) fn keep_promise(&mut self) -> bool {
        if made(Mistake::PromiseUnsaved) {
            return false;
        }
        let (kept, length) = (self.hard.promised, self.config.timing.lease);
        let former = self.now < self.outlived && !made(Mistake::PromiseLoweredEarly);
        let next = if former { kept.max(length) } else { length };
        self.hard.promised = next;
        next != kept
    }

    /// What this machine may have promised before its start, to the master of this reign.
    pub(crate) fn bound_before(&self, heartbeat_term: crate::Term) -> Time {
        let waits = heartbeat_term <= self.waits_for && !made(Mistake::PromiseShortened);
        if waits { self.no_vote_before } else { Time::default() }
    }

    /// How long after the beginning of this machine's reign any earlier master's lease may last: nobody counts on more than was
    /// promised, and of those who promised one at least has answered in this reign.
    #[must_use]
    pub fn earlier_leases(&self) -> Duration {
        let own = self.hard.promised.max(self.config.timing.lease);
        let Role::Master(master) = &self.role else { return own };
        let longest = master.peers.values().filter_map(|peer| peer.longest).fold(own, Duration::max);
        longest.min(LONGEST)
    }

    /// How often heartbeats are sent: so that nobody's promise ends meanwhile.
    pub(crate) fn heartbeat_interval(&self, record: &SuccessionRecord) -> Duration {
        let own = self.config.timing.heartbeat;
        let Role::Master(master) = &self.role else { return own };
        let promised = crate::quorum::voters(record).filter_map(|id| master.peers.get(id)?.promised).min();
        promised.map_or(own, |promised| own.min((promised / HEARTBEATS).max(SHORTEST_HEARTBEAT)))
    }

    /// As master: what a voter's answer grants.
    pub(crate) fn on_promise(&mut self, from: &MemberId, reply: &HeartbeatReply) {
        let (now, timing) = (self.now, &self.config.timing);
        let promised = reply.promised.unwrap_or(timing.lease);
        let counted = timing.counted(promised);
        let Role::Master(master) = &mut self.role else { return };
        let Some(peer) = master.peers.get_mut(from) else { return };
        let sent = if made(Mistake::LeaseFromAnswer) { now } else { reply.heartbeat_sent };
        peer.lease_from = peer.lease_from.max(Some(reply.heartbeat_sent));
        peer.lease = peer.lease.max(Some(sent + counted));
        peer.promised = Some(promised);
        peer.longest = Some(reply.longest.unwrap_or(promised).max(promised));
        let Some(record) = self.own_record() else { return };
        let next = now + self.heartbeat_interval(record);
        if let Role::Master(master) = &mut self.role {
            master.next_heartbeat = master.next_heartbeat.min(next);
        }
    }

    fn own_record(&self) -> Option<&SuccessionRecord> {
        match &self.role {
            Role::Master(master) => master.record(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Another machine has told its times: said once, for each change.
    pub(crate) fn compare_times(&mut self, of: &MemberId, times: Option<&Times>) {
        let Some(times) = times else { return };
        let (record, follows) = (&self.hard.record, !matches!(self.role, Role::Master(_)));
        self.differing.retain(|id, _| if follows { id == of } else { record.member(id).is_some() });
        let difference = times.difference(&Times::from(&self.config.timing));
        if self.differing.get(of) == difference.as_ref() {
            return;
        }
        match difference {
            Some(difference) => {
                let why = format!(
                    "{difference}: no lease is counted on for longer than each voter has promised, so this is safe, but give all machines the same \
                     [timing], and restart them one after the other"
                );
                self.note("timing differs", Some(of.clone()), why);
                self.differing.insert(of.clone(), difference);
            }
            None => {
                self.differing.remove(of);
                self.note("timing agrees again", Some(of.clone()), String::new());
            }
        }
    }

    /// What an operator should know of it.
    pub(crate) fn timing_notice(&self) -> Option<String> {
        let told: Vec<_> = self.differing.iter().map(|(id, what)| format!("{id}'s {what}")).collect();
        (!told.is_empty()).then(|| format!("[timing] differs between the machines: {}", told.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_counted_as_long_as_the_shorter_says_less_its_share_of_the_drift_margin() {
        let ms = Duration::from_millis;
        let timing = Timing { lease: ms(1000), drift_margin: ms(50), ..Timing::default() };
        let counted = |promised| timing.counted(ms(promised)).as_millis();
        assert_eq!([1000, 5000, 500, 0].map(counted), [949, 949, 474, 0]);
        assert_eq!(timing.counted(Duration::MAX).as_millis(), 949);
    }

    #[test]
    fn difference_names_each_time_that_differs() {
        let own = Times::from(&Timing::default());
        assert_eq!(own.difference(&own), None);
        let other = Times { lease: Duration::from_secs(5), ..own };
        assert_eq!(other.difference(&own).unwrap(), "timing.lease is 5s there, 1s here");
    }
}
