//! Random schedules from seeds. `TANIST_SCHEDULES=n` runs the first n, `TANIST_SEED=s` replays one with its trace.
#![allow(clippy::disallowed_types)] // how long to go on trying is real time; a schedule itself never sees it

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::cluster::{Cluster, chaos, store::Mistake};

/// What the everyday run may take; the first seeds are run whatever the machine.
const EVERYDAY: Duration = Duration::from_secs(15);
const AT_LEAST: u64 = 150;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; what was found wrong, if anything.
fn judge(seed: u64, mistake: Option<Mistake>, trace: bool) -> (Option<String>, Option<Cluster>) {
    match catch_unwind(AssertUnwindSafe(|| chaos::run(seed, mistake, trace))) {
        Ok(cluster) => (cluster.check.failure.clone(), Some(cluster)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            (Some(format!("panic: {}", text.unwrap_or_default())), None)
        }
    }
}

fn replay(seed: u64) -> Option<String> {
    let (failure, cluster) = judge(seed, None, true);
    let lines = cluster.map(|cluster| cluster.trace).unwrap_or_default();
    let short = number("TANIST_LINES").unwrap_or(120) as usize;
    for line in lines.iter().skip(lines.len().saturating_sub(short)) {
        println!("{line}");
    }
    failure
}

#[test]
fn random_schedules_keep_the_invariants_and_recover() {
    if let Some(seed) = number("TANIST_SEED") {
        let failure = replay(seed);
        assert_eq!(failure, None, "seed {seed}");
        return;
    }
    let wanted = number("TANIST_SCHEDULES");
    let first = number("TANIST_FIRST").unwrap_or(0);
    let started = Instant::now();
    let (mut seeds, mut events, mut writes, mut reigns, mut reads) = (0, 0, 0, 0, 0);
    let mut failures = vec![];
    while match wanted {
        Some(wanted) => seeds < wanted,
        None => seeds < AT_LEAST || started.elapsed() < EVERYDAY,
    } {
        let seed = first + seeds;
        seeds += 1;
        let (failure, cluster) = judge(seed, None, false);
        if let Some(cluster) = cluster {
            events += cluster.events;
            writes += cluster.check.acknowledged.len();
            reigns += cluster.check.opened.len();
            reads += cluster.check.reads;
        }
        if let Some(failure) = failure {
            println!("seed {seed}: {failure}");
            failures.push((seed, failure));
            if failures.len() >= 12 {
                break;
            }
        }
    }
    println!("{seeds} schedules, {events} events, {reigns} reigns, {writes} writes, {reads} strong reads");
    if let Some((seed, failure)) = failures.first() {
        replay(*seed);
        panic!("{failure}: replay with TANIST_SEED={seed}");
    }
}

/// The checker must find a deliberate mistake within a few seeds, by an invariant and not only by what comes of it.
fn finds(mistake: Mistake, seeds: u64) {
    for seed in 0..seeds {
        let (failure, _) = judge(seed, Some(mistake), false);
        if let Some(failure) = failure.filter(|failure| failure.starts_with('I')) {
            println!("{mistake:?}: found by seed {seed}: {failure}");
            return;
        }
    }
    panic!("{mistake:?} was not found in {seeds} schedules");
}

#[test]
fn checker_finds_a_store_that_reports_before_it_syncs() {
    finds(Mistake::SkipSync, 200);
}

#[test]
fn checker_finds_a_server_that_answers_before_the_acknowledgement() {
    finds(Mistake::AnswerEarly, 200);
}

#[test]
fn checker_finds_a_master_that_counts_its_lease_too_long() {
    finds(Mistake::LongLease, 200);
}
