//! A client's socket, which notices a client that takes nothing of its answer.
//!
//! What it doesn't take waits in memory, and a watcher's answer never ends. So a client that takes nothing for a while is cut
//! off, and a watcher's socket keeps little. Copies have limits of their own (`backup.rs`).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// A client whose socket takes nothing for so long is cut off.
pub(super) const STALL_TIME: Duration = Duration::from_secs(10);
/// What the system keeps for a watcher that doesn't read, in bytes (Linux doubles it).
const SEND_BUFFER: usize = 64 << 10;

const ANSWERED: u8 = 0;
const WATCHED: u8 = 1;
const COPIED: u8 = 2;

/// What a connection is used for; shared between its socket and its requests.
#[derive(Debug, Default)]
pub(super) struct Usage(AtomicU8);

impl Usage {
    /// A request has come.
    pub(super) fn begin(&self) {
        self.0.store(ANSWERED, Relaxed);
    }

    /// The connection carries a stream of events from now on.
    pub(super) fn watch(&self) {
        self.0.store(WATCHED, Relaxed);
    }

    /// The connection carries a copy, whose client is watched over elsewhere.
    pub(super) fn copy(&self) {
        self.0.store(COPIED, Relaxed);
    }

    /// Whether it carries a stream of events.
    pub(super) fn is_watched(&self) -> bool {
        self.0.load(Relaxed) == WATCHED
    }

    fn is_copied(&self) -> bool {
        self.0.load(Relaxed) == COPIED
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
