//! Assembly: starts a machine's parts in the order in which each can fail clearly, and stops them in reverse.
//!
//! Owns the threads and the listening sockets. Decides nothing. Read `driver.rs` for the life in between.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tanist_replication::{Config as NodeConfig, HardState, Node, Rank, RecordKey, Stamp, Time};
use tanist_store::{Database, Reserve};
use tanist_transport::{Config as TransportConfig, Lives, Names, Transport, TransportEvent};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    acquaintance::Acquaintance,
    auth::Operators,
    backup::{
        Source,
        schedule::{self, Schedule},
    },
    clock,
    config::{Config, Health, Hooks, HttpLimits, Tls},
    descriptors,
    discovery::Here,
    driver::{self, Control, DriverError, Parts},
    durable::{self, DirectoryLock, Durable, DurableError},
    end_notice::{EndNotice, Subject},
    gate::Gate,
    gone::Gone,
    health,
    hooks::{self, Throne},
    http,
    inbox::{Command, Inbox, InboxLimits},
    lock_holder,
    measures::Measures,
    presence::{self, Presence},
    priority,
    reader::{ReadPool, Verified},
    recent,
    reign::ReignObserver,
    rejoin::Board,
    room,
    scrub::{self, ScrubThread},
    stall::Stalls,
    view,
    watch::{Feeder, FeederParts, Hub, Kept},
    watchdog,
    within::within,
    write::WriterHandle,
    writer::{self, WriterConfig},
};

/// Peer events that wait for the driver; beyond that, links wait (TCP back-pressure).
const PEER_EVENTS: usize = 1024;
/// Operators' requests that wait for the driver.
const CONTROLS: usize = 16;
/// Other machines' connections for forwarded requests that wait for HTTP.
const FORWARDS: usize = 64;
/// Connections that wait to be accepted. After a takeover all clients come at once, and one that finds no room is
/// kept out for a second by its own system.
const BACKLOG: i32 = 1024;
/// How long a former master that stops sends requests on to the next one.
const REDIRECT_TIME: Duration = Duration::from_millis(200);
/// A replica that has not been current for so long tells watchers nothing more: they go on at another machine.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// How long a stop waits for the goodbye, and for each thread.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// The same when the disk is known not to answer.
const STALLED_PATIENCE: Duration = Duration::from_secs(1);

/// Why a machine can't start. Nothing was changed that another start would miss.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data directory or `node.db`.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// `state.db`.
    #[error("{0}{advice}", advice = advice(.0))]
    Store(#[from] tanist_store::StoreError),
    /// The replica is another cluster's.
    #[error(
        "{path}: it holds the data of {found}, this machine belongs to {expected}; nothing was changed. Move state.db, state.db-wal and \
         state.db-shm away and start again: this machine gets the data from its master"
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose data it is.
        found: String,
        /// What node.db or the configuration says.
        expected: String,
    },
    /// A restore broke off.
    #[error(
        "data_dir: {0} holds the beginning of a restore but no database: empty the directory and restore again"
    )]
    Restore(PathBuf),
    /// A listening address.
    #[error("{field} {address}: {source}")]
    Listen {
        /// The configuration field.
        field: &'static str,
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate for clients.
    #[error(transparent)]
    Tls(#[from] http::TlsError),
    /// The operating system.
    #[error("{context}: {source}")]
    System {
        /// What was tried.
        context: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// How long another program may hold the lock of `state.db` before a start gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Opens the replica, once it is known to be one. One that can't be read is put aside where another machine holds everything.
async fn open(
    config: &Config,
    hard: Option<&HardState>,
    reserve: &Arc<Reserve>,
) -> Result<Database, StartError> {
    let others = hard.is_some_and(|hard| hard.record.sync_set.iter().any(|id| *id != config.id));
    match open_as_it_is(config, hard, reserve).await {
        Err(StartError::Store(error)) if error.is_unreadable() && others => {
            let place = tanist_store::put_aside(&config.data_dir)?;
            tracing::error!(
                %error,
                place = %place.display(),
                "this replica can't be read any more: it was put aside, and the master's pages take its place"
            );
            open_as_it_is(config, hard, reserve).await
        }
        opened => opened,
    }
}

async fn open_as_it_is(
    config: &Config,
    hard: Option<&HardState>,
    reserve: &Arc<Reserve>,
) -> Result<Database, StartError> {
    tanist_store::check_file(&config.data_dir)?;
    let was_master = hard.is_some_and(|hard| hard.record.master.as_ref() == Some(&config.id));
    let alone = hard.is_some_and(|hard| hard.record.sync_set.iter().all(|id| *id == config.id));
    let until = Instant::now() + LOCK_PATIENCE;
    let mut said = false;
    let mut full = room::Start::new(reserve);
    loop {
        let reserve = Some(Arc::clone(reserve));
        let options = tanist_store::Options { was_master, alone, reserve, ..config.store_options() };
        match Database::open(&config.data_dir, options) {
            Err(tanist_store::StoreError::Busy { .. }) if Instant::now() < until => {
                if !std::mem::replace(&mut said, true) {
                    let holder = lock_holder::describe(&config.data_dir);
                    tracing::warn!(
                        holder,
                        "another program holds the lock of state.db: this machine starts when it lets go"
                    );
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) if error.is_disk() && full.again(error.to_string()).await => {}
            opened => {
                let database = opened?;
                if database.is_doubted() {
                    tracing::warn!(
                        position = %database.stamp().position,
                        "a sync of state.db or its WAL has failed: this replica counts for nothing until the master's pages are in it"
                    );
                }
                if database.is_unnumbered() {
                    tracing::warn!(
                        position = %database.stamp().position,
                        "others have written to state.db, and nobody has numbered it: \
                         it is taken over if this machine is elected, and saved in a divergence report otherwise"
                    );
                }
                if let Some(why) = database.is_barred() {
                    tracing::warn!(position = %database.stamp().position, why, "this replica counts for nothing");
                }
                return Ok(database);
            }
        }
    }
}

/// Begins a start of this data directory, once its data is known to be this cluster's.
fn begin(
    config: &Config,
    durable: &Durable,
    database: Option<&Database>,
    restored: bool,
) -> Result<(Lives, Names), StartError> {
    let begun = durable.begin_life(durable::machine_mark().as_deref())?;
    let found = database.map(Database::founding).transpose()?.flatten();
    if let Some(found) = &found {
        let path = config.data_dir.join(tanist_store::DATABASE_FILE);
        let founded = |id: &[u8; 16]| format!("{:08x}", u128::from_be_bytes(*id) >> 96);
        if found.cluster != config.cluster.as_str() {
            let (found, expected) =
                (format!("cluster {:?}", found.cluster), format!("{:?}", config.cluster.as_str()));
            return Err(StartError::OtherCluster { path, found, expected });
        }
        if let Some(known) = begun.founding.filter(|known| *known != found.id) {
            let found = format!("another cluster of this name (founding {})", founded(&found.id));
            let expected = format!("the one with founding {}", founded(&known));
            return Err(StartError::OtherCluster { path, found, expected });
        }
    }
    // A restored machine must hear of a cluster that has begun, and end: nobody lets it in by a founding that is still to come.
    let founding = begun.founding.or(found.map(|found| found.id)).filter(|_| !restored);
    Ok((Lives::new(begun.life, founding, begun.known), Names::remembering(begun.names)))
}

/// What an operator can do about a replica that can't be opened.
fn advice(error: &tanist_store::StoreError) -> &'static str {
    use tanist_store::StoreError::{Corrupt, NotADatabase};
    match error {
        NotADatabase { .. } | Corrupt { .. } => {
            "; if state.db-wal was cleared away, put it back. Otherwise this replica can't be read any more: move state.db, state.db-wal and state.db-shm away (don't delete them yet) and \
             start again, and it is brought in line by the master, unless this machine alone holds the newest data"
        }
        _ => "",
    }
}

/// Why a running machine had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// See [`DriverError`].
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// It has become a witness, or is none any more: it stops well and can be started again, as what it is now.
    #[error("this machine's rank has changed between witness and data member")]
    RankChanged,
    /// A part ended that never should.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

/// A running machine.
#[derive(Debug)]
pub struct Server {
    member: String,
    http_address: SocketAddr,
    peer_address: SocketAddr,
    stop_driver: mpsc::Sender<oneshot::Sender<bool>>,
    stop_http: Option<oneshot::Sender<()>>,
    http: tokio::task::JoinHandle<()>,
    driver_ended: Option<oneshot::Receiver<Result<bool, DriverError>>>,
    driver: Option<JoinHandle<Option<Durable>>>,
    store: Option<(Arc<Inbox>, JoinHandle<()>)>,
    scrub: Option<ScrubThread>,
    /// What goes on beside the service, and ends with it.
    beside: Vec<tokio::task::JoinHandle<()>>,
    /// Shows that the HTTP threads go on, as long as the driver looks.
    beat: tokio::task::JoinHandle<()>,
    feeder: Option<Feeder>,
    schedule: Option<Schedule>,
    hooks: Option<JoinHandle<()>>,
    live: Live,
    board: Arc<Board>,
    stalls: Arc<Stalls>,
    here: Option<Here>,
    reign: ReignObserver,
    subject: Subject,
    notice: Option<EndNotice>,
    gone: Option<Gone>,
    _lock: DirectoryLock,
}

/// What can change while the machine runs.
#[derive(Debug)]
struct Live {
    operators: mpsc::Sender<Control>,
    health: watch::Sender<Health>,
    hooks: watch::Sender<Hooks>,
    limits: watch::Sender<HttpLimits>,
    operators_keys: Operators,
    /// With the files that it is read from.
    tls: Option<(watch::Sender<http::Secured>, Tls)>,
}

fn listen(field: &'static str, address: &str) -> Result<TcpListener, StartError> {
    let fail = |source| StartError::Listen { field, address: address.to_owned(), source };
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs().map_err(fail)? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(fail(refused))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // IPv4, too: systems differ in what they do by themselves. One that can't goes on with IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    // On Windows the option means something else: that several may share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::System { context: "read a listening address", source })
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| StartError::System {
        context: "get random bytes",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

impl Server {
    /// Starts a machine. The calling tokio runtime serves HTTP; replication has a thread and a runtime of its own.
    ///
    /// # Errors
    /// When something the configuration names can't be used; the message names it.
    pub async fn start(mut config: Config) -> Result<Server, StartError> {
        descriptors::clamp(&mut config);
        let lock = DirectoryLock::take(&config.data_dir)?;
        durable::close_to_others(&config.data_dir);
        let reserve = Arc::new(Reserve::open(&config.data_dir, config.reserve));
        let mut full = room::Start::new(&reserve);
        tanist_store::prepare(&config.data_dir)?;
        tanist_store::set_sql_room(config.limits.sql_memory, config.limits.sql_temp);
        let tls = config.tls.as_ref().map(http::Secured::load).transpose()?;
        let http_listener = listen("listen.http", &config.listen.http)?;
        let peer_listener = listen("listen.peer", &config.listen.peer)?;
        let (http_address, peer_address) = (local(&http_listener)?, local(&peer_listener)?);
        let (durable, recovered) = loop {
            match Durable::open(&config.data_dir, config.cluster.as_str(), config.id.as_str()) {
                Err(error) if full.again(error.to_string()).await => {}
                opened => break opened?,
            }
        };
        let witness = rank(&config, recovered.hard.as_ref()).is_witness();
        let database = match witness {
            true => None,
            false => Some(open(&config, recovered.hard.as_ref(), &reserve).await?),
        };
        let begun = begin(&config, &durable, database.as_ref(), recovered.restored.is_some());
        if begun.is_err() && recovered.clean {
            durable.mark_clean()?;
        }
        let (lives, names) = begun?;
        let stamp = database.as_ref().map_or(Stamp::default(), |database| match database.stamp() {
            stamp if database.is_diverged() => Stamp::off_branch(stamp.position),
            stamp => stamp,
        });
        let lost = database.as_ref().is_some_and(Database::is_lost);
        if recovered.restored.is_some() && stamp == Stamp::default() {
            return Err(StartError::Restore(config.data_dir));
        }
        let mut node = Node::new(
            NodeConfig { seed: u64::from_le_bytes(random()?), ..config.node() },
            recovered.hard,
            stamp,
            recovered.clean,
            Time(clock::now_ns()),
        );
        // The largest transaction isn't counted in the buffer.
        let most = config.store_options().payload_limit().saturating_add(config.buffer as u64 * 2);
        node.remember(recent::take(&config.data_dir, most));
        tracing::info!(
            cluster = %config.cluster,
            member = %config.id,
            position = %stamp.position,
            term = %node.status().term,
            clean_stop = recovered.clean,
            "replica opened"
        );
        let board = Arc::new(Board::default());
        let gate =
            Arc::new(Gate::new(view::of(config.cluster.as_str(), &node.status(), &board), clock::now_ns()));
        gate.set_stored(stamp.position);
        gate.stalls().set_directory(&config.data_dir);
        gate.stalls().set_limit(config.health.stall);

        let (store_sender, store_events) = mpsc::unbounded_channel();
        let inbox = Arc::new(Inbox::new(InboxLimits::default()));
        let measures = Arc::<Measures>::default();
        let (forwarded, forwards) = mpsc::channel(FORWARDS);
        let way = http::Way::default();
        let for_transport = Arc::clone(&way);
        let sums = database.as_ref().map(Database::sums);
        let (kept_sums, http_sums) = (sums.clone(), sums.clone());
        let page_size = database.as_ref().map_or(0, Database::page_size);
        let wal = database.as_ref().map(Database::wal_sync).transpose()?;
        let store = match database {
            None => None,
            Some(database) => {
                let (inbox, for_thread) = (Arc::clone(&inbox), Arc::clone(&inbox));
                let writer_config = WriterConfig {
                    member: config.id.clone(),
                    board: Arc::clone(&board),
                    sql: config.sql_limits(),
                    request_retention: config.limits.request_retention,
                    events: Kept {
                        retention: config.limits.event_retention,
                        count: config.limits.events as u64,
                    },
                    audit: config.audit.kept.clone(),
                    lock_patience: config.lock_patience,
                    outside_ahead: config.store_options().payload_limit() / 8,
                    measures: Arc::clone(&measures),
                    stalls: Arc::clone(gate.stalls()),
                };
                let run = move || writer::run(database, &for_thread, &store_sender, writer_config);
                let thread = spawn("store", run)?;
                Some((inbox, thread))
            }
        };

        let verified = sums.as_ref().map(|sums| Verified::new(Arc::clone(sums), Arc::clone(&inbox)));
        let scrub = match (&sums, config.scrub) {
            (Some(sums), Some(rate)) => {
                let (sums, inbox) = (Arc::clone(sums), Arc::clone(&inbox));
                Some(ScrubThread::start(&config.data_dir, scrub::Parts { sums, inbox, rate, page_size })?)
            }
            _ => None,
        };

        let shown = Arc::clone(&board);
        let (stop_driver, stop) = mpsc::channel(1);
        let (operators, control) = mpsc::channel::<Control>(CONTROLS);
        let (throne, reign) = watch::channel(Throne::default());
        let (tell_ended, driver_ended) = oneshot::channel();
        let known = driver::addresses(&config.members, &node.status().record.members);
        let (peers, followed) = watch::channel(known);
        let transport = TransportConfig { lives, names, ..config.transport(random()?) };
        let subject = Subject { config: transport, peers: followed };
        let (live_health, health_config) = watch::channel(config.health.clone());
        let health_calm = health_config.clone();
        let driver = {
            let (gate, for_driver) = (Arc::clone(&gate), Arc::clone(&measures));
            let inbox = store.as_ref().map(|(inbox, _)| Arc::clone(inbox));
            let directory = config.data_dir.clone();
            let cluster = config.cluster.to_string();
            let transport_config = subject.config.clone();
            let id = config.id.clone();
            let configured = config.members.clone();
            let restored = recovered.restored;
            let upgrade_calm = config.upgrade_calm;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| StartError::System { context: "start the replication runtime", source })?;
            let run = move || {
                priority::come_first();
                let result = runtime.block_on(async move {
                    let (sender, transport_events) = mpsc::channel::<TransportEvent>(PEER_EVENTS);
                    let (lives, names) = (transport_config.lives.clone(), transport_config.names.clone());
                    let transport = Transport::start(transport_config, vec![peer_listener], sender);
                    transport.set_peers(peers.borrow().clone());
                    let _ = for_transport.set(transport.opener());
                    let parts = Parts {
                        id,
                        node,
                        lost,
                        acquaintance: Acquaintance::new(lives, names),
                        peers,
                        durable,
                        upgrade_calm,
                        reserve,
                        transport,
                        transport_events,
                        store_events,
                        inbox,
                        forwarded,
                        gate,
                        measures: for_driver,
                        directory,
                        board,
                        cluster,
                        configured,
                        restored,
                        sums,
                        throne,
                        calm: health_calm,
                        control,
                        stop,
                    };
                    driver::run(parts).await
                });
                // Rejoins that still run are given up.
                runtime.shutdown_timeout(Duration::from_millis(200));
                match result {
                    Ok(ended) => {
                        let _ = tell_ended.send(Ok(ended.rank_changed));
                        Some(ended.durable)
                    }
                    Err(error) => {
                        let _ = tell_ended.send(Err(error));
                        None
                    }
                }
            };
            spawn("replication", run)?
        };

        let hub = Hub::new();
        let feeder = match witness {
            true => None,
            false => {
                let parts = FeederParts {
                    directory: config.data_dir.clone(),
                    gate: Arc::clone(&gate),
                    hub: Arc::clone(&hub),
                    stale_after: STALE_AFTER.max(config.timing.lease * 3),
                };
                let start = Feeder::start(parts);
                Some(start.map_err(|source| StartError::System { context: "start a thread", source })?)
            }
        };
        // A witness never reigns.
        let health = wal.map(|wal| {
            let (directory, config) = (config.data_dir.clone(), health_config);
            let (gate, control) = (Arc::clone(&gate), operators.clone());
            tokio::spawn(health::watch(health::Parts {
                directory,
                wal,
                config,
                gate,
                control,
                asks: Arc::default(),
            }))
        });

        let (live_hooks, hooks_config) = watch::channel(config.hooks.clone());
        let hooks = hooks::start(hooks::Parts {
            directory: config.data_dir.clone(),
            hooks: hooks_config,
            service: config.service.clone(),
            throne: reign.clone(),
            gate: Arc::clone(&gate),
            control: operators.clone(),
        })
        .map_err(|source| StartError::System { context: "start the thread for hooks", source })?;

        let (schedule, scheduled) = match (config.backup.clone(), kept_sums) {
            (None, _) | (_, None) => (None, None),
            (Some(backup), Some(sums)) => {
                let board = schedule::Board::default();
                let started = Schedule::start(
                    Source::of(&config, subject.config.keys.clone()),
                    sums,
                    backup,
                    Arc::clone(&board),
                );
                let fail = |source| StartError::System { context: "start a thread", source };
                (Some(started.map_err(fail)?), Some(board))
            }
        };

        let (stop_http, http_stopped) = oneshot::channel();
        let pulse = Arc::clone(&inbox);
        let (writer, readers) = (
            WriterHandle::new(inbox, Arc::clone(&gate)),
            ReadPool::start(&config.data_dir, config.read_pool(), witness, verified),
        );
        let presence = Arc::new(Presence::default());
        let nodes = (!witness).then(|| {
            tokio::spawn(presence::watch(presence::Parts {
                presence: Arc::clone(&presence),
                gate: Arc::clone(&gate),
                readers: readers.clone(),
                writer: writer.clone(),
                silent_after: config.silent_after,
            }))
        });
        let gone = Gone::watch(&config.data_dir, operators.clone())
            .map_err(|source| StartError::System { context: "start a thread", source })?;
        let watchdog = tokio::spawn(watchdog::watch(watchdog::Parts {
            inbox: pulse,
            readers: readers.clone(),
            control: operators.clone(),
            stalls: Arc::clone(gate.stalls()),
        }));
        let room = tokio::spawn(Arc::clone(&measures).watch_disk(config.data_dir.clone()));
        let beat = tokio::spawn(watchdog::beat(Arc::clone(gate.stalls())));
        let (live_limits, limits) = watch::channel(config.limits.clone());
        let operators_keys = Operators::default();
        operators_keys.set(&config.keys());
        let (live_tls, secured) = tls.map(watch::channel).unzip();
        let expiry = secured.clone().map(|secured| tokio::spawn(http::tls::watch_expiry(secured)));
        let state = http::AppState::new(
            http::Parts {
                gate: Arc::clone(&gate),
                writer,
                operators: operators.clone(),
                readers,
                presence,
                hub,
                scheduled,
                sums: http_sums,
                limits,
                operators_keys: operators_keys.clone(),
                keys: subject.config.keys.clone(),
                tls: secured,
                measures,
                way,
            },
            &config,
        );
        let http = tokio::spawn(async move {
            if let Err(error) = http::serve(http_listener, state, forwards, http_stopped).await {
                tracing::error!(%error, "HTTP");
            }
        });
        Ok(Server {
            member: config.id.to_string(),
            http_address,
            peer_address,
            stop_driver,
            stop_http: Some(stop_http),
            http,
            driver_ended: Some(driver_ended),
            driver: Some(driver),
            store,
            scrub,
            beside: health.into_iter().chain(nodes).chain(expiry).chain([watchdog, room]).collect(),
            beat,
            feeder,
            schedule,
            hooks: Some(hooks),
            live: Live {
                operators,
                health: live_health,
                hooks: live_hooks,
                limits: live_limits,
                operators_keys,
                tls: live_tls.zip(config.tls.clone()),
            },
            board: shown,
            stalls: Arc::clone(gate.stalls()),
            here: Here::say(&config),
            reign: ReignObserver::new(reign, gate),
            subject,
            notice: None,
            gone: Some(gone),
            _lock: lock,
        })
    }

    /// From now on a helper process tells the others when this one has ended. Only for the program `tanist`: the helper is
    /// this program, called in another way.
    pub(crate) fn tell_of_end(&mut self) {
        match EndNotice::start(self.subject.clone()) {
            Ok(notice) => self.notice = Some(notice),
            Err(error) => {
                tracing::warn!(%error, "no helper tells the others of this process's end: silence alone will tell");
            }
        }
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where peers connect.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Whether this machine reigns.
    #[must_use]
    pub fn reign(&self) -> ReignObserver {
        self.reign.clone()
    }

    /// Waits until the machine must end because of its own failure, or must start anew because it has become something
    /// else; otherwise for ever.
    pub async fn failed(&mut self) -> ServerError {
        match &mut self.driver_ended {
            None => std::future::pending().await,
            Some(ended) => {
                let result = ended.await;
                self.driver_ended = None;
                match result {
                    Ok(Err(error)) => ServerError::Driver(error),
                    Ok(Ok(true)) => ServerError::RankChanged,
                    Ok(Ok(false)) | Err(_) => ServerError::Ended("the replication thread"),
                }
            }
        }
    }

    /// Uses what can change while the machine runs: `[health]`, `[hooks]`, limits on requests, the cluster's keys, the
    /// certificate's files. The rest is left alone.
    pub fn apply(&self, config: &Config) {
        self.live.health.send_replace(config.health.clone());
        self.stalls.set_limit(config.health.stall);
        self.live.hooks.send_replace(config.hooks.clone());
        self.live.limits.send_replace(config.limits.clone());
        self.live.operators_keys.set(&config.keys());
        self.subject.config.keys.set(config.keys());
        if let Some((secured, tls)) = &self.live.tls {
            match http::Secured::load(tls) {
                Ok(new) => drop(secured.send_replace(new)),
                Err(why) => tracing::error!(%why, "the certificate for clients stays as it was"),
            }
        }
    }

    /// Shown in `/v1/cluster` behind what the protocol has to say.
    pub fn set_notice(&self, notice: Option<String>) {
        self.board.set_notice(notice);
    }

    /// Waits until `on_demote` and the service have ended, if they run; the driver has ended. Both have their limits.
    pub async fn end_hooks(&mut self) {
        end_hooks(&mut self.hooks, &self.stalls).await;
    }

    /// As master: hands over and goes on as a backup. Nothing happens when nobody else could reign.
    pub async fn give_up_throne(&self) {
        let (respond, ended) = oneshot::channel();
        let why = "this computer goes to sleep".to_owned();
        if self.live.operators.send(Control::HandOver { to: None, why, respond }).await.is_ok() {
            let _ = tokio::time::timeout(STOP_PATIENCE, ended).await;
        }
    }

    /// Hands over, sends its clients on to the next master, and stops cleanly. Gives the master that carries on, as far as
    /// this machine has heard of one.
    pub async fn stop(self) -> Option<String> {
        self.end().await.successor
    }

    /// As [`Server::stop`], and says what has not come to its end because the disk doesn't answer. It is waited for no longer
    /// than [`STOP_PATIENCE`] each, so that a process always ends.
    pub(crate) async fn end(mut self) -> Stopped {
        let goodbye = self.here.take().map(|here| tokio::spawn(here.goodbye()));
        let (done, left) = oneshot::channel();
        if self.stop_driver.send(done).await.is_ok() {
            let left = tokio::time::timeout(STOP_PATIENCE, left).await;
            if matches!(left, Ok(Ok(true))) {
                // Requests that others have just sent here are still to come, and to be sent on.
                tokio::time::sleep(REDIRECT_TIME).await;
            }
        }
        let successor = self.reign.master().filter(|master| *master != self.member);
        self.gone = None;
        for task in self.beside.drain(..) {
            task.abort();
        }
        if let Some(stop) = self.stop_http.take() {
            let _ = stop.send(());
        }
        let _ = tokio::time::timeout(STOP_PATIENCE, &mut self.http).await;
        let mut waits = Waits { stalls: Arc::clone(&self.stalls), left: vec![] };
        let (done, _) = oneshot::channel();
        // Full, when it hasn't even heard that it is to leave.
        let _ = self.stop_driver.try_send(done);
        drop(self.stop_driver);
        let driver = waits.join("replication", self.driver.take()).await;
        // One that hangs doesn't say that its reign is over: nothing would come to an end.
        let mut telling = None;
        if driver.is_some() {
            telling = self.notice.take().map(|notice| tokio::spawn(notice.tell()));
            end_hooks(&mut self.hooks, &self.stalls).await;
        }
        let durable = driver.flatten();
        if let Some(feeder) = self.feeder.take() {
            waits.work("watch", move || drop(feeder)).await;
        }
        if let Some(schedule) = self.schedule.take() {
            waits.work("copies", move || schedule.stop()).await;
        }
        if let Some(scrub) = self.scrub.take() {
            waits.work("scrub", move || scrub.stop()).await;
        }
        let mut store_stopped = true;
        if let Some((inbox, thread)) = self.store.take() {
            inbox.command(Command::Stop);
            store_stopped = waits.join("store", Some(thread)).await.is_some();
        }
        if let Some(durable) = durable {
            let mark = move || match store_stopped {
                true => durable.mark_clean(),
                false => Ok(()),
            };
            if let Some(Err(error)) = waits.work("node.db", mark).await {
                tracing::warn!(%error, "the clean-stop mark could not be left");
            }
        }
        for task in goodbye.into_iter().chain(telling) {
            let _ = task.await;
        }
        self.beat.abort();
        Stopped { successor, left: waits.left }
    }
}

async fn end_hooks(hooks: &mut Option<JoinHandle<()>>, stalls: &Stalls) {
    let Some(thread) = hooks.take() else { return };
    let (tell, mut told) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = tell.send(thread.join().is_ok());
    });
    // They note in a file what they have done: that may not come to an end.
    while tokio::time::timeout(STOP_PATIENCE, &mut told).await.is_err() {
        if stalls.is_disk(clock::now_ns()) {
            tracing::warn!("the hooks' thread waits for the disk: this machine stops without it");
            return;
        }
    }
}

/// How a machine has stopped.
pub(crate) struct Stopped {
    /// Who carries on, as far as it was heard.
    pub(crate) successor: Option<String>,
    /// What hasn't come to its end.
    pub(crate) left: Vec<&'static str>,
}

/// What a stop waits for, one after the other.
struct Waits {
    stalls: Arc<Stalls>,
    left: Vec<&'static str>,
}

impl Waits {
    async fn work<T: Send + 'static>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let stalled = self.stalls.is_disk(clock::now_ns());
        let patience = if stalled { STALLED_PATIENCE } else { STOP_PATIENCE };
        let done = within(patience, work).await;
        if done.is_none() {
            tracing::warn!(thread = name, ?patience, "a thread doesn't end: this machine stops without it");
            self.left.push(name);
        }
        done
    }

    async fn join<T: Send + 'static>(
        &mut self,
        name: &'static str,
        thread: Option<JoinHandle<T>>,
    ) -> Option<T> {
        let thread = thread?;
        self.work(name, move || thread.join().ok()).await?
    }
}

/// What this machine is: as the newest record that it has accepted says. The configuration file counts for a new
/// machine.
fn rank(config: &Config, hard: Option<&HardState>) -> Rank {
    let file = config.me().rank;
    let Some(record) = hard.map(|hard| &hard.record).filter(|record| record.key > RecordKey::BLANK) else {
        return file;
    };
    match record.member(&config.id) {
        Some(member) => {
            if member.rank != file {
                tracing::info!(
                    rank = member.rank.0,
                    file = file.0,
                    "the rank was changed since the file was written"
                );
            }
            member.rank
        }
        None => {
            tracing::warn!(
                "this machine was removed from the cluster: it takes part in nothing until it is added again"
            );
            file
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| StartError::System { context: "start a thread", source })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn many_clients_that_come_at_once_all_find_room() {
        let listener = listen("listen.http", "127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts meanwhile: all must fit into the backlog.
        let clients: Result<Vec<_>, _> =
            (0..300).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(900))).collect();
        assert!(clients.is_ok(), "{clients:?}");
    }
}
