//! Planned handover: the master leaves its throne to a backup that holds everything, and no request fails.
//!
//! Owns the steps: the heir joins the sync set, writes are held, the heir stores the last of them, goodbye. Never gives
//! up the lease before that. Safety rests on R4 and R7 as in any election; this only makes it quick.

use crate::{
    effect::Effect,
    member::MemberId,
    message::Message,
    node::Node,
    role::{Master, Phase, Role},
    time::Time,
};

/// How many leases the heir may take to come into the sync set.
const JOINING_LEASES: u32 = 10;

/// A master that isn't healthy tries again to be relieved after so many leases.
const RELIEF_LEASES: u32 = 10;

/// How far a handover has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The heir isn't in the sync set yet; clients notice nothing.
    Joining,
    /// No new write is to begin; the store has yet to say that none is under way.
    Holding(u64),
    /// The newest write is known; the heir has yet to store it.
    Held,
}

/// A handover under way.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) to: MemberId,
    why: String,
    stage: Stage,
    /// Given up then.
    pub(crate) until: Time,
    pub(crate) cause: Cause,
}

/// Why a master hands over, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It was asked to, or isn't healthy.
    Asked,
    /// Its disk is slow beside the others: it rests before it does so again.
    Disk,
    /// What it sends takes long to arrive. The same; and it leaves at once when this fails.
    Link,
}

impl Node {
    /// Begins a handover to `to`, or to the heir; answered by [`Effect::HandoverEnded`].
    pub(crate) fn on_hand_over(&mut self, to: Option<MemberId>, why: String) {
        let begun = self.begin_handover(to, why);
        if let Err(error) = begun {
            self.out.push(Effect::HandoverEnded(Err(error)));
        }
    }

    fn begin_handover(&mut self, to: Option<MemberId>, why: String) -> Result<(), String> {
        let (me, now, timing) = (&self.config.id, self.now, &self.config.timing);
        let Role::Master(master) = &mut self.role else {
            return Err("this machine isn't the master".to_owned());
        };
        let (Phase::Serving, Some(committed)) = (master.phase, &master.committed) else {
            return Err("the reign has only just begun".to_owned());
        };
        if let Some(handover) = &master.handover {
            return Err(format!("a handover to {} is under way", handover.to));
        }
        let to = match to {
            Some(to) if to == *me => return Err(format!("{to} is the master already")),
            Some(to) => match committed.member(&to) {
                None => return Err(format!("{to} is no member")),
                Some(member) if member.rank.is_witness() => {
                    return Err(format!("{to} is a witness and holds no data"));
                }
                Some(_) if !master.keeps_up(&to, now, timing.sync_timeout) => {
                    return Err(format!("{to} doesn't answer, or doesn't store what it is sent"));
                }
                Some(_) => {
                    match (&self.unhealthy, master.peers.get(&to).and_then(|peer| peer.unhealthy.as_ref())) {
                        // Better than this machine it would not be, nor worse.
                        (None, Some(why)) => return Err(format!("{to} isn't healthy: {why}")),
                        _ => to,
                    }
                }
            },
            None => master
                .heir(me, now, timing.sync_timeout)
                .ok_or("no backup in the sync set keeps up".to_owned())?,
        };
        let until = now + timing.lease.saturating_mul(JOINING_LEASES);
        master.handover = Some(Handover {
            to: to.clone(),
            why: why.clone(),
            stage: Stage::Joining,
            until,
            cause: Cause::Asked,
        });
        self.note("hands over", Some(to), why);
        Ok(())
    }

    /// The store has no write under way any more, and begins none.
    pub(crate) fn on_writes_held(&mut self, hold: u64) {
        if let Role::Master(master) = &mut self.role
            && let Some(handover) = &mut master.handover
            && handover.stage == Stage::Holding(hold)
        {
            handover.stage = Stage::Held;
        } // else that handover was given up meanwhile
    }

    /// Takes the next step as soon as it is due.
    pub(crate) fn step_handover(&mut self) {
        let (now, timeout) = (self.now, self.config.timing.sync_timeout);
        let Role::Master(master) = &mut self.role else { return };
        let Some(handover) = &master.handover else { return };
        let to = handover.to.clone();
        if !master.keeps_up(&to, now, timeout) {
            return self.give_up_handover(&format!("{to} no longer answers or stores"));
        }
        if now >= handover.until {
            let stage = handover.stage;
            if stage == Stage::Held && master.is_held_by(&to) {
                // All that is missing is this machine's own disk, which the heir doesn't need.
                return self.leave_to(to);
            }
            let why = match stage {
                Stage::Joining => format!("{to} didn't catch up in time"),
                Stage::Holding(_) | Stage::Held => format!("{to} didn't store the last writes in time"),
            };
            return self.give_up_handover(&why);
        }
        match handover.stage {
            Stage::Joining if master.would_be_eligible(&to) => {
                self.holds += 1;
                let Some(handover) = &mut master.handover else { return };
                handover.stage = Stage::Holding(self.holds);
                handover.until = now + timeout;
                self.out.push(Effect::HoldWrites(self.holds));
            }
            Stage::Held if master.holds_everything(&to) => self.leave_to(to),
            Stage::Joining | Stage::Holding(_) | Stage::Held => {}
        }
    }

    fn leave_to(&mut self, to: MemberId) {
        let Role::Master(master) = &mut self.role else { return };
        let Some(Handover { why, cause, .. }) = master.handover.take() else { return };
        if cause != Cause::Asked {
            self.on_limping_master();
        }
        self.leave(Some(to.clone()), format!("hands over to {to}: {why}"), cause == Cause::Link);
        self.out.push(Effect::HandoverEnded(Ok(to)));
    }

    fn give_up_handover(&mut self, why: &str) {
        let Role::Master(master) = &mut self.role else { return };
        let Some(handover) = master.handover.take() else { return };
        if let Some(quiet) = self.config.failback {
            master.failback_from = self.now + quiet;
        }
        master.relief_from = self.now + self.config.timing.lease.saturating_mul(RELIEF_LEASES);
        if handover.stage != Stage::Joining {
            self.out.push(Effect::ReleaseWrites);
        }
        self.note("handover given up", Some(handover.to), why.to_owned());
        self.out.push(Effect::HandoverEnded(Err(why.to_owned())));
        if self.stopping {
            self.leave_at_once();
        } else if handover.cause == Cause::Link {
            self.limp_away();
        }
    }

    /// Steps down and gives up the lease in a goodbye to all, which names the heir: it stands at once.
    pub(crate) fn leave(&mut self, heir: Option<MemberId>, why: String, limps: bool) {
        let term = self.hard.term;
        let others = self.others();
        self.step_down(why);
        for to in others {
            self.send(to, Message::Goodbye { term, heir: heir.clone(), limps });
        }
    }

    fn leave_at_once(&mut self) {
        let Role::Master(master) = &self.role else { return };
        let heir = master.heir(&self.config.id, self.now, self.config.timing.sync_timeout);
        self.leave(heir, "this machine stops".to_owned(), false);
    }

    /// This machine is to stop: a master hands over first, and leaves at once when nobody can take over.
    pub(crate) fn on_shutdown(&mut self) {
        self.stopping = true;
        match &self.role {
            Role::Candidate(_) => self.become_follower(std::time::Duration::ZERO),
            Role::Master(master) if master.handover.is_none() => {
                if self.begin_handover(None, "this machine stops".to_owned()).is_err() {
                    self.leave_at_once();
                }
            }
            Role::Master(_) | Role::Follower(_) => {}
        }
    }

    /// A master that isn't healthy hands over to a member that is, of the sync set first; without one it stays. A member
    /// that isn't healthy gets the throne from nobody, so it doesn't go back and forth.
    pub(crate) fn consider_relief(&mut self) {
        let slow = self.slow_master().filter(|_| self.now >= self.no_limp_before);
        let Some(why) = self.unhealthy.as_ref().map(ToString::to_string).or(slow) else { return };
        let (now, timeout) = (self.now, self.config.timing.sync_timeout);
        let Role::Master(master) = &self.role else { return };
        if master.phase != Phase::Serving
            || master.handover.is_some()
            || self.stopping
            || now < master.relief_from
        {
            return;
        }
        let Some(committed) = &master.committed else { return };
        let fit = |id: &MemberId| {
            let healthy = master.peers.get(id).is_some_and(|peer| {
                peer.is_healthy()
                    && peer.streams()
                    && (self.unhealthy.is_some() || peer.slow.slow().is_none())
            });
            healthy && master.keeps_up(id, now, timeout)
        };
        let chain = committed.chain(&master.unhealthy_peers());
        if let Some(id) = chain.into_iter().find(|id| *id != self.config.id && fit(id)) {
            let why = format!("this machine isn't healthy: {why}");
            let cause = if self.unhealthy.is_none() { Cause::Disk } else { Cause::Asked };
            self.hand_over_for(cause, id, why);
        }
    }

    /// Failback: a machine of better rank that has kept up for the quiet period gets the throne back.
    pub(crate) fn consider_failback(&mut self) {
        let Some(quiet) = self.config.failback else { return };
        let (me, now) = (&self.config.id, self.now);
        let Role::Master(master) = &self.role else { return };
        if master.phase != Phase::Serving
            || master.handover.is_some()
            || self.stopping
            || now < master.failback_from
        {
            return;
        }
        let Some(committed) = &master.committed else { return };
        let own = committed.rank(me);
        let better = committed.sync_set.iter().filter(|id| committed.rank(id) < own);
        let steady = |id: &&MemberId| {
            master.peers.get(*id).is_some_and(|peer| {
                let steady = peer.streams_since().is_some_and(|since| now.since(since) >= quiet);
                steady
                    && peer.is_healthy()
                    && peer.slow.slow().is_none()
                    && now.since(peer.health_since) >= quiet
            }) && master.keeps_up(id, now, self.config.timing.sync_timeout)
        };
        if let Some(id) = better.filter(steady).min_by_key(|id| committed.rank(id)).cloned() {
            let why = format!("failback: it is of better rank and has kept up for {quiet:?}");
            self.on_hand_over(Some(id), why);
        }
    }
}

impl Master {
    fn keeps_up(&self, id: &MemberId, now: Time, timeout: std::time::Duration) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.keeps_up(now, timeout))
    }

    /// R4: whichever record decides the next election, this member is in its sync set.
    fn would_be_eligible(&self, id: &MemberId) -> bool {
        self.committed.is_some()
            && self.committed.iter().chain(&self.proposed).all(|record| record.sync_set.contains(id))
            && self.peers.get(id).is_some_and(crate::progress::Peer::streams)
    }

    /// Every write is acknowledged and on that member's disk.
    fn holds_everything(&self, id: &MemberId) -> bool {
        self.acknowledged.txid == self.log.tip_position().txid && self.is_held_by(id)
    }

    /// Every write is on that member's disk, whatever is on this machine's.
    fn is_held_by(&self, id: &MemberId) -> bool {
        let tip = self.log.tip_position().txid;
        self.would_be_eligible(id) && self.peers.get(id).is_some_and(|peer| peer.stored == Some(tip))
    }
}
