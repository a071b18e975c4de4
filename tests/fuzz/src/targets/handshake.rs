//! A whole handshake with a peer that departs from it at any step, on either side.

use tanist_transport::parsers::{self, Peer};

use crate::script::Script;

pub(crate) const WORDS: &[&[u8]] =
    &[b"\x89tanist\n\x00\x01", b"plant-4", b"pc-1", b"pc-2", &[0, 48], &[4, 0]];

pub(crate) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let steps = script.byte();
    let mut step = |bit: u8| (steps & bit != 0).then(|| script.chunk());
    let peer = Peer { preamble: step(1), proof: step(2), hello: step(4) };
    let honest = peer.preamble.is_none() && peer.proof.is_none() && peer.hello.is_none();
    if steps & 8 == 0 {
        match parsers::accept(peer) {
            Ok((_, from)) => {
                assert!(peer.proof.is_none(), "accepted without the key");
                assert_eq!(from.as_str(), "pc-2", "accepted a stranger");
            }
            Err(error) => assert!(!honest, "an honest member was refused: {error}"),
        }
    } else {
        match parsers::dial(peer) {
            Ok(()) => assert!(peer.proof.is_none(), "dialled without the key"),
            Err(error) => assert!(!honest, "an honest member was refused: {error}"),
        }
    }
}
