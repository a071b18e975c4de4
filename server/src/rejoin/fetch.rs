//! Between a replica's store thread, which must not wait for a socket, and the stream from the master.
//!
//! Owns the channels, which are bounded by the questions asked ahead. Never looks into a page.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
};

use bytes::Bytes;
use tanist_replication::{MemberId, Stamp, TermHistory};
use tanist_store::{Question, Target};
use tanist_transport::{OpenError, SecureReceiver, SecureSender, SecureStream};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{AHEAD, Head, PATIENCE, RejoinError, decompress, receive, send};

/// What the store thread says to the master.
#[derive(Debug)]
pub(super) enum ToMaster {
    Ask(Stamp, [u8; 32], bool),
    Question(Question),
    GivenUp(String),
    Done,
}

/// What the store thread hears.
#[derive(Debug)]
pub(super) enum FromMaster {
    /// With the pages that alone are compared, unless all are.
    Target(Target, Option<Vec<u32>>),
    Answer(Bytes),
    End([u8; 32]),
    Failed(String),
}

/// The store thread's way to the master.
#[derive(Debug)]
pub struct Link {
    pub(super) master: MemberId,
    to: mpsc::UnboundedSender<ToMaster>,
    from: std_mpsc::Receiver<FromMaster>,
    bytes: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

/// Gives a rejoin up: nothing is changed any more, unless it has just ended.
#[derive(Debug)]
pub(crate) struct Stop {
    stopped: Arc<AtomicBool>,
    stream: AbortHandle,
}

impl Stop {
    pub(crate) fn new(stopped: Arc<AtomicBool>, stream: AbortHandle) -> Stop {
        Stop { stopped, stream }
    }

    pub(crate) fn stop(self) {
        self.stopped.store(true, Relaxed);
        // The store thread waits for what comes on it.
        self.stream.abort();
    }
}

/// The stream's end of a [`Link`].
#[derive(Debug)]
pub(crate) struct Far {
    to: mpsc::UnboundedReceiver<ToMaster>,
    from: std_mpsc::SyncSender<FromMaster>,
    bytes: Arc<AtomicU64>,
}

/// Both ends.
pub(crate) fn link(master: MemberId) -> (Link, Far) {
    let (to, to_master) = mpsc::unbounded_channel();
    // The answers that were asked for, the target, the end, and what went wrong.
    let (from_master, from) = std_mpsc::sync_channel(AHEAD + 3);
    let bytes = Arc::new(AtomicU64::new(0));
    let far = Far { to: to_master, from: from_master, bytes: Arc::clone(&bytes) };
    (Link { master, to, from, bytes, stopped: Arc::default() }, far)
}

impl Link {
    pub(super) fn say(&self, what: ToMaster) -> Result<(), RejoinError> {
        self.to.send(what).map_err(|_| self.broken())
    }

    pub(super) fn next(&self) -> Result<FromMaster, RejoinError> {
        match self.from.recv_timeout(2 * PATIENCE) {
            Ok(FromMaster::Failed(why)) => Err(RejoinError::Link(why)),
            Ok(other) => Ok(other),
            Err(_) => {
                self.is_wanted()?;
                Err(RejoinError::Link("it ended".to_owned()))
            }
        }
    }

    /// Set when the rejoin is to be given up.
    pub(crate) fn stopped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }

    /// # Errors
    /// When the rejoin is to be given up.
    pub(super) fn is_wanted(&self) -> Result<(), RejoinError> {
        if self.stopped.load(Relaxed) {
            return Err(RejoinError::Link("another master reigns by now".to_owned()));
        }
        Ok(())
    }

    /// Why nothing can be said any more.
    fn broken(&self) -> RejoinError {
        while let Ok(message) = self.from.try_recv() {
            if let FromMaster::Failed(why) = message {
                return RejoinError::Link(why);
            }
        }
        RejoinError::Link("it ended".to_owned())
    }

    /// Bytes that have travelled so far, both ways.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// Carries a rejoin: opens the stream once the store thread is ready, and ends with it.
pub(crate) async fn fetch(opening: impl Future<Output = Result<SecureStream, OpenError>>, mut far: Far) {
    // Looking through what an earlier try has left may take a while, in which nobody should wait.
    let Some(ask) = far.to.recv().await else { return };
    let stream = match opening.await {
        Ok(stream) => stream,
        Err(error) => return far.fail(&format!("connect to the master: {error}")),
    };
    let (mut sender, mut receiver) = stream.into_split();
    if let Err(error) = far.carry(ask, &mut sender, &mut receiver).await {
        far.fail(&error.to_string());
    }
}

impl Far {
    fn fail(&self, why: &str) {
        let _ = self.from.try_send(FromMaster::Failed(why.to_owned()));
    }

    async fn carry(
        &mut self,
        ask: ToMaster,
        sender: &mut SecureSender,
        receiver: &mut SecureReceiver,
    ) -> Result<(), RejoinError> {
        let Far { to, from, bytes } = self;
        // Both ways at once: neither end waits for room while the other does, too.
        let questions = async {
            let mut next = Some(ask);
            while let Some(what) = next {
                let (head, body) = match what {
                    ToMaster::Ask(stamp, key, all) => (Head::Ask(stamp, key, all), Bytes::new()),
                    ToMaster::Question(Question { first, count, hashes }) => {
                        (Head::Question(first, count), hashes)
                    }
                    ToMaster::GivenUp(why) => (Head::GivenUp(why), Bytes::new()),
                    ToMaster::Done => (Head::Done, Bytes::new()),
                };
                bytes.fetch_add(send(sender, &head, body).await?, Relaxed);
                next = to.recv().await;
            }
            // The store thread is through with it.
            Ok(())
        };
        let answers = async {
            loop {
                let (head, body, count) = receive(receiver).await?;
                bytes.fetch_add(count, Relaxed);
                let end = matches!(head, Head::End(_));
                let message = understand(head, body)?;
                from.try_send(message).map_err(|_| {
                    RejoinError::Unexpected("more came than was asked for, or the store gave up".to_owned())
                })?;
                if end {
                    return Ok::<(), RejoinError>(());
                }
            }
        };
        tokio::pin!(questions);
        tokio::select! {
            asked = &mut questions => return asked,
            answered = answers => answered?,
        }
        // All is here; what is left is the store thread's last word.
        questions.await
    }
}

fn understand(head: Head, body: Bytes) -> Result<FromMaster, RejoinError> {
    Ok(match head {
        Head::Target(stamp, page_size, pages, history, listed) => {
            let history = TermHistory::from_reigns(history.reigns().iter().cloned())
                .map_err(|error| RejoinError::Unexpected(error.to_string()))?;
            let changed = listed.then(|| read_list(&body)).transpose()?;
            FromMaster::Target(Target { stamp, page_size, pages, history }, changed)
        }
        Head::Answer(encoding, plain_len) => FromMaster::Answer(decompress(encoding, plain_len, body)?),
        Head::End(whole) => FromMaster::End(whole),
        Head::Failed(why) => return Err(RejoinError::Master(why)),
        Head::Ask(..) | Head::Question(..) | Head::GivenUp(_) | Head::Done => {
            return Err(RejoinError::Unexpected("the master asks".to_owned()));
        }
    })
}

/// Page numbers, as `write_list` wrote them.
fn read_list(body: &[u8]) -> Result<Vec<u32>, RejoinError> {
    let (numbers, rest) = body.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(RejoinError::Unexpected(format!("a list of pages of {} bytes", body.len())));
    }
    Ok(numbers.iter().map(|number| u32::from_be_bytes(*number)).collect())
}

/// Page numbers, as they travel.
pub(super) fn write_list(pages: &[u32]) -> Bytes {
    pages.iter().flat_map(|page| page.to_be_bytes()).collect::<Vec<u8>>().into()
}
