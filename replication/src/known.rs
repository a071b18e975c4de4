//! What this machine knows to be acknowledged: whoever stands without it has lost something, and must not win (R4).
//!
//! Owns the knowledge and how it comes. Never claims more than is so: a replica's end counts only while nothing was stored
//! that wasn't acknowledged when it was sent. Read `role/candidate.rs` for what rests on it.

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::{
    member::MemberId,
    message::{Heartbeat, VoteRequest},
    mistakes::{Mistake, made},
    node::{Node, Storage},
    position::Position,
    succession::SuccessionRecord,
};

/// What is known to be acknowledged. Kept with the votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Known {
    /// The newest position known to be acknowledged. On disk as it was when anything was last kept.
    #[n(0)]
    pub acknowledged: Position,
    /// This replica holds only what was acknowledged, so its end is, too. On disk before that ceases to be so.
    #[n(1)]
    pub trails: bool,
}

impl Node {
    /// The newest position that this machine knows to be acknowledged, whatever its own replica holds.
    pub(crate) fn known_acknowledged(&self) -> Position {
        let known = self.hard.known;
        let trails = known.trails || made(Mistake::EveryEndAcknowledged);
        known.acknowledged.max(if trails { self.stamp.position } else { Position::ZERO })
    }

    /// A master has said how far acknowledgements have come.
    pub(crate) fn learn_acknowledged(&mut self, position: Position) {
        self.hard.known.acknowledged = self.hard.known.acknowledged.max(position);
    }

    /// For people: a candidate that could win by its place lacks what this machine knows to be acknowledged.
    pub(crate) fn note_lacking(&mut self, candidate: &MemberId, request: &VoteRequest) {
        let Some(stands) = request.position else { return };
        if self.known_acknowledged() > stands && self.hard.record.sync_set.contains(candidate) {
            self.others_lack.insert(candidate.clone(), stands);
        } else {
            self.others_lack.remove(candidate);
        }
    }

    /// Whether this machine knows that a member has lost what was acknowledged, without a master.
    pub(crate) fn is_known_to_lack(&self, id: &MemberId) -> bool {
        let itself = *id == self.config.id
            && self.lacking.as_ref().is_some_and(|(_, position)| *position > self.stamp.position);
        itself || self.others_lack.contains_key(id)
    }

    /// What is said where there is no master, and a machine that should be able to reign has lost what was acknowledged.
    pub(crate) fn lacking_notice(&self, record: &SuccessionRecord) -> Option<String> {
        let me = &self.config.id;
        let (lacks, stands, who, position) = match &self.lacking {
            Some((who, position)) if self.is_known_to_lack(me) => (me, self.stamp.position, who, *position),
            _ => {
                let (lacks, stands) = self.others_lack.first_key_value()?;
                (lacks, *stands, me, self.known_acknowledged())
            }
        };
        let whole = record.sync_set.iter().filter(|id| !self.is_known_to_lack(id));
        let whole: Vec<_> = whole.map(MemberId::as_str).collect();
        let start = if whole.is_empty() {
            String::new()
        } else {
            format!("start {}, which should hold everything; ", whole.join(" or "))
        };
        Some(format!(
            "no master: the replica of {lacks} ends at {stands}, but {who} knows that {position} was acknowledged: the disk of {lacks} has \
             lost writes, so it doesn't stand; {start}if nobody who holds everything comes back, `tanist promote --force \
             --accept-data-loss` the machine that holds most"
        ))
    }

    /// The replica is about to hold what isn't acknowledged, or may be. Durable first.
    pub(crate) fn holds_surplus(&mut self) {
        self.surplus_at = self.now;
        if std::mem::take(&mut self.hard.known.trails) {
            self.persist();
        }
    }

    /// A heartbeat shows that all this replica holds is acknowledged by now. Only where nothing else is sent to it, and not
    /// at once, so that a machine which is about to be counted on doesn't write this down again and again.
    pub(crate) fn consider_trailing(&mut self, heartbeat: &Heartbeat) {
        let (tail, acknowledged) = (self.tail.position, heartbeat.acknowledged);
        // Numbered by this master and not beyond what it has acknowledged: on its branch, with all before it.
        let covered = tail.term == heartbeat.term && acknowledged.term == tail.term && tail <= acknowledged;
        let quiet: Duration = self.now.since(self.surplus_at);
        if covered
            && !self.hard.known.trails
            && quiet >= self.config.timing.lease
            && self.storage == Storage::Ready
            && !self.settling
            && !heartbeat.record.sync_set.contains(&self.config.id)
        {
            self.hard.known.trails = true;
            self.persist();
        }
    }
}
