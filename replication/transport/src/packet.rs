//! What travels: packets, and the channels they travel on.
//!
//! Owns only the types. Never knows what a packet means. Read `framing.rs` for their form on the wire.

use std::fmt;

use bytes::Bytes;

/// Which of the separate connections between two members; each is a TCP connection of its own, so that what is long
/// never delays what is urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Heartbeats, votes, acknowledgements: small and urgent. Always connected.
    Control,
    /// Transactions. Connected from the first packet on.
    Bulk,
    /// One rejoin (R12), in both directions, handed over as a [`SecureStream`](crate::SecureStream).
    Copy,
    /// Word that the process which the hello names has ended (see [`tell_of_end`](crate::tell_of_end)); nothing else is said.
    Ended,
    /// Clients' requests that the other end shall answer, handed over as a [`SecureStream`](crate::SecureStream).
    Forward,
}

impl Channel {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Channel::Control => 1,
            Channel::Bulk => 2,
            Channel::Copy => 3,
            Channel::Ended => 4,
            Channel::Forward => 5,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Channel> {
        match code {
            1 => Some(Channel::Control),
            2 => Some(Channel::Bulk),
            3 => Some(Channel::Copy),
            4 => Some(Channel::Ended),
            5 => Some(Channel::Forward),
            _ => None,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Channel::Control => "control",
            Channel::Bulk => "bulk",
            Channel::Copy => "copy",
            Channel::Ended => "ended",
            Channel::Forward => "forward",
        })
    }
}

/// A message as the transport sees it. Cheap to clone: both parts are shared, and copied only by the encryption.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Packet {
    /// The small encoded message.
    pub head: Bytes,
    /// The bulk payload, often empty.
    pub body: Bytes,
}

impl Packet {
    /// Bytes in both parts together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether both parts are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({} + {} bytes)", self.head.len(), self.body.len())
    }
}
