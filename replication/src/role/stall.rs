//! A machine whose disk doesn't answer: as master it leaves without that disk's help, and it doesn't stand.
//!
//! Owns whom such a master leaves to. Needs nothing stored here on the way: the gate shuts, then a goodbye goes out. Safety is
//! that of any election: whoever is in the sync set holds all that was acknowledged (R7), and nobody else wins (R4).

use std::time::Duration;

use crate::{
    complaint::Complaint,
    effect::Effect,
    member::MemberId,
    mistakes::{Mistake, made},
    node::Node,
    role::{Master, Phase, Role},
    time::Time,
};

impl Node {
    /// The local disk or store has not answered for too long, or it answers again.
    pub(crate) fn on_stalled(&mut self, stalled: Option<Complaint>) {
        if self.stalled.is_some() != stalled.is_some() {
            let what = if stalled.is_some() { "stalled" } else { "stalled no more" };
            let why = stalled.as_ref().map(ToString::to_string).unwrap_or_default();
            self.note(what, None, why);
        }
        self.stalled = stalled;
        if self.stalled.is_some() && matches!(self.role, Role::Candidate(_)) {
            self.become_follower(Duration::ZERO);
        }
    }

    /// A stalled master leaves as soon as a member of the sync set can take over. Without one it stays: nobody else could win.
    pub(crate) fn leave_if_stalled(&mut self) {
        let Some(why) = self.stalled.as_ref().filter(|_| !made(Mistake::StallIgnored)) else { return };
        let why = why.to_string();
        let (now, timeout) = (self.now, self.config.timing.sync_timeout);
        let Role::Master(master) = &mut self.role else { return };
        let Some(heir) = master.refuge(&self.config.id, now, timeout) else { return };
        let asked = master.handover.take();
        self.leave(Some(heir.clone()), format!("leaves to {heir} without its own disk: {why}"), false);
        if let Some(asked) = asked {
            let left = if asked.to == heir {
                Ok(heir)
            } else {
                Err(format!(
                    "this machine's disk doesn't answer, and it has left to {heir}, who could take over at once"
                ))
            };
            self.out.push(Effect::HandoverEnded(left));
        }
    }
}

impl Master {
    /// Whom this master can leave to without its own disk: a member that is in the sync set whichever record decides the next
    /// election, has answered in this reign and keeps up; whom a handover under way is to first, then the first in the chain.
    fn refuge(&self, me: &MemberId, now: Time, timeout: Duration) -> Option<MemberId> {
        if self.phase == Phase::Proposing {
            return None;
        }
        let able = |id: &MemberId| {
            id != me
                && self.committed.iter().chain(&self.proposed).all(|record| record.sync_set.contains(id))
                && self
                    .peers
                    .get(id)
                    .is_some_and(|peer| peer.lease_from.is_some() && peer.keeps_up(now, timeout))
        };
        let wanted = self.handover.as_ref().map(|handover| handover.to.clone());
        wanted.filter(&able).or_else(|| {
            let chain = self.committed.as_ref()?.chain(&self.unhealthy_peers());
            chain.into_iter().find(able)
        })
    }
}
