//! A client's socket, which notices a client that takes nothing of its answer.
//!
//! What it doesn't take waits in memory, and a watcher's answer never ends. So a client that takes nothing for a while, or not
//! all of a large answer in time, is cut off, and a watcher's socket keeps little. Copies have limits of their own (`backup.rs`).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::clock;

/// A client whose socket takes nothing for so long is cut off.
pub(super) const STALL_TIME: Duration = Duration::from_secs(10);
/// A large answer must have been taken so long after it was there.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// What the system keeps for a watcher that doesn't read, in bytes (Linux doubles it).
const SEND_BUFFER: usize = 64 << 10;

const ANSWERED: u8 = 0;
const WATCHED: u8 = 1;
const COPIED: u8 = 2;

/// What a connection is used for; shared between its socket and its requests.
#[derive(Debug, Default)]
pub(super) struct Usage {
    kind: AtomicU8,
    /// When the answer must have been taken, by this process's clock; 0: whenever.
    due_ns: AtomicU64,
}

impl Usage {
    /// A request has come.
    pub(super) fn begin(&self) {
        self.kind.store(ANSWERED, Relaxed);
        self.due_ns.store(0, Relaxed);
    }

    /// The connection carries a stream of events from now on.
    pub(super) fn watch(&self) {
        self.kind.store(WATCHED, Relaxed);
    }

    /// The connection carries a copy, whose client is watched over elsewhere.
    pub(super) fn copy(&self) {
        self.kind.store(COPIED, Relaxed);
    }

    /// Whether it carries a stream of events.
    pub(super) fn is_watched(&self) -> bool {
        self.kind.load(Relaxed) == WATCHED
    }

    /// A large answer is there now.
    pub(super) fn expect(&self, now_ns: u64) {
        self.due_ns.store(now_ns + ANSWER_TIME.as_nanos() as u64, Relaxed);
    }

    fn is_late(&self) -> bool {
        let due = self.due_ns.load(Relaxed);
        due != 0 && clock::now_ns() >= due
    }

    fn is_copied(&self) -> bool {
        self.kind.load(Relaxed) == COPIED
    }
}

/// See the module.
pub(super) struct Socket {
    stream: TcpStream,
    peer: SocketAddr,
    usage: Arc<Usage>,
    small: bool,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, usage: Arc<Usage>) -> Socket {
        Socket { stream, peer, usage, small: false, stalled: None }
    }

    /// Makes room in the system's buffer small once the connection is a watcher's.
    fn prepare(&mut self) {
        if !self.small && self.usage.is_watched() {
            self.small = true;
            let _ = socket2::SockRef::from(&self.stream).set_send_buffer_size(SEND_BUFFER);
        }
    }

    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.usage.is_late() {
            tracing::warn!(peer = %self.peer, "a client was cut off: it didn't take all of its answer within {ANSWER_TIME:?}");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes too long")));
        }
        if written.is_ready() || self.usage.is_copied() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL_TIME)));
        ready!(stalled.as_mut().poll(cx));
        if self.usage.is_watched() {
            tracing::warn!(peer = %self.peer, "a watcher was cut off: it took nothing for {STALL_TIME:?}; it can resume");
        } else {
            tracing::warn!(peer = %self.peer, "a client was cut off: it took nothing of its answer for {STALL_TIME:?}");
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.prepare();
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.prepare();
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn client_that_takes_too_long_over_a_large_answer_is_cut_off_however_steadily_it_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (stream, peer)) = (client.unwrap(), accepted.unwrap());
        let usage = Arc::new(Usage::default());
        let mut socket = Socket::new(stream, peer, Arc::clone(&usage));
        usage.begin();
        usage.expect(clock::now_ns());
        socket.write_all(b"in time").await.unwrap();
        usage.expect(clock::now_ns().saturating_sub(ANSWER_TIME.as_nanos() as u64));
        assert_eq!(socket.write_all(b"late").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        usage.begin();
        socket.write_all(b"the next one").await.unwrap();
    }
}
