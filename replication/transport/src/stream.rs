//! An open, encrypted connection: packets in, packets out.
//!
//! Owns the socket and its buffers. Never reconnects. Read `framing.rs` for the bytes and `handshake.rs` for how one
//! comes about.

use std::{fmt, io, net::SocketAddr};

use tanist_replication::MemberId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{
    FrameError, Packet, Program,
    framing::{Decoder, Encoder},
    keys::KeyMark,
    noise::{Opener, Sealer},
};

/// Why an open connection ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The socket failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer's bytes make no sense, or were changed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The packet is larger than this connection takes. The connection is still good.
    #[error("packet of {found} bytes, expected at most {limit}")]
    TooLarge {
        /// Bytes of head and body.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// An earlier `send` was given up half-way.
    #[error("an earlier packet was sent only in part")]
    Broken,
}

/// A connection to one authenticated member, for both directions. Closed when dropped.
///
/// All methods are async; a thread without a runtime uses `Handle::block_on`.
pub struct SecureStream {
    sender: SecureSender,
    receiver: SecureReceiver,
    peer: MemberId,
    address: SocketAddr,
    key: KeyMark,
    program: Option<Program>,
}

impl SecureStream {
    pub(crate) fn new(
        socket: TcpStream,
        (sealer, opener): (Sealer, Opener),
        limit: usize,
        peer: MemberId,
        address: SocketAddr,
        key: KeyMark,
    ) -> SecureStream {
        let (read, write) = socket.into_split();
        SecureStream {
            sender: SecureSender {
                socket: write,
                encoder: Box::new(Encoder::new(sealer)),
                limit,
                broken: false,
            },
            receiver: SecureReceiver { socket: read, decoder: Box::new(Decoder::new(opener, limit)) },
            peer,
            address,
            key,
            program: None,
        }
    }

    /// The same connection, with its socket in the runtime that this is called in.
    pub(crate) fn here(self) -> Result<SecureStream, StreamError> {
        let SecureStream { sender, receiver, peer, address, key, program } = self;
        let SecureSender { socket: write, encoder, limit, broken } = sender;
        let SecureReceiver { socket: read, decoder } = receiver;
        let whole = read.reunite(write).map_err(io::Error::other)?;
        let (read, write) = TcpStream::from_std(whole.into_std()?)?.into_split();
        Ok(SecureStream {
            sender: SecureSender { socket: write, encoder, limit, broken },
            receiver: SecureReceiver { socket: read, decoder },
            peer,
            address,
            key,
            program,
        })
    }

    /// What the peer runs.
    pub(crate) fn of_program(mut self, program: Program) -> SecureStream {
        self.program = Some(program);
        self
    }

    /// What the peer runs, as it said when it was dialled.
    pub(crate) fn take_program(&mut self) -> Option<Program> {
        self.program.take()
    }

    /// The key that it was made with.
    pub(crate) fn key(&self) -> KeyMark {
        self.key
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &MemberId {
        &self.peer
    }

    /// Where the other end is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// See [`SecureSender::send`].
    ///
    /// # Errors
    /// See there.
    pub async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        self.sender.send(packet).await
    }

    /// See [`SecureReceiver::recv`].
    ///
    /// # Errors
    /// See there.
    pub async fn recv(&mut self) -> Result<Option<Packet>, StreamError> {
        self.receiver.recv().await
    }

    /// Both directions apart, for two tasks. Dropping the sender tells the peer that nothing more comes.
    #[must_use]
    pub fn into_split(self) -> (SecureSender, SecureReceiver) {
        (self.sender, self.receiver)
    }
}

impl fmt::Debug for SecureStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecureStream({} at {})", self.peer, self.address)
    }
}

/// The sending direction of a [`SecureStream`].
pub struct SecureSender {
    pub(crate) socket: OwnedWriteHalf,
    pub(crate) encoder: Box<Encoder>,
    limit: usize,
    broken: bool,
}

impl SecureSender {
    /// Sends a packet; returns when the operating system has all of it. A slow peer makes it wait.
    ///
    /// # Errors
    /// When the packet is too large, or the connection ended. If the future is dropped half-way, so is the connection's
    /// use: later sends fail.
    pub async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        if self.broken {
            return Err(StreamError::Broken);
        }
        if packet.len() > self.limit {
            return Err(StreamError::TooLarge { found: packet.len(), limit: self.limit });
        }
        self.broken = true;
        self.encoder.start(packet);
        while self.encoder.is_busy() {
            self.encoder.fill()?;
            self.socket.write_all(self.encoder.pending()).await?;
            self.encoder.written();
        }
        self.broken = false;
        Ok(())
    }

    /// Tells the peer that nothing more comes: its `recv` returns `None` after the last packet.
    ///
    /// # Errors
    /// When the connection has ended already.
    pub async fn finish(mut self) -> Result<(), StreamError> {
        Ok(self.socket.shutdown().await?)
    }
}

impl fmt::Debug for SecureSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecureSender")
    }
}

/// The receiving direction of a [`SecureStream`].
pub struct SecureReceiver {
    pub(crate) socket: OwnedReadHalf,
    decoder: Box<Decoder>,
}

impl SecureReceiver {
    /// Waits for the next packet; `None` when the peer closed the connection between two packets. That end is not
    /// authenticated: what must be complete says so itself. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the connection breaks, ends within a packet, or brings something else than intact packets within the limit.
    pub async fn recv(&mut self) -> Result<Option<Packet>, StreamError> {
        loop {
            if let Some(packet) = self.ready()? {
                return Ok(Some(packet));
            }
            if self.fetch().await? == 0 {
                self.decoder.at_end()?;
                return Ok(None);
            }
        }
    }

    /// A packet that is here already.
    pub(crate) fn ready(&mut self) -> Result<Option<Packet>, FrameError> {
        self.decoder.next()
    }

    /// Reads once from the socket; returns the number of bytes, 0 at the end.
    pub(crate) async fn fetch(&mut self) -> io::Result<usize> {
        let count = self.socket.read(self.decoder.space()).await?;
        self.decoder.filled(count);
        Ok(count)
    }

    /// What it means that the connection ends here.
    pub(crate) fn at_end(&self) -> Result<(), FrameError> {
        self.decoder.at_end()
    }
}

impl fmt::Debug for SecureReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecureReceiver")
    }
}
