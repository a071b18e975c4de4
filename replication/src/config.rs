//! What a node must be told once: who it is, its first members, its times and limits.
//!
//! Holds values only; `server/src/config` reads and checks the user's file.

use std::time::Duration;

use crate::member::{Member, MemberId};

/// Times of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// How long this machine, as a voter, refuses other candidates after a heartbeat (R11); and as master relies on such a
    /// promise at most.
    pub lease: Duration,
    /// By how much the master's own count of the lease is shorter (clock drift).
    pub drift_margin: Duration,
    /// A member of the sync set that doesn't answer for so long is left out (R9).
    pub sync_timeout: Duration,
    /// How much later each further heir stands.
    pub election_stagger: Duration,
    /// An operator vouches for it that a refused connection proves that the process on that machine has ended: no firewall or
    /// port forwarder ever refuses for one that lives.
    pub trust_refused: bool,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_secs(1),
            drift_margin: Duration::from_millis(50),
            sync_timeout: Duration::from_secs(1),
            election_stagger: Duration::from_millis(100),
            trust_refused: false,
        }
    }
}

/// Everything a node needs to know besides its durable state.
#[derive(Debug, Clone)]
pub struct Config {
    /// This machine.
    pub id: MemberId,
    /// Members for the blank record; later records carry their own.
    pub members: Vec<Member>,
    /// Times.
    pub timing: Timing,
    /// How many backups the sync set should have (R10).
    pub sync_backups: usize,
    /// With fewer backups than this, writes are refused (R10).
    pub min_sync_backups: usize,
    /// Bytes of transactions kept for catch-up; a replica further back must rejoin.
    pub buffer_bytes: usize,
    /// Bytes under way to one backup before its answer is awaited.
    pub inflight_bytes: usize,
    /// In a cluster of four or more, a member outside the sync set that is silent for so long doesn't count as a voter
    /// until it answers again, so that machines can be lost one after another down to two; `None`: all always count.
    pub voter_timeout: Option<Duration>,
    /// A better-ranked member that has kept up for so long gets the throne back; `None`: never by itself.
    pub failback: Option<Duration>,
    /// Seed for the jitter of repeated elections; different on each machine and start.
    pub seed: u64,
}
