//! Named scripts, one edge case each, on a quiet network: the names alone tell what the protocol promises.
#![allow(clippy::unwrap_used)]

mod damaged;
mod election;
mod force;
mod handover;
mod health;
mod limp;
mod members;
mod messages;
mod rejoin;
mod slow;
mod stall;
mod sync_set;

use std::time::Duration;

use crate::cluster::{Cluster, Setup};

const SHORT: Duration = Duration::from_millis(300);
const LEASE: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(10);

const THREE: &[(&str, u32)] = &[("a", 1), ("b", 2), ("c", 3)];
const WITNESS: &[(&str, u32)] = &[("a", 1), ("b", 2), ("w", 0)];
const TWO: &[(&str, u32)] = &[("a", 1), ("b", 2)];
const FIVE: &[(&str, u32)] = &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)];

/// A cluster whose master `a` serves with the wanted sync set, and some writes in it.
fn founded(setup: Setup) -> Cluster {
    let mut c = Cluster::new(setup);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "a", "the first in rank founds the cluster");
    c.run(Duration::from_millis(200));
    for _ in 0..5 {
        write(&mut c);
    }
    c.run(Duration::from_millis(200));
    c
}

fn write(c: &mut Cluster) {
    if !c.write_acknowledged(Duration::from_secs(3)) {
        c.verify();
        c.fail::<()>("a write was not acknowledged");
    }
}

/// Ends the script well: no invariant broken, all alike in the end.
fn settle(mut c: Cluster) {
    let alike = c.run_until(LONG, |c| c.serving().is_some() && c.converged());
    c.verify();
    if alike.is_none() {
        c.fail::<()>("the replicas don't become alike");
    }
}
