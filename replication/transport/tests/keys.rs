//! The cluster's key is changed while links are up.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Member, config, key, packet};
use tanist_transport::{Channel, ClusterKey, HandshakeError, KeyRing, Keys, OpenError, try_key};

fn ring(key: &ClusterKey, other: Option<&ClusterKey>) -> Keys {
    Keys { key: key.clone(), other: other.cloned() }
}

async fn good(a: &Member, b: &mut Member, text: &str) {
    // Between two connections nothing is taken.
    while a.transport.send(&b.id, Channel::Control, packet(text)).is_err() {
        tokio::task::yield_now().await;
    }
    b.until(|event| match event {
        tanist_transport::TransportEvent::Received { packet: got, .. } => (got == packet(text)).then_some(()),
        _ => None,
    })
    .await;
}

struct Pair {
    a: Member,
    b: Member,
    rings: [KeyRing; 2],
}

async fn pair() -> Pair {
    let (one, two) = (config("a"), config("b"));
    let rings = [one.keys.clone(), two.keys.clone()];
    let (mut a, mut b) = (Member::with(one), Member::with(two));
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
    Pair { a, b, rings }
}

#[tokio::test]
async fn key_is_changed_step_by_step_and_links_made_with_the_old_one_end_with_it() {
    let (old, new) = (key(), ClusterKey::generate());
    let Pair { mut a, mut b, rings } = pair().await;
    for (step, keys) in [ring(&old, Some(&new)), ring(&new, Some(&old))].into_iter().enumerate() {
        for ring in &rings {
            ring.set(keys.clone());
            // Nothing has to be made anew: the old key is still accepted.
            good(&a, &mut b, &format!("step {step}")).await;
            assert!(a.transport.is_connected(&b.id, Channel::Control));
        }
    }
    rings[0].set(ring(&new, None));
    let reason = a.closed(&b.id, Channel::Control).await;
    assert!(reason.contains("isn't accepted any more"), "{reason}");
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
    rings[1].set(ring(&new, None));
    good(&a, &mut b, "there").await;
    good(&b, &mut a, "back").await;
}

#[tokio::test]
async fn whoever_knows_one_key_of_a_machine_is_let_in_in_whatever_order_the_steps_come() {
    let (old, new) = (key(), ClusterKey::generate());
    // One is a step ahead, the other has heard of nothing.
    let (one, two) = (config("a"), config("b"));
    one.keys.set(ring(&new, Some(&old)));
    let (mut a, mut b) = (Member::with(one), Member::with(two));
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
    good(&a, &mut b, "there").await;
    good(&b, &mut a, "back").await;
}

#[tokio::test]
async fn key_that_was_dropped_opens_nothing() {
    let new = ClusterKey::generate();
    let Pair { a, b, rings } = pair().await;
    for ring in &rings {
        ring.set(Keys { key: new.clone(), other: None });
    }
    // It has the key of before, and the name of a member.
    let thief = Member::start("c");
    a.knows(&[(&b, b.address), (&thief, thief.address)]);
    b.knows(&[(&a, a.address), (&thief, thief.address)]);
    thief.knows(&[(&a, a.address), (&b, b.address)]);
    thief.problem(&a.id, "cluster key differs").await;
    thief.problem(&b.id, "cluster key differs").await;
}

#[tokio::test]
async fn which_keys_a_machine_accepts_can_be_tried_without_disturbing_it() {
    let (old, new) = (key(), ClusterKey::generate());
    let Pair { a, mut b, rings } = pair().await;
    let addresses = [b.address.to_string()];
    let mut me = config("a");
    me.keys = new.clone().into();
    let refused = try_key(&me, &new, &addresses).await.unwrap_err();
    assert!(matches!(refused, OpenError::Handshake { source: HandshakeError::Key, .. }), "{refused}");
    try_key(&me, &old, &addresses).await.unwrap();
    rings[1].set(ring(&old, Some(&new)));
    for key in [&old, &new] {
        try_key(&me, key, &addresses).await.unwrap();
    }
    good(&a, &mut b, "undisturbed").await;
    assert!(a.transport.is_connected(&b.id, Channel::Control));
}
