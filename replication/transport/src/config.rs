//! What a transport is told at start.
//!
//! Owns defaults. Never reads a file. Read `transport.rs` next.

use std::time::Duration;

use tanist_replication::MemberId;

use crate::{Channel, ClusterId, KeyRing, Lives, Names, Program};

/// Bounds on sizes, numbers and times. The defaults suit a local network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet on [`Channel::Control`], head and body together, in bytes; default 1 MiB.
    pub control_message: usize,
    /// Largest packet on [`Channel::Bulk`] and [`Channel::Copy`] in bytes; default 32 MiB.
    pub bulk_message: usize,
    /// Packets that wait on one link before `send` says full; default 4,096.
    pub queue_packets: usize,
    /// Bytes that wait on one link before `send` says full (a single packet always fits); default 64 MiB.
    pub queue_bytes: usize,
    /// How long one connection attempt may take; default 2.5 s.
    pub connect_timeout: Duration,
    /// How long a handshake may take; default 5 s.
    pub handshake_timeout: Duration,
    /// Pause after the first failed dial; it doubles from there; default 20 ms.
    pub dial_backoff_min: Duration,
    /// Longest pause between dials; default 500 ms.
    pub dial_backoff_max: Duration,
    /// With several addresses, how long one is tried alone before the next is tried beside it; default 50 ms.
    pub dial_stagger: Duration,
    /// A link that sent nothing for this long sends an empty message; default 500 ms. A second connection under a
    /// member's id is refused while the first was heard within three times this.
    pub keepalive: Duration,
    /// An accepted control or bulk connection that brought nothing for this long is closed, and a control link whose
    /// bytes stay unacknowledged this long is lost; default 10 s.
    pub idle_timeout: Duration,
    /// A bulk link that can't write a byte for this long is lost; default 30 s.
    pub stall_timeout: Duration,
    /// Machines with the key, but not in the list of peers, that may be connected at once; default 8.
    pub max_strangers: usize,
    /// Connections that may be in their handshake at once; the oldest gives way; default 64.
    pub max_pending_handshakes: usize,
    /// How long `shutdown` waits for queued packets to leave; default 500 ms.
    pub shutdown_drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            control_message: 1 << 20,
            bulk_message: 32 << 20,
            queue_packets: 4096,
            queue_bytes: 64 << 20,
            connect_timeout: Duration::from_millis(2500),
            handshake_timeout: Duration::from_secs(5),
            dial_backoff_min: Duration::from_millis(20),
            dial_backoff_max: Duration::from_millis(500),
            dial_stagger: Duration::from_millis(50),
            keepalive: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            max_strangers: 8,
            max_pending_handshakes: 64,
            shutdown_drain: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// Largest packet on `channel` in bytes.
    #[must_use]
    pub fn message(&self, channel: Channel) -> usize {
        let limit = match channel {
            Channel::Control | Channel::Ended => self.control_message,
            Channel::Bulk | Channel::Copy | Channel::Forward => self.bulk_message,
        };
        // Lengths have 32 bits on the wire.
        limit.min(u32::MAX as usize)
    }

    /// How long `channel` may make no progress.
    pub(crate) fn dead_after(&self, channel: Channel) -> Duration {
        match channel {
            Channel::Control | Channel::Ended => self.idle_timeout,
            Channel::Bulk | Channel::Copy | Channel::Forward => self.stall_timeout,
        }
    }
}

/// Who this member is, and what it shares with the others.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster all members belong to.
    pub cluster: ClusterId,
    /// This member.
    pub me: MemberId,
    /// Random for each start of the process: tells two live processes under one id apart.
    pub incarnation: [u8; 16],
    /// The cluster's secret: one, or two while it is changed.
    pub keys: KeyRing,
    /// Where this member is reached: `host:port` each. Said when connecting, so that a peer whose list is out of date
    /// finds the way back.
    pub addresses: Vec<String>,
    /// Whether machines with the key that aren't in the list of peers may open a control link: a few, see
    /// [`Limits::max_strangers`].
    pub admit_strangers: bool,
    /// What this program is, said when connecting.
    pub program: Program,
    /// Where names have led before.
    pub names: Names,
    /// Which data directory this is, and which the others' are.
    pub lives: Lives,
    /// Bounds.
    pub limits: Limits,
}
