//! What a peer with the key seals, however it likes, against a plain reading of the format.
//!
//! The input gives the limit, the size of the pieces in which bytes arrive, and messages behind their lengths; the
//! last one may come unsealed.

use bytes::Bytes;
use tanist_transport::{FrameError, Packet, parsers::Frames};

use crate::script::Script;

pub(crate) const WORDS: &[&[u8]] = &[
    &[0, 0, 0, 0, 0, 0, 0, 0],
    &[0, 0, 0, 1, 0, 0, 0, 1],
    &[0, 8, 0, 0, 0, 2, 0, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0, 0, 1, 0],
    &[0, 0],
];

pub(crate) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let limit = [1 << 20, 100, 0, 1 << 30][usize::from(script.byte() % 4)];
    let (piece, unsealed) = (1 + usize::from(script.u16()), script.byte().is_multiple_of(4));
    let Ok(mut frames) = Frames::new(limit) else { panic!("no randomness") };
    let mut model = Model { limit, plain: Vec::new() };
    let mut came = 0;
    while !script.is_empty() {
        let plain = script.chunk();
        if unsealed && script.is_empty() {
            // Nobody without the key makes a packet: what comes out stood complete before.
            let packets = frames.feed(plain, piece).unwrap_or_default();
            assert!(packets.is_empty(), "{packets:?} from bytes that weren't sealed");
            return;
        }
        let sealed = frames.seal(&plain[..plain.len().min(65_519)]);
        came += sealed.len();
        let expected = model.feed(plain);
        let found = frames.feed(&sealed, piece);
        // Before the error, complete packets may have been given out; they are the model's too.
        match (&found, &expected) {
            (Err(found), Err(expected)) => assert_eq!(found, expected),
            _ => assert_eq!(found, expected),
        }
        assert!(frames.reserved() <= (1 << 20) + 3 * came, "{} bytes reserved of {came}", frames.reserved());
        if found.is_err() {
            return;
        }
        assert_eq!(frames.at_end().is_ok(), model.plain.is_empty());
    }
}

/// The format in its simplest form: all bytes in one heap.
struct Model {
    limit: usize,
    plain: Vec<u8>,
}

impl Model {
    fn feed(&mut self, plain: &[u8]) -> Result<Vec<Packet>, FrameError> {
        self.plain.extend_from_slice(plain);
        let mut packets = Vec::new();
        while let [a, b, c, d, e, f, g, h, rest @ ..] = &self.plain[..] {
            let (head, body) = (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h]));
            let found = u64::from(head) + u64::from(body);
            if found > self.limit as u64 {
                return Err(FrameError::TooLarge { found, limit: self.limit });
            }
            let Some(parts) = rest.get(..found as usize) else { break };
            let (head, body) = parts.split_at(head as usize);
            packets.push(Packet { head: Bytes::copy_from_slice(head), body: Bytes::copy_from_slice(body) });
            self.plain.drain(..8 + found as usize);
        }
        Ok(packets)
    }
}
