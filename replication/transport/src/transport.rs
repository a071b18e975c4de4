//! The handle: peers, queues, tasks.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tanist_replication::MemberId;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{Channel, Config, LinkError, Packet, SecureStream, SendError, TransportEvent, accept, link};

struct PeerState {
    addresses: Vec<String>,
    control: Option<mpsc::Sender<Packet>>,
    bulk: Option<(u64, mpsc::Sender<Packet>)>,
    keeper: JoinHandle<()>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) stop: watch::Sender<bool>,
    events: mpsc::Sender<TransportEvent>,
    peers: Mutex<BTreeMap<MemberId, PeerState>>,
    counter: AtomicU64,
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<MemberId, PeerState>> {
        // Nothing panics while it holds the lock; if it did, the map would still be whole.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn knows(&self, id: &str) -> bool {
        self.peers().keys().any(|peer| peer.as_str() == id)
    }

    /// Sets the control queue; `false` when the peer is no longer configured.
    pub(crate) fn set_control(&self, peer: &MemberId, sender: Option<mpsc::Sender<Packet>>) -> bool {
        match self.peers().get_mut(peer) {
            Some(state) => {
                state.control = sender;
                true
            }
            None => false,
        }
    }

    pub(crate) fn drop_bulk(&self, peer: &MemberId, generation: u64) {
        if let Some(state) = self.peers().get_mut(peer)
            && state.bulk.as_ref().is_some_and(|(current, _)| *current == generation)
        {
            state.bulk = None;
        }
    }

    pub(crate) async fn tell(&self, event: TransportEvent) {
        let _ = self.events.send(event).await;
    }

    /// Some duration up to `limit`, so that two machines don't dial in step.
    pub(crate) fn jitter(&self, limit: Duration) -> Duration {
        let mut bytes = [0; 4];
        let _ = getrandom::fill(&mut bytes);
        limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
    }
}

/// All links of one machine. Lives in the tokio runtime in which it was started.
pub struct Transport {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("me", &self.shared.config.me).finish_non_exhaustive()
    }
}

impl Transport {
    /// Starts to accept on the (non-blocking) listeners. No peer is known yet: see [`Transport::set_peers`].
    #[must_use]
    pub fn start(
        config: Config,
        listeners: Vec<std::net::TcpListener>,
        events: mpsc::Sender<TransportEvent>,
    ) -> Transport {
        let (stop, _) = watch::channel(false);
        let shared = Arc::new(Shared {
            config,
            stop,
            events,
            peers: Mutex::default(),
            counter: AtomicU64::new(0),
        });
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::spawn(accept::accept(Arc::clone(&shared), listener));
                }
                Err(error) => tracing::error!(%error, "listen for peers"),
            }
        }
        Transport { shared }
    }

    /// The peers and their `host:port` addresses. New ones are dialled, changed ones anew, missing ones dropped.
    pub fn set_peers(&self, peers: Vec<(MemberId, Vec<String>)>) {
        let mut known = self.shared.peers();
        known.retain(|id, state| {
            let stays = peers.iter().any(|(peer, addresses)| peer == id && *addresses == state.addresses);
            if !stays {
                state.keeper.abort();
            }
            stays
        });
        for (peer, addresses) in peers {
            if peer == self.shared.config.me || known.contains_key(&peer) {
                continue;
            }
            let keeper =
                tokio::spawn(link::keep_control(Arc::clone(&self.shared), peer.clone(), addresses.clone()));
            known.insert(peer, PeerState { addresses, control: None, bulk: None, keeper });
        }
    }

    /// Queues a packet, without waiting. A bulk link is dialled with its first packet.
    ///
    /// # Errors
    /// When there is no link, the queue is full, the peer is unknown or the packet too large. After a failed bulk send
    /// nothing more of the queue can be relied on.
    pub fn send(&self, to: &MemberId, channel: Channel, packet: Packet) -> Result<(), SendError> {
        if packet.head.len() + packet.body.len() > self.shared.config.limits.message(channel) {
            return Err(SendError::TooLarge);
        }
        let mut peers = self.shared.peers();
        let state = peers.get_mut(to).ok_or(SendError::UnknownPeer)?;
        let sender = match channel {
            Channel::Control => state.control.as_ref().ok_or(SendError::Down)?,
            Channel::Bulk => {
                let generation = self.shared.counter.fetch_add(1, Ordering::Relaxed);
                let (_, sender) = state.bulk.get_or_insert_with(|| {
                    let (sender, queue) = mpsc::channel(self.shared.config.limits.queue_packets);
                    let (shared, peer) = (Arc::clone(&self.shared), to.clone());
                    tokio::spawn(link::run_bulk(shared, peer, state.addresses.clone(), queue, generation));
                    (generation, sender)
                });
                &*sender
            }
            Channel::Copy => return Err(SendError::Down),
        };
        sender.try_send(packet).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Down,
        })
    }

    /// Dials a copy stream.
    ///
    /// # Errors
    /// When the peer is unknown or can't be reached.
    pub fn open_copy(&self, to: &MemberId) -> impl Future<Output = Result<SecureStream, LinkError>> + use<> {
        let shared = Arc::clone(&self.shared);
        let peer = to.clone();
        let addresses = self.shared.peers().get(to).map(|state| state.addresses.clone());
        async move {
            let addresses = addresses.ok_or_else(|| LinkError::Unknown(peer.to_string()))?;
            link::connect(&shared, &peer, &addresses, Channel::Copy).await.map(|(stream, _)| stream)
        }
    }

    /// Sends what is queued on the control links, then closes everything.
    pub async fn shutdown(&self) {
        let keepers: Vec<JoinHandle<()>> = {
            let mut peers = self.shared.peers();
            let linked: Vec<_> =
                std::mem::take(&mut *peers).into_values().filter(|state| state.control.is_some()).collect();
            // Dropping a queue's sender makes its link send the rest and end.
            linked.into_iter().map(|state| state.keeper).collect()
        };
        for keeper in keepers {
            let _ = tokio::time::timeout(Duration::from_millis(500), keeper).await;
        }
        self.shared.stop.send_replace(true);
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}
