#![allow(clippy::unwrap_used)]

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::{ClusterKey, noise};

fn ends() -> (Encoder, Sealer, Opener) {
    let key = ClusterKey::generate();
    let mut dialler = noise::handshake(&key, b"prologue", true).unwrap();
    let mut acceptor = noise::handshake(&key, b"prologue", false).unwrap();
    let (mut message, mut payload) = ([0; 256], [0; 256]);
    let length = dialler.write_message(&[], &mut message).unwrap();
    acceptor.read_message(&message[..length], &mut payload).unwrap();
    let length = acceptor.write_message(&[], &mut message).unwrap();
    dialler.read_message(&message[..length], &mut payload).unwrap();
    let (sealer, _) = noise::split(dialler).unwrap();
    let (back, opener) = noise::split(acceptor).unwrap();
    (Encoder::new(sealer), back, opener)
}

fn pair(limit: usize) -> (Encoder, Decoder) {
    let (encoder, _, opener) = ends();
    (encoder, Decoder::new(opener, limit))
}

fn packet(head: usize, body: usize, seed: u8) -> Packet {
    let bytes =
        |length: usize, salt: u8| (0..length).map(|n| (n as u8).wrapping_mul(31) ^ seed ^ salt).collect();
    Packet { head: bytes(head, 1), body: bytes(body, 2) }
}

fn encode(encoder: &mut Encoder, packets: &[Packet]) -> Vec<u8> {
    let mut out = Vec::new();
    for packet in packets {
        encoder.start(packet.clone());
        while encoder.is_busy() {
            encoder.fill().unwrap();
            out.extend_from_slice(encoder.pending());
            encoder.written();
        }
    }
    out
}

/// Feeds `bytes` in pieces and collects what comes out.
fn decode(
    decoder: &mut Decoder,
    mut bytes: &[u8],
    mut piece: impl FnMut() -> usize,
) -> Result<Vec<Packet>, FrameError> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let space = decoder.space();
        let count = piece().clamp(1, space.len()).min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        decoder.filled(count);
        bytes = &bytes[count..];
        while let Some(packet) = decoder.next()? {
            packets.push(packet);
        }
    }
    Ok(packets)
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 0usize..64,
        2 => (MAX_PLAIN - 40)..(MAX_PLAIN + 40),
        1 => (2 * MAX_PLAIN - 40)..(2 * MAX_PLAIN + 40),
        1 => 0usize..400_000,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packets_survive_any_split_of_the_stream(
        sizes in vec((size(), size()), 1..6),
        pieces in vec(1usize..90_000, 1..40),
    ) {
        let (mut encoder, mut decoder) = pair(2_000_000);
        let packets: Vec<_> =
            sizes.iter().enumerate().map(|(n, (head, body))| packet(*head, *body, n as u8)).collect();
        let bytes = encode(&mut encoder, &packets);
        let mut turn = 0;
        let decoded = decode(&mut decoder, &bytes, || { turn += 1; pieces[turn % pieces.len()] }).unwrap();
        prop_assert!(decoded == packets);
        prop_assert_eq!(decoder.at_end(), Ok(()));
    }

    #[test]
    fn any_changed_byte_gives_an_error_or_an_unfinished_stream_never_a_wrong_packet(
        sizes in vec((0usize..300, 0usize..70_000), 1..4),
        at: Index,
        flip in 1u8..,
    ) {
        let (mut encoder, mut decoder) = pair(1_000_000);
        let packets: Vec<_> =
            sizes.iter().enumerate().map(|(n, (head, body))| packet(*head, *body, n as u8)).collect();
        let mut bytes = encode(&mut encoder, &packets);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        match decode(&mut decoder, &bytes, || 50_000) {
            Err(error) => prop_assert_eq!(error, FrameError::Corrupt),
            Ok(decoded) => {
                prop_assert!(packets.starts_with(&decoded));
                prop_assert_eq!(decoder.at_end(), Err(FrameError::Truncated));
            }
        }
    }

    #[test]
    fn stream_cut_anywhere_is_truncated_unless_between_packets(
        sizes in vec((0usize..300, 0usize..70_000), 1..4),
        at: Index,
    ) {
        let (mut encoder, mut decoder) = pair(1_000_000);
        let packets: Vec<_> =
            sizes.iter().enumerate().map(|(n, (head, body))| packet(*head, *body, n as u8)).collect();
        let bytes = encode(&mut encoder, &packets);
        let cut = at.index(bytes.len());
        let decoded = decode(&mut decoder, &bytes[..cut], || 50_000).unwrap();
        prop_assert!(packets.starts_with(&decoded));
        let mut whole = 0;
        let (mut again, _) = pair(1);
        let boundary = cut == 0 || packets.iter().any(|p| {
            whole += encode(&mut again, std::slice::from_ref(p)).len();
            whole == cut
        });
        prop_assert_eq!(decoder.at_end().is_ok(), boundary);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..2000)) {
        let (_, mut decoder) = pair(1_000_000);
        if let Ok(packets) = decode(&mut decoder, &bytes, || 700) {
            prop_assert!(packets.is_empty());
        }
    }
}

/// Plain bytes that no honest encoder writes, sealed.
fn sealed(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plain.len() + 2 + TAG];
    let length = sealer.seal(plain, &mut out).unwrap();
    out.truncate(length);
    out
}

fn announce(head: u32, body: u32) -> Vec<u8> {
    [head.to_be_bytes(), body.to_be_bytes()].concat()
}

#[test]
fn oversize_announcement_is_refused_before_any_memory_is_reserved() {
    for (head, body) in [(0, 1001), (1001, 0), (500, 501), (u32::MAX, u32::MAX)] {
        let (encoder, _, opener) = ends();
        let mut sealer = encoder.sealer;
        let mut decoder = Decoder::new(opener, 1000);
        let found = u64::from(head) + u64::from(body);
        let result = decode(&mut decoder, &sealed(&mut sealer, &announce(head, body)), || 100);
        assert_eq!(result, Err(FrameError::TooLarge { found, limit: 1000 }));
        assert!(decoder.reserved() < 20_000, "{}", decoder.reserved());
    }
}

#[test]
fn announced_length_reserves_little_until_the_bytes_come() {
    let (encoder, _, opener) = ends();
    let mut sealer = encoder.sealer;
    let mut decoder = Decoder::new(opener, 1 << 30);
    decode(&mut decoder, &sealed(&mut sealer, &announce(0, 1 << 30)), || 100).unwrap();
    assert!(decoder.reserved() < 300_000, "{}", decoder.reserved());
    for _ in 0..40 {
        decode(&mut decoder, &sealed(&mut sealer, &[7; 60_000]), || 30_000).unwrap();
    }
    assert!(decoder.reserved() < 3 * 40 * 60_000, "{}", decoder.reserved());
}

#[test]
fn several_packets_in_one_message_and_signs_of_life_between_are_understood() {
    let (encoder, _, opener) = ends();
    let mut sealer = encoder.sealer;
    let mut decoder = Decoder::new(opener, 1000);
    let plain = [announce(2, 1), b"abc".to_vec(), announce(0, 0), announce(0, 2), b"d".to_vec()].concat();
    let mut bytes = sealed(&mut sealer, &[]);
    bytes.extend(sealed(&mut sealer, &plain));
    bytes.extend(sealed(&mut sealer, &[]));
    bytes.extend(sealed(&mut sealer, b"e"));
    let packets = decode(&mut decoder, &bytes, || 1).unwrap();
    let text = |t: &'static str| Bytes::from_static(t.as_bytes());
    let expected = [
        Packet { head: text("ab"), body: text("c") },
        Packet::default(),
        Packet { head: text(""), body: text("de") },
    ];
    assert_eq!(packets, expected);
    assert_eq!(decoder.at_end(), Ok(()));
}

#[test]
fn message_repeated_or_left_out_is_corrupt() {
    let (mut encoder, mut decoder) = pair(1000);
    let first = encode(&mut encoder, &[packet(3, 3, 0)]);
    assert_eq!(decode(&mut decoder, &first, || 100).unwrap().len(), 1);
    assert_eq!(decode(&mut decoder, &first, || 100), Err(FrameError::Corrupt));

    let (mut encoder, mut decoder) = pair(1000);
    encode(&mut encoder, &[packet(3, 3, 0)]);
    let second = encode(&mut encoder, &[packet(3, 3, 1)]);
    assert_eq!(decode(&mut decoder, &second, || 100), Err(FrameError::Corrupt));
}

#[test]
fn message_too_short_for_its_tag_is_corrupt() {
    let (_, mut decoder) = pair(1000);
    assert_eq!(
        decode(&mut decoder, &[0, 15, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], || 100),
        Err(FrameError::Corrupt)
    );
}
