//! The plain-text beginning of a connection and the decrypted hello: the first byte says which.

use tanist_transport::{HandshakeError, parsers};

pub(crate) const WORDS: &[&[u8]] =
    &[b"\x89tanist\n", b"\x89tanist\n\x00\x01", b"plant-4", b"pc-1", &[63], &[64], &[0x50], &[0x83]];

/// Longest preamble: start, version, channel, nonce, and two texts of 63 bytes behind their lengths.
const LONGEST: usize = 8 + 2 + 1 + 16 + 64 + 64;

pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 4 {
        0 => preamble(bytes, parsers::opening(bytes)),
        1 => preamble(bytes, parsers::answer(bytes)),
        2 => hello(bytes, parsers::hello),
        _ => hello(bytes, parsers::hello_answer),
    }
}

fn preamble(bytes: &[u8], parsed: Result<parsers::Preamble, HandshakeError>) {
    let Ok(preamble) = parsed else { return };
    assert!(bytes.starts_with(&preamble.read), "more was taken than came");
    assert!(preamble.read.len() <= LONGEST, "{} bytes", preamble.read.len());
    assert_eq!(preamble.encoded, preamble.read, "one form only: both ends hash it");
}

fn hello(bytes: &[u8], parse: fn(&[u8]) -> Option<Vec<u8>>) {
    let Some(again) = parse(bytes) else { return };
    assert_eq!(parse(&again), Some(again), "encoded and decoded again");
}
