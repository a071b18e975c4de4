//! Members that get on: what is sent arrives, in order, on its channel.

#![allow(clippy::unwrap_used)] // clippy knows test functions, but not their helpers

mod common;

use bytes::Bytes;
use common::*;
use tanist_replication::MemberId;
use tanist_transport::{Channel, OpenError, Packet, SendError, StreamError, TransportEvent};

fn numbered(n: usize, size: usize) -> Packet {
    Packet { head: Bytes::from(format!("{n}")), body: vec![n as u8; size].into() }
}

#[tokio::test]
async fn two_members_exchange_on_both_channels() {
    let (mut a, mut b) = pair(config("a"), config("b")).await;
    a.transport.send(&b.id, Channel::Control, packet("vote")).unwrap();
    a.transport.send(&b.id, Channel::Bulk, numbered(1, 100)).unwrap();
    b.transport.send(&a.id, Channel::Control, packet("granted")).unwrap();
    let mut got = vec![b.received().await, b.received().await];
    got.sort_by_key(|(_, channel, _)| *channel);
    let expected =
        [(a.id.clone(), Channel::Control, packet("vote")), (a.id.clone(), Channel::Bulk, numbered(1, 100))];
    assert_eq!(got, expected);
    assert_eq!(a.received().await, (b.id.clone(), Channel::Control, packet("granted")));
    assert!(a.transport.is_connected(&b.id, Channel::Control));
    assert!(a.transport.is_connected(&b.id, Channel::Bulk));
    assert!(!b.transport.is_connected(&a.id, Channel::Bulk), "nobody asked for it");
}

#[tokio::test]
async fn three_members_exchange_and_order_is_kept_for_all_sizes() {
    let mut members = [Member::start("a"), Member::start("b"), Member::start("c")];
    for n in 0..3 {
        let others: Vec<_> = (0..3).filter(|m| *m != n).map(|m| (&members[m], members[m].address)).collect();
        members[n].knows(&others);
    }
    let ids: Vec<_> = members.iter().map(|member| member.id.clone()).collect();
    for member in &mut members {
        let mut up = 0;
        member
            .until(|event| {
                up += usize::from(matches!(event, TransportEvent::Connected { .. }));
                (up == 2).then_some(())
            })
            .await;
    }
    let sizes = [0, 1, 65_000, 65_510, 65_511, 65_519, 65_536, 131_038, 300_000, 3];
    let count = 40;
    for member in &members {
        for to in ids.iter().filter(|to| **to != member.id) {
            for n in 0..count {
                member.transport.send(to, Channel::Bulk, numbered(n, sizes[n % sizes.len()])).unwrap();
            }
        }
    }
    for member in &mut members {
        let mut next = std::collections::BTreeMap::new();
        for _ in 0..2 * count {
            let (from, channel, packet) = member.received().await;
            assert_eq!(channel, Channel::Bulk);
            let n = next.entry(from).or_insert(0);
            assert!(packet == numbered(*n, sizes[*n % sizes.len()]), "packet {n}: {packet:?}");
            *n += 1;
        }
        assert_eq!(next.len(), 2);
    }
}

#[tokio::test]
async fn large_packet_arrives_whole_while_control_goes_on() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    let body: Bytes = (0..(6 << 20)).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.transport
        .send(&b.id, Channel::Bulk, Packet { head: Bytes::from_static(b"0123456789"), body: body.clone() })
        .unwrap();
    let mut control = 0;
    loop {
        a.transport.send(&b.id, Channel::Control, packet("beat")).unwrap();
        match b.received().await {
            (_, Channel::Control, _) => control += 1,
            (_, _, packet) => {
                assert!(packet.body == body);
                break;
            }
        }
    }
    assert!(control > 3, "control packets passed while the large one was on its way: {control}");
}

#[tokio::test]
async fn packet_beyond_the_limit_or_to_a_stranger_is_not_taken() {
    let mut small = config("a");
    small.limits.bulk_message = 1000;
    let (a, b) = pair(small, config("b")).await;
    let send = |to: &MemberId, channel, packet| a.transport.send(to, channel, packet);
    assert_eq!(
        send(&b.id, Channel::Bulk, numbered(1, 1000)),
        Err(SendError::TooLarge { found: 1001, limit: 1000 })
    );
    assert_eq!(
        send(&b.id, Channel::Control, numbered(1, 1 << 20)),
        Err(SendError::TooLarge { found: (1 << 20) + 1, limit: 1 << 20 })
    );
    assert_eq!(send(&id("z"), Channel::Control, packet("x")), Err(SendError::UnknownPeer));
    assert_eq!(send(&b.id, Channel::Copy, packet("x")), Err(SendError::NotACopyStream));
    assert!(matches!(a.transport.open_copy(&id("z")).await, Err(OpenError::UnknownPeer(_))));
}

#[tokio::test]
async fn copy_stream_carries_both_directions_and_ends_cleanly() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    let mut asking = a.transport.open_copy(&b.id).await.unwrap();
    let (from, mut serving) = b
        .until(|event| {
            if let TransportEvent::CopyRequested { from, stream } = event {
                Some((from, stream))
            } else {
                None
            }
        })
        .await;
    assert_eq!((&from, asking.peer(), serving.peer()), (&a.id, &b.id, &a.id));
    asking.send(packet("ask")).await.unwrap();
    let handle = tokio::runtime::Handle::current();
    // A thread of its own, as the owner of the database would use it.
    let server = std::thread::spawn(move || {
        assert_eq!(handle.block_on(serving.recv()).unwrap(), Some(packet("ask")));
        for n in 0..50 {
            handle.block_on(serving.send(numbered(n, 200_000))).unwrap();
        }
        let too_large = Packet { head: Bytes::new(), body: vec![0; (32 << 20) + 1].into() };
        assert!(matches!(handle.block_on(serving.send(too_large)), Err(StreamError::TooLarge { .. })));
        handle.block_on(serving.send(packet("end"))).unwrap();
    });
    for n in 0..50 {
        assert!(asking.recv().await.unwrap() == Some(numbered(n, 200_000)));
    }
    let (sender, mut receiver) = asking.into_split();
    assert_eq!(receiver.recv().await.unwrap(), Some(packet("end")));
    assert_eq!(receiver.recv().await.unwrap(), None);
    drop(sender);
    server.join().unwrap();
}

#[tokio::test]
async fn copy_send_given_up_half_way_leaves_an_unusable_stream_and_a_clear_end() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    let mut asking = a.transport.open_copy(&b.id).await.unwrap();
    let mut serving = b
        .until(
            |event| {
                if let TransportEvent::CopyRequested { stream, .. } = event { Some(stream) } else { None }
            },
        )
        .await;
    let large = numbered(1, 30 << 20);
    // Nobody reads: it can't get through.
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(100), asking.send(large)).await;
    assert!(given_up.is_err());
    assert!(matches!(asking.send(packet("x")).await, Err(StreamError::Broken)));
    drop(asking);
    assert!(serving.recv().await.is_err(), "the packet was cut");
}

#[tokio::test]
async fn full_queue_says_so_and_loses_nothing() {
    let mut narrow = config("a");
    narrow.limits.queue_packets = 10;
    narrow.limits.queue_bytes = 1 << 20;
    let (a, mut b) = pair(narrow, config("b")).await;
    // Nothing runs between two sends: the link's task gets no turn.
    for n in 0..10 {
        a.transport.send(&b.id, Channel::Bulk, numbered(n, 10)).unwrap();
    }
    assert_eq!(a.transport.send(&b.id, Channel::Bulk, numbered(10, 10)), Err(SendError::Full));
    for n in 0..10 {
        assert_eq!(b.received().await.2, numbered(n, 10));
    }
    a.transport.send(&b.id, Channel::Bulk, numbered(0, 2 << 20)).unwrap();
    assert_eq!(
        a.transport.send(&b.id, Channel::Bulk, numbered(1, 10)),
        Err(SendError::Full),
        "too many bytes"
    );
    assert!(b.received().await.2 == numbered(0, 2 << 20), "one packet always fits");
}

#[tokio::test]
async fn slow_receiver_makes_the_sender_wait_and_gets_everything() {
    let mut narrow = config("a");
    narrow.limits.queue_bytes = 4 << 20;
    let mut a = Member::with(narrow);
    let mut b = Member::at(config("b"), "127.0.0.1:0".parse().unwrap(), 1);
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    let mut sent = 0;
    let full = loop {
        match a.transport.send(&b.id, Channel::Bulk, numbered(sent, 100_000)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        // Turns for the link, until the sockets and the event channel are full.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    };
    assert_eq!(full, SendError::Full);
    for n in 0..sent {
        assert!(b.received().await.2 == numbered(n, 100_000), "packet {n}");
    }
}

#[tokio::test]
async fn queued_packets_leave_before_shutdown_is_done() {
    let (a, mut b) = pair(config("a"), config("b")).await;
    for n in 0..100 {
        a.transport.send(&b.id, Channel::Control, numbered(n, 1000)).unwrap();
    }
    a.transport.shutdown().await;
    for n in 0..100 {
        assert_eq!(b.received().await.2, numbered(n, 1000));
    }
    assert!(std::net::TcpStream::connect(a.address).is_err(), "nobody listens any more");
    assert_eq!(a.transport.send(&b.id, Channel::Control, packet("x")), Err(SendError::UnknownPeer));
}

#[tokio::test]
async fn large_queue_leaves_before_shutdown_although_the_event_channel_is_full() {
    let mut patient = config("a");
    patient.limits.shutdown_drain = PATIENCE;
    let mut a = Member::at(patient, "127.0.0.1:0".parse().unwrap(), 1);
    let mut b = Member::start("b");
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    a.connected(&b.id, Channel::Control).await;
    b.connected(&a.id, Channel::Control).await;
    for _ in 0..3 {
        // Nobody takes these.
        b.transport.send(&a.id, Channel::Control, packet("x")).unwrap();
    }
    for n in 0..20 {
        a.transport.send(&b.id, Channel::Control, numbered(n, 300_000)).unwrap();
    }
    let receive = async {
        for n in 0..20 {
            assert!(b.received().await.2 == numbered(n, 300_000), "packet {n}");
        }
    };
    let start = std::time::Instant::now();
    tokio::join!(a.transport.shutdown(), receive);
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn bulk_link_closes_on_request_and_opens_again() {
    let (mut a, mut b) = pair(config("a"), config("b")).await;
    a.transport.open_bulk(&b.id);
    a.connected(&b.id, Channel::Bulk).await;
    a.transport.close_bulk(&b.id);
    assert!(a.closed(&b.id, Channel::Bulk).await.contains("no longer needed"));
    a.transport.send(&b.id, Channel::Bulk, packet("again")).unwrap();
    assert_eq!(b.received().await.2, packet("again"));
}
