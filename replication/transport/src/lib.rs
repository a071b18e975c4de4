//! Moves opaque packets between the members of one cluster, over TCP, encrypted and authenticated with the cluster key.
//!
//! Owns sockets, handshakes, framing, queues and redialling. Never looks into a packet, never decides who is master,
//! never blocks the runtime it runs in. Read `transport.rs` next, then `link.rs` (sending) and `accept.rs` (receiving).

mod accept;
mod bytes_stream;
mod config;
mod dial;
mod ended;
mod event;
mod framing;
mod handshake;
mod identity;
mod keys;
mod link;
mod lives;
mod names;
mod noise;
mod packet;
#[doc(hidden)]
pub mod parsers;
mod preamble;
mod queue;
mod quiet;
mod stream;
mod transport;
mod version;

pub use config::{Config, Limits};
pub use dial::{OpenError, try_key};
pub use ended::tell_of_end;
pub use event::TransportEvent;
pub use framing::FrameError;
pub use handshake::HandshakeError;
pub use identity::{ClusterId, ClusterIdError, ClusterKey, ClusterKeyError};
pub use keys::{KeyChanges, KeyRing, Keys};
pub use lives::{KnownLife, Life, Lives, MOST_STARTS};
pub use names::Names;
pub use packet::{Channel, Packet};
pub use queue::SendError;
pub use stream::{SecureReceiver, SecureSender, SecureStream, StreamError};
pub use transport::{Opener, Transport};
pub use version::{Agreed, Features, Program, Range};

/// Version of the preamble, the first bytes of a connection: two that differ here refuse each other by name. Everything after it goes
/// by what the two programs agree on ([`PROTOCOL`]).
pub(crate) const PREAMBLE_VERSION: u16 = 1;

/// Versions of the peer protocol that this program speaks. 1: programs that say nothing of their versions. 2: they do, and a
/// heartbeat tells the cluster's level.
pub const PROTOCOL: Range = Range::new(1, 2);

/// The lowest level that a cluster can have.
pub const FIRST_LEVEL: u32 = 6;
