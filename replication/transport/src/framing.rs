//! Packets as bytes: each is two 32-bit lengths, head, body, cut into sealed messages of at most 65,535 bytes, each
//! behind its 16-bit length. An empty message is a sign of life and carries nothing.
//!
//! Owns both buffers of a connection. Never reserves memory because a peer announced something: it grows with what
//! has arrived. Read `stream.rs` for the socket around it.

use bytes::{Bytes, BytesMut};

use crate::{
    Packet,
    noise::{MAX_PLAIN, Opener, Sealer, TAG},
};

/// Bytes sealed before they are written; read buffers grow to twice this.
pub(crate) const BATCH: usize = 128 << 10;
const HEADER: usize = 8;
const FIRST_READ: usize = 8 << 10;
const FIRST_PART: usize = 256 << 10;

/// Bytes that can't come from a peer that keeps the protocol. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message was changed on its way, or repeated, or left out.
    #[error("message damaged or forged on its way")]
    Corrupt,
    /// A packet larger than the channel allows.
    #[error("packet of {found} bytes, expected at most {limit}")]
    TooLarge {
        /// Announced bytes of head and body.
        found: u64,
        /// The channel's limit in bytes.
        limit: usize,
    },
    /// The connection ended within a packet.
    #[error("connection ended in the middle of a packet")]
    Truncated,
    /// The connection has carried all the messages its key allows.
    #[error("the connection's key is used up")]
    Exhausted,
}

/// Turns packets into sealed bytes.
pub(crate) struct Encoder {
    sealer: Sealer,
    current: Option<Outgoing>,
    mixed: Vec<u8>,
    out: Vec<u8>,
    filled: usize,
}

struct Outgoing {
    header: [u8; HEADER],
    packet: Packet,
    done: usize,
    total: usize,
}

impl Outgoing {
    /// Plain bytes `done..done + length`, gathered in `mixed` when they don't lie within one part.
    fn slice<'a>(&'a self, length: usize, mixed: &'a mut Vec<u8>) -> &'a [u8] {
        let parts: [&[u8]; 3] = [&self.header, &self.packet.head, &self.packet.body];
        mixed.clear();
        let (mut skip, mut left) = (self.done, length);
        for part in parts {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let taken = left.min(part.len() - skip);
            let bytes = &part[skip..skip + taken];
            if taken == length {
                return bytes;
            }
            mixed.extend_from_slice(bytes);
            (skip, left) = (0, left - taken);
            if left == 0 {
                break;
            }
        }
        mixed
    }
}

impl Encoder {
    pub(crate) fn new(sealer: Sealer) -> Encoder {
        Encoder { sealer, current: None, mixed: Vec::new(), out: Vec::new(), filled: 0 }
    }

    /// Whether a packet is not yet sealed to its end.
    pub(crate) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the next write has enough.
    pub(crate) fn is_full(&self) -> bool {
        self.filled >= BATCH
    }

    /// Takes the next packet, of which both parts have less than 4 GiB; [`Encoder::fill`] seals it.
    pub(crate) fn start(&mut self, packet: Packet) {
        assert!(self.current.is_none(), "start a packet while another is being sealed");
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(packet.head.len() as u32).to_be_bytes());
        header[4..].copy_from_slice(&(packet.body.len() as u32).to_be_bytes());
        let total = HEADER + packet.len();
        self.current = Some(Outgoing { header, packet, done: 0, total });
    }

    /// Seals until the packet ends or the batch is full.
    pub(crate) fn fill(&mut self) -> Result<(), FrameError> {
        while self.filled < BATCH {
            let Some(current) = &mut self.current else { return Ok(()) };
            // The odd part goes first, so that the rest are full messages cut from the body without gathering.
            let left = current.total - current.done;
            let length = if left % MAX_PLAIN == 0 { MAX_PLAIN } else { left % MAX_PLAIN };
            let plain = current.slice(length, &mut self.mixed);
            seal_to(&mut self.sealer, plain, &mut self.out, &mut self.filled)?;
            current.done += length;
            if current.done == current.total {
                self.current = None;
            }
        }
        Ok(())
    }

    /// Seals an empty message.
    pub(crate) fn sign_of_life(&mut self) -> Result<(), FrameError> {
        seal_to(&mut self.sealer, &[], &mut self.out, &mut self.filled)
    }

    /// Sealed bytes to write.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.out[..self.filled]
    }

    /// They were written.
    pub(crate) fn written(&mut self) {
        self.filled = 0;
    }
}

fn seal_to(
    sealer: &mut Sealer,
    plain: &[u8],
    out: &mut Vec<u8>,
    filled: &mut usize,
) -> Result<(), FrameError> {
    let needed = *filled + 2 + plain.len() + TAG;
    if out.len() < needed {
        out.resize(needed.max(out.len() * 2).min(BATCH + 2 + MAX_PLAIN + TAG).max(needed), 0);
    }
    *filled += sealer.seal(plain, &mut out[*filled..])?;
    Ok(())
}

/// Turns sealed bytes into packets.
pub(crate) struct Decoder {
    opener: Opener,
    limit: usize,
    raw: Vec<u8>,
    start: usize,
    end: usize,
    plain: Vec<u8>,
    plain_at: usize,
    plain_end: usize,
    incoming: Incoming,
}

#[derive(Default)]
struct Incoming {
    header: [u8; HEADER],
    header_got: usize,
    head: Part,
    body: Part,
}

#[derive(Default)]
struct Part {
    bytes: BytesMut,
    left: usize,
}

impl Part {
    fn announce(&mut self, length: usize) {
        self.left = length;
        self.bytes = BytesMut::with_capacity(length.min(FIRST_PART));
    }

    /// Makes room for `more` bytes that have arrived: doubles, but never past what was announced.
    fn make_room(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            self.bytes.reserve(more.max(self.bytes.len()).min(self.left));
        }
    }

    fn take_from<'a>(&mut self, plain: &'a [u8]) -> &'a [u8] {
        let (mine, rest) = plain.split_at(self.left.min(plain.len()));
        self.make_room(mine.len());
        self.bytes.extend_from_slice(mine);
        self.left -= mine.len();
        rest
    }
}

impl Incoming {
    /// Consumes from `plain` until a packet is complete or it is empty.
    fn feed(&mut self, plain: &mut &[u8], limit: usize) -> Result<Option<Packet>, FrameError> {
        if self.header_got < HEADER {
            let taken = plain.len().min(HEADER - self.header_got);
            self.header[self.header_got..self.header_got + taken].copy_from_slice(&plain[..taken]);
            self.header_got += taken;
            *plain = &plain[taken..];
            if self.header_got < HEADER {
                return Ok(None);
            }
            let word = |at: usize| {
                u32::from_be_bytes([
                    self.header[at],
                    self.header[at + 1],
                    self.header[at + 2],
                    self.header[at + 3],
                ])
            };
            let (head, body) = (word(0), word(4));
            let found = u64::from(head) + u64::from(body);
            if found > limit as u64 {
                return Err(FrameError::TooLarge { found, limit });
            }
            self.head.announce(head as usize);
            self.body.announce(body as usize);
        }
        *plain = self.head.take_from(plain);
        *plain = self.body.take_from(plain);
        Ok(self.finish())
    }

    fn finish(&mut self) -> Option<Packet> {
        if self.header_got < HEADER || self.head.left > 0 || self.body.left > 0 {
            return None;
        }
        self.header_got = 0;
        let take = |part: &mut Part| -> Bytes { std::mem::take(&mut part.bytes).freeze() };
        Some(Packet { head: take(&mut self.head), body: take(&mut self.body) })
    }

    /// Whether `length` plain bytes would all belong to the body.
    fn wants_for_body(&self, length: usize) -> bool {
        self.header_got == HEADER && self.head.left == 0 && self.body.left >= length
    }
}

impl Decoder {
    /// `limit`: largest packet in bytes.
    pub(crate) fn new(opener: Opener, limit: usize) -> Decoder {
        Decoder {
            opener,
            limit,
            raw: Vec::new(),
            start: 0,
            end: 0,
            plain: Vec::new(),
            plain_at: 0,
            plain_end: 0,
            incoming: Incoming::default(),
        }
    }

    /// Room for bytes from the socket; never empty. Say with [`Decoder::filled`] how many came.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let have = self.end - self.start;
        let lacking = match self.raw[self.start..self.end] {
            [high, low, ..] => (2 + usize::from(u16::from_be_bytes([high, low]))).saturating_sub(have).max(1),
            _ => 2,
        };
        if self.raw.len() - self.end < lacking.max(self.raw.len() / 2) {
            self.raw.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, have);
        }
        if self.raw.len() - self.end < lacking {
            let size = (have + lacking).next_power_of_two().max(FIRST_READ);
            self.raw.resize(size, 0);
        }
        &mut self.raw[self.end..]
    }

    /// The first `count` bytes of the space were filled.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
        if self.end == self.raw.len() && self.raw.len() < 2 * BATCH {
            // The socket has more than we asked for.
            self.raw.resize(self.raw.len() * 2, 0);
        }
    }

    /// The next complete packet among what has been filled in, `None` when more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, FrameError> {
        loop {
            while self.plain_at < self.plain_end {
                let mut plain = &self.plain[self.plain_at..self.plain_end];
                let packet = self.incoming.feed(&mut plain, self.limit)?;
                self.plain_at = self.plain_end - plain.len();
                if packet.is_some() {
                    return Ok(packet);
                }
            }
            let [high, low, ref rest @ ..] = self.raw[self.start..self.end] else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let Some(sealed) = rest.get(..length) else { return Ok(None) };
            let plain_length = length.checked_sub(TAG).ok_or(FrameError::Corrupt)?;
            self.start += 2 + length;
            if self.incoming.wants_for_body(plain_length) {
                let body = &mut self.incoming.body;
                body.make_room(plain_length);
                let at = body.bytes.len();
                body.bytes.resize(at + plain_length, 0);
                self.opener.open(sealed, &mut body.bytes[at..])?;
                body.left -= plain_length;
                if let Some(packet) = self.incoming.finish() {
                    return Ok(Some(packet));
                }
            } else {
                if self.plain.len() < plain_length {
                    self.plain.resize(plain_length.next_power_of_two(), 0);
                }
                self.plain_end = self.opener.open(sealed, &mut self.plain)?;
                self.plain_at = 0;
            }
        }
    }

    /// What it means that the connection ends here.
    pub(crate) fn at_end(&self) -> Result<(), FrameError> {
        let between =
            self.start == self.end && self.plain_at == self.plain_end && self.incoming.header_got == 0;
        if between { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// Bytes reserved for what has arrived and was announced.
    pub(crate) fn reserved(&self) -> usize {
        self.raw.len()
            + self.plain.len()
            + self.incoming.head.bytes.capacity()
            + self.incoming.body.bytes.capacity()
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
