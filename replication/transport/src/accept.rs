//! Incoming connections: bounded handshakes, then packets handed to the owner, or a copy stream handed over whole.
//!
//! A slow owner makes the reader wait, and so the sender (TCP back-pressure). Whatever a stranger sends closes his own
//! connection and nothing else.

use std::sync::Arc;

use parking::Pending;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    Channel, LinkError, TransportEvent, handshake,
    link::{Complaint, tune},
    transport::Shared,
};

/// Counts handshakes under way.
mod parking {
    use std::sync::Arc;

    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    #[derive(Clone)]
    pub(super) struct Pending(Arc<Semaphore>);

    impl Pending {
        pub(super) fn new(limit: usize) -> Pending {
            Pending(Arc::new(Semaphore::new(limit)))
        }

        pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
            Arc::clone(&self.0).try_acquire_owned().ok()
        }
    }
}

/// Accepts until told to stop.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let pending = Pending::new(shared.config.limits.pending_handshakes);
    let complaint = Arc::new(std::sync::Mutex::new(Complaint::default()));
    let mut stop = shared.stop.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, or a connection that broke while it waited.
                tracing::warn!(%error, "accept a peer");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(permit) = pending.enter() else {
            tracing::warn!(%address, "connection closed: too many handshakes under way");
            continue;
        };
        let (shared, complaint) = (Arc::clone(&shared), Arc::clone(&complaint));
        let mut stop = shared.stop.subscribe();
        tokio::spawn(async move {
            let serve = async {
                let shaken = timeout(shared.config.limits.handshake_timeout, shake(&shared, stream)).await;
                drop(permit);
                let result = match shaken {
                    Ok(Ok((from, channel, secured))) => serve(&shared, from, channel, secured).await,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(LinkError::Timeout),
                };
                if let Err(error) = result
                    && let Ok(mut complaint) = complaint.lock()
                {
                    complaint.about(&address.to_string(), None, &error);
                }
            };
            tokio::select! {
                () = serve => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
}

async fn shake(
    shared: &Shared,
    stream: TcpStream,
) -> Result<(tanist_replication::MemberId, Channel, crate::SecureStream), LinkError> {
    tune(&stream)?;
    handshake::accept(&shared.config, stream, |id| shared.knows(id)).await
}

async fn serve(
    shared: &Shared,
    from: tanist_replication::MemberId,
    channel: Channel,
    mut stream: crate::SecureStream,
) -> Result<(), LinkError> {
    if channel == Channel::Copy {
        shared.tell(TransportEvent::CopyRequested { from, stream }).await;
        return Ok(());
    }
    loop {
        match stream.recv().await {
            Ok(Some(packet)) => {
                shared.tell(TransportEvent::Received { from: from.clone(), channel, packet }).await;
            }
            Ok(None) => return Ok(()),
            // A peer that dies resets the connection: its own link tells that story.
            Err(LinkError::Io(_) | LinkError::Truncated) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
