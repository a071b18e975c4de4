//! The whole of one member's transport: listeners, links, and the list of peers.
//!
//! Owns the tasks; all of them end with it. Never blocks and never decides. Read `link.rs` for how packets leave and
//! `accept.rs` for how they come.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tanist_replication::MemberId;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};

use crate::{
    Agreed, Channel, Config, OpenError, Packet, Program, SecureStream, SendError, TransportEvent,
    accept::{self, Inbound, MOST_ADDRESSES, Process},
    dial,
    link::{Link, Orders, Run},
    queue::Queue,
    quiet::Quiet,
};

/// One member's connections to all others. Everything ends when it is dropped; [`Transport::shutdown`] ends it
/// politely.
pub struct Transport {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

/// What the tasks share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) events: mpsc::Sender<TransportEvent>,
    pub(crate) started: Instant,
    runtime: Handle,
    peers: Mutex<BTreeMap<MemberId, Peer>>,
    connections: Mutex<Connections>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
    quiet: Mutex<Quiet>,
}

/// A peer's links, and its connections to us.
pub(crate) struct Peer {
    /// It has the key, but isn't in the owner's list.
    pub(crate) stranger: bool,
    /// As the owner's list says.
    listed: Vec<String>,
    /// As it said itself when it last connected.
    announced: Vec<String>,
    /// As another member has heard it from it.
    heard: Vec<String>,
    /// All of these.
    addresses: watch::Sender<Vec<String>>,
    orders: watch::Sender<Orders>,
    control: Arc<Queue>,
    bulk: Arc<Queue>,
    tasks: Vec<JoinHandle<()>>,
    /// Control and bulk.
    pub(crate) inbound: [Option<Inbound>; 2],
    /// What it runs, as it last said.
    program: Arc<Mutex<Option<Program>>>,
    /// The one that last opened a control connection to us.
    pub(crate) process: Option<Process>,
}

impl Peer {
    /// Where it says that it is reached.
    pub(crate) fn announce(&mut self, addresses: &[String]) {
        addresses.clone_into(&mut self.announced);
        self.update_addresses();
    }

    /// What it says that it runs.
    pub(crate) fn runs(&mut self, program: Option<Program>) {
        *lock(&self.program) = program;
    }

    /// It said nothing on any connection any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.inbound.iter().all(Option::is_none)
    }

    pub(crate) fn stop(&self) {
        self.order(Run::Stop);
    }

    fn order(&self, run: Run) {
        self.orders.send_modify(|orders| orders.run = run);
    }

    /// There is a new process; the one before was last heard then.
    pub(crate) fn leave_process_before(&self, heard: Instant) {
        self.orders.send_modify(|orders| orders.process_before = Some(heard));
    }

    /// It has just connected to us.
    pub(crate) fn note_that_it_came(&self) {
        self.orders.send_modify(|orders| orders.came = Some(Instant::now()));
    }

    fn update_addresses(&self) {
        let mut addresses = self.listed.clone();
        for address in self.announced.iter().chain(&self.heard) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        self.addresses.send_if_modified(|old| {
            let changed = *old != addresses;
            *old = addresses;
            changed
        });
    }
}

/// Accepted connections, oldest first.
#[derive(Default)]
struct Connections {
    next: u64,
    pending: usize,
    open: BTreeMap<u64, Connection>,
    stopped: bool,
}

struct Connection {
    /// `None` for the moment between registering and spawning.
    task: Option<AbortHandle>,
    pending: bool,
}

impl Connections {
    /// Gives up the oldest connection that is still in its handshake.
    fn give_up_oldest(&mut self) -> Option<AbortHandle> {
        let oldest =
            self.open.values_mut().find(|connection| connection.pending && connection.task.is_some())?;
        oldest.pending = false;
        self.pending -= 1;
        oldest.task.clone()
    }
}

/// Forgets a connection when its task ends, in whatever way.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut connections = self.shared.connections();
        if let Some(connection) = connections.open.remove(&self.id)
            && connection.pending
        {
            connections.pending -= 1;
        }
    }
}

impl Transport {
    /// Starts to listen. Must be called within a tokio runtime, which then runs all tasks.
    ///
    /// `events` takes what happens, in order per link. When it is full, receiving pauses, and the peers that send
    /// fill their queues.
    #[must_use]
    pub fn start(
        config: Config,
        listeners: Vec<std::net::TcpListener>,
        events: mpsc::Sender<TransportEvent>,
    ) -> Transport {
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            events,
            started: Instant::now(),
            runtime: Handle::current(),
            peers: Mutex::default(),
            connections: Mutex::default(),
            listeners: Mutex::default(),
            quiet: Mutex::default(),
        });
        let tasks = listeners
            .into_iter()
            .map(|listener| shared.runtime.spawn(accept::listen(Arc::clone(&shared), listener)))
            .collect();
        *lock(&shared.listeners) = tasks;
        Transport { shared, addresses }
    }

    /// The addresses listened on.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The first address listened on.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// Sets the other members, each with its `host:port` addresses in order of preference; names are resolved anew
    /// at each dial. New ones are dialled, changed addresses are used from the next dial on, connections of those
    /// that are no longer in the list are closed (a stranger may then come back as one). This member itself is left out.
    pub fn set_peers(&self, peers: Vec<(MemberId, Vec<String>)>) {
        let shared = &self.shared;
        let mut wanted: BTreeMap<MemberId, Vec<String>> = peers.into_iter().collect();
        wanted.remove(&shared.config.me);
        let mut closing = Vec::new();
        {
            let mut known = shared.peers();
            known.retain(|id, peer| {
                let stays = peer.stranger || wanted.contains_key(id);
                if !stays {
                    peer.stop();
                    closing.extend(peer.inbound.iter().flatten().map(Inbound::connection));
                }
                stays
            });
            for (id, addresses) in wanted {
                match known.get_mut(&id) {
                    Some(peer) => {
                        peer.stranger = false;
                        peer.listed = addresses;
                        peer.update_addresses();
                    }
                    None => drop(known.insert(id.clone(), shared.new_peer(id, addresses))),
                }
            }
        }
        for connection in closing {
            shared.abort_connection(connection);
        }
    }

    /// Queues a packet; never waits. On bulk the first packet makes the link dial.
    ///
    /// That a packet was taken doesn't mean that it arrives: a later `Closed` for the link means that it may not have.
    ///
    /// # Errors
    /// When it was not taken; see [`SendError`].
    pub fn send(&self, to: &MemberId, channel: Channel, packet: Packet) -> Result<(), SendError> {
        let queue =
            self.queue(to, channel).ok_or(SendError::UnknownPeer)?.ok_or(SendError::NotACopyStream)?;
        queue.push(packet)
    }

    /// Dials the bulk link of `to` if it isn't up. A later failure is not retried until the next `send` or call.
    pub fn open_bulk(&self, to: &MemberId) {
        if let Some(Some(queue)) = self.queue(to, Channel::Bulk) {
            queue.open();
        }
    }

    /// Closes the bulk link of `to` and drops what waits on it. Says `Closed` if it was up.
    pub fn close_bulk(&self, to: &MemberId) {
        if let Some(Some(queue)) = self.queue(to, Channel::Bulk) {
            queue.close();
        }
    }

    /// Dials a copy stream to `to`. The future stands alone: it may outlive this call in another task.
    ///
    /// # Errors
    /// When no address of `to` leads to it.
    pub fn open_copy(
        &self,
        to: &MemberId,
    ) -> impl Future<Output = Result<SecureStream, OpenError>> + Send + use<> {
        self.shared.open(to, Channel::Copy)
    }

    /// For whoever forwards clients' requests: knows the same peers at the same addresses, and lives as long as it likes.
    #[must_use]
    pub fn opener(&self) -> Opener {
        Opener(Arc::clone(&self.shared))
    }

    /// Whether the link on which we send to `peer` is up.
    #[must_use]
    pub fn is_connected(&self, peer: &MemberId, channel: Channel) -> bool {
        matches!(self.queue(peer, channel), Some(Some(queue)) if queue.is_up())
    }

    /// Where those members say that they are reached who are connected to us now, as they said it themselves.
    #[must_use]
    pub fn whereabouts(&self) -> Vec<(MemberId, Vec<String>)> {
        let peers = self.shared.peers();
        let there = peers.iter().filter(|(_, peer)| !peer.stranger && !peer.is_gone());
        let there = there.filter(|(_, peer)| !peer.announced.is_empty());
        there.map(|(id, peer)| (id.clone(), peer.announced.clone())).collect()
    }

    /// Another member has heard from `peer` that it is reached there: it is dialled there, too. What is said of somebody who isn't in
    /// the list of peers is no matter.
    pub fn hear_of(&self, peer: &MemberId, addresses: &[String]) {
        if let Some(peer) = self.shared.peers().get_mut(peer)
            && addresses.len() <= MOST_ADDRESSES
        {
            addresses.clone_into(&mut peer.heard);
            peer.update_addresses();
        }
    }

    /// Why the control link to `peer` is not up, for people: the last failure. `None` while it is up, or not tried yet.
    #[must_use]
    pub fn problem(&self, peer: &MemberId) -> Option<String> {
        self.queue(peer, Channel::Control)??.problem()
    }

    /// What `peer` runs, as it said when it or we last connected; `None` before that. It may run something else by now while no
    /// link to it is up.
    #[must_use]
    pub fn program(&self, peer: &MemberId) -> Option<Program> {
        lock(&self.shared.peers().get(peer)?.program).clone()
    }

    /// What may be used towards `peer`.
    #[must_use]
    pub fn agreed(&self, peer: &MemberId) -> Agreed {
        let peers = self.shared.peers();
        let agreed =
            peers.get(peer).and_then(|peer| self.shared.config.program.agree(lock(&peer.program).as_ref()?));
        agreed.unwrap_or(Agreed::LEAST)
    }

    /// Stops listening, sends what is queued (for at most `Limits::shutdown_drain`) and closes everything. Copy
    /// streams that were handed out go on. No event has to be taken meanwhile.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        let listeners = std::mem::take(&mut *lock(&shared.listeners));
        for listener in listeners {
            listener.abort();
            let _ = listener.await;
        }
        let peers = std::mem::take(&mut *shared.peers());
        for peer in peers.values() {
            peer.order(Run::Drain);
        }
        let mut peers: Vec<_> = peers.into_values().collect();
        let drained = async {
            for task in peers.iter_mut().flat_map(|peer| &mut peer.tasks) {
                let _ = task.await;
            }
        };
        let _ = timeout(shared.config.limits.shutdown_drain, drained).await;
        for task in peers.iter().flat_map(|peer| &peer.tasks) {
            task.abort();
        }
        shared.abort_connections();
        // Aborted tasks go when the runtime next runs them.
        tokio::task::yield_now().await;
    }

    /// The queue of a link; `Some(None)` for a known peer's channel that has none.
    fn queue(&self, peer: &MemberId, channel: Channel) -> Option<Option<Arc<Queue>>> {
        let peers = self.shared.peers();
        let peer = peers.get(peer)?;
        Some(match channel {
            Channel::Control => Some(Arc::clone(&peer.control)),
            Channel::Bulk => Some(Arc::clone(&peer.bulk)),
            Channel::Copy | Channel::Ended | Channel::Forward => None,
        })
    }
}

/// Dials streams of [`Channel::Forward`]; cheap to clone.
#[derive(Clone)]
pub struct Opener(Arc<Shared>);

impl Opener {
    /// Dials a stream on which `to` answers requests.
    ///
    /// # Errors
    /// When no address of `to` leads to it.
    pub fn open(
        &self,
        to: &MemberId,
    ) -> impl Future<Output = Result<SecureStream, OpenError>> + Send + use<> {
        self.0.open(to, Channel::Forward)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({})", self.0.config.me)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        for listener in lock(&self.shared.listeners).drain(..) {
            listener.abort();
        }
        for (_, peer) in std::mem::take(&mut *self.shared.peers()) {
            for task in peer.tasks {
                task.abort();
            }
        }
        self.shared.abort_connections();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({} at {:?})", self.shared.config.me, self.addresses)
    }
}

impl Shared {
    fn open(
        &self,
        to: &MemberId,
        channel: Channel,
    ) -> impl Future<Output = Result<SecureStream, OpenError>> + Send + use<> {
        let config = Arc::clone(&self.config);
        let to = to.clone();
        let addresses = self.peers().get(&to).map(|peer| peer.addresses.borrow().clone());
        async move {
            match addresses {
                Some(addresses) => dial::dial(&config, &to, &addresses, channel).await,
                None => Err(OpenError::UnknownPeer(to)),
            }
        }
    }

    pub(crate) fn peers(&self) -> MutexGuard<'_, BTreeMap<MemberId, Peer>> {
        lock(&self.peers)
    }

    pub(crate) fn quiet(&self) -> MutexGuard<'_, Quiet> {
        lock(&self.quiet)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }

    pub(crate) async fn emit(&self, event: TransportEvent) {
        // The owner may be gone: then nobody asks.
        let _ = self.events.send(event).await;
    }

    pub(crate) fn new_peer(self: &Arc<Shared>, id: MemberId, listed: Vec<String>) -> Peer {
        let addresses = watch::Sender::new(listed.clone());
        let orders = watch::Sender::new(Orders { run: Run::On, process_before: None, came: None });
        let mut tasks = Vec::new();
        let program = Arc::default();
        let mut link = |channel| {
            let queue = Arc::new(Queue::new(channel, self.config.limits.clone()));
            let link = Link {
                config: Arc::clone(&self.config),
                peer: id.clone(),
                channel,
                addresses: addresses.subscribe(),
                queue: Arc::clone(&queue),
                events: self.events.clone(),
                orders: orders.subscribe(),
                program: Arc::clone(&program),
            };
            tasks.push(self.runtime.spawn(link.go()));
            queue
        };
        let (control, bulk) = (link(Channel::Control), link(Channel::Bulk));
        Peer {
            stranger: false,
            listed,
            announced: vec![],
            heard: vec![],
            addresses,
            orders,
            control,
            bulk,
            tasks,
            inbound: [None, None],
            program,
            process: None,
        }
    }

    /// Runs an accepted connection. When too many are in their handshake, the oldest of these gives way.
    pub(crate) fn spawn_connection<F>(self: &Arc<Shared>, serve: impl FnOnce(Arc<Shared>, u64) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let limit = self.config.limits.max_pending_handshakes.max(1);
        let (id, oldest) = {
            let mut connections = self.connections();
            if connections.stopped {
                return;
            }
            let id = connections.next;
            connections.next += 1;
            let oldest = if connections.pending >= limit { connections.give_up_oldest() } else { None };
            connections.open.insert(id, Connection { task: None, pending: true });
            connections.pending += 1;
            (id, oldest)
        };
        if let Some(oldest) = oldest {
            oldest.abort();
            tracing::debug!("too many handshakes at once: the oldest gives way");
        }
        // Registered first, and spawned without the lock: the task may end at once.
        let registered = Registered { shared: Arc::clone(self), id };
        let serving = serve(Arc::clone(self), id);
        let task = self.runtime.spawn(async move {
            let _registered = registered;
            serving.await;
        });
        let mut connections = self.connections();
        let stopped = connections.stopped;
        if let Some(connection) = connections.open.get_mut(&id) {
            connection.task = Some(task.abort_handle());
        }
        drop(connections);
        if stopped {
            task.abort();
        }
    }

    pub(crate) fn handshake_done(&self, id: u64) {
        let mut connections = self.connections();
        if let Some(connection) = connections.open.get_mut(&id)
            && std::mem::take(&mut connection.pending)
        {
            connections.pending -= 1;
        }
    }

    pub(crate) fn abort_connection(&self, id: u64) {
        let task = self.connections().open.get(&id).and_then(|connection| connection.task.clone());
        if let Some(task) = task {
            task.abort();
        }
    }

    fn abort_connections(&self) {
        let tasks: Vec<_> = {
            let mut connections = self.connections();
            connections.stopped = true;
            connections.open.values().filter_map(|connection| connection.task.clone()).collect()
        };
        for task in tasks {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A task that panicked has left the data whole: no change under these locks has two steps that can fail between.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
