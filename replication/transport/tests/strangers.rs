//! Those who don't belong: refused with the reason named on both sides, within bounds, to nobody else's harm.

#![allow(clippy::unwrap_used)] // clippy knows test functions, but not their helpers

mod common;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use common::*;
use tanist_transport::{Channel, ClusterKey, Life, Lives, TransportEvent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const MAGIC: &[u8] = b"\x89tanist\n";

fn preamble(version: u16, channel: u8, cluster: &str, from: &str) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(version.to_be_bytes());
    out.push(channel);
    out.extend([9; 16]);
    for text in [cluster, from] {
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
    out
}

/// What a stranger who sends `bytes` gets back before the connection ends.
async fn answer(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut got = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut got)).await;
    read.expect("an end in time").expect("a clean end");
    got
}

async fn still_good(a: &Member, b: &mut Member) {
    a.transport.send(&b.id, Channel::Control, packet("good")).unwrap();
    assert_eq!(b.received().await.2, packet("good"));
}

#[tokio::test]
async fn other_key_is_named_on_the_dialling_side_and_known_members_go_on() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    let mut other = config("c");
    other.keys = ClusterKey::generate().into();
    let c = Member::with(other);
    a.knows(&[(&b, b.address), (&c, c.address)]);
    b.knows(&[(&a, a.address), (&c, c.address)]);
    c.knows(&[(&a, a.address), (&b, b.address)]);
    let problem = c.problem(&b.id, "cluster key differs").await;
    assert!(problem.contains(&b.address.to_string()), "{problem}");
    a.problem(&c.id, "cluster key differs").await;
    still_good(&a, &mut b).await;
}

#[tokio::test]
async fn other_cluster_is_named_with_both_names() {
    let mut other = config("b");
    other.cluster = "elsewhere".parse().unwrap();
    let (a, b) = (Member::start("a"), Member::with(other));
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    let problem = a.problem(&b.id, "peer belongs to cluster 'elsewhere', expected 'test'").await;
    assert!(problem.starts_with(&b.address.to_string()), "{problem}");
    b.problem(&a.id, "peer belongs to cluster 'test', expected 'elsewhere'").await;
}

fn life(directory: u8, starts: &[u64]) -> Life {
    Life { directory: [directory; 16], number: starts.len() as u64, starts: starts.to_vec() }
}

fn with_life(me: &str, life: Life, founding: Option<[u8; 16]>) -> tanist_transport::Config {
    tanist_transport::Config { lives: Lives::new(life, founding, BTreeMap::new()), ..config(me) }
}

#[tokio::test]
async fn copy_of_a_members_data_directory_is_refused_on_both_sides_whoever_dials() {
    let a_config = with_life("a", life(1, &[1]), None);
    let a = Member::with(a_config.clone());
    let mut original = Member::with(with_life("b", life(2, &[11, 10]), None));
    a.knows(&[(&original, original.address)]);
    original.knows(&[(&a, a.address)]);
    original.connected(&a.id, Channel::Control).await;
    still_good(&a, &mut original).await;
    assert_eq!(a_config.lives.take_changes().len(), 1, "it is to be remembered");
    original.transport.shutdown().await;
    drop(original);
    // The copy was made before the original's last start.
    let copy = Member::with(with_life("b", life(2, &[12, 10]), None));
    a.knows(&[(&copy, copy.address)]);
    copy.knows(&[(&a, a.address)]);
    copy.problem(&a.id, "run `tanist adopt` here").await;
    a.problem(&copy.id, "'b' has another data directory").await;
    drop(copy);
    // The original's next start.
    let mut original = Member::with(with_life("b", life(2, &[13, 11, 10]), None));
    a.knows(&[(&original, original.address)]);
    original.knows(&[(&a, a.address)]);
    original.connected(&a.id, Channel::Control).await;
    still_good(&a, &mut original).await;
}

#[tokio::test]
async fn data_of_another_founding_is_refused_on_both_sides() {
    let a = Member::with(with_life("a", life(1, &[1]), Some([1; 16])));
    let b = Member::with(with_life("b", life(2, &[1]), Some([2; 16])));
    let c = Member::with(with_life("c", life(3, &[1]), None));
    a.knows(&[(&b, b.address), (&c, c.address)]);
    b.knows(&[(&a, a.address)]);
    c.knows(&[(&a, a.address)]);
    a.problem(&b.id, "founded apart under one name").await;
    b.problem(&a.id, "founded apart under one name").await;
    let mut c = c;
    c.connected(&a.id, Channel::Control).await;
    still_good(&a, &mut c).await;
}

#[tokio::test]
async fn member_is_dialled_where_another_has_heard_that_it_is() {
    let mut own = config("b");
    own.addresses = vec!["10.9.8.7:7450".to_owned()];
    let (mut a, mut b) = (Member::start("a"), Member::with(own));
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    a.knows(&[(&b, nowhere)]);
    b.knows(&[(&a, a.address)]);
    b.connected(&a.id, Channel::Control).await;
    b.transport.send(&a.id, Channel::Control, packet("there")).unwrap();
    a.received().await;
    assert_eq!(a.transport.whereabouts(), [(b.id.clone(), vec!["10.9.8.7:7450".to_owned()])]);
    a.transport.hear_of(&b.id, &[b.address.to_string()]);
    a.connected(&b.id, Channel::Control).await;
    a.transport.hear_of(&"c".parse().unwrap(), &["10.0.0.1:1".to_owned()]);
    still_good(&a, &mut b).await;
}

#[tokio::test]
async fn unknown_member_is_told_so() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    a.knows(&[(&b, b.address)]);
    a.problem(&b.id, "peer does not know this member, 'a'").await;
}

#[tokio::test]
async fn address_of_another_member_is_named() {
    let (a, b, c) = (Member::start("a"), Member::start("b"), Member::start("c"));
    // What stands under c's name is b's address.
    a.knows(&[(&c, b.address)]);
    b.knows(&[(&a, a.address)]);
    a.problem(&c.id, "peer is member 'b', expected 'c'").await;
    // And here its own.
    a.knows(&[(&c, a.address)]);
    a.problem(&c.id, "peer is member 'a', expected 'c'").await;
}

#[tokio::test]
async fn stranger_is_answered_with_version_and_status_only() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    let status = |bytes: &[u8]| {
        assert_eq!(&bytes[..8], MAGIC);
        assert_eq!(&bytes[8..10], [0, 1], "our version");
        assert_eq!(&bytes[27..], b"\x04test");
        bytes[10]
    };
    let not_tanist = answer(b.address, b"GET / HTTP/1.1\r\nHost: b\r\n\r\n").await;
    let other_version = answer(b.address, &preamble(2, 1, "test", "a")).await;
    let no_channel = answer(b.address, &preamble(1, 9, "test", "a")).await;
    let bad_cluster = answer(b.address, &preamble(1, 1, "te st", "a")).await;
    let bad_id = answer(b.address, &preamble(1, 1, "test", "")).await;
    let other_cluster = answer(b.address, &preamble(1, 1, "other", "a")).await;
    let unknown = answer(b.address, &preamble(1, 1, "test", "z")).await;
    let found = [not_tanist, other_version, no_channel, bad_cluster, bad_id, other_cluster, unknown];
    assert_eq!(found.map(|bytes| status(&bytes)), [1, 2, 3, 3, 3, 4, 5]);
    still_good(&a, &mut b).await;
}

#[tokio::test]
async fn garbage_at_any_step_closes_that_connection_only() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    let good = preamble(1, 1, "test", "a");
    let mut key_differs = None;
    for tail in [vec![0, 0], vec![0, 5, 1, 2, 3, 4, 5], vec![255; 4000], {
        let mut message = vec![0, 48];
        message.extend([3; 48]);
        message
    }] {
        let got = answer(b.address, &[&good[..], &tail].concat()).await;
        assert_eq!(got[10], 0, "the preamble was fine");
        key_differs = Some(got[32..].to_vec());
    }
    assert_eq!(key_differs, Some(vec![0, 0]), "a complete message under no good key is told so");
    // Cut at every byte of the preamble.
    for cut in 0..good.len() {
        let mut socket = TcpStream::connect(b.address).await.unwrap();
        socket.write_all(&good[..cut]).await.unwrap();
    }
    still_good(&a, &mut b).await;
}

/// Answers a dial with `bytes`.
async fn false_peer(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = [0; 1000];
            let _ = socket.read(&mut buffer).await;
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            while socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        }
    });
    address
}

#[tokio::test]
async fn false_peer_is_named_by_the_dialling_side() {
    let answer = |version: u16, status: u8, cluster: &str| {
        let mut out = MAGIC.to_vec();
        out.extend(version.to_be_bytes());
        out.push(status);
        out.extend([7; 16]);
        out.push(cluster.len() as u8);
        out.extend(cluster.as_bytes());
        out
    };
    let hello_of = |length: u8| {
        let mut out = answer(1, 0, "test");
        out.extend([0, length]);
        out.extend(vec![3; usize::from(length)]);
        out
    };
    for (bytes, text) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "does not speak this program's peer protocol"),
        (answer(7, 2, "test"), "peer speaks protocol version 7, expected 1"),
        (answer(1, 4, "other"), "peer belongs to cluster 'other', expected 'test'"),
        (answer(1, 0, "other"), "peer belongs to cluster 'other', expected 'test'"),
        (answer(1, 77, "test"), "unknown status"),
        (answer(1, 3, "test"), "could not read our preamble"),
        (answer(1, 0, "test"), "closed the connection during the handshake"),
        (vec![], "closed the connection during the handshake"),
        (hello_of(0), "cluster key differs"),
        (hello_of(48), "cluster key differs"),
        (hello_of(20), "too short"),
    ] {
        let a = Member::start("a");
        let address = false_peer(bytes).await;
        a.transport.set_peers(vec![(id("b"), vec![address.to_string()])]);
        a.problem(&id("b"), text).await;
    }
}

#[tokio::test]
async fn recorded_connection_played_again_is_a_failed_handshake() {
    let (mut a, mut b) = (Member::start("a"), Member::start("b"));
    // A wire that records what passes towards b.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = listener.local_addr().unwrap();
    let (target, (keep, mut kept)) = (b.address, tokio::sync::mpsc::unbounded_channel());
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let (mut far, mut buffer) = (TcpStream::connect(target).await.unwrap(), [0; 4096]);
        let mut back = [0; 4096];
        loop {
            tokio::select! {
                count = near.read(&mut buffer) => {
                    let count = count.unwrap_or(0);
                    if count == 0 || far.write_all(&buffer[..count]).await.is_err() { return }
                    let _ = keep.send(buffer[..count].to_vec());
                }
                count = far.read(&mut back) => {
                    let count = count.unwrap_or(0);
                    if count == 0 || near.write_all(&back[..count]).await.is_err() { return }
                }
            }
        }
    });
    a.knows(&[(&b, wire)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    a.transport.send(&b.id, Channel::Control, packet("once")).unwrap();
    assert_eq!(b.received().await.2, packet("once"));
    let mut recorded = Vec::new();
    while let Ok(bytes) = kept.try_recv() {
        recorded.extend(bytes);
    }
    let got = answer(b.address, &recorded).await;
    assert_eq!(got[32..], [0, 0], "refused at the first encrypted message");
    still_good(&a, &mut b).await;
}

#[tokio::test]
async fn second_process_under_a_live_id_is_refused_and_reported() {
    let (mut a, b) = pair(config("a"), config("b")).await;
    let mut clone = Member::start("b");
    clone.knows(&[(&a, a.address)]);
    clone.problem(&a.id, "member id 'b' is in use by another live process").await;
    let seen = |event| if let TransportEvent::IdInUse { peer, .. } = event { Some(peer) } else { None };
    assert_eq!(a.until(seen).await, b.id, "the peer reports it");
    assert_eq!(clone.until(seen).await, b.id, "the clone reports it");
    b.transport.send(&a.id, Channel::Control, packet("the first one goes on")).unwrap();
    assert_eq!(a.received().await.2, packet("the first one goes on"));
    // When the first one is gone, the other is let in.
    drop(b);
    clone.connected(&a.id, Channel::Control).await;
}

#[tokio::test]
async fn process_that_calls_itself_by_my_own_id_is_refused() {
    let (mut a, mut other) = (Member::start("a"), Member::start("a"));
    a.transport.set_peers(vec![(id("b"), vec![])]);
    other.transport.set_peers(vec![(id("b"), vec![a.address.to_string()])]);
    other.problem(&id("b"), "member id 'a' is in use by another live process").await;
    let seen = |event| if let TransportEvent::IdInUse { peer, .. } = event { Some(peer) } else { None };
    assert_eq!(a.until(seen).await, id("a"));
    assert_eq!(other.until(seen).await, id("a"));
}

#[tokio::test]
async fn slow_handshakes_are_bounded_in_number_and_do_not_lock_members_out() {
    let mut few = config("b");
    few.limits.max_pending_handshakes = 4;
    let (mut a, b) = (Member::start("a"), Member::with(few));
    b.knows(&[(&a, a.address)]);
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(TcpStream::connect(b.address).await.unwrap());
    }
    // All but the last four are closed, the oldest first.
    let mut byte = [0];
    for socket in &mut slow[..16] {
        let end = tokio::time::timeout(PATIENCE, socket.read(&mut byte)).await.expect("closed in time");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
    a.knows(&[(&b, b.address)]);
    a.connected(&b.id, Channel::Control).await;
}

#[tokio::test]
async fn slow_handshake_is_bounded_in_time_on_both_sides() {
    let mut hasty = config("b");
    hasty.limits.handshake_timeout = Duration::from_millis(50);
    let b = Member::with(hasty);
    let mut socket = TcpStream::connect(b.address).await.unwrap();
    socket.write_all(&MAGIC[..3]).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, socket.read(&mut [0])).await.expect("closed in time");
    assert!(matches!(end, Ok(0) | Err(_)));
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    b.transport.set_peers(vec![(id("a"), vec![mute.local_addr().unwrap().to_string()])]);
    b.problem(&id("a"), "handshake not done in time").await;
}

fn open_door(me: &str) -> tanist_transport::Config {
    tanist_transport::Config { admit_strangers: true, ..config(me) }
}

#[tokio::test]
async fn machine_that_no_list_has_may_ask_and_is_answered_where_it_says_it_is() {
    let mut a = Member::with(open_door("a"));
    let listener = bind("127.0.0.1:0".parse().unwrap());
    let address = listener.local_addr().unwrap();
    drop(listener);
    let new = tanist_transport::Config { addresses: vec![address.to_string()], ..open_door("new") };
    let mut new = Member::at(new, address, 1000);
    new.knows(&[(&a, a.address)]);
    new.connected(&a.id, Channel::Control).await;
    a.connected(&new.id, Channel::Control).await;
    new.transport.send(&a.id, Channel::Control, packet("let me in")).unwrap();
    assert_eq!(a.received().await.2, packet("let me in"));
    a.transport.send(&new.id, Channel::Control, packet("who are you?")).unwrap();
    assert_eq!(new.received().await.2, packet("who are you?"));
    // Data goes to members only.
    new.transport.send(&a.id, Channel::Bulk, packet("data")).unwrap();
    let reason = new.closed(&a.id, Channel::Bulk).await;
    assert!(reason.contains("does not know this member, 'new'"), "{reason}");
    assert!(new.transport.open_copy(&a.id).await.is_err());
    // Listed by a wrong address, it is found under its own all the same, and gets data.
    a.transport.set_peers(vec![(new.id.clone(), vec!["127.0.0.1:1".to_owned()])]);
    a.transport.send(&new.id, Channel::Bulk, packet("data")).unwrap();
    assert_eq!(new.received().await.2, packet("data"));
    // It leaves: nobody keeps asking for it.
    a.transport.set_peers(vec![]);
    new.transport.shutdown().await;
    a.closed(&new.id, Channel::Control).await;
}

#[tokio::test]
async fn strangers_beyond_the_limit_find_no_room() {
    let mut config = open_door("a");
    config.limits.max_strangers = 2;
    let a = Member::with(config);
    let mut strangers = Vec::new();
    for name in ["x", "y", "z"] {
        let mut stranger = Member::with(open_door(name));
        stranger.knows(&[(&a, a.address)]);
        if name == "z" {
            stranger.problem(&a.id, "does not know this member, 'z'").await;
        } else {
            stranger.connected(&a.id, Channel::Control).await;
        }
        strangers.push(stranger);
    }
    // One goes, and there is room.
    strangers[0].transport.shutdown().await;
    strangers[2].connected(&a.id, Channel::Control).await;
}
