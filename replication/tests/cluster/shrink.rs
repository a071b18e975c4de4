//! Makes a failing schedule short enough to be read: leaves out machines, clients, settings and faults while it still
//! fails in the same way, and tells what happened in few lines.

use super::{
    Cluster, MS,
    chaos::{SHAPES, Schedule},
};

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
    let simpler: [fn(&mut Schedule); 13] = [
        |s| s.setup.members = SHAPES[0].to_vec(),
        |s| s.setup.members = SHAPES[2].to_vec(),
        |s| s.setup.members = SHAPES[5].to_vec(),
        |s| s.clients = 0,
        |s| s.clients = s.clients.min(1),
        |s| s.loss_per_mille = 0,
        |s| s.setup.drift_ppm = 0,
        |s| s.setup.sync_backups = 1,
        |s| s.setup.min_sync_backups = 0,
        |s| s.setup.failback = None,
        |s| s.setup.voter_timeout = None,
        |s| s.setup.disk_ns = (MS, MS),
        |s| (s.setup.buffer_bytes, s.setup.inflight_bytes) = (1 << 16, 4096),
    ];
    for simplify in simpler {
        let mut candidate = best.clone();
        simplify(&mut candidate);
        let smaller = candidate.setup.members.len() <= best.setup.members.len();
        if smaller && fails(&candidate) {
            best = candidate;
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
         voter_timeout {:?}, leases {:?}, trust_refused {}, tells of ends {}, buffer {} B, in flight {} B",
        setup.members,
        setup.sync_backups,
        setup.min_sync_backups,
        setup.disk_ns,
        setup.drift_ppm,
        setup.failback,
        setup.voter_timeout,
        setup.leases,
        setup.timing.trust_refused,
        setup.tells_of_end,
        setup.buffer_bytes,
        setup.inflight_bytes,
    );
    println!("{} clients, {} faults:", schedule.clients, schedule.plan.len());
    for planned in &schedule.plan {
        println!("  {:>9.3} ms  {:?}", planned.at as f64 / 1e6, planned.fault);
    }
    let cluster = schedule.run(true);
    let told = join_lines(&cluster.trace);
    let skipped = told.len().saturating_sub(lines);
    if skipped > 0 {
        println!("  ... {skipped} lines (TANIST_LINES=n shows n)");
    }
    for line in told.iter().skip(skipped) {
        println!("{line}");
    }
    if let Some(failure) = &cluster.check.failure {
        println!("  FAILED  {failure}");
    }
    cluster
}

/// Says at once what several machines do, or what is said to several, at the same moment.
fn join_lines(trace: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    let mut last: Option<(&str, &str, &str)> = None;
    for line in trace {
        let parts = split(line);
        match (last, parts) {
            (Some((before, _, after)), Some((head, name, tail))) if (before, after) == (head, tail) => {
                if let Some(known) = lines.last_mut() {
                    known.insert_str(known.len() - tail.len(), &format!(", {name}"));
                }
            }
            _ => lines.push(line.clone()),
        }
        last = parts;
    }
    lines
}

/// What stands before the machine that a line is about, its name, and what stands behind.
fn split(line: &str) -> Option<(&str, &str, &str)> {
    let time = line.find("ms  ")? + 4;
    let from = line[time..].find(" -> ").map_or(time, |at| time + at + 4);
    let name = line[from..].find([':', ' '])? + from;
    Some((&line[..from], &line[from..name], &line[name..]))
}

#[cfg(test)]
mod tests {
    use super::join_lines;

    #[test]
    fn what_happens_to_several_at_once_is_told_in_one_line() {
        let lines = [
            "1 ms  a -> b: vote",
            "1 ms  a -> c: vote",
            "1 ms  b: voted a",
            "1 ms  c: voted a",
            "2 ms  c: x",
        ];
        let told = join_lines(&lines.map(str::to_owned));
        assert_eq!(told, ["1 ms  a -> b, c: vote", "1 ms  b, c: voted a", "2 ms  c: x"]);
    }
}
