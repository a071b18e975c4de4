//! Outgoing links: dial, send what is queued, notice the end, dial again.
//!
//! One task per peer for the control link, for as long as the peer is configured; one per bulk link, for as long as it is
//! used. Never reads packets: what peers say comes in on the links that they dial (`accept.rs`).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tanist_replication::MemberId;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::timeout,
};

use crate::{
    Channel, LinkError, Packet, TransportEvent, handshake,
    stream::SecureStream,
    transport::Shared,
};

/// Dials the addresses in order; the first that answers wins.
pub(crate) async fn connect(
    shared: &Shared,
    peer: &MemberId,
    addresses: &[String],
    channel: Channel,
) -> Result<(SecureStream, SocketAddr), LinkError> {
    let limits = &shared.config.limits;
    let mut refused = !addresses.is_empty();
    let mut last = LinkError::Unreachable("it has no address".to_owned());
    for address in addresses {
        // Names are resolved anew each time: a machine may have moved.
        let resolved: Vec<SocketAddr> = match timeout(limits.connect_timeout, lookup_host(address)).await {
            Ok(Ok(resolved)) => resolved.collect(),
            Ok(Err(error)) => {
                refused = false;
                last = LinkError::Unreachable(format!("{address}: {error}"));
                continue;
            }
            Err(_) => {
                refused = false;
                last = LinkError::Unreachable(format!("{address}: the name isn't resolved in time"));
                continue;
            }
        };
        for target in resolved {
            match timeout(limits.connect_timeout, TcpStream::connect(target)).await {
                Ok(Ok(stream)) => {
                    tune(&stream)?;
                    let shaken = handshake::dial(&shared.config, stream, peer, channel);
                    let stream = timeout(limits.handshake_timeout, shaken).await.map_err(|_| LinkError::Timeout)??;
                    return Ok((stream, target));
                }
                Ok(Err(error)) => {
                    refused &= error.kind() == std::io::ErrorKind::ConnectionRefused;
                    last = LinkError::Unreachable(format!("{target}: {error}"));
                }
                Err(_) => {
                    refused = false;
                    last = LinkError::Unreachable(format!("{target}: no answer in time"));
                }
            }
        }
    }
    Err(if refused { LinkError::Refused } else { last })
}

/// No delay for small packets; a peer that vanishes without a word is noticed by the kernel, too.
pub(crate) fn tune(stream: &TcpStream) -> Result<(), LinkError> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    Ok(())
}

/// Logs a failure once, and again only when it changes or ten seconds have passed.
#[derive(Default)]
pub(crate) struct Complaint {
    last: Option<(String, Instant)>,
}

impl Complaint {
    pub(crate) fn about(&mut self, peer: &str, channel: Option<Channel>, error: &LinkError) {
        let text = error.to_string();
        let repeated = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| *last == text && at.elapsed() < Duration::from_secs(10));
        if repeated {
            return;
        }
        match channel {
            Some(channel) => tracing::warn!(peer, ?channel, reason = %text, "link not made"),
            None => tracing::warn!(peer, reason = %text, "connection refused"),
        }
        self.last = Some((text, Instant::now()));
    }
}

/// Keeps the control link to a peer up until the peer is no longer configured (its queue's slot is gone).
pub(crate) async fn keep_control(shared: std::sync::Arc<Shared>, peer: MemberId, addresses: Vec<String>) {
    let limits = shared.config.limits.clone();
    let mut backoff = limits.backoff_min;
    let mut complaint = Complaint::default();
    let mut stop = shared.stop.subscribe();
    loop {
        let connected = tokio::select! {
            connected = connect(&shared, &peer, &addresses, Channel::Control) => connected,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match connected {
            Ok((stream, address)) => {
                tracing::info!(%peer, %address, "link up");
                complaint = Complaint::default();
                backoff = limits.backoff_min;
                let (sender, queue) = mpsc::channel(limits.queue_packets);
                if !shared.set_control(&peer, Some(sender)) {
                    return;
                }
                shared.tell(TransportEvent::Connected { peer: peer.clone(), channel: Channel::Control }).await;
                let error = run(stream, queue).await;
                let Some(error) = error else { return }; // the queue's other end is gone: stopping, or a peer removed
                shared.set_control(&peer, None);
                tracing::info!(%peer, %address, reason = %error, "link lost");
                let reason = error.to_string();
                shared.tell(TransportEvent::Closed { peer: peer.clone(), channel: Channel::Control, reason }).await;
                continue; // at once: a refusal now tells that the process has ended
            }
            Err(error) => {
                complaint.about(peer.as_str(), Some(Channel::Control), &error);
                if matches!(error, LinkError::Refused) {
                    shared.tell(TransportEvent::Refused { peer: peer.clone() }).await;
                }
            }
        }
        let pause = backoff + shared.jitter(backoff / 4);
        backoff = (backoff * 2).min(limits.backoff_max);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Dials a bulk link, sends its queue, and ends with it.
pub(crate) async fn run_bulk(
    shared: std::sync::Arc<Shared>,
    peer: MemberId,
    addresses: Vec<String>,
    queue: mpsc::Receiver<Packet>,
    generation: u64,
) {
    let reason = match connect(&shared, &peer, &addresses, Channel::Bulk).await {
        Ok((stream, address)) => {
            tracing::debug!(%peer, %address, "bulk link up");
            shared.tell(TransportEvent::Connected { peer: peer.clone(), channel: Channel::Bulk }).await;
            run(stream, queue).await
        }
        Err(error) => Some(error),
    };
    shared.drop_bulk(&peer, generation);
    if let Some(error) = reason {
        tracing::debug!(%peer, reason = %error, "bulk link lost");
        let reason = error.to_string();
        shared.tell(TransportEvent::Closed { peer, channel: Channel::Bulk, reason }).await;
    }
}

/// Sends the queue until the link breaks (the reason) or the queue is closed and empty (`None`).
async fn run(stream: SecureStream, mut queue: mpsc::Receiver<Packet>) -> Option<LinkError> {
    let SecureStream { mut sender, mut receiver } = stream;
    let send = async {
        while let Some(packet) = queue.recv().await {
            sender.push(&packet)?;
            while !sender.is_full()
                && let Ok(packet) = queue.try_recv()
            {
                sender.push(&packet)?;
            }
            sender.flush().await?;
        }
        sender.close().await;
        Ok::<(), LinkError>(())
    };
    tokio::select! {
        sent = send => sent.err(),
        error = receiver.ended() => Some(error),
    }
}
