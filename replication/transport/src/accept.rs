//! The receiving side: listens, lets members in, and hands their packets on.
//!
//! Owns the connections others dialled. Never sends packets on them. Read `handshake.rs` for who is let in.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tanist_replication::MemberId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    Channel, HandshakeError, SecureStream, TransportEvent, dial,
    framing::BATCH,
    handshake::{self, Accepted, Hello, Verdict},
    keys,
    transport::{Peer, Shared},
};

/// Addresses taken from a hello; their lengths are bounded by its own.
pub(crate) const MOST_ADDRESSES: usize = 8;

/// The connection on which a member sends to us.
#[derive(Debug)]
pub(crate) struct Inbound {
    connection: u64,
    process: Process,
}

/// A process of a member, as far as it was heard.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    incarnation: [u8; 16],
    /// When it was last heard on a connection, in ns since the transport's start.
    heard: Arc<AtomicU64>,
}

/// Accepts connections until aborted.
pub(crate) async fn listen(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let listener = loop {
        // The clone keeps a socket for another try; the original goes when it was good.
        let made = listener
            .set_nonblocking(true)
            .and_then(|()| listener.try_clone())
            .and_then(TcpListener::from_std);
        match made {
            Ok(listener) => break listener,
            Err(error) => tracing::error!(%error, "cannot listen for peers"),
        }
        sleep(Duration::from_secs(1)).await;
    };
    loop {
        match listener.accept().await {
            Ok((socket, address)) => shared.spawn_connection(|shared, id| serve(shared, id, socket, address)),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // No descriptors left, most likely.
                shared.complain("accept", &error.to_string(), "cannot accept connections");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One accepted connection, from its first byte to its last.
async fn serve(shared: Arc<Shared>, id: u64, socket: TcpStream, address: SocketAddr) {
    dial::tune(&socket, shared.config.limits.stall_timeout);
    let mut socket = Some(socket);
    let accepted = timeout(
        shared.config.limits.handshake_timeout,
        handshake::accept(
            &mut socket,
            &shared.config,
            address,
            |member| shared.knows(member),
            |hello, channel| shared.judge(hello, channel, address),
        ),
    )
    .await
    .unwrap_or(Err(HandshakeError::Timeout));
    match accepted {
        Ok(accepted) => {
            shared.handshake_done(id);
            carry(&shared, id, accepted, address).await;
        }
        // A probe, or a dial that another address won.
        Err(error @ HandshakeError::Closed) => tracing::debug!(%address, %error, "connection ended early"),
        Err(error) => {
            shared.complain(&address.ip().to_string(), &error.to_string(), "connection refused by us");
            if let Some(socket) = socket
                && !matches!(error, HandshakeError::Timeout | HandshakeError::Io(_))
            {
                // Closing with unread bytes would reset the connection, and the reason would be lost.
                let _ = timeout(Duration::from_secs(1), say_goodbye(socket)).await;
            }
        }
    }
}

async fn say_goodbye(mut socket: TcpStream) {
    let _ = socket.shutdown().await;
    let (mut buffer, mut left) = ([0; 1024], 64 << 10);
    while let Ok(count @ 1..) = socket.read(&mut buffer).await
        && left > 0
    {
        left -= count.min(left);
    }
}

async fn carry(shared: &Arc<Shared>, id: u64, accepted: Accepted, address: SocketAddr) {
    let Accepted { channel, hello, stream, key } = accepted;
    let from = hello.from.clone();
    match channel {
        Channel::Control | Channel::Bulk => {}
        Channel::Copy => {
            tracing::info!(peer = %from, %channel, %address, "copy stream accepted");
            shared.emit(TransportEvent::CopyRequested { from, stream }).await;
            return;
        }
        Channel::Forward => {
            tracing::debug!(peer = %from, %channel, %address, "accepted");
            shared.emit(TransportEvent::ForwardRequested { from, stream }).await;
            return;
        }
        Channel::Ended => return shared.on_process_ended(from, hello.incarnation, address).await,
    }
    let heard = Arc::new(AtomicU64::new(shared.now_ns()));
    let process = Process { incarnation: hello.incarnation, heard: Arc::clone(&heard) };
    let inbound = Inbound { connection: id, process };
    if !shared.replace_inbound(&hello, channel, inbound) {
        return;
    }
    tracing::debug!(peer = %from, %channel, %address, "accepted");
    let mut ring = shared.config.keys.subscribe();
    let end = tokio::select! {
        end = receive(shared, &from, channel, stream, &heard) => end,
        () = keys::dropped(&mut ring, key) => Err(keys::DROPPED.to_owned()),
    };
    shared.remove_inbound(&from, channel, id);
    match end {
        Ok(reason) => tracing::debug!(peer = %from, %channel, %address, reason, "accepted connection ended"),
        Err(reason) => {
            let what = format!("{from} {channel}");
            shared.complain(&what, &reason, "accepted connection broke");
        }
    }
}

/// Hands packets on until the connection ends: well (`Ok`) or badly.
async fn receive(
    shared: &Shared,
    from: &MemberId,
    channel: Channel,
    stream: SecureStream,
    heard: &AtomicU64,
) -> Result<&'static str, String> {
    // The sending half stays alive: dropping it would tell the peer that the connection is over.
    let (_sender, mut receiver) = stream.into_split();
    let mut since_pause = 0;
    loop {
        while let Some(packet) = receiver.ready().map_err(|error| error.to_string())? {
            // A slow owner makes us wait here, and so the peer.
            let event = TransportEvent::Received { from: from.clone(), channel, packet };
            if shared.events.send(event).await.is_err() {
                return Ok("nobody receives any more");
            }
        }
        if since_pause >= BATCH {
            // Decryption is work: let what is urgent pass.
            since_pause = 0;
            tokio::task::yield_now().await;
        }
        match timeout(shared.config.limits.idle_timeout, receiver.fetch()).await {
            Ok(Ok(0)) => {
                receiver.at_end().map_err(|error| error.to_string())?;
                return Ok("closed by the peer");
            }
            Ok(Ok(count)) => since_pause += count,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the peer fell silent".to_owned()),
        }
        heard.store(shared.now_ns(), Ordering::Relaxed);
    }
}

impl Shared {
    fn knows(&self, member: &MemberId) -> bool {
        self.config.admit_strangers || self.peers().contains_key(member)
    }

    fn has_room_for_a_stranger(&self, peers: &BTreeMap<MemberId, Peer>) -> bool {
        let strangers = peers.values().filter(|peer| peer.stranger).count();
        self.config.admit_strangers && strangers < self.config.limits.max_strangers
    }

    /// The last word on a hello.
    fn judge(&self, hello: &Hello, channel: Channel, address: SocketAddr) -> Verdict {
        let me = &self.config.me;
        if hello.from == *me {
            if hello.incarnation == self.config.incarnation {
                // Our own dial: one of our addresses stands with a peer.
                return Verdict::WrongMember;
            }
            self.on_id_in_use(me, address);
            return Verdict::IdInUse;
        }
        if hello.to != *me {
            return Verdict::WrongMember;
        }
        let in_use = {
            let peers = self.peers();
            let peer = peers.get(&hello.from);
            // Strangers may ask, and get no data.
            let stranger = peer.is_none_or(|peer| peer.stranger);
            let room = peer.is_some() || self.has_room_for_a_stranger(&peers);
            if stranger && (channel != Channel::Control || !room) {
                return Verdict::UnknownMember;
            }
            if channel == Channel::Ended {
                return Verdict::Welcome;
            }
            let founding = hello.founding.as_deref();
            if let Err(stranger) = self.config.lives.judge(&hello.from, hello.life.as_ref(), founding) {
                return stranger.into();
            }
            let window = self.config.limits.keepalive.as_nanos() as u64 * 3;
            peer.iter().flat_map(|peer| &peer.inbound).flatten().any(|Inbound { process, .. }| {
                let silent_for = self.now_ns().saturating_sub(process.heard.load(Ordering::Relaxed));
                process.incarnation != hello.incarnation && silent_for < window
            })
        };
        if in_use {
            tracing::debug!(peer = %hello.from, %channel, %address, "two processes under one id");
            self.on_id_in_use(&hello.from, address);
            return Verdict::IdInUse;
        }
        Verdict::Welcome
    }

    fn on_id_in_use(&self, peer: &MemberId, address: SocketAddr) {
        // When the owner is behind, the next attempt says it again.
        let _ = self.events.try_send(TransportEvent::IdInUse { peer: peer.clone(), address });
    }

    /// Makes `inbound` the connection on which `from` sends; an older one ends. `false` when `from` was removed.
    fn replace_inbound(self: &Arc<Shared>, hello: &Hello, channel: Channel, inbound: Inbound) -> bool {
        let from = &hello.from;
        let replaced = {
            let mut peers = self.peers();
            if !peers.contains_key(from)
                && channel == Channel::Control
                && self.has_room_for_a_stranger(&peers)
            {
                tracing::info!(peer = %from, addresses = ?hello.addresses, "a machine with the key that is no member connects");
                let mut stranger = self.new_peer(from.clone(), vec![]);
                stranger.stranger = true;
                peers.insert(from.clone(), stranger);
            }
            let Some(peer) = peers.get_mut(from) else { return false };
            peer.runs(hello.program.clone());
            if hello.addresses.len() <= MOST_ADDRESSES {
                peer.announce(&hello.addresses);
            }
            let place = usize::from(channel == Channel::Bulk);
            // A new process ends all connections of the old one.
            let mut replaced: Vec<u64> = Vec::new();
            for (index, slot) in peer.inbound.iter_mut().enumerate() {
                if let Some(other) =
                    slot.take_if(|o| index == place || o.process.incarnation != inbound.process.incarnation)
                {
                    replaced.push(other.connection);
                }
            }
            if channel == Channel::Control {
                if let Some(life) = hello.life.as_ref().filter(|_| !peer.stranger) {
                    self.config.lives.learn(from, life);
                }
                self.note_process(peer, inbound.process.clone());
                peer.note_that_it_came();
            }
            peer.inbound[place] = Some(inbound);
            replaced
        };
        for connection in replaced {
            tracing::debug!(peer = %from, %channel, "an older connection gives way to a new one");
            self.abort_connection(connection);
        }
        true
    }

    /// What we send on may still lead to the process before, if nobody closed that: a cable was out, or its computer went down.
    fn note_process(&self, peer: &mut Peer, process: Process) {
        let before = peer.process.replace(process.clone());
        if let Some(before) = before.filter(|before| before.incarnation != process.incarnation) {
            let heard = Duration::from_nanos(before.heard.load(Ordering::Relaxed));
            peer.leave_process_before(self.started + heard);
        }
    }

    /// Word about a process that isn't the newest one comes too late to say anything.
    async fn on_process_ended(&self, peer: MemberId, incarnation: [u8; 16], address: SocketAddr) {
        let Ok(room) = self.events.reserve().await else { return };
        let connections: Vec<u64> = {
            let mut peers = self.peers();
            let Some(known) = peers.get_mut(&peer) else { return };
            if known.process.as_ref().is_none_or(|process| process.incarnation != incarnation) {
                tracing::debug!(%peer, %address, "word of the end of a process that isn't the newest one");
                return;
            }
            tracing::info!(%peer, %address, "its computer says that its process has ended");
            // Before anything that a newer process may say: that connects after this.
            room.send(TransportEvent::ProcessEnded { peer });
            known.inbound.iter_mut().filter_map(Option::take).map(|inbound| inbound.connection).collect()
        };
        // What it sent last mustn't be taken for a sign of life.
        for connection in connections {
            self.abort_connection(connection);
        }
    }

    fn remove_inbound(&self, from: &MemberId, channel: Channel, connection: u64) {
        let mut peers = self.peers();
        let Some(peer) = peers.get_mut(from) else { return };
        let place = usize::from(channel == Channel::Bulk);
        peer.inbound[place].take_if(|inbound| inbound.connection == connection);
        if peer.stranger && peer.is_gone() {
            peer.stop();
            peers.remove(from);
        }
    }

    /// Nanoseconds since the transport's start.
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Warns, but not too often about the same.
    fn complain(&self, about: &str, reason: &str, message: &'static str) {
        let text = format!("{about} {reason}");
        let kept_back = self.quiet().may_say(&text, Instant::now());
        if let Some(kept_back) = kept_back {
            tracing::warn!(from = about, reason, kept_back, "{message}");
        }
    }
}

impl Inbound {
    pub(crate) fn connection(&self) -> u64 {
        self.connection
    }
}
