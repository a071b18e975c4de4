//! What other machines send.

use std::{collections::BTreeSet, error::Error};

use bytes::Bytes;
use tanist_replication::{
    Addresses, ChainHash, Checksum, Complaint, Encoding, Member, Message, PagesWriter, Position, Rank, Stamp,
    SuccessionRecord, Term, Time, Times, Timing, Transaction,
    message::{Heartbeat, HeartbeatReply, Level, Report, VoteReply, VoteRequest},
    wire,
};
use tanist_transport::ClusterKey;

use crate::{Input, chunk, named};

fn member(id: &str, rank: u32) -> Result<Member, Box<dyn Error>> {
    Ok(Member {
        id: id.parse()?,
        rank: Rank(rank),
        peer_addresses: vec![format!("{id}:7450"), "10.0.0.1:7450".to_owned()],
        urls: vec![format!("http://{id}:8080")],
        absent: rank == 3,
    })
}

pub(crate) fn record() -> Result<SuccessionRecord, Box<dyn Error>> {
    let members = vec![member("pc-1", 1)?, member("pc-2", 2)?, member("pc-3", 3)?, member("w", 0)?];
    Ok(SuccessionRecord::blank(members).first_of_reign(Term(4), &"pc-1".parse()?))
}

/// Steps: 3 is the node's next deadline, 5 a message of the first peer, 0x15 of the second, 0x25 of the witness.
pub(crate) fn node() -> Result<Vec<Input>, Box<dyn Error>> {
    let members = vec![member("pc-1", 1)?, member("pc-2", 2)?, member("pc-3", 3)?, member("w", 0)?];
    let blank = SuccessionRecord::blank(members);
    let record = |term| Ok::<_, Box<dyn Error>>(blank.first_of_reign(Term(term), &"pc-2".parse()?));
    let say = |peer: u8, message| {
        let (head, body) = wire::encode(message);
        [&[peer][..], &chunk(&head), &chunk(&body)].concat()
    };
    let heartbeat = |term, tip| {
        let record = record(term)?;
        Ok::<_, Box<dyn Error>>(Message::Heartbeat(Heartbeat {
            term: Term(term),
            sent: Time(5_000_000),
            committed: record.key,
            record,
            acknowledged: Position::new(term, 1),
            tip,
            echo: None,
            serving: true,
            unhealthy: BTreeSet::new(),
            times: None,
            level: None,
        }))
    };
    let first = Stamp { position: Position::new(1, 1), chain: ChainHash([7; 16]) };
    let append = Message::Append {
        term: Term(1),
        transaction: Transaction {
            previous: Stamp::default(),
            stamp: first,
            checksum: Checksum([1; 16]),
            encoding: Encoding::Plain,
            plain_len: 5,
            payload: Bytes::from_static(b"pages"),
        },
        acknowledged: Position::ZERO,
    };
    let vote = |term| Message::Vote(VoteRequest { term: Term(term), record: blank.clone(), position: None });
    let grant = |term, pre| {
        let reply = VoteReply {
            term: Term(term),
            granted: true,
            own_term: Term(term),
            record: blank.clone(),
            position: Position::ZERO,
            acknowledged: Position::ZERO,
            lost: false,
        };
        if pre { Message::PreVoteReply(reply) } else { Message::VoteReply(reply) }
    };
    let follow = [say(5, heartbeat(1, first.position)?), say(5, append)].concat();
    Ok(named([
        ("follow", follow.clone()),
        (
            "goodbye",
            [
                follow.clone(),
                say(5, Message::Goodbye { term: Term(1), heir: None, limps: false }),
                vec![3; 4],
            ]
            .concat(),
        ),
        ("master_falls_silent", [follow.clone(), vec![0, 3, 3, 3, 3]].concat()),
        ("resync", [follow, say(5, Message::Resync { term: Term(1) })].concat()),
        ("vote", [say(5, vote(1)), say(0x15, vote(2))].concat()),
        (
            "stand_and_win",
            [
                vec![3, 3],
                say(0x15, grant(1, true)),
                say(0x25, grant(1, true)),
                say(0x15, grant(1, false)),
                say(0x25, grant(1, false)),
                vec![3, 3],
            ]
            .concat(),
        ),
        (
            "last_term_of_all",
            [say(5, vote(u64::MAX)), vec![3, 3, 3, 3], say(0x15, grant(u64::MAX, true)), vec![3; 4]].concat(),
        ),
        (
            "heartbeat_of_the_last_term",
            [say(5, heartbeat(u64::MAX, Position::new(u64::MAX, u64::MAX))?), vec![0, 3, 3, 3, 3]].concat(),
        ),
    ]))
}

pub(crate) fn wire() -> Result<Vec<Input>, Box<dyn Error>> {
    let (term, record) = (Term(4), record()?);
    let stamp = Stamp { position: Position::new(3, 9), chain: ChainHash([7; 16]) };
    let reply = VoteReply {
        term,
        granted: true,
        own_term: Term(3),
        record: record.clone(),
        position: stamp.position,
        acknowledged: stamp.position,
        lost: false,
    };
    let transaction = Transaction {
        previous: stamp,
        stamp,
        checksum: Checksum([1; 16]),
        encoding: Encoding::Zstd,
        plain_len: 12,
        payload: Bytes::from_static(b"some pages"),
    };
    let times = Times::from(&Timing::default());
    let messages = [
        (
            "pre_vote",
            Message::PreVote(VoteRequest { term, record: record.clone(), position: Some(stamp.position) }),
        ),
        ("pre_vote_reply", Message::PreVoteReply(reply.clone())),
        (
            "vote",
            Message::Vote(VoteRequest { term, record: SuccessionRecord::blank(vec![]), position: None }),
        ),
        ("vote_reply", Message::VoteReply(reply)),
        (
            "heartbeat",
            Message::Heartbeat(Heartbeat {
                term,
                sent: Time(5_000_000_000),
                committed: record.key,
                record,
                acknowledged: Position::new(4, 70_000),
                tip: Position::new(4, 70_001),
                echo: Some(Time(77)),
                serving: true,
                unhealthy: ["pc-3".parse()?].into(),
                times: Some(Box::new(times)),
                level: Some(Level { number: 7, held: true }),
            }),
        ),
        (
            "heartbeat_reply",
            Message::HeartbeatReply(HeartbeatReply {
                term,
                heartbeat_sent: Time(5),
                sent: Time(9),
                accepted: Default::default(),
                stamp: Some(stamp),
                moved: Some(Addresses { peer: vec!["10.0.0.9:7450".to_owned()], urls: vec![] }),
                sum: Some((Position::new(4, 70_000), 0x0123_4567_89ab_cdef)),
                unhealthy: Some(Complaint::new("the disk is slow")),
                promised: Some(times.lease),
                longest: Some(times.lease * 5),
                times: Some(Box::new(times)),
                awaits: true,
            }),
        ),
        ("append", Message::Append { term, transaction, acknowledged: Position::new(3, 8) }),
        ("stored", Message::Stored(Report { term, stamp })),
        ("refused", Message::Refused(Report { term, stamp })),
        ("resync", Message::Resync { term }),
        ("goodbye", Message::Goodbye { term, heir: Some("pc-2".parse()?), limps: true }),
    ];
    let encode = |message| {
        let (head, body) = wire::encode(message);
        [chunk(&head), body.to_vec()].concat()
    };
    let mut inputs = named(messages.map(|(name, message)| (name, encode(message))));
    inputs.extend(named(hostile_votes()));
    Ok(inputs)
}

/// Questions for a vote that no honest machine asks: term 4, and a record whose members are `members`.
fn hostile_votes() -> [(&'static str, Vec<u8>); 4] {
    let vote = |members: &[u8], after: &[u8]| {
        let head = [&[0x82, 2, 0x81, 0x83, 4, 0x84, 0x82, 0, 0, 0xf6, 0x80], members, after].concat();
        chunk(&head)
    };
    let addresses = [&[0x81, 0x85, 0x61, b'a', 1, 0x99, 7, 0][..], &[0x60; 0x700], &[0x80, 0xf4]].concat();
    let members = [&[0x9f][..], &[0x84, 0x61, b'a', 1, 0x80, 0x80].repeat(300), &[0xff]].concat();
    [
        ("many_empty_addresses", vote(&addresses, &[0])),
        ("many_small_members", vote(&members, &[0])),
        ("deep_unknown_field", vote(&[0x80], &[0x81; 1900])),
        ("endless_unknown_field", vote(&[0x80], &[0x9f; 1900])),
    ]
}

pub(crate) fn pages() -> Vec<Input> {
    let payload = |count: u32, database_pages| {
        let mut writer = PagesWriter::new(512, count as usize);
        for page in 1..=count {
            writer.page(page).fill(page as u8);
        }
        writer.finish(database_pages).to_vec()
    };
    named([("none", payload(0, 9)), ("one", payload(1, 1)), ("three_of_nine", payload(3, 9))])
}

fn opening(channel: u8) -> Vec<u8> {
    [&b"\x89tanist\n\x00\x01"[..], &[channel], &[9; 16], b"\x07plant-4", b"\x04pc-2"].concat()
}

fn answer(status: u8) -> Vec<u8> {
    [&b"\x89tanist\n\x00\x01"[..], &[status], &[9; 16], b"\x07plant-4"].concat()
}

fn hello(to: &str, addresses: &[&str]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut bytes);
    encoder.array(4)?.str("pc-2")?.str(to)?.bytes(&[7; 16])?.encode(addresses)?;
    Ok(bytes)
}

/// With what the dialling side runs.
fn hello_of(version: &str, (min, max): (u32, u32)) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut bytes);
    encoder.array(7)?.str("pc-2")?.str("pc-1")?.bytes(&[7; 16])?.array(0)?.null()?.null()?;
    encoder.array(4)?.str(version)?.array(2)?.u32(min)?.u32(max)?.u64(1)?.array(2)?.u32(6)?.u32(7)?;
    Ok(bytes)
}

fn hello_answer(verdict: u8) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    minicbor::Encoder::new(&mut bytes).array(2)?.str("pc-2")?.u8(verdict)?;
    Ok(bytes)
}

pub(crate) fn preamble() -> Result<Vec<Input>, Box<dyn Error>> {
    let of_kind = |kind: u8, bytes: Vec<u8>| [&[kind][..], &bytes].concat();
    Ok(named([
        ("opening", of_kind(0, opening(1))),
        ("opening_copy", of_kind(0, opening(3))),
        ("opening_newer", of_kind(0, b"\x89tanist\n\x00\x02and more".to_vec())),
        ("opening_http", of_kind(0, b"GET / HTTP/1.1\r\n\r\n".to_vec())),
        ("answer_go", of_kind(1, answer(0))),
        ("answer_wrong_cluster", of_kind(1, answer(4))),
        ("hello", of_kind(2, hello("pc-1", &[])?)),
        ("hello_with_addresses", of_kind(2, hello("pc-1", &["10.0.0.2:7450", "pc-2:7450"])?)),
        ("hello_with_many_addresses", of_kind(2, hello("pc-1", &[""; 900])?)),
        ("hello_of_a_program", of_kind(2, hello_of("0.1.0", (1, 2))?)),
        ("hello_answer", of_kind(3, hello_answer(0)?)),
        ("hello_answer_in_use", of_kind(3, hello_answer(2)?)),
    ]))
}

pub(crate) fn handshake() -> Vec<Input> {
    let steps = |steps: u8, chunks: &[&[u8]]| {
        let chunks: Vec<u8> = chunks.iter().flat_map(|bytes| chunk(bytes)).collect();
        [&[steps][..], &chunks].concat()
    };
    let hello = hello("pc-1", &["pc-2:7450"]).unwrap_or_default();
    let welcome = hello_answer(0).unwrap_or_default();
    let newer = hello_of("9.0.0", (8, 9)).unwrap_or_default();
    let upside_down = hello_of("0.1.0", (2, 1)).unwrap_or_default();
    let proof = [&[0, 48][..], &[5; 48]].concat();
    named([
        ("accept_honest", steps(0, &[])),
        ("accept_opening", steps(1, &[&opening(1)])),
        ("accept_forged_proof", steps(2, &[&proof])),
        ("accept_short_proof", steps(2, &[&[0, 3, 1, 2, 3]])),
        ("accept_long_proof", steps(2, &[&[4, 1]])),
        ("accept_hello", steps(4, &[&hello])),
        ("accept_hello_without_a_common_version", steps(4, &[&newer])),
        ("accept_hello_of_no_program", steps(4, &[&upside_down])),
        ("accept_opening_and_hello", steps(5, &[&opening(2), &hello])),
        ("accept_all", steps(7, &[&opening(1), &proof, &hello])),
        ("dial_honest", steps(8, &[])),
        ("dial_answer", steps(9, &[&answer(0)])),
        ("dial_unknown_member", steps(9, &[&answer(5)])),
        ("dial_forged_proof", steps(10, &[&proof])),
        ("dial_key_refused", steps(10, &[&[0, 0]])),
        ("dial_welcome", steps(12, &[&welcome])),
        ("dial_answer_and_welcome", steps(13, &[&answer(0), &welcome])),
    ])
}

pub(crate) fn frames() -> Vec<Input> {
    let packet = |head: &[u8], body: &[u8]| {
        let lengths = [(head.len() as u32).to_be_bytes(), (body.len() as u32).to_be_bytes()].concat();
        [&lengths[..], head, body].concat()
    };
    let stream = |limit: u8, piece: u16, kind: u8, messages: &[&[u8]]| {
        let messages: Vec<u8> = messages.iter().flat_map(|bytes| chunk(bytes)).collect();
        [&[limit][..], &piece.to_be_bytes(), &[kind], &messages].concat()
    };
    let small = packet(b"head", b"a body");
    let large = packet(b"h", &[3; 1000]);
    named([
        ("two_packets", stream(0, 500, 1, &[&small, &packet(b"", b"")])),
        ("two_in_one_message", stream(0, 500, 1, &[&[small.clone(), small.clone()].concat()])),
        ("byte_by_byte", stream(0, 0, 1, &[&small, &small])),
        ("cut_anywhere", stream(0, 7, 1, &[&small[..3], &small[3..9], &[], &small[9..]])),
        ("body_in_several_messages", stream(3, 300, 1, &[&large[..400], &large[400..700], &large[700..]])),
        ("too_large", stream(1, 500, 1, &[&large])),
        ("huge_announced", stream(0, 500, 1, &[&[0xff; 8]])),
        (
            "much_announced_little_sent",
            stream(3, 500, 1, &[&[0, 0, 0, 0, 0x3f, 0, 0, 0], b"and then nothing"]),
        ),
        ("nothing_allowed", stream(2, 500, 1, &[&packet(b"", b""), &packet(b"", b"x")])),
        ("signs_of_life", stream(0, 500, 1, &[&[], &[], &small, &[]])),
        ("unsealed_end", stream(0, 500, 0, &[&small, &small])),
    ])
}

pub(crate) fn text() -> Vec<Input> {
    let key = ClusterKey::from_bytes(std::array::from_fn(|n| n as u8)).to_text();
    named([
        ("member", b"pc-2.hall_4".to_vec()),
        ("longest_member", vec![b'x'; 63]),
        ("position", b"3.1042".to_vec()),
        ("largest_position", b"18446744073709551615.18446744073709551615".to_vec()),
        ("key", key.into_bytes()),
        ("key_hex", b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F".to_vec()),
    ])
}
