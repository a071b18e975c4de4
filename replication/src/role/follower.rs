//! A follower: votes, grants leases, and on a data member stores what the master sends.

use std::time::Duration;

use crate::{
    effect::Effect,
    frame::{Stamp, Transaction},
    member::MemberId,
    message::{Heartbeat, Message, Report, VoteReply, VoteRequest},
    mistakes::{Mistake, made},
    node::{Honour, Node, Storage},
    position::{Position, Term},
    role::Role,
    time::Time,
};

/// The master as its follower knows it.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    pub(crate) id: MemberId,
    pub(crate) acknowledged: Position,
    pub(crate) tip: Position,
    pub(crate) serving: bool,
    /// The newest heartbeat's promise: a replica that stores `acknowledged` is current as of `echo`.
    pub(crate) echo: Option<Time>,
    /// This replica was current at that moment.
    pub(crate) fresh_as_of: Option<Time>,
}

/// State of a follower.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) leader: Option<Leader>,
    pub(crate) stand_at: Time,
    /// Failed candidacies in a row.
    pub(crate) attempts: u32,
}

impl Follower {
    pub(crate) fn follows(&self, id: &MemberId) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.id == *id)
    }
}

impl Node {
    fn would_vote(&self, candidate: &MemberId) -> bool {
        let honours_another =
            self.honour.as_ref().is_some_and(|honour| honour.master != *candidate && self.now < honour.until);
        // Whether the first transaction of its own reign is stored isn't known yet: it can't say that it is empty.
        let unsure = self.storage == Storage::Ending && self.stamp.position == Position::ZERO;
        !unsure
            && (!honours_another || made(Mistake::LeaseIgnored))
            && self.now >= self.no_vote_before
            && !matches!(self.role, Role::Master(_))
    }

    fn vote_reply(&self, term: Term, granted: bool) -> VoteReply {
        VoteReply {
            term,
            granted,
            own_term: self.hard.term,
            record: self.hard.record.clone(),
            position: self.stamp.position,
            acknowledged: self.known_acknowledged(),
            lost: self.lost && self.stamp.position == Position::ZERO,
        }
    }

    pub(crate) fn on_pre_vote(&mut self, from: MemberId, request: &VoteRequest) {
        let granted = request.term > self.hard.term && self.would_vote(&from);
        self.note_lacking(&from, request);
        let reply = self.vote_reply(request.term, granted);
        self.send(from, Message::PreVoteReply(reply));
    }

    /// R1, R2: one vote per term, on disk before the answer, and none while a lease is honoured.
    pub(crate) fn on_vote(&mut self, from: MemberId, request: &VoteRequest) {
        let free = request.term > self.hard.term
            || (request.term == self.hard.term
                && self.hard.voted_for.as_ref().is_none_or(|voted| *voted == from));
        let granted = free && self.would_vote(&from);
        if granted && (request.term > self.hard.term || self.hard.voted_for.is_none()) {
            self.hard.term = request.term;
            self.hard.voted_for = Some(from.clone());
            if !made(Mistake::VoteUnsaved) {
                self.persist();
            }
            self.note("voted", Some(from.clone()), format!("in term {}", request.term));
            // The candidate gets a lease's time to reign before this machine stands itself.
            self.become_follower(self.config.timing.lease);
        }
        let reply = self.vote_reply(request.term, granted);
        self.send(from, Message::VoteReply(reply));
    }

    /// R6 for a message of a master: `false` when it is of a term that has passed.
    fn accept_master(&mut self, from: &MemberId, term: Term) -> bool {
        if term < self.hard.term {
            return made(Mistake::OldTermTaken);
        }
        self.observe_term(term, "another master reigns");
        if matches!(self.role, Role::Master(_)) {
            self.note(
                "protocol violation",
                Some(from.clone()),
                format!("a second master in term {term} (I1)"),
            );
            return false;
        }
        let known = matches!(&self.role, Role::Follower(follower) if follower.follows(from));
        if !known {
            self.become_follower(self.config.timing.lease);
            self.settling = self.tail != self.stamp;
            if let Role::Follower(follower) = &mut self.role {
                follower.leader = Some(Leader {
                    id: from.clone(),
                    acknowledged: Position::ZERO,
                    tip: Position::ZERO,
                    serving: false,
                    echo: None,
                    fresh_as_of: None,
                });
            }
            self.others_lack.clear();
            self.note("follows master", Some(from.clone()), format!("in term {term}"));
            if self.storage == Storage::Copying {
                self.out.push(Effect::StopCopy);
            }
        }
        true
    }

    pub(crate) fn on_heartbeat(&mut self, from: MemberId, heartbeat: Heartbeat) {
        let well_formed = heartbeat.record.master.as_ref() == Some(&from)
            && heartbeat.record.key.term == heartbeat.term
            && heartbeat.record.sync_set.contains(&from);
        if !well_formed {
            self.note("protocol violation", Some(from), "a heartbeat with another's record".to_owned());
            return;
        }
        if !self.accept_master(&from, heartbeat.term) {
            let reply = self.heartbeat_reply(heartbeat.sent, Duration::ZERO);
            self.send(from, Message::HeartbeatReply(reply));
            return;
        }
        let mut unsaved = self.keep_promise();
        self.learn_acknowledged(heartbeat.acknowledged);
        self.consider_trailing(&heartbeat);
        if heartbeat.record.key > self.hard.record.key {
            self.hard.record = heartbeat.record;
            unsaved |= !made(Mistake::RecordUnsaved);
        }
        if unsaved {
            self.persist();
        }
        self.compare_times(&from, heartbeat.times.as_deref());
        self.known_unhealthy = heartbeat.unhealthy;
        // What was promised before a restart was promised to this master, or to an older one, which this one's election has ended.
        let before = self.bound_before(heartbeat.term);
        let earlier = self.honour.as_ref().filter(|honour| honour.term == heartbeat.term);
        let earlier = earlier.map_or(before, |honour| before.max(honour.until));
        self.no_vote_before = self.now;
        let until = earlier.max(self.now + self.config.timing.lease);
        self.honour = Some(Honour { master: from.clone(), term: heartbeat.term, until });
        let jitter = self.jitter(self.config.timing.heartbeat / 4);
        let stand_at = until + self.own_delay() + jitter;
        let mut begins = false;
        if let Role::Follower(follower) = &mut self.role {
            follower.stand_at = stand_at;
            follower.attempts = 0;
            if let Some(leader) = &mut follower.leader {
                leader.acknowledged = leader.acknowledged.max(heartbeat.acknowledged);
                leader.tip = leader.tip.max(heartbeat.tip);
                begins = heartbeat.serving && !leader.serving;
                leader.serving = heartbeat.serving;
                // An answer from before this machine's start bears the time of another clock.
                leader.echo = heartbeat.echo.filter(|echo| (self.started..=self.now).contains(echo));
            }
        }
        if begins {
            self.note("master serves", Some(from.clone()), format!("in term {}", heartbeat.term));
        }
        self.update_freshness();
        let reply = self.heartbeat_reply(heartbeat.sent, self.config.timing.lease);
        self.send(from, Message::HeartbeatReply(reply));
    }

    /// Notes up to when this replica is known to have been current.
    pub(crate) fn update_freshness(&mut self) {
        let stamp = self.stamp;
        if let Role::Follower(Follower { leader: Some(leader), .. }) = &mut self.role
            && stamp.position >= leader.acknowledged
            && leader.serving
        {
            let echo = if made(Mistake::FreshByItself) { Some(self.now) } else { leader.echo };
            leader.fresh_as_of = leader.fresh_as_of.max(echo);
            // Whatever the disk lost before the start is here again: the next takeover needn't wait for doubts.
            self.unclean = false;
        }
    }

    pub(crate) fn on_append(
        &mut self,
        from: &MemberId,
        term: Term,
        transaction: Transaction,
        acknowledged: Position,
    ) {
        if !self.accept_master(from, term) || self.storage != Storage::Ready || self.settling {
            return; // the master learns from the next heartbeat's answer
        }
        self.learn_acknowledged(acknowledged);
        let next = transaction.stamp.position.txid == self.tail.position.txid.next();
        let twice = transaction.stamp == self.tail && made(Mistake::StoredTwice);
        let follows = (next && (transaction.previous == self.tail || made(Mistake::ForkIgnored))) || twice;
        if follows {
            if transaction.stamp.position > acknowledged {
                self.holds_surplus();
            }
            self.tail = transaction.stamp;
            self.log.push(transaction.clone());
            self.out.push(Effect::Apply(transaction));
        } else if transaction.stamp.position.txid > self.tail.position.txid {
            let report = Report { term: self.hard.term, stamp: self.stamp };
            self.send(from.clone(), Message::Refused(report));
        } // else sent twice, after a link was lost
    }

    pub(crate) fn on_apply_failed(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.set_tail(stamp);
        self.settling = false;
        self.refuses = true;
        if let Role::Follower(Follower { leader: Some(leader), .. }) = &self.role {
            let to = leader.id.clone();
            let report = Report { term: self.hard.term, stamp };
            self.send(to, Message::Refused(report));
        }
    }

    /// The master's database is another at a position that this replica has passed: its own store is told, and then the master.
    pub(crate) fn on_distrust(&mut self, from: &MemberId, report: &Report) {
        let at = report.stamp.position;
        if !self.accept_master(from, report.term) || self.storage != Storage::Ready || self.settling {
            return;
        }
        if self.stamp.position >= at && !self.stamp.is_off_branch() {
            self.note("replica is distrusted", Some(from.clone()), format!("it differs at {at}"));
            self.out.push(Effect::Distrust { at });
        }
    }

    pub(crate) fn on_resync(&mut self, from: &MemberId, term: Term) {
        if !self.accept_master(from, term) || self.storage != Storage::Ready || self.settling {
            return;
        }
        self.storage = Storage::Copying;
        self.holds_surplus(); // the snapshot may hold what isn't acknowledged
        let why = format!("the replica at {} can't be brought up by streaming", self.stamp.position);
        self.note("rejoin started", Some(from.clone()), why);
        self.out.push(Effect::StartCopy { from: from.clone() });
    }
}
