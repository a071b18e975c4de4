//! Everything that can happen to a node.
//!
//! A closed list: what isn't here can't influence the protocol. Read `effect.rs` for what comes out.

use crate::{
    complaint::Complaint,
    frame::{Stamp, Transaction},
    member::MemberId,
    message::Message,
    position::{Position, Term, TermHistory},
    role::MemberChange,
};

/// Something that happened, handed to [`crate::Node::handle`] with the time.
#[derive(Debug, Clone)]
pub enum Event {
    /// The time that [`crate::Node::deadline`] named has come.
    Tick,
    /// A peer said something.
    Message {
        /// The authenticated sender.
        from: MemberId,
        /// What it said.
        message: Message,
    },
    /// Our control link to the peer is up.
    LinkUp(MemberId),
    /// Our control link to the peer is lost.
    LinkDown(MemberId),
    /// The peer's machine refuses connections on all its addresses after an established link broke: its process has
    /// ended.
    Refused(MemberId),
    /// The peer's computer says, with the cluster's key, that its process has ended, and no newer one of the peer was heard.
    ProcessEnded(MemberId),
    /// Our bulk link to the peer is lost: what was under way on it may not have arrived.
    BulkDown(MemberId),
    /// This replica is now `Stamp`, on disk (a backup after `Apply`, the master after syncing).
    Stored(Stamp),
    /// An `Apply` was refused by the store, which is at `Stamp`; the `Apply`s after it were dropped.
    ApplyFailed(Stamp),
    /// The master's writer committed and captured a transaction.
    Captured(Transaction),
    /// Changes were made that couldn't be captured: from here on the branch goes on at `Stamp`, every backup must rejoin.
    CaptureBroken(Stamp),
    /// Answer to `Effect::StartReign`.
    ReignStarted {
        /// The reign.
        term: Term,
        /// The replica before the reign's first transaction.
        base: Stamp,
        /// Its first transactions: the term-history row first, then migrations.
        transactions: Vec<Transaction>,
        /// The term history, this reign included.
        history: TermHistory,
    },
    /// The store could not start the reign (disk full, damaged database).
    ReignFailed {
        /// The reign.
        term: Term,
        /// Where the replica stands.
        stamp: Stamp,
        /// What the store said.
        why: String,
    },
    /// Answer to `Effect::EndReign`: the replica stands here, synced, and takes transactions as a backup.
    ReignEnded(Stamp),
    /// Answer to `Effect::StartCopy`: the replica now is the master's.
    CopyFinished(Stamp),
    /// Answer to `Effect::StartCopy`: nothing was changed, the replica still is this.
    CopyFailed(Stamp),
    /// The master's own disk failed or is full: it can't go on reigning.
    StorageFailed(String),
    /// Leave the throne, to this member or else to the heir, so that no request fails; answered by
    /// [`crate::Effect::HandoverEnded`].
    HandOver {
        /// Who should reign next.
        to: Option<MemberId>,
        /// For the log.
        why: String,
    },
    /// Reign, although this machine may lack acknowledged writes, with a majority of the voters; answered by
    /// [`crate::Effect::HandoverEnded`]. Only an operator may ask for it.
    Force {
        /// For the log and the term history.
        why: String,
    },
    /// Whether this machine is fit to reign, or why not (disk, or what else the server looks at). One that isn't comes
    /// last in the chain; a master that isn't hands over to a healthy member as soon as there is one.
    Health(Option<Complaint>),
    /// What the local disk or store hasn't answered for too long; `None`: it answers again. Such a master leaves to a member of
    /// the sync set without its help, and such a machine doesn't stand.
    Stalled(Option<Complaint>),
    /// Whether the local store could begin no reign at all, such as on a database of a newer program: then this machine doesn't
    /// stand, and a candidate goes back.
    Barred(bool),
    /// Whether the local replica holds less than this machine had stored (a lost WAL, a file that was put aside): with an empty
    /// one it takes part in founding no cluster anew.
    Lost(bool),
    /// As master: the peer's database is another than ours at this position, and the peer's is to go.
    Differs {
        /// The peer.
        peer: MemberId,
        /// Where that was seen.
        at: Position,
    },
    /// Change the members; answered by [`crate::Effect::MembersChanged`].
    ChangeMembers(MemberChange),
    /// Answer to `Effect::HoldWrites`: all writes that had begun are captured, and no other begins.
    WritesHeld(u64),
    /// This machine is to stop: a master hands over first. It may end once it isn't the master any more.
    Shutdown,
}
