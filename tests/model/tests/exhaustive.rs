//! Every state of the models, all rules in force. `TANIST_MODEL=large` widens the bounds.

use tanist_model::{
    check::{exhaust, large},
    succession::Succession,
};

#[test]
fn pair_and_witness_keep_every_acknowledged_write() {
    exhaust("pair and witness", Succession::pair_and_witness());
}

#[test]
fn three_data_members_keep_every_acknowledged_write() {
    exhaust("three data members", Succession::three());
}

#[test]
fn diverged_replica_is_brought_in_line_before_it_counts() {
    exhaust("diverged replica", Succession::diverged());
}

#[test]
fn heir_of_a_handover_has_everything() {
    exhaust("handover", Succession::handover());
}

#[test]
fn witness_leaves_and_returns_without_a_lost_write() {
    exhaust("removal", Succession::removal());
}

#[test]
fn new_data_member_joins_without_a_lost_write() {
    exhaust("addition", Succession::addition());
}

#[test]
fn member_that_missed_two_removals_elects_nobody_beside_the_rest() {
    exhaust("missed removals", Succession::missed_removals());
}

#[test]
fn messages_of_no_more_use_change_nothing() {
    let all_kept = Succession { forget: false, writes: 1, last_version: 2, ..Succession::pair_and_witness() };
    exhaust("pair and witness, all messages kept", all_kept);
}

#[test]
fn three_reigns_keep_every_acknowledged_write() {
    if large() {
        exhaust(
            "three reigns",
            Succession { last_term: 3, writes: 1, last_version: 2, ..Succession::pair_and_witness() },
        );
    }
}
