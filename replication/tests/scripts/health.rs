//! Members that report that they aren't fit to reign.

use std::time::Duration;

use tanist_replication::{Complaint, Event};

use super::{FIVE, LEASE, LONG, SHORT, THREE, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, Setup, set};

fn report(c: &mut Cluster, node: usize, unhealthy: Option<&str>) {
    c.deliver(node, Event::Health(unhealthy.map(Complaint::new)));
}

fn chain(c: &Cluster, node: usize) -> Vec<String> {
    let status = c.machines[node].node.as_ref().unwrap().status();
    status.chain.iter().map(ToString::to_string).collect()
}

#[test]
fn unhealthy_member_sinks_to_the_end_of_the_chain_and_is_replaced_as_heir() {
    let mut c = founded(Setup::new(THREE));
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    report(&mut c, 1, Some("field bus down"));
    c.run_until(LONG, |c| c.sync_set(0) == set(&["a", "c"])).unwrap();
    c.run(SHORT);
    for node in 0..3 {
        assert_eq!(chain(&c, node), ["a", "c", "b"], "every machine knows");
    }
    write(&mut c);
    c.crash(0, false);
    c.run_until(LONG, |c| c.serving().is_some()).unwrap();
    assert_eq!(c.serving(), Some(2), "the healthy one of lower rank");
    c.start(0);
    write(&mut c);
    settle(c);
}

#[test]
fn unhealthy_master_hands_over_to_a_healthy_heir_and_keeps_away_from_the_throne() {
    let mut c = founded(Setup { failback: Some(LEASE), ..Setup::new(THREE) });
    report(&mut c, 0, Some("disk is slow"));
    c.run_until(LONG, |c| c.serving() == Some(1)).unwrap();
    write(&mut c);
    // Of better rank, and keeps up: but it isn't healthy.
    c.run(LEASE * 5);
    assert_eq!(c.serving(), Some(1));
    report(&mut c, 0, None);
    c.run(LEASE / 2);
    assert_eq!(c.serving(), Some(1), "it must have been healthy for the quiet period");
    c.run_until(LONG, |c| c.serving() == Some(0)).unwrap();
    settle(c);
}

#[test]
fn heir_that_is_unhealthy_is_passed_over_for_one_outside_of_the_sync_set() {
    let mut c = founded(Setup::new(FIVE));
    report(&mut c, 1, Some("no field devices"));
    report(&mut c, 0, Some("no field devices"));
    c.run_until(LONG, |c| c.serving().is_some_and(|node| node > 1)).unwrap();
    assert_eq!(c.serving(), Some(2));
    write(&mut c);
    settle(c);
}

#[test]
fn with_nobody_healthy_the_master_stays_and_says_so() {
    let mut c = founded(Setup::new(WITNESS));
    report(&mut c, 1, Some("disk full"));
    c.run(SHORT);
    report(&mut c, 0, Some("disk is slow"));
    c.run(LEASE * 3);
    assert_eq!(c.serving(), Some(0), "an unhealthy master is better than none");
    assert_eq!(c.sync_set(0), set(&["a", "b"]), "an unhealthy backup is better than none");
    let status = c.machines[0].node.as_ref().unwrap().status();
    assert!(status.notice.unwrap().contains("disk is slow"));
    let b = status.peers.iter().find(|peer| peer.id.as_str() == "b").unwrap();
    assert_eq!(b.unhealthy.as_deref(), Some("disk full"));
    // The only one who holds everything takes over, unhealthy as it is.
    c.crash(0, false);
    c.run_until(LONG, |c| c.serving() == Some(1)).unwrap();
    c.start(0);
    write(&mut c);
    settle(c);
}

#[test]
fn promotion_of_an_unhealthy_member_is_refused_unless_the_master_is_no_better() {
    let mut c = founded(Setup::new(THREE));
    report(&mut c, 1, Some("disk is slow"));
    c.run(SHORT);
    c.deliver(0, Event::HandOver { to: Some("b".parse().unwrap()), why: "asked to".to_owned() });
    let refusal = c.machines[0].handover.clone().unwrap().unwrap_err();
    assert_eq!(refusal, "b isn't healthy: disk is slow");
    report(&mut c, 2, Some("disk is slow"));
    c.run(SHORT);
    report(&mut c, 0, Some("disk is slow"));
    c.machines[0].handover = None;
    c.deliver(0, Event::HandOver { to: Some("b".parse().unwrap()), why: "asked to".to_owned() });
    c.run_until(Duration::from_secs(3), |c| c.serving() == Some(1)).unwrap();
    settle(c);
}
