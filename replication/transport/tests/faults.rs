//! Broken wires and dead peers: what is lost is said, what comes back is used, and nobody else suffers.

#![allow(clippy::unwrap_used)] // clippy knows test functions, but not their helpers

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use tanist_transport::{
    Channel, ClusterKey, Config, OpenError, Packet, SendError, TransportEvent, tell_of_end,
};

fn large(size: usize) -> Packet {
    Packet { head: Bytes::new(), body: vec![5; size].into() }
}

/// `a` reaches `b` over a wire, and `c` directly.
async fn three_with_wire() -> (Member, Member, Member, Wire) {
    let (mut a, mut b, mut c) = (Member::start("a"), Member::start("b"), Member::start("c"));
    let wire = Wire::to(b.address).await;
    a.knows(&[(&b, wire.address), (&c, c.address)]);
    b.knows(&[(&a, a.address), (&c, c.address)]);
    c.knows(&[(&a, a.address), (&b, b.address)]);
    let mut up = 0;
    a.until(|event| {
        up += usize::from(matches!(event, TransportEvent::Connected { .. }));
        (up == 2).then_some(())
    })
    .await;
    b.connected(&c.id, Channel::Control).await;
    c.connected(&b.id, Channel::Control).await;
    (a, b, c, wire)
}

async fn others_are_unaffected(a: &Member, c: &mut Member) {
    a.transport.send(&c.id, Channel::Control, packet("still here")).unwrap();
    assert_eq!(c.received().await, (a.id.clone(), Channel::Control, packet("still here")));
}

#[tokio::test]
async fn damaged_message_closes_its_connection_which_comes_back() {
    let (mut a, mut b, mut c, wire) = three_with_wire().await;
    wire.flip();
    a.transport.send(&b.id, Channel::Control, packet("bent")).unwrap();
    a.closed(&b.id, Channel::Control).await;
    others_are_unaffected(&a, &mut c).await;
    a.connected(&b.id, Channel::Control).await;
    a.transport.send(&b.id, Channel::Control, packet("straight")).unwrap();
    assert_eq!(b.received().await.2, packet("straight"), "the damaged one was never delivered");
}

#[tokio::test]
async fn connection_cut_in_the_middle_of_a_packet_delivers_nothing_of_it() {
    let (mut a, mut b, mut c, wire) = three_with_wire().await;
    a.transport.send(&b.id, Channel::Bulk, large(10)).unwrap();
    assert!(b.received().await.2 == large(10));
    wire.cut_after(200_000);
    a.transport.send(&b.id, Channel::Bulk, large(1_000_000)).unwrap();
    a.closed(&b.id, Channel::Bulk).await;
    others_are_unaffected(&a, &mut c).await;
    loop {
        match a.transport.send(&b.id, Channel::Bulk, large(20)) {
            Ok(()) => break,
            Err(error) => assert_eq!(error, SendError::Down),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(b.received().await.2 == large(20));
}

#[tokio::test]
async fn packet_beyond_the_receivers_limit_closes_the_connection() {
    let mut small = config("b");
    small.limits.bulk_message = 1000;
    let (mut a, mut b) = pair(config("a"), small).await;
    a.transport.send(&b.id, Channel::Bulk, large(1001)).unwrap();
    a.closed(&b.id, Channel::Bulk).await;
    a.transport.send(&b.id, Channel::Control, packet("control goes on")).unwrap();
    assert_eq!(b.received().await.2, packet("control goes on"));
}

#[tokio::test]
async fn dead_peer_is_refused_and_its_return_is_noticed() {
    let (mut a, b) = pair(config("a"), config("b")).await;
    let (address, peer) = (b.address, b.id.clone());
    drop(b);
    a.closed(&peer, Channel::Control).await;
    assert_eq!(a.refused().await, peer);
    assert_eq!(a.refused().await, peer, "said again");
    assert_eq!(a.transport.send(&peer, Channel::Control, packet("x")), Err(SendError::Down));
    assert!(a.problem(&peer, "connection refused").await.contains(&address.to_string()));

    let mut b = Member::at(config("b"), address, 1000);
    b.knows(&[(&a, a.address)]);
    a.connected(&peer, Channel::Control).await;
    assert_eq!(a.transport.problem(&peer), None);
    a.transport.send(&peer, Channel::Control, packet("welcome")).unwrap();
    assert_eq!(b.received().await.2, packet("welcome"));
}

#[tokio::test]
async fn refusal_follows_the_crash_without_a_pause() {
    let mut patient = config("a");
    patient.limits.dial_backoff_min = Duration::from_secs(3600);
    let (mut a, b) = pair(patient, config("b")).await;
    // A link that has lived for a second is dialled again at once; every other dial would be in an hour.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    drop(b);
    a.refused().await;
}

#[tokio::test]
async fn peer_that_never_was_up_is_not_called_refused() {
    let free = bind("127.0.0.1:0".parse().unwrap()).local_addr().unwrap();
    let mut a = Member::start("a");
    a.transport.set_peers(vec![(id("b"), vec![free.to_string()])]);
    a.problem(&id("b"), "connection refused").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(a.events.try_recv().is_err());
}

#[tokio::test]
async fn refusal_needs_all_addresses() {
    let mut a = Member::start("a");
    let b = Member::start("b");
    // The second address accepts connections and says nothing.
    let mute = bind("127.0.0.1:0".parse().unwrap());
    let addresses = vec![b.address.to_string(), mute.local_addr().unwrap().to_string()];
    a.transport.set_peers(vec![(b.id.clone(), addresses)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    drop(b);
    a.closed(&id("b"), Channel::Control).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(a.events.try_recv().is_err());
}

#[tokio::test]
async fn second_address_is_used_when_the_first_is_dead_and_names_are_resolved() {
    let mut a = Member::start("a");
    let b = Member::start("b");
    let dead = bind("127.0.0.1:0".parse().unwrap()).local_addr().unwrap();
    let named = format!("localhost:{}", b.address.port());
    let unknown = "no-such-host.invalid:1".to_owned();
    a.transport.set_peers(vec![(b.id.clone(), vec![unknown, dead.to_string(), named])]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
}

#[tokio::test]
async fn stalled_peer_is_neither_lost_nor_refused() {
    let (mut a, mut b, mut c, wire) = three_with_wire().await;
    wire.stall(true);
    for n in 0..20 {
        a.transport.send(&b.id, Channel::Control, packet(&n.to_string())).unwrap();
        others_are_unaffected(&a, &mut c).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(a.events.try_recv().is_err(), "nothing to report");
    wire.stall(false);
    for n in 0..20 {
        assert_eq!(b.received().await.2, packet(&n.to_string()));
    }
}

#[tokio::test]
async fn cut_without_refusal_reconnects_without_saying_refused() {
    let (mut a, b, _c, wire) = three_with_wire().await;
    wire.cut_after(0);
    a.transport.send(&b.id, Channel::Control, packet("x")).unwrap();
    a.until(|event| match event {
        TransportEvent::Refused { .. } => panic!("refused"),
        TransportEvent::Connected { peer, .. } if peer == b.id => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn silent_peer_is_given_up_after_the_idle_timeout() {
    let mut quick = config("b");
    quick.limits.idle_timeout = Duration::from_millis(300);
    let (mut a, mut b) = (Member::start("a"), Member::with(quick));
    let wire = Wire::to(b.address).await;
    a.knows(&[(&b, wire.address)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
    wire.stall(true);
    assert!(a.closed(&b.id, Channel::Control).await.contains("closed by the peer"));
}

#[tokio::test]
async fn signs_of_life_keep_an_idle_link_up() {
    let (mut left, mut right) = (config("a"), config("b"));
    for limits in [&mut left.limits, &mut right.limits] {
        limits.keepalive = Duration::from_millis(20);
        limits.idle_timeout = Duration::from_millis(400);
    }
    let (mut a, b) = pair(left, right).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(a.events.try_recv().is_err());
    assert!(a.transport.is_connected(&b.id, Channel::Control));
}

#[tokio::test]
async fn removed_peer_is_closed_and_refused_by_name() {
    let (mut a, mut b) = pair(config("a"), config("b")).await;
    a.transport.set_peers(vec![]);
    assert!(a.closed(&b.id, Channel::Control).await.contains("no member"));
    b.closed(&a.id, Channel::Control).await;
    b.problem(&a.id, "peer does not know this member, 'b'").await;
    assert_eq!(a.transport.send(&b.id, Channel::Control, packet("x")), Err(SendError::UnknownPeer));
    a.knows(&[(&b, b.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
}

#[tokio::test]
async fn changed_address_is_dialled_without_waiting() {
    let (mut a, mut b) = (Member::start("a"), Member::start("b"));
    let nowhere = bind("127.0.0.1:0".parse().unwrap()).local_addr().unwrap();
    a.knows(&[(&b, nowhere)]);
    b.knows(&[(&a, a.address)]);
    a.problem(&b.id, "connection refused").await;
    a.knows(&[(&b, b.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
}

#[tokio::test]
async fn bulk_packets_for_an_unreachable_peer_end_in_closed() {
    let nowhere = bind("127.0.0.1:0".parse().unwrap()).local_addr().unwrap();
    let mut a = Member::start("a");
    a.transport.set_peers(vec![(id("b"), vec![nowhere.to_string()])]);
    // The link's task gets its first turn later: it takes the packet and then learns.
    a.transport.send(&id("b"), Channel::Bulk, large(10)).unwrap();
    assert!(a.closed(&id("b"), Channel::Bulk).await.contains("refused"));
}

#[tokio::test]
async fn restarted_peer_replaces_its_old_self() {
    let (mut a, b) = pair(config("a"), config("b")).await;
    for n in 0..5 {
        let address = b.address;
        let peer = b.id.clone();
        if n == 0 {
            b.transport.shutdown().await;
            a.closed(&peer, Channel::Control).await;
        }
        let mut again = Member::at(config("b"), address, 1000);
        again.knows(&[(&a, a.address)]);
        a.connected(&peer, Channel::Control).await;
        again.connected(&a.id, Channel::Control).await;
        again.transport.send(&a.id, Channel::Control, packet(&n.to_string())).unwrap();
        assert_eq!(a.received().await.2, packet(&n.to_string()));
        drop(again);
        a.closed(&peer, Channel::Control).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_is_dialled_though_nobody_closed_the_connection_to_the_one_before() {
    let quick = |me| {
        let mut config = config(me);
        config.limits.keepalive = Duration::from_millis(50);
        config
    };
    let (mut a, mut old) = (Member::with(quick("a")), Member::with(quick("b")));
    let wire = Wire::to(a.address).await;
    a.knows(&[(&old, old.address)]);
    old.knows(&[(&a, wire.address)]);
    a.connected(&old.id, Channel::Control).await;
    old.connected(&a.id, Channel::Control).await;
    old.transport.send(&a.id, Channel::Control, packet("here I am")).unwrap();
    a.received().await;
    // As if its computer had gone down: not a byte comes any more, and no end either.
    wire.stall(true);
    let mut new = Member::with(quick("b"));
    a.knows(&[(&new, new.address)]);
    new.knows(&[(&a, a.address)]);
    let reason = a.closed(&new.id, Channel::Control).await;
    assert!(reason.contains("new process"), "{reason}");
    a.connected(&new.id, Channel::Control).await;
    a.transport.send(&new.id, Channel::Control, packet("welcome")).unwrap();
    assert_eq!(new.received().await.2, packet("welcome"));
}

#[tokio::test]
async fn peer_that_comes_is_dialled_at_once_though_a_dial_waits_for_what_was_there_before() {
    let mut patient = config("a");
    patient.limits.handshake_timeout = Duration::from_secs(3600);
    let mut a = Member::with(patient);
    // As a firewall answers that says nothing: the dial is stuck.
    let silent = bind("127.0.0.1:0".parse().unwrap());
    let address = silent.local_addr().unwrap();
    a.transport.set_peers(vec![(id("b"), vec![address.to_string()])]);
    let silent = tokio::task::spawn_blocking(move || {
        silent.set_nonblocking(false).unwrap();
        silent.accept().unwrap().0
    });
    let _stuck = silent.await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let b = Member::at(config("b"), address, 1000);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
}

async fn tell(of: &Config, to: &Member) -> Vec<OpenError> {
    let failed = tell_of_end(of.clone(), vec![(to.id.clone(), vec![to.address.to_string()])]).await;
    failed
        .into_iter()
        .map(|(peer, error)| {
            assert_eq!(peer, to.id);
            error
        })
        .collect()
}

#[tokio::test]
async fn word_of_the_end_counts_for_the_process_that_was_heard_last_alone() {
    let (old, new) = (config("b"), config("b"));
    let (mut a, b) = pair(config("a"), old.clone()).await;
    let (address, peer) = (b.address, b.id.clone());
    drop(b);
    a.closed(&peer, Channel::Control).await;
    assert!(tell(&old, &a).await.is_empty());
    let ended = a.until(|event| match event {
        TransportEvent::ProcessEnded { peer } => Some(peer),
        _ => None,
    });
    assert_eq!(ended.await, peer);

    let mut b = Member::at(new, address, 1000);
    b.knows(&[(&a, a.address)]);
    b.connected(&a.id, Channel::Control).await;
    b.transport.send(&a.id, Channel::Control, packet("here")).unwrap();
    a.received().await;
    assert!(tell(&old, &a).await.is_empty(), "too late, but told");
    b.transport.send(&a.id, Channel::Control, packet("still here")).unwrap();
    a.goes_on_hearing("still here").await;
}

#[tokio::test]
async fn word_of_the_end_needs_the_key_and_a_known_member() {
    let known = config("b");
    let (mut a, b) = pair(config("a"), known.clone()).await;
    let forged = tell(&Config { keys: ClusterKey::generate().into(), ..known.clone() }, &a).await;
    assert!(matches!(&forged[..], [OpenError::Handshake { .. }]), "{forged:?}");
    let unknown = tell(&Config { me: id("c"), ..known }, &a).await;
    assert!(matches!(&unknown[..], [OpenError::Handshake { .. }]), "{unknown:?}");
    b.transport.send(&a.id, Channel::Control, packet("still here")).unwrap();
    a.goes_on_hearing("still here").await;
}
