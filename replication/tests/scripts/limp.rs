//! A master that hears the others while what it sends them doesn't arrive: it never becomes the whole sync set, which would keep
//! everybody else from the throne.

use std::time::Duration;

use super::{FIVE, LEASE, LONG, THREE, TWO, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, SECOND, Setup, set};

/// For so long a write may wait, and then another machine reigns: a second for each that is tried, and two more.
const BOUND: Duration = Duration::from_secs(6);

/// Looks that `node` is never the whole sync set, until another machine acknowledges.
fn another_takes_over(c: &mut Cluster, node: usize) -> usize {
    let start = c.now;
    while c.serving().is_none_or(|serving| serving == node) {
        c.run(Duration::from_millis(10));
        let alone = c.sync_set(node).len() == 1 && c.serving() == Some(node);
        assert!(!alone, "{} acknowledges alone", c.name(node));
        assert!(c.now - start < BOUND.as_nanos() as u64, "{} keeps the throne", c.name(node));
        c.verify();
    }
    c.serving().unwrap()
}

#[test]
fn master_whose_bulk_reaches_nobody_leaves_its_throne_with_the_sync_set_as_it_is() {
    for setup in [THREE, FIVE] {
        let mut c = founded(Setup::new(setup));
        c.limp(0, true, 0);
        let before = c.check.acknowledged.len();
        assert!(c.write_at(0));
        let next = another_takes_over(&mut c, 0);
        assert_eq!(c.check.acknowledged.len(), before, "what only a has was answered by nobody");
        write(&mut c);
        c.run(LONG);
        assert_eq!(c.serving(), Some(next), "and it stays so");
        write(&mut c);
        c.limp(0, false, 0);
        settle(c);
    }
}

#[test]
fn two_data_members_and_a_witness_the_link_at_fault_is_told_by_the_witness() {
    // The witness answers as ever: it is the backup's link.
    let mut c = founded(Setup::new(WITNESS));
    c.limp_link(0, 1, true, 0);
    write(&mut c);
    assert_eq!((c.serving(), c.sync_set(0)), (Some(0), set(&["a"])));
    c.limp_link(0, 1, false, 0);
    c.run_until(LONG, |c| c.sync_set(0) == set(&["a", "b"])).unwrap();
    // The witness answers late, too: it is the master's own.
    c.run(LEASE * 6);
    c.limp(0, true, 150);
    let mut next = 0;
    for _ in 0..3 {
        c.write();
        c.run(LEASE);
        next = c.serving().unwrap_or(next);
    }
    c.run_until(LONG, |c| c.serving() == Some(1)).unwrap_or_else(|| c.fail("a keeps the throne"));
    c.limp(0, false, 0);
    settle(c);
}

#[test]
fn backups_that_cannot_store_are_left_out_as_ever() {
    let mut c = founded(Setup::new(THREE));
    for node in [1, 2] {
        c.disk_full(node, true);
    }
    write(&mut c);
    assert_eq!((c.serving(), c.sync_set(0)), (Some(0), set(&["a"])), "they say so");
    for node in [1, 2] {
        c.disk_full(node, false);
    }
    c.run_until(LONG, |c| c.sync_set(0).len() == 2).unwrap();
    for node in [1, 2] {
        c.machines[node].disk_ns = (30 * SECOND, 30 * SECOND); // it has come, and hangs there
    }
    write(&mut c);
    assert_eq!((c.serving(), c.sync_set(0)), (Some(0), set(&["a"])));
}

#[test]
fn two_machines_alone_go_on_as_ever() {
    let mut c = founded(Setup::new(TWO));
    c.limp(0, true, 0);
    write(&mut c);
    assert_eq!((c.serving(), c.sync_set(0)), (Some(0), set(&["a"])), "whose link it is can't be known");
    c.limp(0, false, 0);
    settle(c);
}

#[test]
fn when_all_links_are_bad_the_throne_goes_round_once_and_somebody_serves() {
    for setup in [THREE, FIVE] {
        let mut c = founded(Setup::new(setup));
        for node in 0..c.machines.len() {
            c.limp(node, true, 0);
        }
        assert!(c.write_at(0));
        c.run(LEASE * 8);
        let reigns = c.check.opened.len();
        assert!(reigns <= 3, "{reigns} reigns");
        for _ in 0..20 {
            write(&mut c);
            c.run(LEASE);
        }
        assert_eq!(c.check.opened.len(), reigns, "nobody leaves again for a while");
        for node in 0..c.machines.len() {
            c.limp(node, false, 0);
        }
        settle(c);
    }
}

/// Packets are lost on the master's links, both ways: all that it sends arrives late, and so do the answers.
#[test]
fn master_with_a_lossy_link_hands_over_or_leaves() {
    for (seed, late) in [(1, 100), (2, 200), (3, 300)] {
        let mut c = founded(Setup { seed, ..Setup::new(THREE) });
        c.run(LEASE * 5);
        c.limp(0, false, late);
        let mut left = None;
        for n in 0..2000 {
            c.write();
            c.run(Duration::from_millis(10));
            let alone = c.sync_set(0).len() == 1 && c.serving() == Some(0);
            assert!(!alone, "a acknowledges alone");
            if c.serving().is_some_and(|serving| serving != 0) {
                left = Some(n);
                break;
            }
        }
        c.verify();
        assert!(left.is_some(), "{late} of 1000 late: a keeps the throne");
        c.run(LEASE);
        let before = c.check.acknowledged.len();
        for _ in 0..500 {
            c.write();
            c.run(Duration::from_millis(10));
        }
        assert!(c.check.acknowledged.len() - before > 200, "and the next one is fast");
        c.limp(0, false, 0);
        settle(c);
    }
}
