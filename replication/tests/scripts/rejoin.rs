//! Replicas off the branch, or too far back: R12.

use std::time::Duration;

use tanist_replication::{
    Effect, Event, Message, Position, Stamp, SuccessionRecord, Term, message::Heartbeat,
};

use super::{LEASE, LONG, SHORT, THREE, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, SECOND, Setup, set};

#[test]
fn old_master_returning_with_an_unacknowledged_tail_copies() {
    let mut c = founded(Setup::new(THREE));
    c.isolate(0);
    c.write_at(0);
    c.write_at(0);
    c.run(Duration::from_millis(50));
    let tail = c.stamp(0);
    c.await_master(LONG);
    c.run(LEASE * 2);
    write(&mut c);
    c.heal();
    c.run(LEASE * 2);
    assert!(!c.machines[0].store.holds(tail), "nobody acknowledged it");
    settle(c);
}

#[test]
fn backup_off_the_branch_copies_and_never_counts_before() {
    let mut c = founded(Setup::new(WITNESS));
    c.crash(1, false);
    c.run(Duration::from_millis(500));
    c.machines[1].store.content.pop();
    c.machines[1].reported = Default::default();
    c.check.disks_lost = true;
    let odd = c.machines[1].store.forge(Term(1), 999_999); // same place, other content
    c.start(1);
    c.machines[1].disk_ns = (SECOND, SECOND); // the copy takes its time
    c.run(Duration::from_millis(600));
    assert_eq!(c.sync_set(0), set(&["a"]), "not while it holds {odd:?}");
    c.machines[1].disk_ns = (1_000_000, 1_000_000);
    c.run(LEASE * 3);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    assert!(!c.machines[1].store.holds(odd));
    settle(c);
}

#[test]
fn backup_before_the_buffer_copies() {
    let mut setup = Setup::new(THREE);
    setup.buffer_bytes = 640; // ten transactions
    let mut c = founded(setup);
    c.crash(2, false);
    for _ in 0..30 {
        write(&mut c);
    }
    c.start(2);
    settle(c);
}

#[test]
fn broken_capture_makes_everybody_copy() {
    let mut c = founded(Setup::new(THREE));
    c.break_capture(0);
    let broken = c.stamp(0);
    c.run(LEASE * 4);
    for node in 0..3 {
        assert!(c.machines[node].store.holds(broken), "{} has it", c.name(node));
    }
    write(&mut c);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    settle(c);
}

#[test]
fn second_call_to_copy_that_comes_late_loses_nothing_that_is_streamed_meanwhile() {
    let mut c = founded(Setup::new(WITNESS));
    let master = c.machines[0].id.clone();
    let message = tanist_replication::Message::Resync { term: Term(1) };
    c.deliver(1, Event::Message { from: master, message });
    c.write();
    c.write(); // sent while b copies, and dropped there
    let before = c.check.acknowledged.len();
    let answered = c.run_until(Duration::from_millis(900), |c| c.check.acknowledged.len() >= before + 2);
    c.verify();
    assert!(answered.is_some(), "it says where to go on from when the copy has ended");
    settle(c);
}

#[test]
fn backup_with_applies_under_way_reports_nothing_to_a_new_master_before_they_end() {
    let mut setup = Setup::new(THREE);
    setup.sync_backups = 2;
    let mut c = founded(setup);
    c.machines[2].disk_ns = (700_000_000, 700_000_000);
    c.write();
    c.run(Duration::from_millis(20)); // b has it, c is writing it
    c.crash(0, false);
    c.await_master(LONG);
    c.machines[2].disk_ns = (1_000_000, 1_000_000);
    write(&mut c);
    c.start(0);
    settle(c);
}

#[test]
fn promoted_backup_streams_to_the_others_what_they_lack() {
    let mut setup = Setup::new(THREE);
    setup.sync_backups = 1;
    let mut c = founded(setup);
    c.cut(0, 2);
    for _ in 0..5 {
        write(&mut c);
    }
    c.crash(0, false);
    c.heal();
    c.await_master(LONG);
    c.run(Duration::from_secs(3));
    assert_eq!(c.sync_set(1), set(&["b", "c"]));
    settle(c);
}

#[test]
fn backup_whose_machine_starts_anew_is_not_called_fresh_by_an_answer_from_before() {
    let mut c = founded(Setup::new(THREE));
    for shows in [1 << 40, 0] {
        c.crash(1, true);
        let now = c.now;
        c.machines[1].clock.restart(now, shows); // a clock that counts from the start of the machine
        c.start(1);
        c.run(SHORT * 2);
        let (machine, now) = (&c.machines[1], c.now);
        let fresh = machine.node.as_ref().unwrap().status().fresh_as_of;
        let (fresh, now) = (fresh.expect("it follows"), machine.clock.read(now));
        assert!(fresh <= now && now.since(fresh) < SHORT, "I5: {fresh:?}, now {now:?}");
    }
    settle(c);
}

#[test]
fn copy_of_a_master_that_reigns_no_longer_is_given_up() {
    let mut c = founded(Setup::new(THREE));
    let (a, b) = (c.machines[0].id.clone(), c.machines[1].id.clone());
    let resync = Event::Message { from: a, message: Message::Resync { term: Term(1) } };
    assert!(c.effects_of(2, resync).iter().any(|effect| matches!(effect, Effect::StartCopy { .. })));
    let record: SuccessionRecord = c.record().first_of_reign(Term(2), &b);
    let heartbeat = Heartbeat {
        term: Term(2),
        sent: Default::default(),
        committed: record.key,
        record,
        acknowledged: Position::ZERO,
        tip: Position::ZERO,
        echo: None,
        serving: false,
        unhealthy: Default::default(),
        times: None,
        level: None,
    };
    let event = Event::Message { from: b, message: Message::Heartbeat(heartbeat) };
    assert!(c.effects_of(2, event).contains(&Effect::StopCopy));
}

#[test]
fn replica_that_differs_leaves_the_sync_set_at_once_and_is_copied_over() {
    let mut c = founded(Setup::new(THREE));
    write(&mut c);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    let (b, at) = (c.machines[1].id.clone(), c.stamp(1).position);
    c.deliver(0, Event::Differs { peer: b, at });
    let took = c.run_until(LONG, |c| c.sync_set(0) == set(&["a", "c"]));
    assert!(took.is_some_and(|took| took < SHORT), "{took:?}");
    write(&mut c);
    // It has taken notice, and copied everything: from then on it is like any other.
    let streams = |c: &Cluster| {
        let status = c.machines[0].node.as_ref().unwrap().status();
        status.peers.iter().any(|peer| peer.id == c.machines[1].id && peer.progress == Some("stream"))
    };
    assert!(c.run_until(LONG, streams).is_some());
    settle(c);
}

#[test]
fn replica_that_takes_no_notice_that_it_differs_counts_for_nothing() {
    let mut c = founded(Setup::new(THREE));
    write(&mut c);
    let (a, b, at) = (c.machines[0].id.clone(), c.machines[1].id.clone(), c.stamp(1).position);
    let stamp = c.stamp(1);
    c.cut(0, 1);
    let effects = c.effects_of(0, Event::Differs { peer: b.clone(), at });
    let told = |effects: &[Effect]| {
        effects.iter().any(|e| matches!(e, Effect::Send { message: Message::Distrust(_), to } if *to == b))
    };
    assert!(told(&effects), "{effects:?}");
    // Whatever it says of itself, it is told again.
    let report = tanist_replication::message::Report { term: Term(1), stamp };
    let effects = c.effects_of(0, Event::Message { from: b.clone(), message: Message::Stored(report) });
    assert!(told(&effects), "{effects:?}");
    let off = tanist_replication::message::Report { term: Term(1), stamp: Stamp::off_branch(at) };
    let effects = c.effects_of(0, Event::Message { from: b.clone(), message: Message::Refused(off) });
    assert!(!told(&effects), "it has: {effects:?}");
    // A replica that isn't as far, or knows already, does nothing.
    let further =
        tanist_replication::message::Report { term: Term(1), stamp: Stamp::off_branch(Position::new(9, 9)) };
    let message = Message::Distrust(further);
    let effects = c.effects_of(2, Event::Message { from: a, message });
    assert!(!effects.iter().any(|e| matches!(e, Effect::Distrust { .. })), "{effects:?}");
}
