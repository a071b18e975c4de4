//! The loop around the protocol core: event in, effects performed in order, completions back as events.
//!
//! Owns the node, its durable state and the waiting answers; runs on a thread and a runtime of its own, so that
//! nothing else delays a heartbeat. Decides nothing: read `tanist_replication::Node` for that.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tanist_api::ClusterMember;
use tanist_replication::{
    Complaint, Effect, Event, HardState, Member, MemberChange, MemberId, Message, Node, Position, Rank,
    RecordKey, Stamp, SuccessionRecord, Term, Time, Txid,
    status::{PeerStatus, RoleName, Status},
    wire::{self, WireError},
};
use tanist_store::{PageSums, Reserve};
use tanist_transport::{Channel, Packet, SecureStream, Transport, TransportEvent};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    acquaintance::{Acquaintance, Aside},
    clock,
    config::Health,
    differences::{Differences, Verdict},
    durable::Durable,
    end_notice::Peers,
    gate::Gate,
    hooks::Throne,
    inbox::{Command, Inbox, Respond},
    measures::Measures,
    outage::Outage,
    recent,
    rejoin::{self, Board},
    stall::{News, Part, StallWatch},
    upgrade::{self, Upgrades},
    view,
    write::{WriteDone, WriteError},
    writer::StoreEvent,
};

/// The view for displays is renewed at least so often, and at once when something important happens.
const VIEW_INTERVAL: Duration = Duration::from_millis(100);
/// Events handled in a row before the timers are looked at again.
const BURST: usize = 64;
/// How long a machine that stops waits for the next master to be known, so that its clients can be sent there.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(1);
/// How long it takes at the longest to leave the throne.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
/// A write whose acknowledgement doesn't come in this time is answered "outcome unknown".
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_secs(20);

/// A machine that couldn't begin a term is thought fit again after so long: whatever it was may be mended.
const TERM_FORGIVEN: Duration = Duration::from_secs(600);

/// Who says that this machine isn't fit to be the master, by place in [`Driver::unfit`].
const SEEN: usize = 0;
const HOOK: usize = 1;
const STORE: usize = 2;
const TERM: usize = 3;
const SCHEMA: usize = 4;
const STUCK: usize = 5;
const STALL: usize = 6;
const EDITED: usize = 7;
const GONE: usize = 8;
const ROOM: usize = 9;
const JUDGES: usize = 10;

/// A master whose files are gone is relieved within this time, or leaves its throne to whoever comes.
const RELIEF: Duration = Duration::from_secs(4);

/// Everything the driver needs.
pub(crate) struct Parts {
    /// This machine.
    pub id: MemberId,
    /// The protocol.
    pub node: Node,
    /// The replica holds less than this machine had stored.
    pub lost: bool,
    /// What is known of the other machines beside the protocol.
    pub acquaintance: Acquaintance,
    /// The others and where they are reached, for who follows that.
    pub peers: watch::Sender<Peers>,
    /// This machine's durable votes.
    pub durable: Durable,
    /// For so long all members must have known the next level before the cluster comes to it.
    pub upgrade_calm: Duration,
    /// Room that is held back on its disk.
    pub reserve: Arc<Reserve>,
    /// Links to the others.
    pub transport: Transport,
    /// What the links bring.
    pub transport_events: mpsc::Receiver<TransportEvent>,
    /// What the store thread says.
    pub store_events: mpsc::UnboundedReceiver<StoreEvent>,
    /// The store thread's inbox; none on a witness.
    pub inbox: Option<Arc<Inbox>>,
    /// Whoever answers requests gets the connections on which others forward theirs.
    pub forwarded: mpsc::Sender<SecureStream>,
    /// What HTTP may know.
    pub gate: Arc<Gate>,
    /// Counts what is seen here.
    pub measures: Arc<Measures>,
    /// The data directory, to bring replicas in line from.
    pub directory: PathBuf,
    /// Where rejoins are shown.
    pub board: Arc<Board>,
    /// The cluster's name, for displays.
    pub cluster: String,
    /// Addresses that the configuration file gives; used beside those of the succession record.
    pub configured: Vec<Member>,
    /// Where the database came from, if it was restored and no cluster has been founded on it yet.
    pub restored: Option<String>,
    /// Sums of the replica's pages; none on a witness.
    pub sums: Option<Arc<PageSums>>,
    /// Who acts on this machine's reign is told here.
    pub throne: watch::Sender<Throne>,
    /// How long a stall is remembered.
    pub calm: watch::Receiver<Health>,
    /// What operators ask for.
    pub control: mpsc::Receiver<Control>,
    /// Asks the driver to leave: answered, with whether it has reigned, when this machine isn't the master any more and, if possible, the next one is
    /// known. Asked again, or given up by the asker, the driver ends.
    pub stop: mpsc::Receiver<oneshot::Sender<bool>>,
}

/// What operators ask of the reign.
#[derive(Debug)]
pub(crate) enum Control {
    /// Hand the throne over to this member.
    HandOver {
        /// Who shall reign; the heir otherwise.
        to: Option<MemberId>,
        /// For the log and the term history.
        why: String,
        /// Told who succeeds, when this machine has left its throne, or why it hasn't.
        respond: Handed,
    },
    /// Reign although this machine may lack acknowledged writes.
    Force {
        /// For the log and the term history.
        why: String,
        /// Told when this machine reigns, or why it can't.
        respond: Handed,
    },
    /// This machine is fit to reign, or why it isn't.
    Health(Option<Complaint>),
    /// A required hook lets this machine reign, or why it doesn't; apart from its health.
    Refuse(Option<Complaint>),
    /// The store thread is stuck; `None`: it goes on.
    Stuck(Option<Complaint>),
    /// Files of this machine were removed or replaced under it.
    Gone(Complaint),
    /// This machine can't go on, and why: its process must end.
    End(String),
    /// Change the members.
    ChangeMembers {
        /// What shall be.
        edit: MemberEdit,
        /// Told the members when a majority of the old and of the new voters has accepted it, or why it isn't so.
        respond: Changed,
    },
}

/// What an operator asks for; parts that aren't given stay as they are.
#[derive(Debug)]
pub(crate) enum MemberEdit {
    /// A new machine.
    Add(Member),
    /// Another rank, other addresses.
    Set {
        /// Whose.
        id: MemberId,
        /// Its rank.
        rank: Option<Rank>,
        /// For peers.
        peer_addresses: Option<Vec<String>>,
        /// For clients.
        urls: Option<Vec<String>>,
    },
    /// The machine leaves.
    Remove(MemberId),
}

impl MemberEdit {
    /// The change, if the member that it is about is there.
    fn on(self, record: &SuccessionRecord) -> Result<MemberChange, String> {
        let (id, rank, peer_addresses, urls) = match self {
            MemberEdit::Add(member) => return Ok(MemberChange::Add(member)),
            MemberEdit::Remove(id) => return Ok(MemberChange::Remove(id)),
            MemberEdit::Set { id, rank, peer_addresses, urls } => (id, rank, peer_addresses, urls),
        };
        let mut member = record.member(&id).cloned().ok_or_else(|| format!("{id} is no member"))?;
        member.rank = rank.unwrap_or(member.rank);
        member.peer_addresses = peer_addresses.unwrap_or(member.peer_addresses);
        member.urls = urls.unwrap_or(member.urls);
        Ok(MemberChange::Update(member))
    }
}

/// The answer to a handover.
pub(crate) type Handed = oneshot::Sender<Result<MemberId, String>>;

/// The answer to a change of members.
pub(crate) type Changed = oneshot::Sender<Result<Vec<ClusterMember>, String>>;

/// Where to look for these members: where the record says, then where the configuration file says. All machines may have
/// got other addresses while they were stopped, and then only the files know.
pub(crate) fn addresses(configured: &[Member], members: &[Member]) -> Vec<(MemberId, Vec<String>)> {
    let with_configured = |member: &Member| {
        let mut addresses = member.peer_addresses.clone();
        let file = configured.iter().find(|other| other.id == member.id);
        for address in file.iter().flat_map(|file| &file.peer_addresses) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        (member.id.clone(), addresses)
    };
    members.iter().map(with_configured).collect()
}

/// Why the driver ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Votes can't be written: this machine may not take part any more.
    #[error("votes can't be stored: {0}")]
    Durable(#[from] crate::durable::DurableError),
    /// The replica can't be trusted any more.
    #[error("the replica's disk failed: {0}")]
    Store(String),
    /// Its data is another cluster's.
    #[error(
        "this machine's data is another cluster's than that of {peer}, which is the master. Move state.db, state.db-wal, state.db-shm and \
         node.db away and start again: this machine gets the data from its master"
    )]
    OtherFounding {
        /// The master that has met it.
        peer: MemberId,
    },
    /// It does nothing any more, so another machine must take over.
    #[error("{0}, for longer than can be waited for")]
    Stuck(String),
    /// It must start anew: what it has in hand is of no use.
    #[error("{0}")]
    Anew(String),
    /// A restored database is for a new cluster alone.
    #[error(
        "this machine's database was {reason}, for a new cluster, but {peer} belongs to one that has begun. If that one is right,          empty this machine's data directory; if this one is, empty the other machines' and start them anew"
    )]
    Restored {
        /// Where the database came from.
        reason: String,
        /// The machine that has met it.
        peer: MemberId,
    },
}

/// What a driver leaves that was told to stop, or that can't go on as it is.
pub(crate) struct Ended {
    /// The votes, to be marked as cleanly stopped.
    pub durable: Durable,
    /// This machine has become a witness, or is none any more: it must start anew, as what it is now.
    pub rank_changed: bool,
}

struct Driver {
    parts: Parts,
    hard: Option<HardState>,
    /// The reign whose writes may wait for an acknowledgement.
    reign: Option<Term>,
    /// Why it began.
    reason: String,
    /// Its gate has been opened.
    opened: bool,
    /// Why this machine isn't fit to reign: what was seen of it, what its hook says, what keeps it from writing, why it couldn't
    /// begin a term, why it can't, and what became of its store thread.
    unfit: [Option<Complaint>; JUDGES],
    /// When it couldn't.
    term_failed: Option<Instant>,
    /// Answers that wait for the acknowledgement of their transaction.
    waiting: VecDeque<Waiting>,
    acknowledged: Txid,
    last_view: Instant,
    view_due: bool,
    /// Which peers are being brought in line.
    rejoins: BTreeMap<MemberId, std::thread::JoinHandle<()>>,
    /// Who asked for the handover under way.
    handed: Option<Handed>,
    /// Who asked for the change of members under way.
    changed: Option<Changed>,
    leaving: Option<Leaving>,
    /// To give up this machine's own rejoin.
    rejoin: Option<rejoin::Stop>,
    /// This machine holds data and should not any more, or the reverse.
    rank_changed: bool,
    outage: Outage,
    stall: StallWatch,
    differences: Differences,
    /// Since when files of this machine are gone, and which.
    gone: Option<(Instant, Complaint)>,
    upgrades: Upgrades,
}

/// This machine is to stop.
struct Leaving {
    since: Instant,
    /// It was the master; its clients are sent on to the next one, if that is soon known.
    reigned: bool,
    done: oneshot::Sender<bool>,
}

struct Waiting {
    txid: Txid,
    since: Instant,
    answers: Vec<(Respond, WriteDone)>,
}

/// Runs until told to stop, or until this machine's own disk fails.
///
/// # Errors
/// When votes can't be stored or the replica's disk failed: the process must end, a supervisor may start it again.
pub(crate) async fn run(parts: Parts) -> Result<Ended, DriverError> {
    let upgrades = Upgrades::new(parts.id.clone(), parts.upgrade_calm);
    let mut driver = Driver {
        parts,
        upgrades,
        hard: None,
        reign: None,
        reason: String::new(),
        opened: false,
        unfit: [const { None }; JUDGES],
        term_failed: None,
        waiting: VecDeque::new(),
        acknowledged: Txid::ZERO,
        last_view: Instant::now(),
        view_due: true,
        rejoins: BTreeMap::new(),
        handed: None,
        changed: None,
        leaving: None,
        rejoin: None,
        rank_changed: false,
        outage: Outage::default(),
        stall: StallWatch::default(),
        differences: Differences::default(),
        gone: None,
    };
    // Known before anybody asks for its vote.
    let lost = driver.parts.lost;
    driver.event(Event::Lost(lost))?;
    loop {
        driver.look_for_stalls()?;
        driver.publish()?;
        driver.tell_left();
        let now = clock::now_ns();
        let deadline = driver.parts.node.deadline().0.saturating_sub(now);
        let wait = Duration::from_nanos(deadline).min(VIEW_INTERVAL);
        tokio::select! {
            biased;
            stop = driver.parts.stop.recv() => match stop {
                Some(done) if driver.leaving.is_none() && !driver.parts.node.is_stopping() => driver.leave(done)?,
                _ => {
                    return Ok(driver.end(false).await);
                }
            },
            Some(control) = driver.parts.control.recv() => driver.control(control)?,
            Some(event) = driver.parts.store_events.recv() => driver.store_event(event)?,
            Some(event) = driver.parts.transport_events.recv() => driver.transport_event(event)?,
            () = tokio::time::sleep(wait) => driver.event(Event::Tick)?,
        }
        for _ in 0..BURST {
            if let Ok(event) = driver.parts.store_events.try_recv() {
                driver.store_event(event)?;
            } else if let Ok(event) = driver.parts.transport_events.try_recv() {
                driver.transport_event(event)?;
            } else {
                break;
            }
        }
        driver.expire();
        driver.forgive()?;
        driver.follow_gone()?;
        if driver.rank_changed {
            return Ok(driver.end(true).await);
        }
    }
}

impl Driver {
    async fn end(self, rank_changed: bool) -> Ended {
        if self.parts.inbox.is_some() {
            recent::keep(&self.parts.directory, &self.parts.reserve, self.parts.node.recent());
        }
        self.parts.transport.shutdown().await;
        Ended { durable: self.parts.durable, rank_changed }
    }

    fn store_event(&mut self, event: StoreEvent) -> Result<(), DriverError> {
        match event {
            StoreEvent::Protocol(event) => {
                if let Event::Stored(stamp) | Event::ReignEnded(stamp) | Event::CopyFinished(stamp) = &event {
                    self.parts.gate.set_stored(stamp.position);
                }
                match &event {
                    Event::ReignFailed { why, .. } => {
                        self.term_failed = Some(Instant::now());
                        self.judge(TERM, Some(Complaint::new(&format!("it couldn't begin a term: {why}"))))?;
                    }
                    Event::ReignStarted { .. } if self.term_failed.take().is_some() => {
                        self.judge(TERM, None)?
                    }
                    _ => {}
                }
                self.event(event)
            }
            StoreEvent::Await(stamp, answers) => {
                self.wait_for(stamp, answers);
                Ok(())
            }
            StoreEvent::Unfit(why) => self.judge(STORE, why),
            StoreEvent::Level(level, hold) => {
                self.upgrades.found(level, hold);
                self.view_due = true;
                Ok(())
            }
            StoreEvent::RaiseFailed(why) => {
                self.upgrades.failed(why);
                Ok(())
            }
            StoreEvent::Room(why) => self.judge(ROOM, why),
            StoreEvent::Barred(why) => {
                let barred = why.is_some();
                self.judge(SCHEMA, why)?;
                self.event(Event::Barred(barred))
            }
            StoreEvent::Founded(founding) => {
                // It is what this machine has opened, so it can't be another than it knew.
                self.parts.acquaintance.confirm(&self.parts.durable, founding)?;
                Ok(())
            }
            StoreEvent::Edited(why) => self.judge(EDITED, why),
            StoreEvent::Anew(why) => {
                self.event(Event::StorageFailed(why.clone()))?;
                Err(DriverError::Anew(why))
            }
            StoreEvent::Fatal(why) => {
                self.event(Event::StorageFailed(why.clone()))?;
                Err(DriverError::Store(why))
            }
        }
    }

    fn wait_for(&mut self, stamp: Stamp, answers: Vec<(Respond, WriteDone)>) {
        let txid = stamp.position.txid;
        if self.reign.is_none() {
            for (respond, _) in answers {
                let why = "this machine stopped being the master".to_owned();
                let _ = respond.send(Err(WriteError::OutcomeUnknown(why)));
            }
        } else if txid <= self.acknowledged {
            self.parts.measures.acknowledged(Duration::ZERO);
            for (respond, done) in answers {
                let _ = respond.send(Ok(done));
            }
        } else {
            self.waiting.push_back(Waiting { txid, since: Instant::now(), answers });
        }
    }

    fn transport_event(&mut self, event: TransportEvent) -> Result<(), DriverError> {
        self.parts.acquaintance.keep(&self.parts.durable)?;
        match event {
            TransportEvent::Received { from, packet, .. } if let Some(aside) = Aside::read(&packet) => {
                self.parts.acquaintance.hear(from, aside, &self.parts.transport);
                Ok(())
            }
            TransportEvent::Received { from, packet, .. } => match wire::decode(&packet.head, packet.body) {
                Ok(message) => {
                    self.refuse_cluster(&from, &message)?;
                    let mut judged = VecDeque::new();
                    if let Message::HeartbeatReply(reply) = &message {
                        // While it is brought in line, its sum is still the old one.
                        let whole = reply.stamp.is_some_and(|stamp| !stamp.is_off_branch());
                        self.compare(&from, reply.sum.filter(|_| whole), &mut judged);
                    }
                    if let (Message::Heartbeat(heartbeat), None) = (&message, self.reign) {
                        self.upgrades.heard(heartbeat.level);
                    }
                    let heartbeat = matches!(message, Message::Heartbeat(_));
                    self.event(Event::Message { from, message })?;
                    for event in judged {
                        self.event(event)?;
                    }
                    if heartbeat && let Some(acknowledged) = self.parts.node.acknowledged() {
                        self.parts.gate.hear_acknowledged(acknowledged);
                    }
                    Ok(())
                }
                Err(WireError::UnknownKind(kind)) if upgrade::next::hears(kind) => {
                    tracing::debug!(peer = %from, "a note of the next version");
                    Ok(())
                }
                // Of a newer program, which was not told that this one knows it.
                Err(error @ WireError::UnknownKind(_)) => {
                    tracing::debug!(peer = %from, %error, "a message was ignored");
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(peer = %from, %error, "a message was refused");
                    Ok(())
                }
            },
            TransportEvent::Connected { peer, channel: Channel::Control } => {
                self.view_due = true;
                self.parts.acquaintance.greet(peer.clone());
                self.event(Event::LinkUp(peer))
            }
            TransportEvent::Closed { peer, channel: Channel::Control, .. } => {
                self.view_due = true;
                self.event(Event::LinkDown(peer))
            }
            TransportEvent::Closed { peer, channel: Channel::Bulk, .. } => self.event(Event::BulkDown(peer)),
            TransportEvent::Refused { peer } => self.event(Event::Refused(peer)),
            TransportEvent::ProcessEnded { peer } => self.event(Event::ProcessEnded(peer)),
            TransportEvent::CopyRequested { from, stream } => {
                self.serve_rejoin(from, stream);
                Ok(())
            }
            TransportEvent::ForwardRequested { from, stream } => {
                if self.parts.forwarded.try_send(stream).is_err() {
                    tracing::warn!(peer = %from, "forwarded requests refused: too many connections wait");
                }
                Ok(())
            }
            // Refused by the transport and named in its log, on both machines.
            TransportEvent::IdInUse { .. }
            | TransportEvent::Connected { .. }
            | TransportEvent::Closed { .. } => Ok(()),
        }
    }

    /// A master that serves knows to which cluster all belong.
    fn believe(&mut self, status: &Status) -> Result<(), DriverError> {
        match status.master.as_ref().filter(|_| status.serving) {
            Some(peer) if !self.parts.acquaintance.believe(&self.parts.durable, peer)? => {
                Err(DriverError::OtherFounding { peer: peer.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Why those are not reached without whom there is no master.
    fn explain(&self, status: &Status, notice: &mut Option<String>) {
        const SHOWN: usize = 400;
        let problem = |peer: &PeerStatus| {
            let why = self.parts.transport.problem(&peer.id).filter(|_| !peer.reachable)?;
            Some(format!("{}: {}", peer.id, why.chars().take(SHOWN).collect::<String>()))
        };
        let problems: Vec<_> = status.peers.iter().filter_map(problem).collect();
        if let Some(notice) = notice.as_mut().filter(|_| status.master.is_none() && !problems.is_empty()) {
            notice.push_str(&format!("; tried {}", problems.join("; ")));
        }
    }

    /// A machine whose database was restored only founds. In a cluster that has begun it might be named by the record, and
    /// its old data would count for all that was acknowledged (R4); so it ends before it has said anything.
    fn refuse_cluster(&self, peer: &MemberId, message: &Message) -> Result<(), DriverError> {
        let Some(reason) = &self.parts.restored else { return Ok(()) };
        let begun = match message {
            Message::PreVote(request) | Message::Vote(request) => request.record.key > RecordKey::BLANK,
            Message::PreVoteReply(reply) | Message::VoteReply(reply) => reply.record.key > RecordKey::BLANK,
            Message::HeartbeatReply(_) | Message::Stored(_) | Message::Refused(_) => false,
            // Only a master sends these.
            Message::Heartbeat(_)
            | Message::Append { .. }
            | Message::Resync { .. }
            | Message::Distrust(_)
            | Message::Goodbye { .. } => true,
        };
        match begun {
            true => Err(DriverError::Restored { reason: reason.clone(), peer: peer.clone() }),
            false => Ok(()),
        }
    }

    fn event(&mut self, event: Event) -> Result<(), DriverError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.parts.node.handle(Time(clock::now_ns()), event);
            for effect in effects {
                self.perform(effect, &mut events)?;
            }
        }
        Ok(())
    }

    fn control(&mut self, control: Control) -> Result<(), DriverError> {
        // While something is under way a second request of its kind is refused at once, and the first asker goes on
        // waiting.
        match control {
            Control::HandOver { to, why, respond } => self.hand_over(Event::HandOver { to, why }, respond)?,
            Control::Force { why, respond } => self.hand_over(Event::Force { why }, respond)?,
            Control::Health(unhealthy) => self.judge(SEEN, unhealthy)?,
            Control::Refuse(refusal) => self.judge(HOOK, refusal)?,
            Control::Stuck(stuck) => self.judge(STUCK, stuck)?,
            Control::Gone(why) => {
                tracing::error!(%why, "files are gone");
                self.gone = Some((Instant::now(), why.clone()));
                self.judge(GONE, Some(why))?;
            }
            Control::End(why) => {
                self.event(Event::StorageFailed(why.clone()))?;
                return Err(DriverError::Stuck(why));
            }
            Control::ChangeMembers { edit, respond } => match edit.on(&self.parts.node.status().record) {
                Ok(change) => {
                    let first = self.changed.replace(respond);
                    self.event(Event::ChangeMembers(change))?;
                    if self.changed.is_none() {
                        self.changed = first;
                    }
                }
                Err(why) => drop(respond.send(Err(why))),
            },
        }
        Ok(())
    }

    fn judge(&mut self, by: usize, unfit: Option<Complaint>) -> Result<(), DriverError> {
        self.unfit[by] = unfit;
        self.view_due = true;
        self.event(Event::Health(self.unfit.iter().flatten().next().cloned()))
    }

    /// What doesn't go on here costs this machine the role at once, and for a while.
    fn look_for_stalls(&mut self) -> Result<(), DriverError> {
        let now = clock::now_ns();
        let calm = self.parts.calm.borrow().recovery;
        let stalls = Arc::clone(self.parts.gate.stalls());
        stalls.mark(Part::Driver, 0);
        if let Some(inbox) = &self.parts.inbox {
            self.stall.look_at_statement(&stalls, inbox.pulse(), now);
        }
        let Some(news) = self.stall.look(&stalls, now, calm) else { return Ok(()) };
        self.view_due = true;
        match news {
            News::Stalled(complaint) => {
                self.event(Event::Stalled(Some(complaint.clone())))?;
                self.judge(STALL, Some(complaint))
            }
            News::GoesOn(complaint) => {
                self.judge(STALL, Some(complaint))?;
                self.event(Event::Stalled(None))
            }
            News::Calm => self.judge(STALL, None),
        }
    }

    fn hand_over(&mut self, event: Event, respond: Handed) -> Result<(), DriverError> {
        let first = self.handed.replace(respond);
        self.event(event)?;
        if self.handed.is_none() {
            self.handed = first;
        }
        Ok(())
    }

    fn leave(&mut self, done: oneshot::Sender<bool>) -> Result<(), DriverError> {
        self.event(Event::Shutdown)?;
        self.view_due = true;
        let reigned = self.parts.node.status().role == RoleName::Master;
        self.leaving = Some(Leaving { since: Instant::now(), reigned, done });
        Ok(())
    }

    /// Says that this machine may end.
    fn tell_left(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let status = self.parts.node.status();
        let left = status.role != RoleName::Master;
        let known = !leaving.reigned || status.serving || leaving.since.elapsed() > SUCCESSOR_PATIENCE;
        let too_long = leaving.since.elapsed() > LEAVE_PATIENCE;
        if ((left && known) || too_long)
            && let Some(leaving) = self.leaving.take()
        {
            let _ = leaving.done.send(leaving.reigned);
        }
    }

    fn perform(&mut self, effect: Effect, events: &mut VecDeque<Event>) -> Result<(), DriverError> {
        match effect {
            Effect::Persist(hard) => {
                if self.hard.as_ref() != Some(&hard) {
                    let under_way = self.parts.gate.stalls().begin(Part::Votes, 0);
                    self.parts.reserve.make_room();
                    self.parts.durable.persist(&hard)?;
                    drop(under_way);
                    if hard.record.key > RecordKey::BLANK {
                        self.parts.restored = None; // it has founded
                    }
                    let me = hard.record.member(&self.parts.id);
                    let witness = self.parts.inbox.is_none();
                    self.rank_changed = me.is_some_and(|me| me.rank.is_witness() != witness);
                    self.hard = Some(hard);
                    self.view_due = true;
                }
            }
            Effect::Send { to, message } => self.send(to, message, events),
            Effect::Apply(transaction) => self.command(Command::Apply(transaction)),
            Effect::StartReign { term, reason } => {
                self.reign = Some(term);
                self.reason.clone_from(&reason);
                self.acknowledged = Txid::ZERO;
                self.opened = false;
                let others = upgrade::seen(&self.parts.node.status(), &self.parts.transport);
                let founding_level = self.upgrades.founding_level(&others);
                self.command(Command::StartReign { term, reason, founding_level });
            }
            Effect::EndReign => {
                self.parts.board.forget_differences();
                self.differences.forget();
                self.reign = None;
                self.command(Command::EndReign);
                self.fail_waiting("this machine stopped being the master");
            }
            Effect::Acknowledge(position) => self.acknowledge(position),
            Effect::OpenGate { term } => {
                self.opened = true;
                self.tell_members();
                self.parts.gate.open(term);
                let earlier = self.parts.node.earlier_leases();
                if let Some(inbox) = &self.parts.inbox {
                    inbox.open(term);
                }
                self.parts.throne.send_modify(|throne| throne.begin(term, &self.reason, earlier));
                self.view_due = true;
            }
            Effect::ExtendLease { until } => self.parts.gate.extend(until.0),
            Effect::CloseGate { why } => {
                self.parts.gate.close();
                self.parts.throne.send_modify(|throne| throne.end(why));
                if let Some(inbox) = &self.parts.inbox {
                    inbox.close();
                }
                self.view_due = true;
            }
            Effect::AllowWrites(allowed) => {
                let why = (!allowed).then(|| self.parts.node.status().notice.unwrap_or_default());
                if let Some(inbox) = &self.parts.inbox {
                    inbox.refuse(why);
                }
                self.view_due = true;
            }
            Effect::HoldWrites(hold) => {
                if let Some(inbox) = &self.parts.inbox {
                    inbox.hold(hold);
                }
            }
            Effect::ReleaseWrites => {
                if let Some(inbox) = &self.parts.inbox {
                    inbox.release();
                }
            }
            Effect::HandoverEnded(result) => {
                self.view_due = true;
                if let Some(handed) = self.handed.take() {
                    let _ = handed.send(result);
                }
            }
            Effect::Connect(members) => {
                let is_member = |id: &MemberId| members.iter().any(|member| member.id == *id);
                self.parts.acquaintance.retain(&self.parts.durable, is_member)?;
                let peers = addresses(&self.parts.configured, &members);
                self.parts.peers.send_replace(peers.clone());
                self.parts.transport.set_peers(peers);
                self.tell_members();
                self.view_due = true;
            }
            Effect::MembersChanged(result) => {
                self.view_due = true;
                if let Some(changed) = self.changed.take() {
                    let members = || {
                        view::of(&self.parts.cluster, &self.parts.node.status(), &self.parts.board)
                            .cluster
                            .members
                    };
                    let _ = changed.send(result.map(|()| members()));
                }
            }
            Effect::StartCopy { from } => self.start_rejoin(&from),
            Effect::Distrust { at } => {
                let why = format!("the master's database is another at {at}");
                self.command(Command::Rotten(why));
            }
            Effect::StopCopy => {
                if let Some(stop) = self.rejoin.take() {
                    stop.stop();
                }
            }
            Effect::Note(note) => {
                let status = self.parts.node.status();
                let peer = note.peer.map(|peer| peer.to_string()).unwrap_or_default();
                let master = status.master.map(|master| master.to_string()).unwrap_or_default();
                let (term, position, why) = (status.term, status.position, note.why);
                if note.what == "protocol violation" {
                    tracing::error!(%term, master, %position, peer, why, "{}", note.what);
                } else if note.what == "timing differs" {
                    tracing::warn!(%term, master, %position, peer, why, "{}", note.what);
                } else {
                    tracing::info!(%term, master, %position, peer, why, "{}", note.what);
                }
                self.view_due = true;
            }
        }
        Ok(())
    }

    /// The table of members is kept by the master.
    fn tell_members(&self) {
        if self.reign.is_some() {
            self.command(Command::Members(self.parts.node.status().record.members));
        }
    }

    fn command(&self, command: Command) {
        if let Some(inbox) = &self.parts.inbox {
            inbox.command(command);
        }
    }

    /// As master: whether a backup has the same database at the same position.
    fn compare(&mut self, from: &MemberId, sum: Option<(Position, u64)>, events: &mut VecDeque<Event>) {
        let (Some((position, theirs)), Some(sums)) = (sum, &self.parts.sums) else { return };
        let Some(own) = sums.at(position).filter(|_| self.reign.is_some()) else { return };
        if self.parts.board.differs(from, (own != theirs).then_some(position)) {
            self.view_due = true;
            if own == theirs {
                tracing::info!(peer = %from, %position, "its database equals the master's again");
            } else {
                tracing::error!(peer = %from, %position, "its database differs from the master's");
            }
        }
        let (node, me) = (&self.parts.node, &self.parts.id);
        let others = || {
            let members = node.status().record.members;
            let others = members.iter().filter(|member| {
                !member.rank.is_witness() && !member.absent && member.id != *from && member.id != *me
            });
            others.count()
        };
        match self.differences.on_sums(from, theirs, own, others, Instant::now()) {
            Verdict::None => {}
            Verdict::Own => {
                tracing::error!(%position, "two others have the same database, and the master another: it must be mended");
                let why = format!("its database is another than those of two others at {position}");
                self.command(Command::Rotten(why));
            }
            verdict => {
                let sure = verdict == Verdict::Odd;
                tracing::error!(
                    peer = %from, %position, sure,
                    "its database counts no more, and is brought in line with the master's; what it held is saved in its \
                     divergence report"
                );
                let event = Event::Differs { peer: from.clone(), at: position };
                events.push_back(event);
            }
        }
    }

    fn send(&mut self, to: MemberId, mut message: Message, events: &mut VecDeque<Event>) {
        if let Message::HeartbeatReply(reply) = &mut message {
            reply.sum = self.parts.sums.as_ref().and_then(|sums| sums.newest());
        }
        let channel = match &message {
            Message::Append { .. } => Channel::Bulk,
            _ => Channel::Control,
        };
        let agreed = self.parts.transport.agreed(&to);
        // An older program doesn't know it.
        if matches!(message, Message::Distrust(_)) && agreed.protocol < 2 {
            return;
        }
        let mut note = None;
        if let Message::Heartbeat(heartbeat) = &mut message {
            heartbeat.level = self.upgrades.told(agreed);
            note = upgrade::next::note(agreed);
        }
        let (head, body) = wire::encode(message);
        let head = upgrade::next::lengthen(head);
        if let Some(head) = note {
            let _ = self.parts.transport.send(&to, channel, Packet { head, body: Default::default() });
        }
        if let Err(error) = self.parts.transport.send(&to, channel, Packet { head, body }) {
            tracing::debug!(peer = %to, ?channel, %error, "not sent");
            // Control messages repeat by themselves; a transaction must not be missed unnoticed.
            if channel == Channel::Bulk && !events.iter().any(|e| matches!(e, Event::BulkDown(p) if *p == to))
            {
                events.push_back(Event::BulkDown(to));
            }
        }
    }

    fn acknowledge(&mut self, position: Position) {
        // A vote that was long in being stored may have come before it: then the lease can be over (I6).
        if self.opened && self.parts.gate.is_open(clock::now_ns()).is_none() {
            return self.fail_waiting("this machine's lease ended while it waited for its disk");
        }
        self.acknowledged = position.txid;
        self.parts.gate.set_acknowledged(position);
        if let Some(inbox) = &self.parts.inbox {
            inbox.acknowledged(position);
        }
        while self.waiting.front().is_some_and(|waiting| waiting.txid <= position.txid) {
            if let Some(waiting) = self.waiting.pop_front() {
                self.parts.measures.acknowledged(waiting.since.elapsed());
                for (respond, done) in waiting.answers {
                    let _ = respond.send(Ok(done));
                }
            }
        }
    }

    fn fail_waiting(&mut self, why: &str) {
        for waiting in self.waiting.drain(..) {
            for (respond, _) in waiting.answers {
                let _ = respond.send(Err(WriteError::OutcomeUnknown(why.to_owned())));
            }
        }
    }

    /// Answers that have waited too long: the outcome is unknown, and the client may ask again.
    fn expire(&mut self) {
        while self.waiting.front().is_some_and(|waiting| waiting.since.elapsed() > ACKNOWLEDGE_PATIENCE) {
            if let Some(waiting) = self.waiting.pop_front() {
                for (respond, _) in waiting.answers {
                    let why = "no backup has stored it yet".to_owned();
                    let _ = respond.send(Err(WriteError::OutcomeUnknown(why)));
                }
            }
        }
    }

    /// What kept this machine from beginning a term may be mended by now.
    fn forgive(&mut self) -> Result<(), DriverError> {
        if self.term_failed.is_some_and(|at| at.elapsed() > TERM_FORGIVEN) {
            self.term_failed = None;
            self.judge(TERM, None)?;
        }
        Ok(())
    }

    /// Whose files are gone hands over, and starts anew with empty ones once another serves. Where nobody else can, what it
    /// holds is in its open files alone: it goes on as it is, but as no master.
    fn follow_gone(&mut self) -> Result<(), DriverError> {
        let Some((since, why)) = self.gone.clone() else { return Ok(()) };
        let status = self.parts.node.status();
        if status.role == RoleName::Master {
            if since.elapsed() > RELIEF {
                self.event(Event::Barred(true))?;
                self.event(Event::StorageFailed(why.to_string()))?;
            }
            return Ok(());
        }
        let served = status.master.is_some_and(|master| master != self.parts.id);
        if served { Err(DriverError::Anew(why.to_string())) } else { Ok(()) }
    }

    fn start_rejoin(&mut self, from: &MemberId) {
        let (link, far) = rejoin::link(from.clone());
        let stopped = link.stopped();
        self.command(Command::Rejoin(link));
        let task = tokio::spawn(rejoin::fetch(self.parts.transport.open_copy(from), far));
        self.rejoin = Some(rejoin::Stop::new(stopped, task.abort_handle()));
    }

    fn serve_rejoin(&mut self, from: MemberId, stream: SecureStream) {
        self.rejoins.retain(|_, thread| !thread.is_finished());
        let Some(sums) = self.parts.sums.clone().filter(|_| !self.rejoins.contains_key(&from)) else {
            tracing::warn!(peer = %from, "rejoin refused: this machine is a witness, or serves it one already");
            return;
        };
        let runtime = tokio::runtime::Handle::current();
        let (directory, board) = (self.parts.directory.clone(), Arc::clone(&self.parts.board));
        let peer = from.clone();
        let run = move || {
            if let Err(error) = rejoin::serve(&runtime, &directory, &peer, &board, &sums, stream) {
                tracing::warn!(%peer, %error, "rejoin: broke off");
            }
        };
        match std::thread::Builder::new().name("rejoin".into()).spawn(run) {
            Ok(thread) => {
                self.rejoins.insert(from, thread);
            }
            Err(error) => tracing::error!(peer = %from, %error, "rejoin: no thread"),
        }
    }

    fn publish(&mut self) -> Result<(), DriverError> {
        if !self.view_due && self.last_view.elapsed() < VIEW_INTERVAL {
            return Ok(());
        }
        self.view_due = false;
        self.last_view = Instant::now();
        let status = self.parts.node.status();
        self.believe(&status)?;
        self.parts.acquaintance.tell(&self.parts.transport);
        let others = upgrade::seen(&status, &self.parts.transport);
        let serves = status.role == RoleName::Master && status.serving && status.writes_allowed;
        if let Some(level) = self.upgrades.look(&others, serves, Instant::now()) {
            self.command(Command::Raise(level));
        }
        let mut view = view::of(&self.parts.cluster, &status, &self.parts.board);
        self.upgrades.show(&mut view.cluster, &others, |peer| self.parts.transport.problem(peer));
        self.explain(&status, &mut view.cluster.notice);
        self.outage.look(view.cluster.master.is_some(), view.cluster.notice.as_deref());
        let now = clock::now_ns();
        self.parts.measures.saw(view.cluster.master.as_deref(), Term(view.cluster.term), now);
        self.parts.gate.set_view(view, now);
        Ok(())
    }
}
