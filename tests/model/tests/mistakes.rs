//! Each rule left out or got wrong makes a property fail, which shows that the models can tell; where it doesn't, the
//! test says why.

use tanist_model::{
    check::{counterexample, exhaust, large},
    mistake::Mistake,
    succession::Succession,
};

/// The mistake makes the property fail.
fn breaks(mistake: Mistake, model: Succession, property: &str) {
    let found = counterexample(&format!("{mistake:?}"), model.with(mistake), property);
    assert!(found.is_some(), "{mistake:?} must not go unnoticed");
}

/// Every property holds in every state in spite of the mistake.
fn harmless(mistake: Mistake, model: Succession) {
    exhaust(&format!("{mistake:?}"), model.with(mistake));
}

fn small(model: Succession) -> Succession {
    Succession { writes: model.old_writes + 1, last_version: 2, ..model }
}

#[test]
fn crash_forgets_the_vote() {
    breaks(Mistake::VoteNotDurable, Succession::pair_and_witness(), "I1");
}

#[test]
fn crash_forgets_the_term() {
    breaks(Mistake::TermNotDurable, Succession::pair_and_witness(), "I1");
}

#[test]
fn crash_forgets_the_record() {
    breaks(Mistake::RecordNotDurable, Succession::pair_and_witness(), "I2");
}

#[test]
fn majority_of_an_outdated_record_elects() {
    breaks(Mistake::MajorityOfOwnRecord, Succession::missed_removals(), "I1");
}

#[test]
fn candidate_outside_the_sync_set_wins() {
    breaks(Mistake::NoEligibility, Succession::pair_and_witness(), "I2");
}

#[test]
fn candidate_judges_itself_by_its_own_record() {
    breaks(Mistake::EligibilityOfOwnRecord, Succession::pair_and_witness(), "I2");
}

#[test]
fn master_serves_before_its_record_is_committed() {
    breaks(Mistake::ServeBeforeCommit, Succession::pair_and_witness(), "I2");
}

#[test]
fn master_serves_before_the_sync_set_holds_what_it_shows() {
    breaks(Mistake::ServeBeforeStored, Succession::diverged(), "what a reign begins with");
}

#[test]
fn voter_accepts_a_record_of_a_lower_term() {
    breaks(Mistake::RecordOfLowerTerm, Succession::pair_and_witness(), "I2");
}

#[test]
fn backup_accepts_a_transaction_of_a_lower_term() {
    // A message that the rule makes useless is of use by this mistake.
    let model = Succession { forget: false, ..Succession::pair_and_witness() };
    breaks(Mistake::TransactionOfLowerTerm, model, "I4");
}

#[test]
fn acknowledgement_waits_for_the_committed_set_alone() {
    breaks(Mistake::AcknowledgeOnCommitted, Succession::pair_and_witness(), "I2");
}

#[test]
fn acknowledgement_waits_for_the_proposed_set_alone() {
    breaks(Mistake::AcknowledgeOnProposed, Succession::pair_and_witness(), "I2");
}

#[test]
fn acknowledgement_waits_for_no_backup() {
    breaks(Mistake::AcknowledgeOnOwnDisk, Succession::pair_and_witness(), "I2");
}

#[test]
fn acknowledgement_does_not_wait_for_the_own_disk() {
    breaks(Mistake::AcknowledgeWithoutOwnDisk, Succession::pair_and_witness(), "I2");
}

#[test]
fn master_whose_disk_does_not_answer_acknowledges_without_it() {
    breaks(Mistake::AcknowledgeWithoutOwnDisk, Succession::stalls(), "I2");
}

#[test]
fn backup_reports_before_its_disk_has_it() {
    breaks(Mistake::ReportBeforeSync, Succession::pair_and_witness(), "I2");
}

#[test]
fn member_without_everything_acknowledged_is_counted_on() {
    breaks(Mistake::GrowTooEarly, Succession::pair_and_witness(), "I2");
}

#[test]
fn member_is_counted_on_before_its_copy_ends() {
    breaks(Mistake::GrowDuringCopy, Succession::pair_and_witness(), "I2");
}

#[test]
fn second_proposal_while_the_first_is_open() {
    breaks(Mistake::TwoProposals, Succession::pair_and_witness(), "I2");
}

#[test]
fn copy_replaces_the_database_in_pieces() {
    breaks(Mistake::CopyInPieces, Succession::diverged_pair(), "I2");
}

#[test]
fn two_members_change_at_once() {
    breaks(Mistake::ChangeByTwo, Succession::removal_of_two(), "I1");
}

#[test]
fn two_members_change_at_once_by_the_new_majority() {
    breaks(Mistake::ChangeByTwoByNewMajority, Succession::removal_of_two(), "I1");
}

#[test]
fn goodbye_before_the_heir_has_everything() {
    breaks(Mistake::GoodbyeTooEarly, Succession::handover(), "an heir has all");
}

#[test]
fn candidate_that_lost_what_a_voter_knows_of_wins() {
    breaks(Mistake::LossIgnored, Succession::forgetful(), "nobody wins without");
}

/// The old master's end, or that of a backup that was counted on, may never have been acknowledged.
#[test]
fn end_of_any_replica_is_taken_for_acknowledged() {
    breaks(Mistake::EveryEndAcknowledged, Succession::forgetful(), "who has lost nothing");
}

#[test]
fn disk_goes_back() {
    breaks(Mistake::RestoredDisk, Succession::pair_and_witness(), "I1");
}

/// R5 leaves the old master out so that nobody waits for it. Safety doesn't need it: the old master is in its own sync
/// set, so it holds all that was acknowledged.
#[test]
fn old_master_in_the_first_record_only_costs_time() {
    harmless(Mistake::OldMasterKept, small(Succession::pair_and_witness()));
    if large() {
        harmless(Mistake::OldMasterKept, Succession::three());
        harmless(Mistake::OldMasterKept, Succession::diverged());
    }
}

/// R5 keeps the other members of the old sync set so that the data has more than one home at once. That all that was
/// acknowledged survives the *next* election doesn't need it: the winner holds it.
#[test]
fn first_record_without_the_old_sync_set_only_costs_copies() {
    harmless(Mistake::FirstRecordAlone, small(Succession::pair_and_witness()));
    if large() {
        harmless(Mistake::FirstRecordAlone, Succession::three());
        harmless(Mistake::FirstRecordAlone, Succession::diverged());
    }
}

/// While members change one at a time, each majority of the new ones meets each majority of the old ones anyway.
#[test]
fn majority_of_the_new_members_suffices_for_a_single_change() {
    harmless(Mistake::ChangeByNewMajority, small(Succession::removal()));
    if large() {
        harmless(Mistake::ChangeByNewMajority, Succession::removal());
        harmless(Mistake::ChangeByNewMajority, Succession::addition());
    }
}
