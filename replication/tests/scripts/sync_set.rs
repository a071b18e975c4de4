//! Who holds a write before it is acknowledged: R7 to R10.

use std::time::Duration;

use tanist_replication::{Effect, Event, Term};

use super::{FIVE, LEASE, LONG, SHORT, THREE, TWO, WITNESS, founded, settle, write};
use crate::cluster::{MS, SECOND, Setup, set};

#[test]
fn write_is_acknowledged_only_when_the_backup_has_stored_it() {
    let mut c = founded(Setup::new(THREE));
    c.machines[1].disk_ns = (400 * MS, 400 * MS);
    let before = c.check.acknowledged.len();
    c.write();
    c.run(Duration::from_millis(300));
    assert_eq!(c.check.acknowledged.len(), before, "the master's own disk isn't enough");
    c.run(Duration::from_millis(200));
    assert_eq!(c.check.acknowledged.len(), before + 1);
    let stamp = c.check.acknowledged.last().unwrap().stamp;
    assert!(c.machines[1].store.holds(stamp));
}

#[test]
fn write_waits_for_committed_and_proposed_sync_set() {
    let mut c = founded(Setup::new(THREE));
    // b falls silent; the record that takes c in its place can't be committed, for nobody hears of it.
    c.cut_way(1, 0);
    c.run(Duration::from_millis(1050));
    let record = c.machines[0].hard.as_ref().unwrap().record.clone();
    assert_eq!(c.sync_set(0), set(&["a", "c"]), "proposed {record:?}");
    c.run(Duration::from_millis(20));
    assert!(c.serves(0));
    write(&mut c);
    let stamp = c.check.acknowledged.last().unwrap().stamp;
    assert!(c.machines[2].store.holds(stamp));
    c.heal();
    settle(c);
}

#[test]
fn proposed_record_without_majority_changes_nothing_about_acknowledgements() {
    let mut c = founded(Setup::new(THREE));
    let before = c.check.acknowledged.len();
    c.cut(0, 1);
    c.cut_way(2, 0); // c hears, but isn't heard
    c.write_at(0);
    c.run(LONG);
    assert_eq!(c.check.acknowledged.len(), before);
    c.heal();
    settle(c);
}

#[test]
fn dead_backup_is_swapped_for_the_other_in_one_record() {
    let mut c = founded(Setup::new(THREE));
    let before = c.machines[0].hard.as_ref().unwrap().record.key.version;
    c.crash(1, false);
    c.run(SHORT);
    let key = c.machines[0].hard.as_ref().unwrap().record.key;
    assert_eq!(c.sync_set(0), set(&["a", "c"]));
    assert_eq!(key.version, before + 1, "no record in between in which a is alone");
    write(&mut c);
}

#[test]
fn min_sync_backups_refuses_writes_alone_and_takes_them_again() {
    let mut setup = Setup::new(WITNESS);
    setup.min_sync_backups = 1;
    let mut c = founded(setup);
    c.crash(1, false);
    c.run(LEASE * 3);
    assert_eq!(c.serving(), Some(0), "it still serves reads");
    assert!(!c.machines[0].writes_allowed && !c.write_at(0));
    c.start(1);
    c.run(LEASE * 2);
    write(&mut c);
    settle(c);
}

#[test]
fn refusal_of_writes_ends_with_the_reign_that_refused() {
    let mut setup = Setup::new(WITNESS);
    setup.min_sync_backups = 1;
    let mut c = founded(setup);
    c.crash(1, false);
    c.run(LEASE * 3);
    assert!(!c.machines[0].writes_allowed);
    c.start(1);
    c.run_until(LONG, |c| c.sync_set(0) == set(&["a", "b"])).unwrap(); // proposed, and known to nobody else
    c.isolate(0);
    c.run(LEASE * 2);
    c.heal();
    c.isolate(1); // else it would be b's turn
    c.run_until(LONG, |c| c.machines[0].hard.as_ref().is_some_and(|h| h.record.key.term > Term(1))).unwrap();
    c.heal();
    let (master, _) = c.await_master(LONG);
    assert_eq!((c.name(master), c.check.opened.len()), ("a", 2));
    write(&mut c);
    settle(c);
}

#[test]
fn alone_the_master_goes_on_after_the_sync_timeout() {
    let mut c = founded(Setup::new(WITNESS));
    c.crash(1, true);
    let before = c.check.acknowledged.len();
    c.write();
    c.run(Duration::from_millis(800));
    assert_eq!(c.check.acknowledged.len(), before);
    c.run(Duration::from_millis(600));
    assert_eq!(c.check.acknowledged.len(), before + 1);
    assert_eq!(c.sync_set(0), set(&["a"]));
    c.start(1);
    c.run(LEASE * 2);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    settle(c);
}

#[test]
fn full_disk_on_the_only_backup_does_not_stop_writes_for_good() {
    let mut c = founded(Setup::new(WITNESS));
    c.disk_full(1, true);
    write(&mut c);
    let version = c.machines[0].hard.as_ref().unwrap().record.key.version;
    for _ in 0..20 {
        write(&mut c);
        c.run(Duration::from_millis(500));
    }
    assert_eq!(c.sync_set(0), set(&["a"]));
    let after = c.machines[0].hard.as_ref().unwrap().record.key.version;
    assert!(after <= version + 1, "the record isn't changed again and again: {version} to {after}");
    c.disk_full(1, false);
    c.run(LEASE * 3);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    settle(c);
}

#[test]
fn better_ranked_backup_with_full_disk_does_not_push_the_other_out_again_and_again() {
    let mut c = founded(Setup::new(THREE));
    c.disk_full(1, true);
    write(&mut c);
    let version = c.machines[0].hard.as_ref().unwrap().record.key.version;
    for _ in 0..20 {
        write(&mut c);
        c.run(Duration::from_millis(500));
    }
    assert_eq!(c.sync_set(0), set(&["a", "c"]));
    let after = c.machines[0].hard.as_ref().unwrap().record.key.version;
    assert!(after <= version + 1, "{version} to {after}");
    c.disk_full(1, false);
    settle(c);
}

#[test]
fn sync_set_is_trimmed_to_sync_backups_after_founding() {
    let c = founded(Setup::new(FIVE));
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    let mut setup = Setup::new(FIVE);
    setup.sync_backups = 2;
    assert_eq!(founded(setup).sync_set(0), set(&["a", "b", "c"]));
    settle(c);
}

#[test]
fn better_ranked_member_takes_its_place_back_when_it_has_been_steady() {
    let mut c = founded(Setup::new(THREE));
    c.crash(1, false);
    c.run(LEASE * 2);
    assert_eq!(c.sync_set(0), set(&["a", "c"]));
    c.start(1);
    c.run(LEASE);
    assert_eq!(c.sync_set(0), set(&["a", "c"]), "not at once");
    c.run(LEASE * 2);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    settle(c);
}

#[test]
fn backup_outside_the_sync_set_is_never_ahead_of_what_is_acknowledged() {
    let mut c = founded(Setup::new(THREE));
    c.machines[1].disk_ns = (400 * MS, 400 * MS);
    c.write();
    c.run(Duration::from_millis(200));
    assert!(c.stamp(0) != c.stamp(2) && c.stamp(2) == c.machines[1].store.stamp());
    settle(c);
}

#[test]
fn backup_that_lost_its_replica_leaves_the_sync_set_at_once() {
    let mut c = founded(Setup::new(WITNESS));
    c.crash(1, true);
    c.lose_replica(1);
    c.start(1); // before anybody missed it
    c.machines[1].disk_ns = (300 * MS, 300 * MS);
    c.run(Duration::from_millis(250));
    assert_eq!(c.sync_set(0), set(&["a"]), "it stands before what is acknowledged");
    c.machines[1].disk_ns = (MS, MS);
    c.run(LEASE * 2);
    assert_eq!(c.sync_set(0), set(&["a", "b"]), "taken in again when it has everything (R8)");
    settle(c);
}

#[test]
fn master_is_not_woken_again_and_again_while_a_backup_catches_up_slowly() {
    let mut c = founded(Setup::new(THREE));
    c.machines[1].disk_ns = (3 * SECOND, 3 * SECOND);
    c.machines[2].disk_ns = (3 * SECOND, 3 * SECOND);
    c.write();
    let before = c.events;
    c.run(LONG); // every deadline is checked to lie ahead
    assert!(c.events - before < 2000, "{} events", c.events - before);
    c.verify();
}

#[test]
fn own_disk_failing_ends_the_reign() {
    let mut c = founded(Setup::new(TWO));
    let effects = c.effects_of(0, Event::StorageFailed("no space".to_owned()));
    let close = effects.iter().position(|e| matches!(e, Effect::CloseGate { .. }));
    let end = effects.iter().position(|e| matches!(e, Effect::EndReign));
    assert!(close.is_some() && close < end, "clients first: {effects:?}");
}
