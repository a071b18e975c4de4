//! Messages of peers that say anything, in any order, to a node of three data members and a witness: it answers, refuses or
//! ignores them.
//!
//! The input is a series of steps: a message behind its length, the time that has come, a link that breaks.

use bytes::Bytes;
use tanist_replication::{Config, Effect, Event, Member, MemberId, Node, Rank, Stamp, Time, Timing, wire};

use crate::script::Script;

const PEERS: [&str; 4] = ["pc-2", "pc-3", "w", "stranger"];

fn id(text: &str) -> MemberId {
    match text.parse() {
        Ok(id) => id,
        Err(error) => panic!("{error}"),
    }
}

fn node() -> Node {
    let member = |name: &str, rank| Member {
        id: id(name),
        rank: Rank(rank),
        peer_addresses: vec![format!("{name}:7450")],
        urls: vec![],
        absent: false,
    };
    let config = Config {
        id: id("pc-1"),
        members: vec![member("pc-1", 1), member("pc-2", 2), member("pc-3", 3), member("w", 0)],
        timing: Timing::default(),
        sync_backups: 1,
        min_sync_backups: 0,
        buffer_bytes: 1 << 20,
        inflight_bytes: 1 << 19,
        voter_timeout: None,
        failback: None,
        seed: 1,
    };
    Node::new(config, None, Stamp::default(), true, Time(0))
}

pub(crate) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut node = node();
    let mut now = Time(1);
    for peer in &PEERS[..3] {
        node.handle(now, Event::LinkUp(id(peer)));
    }
    while !script.is_empty() {
        let step = script.byte();
        let peer = id(PEERS[usize::from(step >> 4) % PEERS.len()]);
        let event = match step & 15 {
            0 => Event::LinkDown(peer),
            1 => Event::LinkUp(peer),
            2 => Event::Refused(peer),
            3 | 4 => {
                now = node.deadline().max(now);
                Event::Tick
            }
            _ => {
                let (head, body) = (script.chunk(), script.chunk());
                match wire::decode(head, Bytes::copy_from_slice(body)) {
                    Ok(message) => Event::Message { from: peer, message },
                    Err(_) => continue,
                }
            }
        };
        perform(&mut node, now, event);
    }
}

/// Hands the event over and does what the store would do.
fn perform(node: &mut Node, now: Time, event: Event) {
    let mut events = vec![event];
    for _ in 0..50 {
        let Some(event) = events.pop() else { return };
        for effect in node.handle(now, event) {
            match effect {
                Effect::Apply(transaction) => events.push(Event::Stored(transaction.stamp)),
                Effect::StartReign { term, .. } => {
                    events.push(Event::ReignFailed { term, stamp: Stamp::default(), why: "test".to_owned() });
                }
                Effect::EndReign => events.push(Event::ReignEnded(Stamp::default())),
                _ => {}
            }
        }
    }
}
