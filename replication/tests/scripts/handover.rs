//! Planned handover and failback.

use std::time::Duration;

use tanist_replication::{Effect, Event, Message};

use super::{FIVE, LONG, SHORT, THREE, TWO, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, MS, SECOND, Setup, set};

/// What a handover may cost on this quiet network: a few round trips and a few disk writes.
const QUICK: Duration = Duration::from_millis(50);

fn hand_over(c: &mut Cluster, node: usize, to: Option<&str>) {
    c.machines[node].handover = None;
    let to = to.map(|name| name.parse().unwrap());
    c.deliver(node, Event::HandOver { to, why: "asked to".to_owned() });
}

fn refusal(c: &Cluster, node: usize) -> String {
    c.machines[node].handover.clone().unwrap().unwrap_err()
}

/// Runs until another than `old` serves; how long nobody did.
fn gap(c: &mut Cluster, old: usize) -> Duration {
    c.run_until(LONG, |c| c.serving() != Some(old)).unwrap();
    let (_, gap) = c.await_master(LONG);
    gap
}

#[test]
fn heir_takes_over_within_milliseconds_and_without_an_open_write() {
    let mut c = founded(Setup::new(THREE));
    assert!(c.write() && c.machines[0].waiting.len() == 1, "one is under way");
    hand_over(&mut c, 0, None);
    let gap = gap(&mut c, 0);
    assert_eq!(c.serving(), Some(1));
    assert!(gap < QUICK, "{gap:?}");
    assert!(c.machines[0].waiting.is_empty());
    assert_eq!(c.check.acknowledged.len(), 6, "the write under way was answered before the old master left");
    assert_eq!(c.machines[0].handover, Some(Ok(c.machines[1].id.clone())));
    write(&mut c);
    settle(c);
}

#[test]
fn any_data_member_can_be_promoted_and_comes_into_the_sync_set_first() {
    let mut c = founded(Setup::new(FIVE));
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    hand_over(&mut c, 0, Some("e"));
    let gap = gap(&mut c, 0);
    assert_eq!(c.name(c.serving().unwrap()), "e");
    assert!(gap < QUICK, "{gap:?}");
    write(&mut c);
    settle(c);
}

#[test]
fn two_machines_and_a_witness_hand_over_and_back() {
    let mut c = founded(Setup::new(WITNESS));
    hand_over(&mut c, 0, None);
    assert!(gap(&mut c, 0) < QUICK);
    write(&mut c);
    c.run(SHORT);
    hand_over(&mut c, 1, Some("a"));
    assert!(gap(&mut c, 1) < QUICK);
    assert_eq!(c.serving(), Some(0));
    settle(c);
}

#[test]
fn two_machines_without_witness_hand_over_too() {
    let mut c = founded(Setup::new(TWO));
    hand_over(&mut c, 0, None);
    assert!(gap(&mut c, 0) < QUICK);
    assert_eq!(c.serving(), Some(1));
    settle(c);
}

#[test]
fn handover_that_cannot_be_is_refused_with_the_reason_and_changes_nothing() {
    let mut setup = Setup::new(WITNESS);
    setup.members.push(("c", 3));
    let mut c = founded(setup);
    let cases = [(0, "a", "a is the master already"), (0, "w", "w is a witness"), (0, "z", "z is no member")];
    for (node, to, why) in cases {
        hand_over(&mut c, node, Some(to));
        let found = refusal(&c, node);
        assert!(found.starts_with(why), "{to}: {found}");
    }
    hand_over(&mut c, 1, None);
    assert_eq!(refusal(&c, 1), "this machine isn't the master");
    c.crash(3, false);
    c.run(SHORT);
    hand_over(&mut c, 0, Some("c"));
    assert!(refusal(&c, 0).starts_with("c doesn't answer"), "{}", refusal(&c, 0));
    hand_over(&mut c, 0, None);
    hand_over(&mut c, 0, None);
    assert_eq!(refusal(&c, 0), "a handover to b is under way");
    gap(&mut c, 0);
    settle(c);
}

#[test]
fn master_goes_on_when_the_heir_dies_in_the_middle() {
    let mut c = founded(Setup::new(THREE));
    c.machines[1].disk_ns = (300 * MS, 300 * MS);
    assert!(c.write());
    hand_over(&mut c, 0, Some("b"));
    c.run(Duration::from_millis(20));
    assert!(c.machines[0].held, "waits for b's disk");
    assert!(!c.write());
    c.crash(1, false);
    c.run_until(LONG, |c| !c.machines[0].held).unwrap();
    assert_eq!(refusal(&c, 0), "b no longer answers or stores");
    assert_eq!(c.serving(), Some(0), "its reign never ended");
    write(&mut c);
    c.machines[1].disk_ns = (MS, MS);
    c.start(1);
    settle(c);
}

#[test]
fn heir_that_does_not_store_is_given_up_within_the_sync_timeout() {
    let mut c = founded(Setup::new(THREE));
    c.machines[1].disk_ns = (20 * SECOND, 20 * SECOND);
    assert!(c.write());
    hand_over(&mut c, 0, Some("b"));
    let held = c.run_until(LONG, |c| c.machines[0].handover.is_some()).unwrap();
    assert!(held <= c.setup.timing.sync_timeout + SHORT, "{held:?}");
    assert!(!c.machines[0].held);
    assert_eq!(c.serving(), Some(0));
    write(&mut c);
}

#[test]
fn late_word_of_an_earlier_hold_does_not_end_the_reign() {
    let mut c = founded(Setup::new(THREE));
    let stands = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::CloseGate { .. }));
    let effects = c.effects_of(0, Event::HandOver { to: None, why: String::new() });
    let Some(hold) = effects.iter().find_map(|e| if let Effect::HoldWrites(n) = e { Some(*n) } else { None })
    else {
        panic!("{effects:?}")
    };
    assert!(!stands(&c.effects_of(0, Event::WritesHeld(hold - 1))));
    assert!(stands(&c.effects_of(0, Event::WritesHeld(hold))), "everything was stored before");
    c.run(SHORT);
    settle(c);
}

#[test]
fn goodbye_comes_after_the_gate_is_shut() {
    let mut c = founded(Setup::new(THREE));
    c.effects_of(0, Event::HandOver { to: None, why: String::new() });
    let effects = c.effects_of(0, Event::WritesHeld(1));
    let place = |what: fn(&Effect) -> bool| effects.iter().position(what).unwrap();
    let shut = place(|e| matches!(e, Effect::CloseGate { .. }));
    let goodbye = place(|e| matches!(e, Effect::Send { message: Message::Goodbye { .. }, .. }));
    assert!(shut < goodbye, "I6: nobody may start while this machine still answers");
}

#[test]
fn stopped_master_hands_over_first() {
    let mut c = founded(Setup::new(THREE));
    assert!(c.write());
    c.stop(0);
    assert!(c.machines[0].running(), "it waits for the heir");
    let gap = gap(&mut c, 0);
    assert!(gap < QUICK, "{gap:?}");
    assert!(!c.machines[0].running() && c.machines[0].clean);
    assert_eq!(c.check.acknowledged.len(), 6);
    c.start(0);
    settle(c);
}

#[test]
fn stopped_master_that_nobody_can_succeed_leaves_at_once() {
    let mut c = founded(Setup::new(TWO));
    c.crash(1, false);
    c.run(LONG);
    c.stop(0);
    assert!(!c.machines[0].running() && c.machines[0].clean);
    c.start(0);
    c.start(1);
    c.await_master(LONG);
    settle(c);
}

#[test]
fn better_ranked_machine_gets_the_throne_back_after_the_quiet_period_if_so_wished() {
    for failback in [None, Some(Duration::from_secs(20))] {
        let mut setup = Setup::new(THREE);
        setup.failback = failback;
        let mut c = founded(setup);
        c.crash(0, false);
        c.await_master(LONG);
        c.start(0);
        c.run(Duration::from_secs(15));
        assert_eq!(c.serving(), Some(1), "not before");
        c.run(Duration::from_secs(30));
        assert_eq!(c.serving(), Some(usize::from(failback.is_none())));
        assert_eq!(c.check.opened.len(), if failback.is_none() { 2 } else { 3 }, "and not back and forth");
        settle(c);
    }
}
