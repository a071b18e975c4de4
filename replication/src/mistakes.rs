//! Deliberate mistakes, one at a time, that the simulation must find (`tests/simulation`).
//!
//! Owns the list and the choice. In every build without the feature `mistakes` nothing can be chosen, and the compiler
//! removes each place that asks; the server can't be built with it.

/// Whether this build can make mistakes.
pub const POSSIBLE: bool = cfg!(feature = "mistakes");

/// What the core can be made to do wrong, by the rule that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// R1: a vote leaves before it is on disk.
    VoteUnsaved,
    /// R1: a start forgets for whom it has voted.
    VoteForgotten,
    /// R2: a voter grants although it honours another's lease.
    LeaseIgnored,
    /// R3: a voter that has no record is counted.
    BlankVoterCounts,
    /// R4: whoever has a majority wins.
    AnybodyWins,
    /// R4: a candidate whose replica is empty wins like any other.
    EmptyReplicaWins,
    /// R4: a candidate wins although a voter knows that it lacks what was acknowledged.
    LossIgnored,
    /// R4: the end of any replica is taken for acknowledged.
    EveryEndAcknowledged,
    /// R4: a replica that holds less than was stored stands like any other.
    LostStands,
    /// R3: whoever knows that it has lost its data helps to found the cluster anew.
    LostHelpsFound,
    /// R5: the old master stays in the sync set.
    OldMasterStays,
    /// R5: a reign begins before its first record is committed.
    ReignUncommitted,
    /// R6: transactions of a term that has passed are taken.
    OldTermTaken,
    /// R6: a record is said to be accepted before it is on disk.
    RecordUnsaved,
    /// R7: only the committed sync set is waited for.
    CommittedSetOnly,
    /// R7, R9: only the proposed sync set is waited for.
    ProposedSetOnly,
    /// R7: one backup too few is waited for.
    OneTooFew,
    /// R7: a backup reports what it hasn't stored yet.
    ReportedEarly,
    /// R8: a member is taken in before it has caught up.
    TakenInEarly,
    /// R9: a record is proposed while another still is.
    TwoProposals,
    /// R9: a master whose link is at fault makes itself the whole sync set.
    LimpsAlone,
    /// R10: a backup that is slow beside the others stays in the sync set.
    SlowKept,
    /// R7: a master whose disk doesn't answer acknowledges what its backups have stored.
    OwnDiskForgotten,
    /// A master whose disk doesn't answer stays.
    StallIgnored,
    /// R11: the lease is counted from the answer, not from the question.
    LeaseFromAnswer,
    /// R11: a restarted voter votes at once.
    NoRestartWait,
    /// R11: the master counts a lease as long as its own configuration says, whatever was promised.
    LeaseUnpromised,
    /// R11: a restarted voter waits as long as its new configuration says, whatever it has promised.
    WaitForgotten,
    /// R11: a restarted voter that hears the same master again is bound by its new promise alone.
    PromiseShortened,
    /// R11: a longer promise than before isn't on disk before it is given.
    PromiseUnsaved,
    /// R11: a restarted voter keeps its new, shorter promise on disk while the longer one may still last.
    PromiseLoweredEarly,
    /// R11, members: a change of voters is committed while the lease counted lasts longer than what they have promised.
    ChangeUncovered,
    /// End notices: a refused connection is believed, too.
    RefusalBelieved,
    /// R11, I6: writes are acknowledged after the lease.
    LateAcknowledgement,
    /// R12: a transaction is stored on whatever the replica ends with.
    ForkIgnored,
    /// R12: a replica off the branch counts as if it were on it.
    ForkCounts,
    /// A transaction that comes twice is stored twice.
    StoredTwice,
    /// I5: a backup calls itself current as of now.
    FreshByItself,
    /// I5: a reign tells that it serves before it does.
    ServesEarly,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Mistake; 39] = [
        Mistake::VoteUnsaved,
        Mistake::VoteForgotten,
        Mistake::LeaseIgnored,
        Mistake::BlankVoterCounts,
        Mistake::AnybodyWins,
        Mistake::EmptyReplicaWins,
        Mistake::LossIgnored,
        Mistake::EveryEndAcknowledged,
        Mistake::LostStands,
        Mistake::LostHelpsFound,
        Mistake::OldMasterStays,
        Mistake::ReignUncommitted,
        Mistake::OldTermTaken,
        Mistake::RecordUnsaved,
        Mistake::CommittedSetOnly,
        Mistake::ProposedSetOnly,
        Mistake::OneTooFew,
        Mistake::ReportedEarly,
        Mistake::TakenInEarly,
        Mistake::TwoProposals,
        Mistake::LimpsAlone,
        Mistake::SlowKept,
        Mistake::OwnDiskForgotten,
        Mistake::StallIgnored,
        Mistake::LeaseFromAnswer,
        Mistake::NoRestartWait,
        Mistake::LeaseUnpromised,
        Mistake::WaitForgotten,
        Mistake::PromiseShortened,
        Mistake::PromiseUnsaved,
        Mistake::PromiseLoweredEarly,
        Mistake::ChangeUncovered,
        Mistake::RefusalBelieved,
        Mistake::LateAcknowledgement,
        Mistake::ForkIgnored,
        Mistake::ForkCounts,
        Mistake::StoredTwice,
        Mistake::FreshByItself,
        Mistake::ServesEarly,
    ];
}

/// Whether this mistake is to be made.
#[cfg(not(feature = "mistakes"))]
#[inline]
pub(crate) const fn made(_: Mistake) -> bool {
    false
}

#[cfg(feature = "mistakes")]
pub use chosen::choose;
#[cfg(feature = "mistakes")]
pub(crate) use chosen::made;

#[cfg(feature = "mistakes")]
mod chosen {
    use std::cell::Cell;

    use super::Mistake;

    thread_local! {
        static CHOSEN: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// All nodes of this thread make this mistake from now on.
    pub fn choose(mistake: Option<Mistake>) {
        CHOSEN.set(mistake);
    }

    pub(crate) fn made(mistake: Mistake) -> bool {
        CHOSEN.get() == Some(mistake)
    }
}
