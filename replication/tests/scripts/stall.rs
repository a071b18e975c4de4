//! Disks that don't answer: the cluster serves again within a bound, and nothing acknowledged is lost.

use std::time::Duration;

use tanist_replication::{Complaint, Event};

use super::{FIVE, LEASE, LONG, SHORT, THREE, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, MS, Setup, hang::Hang, hang::STALL};

/// From the hang until a write is acknowledged again: until it is noticed, or the lease has ended, and an election.
const BOUND: Duration = Duration::from_millis(STALL / MS + 1000 + 500);

/// Clients write all the time; how long until one is acknowledged by another machine than `old`.
fn served_again(c: &mut Cluster, old: usize) -> Duration {
    let (begun, step) = (c.now, Duration::from_millis(5));
    let acknowledged = c.check.acknowledged.len();
    loop {
        c.write();
        c.run(step);
        c.verify();
        let now = Duration::from_nanos(c.now - begun);
        if c.check.acknowledged.len() > acknowledged && c.serving().is_some_and(|node| node != old) {
            return now;
        }
        if now > LONG {
            return c.fail("no write is acknowledged again");
        }
    }
}

#[test]
fn master_whose_disk_hangs_for_ever_is_relieved_whatever_hangs() {
    for members in [THREE, WITNESS, FIVE] {
        for what in [Hang::Store, Hang::Sync, Hang::All] {
            let mut c = founded(Setup::new(members));
            c.hang(0, what);
            let took = served_again(&mut c, 0);
            assert!(took < BOUND, "{what:?}: {took:?}");
            c.run(LEASE * 5);
            write(&mut c);
            assert_ne!(c.serving(), Some(0), "{what:?}: it doesn't stand");
            c.release(0);
            settle(c);
        }
    }
}

#[test]
fn master_whose_votes_cannot_be_stored_loses_its_lease_by_itself() {
    let mut c = founded(Setup::new(THREE));
    c.hang(0, Hang::Votes);
    // A new record is to be stored: its backup is lost.
    c.crash(1, true);
    c.run_until(LONG, |c| c.machines[0].waits.is_blocked()).unwrap();
    let gate_shut = c.run_until(LONG, |c| !c.serves(0)).unwrap();
    assert!(gate_shut <= LEASE, "{gate_shut:?}");
    c.start(1);
    let took = served_again(&mut c, 0);
    assert!(took < BOUND * 2, "{took:?}");
    c.release(0);
    settle(c);
}

#[test]
fn backup_whose_disk_hangs_is_left_out_and_is_nobodys_heir() {
    for what in Hang::ALL {
        let mut c = founded(Setup::new(FIVE));
        c.hang(1, what);
        let begun = c.now;
        write(&mut c);
        assert!(Duration::from_nanos(c.now - begun) < LEASE * 2, "{what:?}");
        if matches!(what, Hang::Store | Hang::All) {
            assert!(!c.sync_set(0).contains("b"), "{what:?}");
            c.crash(0, true);
            c.run_until(LONG, |c| c.serving().is_some_and(|node| node > 1)).unwrap();
            c.release(1);
            c.start(0);
        } else {
            c.release(1);
        }
        settle(c);
    }
}

#[test]
fn master_with_nobody_to_leave_to_stays_and_leaves_when_somebody_comes() {
    let mut c = founded(Setup::new(WITNESS));
    c.crash(1, true);
    c.run(LEASE * 2);
    write(&mut c);
    c.hang(0, Hang::Sync);
    c.write();
    c.run(LEASE * 3);
    assert_eq!(c.serving(), Some(0), "nobody else has what was acknowledged");
    c.release(0);
    c.start(1);
    settle(c);
}

#[test]
fn new_master_whose_disk_hangs_before_it_serves_leaves_to_the_next() {
    let mut c = founded(Setup { sync_backups: 2, ..Setup::new(THREE) });
    c.machines[1].disk_ns = (MS, MS);
    c.hang(1, Hang::Store);
    c.crash(0, true);
    c.run_until(LONG, |c| c.serving() == Some(2)).unwrap();
    write(&mut c);
    c.release(1);
    c.start(0);
    settle(c);
}

#[test]
fn promotion_does_not_wait_for_a_store_that_hangs() {
    let mut c = founded(Setup::new(THREE));
    c.hang(0, Hang::Store);
    assert!(c.write() || c.serving() == Some(0));
    c.deliver(0, Event::HandOver { to: Some("b".parse().unwrap()), why: "asked to".to_owned() });
    c.deliver(0, Event::Stalled(Some(Complaint::new("its disk doesn't answer"))));
    assert_eq!(c.machines[0].handover, Some(Ok(c.machines[1].id.clone())));
    c.run_until(SHORT, |c| c.serving() == Some(1)).unwrap();
    write(&mut c);
    c.release(0);
    settle(c);
}

/// Each sync of its own takes longer than a handover may, but not so long that it counts as stalled.
#[test]
fn handover_does_not_wait_for_the_masters_own_slow_syncs() {
    let mut c = founded(Setup::new(THREE));
    c.machines[0].waits.unseen = true;
    c.hang(0, Hang::Sync);
    assert!(c.write());
    c.deliver(0, Event::HandOver { to: None, why: "its disk is slow".to_owned() });
    let took = c.run_until(LONG, |c| c.serving() == Some(1)).unwrap();
    assert!(took < LEASE + SHORT, "{took:?}");
    assert_eq!(c.machines[0].handover, Some(Ok(c.machines[1].id.clone())));
    write(&mut c);
    c.release(0);
    settle(c);
}
