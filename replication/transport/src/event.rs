//! What the transport tells its owner.
//!
//! Owns only the type. Never says more than was seen: a lost link is not a dead peer. Read `link.rs` and `accept.rs`
//! for when each is said.

use std::net::SocketAddr;

use tanist_replication::MemberId;

use crate::{Channel, Packet, SecureStream};

/// Something that happened on the wire. `Connected` and `Closed` of one link alternate, in order.
#[derive(Debug)]
pub enum TransportEvent {
    /// A packet came from an authenticated member. In the order in which it was sent on that channel.
    Received {
        /// Who sent it.
        from: MemberId,
        /// On which channel.
        channel: Channel,
        /// The packet.
        packet: Packet,
    },
    /// The link on which we send to `peer` is up.
    Connected {
        /// The other end.
        peer: MemberId,
        /// Control or bulk.
        channel: Channel,
    },
    /// The link on which we send to `peer` is lost, and with it whatever was queued and perhaps some of what was sent.
    /// For bulk also: it could not be opened although packets waited for it.
    Closed {
        /// The other end.
        peer: MemberId,
        /// Control or bulk.
        channel: Channel,
        /// Why, for people.
        reason: String,
    },
    /// Evidence that the process of `peer` is gone: our established control link to it broke, and since then a dial of
    /// all its addresses ended in *connection refused*. Said again with each further refused dial.
    Refused {
        /// Whose process.
        peer: MemberId,
    },
    /// The process of `peer` that was heard last has ended: its computer says so (see [`tell_of_end`](crate::tell_of_end)).
    ProcessEnded {
        /// Whose process.
        peer: MemberId,
    },
    /// A member opened a copy stream to us.
    CopyRequested {
        /// Who asks.
        from: MemberId,
        /// The stream, for both directions.
        stream: SecureStream,
    },
    /// A member opened a stream on which it sends requests of clients that this machine shall answer.
    ForwardRequested {
        /// Who forwards.
        from: MemberId,
        /// The stream, for both directions.
        stream: SecureStream,
    },
    /// Two live processes use one id. The later one was refused. When `peer` is this member itself, the other process
    /// is at `address`, or the peer at `address` says that it knows one.
    IdInUse {
        /// The id.
        peer: MemberId,
        /// Where the other process was seen.
        address: SocketAddr,
    },
}
