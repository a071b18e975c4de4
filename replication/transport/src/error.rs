//! What can go wrong on a link, in words that name both sides.

use std::io;

/// Why a packet wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No link.
    #[error("no link to it")]
    Down,
    /// The link's queue is full.
    #[error("its queue is full")]
    Full,
    /// Not a configured peer.
    #[error("it is no configured peer")]
    UnknownPeer,
    /// Larger than the channel's limit.
    #[error("the packet is larger than the limit")]
    TooLarge,
}

/// Why a connection couldn't be made or had to be closed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// TCP.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// All addresses refuse connections.
    #[error("connection refused by all its addresses")]
    Refused,
    /// No address could be reached.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The other end isn't Tanist.
    #[error("the other end doesn't speak Tanist's peer protocol")]
    NotTanist,
    /// Another protocol version.
    #[error("it speaks peer protocol version {found}, expected {expected}")]
    Version {
        /// Theirs.
        found: u16,
        /// Ours.
        expected: u16,
    },
    /// Another cluster.
    #[error("it belongs to cluster {found:?}, expected {expected:?}")]
    Cluster {
        /// Theirs.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Another cluster key, or bytes changed on the way.
    #[error("the cluster key differs")]
    Key,
    /// Somebody else answers at that address.
    #[error("member {found} answers there, expected {expected}")]
    Member {
        /// Theirs.
        found: String,
        /// Ours.
        expected: String,
    },
    /// It refuses us, or we it, since it isn't configured.
    #[error("{0} is no configured member")]
    Unknown(String),
    /// It calls itself by our own name.
    #[error("a second machine calls itself {0}: member ids must be unique")]
    DuplicateId(String),
    /// It refuses us with a reason.
    #[error("it refuses: {0}")]
    Refusal(String),
    /// A packet larger than the limit was announced.
    #[error("a packet of {found} bytes was announced, the limit is {limit}")]
    TooLarge {
        /// Announced.
        found: usize,
        /// Allowed.
        limit: usize,
    },
    /// Bytes that can't be decrypted or parsed.
    #[error("damaged data: {0}")]
    Damaged(&'static str),
    /// The other end closed the connection within a packet.
    #[error("closed within a packet")]
    Truncated,
    /// The other end closed the connection.
    #[error("closed by the other end")]
    Closed,
}
