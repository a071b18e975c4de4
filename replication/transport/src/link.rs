//! The task behind one outgoing link: dials, sends what is queued, notices the end, dials again.
//!
//! Owns the connection we send on. Never receives packets: members receive on what they accepted. Read `queue.rs` for
//! what it sends and `dial.rs` for one dial.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tanist_replication::MemberId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::OwnedReadHalf,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    Channel, Config, FrameError, HandshakeError, OpenError, Program, SecureStream, TransportEvent, dial,
    framing::BATCH, keys, queue::Queue, quiet::Quiet,
};

/// A link that lived this long is dialled again at once.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// A dial that takes longer waits for an answer that got lost, or for a computer that wasn't there.
const STUCK_AFTER: Duration = Duration::from_millis(100);

/// Whether a link is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Yes.
    On,
    /// Send what is queued, then end.
    Drain,
    /// No: the peer is no member any more.
    Stop,
}

/// What the transport wants of a peer's links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orders {
    pub(crate) run: Run,
    /// When the peer's process before its present one was last heard.
    pub(crate) process_before: Option<Instant>,
    /// When the peer last connected to us: it is there.
    pub(crate) came: Option<Instant>,
}

impl Orders {
    /// Whether a connection opened at `since` leads to a process that is gone. One opened after that was last heard may
    /// lead to either, and stays.
    fn abandon(self, since: Instant) -> bool {
        self.process_before.is_some_and(|heard| heard > since)
    }
}

/// One outgoing link.
pub(crate) struct Link {
    pub(crate) config: Arc<Config>,
    pub(crate) peer: MemberId,
    pub(crate) channel: Channel,
    pub(crate) addresses: watch::Receiver<Vec<String>>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) events: mpsc::Sender<TransportEvent>,
    pub(crate) orders: watch::Receiver<Orders>,
    /// What the peer runs, as it last said.
    pub(crate) program: Arc<Mutex<Option<Program>>>,
}

/// How an open link ended.
enum End {
    Lost(String),
    /// `close_bulk`.
    Unwanted,
    /// `Run::Stop`, or drained.
    Over,
}

/// What a link does after its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Redial,
    /// Until somebody wants it.
    Sleep,
    End,
}

impl Link {
    /// Until told to stop.
    pub(crate) async fn go(mut self) {
        let mut pause = Pause::new(&self.config);
        let mut quiet = Quiet::default();
        let mut was_up = false;
        while self.wait_until_wanted().await {
            self.queue.on_dialing();
            let addresses = self.addresses.borrow_and_update().clone();
            let dialled = {
                let dial = dial::dial(&self.config, &self.peer, &addresses, self.channel);
                tokio::select! {
                    dialled = dial => dialled,
                    // The answer to a connection that was asked for while it wasn't there may come seconds later, or never.
                    came = came_after(&mut self.orders, Instant::now() + STUCK_AFTER) => {
                        if came { continue } else { break }
                    }
                }
            };
            match dialled {
                Ok(stream) => {
                    was_up = true;
                    quiet.forget();
                    let since = Instant::now();
                    let after = self.carry(stream, since).await;
                    if after == After::End {
                        return;
                    }
                    if since.elapsed() >= STABLE_AFTER {
                        pause.reset();
                    }
                    if after == After::Sleep || since.elapsed() >= STABLE_AFTER {
                        self.queue.on_rested();
                        continue;
                    }
                }
                Err(error) => self.on_failed_dial(&error, was_up, &mut quiet).await,
            }
            tokio::select! {
                () = sleep(pause.next()) => {}
                came = came_after(&mut self.orders, Instant::now()) => if !came { break },
                changed = self.addresses.changed() => if changed.is_err() { break },
            }
            self.queue.on_rested();
        }
        self.queue.on_down("the transport has stopped, or the peer is no member".to_owned());
    }

    /// Whether to dial; `false` when told to end.
    async fn wait_until_wanted(&mut self) -> bool {
        loop {
            if self.orders.borrow().run != Run::On {
                return false;
            }
            if self.queue.is_wanted() {
                return true;
            }
            tokio::select! {
                () = self.queue.wake.notified() => {}
                () = ended(&mut self.orders) => return false,
            }
        }
    }

    /// Sends on a connection that was opened at `since`, until it ends.
    async fn carry(&mut self, mut stream: SecureStream, since: Instant) -> After {
        if let Some(program) = stream.take_program() {
            *self.program.lock().unwrap_or_else(PoisonError::into_inner) = Some(program);
        }
        let (peer, channel, address) = (self.peer.clone(), self.channel, stream.address());
        tracing::info!(%peer, %channel, %address, "connected");
        self.queue.on_up();
        self.emit(TransportEvent::Connected { peer: peer.clone(), channel }).await;
        let end = self.pump(stream, since).await;
        let (reason, after) = match end {
            Ok(End::Lost(reason)) => (reason, After::Redial),
            Err(error) => (error.to_string(), After::Redial),
            Ok(End::Unwanted) => ("closed by us: no longer needed".to_owned(), After::Sleep),
            Ok(End::Over) => ("closed by us: stopping, or the peer is no member".to_owned(), After::End),
        };
        self.queue.on_down(reason.clone());
        if after == After::Redial {
            tracing::warn!(%peer, %channel, %address, reason, "connection lost");
        } else {
            tracing::info!(%peer, %channel, %address, reason, "connection closed");
        }
        // At shutdown nobody listens any more, and a full event channel must not hold it up.
        let asked = self.orders.borrow().run;
        if asked != Run::Drain {
            self.emit(TransportEvent::Closed { peer, channel, reason }).await;
        }
        after
    }

    async fn pump(&mut self, stream: SecureStream, since: Instant) -> Result<End, FrameError> {
        let (key, mut keys) = (stream.key(), self.config.keys.subscribe());
        let (mut sender, receiver) = stream.into_split();
        // The peer sends nothing on this connection; its end is all there is to read.
        let mut incoming = receiver.socket;
        let encoder = &mut sender.encoder;
        let limits = &self.config.limits;
        loop {
            let orders = *self.orders.borrow_and_update();
            let mode = orders.run;
            if mode == Run::Stop {
                return Ok(End::Over);
            }
            if orders.abandon(since) {
                return Ok(End::Lost(
                    "the peer is a new process, and this connection leads to the one before".to_owned(),
                ));
            }
            while !encoder.is_full() {
                if encoder.is_busy() {
                    encoder.fill()?;
                } else if let Some(packet) = self.queue.pop() {
                    encoder.start(packet);
                } else {
                    break;
                }
            }
            if encoder.pending().is_empty() {
                if mode == Run::Drain {
                    let _ = sender.socket.shutdown().await;
                    return Ok(End::Over);
                }
                tokio::select! {
                    biased;
                    () = self.queue.wake.notified() => {
                        if !self.queue.is_wanted() {
                            return Ok(End::Unwanted);
                        }
                    }
                    reason = end_of(&mut incoming) => return Ok(End::Lost(reason)),
                    changed = self.orders.changed() => if changed.is_err() { return Ok(End::Over) },
                    () = keys::dropped(&mut keys, key) => return Ok(End::Lost(keys::DROPPED.to_owned())),
                    () = sleep(limits.keepalive) => encoder.sign_of_life()?,
                }
                continue;
            }
            let many = encoder.pending().len() >= BATCH / 2;
            tokio::select! {
                biased;
                written = timeout(limits.dead_after(self.channel), sender.socket.write_all(encoder.pending())) => {
                    match written {
                        Ok(Ok(())) => encoder.written(),
                        Ok(Err(error)) => return Ok(End::Lost(error.to_string())),
                        Err(_) => return Ok(End::Lost("the peer takes no bytes".to_owned())),
                    }
                }
                reason = end_of(&mut incoming) => return Ok(End::Lost(reason)),
                () = keys::dropped(&mut keys, key) => return Ok(End::Lost(keys::DROPPED.to_owned())),
                // The next round says why.
                () = broken_off(&mut self.orders, since) => {}
            }
            if many {
                // Encryption is work: let what is urgent pass.
                tokio::task::yield_now().await;
            }
        }
    }

    async fn on_failed_dial(&self, error: &OpenError, was_up: bool, quiet: &mut Quiet) {
        let (peer, channel, reason) = (&self.peer, self.channel, error.to_string());
        if let Some(kept_back) = quiet.may_say(&reason, Instant::now()) {
            tracing::warn!(%peer, %channel, reason, kept_back, "cannot connect");
        }
        let waited = self.queue.on_down(reason.clone());
        if let OpenError::Handshake { address, source: HandshakeError::IdInUse(me) } = error {
            self.emit(TransportEvent::IdInUse { peer: me.clone(), address: *address }).await;
        }
        if channel == Channel::Control && was_up && matches!(error, OpenError::Refused { .. }) {
            self.emit(TransportEvent::Refused { peer: peer.clone() }).await;
        }
        if channel == Channel::Bulk && waited {
            self.emit(TransportEvent::Closed { peer: peer.clone(), channel, reason }).await;
        }
    }

    async fn emit(&self, event: TransportEvent) {
        // The owner may be gone: then nobody asks.
        let _ = self.events.send(event).await;
    }
}

/// Waits for anything but `Run::On`.
async fn ended(orders: &mut watch::Receiver<Orders>) {
    // An error means that the transport was dropped.
    let _ = orders.wait_for(|orders| orders.run != Run::On).await;
}

/// Waits until the peer connects to us, later than `then`; `false` when the link is to end.
async fn came_after(orders: &mut watch::Receiver<Orders>, then: Instant) -> bool {
    let heard = orders.wait_for(|orders| orders.run != Run::On || orders.came > Some(then)).await;
    // An error means that the transport was dropped.
    heard.is_ok_and(|orders| orders.run == Run::On)
}

/// Waits until a connection is to be left even with bytes unsent; forever once nobody can say it.
async fn broken_off(orders: &mut watch::Receiver<Orders>, since: Instant) {
    if orders.wait_for(|orders| orders.run == Run::Stop || orders.abandon(since)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn end_of(incoming: &mut OwnedReadHalf) -> String {
    match incoming.read(&mut [0; 16]).await {
        Ok(0) => "closed by the peer".to_owned(),
        Ok(_) => "the peer sent where it only receives".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The growing pause between dials.
struct Pause {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Pause {
    fn new(config: &Config) -> Pause {
        let min = config.limits.dial_backoff_min;
        Pause { min, max: config.limits.dial_backoff_max.max(min), next: min }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    /// Three quarters to five quarters of the pause that is due, so that members don't dial in step.
    fn next(&mut self) -> Duration {
        let mut byte = [128u8];
        let _ = getrandom::fill(&mut byte);
        let pause = self.next.mul_f64(0.75 + f64::from(byte[0]) / 512.0);
        self.next = (self.next * 2).min(self.max);
        pause
    }
}
