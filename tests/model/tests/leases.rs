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
fn end_notice_ends_the_lease_of_a_dead_process_and_a_firewall_that_refuses_for_the_living_does_not() {
    exhaust(
        "leases, end notices and firewalls",
        Leases { end_notices: true, firewalls: true, ..Leases::three() },
    );
}

#[test]
fn leases_are_as_long_as_each_voter_has_promised() {
    exhaust("leases of differing lengths", Leases::differing_lengths());
}

#[test]
fn leases_of_differing_lengths_hold_while_voters_change() {
    let model = Leases::changing_lengths();
    exhaust("leases of differing lengths and changing voters", model.with(Mistake::LeaseOutlivesChange));
}

#[test]
fn leases_hold_while_voters_change() {
    exhaust("leases and changing voters", Leases::changing_voters());
}

#[test]
fn backup_that_calls_itself_current_misses_nothing() {
    exhaust("leases and backups that are current", Leases::currency());
}

#[test]
fn larger_bounds_hold() {
    if large() {
        let all = Leases { goodbyes: true, end_notices: true, ..Leases::three() };
        exhaust("leases, goodbyes and end notices", all.clone());
        let lengths = Leases { late_answers: true, ..Leases::differing_lengths() };
        exhaust("leases of differing lengths, late answers", lengths.clone());
        let rest = Leases { goodbyes: true, end_notices: true, late_answers: false, ..lengths };
        exhaust("leases of differing lengths, goodbyes and end notices", rest);
        exhaust("leases, three reigns", Leases { last_term: 3, ..all.clone() });
        exhaust("leases, three candidates", Leases { candidates: Set::of(&[0, 1, 2]), ..all });
        exhaust(
            "leases and changing voters, late answers",
            Leases { late_answers: true, ..Leases::changing_voters() },
        );
    }
}

/// The mistake makes a read miss an acknowledged write.
fn breaks(mistake: Mistake, model: Leases) {
    let found = counterexample(&format!("{mistake:?}"), model.with(mistake), "I5 no read");
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
    breaks(
        Mistake::GoodbyeOfAnyTerm,
        Leases { goodbyes: true, last_term: 3, late_answers: false, ..Leases::three() },
    );
}

#[test]
fn refused_connection_ends_the_lease_of_a_living_master() {
    breaks(Mistake::RefusalIsDeath, Leases { firewalls: true, ..Leases::three() });
}

/// No rule will do that goes by what connections show: a firewall may close only the ends of those who vote.
#[test]
fn closed_links_end_the_lease_of_a_master_whose_own_ends_are_open() {
    breaks(Mistake::ClosedLinksAreDeath, Leases { firewalls: true, ..Leases::three() });
}

#[test]
fn master_counts_on_more_than_was_promised() {
    breaks(Mistake::LeaseUnpromised, Leases::differing_lengths());
}

#[test]
fn voter_restarted_with_a_shorter_lease_waits_for_that_alone() {
    breaks(Mistake::WaitForgotten, Leases::differing_lengths());
}

#[test]
fn voter_restarted_with_a_shorter_lease_shortens_its_promise_to_the_same_master() {
    breaks(Mistake::PromiseShortened, Leases::differing_lengths());
}

#[test]
fn voter_forgets_that_it_has_promised_for_longer_than_before() {
    breaks(Mistake::PromiseUnsaved, Leases::differing_lengths());
}

#[test]
fn voter_restarted_twice_forgets_what_it_promised_before_the_first_time() {
    breaks(Mistake::PromiseLoweredEarly, Leases::differing_lengths());
}

/// As long as all promise the same, whoever accepts a record is bound for as long as the lease that was counted before.
#[test]
fn change_is_committed_by_voters_whose_leases_end_before_the_counted_one() {
    let model = Leases { commit_covered: false, ..Leases::changing_lengths() };
    breaks(Mistake::LeaseOutlivesChange, model);
}

/// The mistake makes a backup call itself current that isn't.
fn misleads(mistake: Mistake, model: Leases) {
    let found = counterexample(&format!("{mistake:?}"), model.with(mistake), "I5 no backup");
    assert!(found.is_some(), "{mistake:?} must not go unnoticed");
}

#[test]
fn master_without_lease_says_that_it_serves() {
    misleads(Mistake::ServingWithoutLease, Leases::currency());
}

#[test]
fn backup_calls_itself_current_as_of_a_late_heartbeat() {
    misleads(Mistake::CurrentFromReceipt, Leases::currency());
}

/// What the implementation does: it doesn't count anew, and needn't, as whoever accepts a record honours the lease.
#[test]
fn counted_lease_may_outlive_changes_that_come_in_heartbeats() {
    let model = Leases { records_in_heartbeats: true, ..Leases::changing_voters() };
    exhaust("leases counted once, records in heartbeats", model.with(Mistake::LeaseOutlivesChange));
}

#[test]
fn lease_outlives_two_changes_of_voters() {
    breaks(Mistake::LeaseOutlivesChange, Leases::changing_voters());
}
