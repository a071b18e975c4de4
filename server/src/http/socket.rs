//! A client's socket, which notices a watcher that takes nothing.
//!
//! Other answers end, a watcher's never does: what it doesn't take would wait in memory for ever. So its socket keeps
//! little, and one that takes nothing for a while is closed.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// A watcher whose socket takes nothing for so long is cut off.
pub(super) const STALL_TIME: Duration = Duration::from_secs(10);
/// What the system keeps for a watcher that doesn't read, in bytes (Linux doubles it).
const SEND_BUFFER: usize = 64 << 10;

/// What a connection is used for; shared between its socket and its requests.
#[derive(Debug, Default)]
pub(super) struct Usage {
    watched: AtomicBool,
}

impl Usage {
    /// The connection carries a stream of events from now on.
    pub(super) fn watch(&self) {
        self.watched.store(true, Relaxed);
    }

    /// Whether it does.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Relaxed)
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
        if written.is_ready() || !self.usage.is_watched() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL_TIME)));
        ready!(stalled.as_mut().poll(cx));
        tracing::warn!(peer = %self.peer, "a watcher was cut off: it took nothing for {STALL_TIME:?}; it can resume");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the watcher takes nothing")))
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
