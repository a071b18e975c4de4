//! All that a node may ask for, and the contract on its order.
//!
//! Effects are performed in order. `Persist` is durable before any later `Send` leaves (R1) and before any later `Apply`. `StartReign`, `EndReign`,
//! `Apply` and `StartCopy` go to the store in order, and each is answered by its event.

use crate::{
    frame::Transaction,
    known::Known,
    member::{Member, MemberId},
    message::Message,
    position::{Position, Term},
    succession::SuccessionRecord,
    time::Time,
};

use std::time::Duration;

use minicbor::{Decode, Encode};

/// What a voter must not forget (R1): on disk before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HardState {
    /// Highest term it has seen.
    #[n(0)]
    pub term: Term,
    /// Whom it voted for in that term.
    #[n(1)]
    pub voted_for: Option<MemberId>,
    /// Highest record it has accepted.
    #[n(2)]
    pub record: SuccessionRecord,
    /// The longest promise to a master that may still bind it (R11): on disk before a longer one is given, and what it waits for
    /// after a start. Zero if it has given none.
    #[n(3)]
    #[cbor(default)]
    pub promised: Duration,
    /// What it knows to be acknowledged.
    #[n(4)]
    #[cbor(default)]
    pub known: Known,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make this durable before any later `Send`.
    Persist(HardState),
    /// Send a message; `Append` goes over the bulk link, all else over the control link.
    Send {
        /// The receiver.
        to: MemberId,
        /// The message.
        message: Message,
    },
    /// Store a transaction on this backup. Several may be merged into one disk write.
    Apply(Transaction),
    /// Make the store writable and write the reign's first transaction.
    StartReign {
        /// The reign.
        term: Term,
        /// For the term history: why there is a new reign.
        reason: String,
    },
    /// Make the store a backup's again; writes without acknowledgement have an unknown outcome.
    EndReign,
    /// Every write up to this position is acknowledged: answer.
    Acknowledge(Position),
    /// The reign serves clients, as long as the lease lasts.
    OpenGate {
        /// The reign.
        term: Term,
    },
    /// The lease now lasts until then: the gate shuts by itself afterwards (I6).
    ExtendLease {
        /// On this machine's clock.
        until: Time,
    },
    /// Serve nobody: the reign is over.
    CloseGate {
        /// For whoever acts on the end of a reign.
        why: String,
    },
    /// Whether new writes are taken at all (R10, `min_sync_backups`).
    AllowWrites(bool),
    /// Begin no write until `ReleaseWrites` or `CloseGate`, let those that come wait, and say when those that have
    /// begun are captured ([`crate::Event::WritesHeld`] with this number).
    HoldWrites(u64),
    /// Begin writes again.
    ReleaseWrites,
    /// A handover, or an election by force, has ended: with the name of who reigns next, else with why not.
    HandoverEnded(Result<MemberId, String>),
    /// Keep links to these members, and to no others.
    Connect(Vec<Member>),
    /// A change of the members is committed, or why it isn't.
    MembersChanged(Result<(), String>),
    /// Bring this replica in line with the master's database (R12).
    StartCopy {
        /// The master.
        from: MemberId,
    },
    /// Trust this replica no more: its database is another than the master's at this position. That is durable, and reported by
    /// [`crate::Event::ApplyFailed`] with a stamp that is on no branch.
    Distrust {
        /// Where it differs.
        at: Position,
    },
    /// Give that copy up, unless it has ended: its master doesn't reign any more, and what it held may lack what is
    /// acknowledged by now. Answered like the copy itself.
    StopCopy,
    /// A line for the operator's log.
    Note(Note),
}

/// An event that an operator would ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// A fixed phrase, such as `became master`.
    pub what: &'static str,
    /// The other machine, if one is concerned.
    pub peer: Option<MemberId>,
    /// Why, with the numbers.
    pub why: String,
}
