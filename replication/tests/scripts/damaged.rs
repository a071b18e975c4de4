//! Disks that forget what they said was stored: whoever stands without it doesn't win where anybody knows better (R4).

use std::time::Duration;

use tanist_replication::Event;

use super::{FIVE, LEASE, LONG, SHORT, THREE, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, MS, Rng, Setup, set};

/// Power fails at the whole site, and the disk of the heir forgets; the old master stays away. The third machine was never in
/// the sync set and holds everything acknowledged.
fn heir_forgets(mut c: Cluster, count: usize) -> Cluster {
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    c.run(LEASE * 3);
    for _ in 0..5 {
        write(&mut c);
    }
    c.run(SHORT);
    for node in 0..c.machines.len() {
        c.crash(node, true);
    }
    assert_eq!(c.stamp(1), c.stamp(2));
    c.forget_newest(1, count);
    for node in 1..c.machines.len() {
        c.start(node);
    }
    c
}

fn notice(c: &Cluster, node: usize) -> String {
    c.machines[node].node.as_ref().unwrap().status().notice.unwrap_or_default()
}

fn force(c: &mut Cluster, node: usize) -> Option<Result<String, String>> {
    c.machines[node].handover = None;
    c.deliver(node, Event::Force { why: "asked to".to_owned() });
    c.run(LEASE * 6);
    c.machines[node].handover.clone().map(|ended| ended.map(|id| id.to_string()))
}

#[test]
fn heir_whose_disk_forgot_does_not_win_with_the_vote_of_one_that_holds_more() {
    let mut c = heir_forgets(founded(Setup::new(THREE)), 3);
    c.run(LONG * 2);
    assert_eq!(c.serving(), None, "b lacks acknowledged writes");
    let told = notice(&c, 1);
    assert!(told.contains("c knows that") && told.contains("start a, "), "{told}");
    assert_eq!(notice(&c, 2), told, "wherever an operator asks");
    for node in [1, 2] {
        let status = c.machines[node].node.as_ref().unwrap().status();
        let holds: Vec<_> = status.holds_all.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(holds, ["a"]);
    }
    // The old master is whole: it reigns as soon as it is back.
    c.start(0);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "a");
    write(&mut c);
    settle(c);
}

#[test]
fn operator_may_force_the_machine_that_holds_more_and_not_the_damaged_one() {
    let mut c = heir_forgets(founded(Setup::new(THREE)), 3);
    c.run(LONG);
    let refused = force(&mut c, 1).unwrap().unwrap_err();
    assert!(refused.contains("c holds more"), "{refused}");
    assert_eq!(force(&mut c, 2), Some(Ok("c".to_owned())));
    write(&mut c);
    c.start(0);
    settle(c);
}

#[test]
fn another_of_the_sync_set_that_is_whole_wins_instead() {
    let mut c = founded(Setup { sync_backups: 2, ..Setup::new(FIVE) });
    assert_eq!(c.sync_set(0), set(&["a", "b", "c"]));
    c.run(LEASE * 3);
    for _ in 0..5 {
        write(&mut c);
    }
    c.run(SHORT);
    for node in 0..5 {
        c.crash(node, true);
    }
    c.forget_newest(1, 3);
    c.machines[1].clean = true; // and it doesn't know
    for node in 1..5 {
        c.start(node);
    }
    let (master, took) = c.await_master(LONG);
    assert_eq!(c.name(master), "c");
    assert!(took < LEASE * 4, "{took:?}");
    c.start(0);
    settle(c);
}

#[test]
fn witness_that_lived_on_knows_what_was_acknowledged() {
    let mut c = founded(Setup::new(WITNESS));
    c.run(SHORT);
    for node in [0, 1] {
        c.crash(node, true);
    }
    c.forget_newest(1, 2);
    c.start(1);
    c.run(LONG * 2);
    assert_eq!(c.serving(), None, "b lacks acknowledged writes");
    assert!(notice(&c, 1).contains("w knows that"), "{}", notice(&c, 1));
    // Nobody who answers holds more: the operator may accept the loss.
    assert_eq!(force(&mut c, 1), Some(Ok("b".to_owned())));
    let lost = c.check.failure.take().unwrap();
    assert!(lost.contains("I2"), "{lost}");
}

/// What isn't acknowledged is no evidence, on whichever disk it is.
#[test]
fn tail_of_the_old_master_keeps_nobody_from_the_throne() {
    let mut c = founded(Setup::new(THREE));
    c.run(LEASE * 3);
    c.isolate(0);
    assert!(c.write_at(0) && c.write_at(0), "it still believes in its lease");
    let (master, _) = {
        c.run(LEASE * 2);
        c.await_master(LONG)
    };
    assert_eq!(c.name(master), "b");
    // Before b's reign is anywhere else it ends, and the old master, whose end is higher, is all that votes for it.
    c.crash(2, true);
    c.crash(1, true);
    c.heal();
    c.start(1);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "b");
    c.start(2);
    settle(c);
}

/// A machine that was sent everything because it was about to be counted on, and one that was counted on and isn't any more,
/// hold more than was acknowledged, too.
#[test]
fn tail_of_a_backup_that_was_counted_on_is_no_evidence() {
    let mut c = founded(Setup { sync_backups: 2, ..Setup::new(THREE) });
    assert_eq!(c.sync_set(0), set(&["a", "b", "c"]));
    c.machines[1].disk_ns = (700 * MS, 700 * MS); // b, the next master, lags behind
    assert!(c.write_at(0));
    c.run(Duration::from_millis(20));
    assert!(c.stamp(2) != c.stamp(1));
    c.cut(2, 0); // c is left out
    c.run(LEASE * 2 + SHORT);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    settle({
        c.crash(0, true);
        c.heal();
        let (master, _) = c.await_master(LONG);
        assert_eq!(c.name(master), "b");
        c.start(0);
        c
    });
}

#[test]
fn forgetful_disks_never_cost_what_another_machine_that_votes_knows() {
    let mut kept = 0;
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut c = founded(Setup { seed, disk_ns: (MS / 5, 3 * MS), ..Setup::new(THREE) });
        c.run(LEASE * 2);
        for _ in 0..rng.between(1, 12) {
            c.write();
            c.run(Duration::from_millis(rng.between(0, 400)));
        }
        for node in 0..3 {
            c.crash(node, true);
        }
        c.forget_newest(1, rng.between(0, 4) as usize);
        let more = c.stamp(2).position > c.stamp(1).position;
        c.machines[1].clean = rng.chance(500);
        let order = if rng.chance(500) { [1, 2] } else { [2, 1] };
        for node in order {
            c.start(node);
            c.run(Duration::from_millis(rng.between(0, 1500)));
        }
        c.run(LONG);
        // The checker has looked whether whoever opened its gate holds what was acknowledged.
        if c.check.failure.is_some() && !more {
            continue; // nobody could know
        }
        c.verify();
        assert_eq!(c.serving().is_none(), more, "seed {seed}");
        kept += usize::from(more);
        c.start(0);
        settle(c);
    }
    assert!(kept > 20, "only {kept} times it mattered");
}
