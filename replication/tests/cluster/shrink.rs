//! Makes a failing schedule short enough to be read: leaves out faults and clients while it still fails the same way.

use super::{Cluster, chaos::Schedule};

/// What kind of failure it is: the rule that was broken.
pub fn kind(failure: &str) -> &str {
    failure.split([':', ' ']).next().unwrap_or(failure)
}

/// More runs than that aren't tried.
const RUNS: u32 = 600;

/// Delta debugging by halves, quarters, and so on down to single faults.
pub fn shrink(schedule: &Schedule, kind_of: &str) -> Schedule {
    let mut runs = 0;
    let mut fails = |candidate: &Schedule| {
        runs += 1;
        runs <= RUNS
            && candidate.run(false).check.failure.as_deref().is_some_and(|failure| kind(failure) == kind_of)
    };
    let mut best = schedule.clone();
    for simpler in [
        Schedule { clients: 0, ..best.clone() },
        Schedule { clients: 1, ..best.clone() },
        Schedule { clients: 1, loss_per_mille: 0, ..best.clone() },
        Schedule { loss_per_mille: 0, ..best.clone() },
    ] {
        if simpler.clients <= best.clients && fails(&simpler) {
            best = simpler;
        }
    }
    let mut part = best.plan.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < best.plan.len() {
            let mut without = best.clone();
            without.plan.drain(from..(from + part).min(best.plan.len()));
            if fails(&without) {
                best = without;
            } else {
                from += part;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    // The faults may end, and calm begin, much earlier.
    let last = best.plan.last().map_or(0, |planned| planned.at);
    for length in [last, (last + best.length) / 2] {
        let earlier = Schedule { length, ..best.clone() };
        if length < best.length && fails(&earlier) {
            best = earlier;
            break;
        }
    }
    best
}

/// What a person needs to see: the cluster, the faults that are left, and the last lines of what happened.
pub fn tell(schedule: &Schedule, lines: usize) -> Cluster {
    let setup = &schedule.setup;
    println!(
        "members {:?}, sync_backups {}, min_sync_backups {}, disk {:?} ns, drift {} ppm, failback {:?}, \
         voter_timeout {:?}, trust_refused {}, buffer {} B, in flight {} B",
        setup.members,
        setup.sync_backups,
        setup.min_sync_backups,
        setup.disk_ns,
        setup.drift_ppm,
        setup.failback,
        setup.voter_timeout,
        setup.timing.trust_refused,
        setup.buffer_bytes,
        setup.inflight_bytes,
    );
    println!("{} clients, {} faults:", schedule.clients, schedule.plan.len());
    for planned in &schedule.plan {
        println!("  {:>9.3} ms  {:?}", planned.at as f64 / 1e6, planned.fault);
    }
    let cluster = schedule.run(true);
    let skipped = cluster.trace.len().saturating_sub(lines);
    if skipped > 0 {
        println!("  ... {skipped} lines (TANIST_LINES=n shows n)");
    }
    for line in cluster.trace.iter().skip(skipped) {
        println!("{line}");
    }
    cluster
}
