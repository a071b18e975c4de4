//! The one door into the protocol: `handle(now, event) -> effects` and `deadline()`.
//!
//! Owns a machine's durable and volatile protocol state. Never does I/O and never reads a clock; the same events give
//! the same effects. Read `role/` next, then `PROTOCOL.md` for the rules cited.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    complaint::Complaint,
    config::Config,
    effect::{Effect, HardState, Note},
    event::Event,
    frame::{Stamp, Transaction},
    invariant,
    known::Known,
    log::TransactionLog,
    member::{Addresses, Member, MemberId},
    message::{HeartbeatReply, Message},
    mistakes::{Mistake, made},
    position::{Position, Term},
    promise::Times,
    role::{Follower, Forced, Role},
    succession::{RecordKey, SuccessionRecord},
    time::Time,
};

/// A machine that can't start a reign waits for so many doublings of the lease at most: 32 leases.
const MOST_BACK_OFF: u32 = 5;

/// What the local store is busy with, as far as the protocol must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// Takes transactions (as backup or as master).
    Ready,
    /// Leaving the throne: what it committed last isn't known yet.
    Ending,
    /// Being brought in line with the master's database (R12).
    Copying,
}

/// A lease this voter has granted (R11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Honour {
    pub(crate) master: MemberId,
    pub(crate) term: Term,
    pub(crate) until: Time,
}

/// One machine's protocol state.
#[derive(Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) now: Time,
    pub(crate) hard: HardState,
    pub(crate) storage: Storage,
    /// This replica, on disk.
    pub(crate) stamp: Stamp,
    /// This replica once everything handed to the store is on disk.
    pub(crate) tail: Stamp,
    /// Transactions of an earlier master are still on their way to the disk.
    pub(crate) settling: bool,
    /// Newest transactions of this replica's branch, up to `tail`: a promoted backup can stream to the others at once.
    pub(crate) log: TransactionLog,
    pub(crate) links: BTreeSet<MemberId>,
    pub(crate) honour: Option<Honour>,
    /// On this machine's clock, which shows anything after its next start.
    pub(crate) started: Time,
    /// R11: a restarted voter waits until all that it may have promised is over.
    pub(crate) no_vote_before: Time,
    /// To the master of this reign at the latest.
    pub(crate) waits_for: Term,
    /// What earlier processes have promised is over then, whoever reigns meanwhile.
    pub(crate) outlived: Time,
    /// Whose times differ from this machine's, and in what.
    pub(crate) differing: BTreeMap<MemberId, String>,
    /// Its store couldn't start a reign: others come first, and it doesn't stand before this time.
    pub(crate) no_stand_before: Time,
    /// How often that has happened since one was started.
    pub(crate) failed_starts: u32,
    /// It doesn't leave the throne because it limps before this time.
    pub(crate) no_limp_before: Time,
    /// As a backup its store has refused what was to be stored last.
    pub(crate) refuses: bool,
    /// Its store could begin no reign.
    pub(crate) barred: bool,
    /// Its replica holds less than was stored, until it was brought in line.
    pub(crate) lost: bool,
    /// Started without a clean-stop mark, and hasn't been seen current since: the disk may have lied.
    pub(crate) unclean: bool,
    /// When it last took a transaction that wasn't acknowledged, or may not have been.
    pub(crate) surplus_at: Time,
    /// Who has shown, when it stood last, that this replica lacks what was acknowledged up to there.
    pub(crate) lacking: Option<(MemberId, Position)>,
    /// Candidates that stood without what this machine knows to be acknowledged, and where. For people.
    pub(crate) others_lack: BTreeMap<MemberId, Position>,
    /// Highest term heard of, so that the next candidacy asks for a free one.
    pub(crate) seen_term: Term,
    pub(crate) stopping: bool,
    /// Counts `HoldWrites`, so that a late answer isn't taken for another's.
    pub(crate) holds: u64,
    /// Why this machine shouldn't reign, if it shouldn't.
    pub(crate) unhealthy: Option<Complaint>,
    /// What the local disk or store hasn't answered for too long.
    pub(crate) stalled: Option<Complaint>,
    /// Who shouldn't, as the master last said.
    pub(crate) known_unhealthy: BTreeSet<MemberId>,
    /// An operator has asked this machine to reign.
    pub(crate) forced: Option<Forced>,
    pub(crate) role: Role,
    /// The records for which links were last asked for, and to whom.
    connected: (RecordKey, Option<RecordKey>, Option<RecordKey>),
    /// A newer record that somebody showed, not accepted yet.
    introduced: Option<SuccessionRecord>,
    linked_members: Vec<Member>,
    /// The newest record that a voter has shown, newer than the accepted one: for people, who ask whom the cluster waits
    /// for.
    pub(crate) shown: Option<SuccessionRecord>,
    rng: u64,
    pub(crate) out: Vec<Effect>,
}

impl Node {
    /// A node as it starts, a follower of nobody.
    ///
    /// `hard` is what it kept on disk (`None` on the first start), `stamp` its replica on disk (zero for a witness),
    /// `clean` whether the last stop left its mark.
    #[must_use]
    pub fn new(config: Config, hard: Option<HardState>, stamp: Stamp, clean: bool, now: Time) -> Node {
        let hard = hard.unwrap_or_else(|| HardState {
            term: Term::ZERO,
            voted_for: None,
            record: SuccessionRecord::blank(config.members.clone()),
            promised: Duration::ZERO,
            known: Known::default(),
        });
        let founding = hard.record.key == RecordKey::BLANK;
        let voted_for = hard.voted_for.clone().filter(|_| !made(Mistake::VoteForgotten));
        let hard = HardState { voted_for, ..hard };
        // A file of an earlier program doesn't say what was promised: as much as the configuration says, it is assumed.
        let forgotten = hard.promised == Duration::ZERO || made(Mistake::WaitForgotten);
        let wait = if forgotten { config.timing.lease } else { hard.promised };
        let no_vote_before = if founding || made(Mistake::NoRestartWait) { now } else { now + wait };
        let mut node = Node {
            rng: config.seed | 1,
            now,
            seen_term: hard.term,
            storage: Storage::Ready,
            stamp,
            tail: stamp,
            settling: false,
            log: TransactionLog::new(stamp, config.buffer_bytes),
            links: BTreeSet::new(),
            honour: None,
            started: now,
            no_vote_before,
            waits_for: hard.term,
            outlived: now + hard.promised.max(wait),
            differing: BTreeMap::new(),
            no_stand_before: Time(0),
            failed_starts: 0,
            no_limp_before: Time(0),
            refuses: false,
            barred: false,
            lost: false,
            unclean: !clean && !founding,
            surplus_at: now,
            lacking: None,
            others_lack: BTreeMap::new(),
            stopping: false,
            holds: 0,
            unhealthy: None,
            stalled: None,
            known_unhealthy: BTreeSet::new(),
            forced: None,
            role: Role::Follower(Follower { leader: None, stand_at: now, attempts: 0 }),
            out: Vec::new(),
            connected: (hard.record.key, None, None),
            introduced: None,
            shown: None,
            linked_members: hard.record.members.clone(),
            config,
            hard,
        };
        let stand_at = no_vote_before + node.own_delay();
        node.role = Role::Follower(Follower { leader: None, stand_at, attempts: 0 });
        node
    }

    /// Takes one event and gives what is to be done, in order.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        let before = invariant::Before::of(self);
        match event {
            Event::Tick => {}
            Event::Message { from, message } => self.on_message(from, message),
            Event::LinkUp(peer) => self.on_link_up(peer),
            Event::LinkDown(peer) => {
                self.links.remove(&peer);
            }
            Event::Refused(peer) => self.on_refused(&peer),
            Event::ProcessEnded(peer) => self.on_process_ended(&peer, "its process has ended"),
            Event::BulkDown(peer) => self.on_bulk_down(&peer),
            Event::Stored(stamp) => self.on_stored(stamp),
            Event::ApplyFailed(stamp) => self.on_apply_failed(stamp),
            Event::Captured(transaction) => self.on_captured(transaction),
            Event::CaptureBroken(stamp) => self.on_capture_broken(stamp),
            Event::ReignStarted { term, base, transactions, history } => {
                self.on_reign_started(term, base, transactions, history);
            }
            Event::ReignFailed { term, stamp, why } => {
                self.on_replica(stamp);
                if self.hard.term == term {
                    self.step_down(format!("the store could not start the reign: {why}"));
                }
                self.back_off();
            }
            Event::ReignEnded(stamp) => {
                if self.storage == Storage::Ending {
                    self.storage = Storage::Ready;
                }
                self.on_replica(stamp);
                self.report_start();
            }
            Event::CopyFinished(stamp) => {
                self.storage = Storage::Ready;
                self.lost = false;
                self.on_replica(stamp);
                self.note("rejoin finished", None, format!("replica is now at {}", stamp.position));
                self.report_start();
            }
            Event::CopyFailed(stamp) => {
                self.storage = Storage::Ready;
                self.on_replica(stamp);
                self.report_start();
            }
            Event::HandOver { to, why } => self.on_hand_over(to, why),
            Event::Force { why } => self.on_force(why),
            Event::Health(unhealthy) => self.on_health(unhealthy),
            Event::Stalled(stalled) => self.on_stalled(stalled),
            Event::Barred(barred) => {
                self.barred = barred;
                if barred && matches!(self.role, Role::Candidate(_)) {
                    self.become_follower(Duration::ZERO);
                }
            }
            Event::Lost(lost) => self.lost = lost,
            Event::Differs { peer, at } => self.on_differs(&peer, at),
            Event::ChangeMembers(change) => self.on_change_members(change),
            Event::WritesHeld(hold) => self.on_writes_held(hold),
            Event::StorageFailed(why) => self.step_down(format!("own disk failed: {why}")),
            Event::Shutdown => self.on_shutdown(),
        }
        self.on_time();
        self.reconnect();
        before.check(self);
        std::mem::take(&mut self.out)
    }

    /// The newest transactions of this replica's branch, the oldest first: for the next start ([`Node::remember`]).
    pub fn recent(&self) -> impl Iterator<Item = &Transaction> {
        match &self.role {
            Role::Master(master) => master.log.iter(),
            Role::Follower(_) | Role::Candidate(_) => self.log.iter(),
        }
    }

    /// Before the first event: what an earlier process held, of use when it leads to what this replica is; what comes behind that
    /// is left out. The chain of stamps proves that it is this replica's own branch.
    pub fn remember(&mut self, recent: Vec<Transaction>) {
        let Some(first) = recent.first() else { return };
        let mut log = TransactionLog::new(first.previous, self.config.buffer_bytes);
        for transaction in recent {
            let (tip, position) = (log.tip(), transaction.stamp.position);
            if tip == self.stamp || transaction.previous != tip || position.txid != tip.position.txid.next() {
                break;
            }
            log.push(transaction);
        }
        if log.tip() == self.stamp && self.tail == self.stamp {
            self.log = log;
        }
    }

    /// Whether this machine was told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let forced = self.forced.as_ref().map_or(Time::NEVER, |forced| forced.until);
        let role = match &self.role {
            Role::Follower(follower) if self.may_stand() => follower.stand_at,
            Role::Follower(_) => Time::NEVER,
            Role::Candidate(candidate) => candidate.until,
            Role::Master(master) => master.deadline(self.now, self.config.timing.sync_timeout),
        };
        role.min(forced)
    }

    /// What is due, one role after the other, since each may end in the next: nothing is left due afterwards.
    fn on_time(&mut self) {
        if matches!(&self.role, Role::Candidate(candidate) if self.now >= candidate.until) {
            self.end_candidacy("no majority in time");
        }
        if matches!(&self.role, Role::Follower(follower) if self.now >= follower.stand_at) && self.may_stand()
        {
            self.become_candidate();
        }
        if matches!(self.role, Role::Master(_)) {
            self.on_master_time();
        }
        self.follow_force();
    }

    fn on_message(&mut self, from: MemberId, message: Message) {
        let known = self.talks_to().any(|member| member.id == from);
        if from == self.config.id || !(known || self.introduces_itself(&from, &message)) {
            return;
        }
        self.seen_term = self.seen_term.max(match &message {
            Message::PreVote(_) => Term::ZERO, // asks for a term nobody has yet
            other => other.term(),
        });
        match message {
            Message::PreVote(request) => self.on_pre_vote(from, &request),
            Message::PreVoteReply(reply) => self.on_vote_reply(from, reply, false),
            Message::Vote(request) => self.on_vote(from, &request),
            Message::VoteReply(reply) => self.on_vote_reply(from, reply, true),
            Message::Heartbeat(heartbeat) => self.on_heartbeat(from, heartbeat),
            Message::HeartbeatReply(reply) => self.on_heartbeat_reply(&from, &reply),
            Message::Append { term, transaction, acknowledged } => {
                self.on_append(&from, term, transaction, acknowledged);
            }
            Message::Stored(report) => self.on_report(&from, &report, true),
            Message::Refused(report) => self.on_report(&from, &report, false),
            Message::Resync { term } => self.on_resync(&from, term),
            Message::Distrust(report) => self.on_distrust(&from, &report),
            Message::Goodbye { term, heir, limps } => self.on_goodbye(&from, term, heir.as_ref(), limps),
        }
    }

    fn on_link_up(&mut self, peer: MemberId) {
        if let Role::Master(master) = &mut self.role {
            if let Some(state) = master.peers.get_mut(&peer) {
                state.gone = false;
            }
            self.links.insert(peer.clone());
            self.send_heartbeat(&peer);
        } else {
            self.links.insert(peer);
        }
    }

    /// A firewall or a port forwarder may refuse for a process that lives, so this ends no lease unless an operator vouches for it.
    /// A backup may be left out for any reason (R9).
    fn on_refused(&mut self, peer: &MemberId) {
        if self.config.timing.trust_refused || made(Mistake::RefusalBelieved) {
            self.on_process_ended(peer, "its machine refuses connections");
        } else {
            self.leave_out(peer);
        }
    }

    /// The lease of a process that has ended protects nothing any more (R11).
    fn on_process_ended(&mut self, peer: &MemberId, evidence: &str) {
        if self.honour.as_ref().is_some_and(|honour| honour.master == *peer) {
            self.drop_lease(evidence);
            let delay = self.own_delay();
            self.stand_within(delay);
        }
        self.leave_out(peer);
    }

    /// It isn't there: a master doesn't wait for it.
    fn leave_out(&mut self, peer: &MemberId) {
        self.links.remove(peer);
        if let Role::Master(master) = &mut self.role {
            if let Some(state) = master.peers.get_mut(peer) {
                state.gone = true;
                state.probe();
            }
            self.review();
        }
    }

    /// The voter no longer honours the lease; the master it followed is gone.
    pub(crate) fn drop_lease(&mut self, why: &str) {
        if let Some(honour) = self.honour.take() {
            self.note("dropped lease", Some(honour.master), why.to_owned());
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.leader = None;
            follower.attempts = 0;
        }
    }

    /// The store says what this replica is, with nothing more under way.
    fn on_replica(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.set_tail(stamp);
        self.settling = false;
        self.refuses = false;
    }

    /// What the replica will be, when that isn't the next transaction: the buffer must not have a gap.
    pub(crate) fn set_tail(&mut self, stamp: Stamp) {
        self.tail = stamp;
        if self.log.tip() != stamp {
            self.log.reset(stamp);
        }
    }

    fn on_stored(&mut self, stamp: Stamp) {
        if let Role::Master(_) = self.role {
            self.stamp = stamp;
            self.on_own_stored(stamp);
            return;
        }
        if self.storage != Storage::Ready {
            return; // of a reign that has just ended; `ReignEnded` tells the rest
        }
        self.stamp = stamp;
        self.refuses = false;
        if self.tail.position < stamp.position {
            self.set_tail(stamp); // stored although a refusal before it had set the tail back
        }
        if self.settling && self.stamp == self.tail {
            self.settling = false;
            self.report_start();
        } else {
            self.report_stored();
        }
    }

    /// Tells the master where to stream from, after a time in which this replica took nothing.
    fn report_start(&mut self) {
        if let Role::Follower(Follower { leader: Some(leader), .. }) = &self.role {
            let report = crate::message::Report { term: self.hard.term, stamp: self.stamp };
            self.send(leader.id.clone(), Message::Refused(report));
        }
        self.update_freshness();
    }

    /// Tells the master what this replica is.
    pub(crate) fn report_stored(&mut self) {
        let Role::Follower(Follower { leader: Some(leader), .. }) = &self.role else { return };
        if self.settling || self.storage != Storage::Ready {
            return;
        }
        let stamp = if made(Mistake::ReportedEarly) { self.tail } else { self.stamp };
        let (to, term) = (leader.id.clone(), self.hard.term);
        self.send(to, Message::Stored(crate::message::Report { term, stamp }));
        self.update_freshness();
    }

    /// R6: a higher term is adopted, durably, and ends any reign or candidacy of an older one.
    pub(crate) fn observe_term(&mut self, term: Term, why: &str) {
        if term <= self.hard.term {
            return;
        }
        self.hard.term = term;
        self.hard.voted_for = None;
        // First the gate, then the disk, which may not answer.
        match self.role {
            Role::Master(_) => self.step_down(format!("term {term}: {why}")),
            Role::Candidate(_) => self.become_follower(Duration::ZERO),
            Role::Follower(_) => {}
        }
        self.persist();
    }

    pub(crate) fn persist(&mut self) {
        self.out.push(Effect::Persist(self.hard.clone()));
    }

    pub(crate) fn send(&mut self, to: MemberId, message: Message) {
        self.out.push(Effect::Send { to, message });
    }

    pub(crate) fn note(&mut self, what: &'static str, peer: Option<MemberId>, why: String) {
        self.out.push(Effect::Note(Note { what, peer, why }));
    }

    /// Whether this machine could ever stand now: a data member with a usable replica.
    pub(crate) fn may_stand(&self) -> bool {
        !self.stopping
            && !self.barred
            && self.stalled.is_none()
            && (!self.lost || made(Mistake::LostStands))
            && self.storage == Storage::Ready
            && self.hard.record.member(&self.config.id).is_some_and(|member| !member.rank.is_witness())
    }

    /// A machine whose store can't start a reign would win again and again, and nobody would be served.
    fn back_off(&mut self) {
        let pause = self.config.timing.lease.saturating_mul(1 << self.failed_starts.min(MOST_BACK_OFF));
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.no_stand_before = self.now + pause + self.jitter(pause / 4);
    }

    /// How much later than the first heir this machine stands.
    pub(crate) fn own_delay(&self) -> Duration {
        let place = self.hard.record.place(&self.config.id, &self.unhealthy_members());
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let unclean = u32::from(self.unclean);
        self.config.timing.election_stagger.saturating_mul(place.saturating_add(unclean))
    }

    /// Who reports that it isn't healthy: to the master each one by itself, to the others the master.
    pub(crate) fn unhealthy_members(&self) -> BTreeSet<MemberId> {
        let mut unhealthy = match &self.role {
            Role::Master(master) => master.unhealthy_peers(),
            Role::Follower(_) | Role::Candidate(_) => self.known_unhealthy.clone(),
        };
        if self.unhealthy.is_some() {
            unhealthy.insert(self.config.id.clone());
        } else {
            unhealthy.remove(&self.config.id);
        }
        unhealthy
    }

    fn on_health(&mut self, unhealthy: Option<Complaint>) {
        if self.unhealthy.is_some() != unhealthy.is_some() {
            let what = if unhealthy.is_some() { "not healthy" } else { "healthy again" };
            let why = unhealthy.as_ref().map(ToString::to_string).unwrap_or_default();
            self.note(what, None, why);
        }
        self.unhealthy = unhealthy;
    }

    /// A duration from zero up to `limit`, different each time (seeded).
    pub(crate) fn jitter(&mut self, limit: Duration) -> Duration {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng % nanos.max(1))
    }

    fn stand_within(&mut self, delay: Duration) {
        let at = self.now + delay;
        if let Role::Follower(follower) = &mut self.role {
            follower.stand_at = follower.stand_at.min(at);
        }
    }

    /// A follower that knows no master and stands after `delay` (plus its place in the chain).
    pub(crate) fn become_follower(&mut self, delay: Duration) {
        let jitter = self.jitter(self.config.timing.heartbeat / 4);
        let stand_at = self.now + delay + self.own_delay() + jitter;
        self.role = Role::Follower(Follower { leader: None, stand_at, attempts: 0 });
    }

    fn on_goodbye(&mut self, from: &MemberId, term: Term, heir: Option<&MemberId>, limps: bool) {
        if term != self.hard.term || !matches!(&self.role, Role::Follower(f) if f.follows(from)) {
            return;
        }
        self.drop_lease("it said goodbye");
        if limps {
            self.on_limping_master();
        }
        self.no_vote_before = self.now;
        let delay = if heir == Some(&self.config.id) { Duration::ZERO } else { self.own_delay() };
        if let Role::Follower(follower) = &mut self.role {
            follower.stand_at = self.now + delay;
        }
    }

    /// The committed record, while this machine is the master: its members count until the next is committed.
    fn committed(&self) -> Option<&SuccessionRecord> {
        match &self.role {
            Role::Master(master) => master.committed.as_ref(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// The members of the newest record; those that it is about to remove, who must accept it too; and those of a
    /// record that was only shown yet.
    fn talks_to(&self) -> impl Iterator<Item = &Member> {
        let record = &self.hard.record;
        let old = self.committed();
        let leaving = old.into_iter().flat_map(|old| &old.members);
        let leaving = leaving.filter(|member| record.member(&member.id).is_none());
        let shown = self.introduced.iter().flat_map(|shown| &shown.members);
        let shown = shown.filter(move |member| {
            record.member(&member.id).is_none() && old.is_none_or(|old| old.member(&member.id).is_none())
        });
        record.members.iter().chain(leaving).chain(shown)
    }

    /// Whoever came to be a member while this machine was away shows a newer record, which has both. A machine that was
    /// removed has only an older one, and is not heard.
    fn introduces_itself(&mut self, from: &MemberId, message: &Message) -> bool {
        let record = match message {
            Message::Heartbeat(heartbeat) => &heartbeat.record,
            Message::PreVote(request) | Message::Vote(request) => &request.record,
            _ => return false,
        };
        let newer = record.key > self.hard.record.key;
        if !newer || record.member(&self.config.id).is_none() || record.member(from).is_none() {
            return false;
        }
        self.introduced = Some(record.clone());
        self.reconnect(); // so that the answer finds a way
        true
    }

    /// Says whom to keep links to whenever that has changed.
    fn reconnect(&mut self) {
        self.introduced.take_if(|shown| shown.key <= self.hard.record.key);
        let key = |record: &SuccessionRecord| record.key;
        let keys = (self.hard.record.key, self.committed().map(key), self.introduced.as_ref().map(key));
        if self.connected == keys {
            return;
        }
        self.connected = keys;
        let members: Vec<_> = self.talks_to().cloned().collect();
        if members == self.linked_members {
            return;
        }
        let me = &self.config.id;
        let stays = members.iter().any(|member| member.id == *me);
        if !stays && self.linked_members.iter().any(|member| member.id == *me) {
            self.note("no longer a member", None, format!("by record {}", self.hard.record.key));
        }
        self.linked_members.clone_from(&members);
        self.out.push(Effect::Connect(members));
    }

    /// All members but this one, those about to be removed included.
    pub(crate) fn others(&self) -> Vec<MemberId> {
        let me = &self.config.id;
        self.talks_to().filter(|member| member.id != *me).map(|member| member.id.clone()).collect()
    }

    /// The answer that tells an old master that its term is over, or grants its lease for so long.
    pub(crate) fn heartbeat_reply(&self, sent: Time, promised: Duration) -> HeartbeatReply {
        let can_say = self.storage == Storage::Ready
            && !self.settling
            && matches!(self.role, Role::Follower(_))
            && self.hard.record.member(&self.config.id).is_some_and(|member| !member.rank.is_witness());
        HeartbeatReply {
            term: self.hard.term,
            heartbeat_sent: sent,
            sent: self.now,
            accepted: self.hard.record.key,
            stamp: can_say.then_some(self.stamp),
            moved: self.moved(&self.hard.record),
            sum: None,
            unhealthy: self.unhealthy.clone(),
            promised: Some(promised),
            longest: Some(self.hard.promised),
            times: Some(Box::new(Times::from(&self.config.timing))),
            awaits: can_say && !self.refuses && self.tail == self.stamp,
        }
    }

    /// Where this machine is reached, if the record says something else.
    pub(crate) fn moved(&self, record: &SuccessionRecord) -> Option<Addresses> {
        let me = &self.config.id;
        let own = self.config.members.iter().find(|member| member.id == *me)?;
        let own = Addresses { peer: own.peer_addresses.clone(), urls: own.urls.clone() };
        record.member(me).is_some_and(|member| member.has_moved(&own)).then_some(own)
    }
}
