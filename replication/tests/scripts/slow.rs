//! Disks that are slow beside the others': the sync set is chosen by what the machines do.

use std::time::Duration;

use super::{LEASE, LONG, THREE, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, MS, Setup, set};

/// A busy client for so long; how many of its writes were acknowledged.
fn busy(c: &mut Cluster, time: Duration) -> usize {
    let before = c.check.acknowledged.len();
    let until = c.now + time.as_nanos() as u64;
    while c.now < until {
        c.write();
        c.run(Duration::from_millis(10));
    }
    c.verify();
    c.check.acknowledged.len() - before
}

fn set_disk(c: &mut Cluster, node: usize, ms: u64) {
    c.machines[node].disk_ns = (ms * MS, ms * MS);
}

fn version(c: &Cluster) -> u64 {
    c.record().key.version
}

#[test]
fn slow_backup_is_replaced_in_a_few_seconds_and_does_not_come_back_at_once() {
    let mut c = founded(Setup::new(THREE));
    busy(&mut c, LEASE * 5);
    let before = version(&c);
    set_disk(&mut c, 1, 400);
    busy(&mut c, LEASE * 8);
    assert_eq!(c.sync_set(0), set(&["a", "c"]), "eight seconds later");
    assert!(busy(&mut c, LEASE * 5) > 300, "nobody waits for it");
    let status = c.machines[0].node.as_ref().unwrap().status();
    let b = status.peers.iter().find(|peer| peer.id.as_str() == "b").unwrap();
    assert!(b.slow.as_ref().is_some_and(|slow| slow.contains("ms")), "{b:?}");
    set_disk(&mut c, 1, 1);
    busy(&mut c, LEASE * 10);
    assert_eq!(c.sync_set(0), set(&["a", "c"]), "not at once");
    busy(&mut c, LEASE * 35);
    assert_eq!(c.sync_set(0), set(&["a", "b"]), "by rank again");
    assert!(version(&c) <= before + 6, "{before} to {}", version(&c));
    settle(c);
}

#[test]
fn disk_that_is_slow_now_and_then_does_not_make_the_sync_set_go_back_and_forth() {
    let mut c = founded(Setup::new(THREE));
    busy(&mut c, LEASE * 5);
    let before = version(&c);
    for _ in 0..12 {
        set_disk(&mut c, 1, 400);
        busy(&mut c, LEASE * 7);
        set_disk(&mut c, 1, 1);
        busy(&mut c, LEASE * 8);
    }
    assert!(version(&c) <= before + 14, "{before} to {} in three minutes", version(&c));
    settle(c);
}

#[test]
fn among_equally_slow_ones_rank_decides_as_ever() {
    let mut c = founded(Setup::new(THREE));
    busy(&mut c, LEASE * 5);
    let before = version(&c);
    for node in 0..3 {
        set_disk(&mut c, node, 300);
    }
    busy(&mut c, LEASE * 30);
    assert_eq!((version(&c), c.serving()), (before, Some(0)));
    settle(c);
}

#[test]
fn only_backup_stays_however_slow_and_it_is_said() {
    let mut c = founded(Setup::new(WITNESS));
    busy(&mut c, LEASE * 5);
    set_disk(&mut c, 1, 400);
    busy(&mut c, LEASE * 10);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    let notice = c.machines[0].node.as_ref().unwrap().status().notice.unwrap();
    assert!(notice.contains("writes wait for b, which is slow"), "{notice}");
    settle(c);
}

#[test]
fn slow_master_hands_over_and_does_not_get_the_throne_back_by_failback() {
    let mut c = founded(Setup { failback: Some(LEASE * 2), ..Setup::new(THREE) });
    busy(&mut c, LEASE * 5);
    set_disk(&mut c, 0, 300);
    busy(&mut c, LEASE * 12);
    assert_eq!(c.serving(), Some(1), "it has handed over");
    let reigns = c.check.opened.len();
    busy(&mut c, LEASE * 20);
    assert_eq!(c.check.opened.len(), reigns + usize::from(c.serving() == Some(0)), "no back and forth");
    set_disk(&mut c, 0, 1);
    c.run_until(LONG * 10, |c| c.serving() == Some(0));
    write(&mut c);
    settle(c);
}
