//! Deliberate mistakes of what is around the core: the checkers must find each.

use crate::cluster::{chaos::Schedule, store::Mistake};

/// Which schedule finds the mistake, and by which check.
fn finds(mistake: Mistake) {
    for seed in 0..4000 {
        let found = Schedule::of(seed, Some(mistake)).run(false).check.failure;
        // By what is wrong, not by what comes of it.
        if let Some(failure) = found.filter(|failure| !failure.starts_with("liveness")) {
            println!("{mistake:?}: found by seed {seed}: {failure}");
            return;
        }
    }
    panic!("{mistake:?} was not found");
}

#[test]
fn store_that_reports_before_it_syncs_is_found() {
    finds(Mistake::SkipSync);
}

#[test]
fn start_that_does_not_sync_what_a_killed_process_left_is_found() {
    finds(Mistake::SkipSyncAtStart);
}

#[test]
fn server_that_answers_before_the_acknowledgement_is_found() {
    finds(Mistake::AnswerEarly);
}

#[test]
fn master_that_counts_its_lease_too_long_is_found() {
    finds(Mistake::LongLease);
}

#[test]
fn strong_read_of_what_is_not_acknowledged_is_found() {
    finds(Mistake::ReadUnacknowledged);
}

#[test]
fn strong_read_that_does_not_look_at_the_lease_is_found() {
    finds(Mistake::ReadWithoutLease);
}

#[test]
fn repeated_write_that_is_done_twice_is_found() {
    finds(Mistake::ForgetKeys);
}
