//! The seeded mistakes: each leaves one rule out or gets it wrong.
//!
//! A model that holds proves little unless it fails as soon as a rule is missing; `tests/mistakes.rs` makes each of
//! these fail, or shows that the bounds don't tell it from the rule.

/// One rule left out or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// R1: the vote isn't on disk before the answer, so a crash forgets it.
    VoteNotDurable,
    /// R1: the term isn't on disk, so a crash goes back to that of the accepted record.
    TermNotDurable,
    /// R1: the accepted record isn't on disk, so a crash goes back to that of the beginning.
    RecordNotDurable,
    /// R3: any majority of the members of the candidate's own record elects, whatever the grants carry.
    MajorityOfOwnRecord,
    /// R4: a candidate outside the sync set wins.
    NoEligibility,
    /// R4: eligibility is judged by the candidate's own record, not by the highest among the grants.
    EligibilityOfOwnRecord,
    /// R4: a candidate wins although a voter knows that it lacks what was acknowledged.
    LossIgnored,
    /// R4: whatever a voter's replica ends with is taken for acknowledged.
    EveryEndAcknowledged,
    /// R5: the old master stays in the first record's sync set.
    OldMasterKept,
    /// R5: the winner forgets the members of the old sync set at once.
    FirstRecordAlone,
    /// R5: the first record counts as committed before a majority has accepted it.
    ServeBeforeCommit,
    /// R5: the master serves when its first record is committed, whoever has stored the reign's first transaction.
    ServeBeforeStored,
    /// R6: a record of a lower term is accepted.
    RecordOfLowerTerm,
    /// R6: a transaction of a lower term is accepted.
    TransactionOfLowerTerm,
    /// R7: only the committed sync set is waited for.
    AcknowledgeOnCommitted,
    /// R7 and R9: only the proposed sync set is waited for; what waited for a lost member goes on before the record
    /// is committed.
    AcknowledgeOnProposed,
    /// R7: the master waits for nobody but itself.
    AcknowledgeOnOwnDisk,
    /// R7: the master doesn't wait for its own disk.
    AcknowledgeWithoutOwnDisk,
    /// R7: a backup reports a transaction when it has come, not when it is on disk.
    ReportBeforeSync,
    /// R8: any data member is proposed at any time.
    GrowTooEarly,
    /// R8 and R12: a member is proposed while its copy is still under way.
    GrowDuringCopy,
    /// R9: a second proposal while the first one is open.
    TwoProposals,
    /// R12: a copy replaces the database piece by piece.
    CopyInPieces,
    /// Members: a change needs only the majority of the new members.
    ChangeByNewMajority,
    /// Members: two members change at once.
    ChangeByTwo,
    /// Members: two members change at once, by the majority of the new ones.
    ChangeByTwoByNewMajority,
    /// Handover: the goodbye comes before the heir has everything.
    GoodbyeTooEarly,
    /// No rule but what all rest on: a disk that goes back to what it held at the beginning.
    RestoredDisk,
    /// R11: a restarted voter votes at once.
    NoRestartWait,
    /// R11: the lease counts from when the answer arrives at the master.
    LeaseFromReceipt,
    /// R11: clocks are taken to run at one rate.
    NoDriftMargin,
    /// R11 and I6: the master answers as long as it hasn't heard of a later one.
    AnswerWithoutLease,
    /// R11 and members: a lease counted by a record's members lasts though the members have changed since.
    LeaseOutlivesChange,
    /// Late answers: a master without lease says in its heartbeats that it serves.
    ServingWithoutLease,
    /// I5: a backup calls itself current as of when the heartbeat came, not as of its own earlier answer.
    CurrentFromReceipt,
    /// R2 and R11: a voter that honours a lease votes.
    VoteDespiteLease,
    /// R6: a voter answers a heartbeat of a lower term, and grants a lease.
    HeartbeatOfLowerTerm,
    /// Handover: the master goes on answering after its goodbye.
    GoodbyeKeepsServing,
    /// Handover: a goodbye ends promises made to later masters, too.
    GoodbyeOfAnyTerm,
    /// End notices: a refused connection counts as the end of the master's process, too.
    RefusalIsDeath,
    /// End notices: so does a refused connection when all links with the master are closed, as the voter sees it; and a master
    /// that sees its links with a majority closed answers nothing.
    ClosedLinksAreDeath,
    /// R11: the master counts a lease as long as its own configuration says, whatever the voter has promised.
    LeaseUnpromised,
    /// R11: a restarted voter waits as long as its new configuration says, whatever it has promised before.
    WaitForgotten,
    /// R11: a restarted voter that hears the same master again is bound by its new, shorter promise alone.
    PromiseShortened,
    /// R11: a longer promise than before isn't on the disk before it is given.
    PromiseUnsaved,
    /// R11: a restarted voter keeps its new, shorter promise on the disk while the longer one may still last.
    PromiseLoweredEarly,
}
