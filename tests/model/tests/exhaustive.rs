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
    exhaust("diverged pair", Succession::diverged_pair());
}

#[test]
fn heir_of_a_handover_has_everything() {
    exhaust("handover", Succession::handover());
}

#[test]
fn master_that_leaves_without_its_own_disk_loses_no_write() {
    exhaust("stalls", Succession::stalls());
}

#[test]
fn witness_leaves_and_returns_without_a_lost_write() {
    exhaust("removal", Succession::removal());
}

#[test]
fn one_machine_grows_to_three_without_a_lost_write() {
    exhaust("growth", Succession::growth());
}

#[test]
fn member_that_missed_two_removals_elects_nobody_beside_the_rest() {
    exhaust("missed removals", Succession::missed_removals());
}

#[test]
fn disk_that_forgets_costs_its_machine_the_throne_where_a_voter_knows() {
    exhaust("forgetful disks", Succession::forgetful());
}

#[test]
fn messages_of_no_more_use_change_nothing() {
    let all_kept = |model| Succession { forget: false, writes: 1, ..model };
    let small = |model| Succession { last_version: 2, ..model };
    let pair = Succession::pair_and_witness();
    exhaust("all messages kept", all_kept(Succession { last_version: 1, ..pair.clone() }));
    if large() {
        exhaust("all messages kept, two records", all_kept(Succession { last_version: 2, ..pair }));
        let old = Succession { forget: false, ..Succession::diverged_pair() };
        exhaust("all messages kept, diverged pair", Succession { last_version: 1, ..old });
        exhaust("all messages kept, handover", all_kept(small(Succession::handover())));
        exhaust("all messages kept, removal", all_kept(small(Succession::removal())));
        exhaust("all messages kept, growth", all_kept(small(Succession::growth())));
    }
}

#[test]
fn larger_bounds_hold() {
    if large() {
        exhaust("diverged replica among three", Succession::diverged());
        exhaust("forgetful disks, three data members", Succession::forgetful_three());
        exhaust("addition to two", Succession::addition());
        let pair = Succession { writes: 1, last_version: 2, ..Succession::pair_and_witness() };
        exhaust("three reigns", Succession { last_term: 3, ..pair });
        exhaust("three data members, two writes", Succession { writes: 2, ..Succession::three() });
        exhaust("three data members, three records", Succession { last_version: 3, ..Succession::three() });
        exhaust("three data members, handover", Succession { handover: true, ..Succession::three() });
    }
}
