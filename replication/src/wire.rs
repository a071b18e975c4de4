//! Messages as bytes: a CBOR head with indexed fields (new fields can be added) and, for a transaction, its payload
//! as a body of its own, so that it is never copied into the head.
//!
//! Programs of different versions talk to each other: fields are only added, at the end of their message, and a reader skips
//! those that it doesn't know. A field that an older program doesn't send is an `Option`, or has `#[cbor(default)]`. A message of a kind that isn't known is
//! told apart from nonsense ([`WireError::UnknownKind`]), and ignored.
//!
//! Safe on hostile input: a decode error names what was wrong, and what is allocated is a small multiple of the input's
//! length, whatever the input announces.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::{
    frame::{Checksum, Encoding, Stamp, Transaction},
    member::MemberId,
    message::{Heartbeat, HeartbeatReply, Message, Report, VoteReply, VoteRequest},
    position::{Position, Term},
};

/// The newest kind of message in [`Head`].
const NEWEST_KIND: u32 = 11;

#[derive(Encode, Decode)]
enum Head {
    #[n(0)]
    PreVote(#[n(0)] VoteRequest),
    #[n(1)]
    PreVoteReply(#[n(0)] VoteReply),
    #[n(2)]
    Vote(#[n(0)] VoteRequest),
    #[n(3)]
    VoteReply(#[n(0)] VoteReply),
    #[n(4)]
    Heartbeat(#[n(0)] Heartbeat),
    #[n(5)]
    HeartbeatReply(#[n(0)] HeartbeatReply),
    #[n(6)]
    Append(#[n(0)] AppendHead),
    #[n(7)]
    Stored(#[n(0)] Report),
    #[n(8)]
    Refused(#[n(0)] Report),
    #[n(9)]
    Resync(#[n(0)] Term),
    #[n(10)]
    Goodbye(
        #[n(0)] Term,
        #[n(1)] Option<MemberId>,
        #[n(2)]
        #[cbor(default)]
        bool,
    ),
    #[n(11)]
    Distrust(#[n(0)] Report),
}

#[derive(Encode, Decode)]
struct AppendHead {
    #[n(0)]
    term: Term,
    #[n(1)]
    previous: Stamp,
    #[n(2)]
    stamp: Stamp,
    #[n(3)]
    checksum: Checksum,
    #[n(4)]
    encoding: Encoding,
    #[n(5)]
    plain_len: u32,
    #[n(6)]
    #[cbor(default)]
    acknowledged: Position,
}

/// Bytes that are no message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The head isn't a known message.
    #[error("decode peer message: {0}")]
    Head(#[from] minicbor::decode::Error),
    /// A message of a newer program: not a fault of the peer's.
    #[error("decode peer message: a message of kind {0}, which this program doesn't know")]
    UnknownKind(u32),
    /// Bytes after the head's end.
    #[error("decode peer message: {0} bytes after its end")]
    Trailing(usize),
    /// A body where none belongs.
    #[error("decode peer message: a body of {0} bytes, expected none")]
    Body(usize),
}

/// The message's head and body.
#[must_use]
pub fn encode(message: Message) -> (Bytes, Bytes) {
    let mut body = Bytes::new();
    let head = match message {
        Message::PreVote(request) => Head::PreVote(request),
        Message::PreVoteReply(reply) => Head::PreVoteReply(reply),
        Message::Vote(request) => Head::Vote(request),
        Message::VoteReply(reply) => Head::VoteReply(reply),
        Message::Heartbeat(heartbeat) => Head::Heartbeat(heartbeat),
        Message::HeartbeatReply(reply) => Head::HeartbeatReply(reply),
        Message::Append { term, transaction, acknowledged } => {
            body = transaction.payload;
            Head::Append(AppendHead {
                term,
                previous: transaction.previous,
                stamp: transaction.stamp,
                checksum: transaction.checksum,
                encoding: transaction.encoding,
                plain_len: transaction.plain_len,
                acknowledged,
            })
        }
        Message::Stored(report) => Head::Stored(report),
        Message::Refused(report) => Head::Refused(report),
        Message::Resync { term } => Head::Resync(term),
        Message::Distrust(report) => Head::Distrust(report),
        Message::Goodbye { term, heir, limps } => Head::Goodbye(term, heir, limps),
    };
    let mut bytes = Vec::with_capacity(128);
    let mut encoder = minicbor::Encoder::new(&mut bytes);
    // Writing to a Vec can't fail: its error type has no values.
    let Ok(_) = encoder.encode(&head).map_err(drop) else { return (Bytes::new(), Bytes::new()) };
    (bytes.into(), body)
}

/// Reads a message.
///
/// # Errors
/// When the bytes are no message of this protocol version.
pub fn decode(head: &[u8], body: Bytes) -> Result<Message, WireError> {
    if let Some(kind) = unknown_kind(head) {
        return Err(WireError::UnknownKind(kind));
    }
    let mut decoder = minicbor::Decoder::new(head);
    let parsed: Head = decoder.decode()?;
    if decoder.position() != head.len() {
        return Err(WireError::Trailing(head.len() - decoder.position()));
    }
    if !body.is_empty() && !matches!(parsed, Head::Append(_)) {
        return Err(WireError::Body(body.len()));
    }
    Ok(match parsed {
        Head::PreVote(request) => Message::PreVote(request),
        Head::PreVoteReply(reply) => Message::PreVoteReply(reply),
        Head::Vote(request) => Message::Vote(request),
        Head::VoteReply(reply) => Message::VoteReply(reply),
        Head::Heartbeat(heartbeat) => Message::Heartbeat(heartbeat),
        Head::HeartbeatReply(reply) => Message::HeartbeatReply(reply),
        Head::Append(append) => Message::Append {
            term: append.term,
            transaction: Transaction {
                previous: append.previous,
                stamp: append.stamp,
                checksum: append.checksum,
                encoding: append.encoding,
                plain_len: append.plain_len,
                payload: body,
            },
            acknowledged: append.acknowledged,
        },
        Head::Stored(report) => Message::Stored(report),
        Head::Refused(report) => Message::Refused(report),
        Head::Resync(term) => Message::Resync { term },
        Head::Distrust(report) => Message::Distrust(report),
        Head::Goodbye(term, heir, limps) => Message::Goodbye { term, heir, limps },
    })
}

/// The kind of a whole message that this program doesn't know. What isn't whole is judged as before.
fn unknown_kind(head: &[u8]) -> Option<u32> {
    let mut decoder = minicbor::Decoder::new(head);
    let two = decoder.array().ok()? == Some(2);
    let kind = decoder.u32().ok().filter(|kind| two && *kind > NEWEST_KIND)?;
    decoder.skip().ok()?;
    (decoder.position() == head.len()).then_some(kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Times;
    use crate::{
        Addresses, Member, Rank, complaint::Complaint, frame::ChainHash, succession::SuccessionRecord,
        time::Time,
    };

    fn messages() -> Vec<Message> {
        let record = SuccessionRecord::blank(vec![Member {
            id: "a".parse().unwrap(),
            rank: Rank(1),
            peer_addresses: vec!["h:1".into()],
            urls: vec!["http://h:2".into()],
            absent: true,
        }]);
        let stamp = Stamp { position: Position::new(3, 9), chain: ChainHash([7; 16]) };
        let reply = VoteReply {
            term: Term(4),
            granted: true,
            own_term: Term(3),
            record: record.clone(),
            position: Position::new(1, 2),
            acknowledged: Position::new(1, 3),
            lost: true,
        };
        let times = Times::from(&crate::Timing::default());
        vec![
            Message::PreVote(VoteRequest {
                term: Term(4),
                record: record.clone(),
                position: Some(Position::new(2, 7)),
            }),
            Message::PreVoteReply(reply.clone()),
            Message::VoteReply(reply),
            Message::Heartbeat(Heartbeat {
                term: Term(4),
                sent: Time(5),
                committed: record.key,
                record,
                acknowledged: Position::new(4, 8),
                tip: Position::new(4, 9),
                echo: Some(Time(77)),
                serving: true,
                unhealthy: ["c".parse().unwrap()].into(),
                times: Some(Box::new(times)),
                level: Some(crate::message::Level { number: 7, held: true }),
            }),
            Message::HeartbeatReply(HeartbeatReply {
                term: Term(4),
                heartbeat_sent: Time(5),
                sent: Time(9),
                accepted: Default::default(),
                stamp: Some(stamp),
                moved: Some(Addresses { peer: vec!["a:1".to_owned()], urls: vec![] }),
                sum: Some((Position::new(4, 8), u64::MAX)),
                unhealthy: Some(Complaint::new("disk is slow")),
                promised: Some(times.lease),
                longest: Some(times.lease * 3),
                times: Some(Box::new(times)),
                awaits: true,
            }),
            Message::Append {
                term: Term(4),
                transaction: Transaction {
                    previous: stamp,
                    stamp,
                    checksum: Checksum([1; 16]),
                    encoding: Encoding::Zstd,
                    plain_len: 12,
                    payload: Bytes::from_static(b"pages"),
                },
                acknowledged: Position::new(3, 7),
            },
            Message::Stored(Report { term: Term(4), stamp }),
            Message::Resync { term: Term(4) },
            Message::Distrust(Report { term: Term(4), stamp }),
            Message::Goodbye { term: Term(4), heir: Some("b".parse().unwrap()), limps: true },
        ]
    }

    #[test]
    fn messages_read_back_as_written() {
        for message in messages() {
            let (head, body) = encode(message.clone());
            assert_eq!(decode(&head, body).unwrap(), message);
        }
    }

    #[test]
    fn decode_refuses_truncated_heads_trailing_bytes_and_stray_bodies() {
        for message in messages() {
            let (head, body) = encode(message);
            for cut in 0..head.len() {
                assert!(decode(&head[..cut], body.clone()).is_err());
            }
            let longer = [&head[..], &[0]].concat();
            assert!(matches!(decode(&longer, body), Err(WireError::Trailing(1))));
        }
        let (head, _) = encode(Message::Resync { term: Term(1) });
        assert!(matches!(decode(&head, Bytes::from_static(b"x")), Err(WireError::Body(1))));
    }

    #[test]
    fn fields_of_a_newer_program_are_skipped() {
        for message in messages() {
            let (head, body) = encode(message.clone());
            // An array of two: the kind, and the array of its fields.
            let fields = if head[1] == 10 || head[1] == 9 { 2 } else { 3 };
            let mut newer = head.to_vec();
            newer[fields] += 1;
            newer.extend([0x82, 0x18, 0x2a, 0x61, b'x']);
            assert_eq!(decode(&newer, body).unwrap(), message, "{head:?}");
        }
    }

    #[test]
    fn message_of_a_newer_program_is_told_apart_from_nonsense() {
        for kind in [NEWEST_KIND + 1, 99, u32::MAX] {
            let newer = minicbor::to_vec((kind, ("of a newer program", 7))).unwrap();
            assert!(
                matches!(decode(&newer, Bytes::new()), Err(WireError::UnknownKind(found)) if found == kind)
            );
            assert!(matches!(decode(&newer[..newer.len() - 1], Bytes::new()), Err(WireError::Head(_))));
            let longer = [&newer[..], &[0]].concat();
            assert!(matches!(decode(&longer, Bytes::new()), Err(WireError::Head(_))));
        }
        // No kind that is known is thought to be a newer one.
        for message in messages() {
            assert_eq!(unknown_kind(&encode(message).0), None);
        }
        assert!(minicbor::decode::<Head>(&minicbor::to_vec((NEWEST_KIND + 1, [0; 0])).unwrap()).is_err());
    }

    /// The bytes of the first version of the peer protocol: programs that still send them are members of clusters that are
    /// being upgraded. If this fails, give the new field `#[cbor(default)]`, or make it an `Option`.
    #[test]
    fn messages_of_the_first_version_are_still_read() {
        let recorded = include_str!("../tests/wire_1.txt");
        let mut kinds = std::collections::BTreeSet::new();
        for line in recorded.lines() {
            let (name, hex) = line.split_once(' ').unwrap();
            let head: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let message = decode(&head, Bytes::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
            // An array of two, of which the first is the kind.
            kinds.insert(head[1]);
            // And what it read is all that was said: only fields that are new are added.
            let (again, _) = encode(message);
            assert!(again.len() >= head.len(), "{name}");
        }
        assert_eq!(kinds.len(), 10, "all kinds but append, which has a body of its own");
    }

    #[test]
    fn decode_refuses_numbers_that_leave_no_room_to_count_on() {
        let message = |term| encode(Message::Resync { term: Term(term) });
        for term in [(1 << 62) + 1, u64::MAX] {
            let (head, body) = message(term);
            let error = decode(&head, body).unwrap_err().to_string();
            assert!(error.contains(&term.to_string()), "{error}");
        }
        let (head, body) = message(1 << 62);
        assert_eq!(decode(&head, body).unwrap().term(), Term(1 << 62));
    }

    proptest! {
        #[test]
        fn decode_never_panics(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&head, Bytes::new());
        }
    }
}
