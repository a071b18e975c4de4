//! Every state of the model of leases, all rules in force, and each rule of time left out. `TANIST_MODEL=large` widens
//! the bounds.

use tanist_model::{
    check::{counterexample, exhaust, large},
    leases::Leases,
    machines::Set,
    mistake::Mistake,
};

#[test]
fn master_answers_alone_and_with_everything() {
    exhaust("leases", Leases::three());
}

#[test]
fn goodbye_hands_the_lease_over() {
    exhaust("leases and goodbyes", Leases { goodbyes: true, ..Leases::three() });
}

#[test]
fn refused_connection_ends_the_lease_of_a_dead_process() {
    exhaust("leases and refusals", Leases { refusals: true, ..Leases::three() });
}

#[test]
fn leases_hold_while_voters_change() {
    exhaust("leases and changing voters", Leases::changing_voters());
}

#[test]
fn larger_bounds_hold() {
    if large() {
        let all = Leases { goodbyes: true, refusals: true, ..Leases::three() };
        exhaust("leases, goodbyes and refusals", all.clone());
        exhaust("leases, three reigns", Leases { last_term: 3, ..all.clone() });
        exhaust("leases, three candidates", Leases { candidates: Set::of(&[0, 1, 2]), ..all });
    }
}

/// The mistake makes a read miss an acknowledged write.
fn breaks(mistake: Mistake, model: Leases) {
    let found = counterexample(&format!("{mistake:?}"), model.with(mistake), "I5");
    assert!(found.is_some(), "{mistake:?} must not go unnoticed");
}

#[test]
fn restarted_voter_votes_at_once() {
    breaks(Mistake::NoRestartWait, Leases::three());
}

#[test]
fn lease_counts_from_the_answers_receipt() {
    breaks(Mistake::LeaseFromReceipt, Leases::three());
}

#[test]
fn clocks_are_taken_to_run_at_one_rate() {
    breaks(Mistake::NoDriftMargin, Leases::three());
}

#[test]
fn master_answers_without_a_lease() {
    breaks(Mistake::AnswerWithoutLease, Leases::three());
}

#[test]
fn voter_votes_while_it_honours_a_lease() {
    breaks(Mistake::VoteDespiteLease, Leases::three());
}

#[test]
fn voter_grants_a_lease_to_a_lower_term() {
    breaks(Mistake::HeartbeatOfLowerTerm, Leases::three());
}

#[test]
fn master_answers_after_its_goodbye() {
    breaks(Mistake::GoodbyeKeepsServing, Leases { goodbyes: true, ..Leases::three() });
}

#[test]
fn late_goodbye_ends_a_promise_to_the_next_master() {
    breaks(Mistake::GoodbyeOfAnyTerm, Leases { goodbyes: true, last_term: 3, ..Leases::three() });
}

#[test]
fn broken_link_ends_the_lease_of_a_living_master() {
    breaks(Mistake::BrokenLinkIsDeath, Leases { refusals: true, ..Leases::three() });
}

#[test]
fn lease_outlives_two_changes_of_voters() {
    breaks(Mistake::LeaseOutlivesChange, Leases::changing_voters());
}
