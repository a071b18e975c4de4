//! What this machine knows to be acknowledged: whoever stands without it has lost something, and must not win (R4).
//!
//! Owns the knowledge and how it comes. Never claims more than is so: a replica's end counts only while nothing was stored
//! that wasn't acknowledged when it was sent. Read `role/candidate.rs` for what rests on it.

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::{
    message::Heartbeat,
    mistakes::{Mistake, made},
    node::{Node, Storage},
    position::Position,
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
