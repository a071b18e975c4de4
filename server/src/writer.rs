//! The store thread: the only one that writes `state.db`, as master (group commit) or as backup (apply, rejoin).
//!
//! Takes work from the inbox in order and answers the driver with events. Never decides anything about succession.
//! Read `inbox.rs` for the pacing and `driver.rs` for what the events lead to.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tanist_api::Statement;
use tanist_replication::{Complaint, Event, Member, MemberId, Position, Stamp, Term, Transaction};
use tanist_store::{
    Batch, Captured, CheckpointOutcome, Checkpointer, Closed, Database, Hold, Memory, StoreError, WalPlace,
    WalSync, is_disk_code,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    audit, clock, idempotency,
    inbox::{Command, Inbox, QueuedWrite, Respond, Work},
    measures::Measures,
    members,
    obstacle::{Met, Obstacle},
    rejoin::{self, Board, Link, RejoinError},
    remember::Remember,
    room,
    served::Served,
    sql::{self, SqlError, SqlErrorKind, SqlLimits},
    stall::{Part, Stalls, UnderWay},
    state::{self, Change, ChangeError},
    watch::{self, Kept, WatchTable},
    write::{WriteDone, WriteError, WriteRequest, WriteWork},
};

/// What the store thread tells the driver.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// For the protocol.
    Protocol(Event),
    /// Answers that wait until everything up to the stamp is acknowledged.
    Await(Stamp, Vec<(Respond, WriteDone)>),
    /// This machine can't write although its disk is well, and why; or it can again.
    Unfit(Option<Complaint>),
    /// This machine's disk is nearly full; or it has room again.
    Room(Option<Complaint>),
    /// No term can begin on this replica, and why; or one can.
    Barred(Option<Complaint>),
    /// Others have written to the replica while it wasn't a master's, or while nobody looked, and why; or that is settled.
    Edited(Option<Complaint>),
    /// The replica can't be read any more, and why: it must be put aside, and another take its place.
    Anew(String),
    /// The level of this replica, and whether it is held there.
    Level(u32, Option<Hold>),
    /// The level couldn't be raised, and why.
    RaiseFailed(String),
    /// The founding of the cluster that the data belongs to, which this machine's own reign has begun on.
    Founded([u8; 16]),
    /// The disk can't be trusted any more: stop.
    Fatal(String),
}

/// Where the store thread reports; cheap to clone.
pub(crate) type StoreEvents = UnboundedSender<StoreEvent>;

/// How long the store thread sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_millis(250);
/// The same on a master: then it looks whether others have written to the file.
const IDLE_MASTER: Duration = Duration::from_millis(50);
/// The same for a while after they have.
const IDLE_BESIDE_OTHERS: Duration = Duration::from_millis(5);
const BESIDE_OTHERS: Duration = Duration::from_secs(2);
/// So long an outside writer is kept waiting at a time when he is further ahead than the backups can follow.
const HOLD_BACK: Duration = Duration::from_secs(1);
/// A backup that can't write waits so long before it says so, so that it isn't sent the same again at once.
const FAILED_APPLY_PAUSE: Duration = Duration::from_millis(500);

/// A rejoin for which the disk is full is tried again after so long.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(5);

/// A master whose disk refuses asks for a successor at most so often.
const HAND_OVER_EVERY: Duration = Duration::from_secs(5);

/// How many times its limit the WAL may have before that is worth a warning: a reader often is in the way for a moment.
const TOO_LONG: u64 = 4;
/// Between two such warnings.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// A person's transaction may hold the lock for so long before his write stays behind when the throne is handed over.
const HOLD_PATIENCE: Duration = Duration::from_millis(200);
/// So often his writes are taken over before the lock is ours.
const HOLD_TRIES: u32 = 20;

/// How long a clean end may take to put everything into the database file.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks for idempotency keys and events to forget.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Between two looks at the level of the database.
const LEVEL_EVERY: Duration = Duration::from_millis(200);

/// Settings of the store thread.
#[derive(Debug, Clone)]
pub(crate) struct WriterConfig {
    /// This machine's name, for the term history and reports.
    pub member: MemberId,
    /// Where rejoins are shown.
    pub board: Arc<Board>,
    /// Limits on users' SQL.
    pub sql: SqlLimits,
    /// How long answers of idempotent writes are kept.
    pub request_retention: Duration,
    /// Which events are kept.
    pub events: Kept,
    /// Which records of changes by users' SQL are kept.
    pub audit: audit::Kept,
    /// How long another program may hold the write lock before this machine isn't fit to be the master.
    pub lock_patience: Duration,
    /// Others may have written so many bytes that nobody has numbered before they are held back.
    pub outside_ahead: u64,
    /// Counts what is done here.
    pub measures: Arc<Measures>,
    /// What it waits for is told here.
    pub stalls: Arc<Stalls>,
}

/// Runs the store thread's loop until `Stop`.
pub(crate) fn run(mut database: Database, inbox: &Arc<Inbox>, events: &StoreEvents, config: WriterConfig) {
    inbox.pulse().thread().is_this();
    let memory = database.memory();
    let syncer = match database.wal_sync() {
        Ok(wal) => Syncer::start(wal, memory.clone(), events.clone(), &config),
        Err(error) => {
            let _ = events.send(StoreEvent::Fatal(error.to_string()));
            return;
        }
    };
    let remember = Remember::start(memory);
    let checkpoints = Checkpoints::start(&database, Arc::clone(&config.stalls));
    let obstacle = Obstacle::new(database.dir().to_owned(), config.lock_patience);
    let mut writer = Writer {
        obstacle,
        level: None,
        level_at: None,
        room: room::Watch::new(config.member.clone(), database.dir().to_owned()),
        outside_at: None,
        barred: false,
        doubt_told: database.is_doubted(),
        edited: false,
        reign: None,
        prune_at: Instant::now(),
        served: Served::default(),
        refusals: Refusals::default(),
        members: None,
        held: false,
        rotten: false,
        database: &mut database,
        inbox,
        events,
        config,
        syncer,
        checkpoints,
    };
    writer.look_at_schema();
    writer.tell_edited();
    loop {
        inbox.pulse().rest();
        let work = inbox.next(writer.patience());
        inbox.pulse().begin(&work);
        writer.served.look(clock::now_ns(), writer.reign.is_some());
        writer.room.look(writer.database, matches!(work, Work::Idle), events);
        match work {
            Work::Command(Command::Stop) => break,
            Work::Command(command) => writer.command(command),
            Work::Apply(transactions) => writer.apply(&transactions),
            Work::Batch(term, writes) => writer.batch(term, writes),
            Work::Idle => writer.idle(),
        }
        writer.checkpoint();
        writer.measure();
        writer.look_at_doubt();
        writer.look_at_level();
    }
    writer.syncer.flush();
    inbox.pulse().rest();
    drop(writer);
    drop(remember);
    close(database);
}

/// Whoever copies the database file of a stopped machine, or clears away what lies beside it, has all of it.
fn close(database: Database) {
    let position = database.stamp().position;
    match database.close(CLOSE_PATIENCE) {
        Ok(Closed::Whole) => tracing::info!(%position, "state.db holds everything"),
        Ok(Closed::Rest(frames)) => tracing::warn!(
            %position, frames,
            "not all could be put into state.db: a reader holds an old state, or the disk is slow. Keep state.db-wal with it"
        ),
        Ok(Closed::Open) => {
            tracing::warn!(%position, "state.db isn't closed: others hold its lock, or it must be brought in line first");
        }
        Err(error) => tracing::warn!(%error, %position, "close state.db: its next start looks closer"),
    }
}

struct Writer<'a> {
    database: &'a mut Database,
    inbox: &'a Arc<Inbox>,
    events: &'a StoreEvents,
    config: WriterConfig,
    syncer: Syncer,
    checkpoints: Checkpoints,
    reign: Option<Term>,
    prune_at: Instant,
    served: Served,
    refusals: Refusals,
    obstacle: Obstacle,
    room: room::Watch,
    /// When something that others have written was last taken over.
    outside_at: Option<Instant>,
    /// What was last told of the level, and when that was looked at.
    level: Option<(u32, Option<Hold>)>,
    level_at: Option<Instant>,
    /// No term can begin on this replica.
    barred: bool,
    /// It was said that a sync has failed.
    doubt_told: bool,
    /// It was said that others have written to the replica.
    edited: bool,
    /// To be brought into their table.
    members: Option<Vec<Member>>,
    /// No write is to begin until the next batch comes.
    held: bool,
    /// The master's own replica must be brought in line once another reigns.
    rotten: bool,
}

impl Writer<'_> {
    fn tell(&self, event: Event) {
        let _ = self.events.send(StoreEvent::Protocol(event));
    }

    /// Begins something that brings so many bytes to the disk, and that takes no longer than they do.
    fn under_way(&self, bytes: u64) -> UnderWay {
        self.config.stalls.begin(Part::Store, bytes)
    }

    /// How long to sleep when there is nothing to do.
    fn patience(&self) -> Duration {
        match (self.reign, self.outside_at) {
            (None, _) => IDLE,
            (Some(_), Some(at)) if at.elapsed() < BESIDE_OTHERS => IDLE_BESIDE_OTHERS,
            (Some(_), _) => IDLE_MASTER,
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::StartReign { term, reason, founding_level } => {
                self.database.set_founding_level(founding_level);
                self.start_reign(term, &reason);
            }
            Command::Raise(level) => self.raise(level),
            Command::EndReign => self.end_reign(),
            Command::Members(members) => {
                self.members = Some(members);
                self.keep_members();
            }
            Command::Watch(asked, respond) => self.watch(&asked, respond),
            Command::Hold(hold) => {
                self.hold();
                self.tell(Event::WritesHeld(hold));
            }
            Command::Rejoin(link) => self.rejoin(&link),
            Command::Apply(transaction) => self.apply(&[transaction]),
            Command::Rotten(why) => self.rotten(why),
            Command::Stop => {}
        }
    }

    fn start_reign(&mut self, term: Term, reason: &str) {
        let mut base = self.database.stamp();
        // Migrations may read and write much of it.
        let under_way = self.under_way(self.bytes() / 16);
        let started = self.database.become_master().and_then(|()| {
            base = self.database.stamp(); // it has looked again at what is there
            self.database.start_reign(term, self.config.member.as_str(), reason)
        });
        drop(under_way);
        match started.map(transactions) {
            Ok(Ok(transactions)) => {
                (self.reign, self.held) = (Some(term), false);
                self.obstacle.passed(self.events);
                let stamp = self.database.stamp();
                self.inbox.captured(Some(stamp.position));
                let history = self.database.history().clone();
                let bytes = transactions.iter().map(|transaction| u64::from(transaction.plain_len)).sum();
                self.tell_founding();
                self.tell(Event::ReignStarted { term, base, transactions, history });
                self.syncer.captured(stamp, self.database.wal_place(), bytes);
                self.tell_edited();
            }
            Ok(Err(why)) => self.reign_failed(term, why.to_owned()),
            Err(error) => self.reign_failed(term, error.to_string()),
        }
    }

    fn reign_failed(&mut self, term: Term, why: String) {
        tracing::error!(%term, why, "the reign's first transaction failed");
        self.syncer.flush();
        self.become_backup();
        self.tell(Event::ReignFailed { term, stamp: self.stamp(), why });
    }

    /// What this replica is, to the protocol.
    fn stamp(&self) -> Stamp {
        let stamp = self.database.stamp();
        // Something that no master numbered got in: the replica is on nobody's branch until it has rejoined.
        if self.database.is_diverged() { Stamp::off_branch(stamp.position) } else { stamp }
    }

    /// A newer program may have been the master: then this one can't be it any more.
    fn look_at_schema(&mut self) {
        let newer = match self.database.newer_schema() {
            Ok(newer) => newer,
            Err(error) => return tracing::warn!(%error, "look at the schema's version"),
        };
        let barred = self.database.is_barred();
        if (newer.is_some() || barred.is_some()) != self.barred {
            self.barred = newer.is_some() || barred.is_some();
            let why = newer.map(|error| error.to_string()).or(barred);
            let why = why.map(|why| Complaint::new(&format!("it can begin no term: {why}")));
            let _ = self.events.send(StoreEvent::Barred(why));
        }
    }

    /// Whoever holds what nobody has numbered comes last: another's replica is to be the cluster's, if there is one.
    fn tell_edited(&mut self) {
        let edited = self.database.is_unnumbered();
        if edited != self.edited {
            self.edited = edited;
            let why = "others have written to its state.db while it was stopped: that counts if nobody else can be the \
                       master, and is saved in a divergence report otherwise";
            let _ = self.events.send(StoreEvent::Edited(edited.then(|| Complaint::new(why))));
        }
    }

    /// Begins no write any more. What others have written goes along to the next master: the lock is ours from then on, and
    /// nobody writes before that one reigns.
    fn hold(&mut self) {
        for _ in 0..HOLD_TRIES {
            if self.reign.is_none() || !self.adopt_all() {
                break;
            }
            match self.database.hold(HOLD_PATIENCE) {
                Ok(true) => break,
                Ok(false) => {}
                // His write stays here, and is saved.
                Err(error) => {
                    tracing::warn!(%error, "the throne is handed over while another program holds the lock of state.db");
                    break;
                }
            }
        }
        self.held = true;
    }

    /// The handover was given up: others may write again.
    fn let_go(&mut self) {
        if self.held && !self.inbox.is_held() {
            self.held = false;
            if let Err(error) = self.database.let_go() {
                tracing::warn!(%error, "after a handover that was given up");
            }
        }
    }

    /// A raise of the level comes with a transaction of the master's, a hold with one of an operator's.
    fn look_at_level(&mut self) {
        if self.level_at.is_some_and(|at| at.elapsed() < LEVEL_EVERY) {
            return;
        }
        self.level_at = Some(Instant::now());
        let found = match self.database.level().and_then(|level| Ok((level, self.database.level_hold()?))) {
            Ok(found) => Some(found),
            // A replica that can't be read has others who say so.
            Err(error) => return tracing::debug!(%error, "look at the cluster's level"),
        };
        if found == self.level {
            return;
        }
        self.level = found.clone();
        if let Some((level, hold)) = found {
            let _ = self.events.send(StoreEvent::Level(level, hold));
        }
        self.look_at_schema();
    }

    fn tell_founding(&self) {
        if let Ok(Some(founding)) = self.database.founding() {
            let _ = self.events.send(StoreEvent::Founded(founding.id));
        }
    }

    /// Raises the cluster's level, as a transaction of its own.
    fn raise(&mut self, level: u32) {
        let (Some(term), false) = (self.reign, self.held) else { return };
        let why = format!("all members know it; by {}", self.config.member);
        match self.database.raise_level(term, level, &why) {
            Ok(Captured::Nothing) => {}
            Ok(captured) => {
                self.captured(captured);
                self.tell_founding();
            }
            // The driver asks again.
            Err(error @ StoreError::Busy { .. }) => drop(self.obstacle.meet(&error, self.events)),
            Err(error) => {
                tracing::error!(%error, level, "the cluster's level could not be raised: nothing was changed");
                self.refusals.on_error(self.events, &error);
                let _ = self.events.send(StoreEvent::RaiseFailed(format!("level {level}: {error}")));
            }
        }
        self.level_at = None;
    }

    /// After a failed sync nothing of this replica counts until a rejoin has written it anew. A master can't wait for that.
    fn look_at_doubt(&mut self) {
        if self.database.is_doubted() == self.doubt_told {
            return;
        }
        self.doubt_told = self.database.is_doubted();
        self.look_at_schema();
        if !self.doubt_told {
            return;
        }
        if self.reign.is_some() || self.database.is_doubt_unmarked() {
            let _ = self.events.send(StoreEvent::Fatal("a sync of state.db or its WAL failed".to_owned()));
        } else {
            self.tell(Event::ApplyFailed(self.stamp()));
        }
    }

    fn end_reign(&mut self) {
        self.reign = None;
        self.syncer.flush();
        self.become_backup();
        if std::mem::take(&mut self.rotten) {
            self.database.distrust();
        }
        self.look_at_schema();
        self.tell(Event::ReignEnded(self.stamp()));
    }

    /// What others have written since the last transaction, or write while they hold the lock, has no number: this replica has
    /// diverged by it, as soon as it is seen.
    fn become_backup(&mut self) {
        let _under_way = self.under_way(self.database.outside_bytes().unwrap_or(0));
        match self.database.become_backup() {
            Ok(()) => self.obstacle.passed(self.events),
            Err(error @ StoreError::Busy { .. }) => {
                self.obstacle.meet(&error, self.events);
            }
            Err(error) => {
                tracing::warn!(%error, "this replica must be brought in line with the next master");
                self.obstacle.passed(self.events);
                if !matches!(error, StoreError::ForeignWrite { .. }) {
                    self.database.distrust();
                }
            }
        }
    }

    /// A backup is brought in line at once; a master lets its heir reign first.
    fn rotten(&mut self, why: String) {
        if self.reign.is_some() {
            self.rotten = true;
            self.tell(Event::HandOver { to: None, why });
        } else {
            self.database.distrust();
            self.look_at_schema();
            self.tell(Event::ApplyFailed(self.stamp()));
        }
    }

    /// How large the database is.
    fn bytes(&self) -> u64 {
        u64::from(self.database.pages()) * u64::from(self.database.page_size())
    }

    fn measure(&self) {
        self.config.measures.sized(self.bytes(), self.database.wal_bytes());
    }

    fn apply(&mut self, transactions: &[Transaction]) {
        let bytes = transactions.iter().map(|transaction| u64::from(transaction.plain_len)).sum();
        let (began, under_way) = (Instant::now(), self.under_way(bytes));
        let applied = self.database.apply(transactions);
        drop(under_way);
        self.config.measures.applied(began.elapsed());
        match applied {
            // Somebody wrote between two transactions: say so now, not with the next one.
            Ok(_) if self.database.is_diverged() => {
                tracing::warn!("a write from outside got onto this backup: the replica must rejoin");
                self.tell(Event::ApplyFailed(self.stamp()));
            }
            Ok(applied) => {
                self.tell(Event::Stored(applied.stamp));
                if applied.history_changed {
                    self.look_at_schema();
                }
            }
            Err(error @ (StoreError::Predecessor { .. } | StoreError::Mode { .. })) => {
                tracing::debug!(%error, "transaction refused");
                self.tell(Event::ApplyFailed(self.stamp()));
            }
            Err(error) => {
                tracing::error!(%error, position = %self.database.stamp().position, "a transaction could not be stored");
                if !error.needs_copy() {
                    thread::sleep(FAILED_APPLY_PAUSE);
                }
                self.tell(Event::ApplyFailed(self.stamp()));
            }
        }
    }

    /// Is brought in line with the master's database in one transaction (R12).
    fn rejoin(&mut self, link: &Link) {
        let WriterConfig { member, board, .. } = &self.config;
        match rejoin::take(self.database, link, member, board, clock::wall()) {
            Ok(()) => {
                self.tell(Event::CopyFinished(self.stamp()));
                self.look_at_schema();
                self.tell_edited();
            }
            Err(RejoinError::Store(error)) if error.is_unreadable() => {
                tracing::error!(%error, "rejoin: this replica can't be read any more, and another takes its place");
                self.database.give_up();
                let _ = self
                    .events
                    .send(StoreEvent::Anew(format!("its replica can't be read any more: {error}")));
            }
            Err(error) => {
                let position = self.database.stamp().position;
                let pause = match &error {
                    RejoinError::Store(StoreError::DiskFull { .. }) => {
                        tracing::error!(%error, %position, "rejoin: waits until the disk has room, nothing was changed");
                        FULL_DISK_PAUSE
                    }
                    _ => {
                        tracing::warn!(%error, %position, "rejoin: failed, nothing was changed");
                        FAILED_APPLY_PAUSE
                    }
                };
                board.waits(member, error.to_string());
                self.inbox.wait_for_command(pause);
                board.remove(member);
                self.tell(Event::CopyFailed(self.stamp()));
            }
        }
    }

    /// Commits the writes together, each in a savepoint of its own, and hands the frames on.
    fn batch(&mut self, term: Term, writes: Vec<QueuedWrite>) {
        if self.reign != Some(term) {
            for write in writes {
                let _ = write.respond.send(Err(WriteError::NotMaster));
            }
            return self.inbox.captured(None);
        }
        self.held = false;
        self.keep_members();
        let mut writes = writes;
        let began = Instant::now();
        self.config.measures.begun(writes.iter().map(|write| began.saturating_duration_since(write.since)));
        loop {
            match self.try_batch(term, writes) {
                Ok(captured) => {
                    self.config.measures.committed(began.elapsed());
                    return self.captured(captured.unwrap_or(Captured::Nothing));
                }
                // The one that cost the others their transaction is answered; they run again without it.
                Err(again) => writes = again,
            }
        }
    }

    /// One try; `Err` gives back the writes that should run again.
    fn try_batch(
        &mut self,
        term: Term,
        writes: Vec<QueuedWrite>,
    ) -> Result<Option<Captured>, Vec<QueuedWrite>> {
        let prune = Instant::now() >= self.prune_at;
        let stalls = Arc::clone(&self.config.stalls);
        let under_way = self.under_way(self.database.outside_bytes().unwrap_or(0));
        let mut batch = match self.database.begin(term) {
            Ok(batch) => batch,
            Err(error) => {
                match self.obstacle.meet(&error, self.events) {
                    Some(Met::Wait) => self.inbox.put_back(writes),
                    Some(Met::Answer(answer)) => answer_all(writes, &answer),
                    None => {
                        tracing::error!(%error, writes = writes.len(), "a batch of writes could not begin");
                        self.refusals.on_error(self.events, &error);
                        answer_all(writes, &self.room.refused(&error));
                    }
                }
                return Ok(None);
            }
        };
        drop(under_way);
        self.obstacle.passed(self.events);
        if batch.has_outside_change() {
            self.outside_at = Some(Instant::now());
            tell_altered_tables(&mut batch);
        }
        let mut done: Vec<(QueuedWrite, WriteDone)> = Vec::with_capacity(writes.len());
        let mut waiting = writes.into_iter();
        let mut later = Vec::new();
        while let Some(write) = waiting.next() {
            self.inbox.pulse().statements(write.request.time_limit);
            let ran = self.room.run(&mut batch, &write.request, |batch| {
                run_write(batch, &write.request, &self.config.sql, &mut self.served)
            });
            self.inbox.pulse().work();
            match ran {
                Ok(Ok(result)) => done.push((write, result)),
                Ok(Err(error)) => {
                    let _ = write.respond.send(Err(error));
                    if batch.is_lost() {
                        drop(batch);
                        return Err(done.into_iter().map(|(write, _)| write).chain(waiting).collect());
                    }
                }
                Err(error) => {
                    drop(batch);
                    tracing::error!(%error, "a batch of writes was rolled back");
                    self.refusals.on_error(self.events, &error);
                    let _ = write.respond.send(Err(self.room.refused(&error)));
                    return Err(done.into_iter().map(|(write, _)| write).chain(waiting).collect());
                }
            }
            if batch.is_large() {
                later = waiting.collect();
                break;
            }
        }
        self.inbox.put_back(later);
        if prune {
            let _under_way = stalls.begin(Part::Prune, 0);
            let pruned = idempotency::prune(&mut batch, self.config.request_retention, &self.served);
            let pruned = pruned.and_then(|more| Ok(more | watch::prune(&mut batch, &self.config.events)?));
            let pruned = pruned
                .and_then(|more| Ok(more | audit::prune(&mut batch, &self.config.audit, &self.served)?));
            // What is left over goes with the next batch, so that what comes can't outrun what is removed.
            self.prune_at =
                Instant::now() + if matches!(pruned, Ok(true)) { Duration::ZERO } else { PRUNE_EVERY };
            if let Err(error) = pruned {
                tracing::error!(%error, "prune idempotency keys, events and records");
                drop(batch);
                return Err(done.into_iter().map(|(write, _)| write).collect());
            }
        }
        let bytes = if batch.is_large() { self.config.outside_ahead.saturating_mul(8) } else { 0 };
        let under_way = stalls.begin(Part::Store, bytes);
        let committed = batch.commit();
        drop(under_way);
        match committed {
            Ok(captured) => {
                let stamp = self.database.stamp();
                let answers: Vec<_> = done
                    .into_iter()
                    .map(|(write, result)| (write.respond, WriteDone { position: stamp.position, ..result }))
                    .collect();
                if !answers.is_empty() {
                    let _ = self.events.send(StoreEvent::Await(stamp, answers));
                }
                Ok(Some(captured))
            }
            Err(error) => {
                tracing::error!(%error, writes = done.len(), "a batch of writes was not committed");
                self.refusals.on_error(self.events, &error);
                let writes = done.into_iter().map(|(write, _)| write).collect();
                answer_all(writes, &self.room.refused(&error));
                Ok(None)
            }
        }
    }

    fn captured(&mut self, captured: Captured) {
        let stamp = self.database.stamp();
        let bytes = match captured {
            Captured::Nothing => return self.inbox.captured(None),
            Captured::Transaction(transaction) => {
                let bytes = u64::from(transaction.plain_len);
                self.tell(Event::Captured(transaction));
                bytes
            }
            Captured::Break(stamp) => {
                tracing::warn!(position = %stamp.position, "changes from outside could not be captured: every backup must rejoin");
                self.tell(Event::CaptureBroken(stamp));
                self.database.wal_bytes()
            }
        };
        self.syncer.captured(stamp, self.database.wal_place(), bytes);
        self.inbox.captured(Some(stamp.position));
    }

    /// Brings the table of members up to date, as a transaction of its own.
    fn keep_members(&mut self) {
        // While writes are held nothing may be numbered: the next master, or the next batch, does it.
        let (Some(term), false) = (self.reign, self.held) else { return };
        let Some(members) = self.members.take() else { return };
        let under_way = self.under_way(0);
        let kept = self.database.begin(term).and_then(|mut batch| {
            members::keep(&mut batch, &members)?;
            batch.commit()
        });
        drop(under_way);
        match kept {
            Ok(Captured::Nothing) => {}
            Ok(captured) => self.captured(captured),
            // The idle loop comes back to it.
            Err(StoreError::Busy { .. }) => self.members = Some(members),
            // Nothing is decided by the table; the next reign writes it again.
            Err(error) => tracing::warn!(%error, "the table of members could not be written"),
        }
    }

    /// Begins or ends the telling of a table's rows, as a transaction of its own.
    fn watch(&mut self, asked: &WatchTable, respond: Respond) {
        let (Some(term), false) = (self.reign, self.held) else {
            let _ = respond.send(Err(WriteError::NotMaster));
            return;
        };
        let under_way = self.under_way(0);
        let done = self.database.begin(term).and_then(|mut batch| {
            let changed = batch.internal(|connection| watch::change(connection, asked))?;
            let captured = if matches!(changed, Ok(Ok(_))) { batch.commit()? } else { Captured::Nothing };
            Ok((changed, captured))
        });
        drop(under_way);
        match done {
            Ok((Ok(Ok(table)), captured)) => {
                let stamp = self.database.stamp();
                let answer = serde_json::to_vec(&table).map(Bytes::from).unwrap_or_default();
                let answers =
                    vec![(respond, WriteDone { position: stamp.position, answer, replayed: false })];
                let _ = self.events.send(StoreEvent::Await(stamp, answers));
                if captured != Captured::Nothing {
                    self.captured(captured);
                }
            }
            Ok((Ok(Err(unfit)), _)) => drop(respond.send(Err(WriteError::Unfit(unfit)))),
            Ok((Err(error), _)) => drop(respond.send(Err(WriteError::Sql(SqlError::from_sqlite(0, &error))))),
            Err(error) => {
                tracing::error!(%error, table = asked.table, "a table could not be watched");
                let answer = match &error {
                    StoreError::Busy { .. } => WriteError::Locked(error.to_string()),
                    StoreError::OutsideWrite { .. } => WriteError::OutsideWrite(error.to_string()),
                    _ => WriteError::Storage(error.to_string()),
                };
                let _ = respond.send(Err(answer));
            }
        }
    }

    /// Looks what others do: on the master they write, after it they may still hold the lock.
    fn idle(&mut self) {
        if self.reign.is_some() {
            self.let_go();
            self.adopt();
            self.keep_members();
        } else if !self.database.is_master() && !self.database.is_locked() && !self.database.is_diverged() {
            match self.database.take_lock() {
                Ok(()) => self.obstacle.passed(self.events),
                Err(StoreError::ForeignWrite { .. }) => {
                    self.obstacle.passed(self.events);
                    tracing::warn!(
                        "another program wrote to state.db while this machine became a backup: the replica must rejoin"
                    );
                    self.tell(Event::ApplyFailed(self.stamp()));
                }
                Err(error) => drop(self.obstacle.meet(&error, self.events)),
            }
        }
    }

    /// Numbers what others have written to the master's database. Not beside too many transactions under way, unless they are
    /// far ahead: then they wait for the lock, so that the backups can follow.
    fn adopt(&mut self) {
        if self.held {
            return;
        }
        match self.database.outside_change() {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => return tracing::error!(%error, "look for writes from outside"),
        }
        let (busy, ahead) = (!self.inbox.has_room(), self.database.outside_bytes().ok());
        if !busy || ahead.is_none_or(|ahead| ahead >= self.config.outside_ahead) {
            self.adopt_beside(busy, ahead.unwrap_or(0));
        }
    }

    /// The same, however many transactions are under way; whether all is adopted.
    fn adopt_all(&mut self) -> bool {
        match self.database.outside_change() {
            Ok(changed) => !changed || self.adopt_beside(false, self.database.outside_bytes().unwrap_or(0)),
            Err(error) => {
                tracing::error!(%error, "look for writes from outside");
                false
            }
        }
    }

    /// So many bytes of it; whether all is adopted.
    fn adopt_beside(&mut self, busy: bool, ahead: u64) -> bool {
        let Some(term) = self.reign else { return false };
        let stalls = Arc::clone(&self.config.stalls);
        let under_way = self.under_way(ahead);
        let adopted = self.database.begin(term).and_then(|mut batch| {
            if busy {
                self.inbox.wait_for_room(HOLD_BACK);
                stalls.mark(Part::Store, ahead);
            }
            tell_altered_tables(&mut batch);
            batch.commit()
        });
        drop(under_way);
        match adopted {
            Ok(captured) => {
                self.obstacle.passed(self.events);
                self.outside_at = Some(Instant::now());
                tracing::debug!(position = %self.database.stamp().position, "a write from outside was adopted");
                self.captured(captured);
                true
            }
            Err(error) => {
                if self.obstacle.meet(&error, self.events).is_none() {
                    tracing::error!(%error, "a write from outside could not be adopted");
                    self.refusals.on_error(self.events, &error);
                }
                false
            }
        }
    }

    fn checkpoint(&mut self) {
        if !self.database.checkpoint_due() || !self.checkpoints.ready() {
            return;
        }
        let under_way = self.under_way(self.database.wal_bytes());
        let stepped = self.database.checkpoint_step();
        drop(under_way);
        match stepped {
            Ok(outcome) => self.checkpoints.stepped(&outcome, self.database.wal_bytes()),
            // Another program writes; the next step comes.
            Err(StoreError::Busy { .. }) => {}
            Err(error) => tracing::warn!(%error, "checkpoint"),
        }
    }
}

/// Others may have altered watched tables: their rows are told as they are now.
fn tell_altered_tables(batch: &mut Batch<'_>) {
    match batch.internal(watch::refresh) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "watched tables are told as they were before they were altered from outside");
        }
        Err(error) => tracing::warn!(%error, "look at watched tables after a write from outside"),
    }
}

/// The disk refuses writes: a machine that can store should reign.
#[derive(Default)]
struct Refusals {
    asked: Option<Instant>,
}

impl Refusals {
    fn on_error(&mut self, events: &StoreEvents, error: &StoreError) {
        // Anything else says nothing about this machine: another would meet it too.
        if !error.is_disk() {
            return;
        }
        if self.asked.is_none_or(|at| at.elapsed() > HAND_OVER_EVERY) {
            self.asked = Some(Instant::now());
            let why = format!("its disk refuses: {error}");
            let _ = events.send(StoreEvent::Protocol(Event::HandOver { to: None, why }));
        }
    }
}

/// Runs one write in its savepoint; the inner error fails it alone, the outer one the whole batch.
pub(crate) fn run_write(
    batch: &mut Batch<'_>,
    request: &WriteRequest,
    limits: &SqlLimits,
    served: &mut Served,
) -> Result<Result<WriteDone, WriteError>, StoreError> {
    if let Some(key) = &request.idempotency {
        match idempotency::stored(batch, key)? {
            idempotency::Stored::Unknown => {}
            idempotency::Stored::Answer(answer) => {
                return Ok(Ok(WriteDone { position: Position::ZERO, answer, replayed: true }));
            }
            idempotency::Stored::OtherRequest => return Ok(Err(WriteError::IdempotencyMismatch)),
        }
    }
    let ran = match &request.work {
        WriteWork::Statements(statements) => run_statements(batch, statements, request, limits, served)?,
        WriteWork::State(change) => run_change(batch, change, request.time_limit)?,
    };
    let answer = match ran {
        Ok(answer) => Bytes::from(answer),
        Err(error) => return Ok(Err(error)),
    };
    if batch.altered()
        && let Err(error) = batch.internal(watch::refresh)?
    {
        tracing::warn!(%error, "watched tables are told as they were before they were altered");
    }
    if let Some(key) = &request.idempotency {
        // Not in the request's savepoint, where Tanist's own tables are closed: if it fails, the batch is lost whole.
        idempotency::store(batch, key, &answer, served)?;
    }
    Ok(Ok(WriteDone { position: Position::ZERO, answer, replayed: false }))
}

type Ran = Result<Result<Vec<u8>, WriteError>, StoreError>;

fn run_statements(
    batch: &mut Batch<'_>,
    statements: &[Statement],
    request: &WriteRequest,
    limits: &SqlLimits,
    served: &mut Served,
) -> Ran {
    let author = request.author.as_ref();
    let no_room = author.map(|author| audit::is_full(batch, author)).transpose()?.unwrap_or(false);
    batch.set_deadline(Some(Instant::now() + request.time_limit));
    let result = batch.request(|connection| {
        let ran = sql::run_telling(connection, statements, limits)?;
        // What can't be recorded isn't done.
        if ran.1 && no_room { Err(SqlError::audit_full()) } else { Ok(ran) }
    });
    Ok(match result {
        Ok(Ok((results, changes))) => {
            if let (Some(author), true) = (author, changes) {
                audit::record(batch, author, statements, None, served)?;
            }
            Ok(serde_json::to_vec(&results).unwrap_or_default())
        }
        // Whatever a limit has stopped may look like a failing disk.
        Ok(Err(error))
            if batch.interrupted().is_none()
                && error.sqlite_code.is_some_and(|code| blames_disk(code, batch.directory())) =>
        {
            return Err(StoreError::Statement { message: error.message });
        }
        Ok(Err(error)) => {
            let error = error.explain(batch.interrupted(), batch.denied());
            // Whoever tries what nobody may do is on record, too, as long as there is room for what is done.
            if let (Some(author), SqlErrorKind::Denied, false) = (author, error.kind, no_room) {
                audit::record(batch, author, statements, Some(&error.to_string()), served)?;
            }
            Err(WriteError::Sql(error))
        }
        Err(error) if error.is_request() => Err(WriteError::Sql(SqlError::refused(&error))),
        Err(error) => return Err(error),
    })
}

/// With less room than this a disk is full, in bytes.
const ROOM: u64 = 4 << 20;

/// Whether it is the disk that a statement has met. That there is no room left is also what a table says whose row numbers have
/// run out.
fn blames_disk(code: i32, directory: &Path) -> bool {
    let full = code & 0xff == rusqlite::ffi::SQLITE_FULL;
    is_disk_code(code) && (!full || fs4::available_space(directory).is_ok_and(|room| room < ROOM))
}

fn run_change(batch: &mut Batch<'_>, change: &Change, time_limit: Duration) -> Ran {
    batch.set_deadline(Some(Instant::now() + time_limit));
    let result = batch.change(|connection| state::run(connection, change));
    let done = match result {
        Ok(done) => done,
        Err(error) if error.is_request() => return Ok(Err(WriteError::Sql(SqlError::refused(&error)))),
        Err(error) => return Err(error),
    };
    Ok(match done {
        Ok(done) => Ok(done.encode()),
        Err(ChangeError::Refused(refusal)) => Err(WriteError::State(refusal)),
        Err(ChangeError::Sqlite(source))
            if batch.interrupted().is_none()
                && source
                    .sqlite_error()
                    .is_some_and(|error| blames_disk(error.extended_code, batch.directory())) =>
        {
            return Err(StoreError::Sqlite { doing: "change the state", source });
        }
        Err(ChangeError::Sqlite(error)) => match SqlError::from_sqlite(0, &error) {
            error if error.kind != SqlErrorKind::Sql => {
                Err(WriteError::Sql(error.explain(batch.interrupted(), batch.denied())))
            }
            error => {
                tracing::error!(%error, "a change of state could not be written");
                Err(WriteError::Storage(error.message))
            }
        },
    })
}

fn answer_all(writes: Vec<QueuedWrite>, answer: &WriteError) {
    for write in writes {
        let _ = write.respond.send(Err(answer.clone()));
    }
}

/// The reign's first transactions; a reign that begins with changes that couldn't be captured doesn't begin.
fn transactions(captured: Vec<Captured>) -> Result<Vec<Transaction>, &'static str> {
    captured
        .into_iter()
        .filter_map(|captured| match captured {
            Captured::Nothing => None,
            Captured::Transaction(transaction) => Some(Ok(transaction)),
            Captured::Break(_) => Some(Err("changes from outside could not be captured")),
        })
        .collect()
}

/// Syncs the WAL in a thread of its own, while the frames travel.
struct Syncer {
    shared: Arc<SyncShared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct SyncShared {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Default)]
struct SyncState {
    captured: Option<(Stamp, WalPlace)>,
    /// How much there is to sync.
    bytes: u64,
    busy: bool,
    stop: bool,
}

impl Syncer {
    fn start(wal: WalSync, memory: Memory, events: StoreEvents, config: &WriterConfig) -> Syncer {
        let (measures, stalls) = (Arc::clone(&config.measures), Arc::clone(&config.stalls));
        let shared = Arc::new(SyncShared::default());
        let for_thread = Arc::clone(&shared);
        let run = move || {
            let mut state = for_thread.state.lock();
            loop {
                if let Some((stamp, place)) = state.captured.take() {
                    state.busy = true;
                    let bytes = std::mem::take(&mut state.bytes);
                    drop(state);
                    let (began, under_way) = (Instant::now(), stalls.begin(Part::WalSync, bytes));
                    let synced = wal.sync();
                    drop(under_way);
                    measures.synced(began.elapsed());
                    match synced {
                        Ok(()) => {
                            memory.note_numbered(stamp, place);
                            let _ = events.send(StoreEvent::Protocol(Event::Stored(stamp)));
                        }
                        // After a failed sync nobody knows what is on the disk: retrying would lie.
                        Err(error) => {
                            let _ = events.send(StoreEvent::Fatal(format!("sync the WAL: {error}")));
                            return;
                        }
                    }
                    state = for_thread.state.lock();
                    state.busy = false;
                    for_thread.changed.notify_all();
                } else if state.stop {
                    return;
                } else {
                    for_thread.changed.wait(&mut state);
                }
            }
        };
        let thread = thread::Builder::new().name("wal-sync".into()).spawn(run).ok();
        Syncer { shared, thread }
    }

    /// Everything up to `stamp`, so many bytes more, is in the WAL, which ends here: sync it.
    fn captured(&self, stamp: Stamp, place: WalPlace, bytes: u64) {
        let mut state = self.shared.state.lock();
        state.captured = Some((stamp, place));
        state.bytes = state.bytes.saturating_add(bytes);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until all captured is synced and reported.
    fn flush(&self) {
        let mut state = self.shared.state.lock();
        while (state.captured.is_some() || state.busy) && !self.thread_ended() {
            self.shared.changed.wait_for(&mut state, Duration::from_millis(50));
        }
    }

    fn thread_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the WAL into the database file in the background, and tells when the rest can be done at once.
struct Checkpoints {
    ask: Option<mpsc::SyncSender<()>>,
    done: mpsc::Receiver<()>,
    running: bool,
    thread: Option<thread::JoinHandle<()>>,
    /// When it was last said that the WAL can't be restarted.
    warned: Option<Instant>,
    /// A longer WAL than this is worth a warning, in bytes.
    too_long: u64,
}

impl Checkpoints {
    fn start(database: &Database, stalls: Arc<Stalls>) -> Checkpoints {
        let (ask, asked) = mpsc::sync_channel::<()>(1);
        let (tell, done) = mpsc::sync_channel::<()>(1);
        let wal_limit = database.wal_limit();
        let thread = match database.background_checkpointer() {
            Ok(mut checkpointer) => {
                let run = move || {
                    while asked.recv().is_ok() {
                        let _under_way = stalls.begin(Part::Checkpoint, wal_limit.saturating_mul(TOO_LONG));
                        run_passive(&mut checkpointer);
                        if tell.send(()).is_err() {
                            return;
                        }
                    }
                };
                thread::Builder::new().name("checkpoint".into()).spawn(run).ok()
            }
            Err(error) => {
                tracing::error!(%error, "no background checkpoints");
                None
            }
        };
        Checkpoints {
            ask: Some(ask),
            done,
            running: false,
            thread,
            warned: None,
            too_long: TOO_LONG * database.wal_limit(),
        }
    }

    /// Whether the background part has just ended; starts it otherwise.
    fn ready(&mut self) -> bool {
        if self.running {
            if self.done.try_recv().is_ok() {
                self.running = false;
                return true;
            }
            return false;
        }
        if let Some(ask) = &self.ask {
            self.running = ask.try_send(()).is_ok();
        }
        false
    }

    fn stepped(&mut self, outcome: &CheckpointOutcome, wal_bytes: u64) {
        let quiet = self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY);
        if outcome.is_busy() && wal_bytes > self.too_long && !quiet {
            self.warned = Some(Instant::now());
            tracing::warn!(wal_bytes, "the WAL can't be restarted: a reader keeps an old snapshot open");
        }
    }
}

fn run_passive(checkpointer: &mut Checkpointer) {
    if let Err(error) = checkpointer.passive() {
        tracing::warn!(%error, "background checkpoint");
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
