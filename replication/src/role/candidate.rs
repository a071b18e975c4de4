//! A candidate: asks whether it would be elected (R2), then for votes (R1), and wins or goes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    member::MemberId,
    message::{Message, VoteReply, VoteRequest},
    mistakes::{Mistake, made},
    node::Node,
    position::{Position, Term},
    quorum,
    role::{Follower, Role},
    succession::{RecordKey, SuccessionRecord},
    time::Time,
};

/// State of a candidacy.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The term it would reign in.
    pub(crate) term: Term,
    /// `false` while it only asks whether it would be elected.
    pub(crate) real: bool,
    grants: BTreeMap<MemberId, (SuccessionRecord, Position)>,
    /// Who has answered, whatever it said.
    heard: BTreeSet<MemberId>,
    /// The newest position that anybody, itself included, knows to be acknowledged, and who does.
    acknowledged: (MemberId, Position),
    pub(crate) until: Time,
    attempts: u32,
}

impl Candidate {
    /// Who has granted, and where its replica stands.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (&MemberId, Position)> {
        self.grants.iter().map(|(id, (_, position))| (id, *position))
    }
}

/// What the grants so far amount to.
enum Count {
    NotYet,
    Won,
    /// R4: the winner would not hold everything acknowledged.
    NotEligible(RecordKey),
    /// R4: it did, and has lost some of it: that machine knows better.
    Lacks(MemberId, Position),
    /// By force, but another holds more.
    HoldsLess(MemberId, Position),
}

/// A machine that stopped uncleanly hears all that hold data in its first so many rounds, which are short.
const LISTENS: u32 = 2;

impl Node {
    pub(crate) fn become_candidate(&mut self) {
        let Role::Follower(follower) = &mut self.role else { return };
        let attempts = follower.attempts;
        if self.now < self.no_vote_before {
            follower.stand_at = self.no_vote_before; // R11: its own vote is a vote too
            return;
        }
        if let Some(honour) = self.honour.as_ref().filter(|honour| self.now < honour.until) {
            follower.stand_at = honour.until; // and it has promised not to give it
            return;
        }
        if self.now < self.no_stand_before && self.forced.is_none() {
            follower.stand_at = self.no_stand_before;
            return;
        }
        if self.honour.as_ref().is_some_and(|honour| self.now >= honour.until) {
            self.drop_lease("no heartbeat for a whole lease");
        }
        let term = self.hard.term.max(self.seen_term).next();
        let round = self.round(attempts);
        // What somebody has shown it once it knows for good.
        let known = self.known_acknowledged();
        let shown = self.lacking.as_ref().filter(|(_, position)| *position == known);
        let acknowledged = shown.cloned().unwrap_or((self.config.id.clone(), known));
        self.role = Role::Candidate(Candidate {
            term,
            real: false,
            grants: BTreeMap::new(),
            heard: BTreeSet::new(),
            acknowledged,
            until: self.now + round,
            attempts,
        });
        for to in self.others() {
            let request = self.vote_request(term);
            self.send(to, Message::PreVote(request));
        }
        self.add_grant(self.config.id.clone(), self.hard.record.clone(), self.stamp.position);
    }

    fn vote_request(&self, term: Term) -> VoteRequest {
        VoteRequest { term, record: self.hard.record.clone(), position: Some(self.stamp.position) }
    }

    /// Length of an asking round: short at first, since a dead master is replaced in one; longer when it goes on.
    fn round(&mut self, attempts: u32) -> Duration {
        let first = (self.config.timing.heartbeat / 5).max(Duration::from_millis(5));
        let limit = self.config.timing.lease.max(first);
        let round = first.saturating_mul(1 << attempts.min(6)).min(limit);
        round + self.jitter(round / 2)
    }

    pub(crate) fn end_candidacy(&mut self, why: &str) {
        let Role::Candidate(candidate) = &self.role else { return };
        let (attempts, real, term) = (candidate.attempts + 1, candidate.real, candidate.term);
        if real || attempts == 8 || attempts.is_multiple_of(64) {
            self.note("candidacy failed", None, format!("term {term}, attempt {attempts}: {why}"));
        }
        let pause = if real { self.jitter(self.config.timing.heartbeat * 2) } else { Duration::ZERO };
        self.role = Role::Follower(Follower { leader: None, stand_at: self.now + pause, attempts });
    }

    pub(crate) fn on_vote_reply(&mut self, from: MemberId, reply: VoteReply, real: bool) {
        if real {
            self.observe_term(reply.own_term, "a voter is further");
        }
        self.learn_acknowledged(reply.acknowledged);
        let Role::Candidate(candidate) = &mut self.role else { return };
        if candidate.real != real || candidate.term != reply.term {
            return;
        }
        candidate.heard.insert(from.clone());
        if reply.acknowledged > candidate.acknowledged.1 {
            candidate.acknowledged = (from.clone(), reply.acknowledged);
        }
        if !reply.granted {
            return;
        }
        // Whoever knows that it has lost its data founds no cluster anew.
        if reply.lost && self.stamp.position == Position::ZERO && !made(Mistake::LostHelpsFound) {
            return;
        }
        self.add_grant(from, reply.record, reply.position);
    }

    fn add_grant(&mut self, from: MemberId, record: SuccessionRecord, position: Position) {
        let newest = self.shown.as_ref().map_or(self.hard.record.key, |shown| shown.key);
        if record.key > newest {
            self.shown = Some(record.clone());
        }
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.grants.insert(from, (record, position));
        let (real, term) = (candidate.real, candidate.term);
        match self.count() {
            Count::NotYet => {}
            Count::NotEligible(key) => {
                let why = format!("not in the sync set of record {key} (R4)");
                self.end_candidacy(&why);
                let pause = self.config.timing.lease;
                if let Role::Follower(follower) = &mut self.role {
                    follower.stand_at = self.now + pause;
                    // Wait for an eligible machine without a line for each try.
                    if follower.attempts == 1 {
                        self.note("candidacy failed", None, format!("term {term}: {why}"));
                    }
                }
            }
            Count::Lacks(who, position) => {
                let own = self.stamp.position;
                let why = format!("stands at {own}, and {who} knows that {position} was acknowledged (R4)");
                let new = self.lacking.replace((who, position)).is_none();
                self.end_candidacy(&why);
                let pause = self.config.timing.lease;
                if let Role::Follower(follower) = &mut self.role {
                    follower.stand_at = self.now + pause;
                }
                if new {
                    self.note("lacks acknowledged writes", None, format!("term {term}: {why}"));
                }
            }
            Count::HoldsLess(other, position) => {
                let why = format!("{other} holds more ({position}): force that one");
                self.end_candidacy(&why);
                self.end_force(Err(why));
            }
            Count::Won if !real => self.ask_for_votes(),
            Count::Won => {
                self.lacking = None;
                self.become_master();
            }
        }
    }

    fn ask_for_votes(&mut self) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.real = true;
        candidate.grants.clear();
        candidate.heard.clear();
        candidate.until = self.now + self.config.timing.lease;
        let term = candidate.term;
        self.hard.term = term;
        self.hard.voted_for = Some(self.config.id.clone());
        self.persist();
        self.note("stands for election", None, format!("in term {term}"));
        for to in self.others() {
            let request = self.vote_request(term);
            self.send(to, Message::Vote(request));
        }
        self.add_grant(self.config.id.clone(), self.hard.record.clone(), self.stamp.position);
    }

    /// The highest record among the grants, which decides over the election (R3).
    pub(crate) fn deciding_record(&self) -> Option<&SuccessionRecord> {
        let Role::Candidate(candidate) = &self.role else { return None };
        candidate.grants.values().map(|(record, _)| record).max_by_key(|record| record.key)
    }

    /// R4: whether this replica lacks what somebody knows to be acknowledged. Whoever may be elected holds all that, so this
    /// one has lost something, however high its place. An operator who recovers a cluster has accepted that.
    pub(crate) fn lacks_acknowledged(&self) -> bool {
        let Role::Candidate(candidate) = &self.role else { return false };
        let recovered = self.deciding_record().is_none_or(|record| record.master.is_none());
        candidate.acknowledged.1 > self.stamp.position && !recovered && !made(Mistake::LossIgnored)
    }

    /// Whether a data member is linked that hasn't answered this candidate yet.
    fn unheard(&self, candidate: &Candidate, record: &SuccessionRecord) -> bool {
        let mut data = record.members.iter().filter(|member| !member.rank.is_witness());
        data.any(|member| self.links.contains(&member.id) && !candidate.heard.contains(&member.id))
    }

    fn count(&self) -> Count {
        let Role::Candidate(candidate) = &self.role else { return Count::NotYet };
        let Some(deciding) = self.deciding_record() else { return Count::NotYet };
        let grants = |id: &MemberId| candidate.grants.get(id);
        let own = self.stamp.position;
        if deciding.key == RecordKey::BLANK || (own == Position::ZERO && !made(Mistake::EmptyReplicaWins)) {
            // Founding, or a replica that may have lost its disk: everybody must be there, and nobody hold more. So
            // no lost disk can help to found the cluster a second time over living data.
            let none_further = candidate.grants.values().all(|(_, position)| *position <= own);
            let all = none_further && quorum::has_all(deciding, |id| grants(id).is_some());
            return if all { Count::Won } else { Count::NotYet };
        }
        // A voter without any record may have forgotten one: its word doesn't count.
        let counts = |id: &MemberId| {
            grants(id)
                .is_some_and(|(record, _)| record.key > RecordKey::BLANK || made(Mistake::BlankVoterCounts))
        };
        if !quorum::has_majority(deciding, counts) {
            return Count::NotYet;
        }
        let me = &self.config.id;
        let outside = !deciding.sync_set.contains(me) && !made(Mistake::AnybodyWins);
        if outside || self.lacks_acknowledged() {
            if self.forced.is_none() {
                let (who, position) = candidate.acknowledged.clone();
                return if outside { Count::NotEligible(deciding.key) } else { Count::Lacks(who, position) };
            }
            return match self.held_further(candidate) {
                Some((other, position)) => Count::HoldsLess(other, position),
                None if self.awaits_positions(candidate, deciding) => Count::NotYet,
                None => Count::Won,
            };
        }
        // After a power cut the disk may have lied: who else holds data is heard first, if it answers soon,
        if self.unclean
            && !candidate.real
            && candidate.attempts < LISTENS
            && self.unheard(candidate, deciding)
        {
            return Count::NotYet;
        }
        // and the one goes first that holds more.
        let further = candidate
            .grants
            .iter()
            .any(|(id, (_, position))| deciding.sync_set.contains(id) && *position > own);
        if self.unclean && further && !candidate.real { Count::NotYet } else { Count::Won }
    }
}
