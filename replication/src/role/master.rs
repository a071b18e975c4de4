//! The master: proposes records, keeps its lease, streams transactions and acknowledges writes.
//!
//! Owns the reign's phases and the acknowledgement rule (R7). Changes of the sync set are decided in `sync_set.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    effect::Effect,
    frame::{Stamp, Transaction},
    log::TransactionLog,
    member::{Addresses, MemberId},
    message::{Heartbeat, HeartbeatReply, Message, Report},
    mistakes::{Mistake, made},
    node::{Node, Storage},
    pace::{Pace, Verdict},
    position::{Position, Term, TermHistory, Txid},
    progress::{Peer, Progress},
    promise::Times,
    quorum,
    role::{Handover, Role, members::Pending},
    succession::{RecordKey, SuccessionRecord, SyncSet},
    time::Time,
};

/// How far a reign has come (R5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first record waits for a majority.
    Proposing,
    /// The store writes the reign's first transaction.
    Starting,
    /// The first transactions, up to this one, wait for the sync set.
    Opening(Txid),
    /// Clients are served while the lease lasts.
    Serving,
}

/// State of a reign.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) term: Term,
    pub(crate) phase: Phase,
    pub(crate) committed: Option<SuccessionRecord>,
    pub(crate) proposed: Option<SuccessionRecord>,
    pub(crate) peers: BTreeMap<MemberId, Peer>,
    pub(crate) log: TransactionLog,
    pub(crate) history: TermHistory,
    /// The reign's first transaction.
    pub(crate) first_txid: Txid,
    /// On this disk.
    pub(crate) stored: Txid,
    /// On the disk of every member of the sync set (R7).
    pub(crate) acknowledged: Position,
    pub(crate) next_heartbeat: Time,
    pub(crate) lease_until: Time,
    /// That is what voters have promised; before, it is how long they may take to do so.
    pub(crate) leased: bool,
    /// Since when fewer backups than wanted keep up.
    pub(crate) short_since: Option<Time>,
    /// Members streamed to in full because they are about to be proposed (R8).
    pub(crate) joining: BTreeSet<MemberId>,
    pub(crate) writes_allowed: bool,
    pub(crate) handover: Option<Handover>,
    pub(crate) change: Option<Pending>,
    /// Failback isn't thought of before.
    pub(crate) failback_from: Time,
    /// Nor is a handover because this machine isn't healthy.
    pub(crate) relief_from: Time,
    pub(crate) reason: String,
    /// How fast this machine's own disk stores,
    pub(crate) pace: Pace,
    /// and whether that is slow beside the others.
    pub(crate) slow: Verdict,
    /// Whether all others are slow beside this machine's disk, and late to answer, too: then it is the link.
    pub(crate) link: Verdict,
    /// Since when the sync set would be this machine alone, for its own link's fault.
    pub(crate) limps_since: Option<Time>,
}

impl Master {
    /// The newest record of this reign.
    pub(crate) fn record(&self) -> Option<&SuccessionRecord> {
        self.proposed.as_ref().or(self.committed.as_ref())
    }

    /// Who must have a write on disk now (R7): committed and proposed sync set together.
    pub(crate) fn must_store(&self) -> SyncSet {
        let proposed = self.proposed.as_ref().filter(|_| !made(Mistake::CommittedSetOnly));
        let skips = made(Mistake::ProposedSetOnly) && proposed.is_some();
        let sets = self.committed.iter().filter(|_| !skips).chain(proposed);
        let sets = sets.flat_map(|record| record.sync_set.iter().cloned());
        sets.skip(usize::from(made(Mistake::OneTooFew))).collect()
    }

    /// The backup that should stand when this master leaves.
    pub(crate) fn heir(&self, me: &MemberId, now: Time, timeout: Duration) -> Option<MemberId> {
        let record = self.committed.as_ref()?;
        record.chain(&self.unhealthy_peers()).into_iter().find(|id| {
            id != me
                && record.sync_set.contains(id)
                && self.peers.get(id).is_some_and(|peer| peer.keeps_up(now, timeout))
        })
    }

    /// Who reports that it isn't healthy.
    pub(crate) fn unhealthy_peers(&self) -> BTreeSet<MemberId> {
        let unhealthy = self.peers.iter().filter(|(_, peer)| peer.unhealthy.is_some());
        unhealthy.map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn deadline(&self, now: Time, sync_timeout: Duration) -> Time {
        let overdue = self.short_since.map(|since| since + sync_timeout).filter(|overdue| *overdue > now);
        let send_at = self.peers.values().filter_map(|peer| peer.send_at).min().unwrap_or(Time::NEVER);
        let handover = self.handover.as_ref().map_or(Time::NEVER, |handover| handover.until);
        let change = self.change.as_ref().map_or(Time::NEVER, |change| change.until);
        let due = overdue.unwrap_or(Time::NEVER).min(send_at).min(handover).min(change);
        self.next_heartbeat.min(self.lease_until).min(due)
    }

    /// Whether acknowledgements wait for the peer, or will: it is in the sync set, or about to be (R7, R8).
    fn counts(&self, id: &MemberId) -> bool {
        let in_set = |record: &Option<SuccessionRecord>| {
            record.as_ref().is_some_and(|record| record.sync_set.contains(id))
        };
        in_set(&self.committed) || in_set(&self.proposed) || self.joining.contains(id)
    }

    /// How far a peer may be sent: everything when its storage counts, else only what is acknowledged, so that a
    /// backup outside the sync set is never ahead of the next master.
    pub(crate) fn send_limit(&self, id: &MemberId) -> Txid {
        if self.counts(id) {
            self.log.tip_position().txid
        } else {
            self.acknowledged.txid.max(Txid(self.first_txid.0.saturating_sub(1)))
        }
    }
}

impl Node {
    pub(crate) fn become_master(&mut self) {
        let Some(old) = self.deciding_record().cloned() else { return };
        let term = self.hard.term;
        let mut record = old.first_of_reign(term, &self.config.id);
        let forced = self.force_record(&old, &mut record);
        let reason = match &old.master {
            _ if forced.is_some() => forced.unwrap_or_default(),
            None if old.key > RecordKey::BLANK => {
                let members: Vec<_> = old.members.iter().map(|member| member.id.as_str()).collect();
                format!(
                    "recovered by an operator with {}; stood at {}",
                    members.join(", "),
                    self.stamp.position
                )
            }
            None => "founded".to_owned(),
            Some(master) if *master == self.config.id => "re-elected".to_owned(),
            Some(master) => format!("succeeds {master}"),
        };
        self.note("won the election", None, format!("term {term}, {reason}, deciding record {}", old.key));
        let peers = record.members.iter().filter(|member| member.id != self.config.id).map(|member| {
            let mut peer = Peer::unknown(self.now);
            // The old master whose end made the election is not waited for.
            peer.gone = old.master.as_ref() == Some(&member.id) && !self.links.contains(&member.id);
            (member.id.clone(), peer)
        });
        let master = Master {
            term,
            phase: Phase::Proposing,
            committed: None,
            proposed: Some(record.clone()),
            peers: peers.collect(),
            log: std::mem::replace(&mut self.log, TransactionLog::new(self.tail, self.config.buffer_bytes)),
            history: TermHistory::default(),
            first_txid: self.tail.position.txid.next(),
            stored: self.stamp.position.txid,
            acknowledged: Position::ZERO,
            next_heartbeat: self.now,
            lease_until: self.now + self.config.timing.lease.saturating_sub(self.config.timing.drift_margin),
            leased: false,
            short_since: None,
            joining: BTreeSet::new(),
            writes_allowed: true,
            handover: None,
            change: None,
            failback_from: self.now + self.config.failback.unwrap_or_default(),
            relief_from: self.now,
            reason,
            pace: Pace::default(),
            slow: Verdict::default(),
            link: Verdict::default(),
            limps_since: None,
        };
        self.honour = None;
        self.hard.known.trails = false;
        self.others_lack.clear();
        self.surplus_at = self.now;
        self.role = Role::Master(Box::new(master));
        self.hard.record = record;
        self.persist();
        self.try_commit_record();
    }

    pub(crate) fn on_master_time(&mut self) {
        self.update_lease();
        let Role::Master(master) = &self.role else { return };
        if self.now >= master.lease_until {
            self.step_down("no majority of leases (R11)".to_owned());
            return;
        }
        if self.now >= master.next_heartbeat {
            let record = master.record();
            let next = record.map_or(self.config.timing.heartbeat, |record| self.heartbeat_interval(record));
            let next = self.now + next;
            if let Role::Master(master) = &mut self.role {
                master.next_heartbeat = next;
            }
            self.send_heartbeats();
            self.judge_pace();
        }
        self.leave_if_stalled();
        self.review();
        self.consider_limping();
        self.follow_change();
        self.consider_relief();
        self.consider_failback();
        self.step_handover();
    }

    /// Leaves the throne: clients first, then the store.
    pub(crate) fn step_down(&mut self, why: String) {
        let Role::Master(master) = &mut self.role else { return };
        let (phase, term) = (master.phase, master.term);
        let (handover, change) = (master.handover.take(), master.change.take());
        // `ReignEnded` tells whether it ends where the replica does.
        self.log = std::mem::replace(&mut master.log, TransactionLog::new(self.tail, 0));
        self.out.push(Effect::CloseGate { why: why.clone() });
        if change.is_some() {
            let why = format!("the master stepped down ({why}): look at the members again");
            self.out.push(Effect::MembersChanged(Err(why)));
        }
        if handover.is_some() {
            self.out.push(Effect::HandoverEnded(Err(format!("the master stepped down: {why}"))));
        }
        if phase != Phase::Proposing {
            self.out.push(Effect::EndReign);
            self.storage = Storage::Ending;
        }
        self.note("stepped down", None, format!("term {term}: {why}"));
        self.become_follower(self.config.timing.heartbeat);
    }

    pub(crate) fn send_heartbeats(&mut self) {
        for to in self.others() {
            self.send_heartbeat(&to);
        }
    }

    pub(crate) fn send_heartbeat(&mut self, to: &MemberId) {
        let Role::Master(master) = &self.role else { return };
        let Some(record) = master.record() else { return };
        let heartbeat = Heartbeat {
            term: master.term,
            sent: self.now,
            record: record.clone(),
            committed: master.committed.as_ref().map(|record| record.key).unwrap_or_default(),
            acknowledged: master.acknowledged,
            tip: master.log.tip_position(),
            echo: master.peers.get(to).and_then(|peer| peer.echo),
            serving: (master.phase == Phase::Serving && self.now < master.lease_until)
                || made(Mistake::ServesEarly),
            unhealthy: self.unhealthy_members(),
            times: Some(Box::new(Times::from(&self.config.timing))),
            level: None,
        };
        self.send(to.clone(), Message::Heartbeat(heartbeat));
    }

    pub(crate) fn on_heartbeat_reply(&mut self, from: &MemberId, reply: &HeartbeatReply) {
        if reply.term > self.hard.term {
            self.observe_term(reply.term, "a voter is further");
            return;
        }
        let now = self.now;
        let Role::Master(master) = &mut self.role else { return };
        if reply.term != master.term || reply.heartbeat_sent > now {
            return;
        }
        let Some(peer) = master.peers.get_mut(from) else { return };
        peer.gone = false;
        peer.on_answer(reply.heartbeat_sent, now, self.config.timing.heartbeat);
        peer.on_awaits(reply.awaits, now);
        peer.last_answer = now;
        peer.accepted = peer.accepted.max(reply.accepted);
        if peer.lease_from <= Some(reply.heartbeat_sent) {
            peer.echo = Some(reply.sent); // not the greatest: its clock may have started anew
        }
        peer.moved = reply.moved.clone().filter(Addresses::fits);
        let was_healthy = peer.unhealthy.is_none();
        let changed = was_healthy != reply.unhealthy.is_none();
        peer.unhealthy = reply.unhealthy.clone();
        if changed {
            peer.health_since = now;
        }
        self.on_promise(from, reply);
        self.compare_times(from, reply.times.as_deref());
        match reply.stamp {
            Some(stamp) => self.on_peer_stamp(from, stamp, Some(reply.heartbeat_sent)),
            None => self.on_bulk_down(from),
        }
        if changed {
            let what = if was_healthy { "member is not healthy" } else { "member is healthy again" };
            let why = reply.unhealthy.as_ref().map(ToString::to_string).unwrap_or_default();
            self.note(what, Some(from.clone()), why);
        }
        self.update_lease();
        self.try_commit_record();
        self.review();
    }

    pub(crate) fn on_report(&mut self, from: &MemberId, report: &Report, stored: bool) {
        if report.term > self.hard.term {
            self.observe_term(report.term, "a backup is further");
            return;
        }
        let Role::Master(master) = &mut self.role else { return };
        if report.term != master.term {
            return;
        }
        let Some(peer) = master.peers.get_mut(from) else { return };
        // One that must rejoin refuses all that was on its way to it: that is known, and said.
        if !stored && peer.progress != Progress::Resync {
            peer.probe();
        }
        self.on_peer_stamp(from, report.stamp, None);
        self.review();
    }

    /// A replica has told what it is: on our branch it is streamed to, else it must rejoin (R12). `asked` is when the
    /// question was sent, if there was one.
    fn on_peer_stamp(&mut self, from: &MemberId, stamp: Stamp, asked: Option<Time>) {
        let now = self.now;
        let Role::Master(master) = &mut self.role else { return };
        if matches!(master.phase, Phase::Proposing | Phase::Starting) {
            return; // our own branch isn't known before the reign's first transaction
        }
        let witness = self.hard.record.rank(from).is_witness();
        let Some(peer) = master.peers.get_mut(from) else { return };
        peer.reported = Some(stamp);
        if witness {
            return;
        }
        let position = stamp.position;
        // Until it has taken notice it counts for nothing, whatever it says.
        peer.differs.take_if(|_| stamp.is_off_branch());
        if let Some(at) = peer.differs {
            return self.distrust(from, at);
        }
        let on_branch = master.history.contains(position, master.log.tip_position())
            && master.log.stamp_at(position.txid).is_none_or(|own| own == stamp);
        if !on_branch && !made(Mistake::ForkCounts) {
            let first_seen = peer.progress != Progress::Resync;
            peer.progress = Progress::Resync;
            peer.send_at = None;
            peer.waiting_since = None;
            peer.stored = None;
            let term = master.term;
            let tip = master.log.tip();
            if first_seen {
                let why = format!(
                    "its {position} {:?} isn't on the branch of {} {:?}",
                    stamp.chain, tip.position, tip.chain
                );
                self.note("backup must rejoin", Some(from.clone()), why);
            }
            self.send(from.clone(), Message::Resync { term });
            return;
        }
        peer.on_stored(position, asked, now);
        if peer.stalls(now, self.config.timing.sync_timeout) {
            peer.probe();
        }
        if !peer.streams() {
            if master.log.reaches_back_to(position) {
                peer.progress = Progress::stream_after(position.txid, now);
                self.note("streams to backup", Some(from.clone()), format!("from {position}"));
            } else {
                let first_seen = peer.progress != Progress::Resync;
                peer.progress = Progress::Resync;
                peer.send_at = None;
                let term = master.term;
                if first_seen {
                    let why = format!("its {position} lies before the buffer");
                    self.note("backup must rejoin", Some(from.clone()), why);
                }
                self.send(from.clone(), Message::Resync { term });
                return;
            }
        }
        self.advance();
    }

    /// A replica whose database is another at the same position leaves the sync set at once, is told so, and must rejoin.
    pub(crate) fn on_differs(&mut self, from: &MemberId, at: Position) {
        let Role::Master(master) = &mut self.role else { return };
        let Some(peer) = master.peers.get_mut(from) else { return };
        peer.differs = Some(at);
        self.note("replica differs", Some(from.clone()), format!("from the master's at {at}"));
        self.distrust(from, at);
        self.review();
    }

    fn distrust(&mut self, from: &MemberId, at: Position) {
        let Role::Master(master) = &mut self.role else { return };
        let Some(peer) = master.peers.get_mut(from) else { return };
        peer.progress = Progress::Resync;
        (peer.send_at, peer.waiting_since, peer.stored) = (None, None, None);
        let report = Report { term: master.term, stamp: Stamp::off_branch(at) };
        self.send(from.clone(), Message::Distrust(report));
    }

    pub(crate) fn on_bulk_down(&mut self, peer: &MemberId) {
        if let Role::Master(master) = &mut self.role
            && let Some(peer) = master.peers.get_mut(peer)
            && peer.streams()
        {
            peer.probe();
        }
    }

    /// Sends what may be sent and acknowledges what may be acknowledged.
    pub(crate) fn advance(&mut self) {
        self.acknowledge();
        self.stream();
    }

    fn stream(&mut self) {
        let now = self.now;
        let window = self.config.inflight_bytes;
        let Role::Master(master) = &mut self.role else { return };
        if matches!(master.phase, Phase::Proposing | Phase::Starting) {
            return;
        }
        let limits: Vec<(MemberId, Txid, bool)> = master
            .peers
            .iter()
            .filter(|(_, peer)| peer.streams())
            .map(|(id, _)| (id.clone(), master.send_limit(id), master.counts(id)))
            .collect();
        for (id, limit, counts) in limits {
            let Some(peer) = master.peers.get_mut(&id) else { continue };
            if counts {
                peer.send_at = None;
            } else if peer.puts_off(limit, now) {
                continue;
            }
            let mut fallen_behind = false;
            if let Progress::Stream { next, inflight, inflight_bytes, .. } = &mut peer.progress {
                while *next <= limit && (*inflight_bytes < window || inflight.is_empty()) {
                    let Some(transaction) = master.log.get(*next) else {
                        fallen_behind = true;
                        break;
                    };
                    let bytes = transaction.payload.len();
                    self.out.push(Effect::Send {
                        to: id.clone(),
                        message: Message::Append {
                            term: master.term,
                            transaction: transaction.clone(),
                            acknowledged: master.acknowledged,
                        },
                    });
                    inflight.push_back((*next, bytes));
                    peer.pace.leaves(*next, now);
                    *inflight_bytes += bytes;
                    *next = next.next();
                    peer.waiting_since = peer.waiting_since.or(Some(now));
                }
            }
            if fallen_behind {
                peer.probe(); // its next answer shows how far back it is, and makes it copy
            }
        }
    }

    /// R7: a write is acknowledged when committed and proposed sync set have it on disk.
    fn acknowledge(&mut self) {
        let holds_back = self.holds_back();
        let Role::Master(master) = &mut self.role else { return };
        let (Phase::Opening(_) | Phase::Serving, Some(committed)) = (master.phase, &master.committed) else {
            return;
        };
        let backups = committed.sync_set.len() - 1;
        let lease = self.now < master.lease_until || made(Mistake::LateAcknowledgement); // I6: late answers may come when it is over
        if !lease || holds_back || backups < self.config.min_sync_backups {
            return;
        }
        let forgets = self.stalled.is_some() && made(Mistake::OwnDiskForgotten);
        let mut reached = if forgets { master.log.tip_position().txid } else { master.stored };
        for id in master.must_store() {
            if id != self.config.id {
                reached = reached.min(master.peers.get(&id).and_then(|peer| peer.stored).unwrap_or_default());
            }
        }
        if reached < master.first_txid || reached <= master.acknowledged.txid {
            return;
        }
        master.acknowledged = Position { term: master.term, txid: reached };
        self.hard.known.acknowledged = self.hard.known.acknowledged.max(master.acknowledged);
        self.out.push(Effect::Acknowledge(master.acknowledged));
        if let Phase::Opening(last) = master.phase
            && reached >= last
        {
            master.phase = Phase::Serving;
            let (term, until) = (master.term, master.lease_until);
            let why = format!("term {term}, position {}, {}", master.acknowledged, master.reason);
            self.unclean = false;
            master.writes_allowed = true; // enough backups, see above; an earlier reign may have said otherwise
            self.out.push(Effect::AllowWrites(true));
            self.out.push(Effect::OpenGate { term });
            self.out.push(Effect::ExtendLease { until });
            self.note("became master", None, why);
            self.send_heartbeats();
        }
    }

    /// R11: the lease that a majority of the record's voters has promised, from when the heartbeats that they answered were sent.
    fn lease_by(&self, record: &SuccessionRecord) -> Option<Time> {
        let own = self.now + self.config.timing.counted(self.config.timing.lease);
        let Role::Master(master) = &self.role else { return None };
        quorum::reached(record, |id| {
            if *id == self.config.id { Some(own) } else { master.peers.get(id).and_then(|peer| peer.lease) }
        })
    }

    fn update_lease(&mut self) {
        let Role::Master(master) = &self.role else { return };
        let Some(until) = master.record().and_then(|record| self.lease_by(record)) else { return };
        let Role::Master(master) = &mut self.role else { return };
        if until > master.lease_until || !master.leased {
            (master.lease_until, master.leased) = (until, true);
            if master.phase == Phase::Serving {
                self.out.push(Effect::ExtendLease { until });
            }
        }
    }

    /// A proposed record that a majority has accepted is committed.
    pub(crate) fn try_commit_record(&mut self) {
        let me = self.config.id.clone();
        let own = self.hard.record.key;
        let Role::Master(master) = &self.role else { return };
        let Some(proposed) = &master.proposed else { return };
        let accepted = |id: &MemberId| {
            let key = if *id == me { Some(own) } else { master.peers.get(id).map(|peer| peer.accepted) };
            key.is_some_and(|key| key >= proposed.key)
        };
        // A lease that others have promised isn't counted anew when voters change: with two changes it could outlast what
        // those have promised who then elect.
        let covered =
            self.lease_by(proposed).is_some_and(|lease| !master.leased || lease >= master.lease_until)
                || made(Mistake::ChangeUncovered);
        let both = covered
            && quorum::has_majority(proposed, accepted)
            && master.committed.as_ref().is_none_or(|committed| quorum::has_majority(committed, accepted));
        if !both && !made(Mistake::ReignUncommitted) {
            return;
        }
        let Role::Master(master) = &mut self.role else { return };
        let record = master.proposed.take();
        let set =
            record.as_ref().map(|record| format!("{} {:?}", record.key, record.sync_set)).unwrap_or_default();
        if let Some(record) = &record {
            master.peers.retain(|id, _| record.member(id).is_some());
        }
        master.committed = record;
        let starting = master.phase == Phase::Proposing;
        if starting {
            master.phase = Phase::Starting;
            let (term, reason) = (master.term, master.reason.clone());
            self.out.push(Effect::StartReign { term, reason });
        }
        self.note("record committed", None, set);
        self.follow_change();
        self.advance();
    }

    pub(crate) fn on_reign_started(
        &mut self,
        term: Term,
        base: Stamp,
        transactions: Vec<Transaction>,
        history: TermHistory,
    ) {
        let tip = transactions.last().map_or(base, |transaction| transaction.stamp);
        self.failed_starts = 0;
        let Role::Master(master) = &mut self.role else { return };
        if master.term != term || master.phase != Phase::Starting {
            return;
        }
        if master.log.tip() != base {
            master.log.reset(base); // transactions on their way to the store were dropped
        }
        master.first_txid = base.position.txid.next();
        master.stored = base.position.txid;
        for transaction in transactions {
            master.log.push(transaction);
        }
        master.history = history;
        master.phase = Phase::Opening(tip.position.txid);
        self.tail = tip;
        self.send_heartbeats(); // the answers tell where each replica stands
        self.advance();
    }

    pub(crate) fn on_captured(&mut self, transaction: Transaction) {
        let stamp = transaction.stamp;
        if let Role::Master(master) = &mut self.role
            && stamp.position.term == master.term
            && matches!(master.phase, Phase::Opening(_) | Phase::Serving)
        {
            master.pace.leaves(stamp.position.txid, self.now);
            master.log.push(transaction);
            self.tail = stamp;
            self.advance();
        } // else it belongs to a reign that has just ended; `ReignEnded` tells where the replica stands
    }

    pub(crate) fn on_capture_broken(&mut self, stamp: Stamp) {
        let Role::Master(master) = &mut self.role else { return };
        master.log.reset(stamp);
        for peer in master.peers.values_mut() {
            peer.probe();
            peer.stored = None;
        }
        self.tail = stamp;
        self.note("capture broken", None, format!("every backup copies the database at {}", stamp.position));
        self.send_heartbeats();
    }

    pub(crate) fn on_own_stored(&mut self, stamp: Stamp) {
        if let Role::Master(master) = &mut self.role
            && stamp.position.term == master.term
        {
            master.on_stored_here(stamp.position.txid, self.now);
            self.advance();
        }
    }
}
