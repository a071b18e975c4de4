//! One dial: all addresses of a member, resolved anew, until one leads to that member.
//!
//! Owns the race between addresses. Never repeats: `link.rs` does. Read `names.rs` for how names are resolved.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use tanist_replication::MemberId;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{Channel, ClusterKey, Config, HandshakeError, SecureStream, handshake, names::Led};

/// A name that isn't the first is waited for so long.
const OTHERS_PATIENCE: Duration = Duration::from_millis(100);

/// Why no address of a member led to it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such peer was set.
    #[error("unknown peer '{0}'")]
    UnknownPeer(MemberId),
    /// It has no address.
    #[error("no address is known")]
    NoAddress,
    /// Every address answered: nobody listens here.
    #[error("connection refused by {addresses}")]
    Refused {
        /// The addresses tried.
        addresses: String,
    },
    /// The addresses failed, not all by refusing.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answered, but it was not the member we look for.
    #[error("{address}: {source}")]
    Handshake {
        /// Who answered.
        address: SocketAddr,
        /// What was wrong.
        source: HandshakeError,
    },
}

/// Settings every socket gets. Failures are not worth a connection.
pub(crate) fn tune(socket: &TcpStream, dead_after: Duration) {
    let _ = socket.set_nodelay(true);
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(dead_after / 2)
        .with_interval((dead_after / 10).max(Duration::from_secs(1)));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(dead_after));
}

/// Dials `to` until one of `addresses` leads to it: with the key to dial with, and if that isn't known there with the other.
pub(crate) async fn dial(
    config: &Config,
    to: &MemberId,
    addresses: &[String],
    channel: Channel,
) -> Result<SecureStream, OpenError> {
    let keys = config.keys.now();
    match (dial_with(config, &keys.key, to, addresses, channel).await, &keys.other) {
        (Err(OpenError::Handshake { source: HandshakeError::Key, .. }), Some(other)) => {
            dial_with(config, other, to, addresses, channel).await
        }
        (dialled, _) => dialled,
    }
}

/// Whether the member at one of `addresses` accepts `key`. Both ends show it, and nothing else is said: to the member it is a
/// connection that ended early.
///
/// # Errors
/// When none of the addresses leads to a member of the cluster. A key that isn't accepted is [`HandshakeError::Key`] in
/// [`OpenError::Handshake`].
pub async fn try_key(config: &Config, key: &ClusterKey, addresses: &[String]) -> Result<(), OpenError> {
    let limits = &config.limits;
    let mut failures = Failures::default();
    for (address, _) in resolve(config, addresses, &mut failures).await {
        let (address, connected) = connect(address, limits.connect_timeout).await;
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(error) => {
                failures.add_connect(address, &error);
                continue;
            }
        };
        let proving = handshake::prove_on(&mut socket, config, key, Channel::Control);
        match timeout(limits.handshake_timeout, proving).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(source)) => failures.add_handshake(address, source),
            Err(_) => failures.add_handshake(address, HandshakeError::Timeout),
        }
    }
    Err(failures.into_error())
}

async fn dial_with(
    config: &Config,
    key: &ClusterKey,
    to: &MemberId,
    addresses: &[String],
    channel: Channel,
) -> Result<SecureStream, OpenError> {
    let limits = &config.limits;
    let mut failures = Failures::default();
    let resolved = resolve(config, addresses, &mut failures).await;
    let mut waiting: VecDeque<_> = resolved.iter().map(|(address, _)| *address).collect();
    let mut attempts = JoinSet::new();
    loop {
        if attempts.is_empty() {
            match waiting.pop_front() {
                Some(address) => drop(attempts.spawn(connect(address, limits.connect_timeout))),
                None => return Err(failures.into_error()),
            }
        }
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(limits.dial_stagger), if !waiting.is_empty() => {
                if let Some(address) = waiting.pop_front() {
                    attempts.spawn(connect(address, limits.connect_timeout));
                }
                continue;
            }
        };
        let Some(Ok((address, connected))) = ended else { continue };
        let socket = match connected {
            Ok(socket) => socket,
            Err(error) => {
                failures.add_connect(address, &error);
                continue;
            }
        };
        tune(&socket, limits.dead_after(channel));
        match timeout(limits.handshake_timeout, handshake::dial(socket, config, key, to, channel)).await {
            Ok(Ok(stream)) => {
                if let Some((_, name)) = resolved.iter().find(|(other, _)| *other == address) {
                    config.names.worked(name, address);
                }
                return Ok(stream);
            }
            Ok(Err(source)) => failures.add_handshake(address, source),
            Err(_) => failures.add_handshake(address, HandshakeError::Timeout),
        }
    }
}

async fn connect(address: SocketAddr, patience: Duration) -> (SocketAddr, io::Result<TcpStream>) {
    let connected = match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(socket)) if is_to_itself(&socket) => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    };
    (address, connected)
}

/// On one machine, dialling a free port may pick that very port as the source and so connect to itself.
fn is_to_itself(socket: &TcpStream) -> bool {
    matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

/// Where the addresses lead, each with the one that it came of. Once one is known the others' names are waited for only a moment.
async fn resolve<'a>(
    config: &Config,
    addresses: &'a [String],
    failures: &mut Failures,
) -> Vec<(SocketAddr, &'a str)> {
    let until = Instant::now() + config.limits.connect_timeout;
    // All at once; each goes on by itself.
    addresses.iter().for_each(|name| config.names.begin(name));
    let mut found: Vec<(SocketAddr, &str)> = Vec::new();
    for name in addresses {
        let left = until.saturating_duration_since(Instant::now());
        let patience = if found.is_empty() { left } else { left.min(OTHERS_PATIENCE) };
        match config.names.resolve(name, patience).await {
            Led::To(resolved) => {
                for address in resolved {
                    if !found.iter().any(|(other, _)| *other == address) {
                        found.push((address, name));
                    }
                }
            }
            Led::Nowhere(why) => failures.add(format!("{name}: {why}")),
        }
    }
    found
}

#[derive(Default)]
struct Failures {
    refused: Vec<SocketAddr>,
    others: Vec<String>,
    handshake: Option<(SocketAddr, HandshakeError)>,
}

impl Failures {
    fn add(&mut self, text: String) {
        self.others.push(text);
    }

    fn add_connect(&mut self, address: SocketAddr, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.refused.push(address);
        } else {
            self.others.push(format!("{address}: {error}"));
        }
    }

    fn add_handshake(&mut self, address: SocketAddr, error: HandshakeError) {
        self.handshake = Some((address, error));
    }

    fn into_error(self) -> OpenError {
        if let Some((address, source)) = self.handshake {
            return OpenError::Handshake { address, source };
        }
        let refused = || self.refused.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        match (self.refused.is_empty(), self.others.is_empty()) {
            (true, true) => OpenError::NoAddress,
            (false, true) => OpenError::Refused { addresses: refused() },
            (true, false) => OpenError::Unreachable(self.others.join("; ")),
            (false, false) => OpenError::Unreachable(format!(
                "{}; connection refused by {}",
                self.others.join("; "),
                refused()
            )),
        }
    }
}
