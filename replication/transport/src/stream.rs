//! Packets as encrypted bytes on a TCP connection, both ways.
//!
//! A Noise message carries at most 65,535 bytes and is preceded by its length (16 bits, big-endian). A packet is `head
//! length, body length` (32 bits each), head, body, over as many Noise messages as it takes. Lengths are checked before
//! anything is allocated, and memory grows only as data arrives.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use snow::StatelessTransportState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{LinkError, Packet};

const NOISE_LIMIT: usize = 65_535;
const TAG: usize = 16;
const CHUNK: usize = NOISE_LIMIT - TAG;
const LENGTHS: usize = 8;
/// Encrypted bytes gathered before a write.
pub(crate) const WRITE_TARGET: usize = 256 * 1024;

/// The sending half.
pub(crate) struct Sender {
    stream: OwnedWriteHalf,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    scratch: Vec<u8>,
    out: Vec<u8>,
}

impl Sender {
    /// Encrypts a packet into the output buffer; `flush` writes it.
    pub(crate) fn push(&mut self, packet: &Packet) -> Result<(), LinkError> {
        let length = |part: &Bytes| u32::try_from(part.len()).map_err(|_| LinkError::Damaged("a packet over 4 GiB"));
        self.scratch.clear();
        self.scratch.extend_from_slice(&length(&packet.head)?.to_be_bytes());
        self.scratch.extend_from_slice(&length(&packet.body)?.to_be_bytes());
        let mut head = &packet.head[..];
        let mut body = &packet.body[..];
        loop {
            let take = head.len().min(CHUNK - self.scratch.len());
            self.scratch.extend_from_slice(&head[..take]);
            head = &head[take..];
            if head.is_empty() {
                break;
            }
            self.seal_scratch()?;
        }
        // The body's first part shares the head's message; the rest is encrypted from where it lies.
        let take = body.len().min(CHUNK - self.scratch.len());
        self.scratch.extend_from_slice(&body[..take]);
        body = &body[take..];
        self.seal_scratch()?;
        for chunk in body.chunks(CHUNK) {
            seal(&self.noise, &mut self.nonce, chunk, &mut self.out)?;
        }
        Ok(())
    }

    fn seal_scratch(&mut self) -> Result<(), LinkError> {
        seal(&self.noise, &mut self.nonce, &self.scratch, &mut self.out)?;
        self.scratch.clear();
        Ok(())
    }

    /// Whether enough is gathered for a write.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() >= WRITE_TARGET
    }

    /// Writes what is gathered.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
            if self.out.capacity() > 4 * WRITE_TARGET {
                self.out.shrink_to(WRITE_TARGET);
            }
        }
        Ok(())
    }

    pub(crate) async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

fn seal(
    noise: &StatelessTransportState,
    nonce: &mut u64,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), LinkError> {
    let start = out.len();
    let sealed = plain.len() + TAG;
    out.extend_from_slice(&u16::try_from(sealed).map_err(|_| LinkError::Damaged("a chunk too long"))?.to_be_bytes());
    out.resize(start + 2 + sealed, 0);
    noise
        .write_message(*nonce, plain, &mut out[start + 2..])
        .map_err(|_| LinkError::Damaged("encryption failed"))?;
    *nonce += 1;
    Ok(())
}

/// The receiving half.
pub(crate) struct Receiver {
    stream: BufReader<OwnedReadHalf>,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    sealed: Vec<u8>,
    plain: BytesMut,
    limit: usize,
}

impl Receiver {
    /// The next packet; `None` when the other end closed between two packets. Cancel-safe only when abandoned for good.
    pub(crate) async fn next(&mut self) -> Result<Option<Packet>, LinkError> {
        loop {
            if self.plain.len() >= LENGTHS {
                let word = |at: usize| {
                    u32::from_be_bytes([self.plain[at], self.plain[at + 1], self.plain[at + 2], self.plain[at + 3]])
                        as usize
                };
                let (head, body) = (word(0), word(4));
                let total = head.saturating_add(body);
                if total > self.limit {
                    return Err(LinkError::TooLarge { found: total, limit: self.limit });
                }
                if self.plain.len() >= LENGTHS + total {
                    let mut packet = self.plain.split_to(LENGTHS + total).freeze();
                    let mut rest = packet.split_off(LENGTHS);
                    let body = rest.split_off(head);
                    return Ok(Some(Packet { head: rest, body }));
                }
            }
            if !self.open_next().await? {
                return if self.plain.is_empty() { Ok(None) } else { Err(LinkError::Truncated) };
            }
        }
    }

    /// Decrypts one Noise message onto `plain`; `false` at the end of the stream.
    async fn open_next(&mut self) -> Result<bool, LinkError> {
        let mut length = [0; 2];
        if self.stream.read(&mut length[..1]).await? == 0 {
            return Ok(false);
        }
        exact(&mut self.stream, &mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length < TAG {
            return Err(LinkError::Damaged("a message shorter than its tag"));
        }
        self.sealed.resize(length, 0);
        exact(&mut self.stream, &mut self.sealed).await?;
        let start = self.plain.len();
        self.plain.resize(start + length - TAG, 0);
        self.noise
            .read_message(self.nonce, &self.sealed, &mut self.plain[start..])
            .map_err(|_| LinkError::Damaged("a message that can't be decrypted"))?;
        self.nonce += 1;
        Ok(true)
    }

    /// Largest packet taken from now on, in bytes.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Waits until the other end closes or breaks the connection; any byte before is an error.
    pub(crate) async fn ended(&mut self) -> LinkError {
        let mut byte = [0; 1];
        match self.stream.read(&mut byte).await {
            Ok(0) => LinkError::Closed,
            Ok(_) => LinkError::Damaged("bytes against the direction of the link"),
            Err(error) => LinkError::Io(error),
        }
    }
}

async fn exact(stream: &mut BufReader<OwnedReadHalf>, buffer: &mut [u8]) -> Result<(), LinkError> {
    match stream.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(LinkError::Truncated),
        Err(error) => Err(LinkError::Io(error)),
    }
}

/// An authenticated, encrypted connection that carries packets both ways.
pub struct SecureStream {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

impl std::fmt::Debug for SecureStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecureStream")
    }
}

impl SecureStream {
    pub(crate) fn new(stream: TcpStream, noise: StatelessTransportState, limit: usize) -> SecureStream {
        let noise = Arc::new(noise);
        let (read, write) = stream.into_split();
        SecureStream {
            sender: Sender {
                stream: write,
                noise: Arc::clone(&noise),
                nonce: 0,
                scratch: Vec::with_capacity(4096),
                out: Vec::new(),
            },
            receiver: Receiver {
                stream: BufReader::with_capacity(32 * 1024, read),
                noise,
                nonce: 0,
                sealed: Vec::new(),
                plain: BytesMut::new(),
                limit,
            },
        }
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn send(&mut self, packet: Packet) -> Result<(), LinkError> {
        self.sender.push(&packet)?;
        self.sender.flush().await
    }

    /// Receives a packet; `None` when the other end has closed.
    ///
    /// # Errors
    /// When the connection is lost, or what came is damaged or too large.
    pub async fn recv(&mut self) -> Result<Option<Packet>, LinkError> {
        self.receiver.next().await
    }
}
