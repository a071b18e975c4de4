//! How the master keeps its sync set: who is left out (R9), who is taken in (R8), how many are wanted (R10).

use std::collections::BTreeSet;

use crate::{
    effect::Effect,
    member::MemberId,
    mistakes::{Mistake, made},
    node::Node,
    position::Txid,
    progress::{Peer, Progress},
    role::{Master, Phase, Role, limp::Limps},
    succession::{SuccessionRecord, SyncSet},
};

/// What the peers' state asks for.
struct Plan {
    wanted: SyncSet,
    joining: BTreeSet<MemberId>,
    /// Fewer backups than wanted keep up.
    short: bool,
    /// The sync set would be this machine alone, for its own link's fault.
    limps: Limps,
}

impl Node {
    /// Whether acknowledgements wait a little for a backup that is just catching up, rather than go on alone at once:
    /// after a promotion or the loss of a backup, for `sync_timeout` at the longest.
    pub(crate) fn holds_back(&self) -> bool {
        let Role::Master(master) = &self.role else { return false };
        master.short_since.is_some_and(|since| {
            self.now < since + self.config.timing.sync_timeout && !self.candidates(master).is_empty()
        })
    }

    /// Backups outside the sync set that could be taken in: those that stream first, then the healthy, then by rank. One that hasn't
    /// answered in this reign is awaited for a heartbeat's time only: it may be the dead master.
    fn candidates(&self, master: &Master) -> Vec<MemberId> {
        let Some(record) = master.record() else { return vec![] };
        let timing = &self.config.timing;
        let mut candidates: Vec<_> = record
            .members
            .iter()
            .filter(|member| {
                !member.rank.is_witness() && !member.absent && !record.sync_set.contains(&member.id)
            })
            .filter(|member| Some(&member.id) != master.leaving())
            .filter(|member| {
                master.peers.get(&member.id).is_some_and(|peer| {
                    peer.keeps_up(self.now, timing.sync_timeout)
                        && !matches!(peer.progress, Progress::Resync)
                        && (peer.lease_from.is_some() || self.now.since(peer.last_answer) < timing.heartbeat)
                })
            })
            .collect();
        let streams = |id: &MemberId| master.peers.get(id).is_some_and(|peer| peer.streams());
        let (unhealthy, slow) = (master.unhealthy_peers(), master.slow_peers());
        candidates.sort_by_key(|member| {
            let id = &member.id;
            (!streams(id), unhealthy.contains(id), slow.contains(id), member.rank, id.clone())
        });
        candidates.into_iter().map(|member| member.id.clone()).collect()
    }

    /// R8: it has everything from before the reign and everything acknowledged in it.
    fn caught_up(master: &Master, id: &MemberId) -> bool {
        let needed = master.acknowledged.txid.max(Txid(master.first_txid.0.saturating_sub(1)));
        master
            .peers
            .get(id)
            .is_some_and(|peer| peer.streams() && peer.stored.is_some_and(|stored| stored >= needed))
            || made(Mistake::TakenInEarly)
    }

    fn plan(&self, master: &Master) -> Option<Plan> {
        let committed = master.committed.as_ref()?;
        let timing = &self.config.timing;
        let me = &self.config.id;
        // Who is to be the next master comes first; who shouldn't be comes last.
        let heir = master.handover.as_ref().map(|handover| &handover.to);
        let (unhealthy, slow) = (master.unhealthy_peers(), master.slow_peers());
        let rank = |id: &MemberId| {
            (Some(id) != heir, unhealthy.contains(id), slow.contains(id), committed.rank(id), id.clone())
        };
        // R9, and R12: a replica off the branch, or one that has lost what was acknowledged, is never in the sync set.
        let acknowledged = master.acknowledged.txid;
        let leaving = master.leaving();
        let keeps = |id: &MemberId| {
            Some(id) != leaving
                && master.peers.get(id).is_some_and(|peer| {
                    peer.keeps_up(self.now, timing.sync_timeout)
                        && !matches!(peer.progress, Progress::Resync)
                        && peer.stored.is_none_or(|stored| stored >= acknowledged)
                })
        };
        let mut kept: Vec<MemberId> =
            committed.sync_set.iter().filter(|id| *id != me && keeps(id)).cloned().collect();
        kept.sort_by_key(rank);
        let mut joining = BTreeSet::new();
        let mut candidates = self.candidates(master);
        candidates.sort_by_key(|id| Some(id) != heir);
        let target = self.config.sync_backups.max(usize::from(heir.is_some()));
        let short = kept.len() < target;
        for id in candidates.iter().take(target.saturating_sub(kept.len())) {
            joining.insert(id.clone());
        }
        if kept.len() == target
            && let (Some(best), Some(worst)) = (candidates.first(), kept.last())
            && rank(best) < rank(worst)
            && let Some(Progress::Stream { since, .. }) = master.peers.get(best).map(|peer| &peer.progress)
            && (Some(best) == heir || self.now.since(*since) > timing.sync_timeout * 2)
        {
            joining.insert(best.clone()); // steady and of better rank: takes the other's place
        }
        let ready: Vec<MemberId> = joining.iter().filter(|id| Self::caught_up(master, id)).cloned().collect();
        let all_stream = kept.iter().all(|id| master.peers.get(id).is_some_and(|peer| peer.streams()));
        if kept.len() > target && all_stream {
            kept.truncate(target);
        }
        let lost = committed.sync_set.iter().any(|id| id != me && !keeps(id));
        let enough = kept.len() + ready.len() >= target.min(kept.len() + joining.len());
        let overdue = master.short_since.is_some_and(|since| self.now >= since + timing.sync_timeout);
        if short {
            // One that was waited for in vain isn't counted on, but is sent everything, so that it can come back.
            let stuck = master.peers.iter().filter(|(id, peer)| {
                peer.stuck && !committed.sync_set.contains(*id) && !committed.rank(id).is_witness()
            });
            joining.extend(stuck.map(|(id, _)| id.clone()));
        }
        if lost && !enough && !overdue {
            // A replacement is just catching up: one record for both, so that no write has a single home in between.
            return Some(Plan { wanted: committed.sync_set.clone(), joining, short, limps: Limps::No });
        }
        let wanted: SyncSet = kept.into_iter().chain(ready).chain([me.clone()]).collect();
        let alone = lost && wanted.len() == 1;
        let limps = if alone { self.limps(master) } else { Limps::No };
        if limps != Limps::No || master.phase != Phase::Serving && !self.none_empty(master, &wanted) {
            return Some(Plan { wanted: committed.sync_set.clone(), joining, short, limps });
        }
        Some(Plan { wanted, joining, short, limps })
    }

    /// Whether each of them has something on disk. While the cluster is being founded only such may be left as the sync
    /// set: were they all empty and the master lost, nobody could stand, neither they nor those who hold more.
    fn none_empty(&self, master: &Master, set: &SyncSet) -> bool {
        set.iter().all(|id| {
            let peer = master.peers.get(id).and_then(|peer| peer.stored).unwrap_or_default();
            let stored = if *id == self.config.id { master.stored } else { peer };
            stored > Txid::default()
        })
    }

    /// Looks at the peers and proposes another sync set when theirs has changed. One proposal at a time.
    pub(crate) fn review(&mut self) {
        let (now, timeout) = (self.now, self.config.timing.sync_timeout);
        let Role::Master(master) = &mut self.role else { return };
        if matches!(master.phase, Phase::Proposing | Phase::Starting) {
            return;
        }
        let tip = master.log.tip_position().txid;
        // A member that answers but never stores (full disk) is waited for no longer than a silent one.
        let due: Vec<_> = master.peers.keys().map(|id| (id.clone(), master.send_limit(id))).collect();
        for (id, due) in due {
            if let Some(peer) = master.peers.get_mut(&id) {
                let behind = peer.stored.unwrap_or_default() < due;
                peer.waiting_since = if behind { peer.waiting_since.or(Some(now)) } else { None };
                // Left out and lacking nothing that is acknowledged, it would be taken in again at once, in vain.
                peer.stuck |= peer.waits_in_vain(now, timeout);
                peer.stuck &= peer.stored.unwrap_or_default() < tip;
            }
        }
        let Role::Master(master) = &self.role else { return };
        let Some(plan) = self.plan(master) else { return };
        let Role::Master(master) = &mut self.role else { return };
        if plan.short {
            master.short_since = master.short_since.or(Some(now));
        } else {
            master.short_since = None;
        }
        master.joining = plan.joining;
        let limps = plan.limps == Limps::Yes;
        master.limps_since = if limps { master.limps_since.or(Some(now)) } else { None };
        let settled =
            master.committed.as_ref().filter(|_| master.proposed.is_none() || made(Mistake::TwoProposals));
        match settled {
            Some(committed) if committed.sync_set != plan.wanted => {
                let record = committed.with_sync_set(plan.wanted);
                let why = format!("{} {:?}", record.key, record.sync_set);
                self.propose(record, why);
            }
            Some(_) => self.review_members(),
            None => {}
        }
        self.update_writes_allowed();
        self.advance();
    }

    fn review_members(&mut self) {
        let Role::Master(master) = &self.role else { return };
        if let Some((record, what)) = self.plan_members(master) {
            self.change_proposed(record.key);
            let why = format!("{}: {what}", record.key);
            self.propose(record, why);
        }
    }

    /// One proposal at a time: the caller has seen that there is none.
    fn propose(&mut self, record: SuccessionRecord, why: String) {
        let now = self.now;
        let Role::Master(master) = &mut self.role else { return };
        for member in record.members.iter().filter(|member| member.id != self.config.id) {
            master.peers.entry(member.id.clone()).or_insert_with(|| Peer::unknown(now));
        }
        master.proposed = Some(record.clone());
        self.hard.record = record;
        self.persist();
        self.note("record proposed", None, why);
        self.send_heartbeats();
        self.try_commit_record();
    }

    /// R10: with fewer backups than `min_sync_backups`, writes are refused.
    fn update_writes_allowed(&mut self) {
        let min = self.config.min_sync_backups;
        let Role::Master(master) = &mut self.role else { return };
        let Some(committed) = &master.committed else { return };
        let allowed = committed.sync_set.len() > min;
        if allowed != master.writes_allowed {
            master.writes_allowed = allowed;
            let backups = committed.sync_set.len() - 1;
            self.out.push(Effect::AllowWrites(allowed));
            self.note(
                if allowed { "takes writes again" } else { "refuses writes" },
                None,
                format!("{backups} backups in the sync set, min_sync_backups = {min}"),
            );
        }
    }
}
