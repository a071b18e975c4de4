//! Links between the members of a cluster: TCP, authenticated and encrypted with the cluster key (Noise), framed.
//!
//! Owns connections, their queues and their limits; moves opaque packets. Never interprets a message and never decides
//! who reigns. Read `link.rs` (outgoing), `accept.rs` (incoming), `stream.rs` (bytes), `handshake.rs` (who is who).

mod accept;
mod error;
mod handshake;
mod key;
mod link;
mod stream;
mod transport;

use bytes::Bytes;
use std::time::Duration;
use tanist_replication::MemberId;

pub use error::{LinkError, SendError};
pub use key::{ClusterId, ClusterKey, KeyError};
pub use stream::SecureStream;
pub use transport::Transport;

/// Version of the peer protocol: both ends must speak the same.
pub const PROTOCOL_VERSION: u16 = 1;

/// What a connection is for. Each has a TCP connection of its own, so that none delays another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Heartbeats, votes, acknowledgements.
    Control,
    /// Transactions.
    Bulk,
    /// A whole copy of the database; handed over as a [`SecureStream`].
    Copy,
}

/// One message: a small head and, perhaps, a large body that is shared until it is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packet {
    /// The encoded message.
    pub head: Bytes,
    /// Bulk payload; may be empty.
    pub body: Bytes,
}

/// Bounds of everything that could grow.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest packet on a control link, in bytes.
    pub control_message: usize,
    /// Largest packet on a bulk or copy link, in bytes.
    pub bulk_message: usize,
    /// Packets that may wait on one link; one more is refused as [`SendError::Full`].
    pub queue_packets: usize,
    /// Time for connecting to one address.
    pub connect_timeout: Duration,
    /// Time for the whole handshake.
    pub handshake_timeout: Duration,
    /// Pause between two dials, at first.
    pub backoff_min: Duration,
    /// Pause between two dials, at most.
    pub backoff_max: Duration,
    /// Incoming connections in handshake; more are closed at once.
    pub pending_handshakes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            control_message: 1 << 20,
            bulk_message: 80 << 20,
            queue_packets: 16 * 1024,
            connect_timeout: Duration::from_millis(1000),
            handshake_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
            pending_handshakes: 64,
        }
    }
}

impl Limits {
    fn message(&self, channel: Channel) -> usize {
        match channel {
            Channel::Control => self.control_message,
            Channel::Bulk | Channel::Copy => self.bulk_message,
        }
    }
}

/// Who this machine is to its peers.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster; peers of another one are refused by name.
    pub cluster: ClusterId,
    /// This machine.
    pub me: MemberId,
    /// Random for each start of the process: tells a restart from a second machine with the same id.
    pub incarnation: [u8; 16],
    /// Shared by all members.
    pub key: ClusterKey,
    /// Bounds.
    pub limits: Limits,
}

/// What the links report.
#[derive(Debug)]
pub enum TransportEvent {
    /// A packet came.
    Received {
        /// The authenticated sender.
        from: MemberId,
        /// The kind of link.
        channel: Channel,
        /// The packet.
        packet: Packet,
    },
    /// Our outgoing link to the peer is up.
    Connected {
        /// The peer.
        peer: MemberId,
        /// The kind of link.
        channel: Channel,
    },
    /// Our outgoing link to the peer is lost, or could not be made (bulk); what waited in its queue is dropped.
    Closed {
        /// The peer.
        peer: MemberId,
        /// The kind of link.
        channel: Channel,
        /// Why.
        reason: String,
    },
    /// All addresses of the peer refuse connections: its process doesn't run.
    Refused {
        /// The peer.
        peer: MemberId,
    },
    /// A peer asks for a copy over this stream.
    CopyRequested {
        /// The peer.
        from: MemberId,
        /// The stream.
        stream: SecureStream,
    },
}
