//! Members on loopback, and a wire between them that can be cut, stalled or bent.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tanist_replication::MemberId;
use tanist_transport::{
    Channel, ClusterKey, Config, Limits, PROTOCOL, Packet, Program, Transport, TransportEvent,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinSet,
};

/// The longest any condition may take; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn key() -> ClusterKey {
    ClusterKey::from_bytes(std::array::from_fn(|n| n as u8))
}

pub fn id(text: &str) -> MemberId {
    text.parse().unwrap()
}

pub fn config(me: &str) -> Config {
    let mut incarnation = [0; 16];
    getrandom::fill(&mut incarnation).unwrap();
    Config {
        cluster: "test".parse().unwrap(),
        me: id(me),
        incarnation,
        keys: key().into(),
        addresses: vec![],
        admit_strangers: false,
        program: Program { version: "test".to_owned(), protocol: PROTOCOL, ..Program::silent() },
        names: tanist_transport::Names::default(),
        lives: tanist_transport::Lives::default(),
        limits: Limits { dial_backoff_max: Duration::from_millis(50), ..Limits::default() },
    }
}

pub struct Member {
    pub id: MemberId,
    pub transport: Transport,
    pub events: mpsc::Receiver<TransportEvent>,
    pub address: SocketAddr,
}

pub fn packet(text: &str) -> Packet {
    Packet { head: Bytes::copy_from_slice(text.as_bytes()), body: Bytes::new() }
}

impl Member {
    pub fn start(me: &str) -> Member {
        Member::with(config(me))
    }

    pub fn with(config: Config) -> Member {
        Member::at(config, "127.0.0.1:0".parse().unwrap(), 1000)
    }

    pub fn at(config: Config, address: SocketAddr, room: usize) -> Member {
        let listener = bind(address);
        let (sender, events) = mpsc::channel(room);
        let id = config.me.clone();
        let address = listener.local_addr().unwrap();
        Member { id, transport: Transport::start(config, vec![listener], sender), events, address }
    }

    pub fn knows(&self, peers: &[(&Member, SocketAddr)]) {
        let peers = peers.iter().map(|(peer, at)| (peer.id.clone(), vec![at.to_string()])).collect();
        self.transport.set_peers(peers);
    }

    pub async fn next(&mut self) -> TransportEvent {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("events go on")
    }

    /// Skips events until `pick` takes one.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(TransportEvent) -> Option<T>) -> T {
        loop {
            let event = self.next().await;
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    }

    pub async fn connected(&mut self, to: &MemberId, on: Channel) {
        self.until(|event| match event {
            TransportEvent::Connected { peer, channel } => (peer == *to && channel == on).then_some(()),
            _ => None,
        })
        .await;
    }

    pub async fn closed(&mut self, to: &MemberId, on: Channel) -> String {
        self.until(|event| match event {
            TransportEvent::Closed { peer, channel, reason } if peer == *to && channel == on => Some(reason),
            _ => None,
        })
        .await
    }

    pub async fn refused(&mut self) -> MemberId {
        self.until(|event| if let TransportEvent::Refused { peer } = event { Some(peer) } else { None }).await
    }

    pub async fn received(&mut self) -> (MemberId, Channel, Packet) {
        self.until(|event| match event {
            TransportEvent::Received { from, channel, packet } => Some((from, channel, packet)),
            _ => None,
        })
        .await
    }

    /// `text` comes, and before it no word of anybody's end, nor of a second process.
    pub async fn goes_on_hearing(&mut self, text: &str) {
        self.until(|event| match event {
            TransportEvent::ProcessEnded { .. } | TransportEvent::IdInUse { .. } => panic!("{event:?}"),
            TransportEvent::Received { packet: received, .. } => (received == packet(text)).then_some(()),
            _ => None,
        })
        .await;
    }

    /// Polls until the control link's problem contains `text`.
    pub async fn problem(&self, peer: &MemberId, text: &str) -> String {
        let poll = async {
            loop {
                match self.transport.problem(peer) {
                    Some(problem) if problem.contains(text) => return problem,
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, poll).await;
        found.unwrap_or_else(|_| panic!("expected {text:?}, found {:?}", self.transport.problem(peer)))
    }
}

/// Binds like a server does: an address that was used a moment ago is free again.
pub fn bind(address: SocketAddr) -> std::net::TcpListener {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    #[cfg(unix)]
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(128).unwrap();
    socket.into()
}

/// Two members that know each other, connected on control.
pub async fn pair(a: Config, b: Config) -> (Member, Member) {
    let (mut a, mut b) = (Member::with(a), Member::with(b));
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
    (a, b)
}

/// A wire to `target`, towards which it can be bent.
pub struct Wire {
    pub address: SocketAddr,
    state: Arc<WireState>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct WireState {
    stalled: AtomicBool,
    /// Flip a bit of the next forwarded bytes.
    flip: AtomicBool,
    /// Bytes still let through before the cut; `usize::MAX`: no cut.
    left: AtomicUsize,
    changed: Notify,
    passed: AtomicUsize,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WireState::default());
        state.left.store(usize::MAX, Ordering::SeqCst);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if let Ok(far) = TcpStream::connect(target).await {
                    open.spawn(forward(near, far, Arc::clone(&shared)));
                }
            }
        });
        Wire { address, state, task }
    }

    /// Nothing passes towards the target any more, nor back, until it is stalled no more.
    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }

    /// Changes one bit on its way to the target.
    pub fn flip(&self) {
        self.state.flip.store(true, Ordering::SeqCst);
    }

    /// Cuts every connection after `bytes` more bytes towards the target. New connections pass.
    pub fn cut_after(&self, bytes: usize) {
        self.state.left.store(bytes, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }

    pub fn passed(&self) -> usize {
        self.state.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(near: TcpStream, far: TcpStream, state: Arc<WireState>) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = near_in.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            while state.stalled.load(Ordering::SeqCst) {
                let changed = state.changed.notified();
                if state.stalled.load(Ordering::SeqCst) {
                    changed.await;
                }
            }
            if state.flip.swap(false, Ordering::SeqCst) {
                buffer[count - 1] ^= 4;
            }
            let left = state.left.load(Ordering::SeqCst);
            let pass = count.min(left);
            let _ = far_out.write_all(&buffer[..pass]).await;
            state.passed.fetch_add(pass, Ordering::SeqCst);
            if left != usize::MAX {
                state.left.store(if pass == left { usize::MAX } else { left - pass }, Ordering::SeqCst);
                if pass == left {
                    return;
                }
            }
        }
    };
    let back = async {
        let _ = tokio::io::copy(&mut far_in, &mut near_out).await;
    };
    tokio::select! { () = there => {}, () = back => {} }
}
