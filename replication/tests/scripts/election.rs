//! Who takes the throne, when, and who may not.

use std::time::Duration;

use tanist_replication::{Effect, Event, HardState, Message, Position, RecordKey, Stamp, Term};

use super::{FIVE, LEASE, LONG, SHORT, THREE, TWO, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, MS, SECOND, Setup, set, store::End};

#[test]
fn founding_needs_all_members() {
    let mut c = Cluster::stopped(Setup::new(FIVE));
    for node in 0..4 {
        c.start(node);
    }
    c.run(LONG);
    assert_eq!(c.serving(), None);
    assert!(c.machines.iter().all(|m| m.hard.is_none()), "nobody has promised anything");
    c.start(4);
    let (_, took) = c.await_master(LONG);
    assert!(took < Duration::from_secs(3), "{took:?}");
    settle(c);
}

#[test]
fn heir_takes_over_after_a_refused_connection_well_before_the_lease() {
    let mut c = founded(Setup::new(THREE));
    c.crash(0, false);
    let (heir, took) = c.await_master(LONG);
    assert_eq!(c.name(heir), "b");
    assert!(took < SHORT, "{took:?}");
    write(&mut c);
    c.start(0);
    settle(c);
}

#[test]
fn takeover_after_silence_waits_for_the_lease() {
    let mut c = founded(Setup::new(THREE));
    c.crash(0, true);
    let (heir, took) = c.await_master(LONG);
    assert_eq!(c.name(heir), "b");
    assert!(took > LEASE - Duration::from_millis(110) && took < LEASE + SHORT, "{took:?}");
    c.start(0);
    settle(c);
}

#[test]
fn new_master_does_not_wait_for_the_dead_one_to_come_back() {
    let mut c = founded(Setup::new(WITNESS));
    c.crash(0, true);
    let (heir, took) = c.await_master(LONG);
    assert_eq!(c.name(heir), "b");
    assert!(took < LEASE + SHORT, "one lease, not a sync_timeout as well: {took:?}");
}

#[test]
fn heir_takes_over_when_it_is_told_of_the_end_though_refusals_are_not_trusted() {
    let mut setup = Setup::new(THREE);
    setup.timing.trust_refused = false;
    setup.tells_of_end = true;
    let mut c = founded(setup);
    c.crash(0, false);
    let (_, took) = c.await_master(LONG);
    // Word may be lost on its way to one of the two, and late.
    assert!(took < LEASE, "{took:?}");
    write(&mut c);
    c.start(0);
    settle(c);
}

#[test]
fn refused_connection_is_no_evidence_when_it_is_not_trusted() {
    let mut setup = Setup::new(THREE);
    setup.timing.trust_refused = false;
    let mut c = founded(setup);
    c.crash(0, false);
    let (_, took) = c.await_master(LONG);
    assert!(took > LEASE - Duration::from_millis(110), "{took:?}");
}

#[test]
fn master_without_majority_steps_down_at_lease_end_and_answers_nothing() {
    let mut c = founded(Setup::new(THREE));
    c.isolate(0);
    let before = c.check.acknowledged.len();
    assert!(c.write_at(0), "it still believes in its lease");
    let over = c.run_until(LONG, |c| !c.serves(0));
    assert!(over.is_some_and(|over| over < LEASE), "{over:?}");
    c.run(LONG);
    assert_eq!(c.serving(), Some(1), "b reigns");
    assert_eq!(c.check.acknowledged.len(), before, "the cut-off write was never answered");
    c.heal();
    settle(c);
}

#[test]
fn halted_master_wakes_after_its_lease_and_acknowledges_nothing_more() {
    for seed in 0..8 {
        let mut c = founded(Setup { seed, ..Setup::new(THREE) });
        let before = c.check.acknowledged.len();
        c.write_at(0);
        c.run(Duration::from_micros(1700)); // stored here and at b, whose answer is on its way
        c.pause(0, 4 * SECOND);
        c.run(Duration::from_secs(5));
        c.verify();
        assert_eq!(c.check.acknowledged.len(), before, "b's answer was read after the lease");
        assert_eq!(c.serving(), Some(1));
        write(&mut c);
        settle(c);
    }
}

#[test]
fn restarted_voter_waits_a_lease_before_it_votes() {
    let mut c = founded(Setup::new(THREE));
    c.crash(1, true);
    c.crash(2, true);
    c.run(Duration::from_millis(20));
    c.crash(0, true);
    c.start(1);
    c.start(2);
    let (_, took) = c.await_master(LONG);
    assert!(took >= LEASE, "{took:?}");
}

#[test]
fn restarted_voter_that_hears_of_its_masters_end_still_waits_with_its_own_vote() {
    let mut c = founded(Setup::new(THREE));
    c.crash(1, true);
    c.start(1);
    c.cut(0, 1); // it never hears the master again
    c.run(Duration::from_millis(30));
    let peer = c.machines[0].id.clone();
    let effects = c.effects_of(1, Event::Refused(peer));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Send { message: Message::PreVote(_), .. })));
}

#[test]
fn vote_is_persisted_before_it_is_sent() {
    let mut c = founded(Setup::new(THREE));
    c.crash(0, true);
    c.run(LEASE * 2);
    let term = c.machines[2].hard.as_ref().unwrap().term;
    c.crash(1, true);
    c.run(LEASE * 3); // alone: c asks again and again, but promises nothing
    assert_eq!(c.machines[2].hard.as_ref().unwrap().term, term, "asking costs no term (R2)");
    let from = c.machines[1].id.clone();
    let request = tanist_replication::message::VoteRequest {
        term: Term(term.0 + 5),
        record: c.record(),
        position: None,
    };
    let effects = c.effects_of(2, Event::Message { from: from.clone(), message: Message::Vote(request) });
    let persisted = effects
        .iter()
        .position(|e| matches!(e, Effect::Persist(HardState { voted_for: Some(id), .. }) if *id == from));
    let sent = effects
        .iter()
        .position(|e| matches!(e, Effect::Send { message: Message::VoteReply(reply), .. } if reply.granted));
    assert!(persisted.is_some() && persisted < sent, "{effects:?}");
}

#[test]
fn candidate_outside_the_sync_set_gives_up() {
    let mut c = founded(Setup::new(THREE));
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    c.crash(0, true);
    c.crash(1, true);
    c.run(Duration::from_millis(10));
    c.machines[1].witness = true; // b's machine votes, but its disk is being replaced
    c.run(LONG);
    assert_eq!(c.serving(), None, "c alone has no majority");
    c.machines[1].witness = false;
    c.start(1);
    c.pause(1, 10 * SECOND); // reachable in name only
    c.run(LONG * 2);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "b", "only b and a hold what was acknowledged (R4)");
    c.start(0);
    settle(c);
}

#[test]
fn machine_outside_the_sync_set_with_a_majority_of_votes_never_reigns() {
    let mut c = founded(Setup::new(FIVE));
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    c.crash(0, false);
    c.crash(1, false);
    c.run(LONG);
    assert_eq!(c.serving(), None, "c, d and e are a majority without the data (R4)");
    c.start(1);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "b");
    c.start(0);
    settle(c);
}

#[test]
fn first_record_leaves_out_the_old_master() {
    let mut c = founded(Setup::new(THREE));
    c.crash(0, false);
    c.run_until(LONG, |c| c.machines[1].hard.as_ref().is_some_and(|h| h.record.key.term == Term(2))).unwrap();
    let record = &c.machines[1].hard.as_ref().unwrap().record;
    assert_eq!(record.key, RecordKey { term: Term(2), version: 1 });
    assert_eq!(c.sync_set(1), set(&["b"]));
}

#[test]
fn two_nodes_without_witness_the_survivor_waits() {
    let mut c = founded(Setup::new(TWO));
    c.crash(0, false);
    c.run(LONG * 3);
    assert_eq!(c.serving(), None);
    c.start(0);
    c.await_master(LONG);
    settle(c);
}

#[test]
fn two_nodes_and_a_witness_the_survivor_takes_over() {
    let mut c = founded(Setup::new(WITNESS));
    c.crash(0, false);
    let (master, took) = c.await_master(LONG);
    assert_eq!(c.name(master), "b");
    assert!(took < SHORT, "{took:?}");
    write(&mut c);
    c.start(0);
    settle(c);
}

#[test]
fn stopping_candidate_never_becomes_master() {
    let mut c = Cluster::stopped(Setup::new(TWO));
    c.start(0);
    c.effects_of(0, Event::Shutdown);
    c.start(1);
    c.run(LONG);
    assert_eq!(c.serving().map(|node| c.name(node).to_owned()), Some("b".to_owned()));
}

#[test]
fn stale_heartbeat_is_answered_with_the_higher_term_and_not_obeyed() {
    let mut c = founded(Setup::new(THREE));
    let old = c.machines[0].hard.clone().unwrap();
    c.crash(0, false);
    c.await_master(LONG);
    c.run(SHORT);
    let sent = c.machines[0].clock.read(c.now);
    let heartbeat = tanist_replication::message::Heartbeat {
        term: old.term,
        sent,
        record: old.record,
        committed: RecordKey::default(),
        acknowledged: Position::ZERO,
        tip: Position::ZERO,
        echo: None,
        serving: true,
        unhealthy: Default::default(),
        times: None,
        level: None,
    };
    let from = c.machines[0].id.clone();
    let message = Message::Heartbeat(heartbeat);
    let effects = c.effects_of(2, Event::Message { from, message });
    assert!(!effects.iter().any(|e| matches!(e, Effect::Persist(_))), "{effects:?}");
    assert!(effects.iter().any(|e| matches!(
        e, Effect::Send { message: Message::HeartbeatReply(reply), .. } if reply.term > old.term
    )));
    let status = c.machines[2].node.as_ref().unwrap().status();
    assert_eq!(status.master.unwrap().as_str(), "b");
}

#[test]
fn founding_that_fails_after_its_record_begins_again() {
    let mut c = Cluster::stopped(Setup::new(THREE));
    c.machines[0].store.full = true; // the first reign can't write its first transaction
    for node in 0..3 {
        c.start(node);
    }
    c.run(Duration::from_secs(2));
    assert!(c.machines.iter().all(|m| m.store.content.is_empty()) || c.serving().is_some());
    c.disk_full(0, false);
    for node in 0..3 {
        c.crash(node, true);
        c.start(node);
    }
    c.await_master(LONG);
    write(&mut c);
    settle(c);
}

#[test]
fn machine_whose_store_cannot_begin_a_reign_lets_the_next_one_try() {
    let mut c = founded(Setup { sync_backups: 2, ..Setup::new(THREE) });
    c.run(Duration::from_secs(1));
    c.disk_full(1, true);
    c.crash(0, true);
    let (master, took) = c.await_master(LONG);
    assert_eq!(c.name(master), "c", "b was elected, and couldn't");
    assert!(took < LEASE * 4, "{took:?}");
    c.disk_full(1, false);
    c.start(0);
    write(&mut c);
    settle(c);
}

#[test]
fn machines_that_cannot_begin_a_reign_try_less_and_less_often_until_one_can() {
    let mut c = founded(Setup { sync_backups: 2, ..Setup::new(THREE) });
    c.run(Duration::from_secs(1));
    c.crash(0, true);
    for node in [1, 2] {
        c.disk_full(node, true);
    }
    let term = |c: &Cluster| c.machines[1].hard.as_ref().unwrap().term;
    let before = term(&c);
    c.run(Duration::from_secs(120));
    let tried = term(&c).0 - before.0;
    assert!((4..=20).contains(&tried), "{tried} elections in two minutes");
    for node in [1, 2] {
        c.disk_full(node, false);
    }
    let (_, took) = c.await_master(Duration::from_secs(60));
    assert!(took < LEASE * 42, "32 leases and a quarter: {took:?}");
    c.start(0);
    write(&mut c);
    settle(c);
}

#[test]
fn empty_replica_never_takes_the_throne_over_data_even_in_the_first_reign() {
    let mut c = founded(Setup::new(WITNESS));
    let key = c.machines[1].hard.as_ref().unwrap().record.key;
    assert_eq!(key, RecordKey { term: Term(1), version: 1 }, "still the founding record");
    c.crash(1, true);
    c.lose_replica(1); // node.db isn't
    c.crash(0, true);
    c.start(1);
    c.run(LONG * 2);
    assert_eq!(c.serving(), None, "b has a majority and is in the sync set, but holds nothing");
    c.start(0);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "a");
    settle(c);
}

#[test]
fn machine_that_knows_of_its_loss_helps_found_no_cluster_anew() {
    let mut c = founded(Setup::new(THREE));
    write(&mut c);
    for node in 0..3 {
        c.crash(node, true);
        c.lose_replica(node); // node.db isn't
    }
    // What two have forgotten the third remembers.
    for node in 0..3 {
        c.start(node);
        c.deliver(node, Event::Lost(node == 2));
    }
    c.run(LONG * 2);
    assert_eq!(c.serving(), None);
    assert!(c.machines.iter().all(|m| m.store.content.is_empty()));
}

#[test]
fn voter_without_record_does_not_count() {
    let mut c = founded(Setup::new(THREE));
    c.crash(2, true);
    c.machines[2].hard = None; // node.db is lost
    c.crash(0, true);
    c.start(2);
    c.run(LONG * 2);
    assert_eq!(c.serving(), None, "b and c are a majority, but c may have forgotten a record");
    c.start(0);
    c.await_master(LONG);
    settle(c);
}

#[test]
fn all_machines_restarted_at_once_keep_the_data() {
    let mut c = founded(Setup::new(THREE));
    let stamp = c.stamp(0);
    for node in 0..3 {
        c.crash(node, true);
    }
    for node in 0..3 {
        c.start(node);
    }
    let (master, _) = c.await_master(LONG);
    assert!(c.machines[master].store.holds(stamp));
    assert_eq!(c.check.opened.len(), 2, "a new reign");
    settle(c);
}

#[test]
fn uncleanly_stopped_machine_lets_the_one_that_holds_more_go_first() {
    let mut setup = Setup::new(THREE);
    setup.sync_backups = 2;
    let mut c = founded(setup);
    c.machines[0].disk_ns = (800 * MS, 800 * MS); // a's own disk lags behind
    c.write_at(0);
    c.run(Duration::from_millis(100));
    for node in 0..3 {
        c.crash(node, true);
        c.machines[node].disk_ns = (MS, MS);
    }
    assert!(c.stamp(0) != c.stamp(1));
    for node in 0..3 {
        c.start(node);
    }
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "b", "a would be first by rank");
    settle(c);
}

#[test]
fn machine_that_came_back_uncleanly_is_trusted_again_once_it_holds_everything_acknowledged() {
    let mut c = founded(Setup::new(THREE));
    c.crash(1, false);
    c.start(1);
    c.run(LONG);
    write(&mut c);
    c.run(LONG);
    c.crash(0, false);
    let (master, after) = c.await_master(LONG);
    assert_eq!(c.name(master), "b");
    let stagger = c.setup.timing.election_stagger;
    assert!(after < stagger, "{after:?}: it stood as late as one whose disk may have lied ({stagger:?})");
    settle(c);
}

#[test]
fn machine_that_was_cut_off_disturbs_nobody_when_it_returns() {
    let mut c = founded(Setup::new(THREE));
    c.isolate(2);
    c.run(LONG);
    c.heal();
    c.run(LONG);
    assert_eq!(c.check.opened.len(), 1, "still the first reign (R2)");
    assert_eq!(c.machines[0].hard.as_ref().unwrap().term, Term(1));
    settle(c);
}

#[test]
fn strangers_and_oneself_are_not_heard() {
    let mut c = founded(Setup::new(THREE));
    let request =
        tanist_replication::message::VoteRequest { term: Term(99), record: c.record(), position: None };
    for name in ["stranger", "c"] {
        let event = Event::Message { from: name.parse().unwrap(), message: Message::Vote(request.clone()) };
        assert_eq!(c.effects_of(2, event), vec![]);
    }
    assert_eq!(c.stamp(2), Stamp { ..c.stamp(2) });
}

#[test]
fn first_lease_of_a_reign_is_shortened_by_the_drift_margin_too() {
    let mut c = Cluster::new(Setup::new(THREE));
    let (master, _) = c.await_master(LONG);
    let timing = &c.setup.timing;
    let longest = c.machines[master].clock.read(c.now) + (timing.lease - timing.drift_margin);
    assert!(c.machines[master].lease <= longest);
}

#[test]
fn master_past_its_lease_does_not_call_itself_serving() {
    let mut c = founded(Setup::new(THREE));
    c.pause(0, 3 * SECOND);
    c.run(Duration::from_millis(2999));
    c.machines[0].paused = false;
    let peer = c.machines[2].id.clone();
    let effects = c.effects_of(0, Event::LinkUp(peer));
    let says = effects.iter().any(
        |e| matches!(e, Effect::Send { message: Message::Heartbeat(heartbeat), .. } if heartbeat.serving),
    );
    assert!(!says, "a backup would take its word for how fresh it is");
}

#[test]
fn founding_that_breaks_off_when_only_some_have_its_first_transaction_is_taken_up_again() {
    let mut c = Cluster::new(Setup::new(FIVE));
    for node in [1, 2] {
        c.network.ways[0][node].broken = true; // what a sends there is lost, and a isn't told
    }
    c.run_until(LONG, |c| !c.machines[0].store.doing.is_empty()).unwrap();
    c.machines[0].disk_ns = (LONG.as_nanos() as u64, LONG.as_nanos() as u64);
    c.run(SHORT);
    assert!(c.stamp(3) != Stamp::default() && c.stamp(1) == Stamp::default());
    c.crash_with(0, End::DiskError);
    assert_eq!(c.stamp(0), Stamp::default());
    for node in [1, 2] {
        c.network.ways[0][node].broken = false;
    }
    c.machines[0].disk_ns = (MS, MS);
    c.start(0);
    c.await_master(LONG); // d or e, who have something; or the others, if these had been left out already: never
    write(&mut c);
    settle(c);
}

#[test]
fn old_master_that_may_hold_the_first_transaction_does_not_help_to_found_anew() {
    let mut c = Cluster::new(Setup::new(THREE));
    c.machines[0].disk_ns = (5 * SECOND, 5 * SECOND);
    c.run_until(LONG, |c| !c.machines[0].store.doing.is_empty()).unwrap();
    c.isolate(0);
    c.run(LEASE * 2);
    c.machines[1].disk_ns = (5 * SECOND, 5 * SECOND);
    c.heal();
    c.run(LEASE);
    // Had b been elected without a in its sync set, nobody could stand once a's transaction is there and b's isn't.
    c.crash_with(1, End::DiskError);
    c.machines[1].disk_ns = (MS, MS);
    c.run_until(LONG, |c| c.stamp(0) != Stamp::default() && c.machines[0].store.doing.is_empty()).unwrap();
    c.machines[0].disk_ns = (MS, MS);
    c.start(1);
    c.await_master(LONG);
    write(&mut c);
    settle(c);
}
