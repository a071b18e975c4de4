//! What nodes say to each other.
//!
//! `wire.rs` gives the bytes; the transport moves them. Every message carries the sender's term (R6).

use std::{collections::BTreeSet, time::Duration};

use minicbor::{Decode, Encode};

use crate::{
    complaint::Complaint,
    frame::{Stamp, Transaction},
    member::{Addresses, MemberId},
    position::{Position, Term},
    promise::Times,
    succession::{RecordKey, SuccessionRecord},
    time::Time,
};

/// A message between two members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Would you vote for me in this term? Changes nothing (R2).
    PreVote(VoteRequest),
    /// Answer to `PreVote`.
    PreVoteReply(VoteReply),
    /// Vote for me in this term (R1).
    Vote(VoteRequest),
    /// Answer to `Vote`.
    VoteReply(VoteReply),
    /// The master lives; carries its record and asks for a lease (R11).
    Heartbeat(Heartbeat),
    /// Answer to `Heartbeat`: grants the lease.
    HeartbeatReply(HeartbeatReply),
    /// A transaction for a backup (bulk link).
    Append {
        /// The master's term.
        term: Term,
        /// The transaction.
        transaction: Transaction,
        /// How far the master had acknowledged when it sent this.
        acknowledged: Position,
    },
    /// A backup's replica is now this, on disk.
    Stored(Report),
    /// A backup can't append what it got: it stands here.
    Refused(Report),
    /// The master asks a replica that isn't on its branch, or is too far back, to copy everything (R12).
    Resync {
        /// The master's term.
        term: Term,
    },
    /// The master's database is another than this replica's at a position that both have (the report's): it counts no more and
    /// must be brought in line (R12).
    Distrust(Report),
    /// The master leaves its throne and gives up its lease.
    Goodbye {
        /// The term that ends.
        term: Term,
        /// Who should stand at once.
        heir: Option<MemberId>,
        /// It leaves because what it sends doesn't arrive: its successors shouldn't do the same one after the other.
        limps: bool,
    },
}

/// A candidate's question.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct VoteRequest {
    /// The term it would reign in.
    #[n(0)]
    pub term: Term,
    /// Highest record it has accepted: to a voter that was away while members came, it shows who asks.
    #[n(1)]
    pub record: SuccessionRecord,
    /// Where its replica stands: for people, who ask a voter whom the cluster waits for.
    #[n(2)]
    #[cbor(default)]
    pub position: Option<Position>,
}

/// A voter's answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct VoteReply {
    /// The term asked for.
    #[n(0)]
    pub term: Term,
    /// Whether the voter grants it.
    #[n(1)]
    pub granted: bool,
    /// The voter's own term: higher than the asked one when that is why it refuses.
    #[n(2)]
    pub own_term: Term,
    /// Highest record the voter has accepted (R1).
    #[n(3)]
    pub record: SuccessionRecord,
    /// Where the voter's replica stands (zero for a witness).
    #[n(4)]
    pub position: Position,
    /// The newest position that the voter knows to be acknowledged: who stands without it has lost something.
    #[n(5)]
    #[cbor(default)]
    pub acknowledged: Position,
    /// Its replica is empty, but it knows that it wasn't: nobody founds a cluster with it.
    #[n(6)]
    #[cbor(default)]
    pub lost: bool,
}

/// The master's sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Heartbeat {
    /// The master's term.
    #[n(0)]
    pub term: Term,
    /// When it was sent, on the master's clock; comes back in the answer and dates the lease.
    #[n(1)]
    pub sent: Time,
    /// The newest record, proposed or committed; to be accepted (R6).
    #[n(2)]
    pub record: SuccessionRecord,
    /// The newest committed record.
    #[n(3)]
    pub committed: RecordKey,
    /// Newest acknowledged position.
    #[n(4)]
    pub acknowledged: Position,
    /// Newest position on the master.
    #[n(5)]
    pub tip: Position,
    /// `sent` of the newest answer the master had from this member, on that member's clock: what this heartbeat
    /// says was true after that moment.
    #[n(6)]
    pub echo: Option<Time>,
    /// Whether the reign has begun to serve.
    #[n(7)]
    pub serving: bool,
    /// Members that report that they aren't healthy: they come last in the chain of succession.
    #[n(8)]
    pub unhealthy: BTreeSet<MemberId>,
    /// The master's times, for people.
    #[n(9)]
    pub times: Option<Box<Times>>,
    /// The cluster's level, and whether it is held there. Nothing in the protocol depends on it; the server fills it in, from
    /// version 2 of the peer protocol on.
    #[n(10)]
    pub level: Option<Level>,
}

/// Which schema and which features of Tanist a cluster uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Level {
    /// The number.
    #[n(0)]
    pub number: u32,
    /// Whether an operator holds it there.
    #[n(1)]
    pub held: bool,
}

/// A voter's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HeartbeatReply {
    /// The voter's term; higher than the heartbeat's: the master must step down.
    #[n(0)]
    pub term: Term,
    /// `sent` of the heartbeat.
    #[n(1)]
    pub heartbeat_sent: Time,
    /// When the answer was sent, on the voter's clock.
    #[n(2)]
    pub sent: Time,
    /// The record it has accepted, on disk.
    #[n(3)]
    pub accepted: RecordKey,
    /// What its replica is, on disk; `None` while it can't say (copying, leaving the throne) or is a witness.
    #[n(4)]
    pub stamp: Option<Stamp>,
    /// Where it is reached, if the record says something else.
    #[n(5)]
    pub moved: Option<Addresses>,
    /// A position and the sum of the whole database at it, to be compared with the master's. Nothing in the protocol
    /// depends on it; the store's side fills it in.
    #[n(6)]
    pub sum: Option<(Position, u64)>,
    /// Why it should not reign now, if it shouldn't.
    #[n(7)]
    pub unhealthy: Option<Complaint>,
    /// For how long it honours the master's lease, from when it heard of it (R11). `None`: an earlier program, which honours it
    /// for as long as its configuration says, and that is taken to be the same everywhere.
    #[n(8)]
    pub promised: Option<Duration>,
    /// The longest promise that may still bind it, of an earlier process too.
    #[n(9)]
    pub longest: Option<Duration>,
    /// Its times, for people.
    #[n(10)]
    pub times: Option<Box<Times>>,
    /// Its disk has all that has come to it, and takes more: what it lacks is still on its way.
    #[n(11)]
    #[cbor(default)]
    pub awaits: bool,
}

/// Where a replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Report {
    /// The master's term to which the report belongs.
    #[n(0)]
    pub term: Term,
    /// What the replica is, on disk.
    #[n(1)]
    pub stamp: Stamp,
}

impl Message {
    /// The sender's term (for a vote: the term asked for).
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Message::PreVote(request) | Message::Vote(request) => request.term,
            Message::PreVoteReply(reply) | Message::VoteReply(reply) => reply.own_term,
            Message::Heartbeat(heartbeat) => heartbeat.term,
            Message::HeartbeatReply(reply) => reply.term,
            Message::Stored(report) | Message::Refused(report) | Message::Distrust(report) => report.term,
            Message::Append { term, .. } | Message::Resync { term } | Message::Goodbye { term, .. } => *term,
        }
    }
}
