//! Every deliberate mistake must be found, by random schedules or by a script, and not by chance alone: the same
//! schedules find nothing without it.
//!
//! `TANIST_MISTAKE=name` looks for one alone; with the test `replay` it shows how that is found.
#![allow(clippy::unwrap_used)]

extern crate tanist_mistaken as tanist_replication;

#[path = "../../replication/tests/cluster/mod.rs"]
mod cluster;
mod scripts;

use std::{
    fmt::Debug,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use cluster::{
    chaos::Schedule,
    shrink::{kind, shrink, tell},
    store::Mistake as World,
};
use tanist_replication::mistakes::{Mistake as Core, choose};

/// Within so many schedules each is found, which takes seconds.
const SCHEDULES: u64 = 20_000;

/// A mistake of the core or of what is around it.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    Core(Core),
    World(World),
}

impl Mistake {
    fn all() -> Vec<Mistake> {
        let core = Core::ALL.into_iter().map(Mistake::Core);
        core.chain(World::ALL.into_iter().map(Mistake::World)).collect()
    }

    fn name(self) -> String {
        let name: &dyn Debug = match &self {
            Mistake::Core(core) => core,
            Mistake::World(world) => world,
        };
        format!("{name:?}")
    }

    /// The schedule of a seed in which it is made.
    fn schedule(self, seed: u64) -> Schedule {
        match self {
            Mistake::Core(core) => {
                choose(Some(core));
                Schedule::of(seed, None)
            }
            Mistake::World(world) => {
                choose(None);
                Schedule::of(seed, Some(world))
            }
        }
    }
}

/// What was found, and how.
struct Found {
    by: String,
    failure: String,
}

/// By what is wrong, and not only by what comes of it, which would be that nobody serves.
fn is_proof(failure: &str) -> bool {
    kind(failure) != "liveness"
}

fn find(mistake: Mistake) -> Option<Found> {
    let started = Instant::now();
    if let Mistake::Core(core) = mistake {
        for (script, run) in scripts::SCRIPTS {
            choose(None);
            assert_eq!(run(), None, "{script} without a mistake");
            choose(Some(core));
            if let Some(failure) = run() {
                return Some(Found { by: script.to_owned(), failure });
            }
        }
    }
    for seed in 0..SCHEDULES {
        let failure = mistake.schedule(seed).run(false).check.failure;
        if let Some(failure) = failure.filter(|failure| is_proof(failure)) {
            let by = format!("seed {seed}, {:.0?}", started.elapsed());
            return Some(Found { by, failure });
        }
    }
    None
}

#[test]
fn every_mistake_is_found() {
    let only = std::env::var("TANIST_MISTAKE").ok();
    let chosen = |mistake: &Mistake| only.as_ref().is_none_or(|name| mistake.name() == *name);
    let all: Vec<_> = Mistake::all().into_iter().filter(chosen).collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(vec![]);
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(mistake) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = mistake.name();
                    match find(*mistake) {
                        Some(found) => {
                            let failure: String = found.failure.chars().take(160).collect();
                            println!("{name:<20} {:<24} {failure}", found.by);
                        }
                        None => missed.lock().unwrap().push(name),
                    }
                }
            });
        }
    });
    assert_eq!(missed.into_inner().unwrap(), Vec::<String>::new(), "of {} mistakes", all.len());
}

/// Shows the mistake of `TANIST_MISTAKE`, or the first one, with as few faults as it needs.
#[test]
fn replay() {
    let wanted = std::env::var("TANIST_MISTAKE").ok();
    let all = Mistake::all();
    let mistake = match &wanted {
        Some(name) => *all.iter().find(|mistake| mistake.name() == *name).expect("no such mistake"),
        None => all[0],
    };
    let failing = (0..SCHEDULES).map(|seed| mistake.schedule(seed)).find_map(|schedule| {
        let failure = schedule.run(false).check.failure.filter(|failure| is_proof(failure))?;
        Some((schedule, failure))
    });
    let (schedule, failure) = failing.expect("found by no schedule; perhaps by a script");
    let short = shrink(&schedule, kind(&failure));
    assert!(short.plan.len() <= schedule.plan.len());
    let again = if wanted.is_some() { tell(&short, 120) } else { short.run(true) };
    let again = again.check.failure.expect("the shorter schedule fails too");
    assert_eq!(kind(&again), kind(&failure), "in the same way");
}
