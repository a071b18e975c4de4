//! A master that limps: it hears the others, but what it sends them doesn't arrive; or its disk is slow beside theirs.
//!
//! Owns the finding of who is at fault, by what the others say of themselves, and what the master does about it: it never makes
//! itself the whole sync set then, which would block its successors, but leaves its throne while they can take it.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    member::MemberId,
    mistakes::{Mistake, made},
    node::Node,
    position::{Position, Txid},
    progress::{Peer, Progress},
    quorum,
    role::{Cause, Master, Phase, Role},
    time::Time,
};

/// A master that left because it limped, and its heir, don't leave for that reason again for so many leases: when all links
/// are bad, somebody has to go on.
const LIMP_LEASES: u32 = 32;
/// An answer to a heartbeat is late after so many heartbeats' time,
const LATE: u32 = 3;
/// and a member answers irregularly when that has happened so lately, in leases.
const LATELY_LEASES: u32 = 5;
/// Who answers irregularly is given so many times `sync_timeout` before it counts as silent.
const PATIENCE: u32 = 3;

/// What is to be thought of a master's own link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limps {
    No,
    /// It will show in a moment.
    Perhaps,
    Yes,
}

impl Peer {
    /// Whether what it was sent doesn't come to it.
    fn is_starved(&self, now: Time, timeout: Duration) -> bool {
        let waits = self.waiting_since.is_some_and(|since| now.since(since) >= timeout / 2);
        self.busy_since.is_none() && (self.stuck || waits) || now.since(self.last_answer) >= timeout
    }

    /// Whether its own disk is what takes so long: it has had something to store for a while, and stored nothing.
    fn is_busy(&self, now: Time, timeout: Duration) -> bool {
        let busy = self.busy_since.is_some_and(|since| now.since(since) >= timeout / 2);
        busy && now.since(self.last_answer) < timeout
    }

    /// Takes what it says of its disk: that it has all that has come, and takes more.
    pub(crate) fn on_awaits(&mut self, awaits: bool, now: Time) {
        let stores = self.busy_since.is_some_and(|since| self.stored_at > since);
        self.busy_since = if awaits { None } else { self.busy_since.filter(|_| !stores).or(Some(now)) };
    }

    /// Notes when it answers; whether that is late shows in `late_at`.
    pub(crate) fn on_answer(&mut self, asked: Time, now: Time, heartbeat: Duration) {
        let late = heartbeat.saturating_mul(LATE);
        let round = now.since(asked);
        if self.lease_from.is_some() && (now.since(self.last_answer) > late || round > late) {
            self.late_at = Some(now);
        }
        self.round = if self.round.is_zero() { round } else { (self.round * 7 + round) / 8 };
    }

    fn is_irregular(&self, now: Time, lease: Duration) -> bool {
        self.late_at.is_some_and(|at| now.since(at) < lease.saturating_mul(LATELY_LEASES))
    }

    /// What its disk takes to store, as far as the way there doesn't account for it.
    pub(crate) fn stores_in(&self, now: Time) -> Option<Duration> {
        self.pace.typical(now).map(|took| took.saturating_sub(self.round))
    }
}

impl Node {
    /// Whether it is this machine's own link that would leave it alone in the sync set: all others that hold data and answer say
    /// that their disk has all that has come, while what is sent to them isn't stored.
    ///
    /// Where only one such member answers its link is as likely: then it counts how regularly the other voters answer.
    pub(crate) fn limps(&self, master: &Master) -> Limps {
        if made(Mistake::LimpsAlone) || self.now < self.no_limp_before {
            return Limps::No;
        }
        let Some(committed) = &master.committed else { return Limps::No };
        let (now, timing) = (self.now, &self.config.timing);
        let data = committed.members.iter().filter(|member| !member.rank.is_witness() && !member.absent);
        let answering: Vec<(&MemberId, &Peer)> = data
            .filter_map(|member| Some((&member.id, master.peers.get(&member.id)?)))
            .filter(|(id, peer)| self.hears(id, peer))
            .collect();
        let busy = answering.iter().any(|(_, peer)| peer.is_busy(now, timing.sync_timeout));
        if busy || self.successor(master).is_none() {
            return Limps::No; // its own disk is to blame; or nobody could do better
        }
        let starved = answering.iter().filter(|(_, peer)| peer.is_starved(now, timing.sync_timeout)).count();
        let mut others = master.peers.iter().filter(|(id, peer)| {
            let answers = !peer.gone && now.since(peer.last_answer) < timing.lease;
            answers && !answering.iter().any(|(answering, _)| answering == id)
        });
        let unsure = answering.iter().any(|(_, peer)| peer.busy_since.is_some());
        let irregular = |peer: &Peer| peer.is_irregular(now, timing.lease);
        match (starved, answering.as_slice()) {
            (0, _) if unsure => Limps::Perhaps,
            (0, _) => Limps::No,
            (1, [(_, only)]) => {
                // Nobody else is heard though there are others: that isn't this one's link alone.
                let alone = others.clone().next().is_none() && quorum::voters(committed).count() > 2;
                let own = if alone { irregular(only) } else { others.clone().count() > 0 };
                if own && others.all(|(_, peer)| irregular(peer)) { Limps::Yes } else { Limps::No }
            }
            (1, _) => Limps::Perhaps, // another one is being tried
            _ => Limps::Yes,
        }
    }

    /// Whether a data member answers, is fit, and could be streamed to.
    fn hears(&self, id: &MemberId, peer: &Peer) -> bool {
        let (now, timing) = (self.now, &self.config.timing);
        let silent_for = now.since(peer.last_answer);
        let irregular = peer.is_irregular(now, timing.lease) && self.links.contains(id);
        let patience = timing.sync_timeout.saturating_mul(if irregular { PATIENCE } else { 1 });
        !peer.gone && peer.is_healthy() && !matches!(peer.progress, Progress::Resync) && silent_for < patience
    }

    /// Who may be elected when this master leaves, and answers.
    fn successor(&self, master: &Master) -> Option<MemberId> {
        let committed = master.committed.as_ref()?;
        let chain = committed.chain(&master.unhealthy_peers());
        chain.into_iter().find(|id| {
            let eligible = committed.sync_set.contains(id)
                && master.proposed.as_ref().is_none_or(|proposed| proposed.sync_set.contains(id));
            *id != self.config.id
                && eligible
                && master.peers.get(id).is_some_and(|peer| {
                    let holds = peer.reported.is_some_and(|stamp| stamp.position > Position::ZERO);
                    holds && self.hears(id, peer)
                })
        })
    }

    /// Leaves the throne when it has limped for `sync_timeout`: with its sync set as it is, so that the others can be elected.
    /// Where what it sends does arrive, but takes long, it hands over instead, and leaves only when that fails.
    pub(crate) fn consider_limping(&mut self) {
        let Role::Master(master) = &self.role else { return };
        let may = self.now >= self.no_limp_before.max(master.relief_from) && !self.stopping;
        let slow_link = master.link.slow().filter(|_| may);
        match (master.limps_since, slow_link) {
            _ if master.handover.is_some() => {} // it ends soon, one way or the other
            (Some(since), _) if self.now.since(since) >= self.config.timing.sync_timeout => self.limp_away(),
            (_, Some(pace)) if master.phase == Phase::Serving => {
                let Some(heir) = self.successor(master) else { return };
                let why = format!("this machine's link is slow: {}", in_words(pace));
                self.hand_over_for(Cause::Link, heir, why);
            }
            _ => {}
        }
    }

    /// Hands over to a machine that does better; not again and again.
    pub(crate) fn hand_over_for(&mut self, cause: Cause, heir: MemberId, why: String) {
        self.on_hand_over(Some(heir), why);
        if let Role::Master(master) = &mut self.role
            && let Some(handover) = &mut master.handover
        {
            handover.cause = cause;
        }
    }

    /// Leaves the throne to an heir who holds everything acknowledged, at once.
    pub(crate) fn limp_away(&mut self) {
        let Role::Master(master) = &self.role else { return };
        let (now, timeout) = (self.now, self.config.timing.sync_timeout);
        let answers =
            |id: &MemberId| master.peers.get(id).is_some_and(|peer| now.since(peer.last_answer) < timeout);
        // One that may have ended isn't left the throne to.
        let Some(heir) = self.successor(master).filter(answers) else { return };
        self.on_limping_master();
        // The heir first, and then the others.
        self.no_stand_before = self.no_stand_before.max(self.now + self.config.timing.lease * 2);
        let why = "the others answer, but what is sent to them doesn't arrive, or late: this machine's link is at fault";
        self.note("limps", Some(heir.clone()), why.to_owned());
        self.leave(Some(heir), why.to_owned(), true);
    }

    /// The old master has left because it limped: whoever follows doesn't leave for that reason for a while.
    pub(crate) fn on_limping_master(&mut self) {
        self.no_limp_before = self.now + self.config.timing.lease.saturating_mul(LIMP_LEASES);
    }

    /// Compares how fast everybody stores. Whoever is slow beside the best of the others comes last in the sync set.
    pub(crate) fn judge_pace(&mut self) {
        let now = self.now;
        let Role::Master(master) = &mut self.role else { return };
        if master.phase != Phase::Serving || made(Mistake::SlowKept) {
            return;
        }
        let own = master.pace.typical(now);
        let (me, lease) = (&self.config.id, self.config.timing.lease);
        let data = |id: &MemberId| {
            let member = master.committed.as_ref().and_then(|record| record.member(id));
            id != me && member.is_some_and(|member| !member.rank.is_witness())
        };
        let voters = master.peers.values().filter(|peer| !peer.gone && now.since(peer.last_answer) < lease);
        let irregular = master.peers.len() > 1 && voters.clone().all(|peer| peer.is_irregular(now, lease));
        let arrives = master.peers.iter().filter(|(id, peer)| data(id) && !peer.gone && peer.streams());
        let arrives = arrives.filter_map(|(_, peer)| peer.pace.typical(now)).min();
        let link = master.link.on_pace(arrives.filter(|_| irregular), own, now);
        let took: Vec<(MemberId, Option<Duration>)> =
            master.peers.iter().map(|(id, peer)| (id.clone(), peer.stores_in(now))).collect();
        let best = |but: Option<&MemberId>| {
            let others = took.iter().filter(|(id, _)| Some(id) != but);
            others.filter_map(|(_, took)| *took).chain(own.filter(|_| but.is_some())).min()
        };
        let mut notes = vec![];
        if link == Some(true) {
            notes.push(("this machine's link is slow", None, master.link.slow()));
        }
        for (id, stores_in) in &took {
            let Some(peer) = master.peers.get_mut(id) else { continue };
            let what = peer
                .slow
                .on_pace(*stores_in, best(Some(id)), now)
                .map(|slow| if slow { "backup is slow" } else { "backup is as fast as the others again" });
            notes.extend(what.map(|what| (what, Some(id.clone()), peer.slow.slow())));
        }
        let what = master.slow.on_pace(own, best(None), now).map(|slow| {
            if slow { "this machine is slow" } else { "this machine is as fast as the others again" }
        });
        notes.extend(what.map(|what| (what, None, master.slow.slow())));
        for (what, id, why) in notes {
            self.note(what, id, why.map(in_words).unwrap_or_default());
        }
    }

    /// Why this master should be relieved although it is healthy: its disk is slow.
    pub(crate) fn slow_master(&self) -> Option<String> {
        let Role::Master(master) = &self.role else { return None };
        master.slow.slow().map(|pace| format!("the disk is slow: {}", in_words(pace)))
    }

    /// What a master should say of its link and of slow disks, its own included.
    pub(crate) fn limping_notice(&self, master: &Master) -> Option<String> {
        if master.limps_since.is_some() {
            return Some(
                "the others answer, but what the master sends them doesn't arrive: writes wait; if that lasts it leaves the throne \
                 to one of them"
                    .to_owned(),
            );
        }
        if let Some(pace) = master.link.slow() {
            return Some(format!("writes wait for this machine's link, which is slow: {}", in_words(pace)));
        }
        if let Some(why) = self.slow_master() {
            return Some(format!("writes wait for this machine: {why}"));
        }
        let sync_set = &master.committed.as_ref()?.sync_set;
        let slow = sync_set.iter().find_map(|id| Some((id, master.peers.get(id)?.slow.slow()?)));
        slow.map(|(id, pace)| format!("writes wait for {id}, which is slow: {}", in_words(pace)))
    }
}

impl Master {
    /// Who is slow beside the others.
    pub(crate) fn slow_peers(&self) -> BTreeSet<MemberId> {
        let slow = self.peers.iter().filter(|(_, peer)| peer.slow.slow().is_some());
        slow.map(|(id, _)| id.clone()).collect()
    }

    /// This machine's disk has stored up to here.
    pub(crate) fn on_stored_here(&mut self, txid: Txid, now: Time) {
        self.stored = self.stored.max(txid);
        self.pace.stored(txid, now);
    }
}

/// How slow somebody is, and beside whom.
pub(crate) fn in_words((took, best): (Duration, Duration)) -> String {
    format!("to store takes {took:.1?}, on the fastest of the others {best:.1?}")
}
