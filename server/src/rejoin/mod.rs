//! Bringing a replica in line by page hashes (R12): what travels between it and the master, and how far it is.
//!
//! Three parties: `serve.rs` on the master, `fetch.rs` between the replica's store thread and the stream, `take.rs` in
//! the store thread. Memory is bounded by a few answers at both ends. Read `tanist_store::CopyOut` and `Rejoin` for what
//! the messages mean.

mod board;
mod fetch;
mod serve;
mod take;

use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use tanist_replication::{Encoding, Stamp, TermHistory};
use tanist_transport::{Packet, SecureReceiver, SecureSender};

pub(crate) use board::Board;
pub(crate) use fetch::{Link, Stop, fetch, link};
pub(crate) use serve::serve;
pub(crate) use take::take;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a rejoin under way is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// Questions that a replica asks ahead of their answers.
const AHEAD: usize = 4;
/// Largest answer a replica takes, uncompressed: the pages that one question covers, with their numbers.
const ANSWER_LIMIT: usize = (1 << 20) + (64 << 10);

/// What travels on a rejoin stream. 0 to 4 were the messages of whole copies.
#[derive(Debug, Encode, Decode)]
enum Head {
    /// The replica begins: what it is, the key under which it hashes pages, and whether all pages must be compared.
    #[n(5)]
    Ask(#[n(0)] Stamp, #[cbor(n(1), with = "minicbor::bytes")] [u8; 32], #[n(2)] bool),
    /// The master's snapshot: stamp, bytes of a page, pages, who reigned. With `true` the body lists the pages that were written
    /// since the replica's stamp, and these alone are compared.
    #[n(6)]
    Target(#[n(0)] Stamp, #[n(1)] u32, #[n(2)] u32, #[n(3)] TermHistory, #[n(4)] bool),
    /// Which of so many pages from a place in the list on differ? Without a list a page's place is its number. The body has
    /// their hashes.
    #[n(7)]
    Question(#[n(0)] u32, #[n(1)] u32),
    /// The body has those that differ: how it is encoded, and its length when it isn't.
    #[n(8)]
    Answer(#[n(0)] Encoding, #[n(1)] u32),
    /// All was asked: the hash of the whole snapshot, or of the pages in the list.
    #[n(9)]
    End(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]),
    /// The master can't go on.
    #[n(10)]
    Failed(#[n(0)] String),
    /// The replica can't go on.
    #[n(11)]
    GivenUp(#[n(0)] String),
    /// The replica is in line.
    #[n(12)]
    Done,
}

/// Why a rejoin failed. Nothing was changed; the replica tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RejoinError {
    /// The stream.
    #[error("rejoin stream: {0}")]
    Link(String),
    /// The master said so.
    #[error("the master could not go on: {0}")]
    Master(String),
    /// The replica said so.
    #[error("the replica could not go on: {0}")]
    Replica(String),
    /// Something that can't be.
    #[error("rejoin stream: {0}")]
    Unexpected(String),
    /// The local database.
    #[error(transparent)]
    Store(#[from] tanist_store::StoreError),
}

/// Sends; gives the bytes of head and body.
async fn send(stream: &mut SecureSender, head: &Head, body: Bytes) -> Result<u64, RejoinError> {
    let packet = Packet { head: minicbor::to_vec(head).unwrap_or_default().into(), body };
    let bytes = packet.len() as u64;
    match tokio::time::timeout(PATIENCE, stream.send(packet)).await {
        Ok(Ok(())) => Ok(bytes),
        Ok(Err(error)) => Err(RejoinError::Link(error.to_string())),
        Err(_) => Err(RejoinError::Link(format!("no progress for {PATIENCE:?}"))),
    }
}

/// Waits for the next message; gives its bytes, too.
async fn receive(stream: &mut SecureReceiver) -> Result<(Head, Bytes, u64), RejoinError> {
    let packet = match tokio::time::timeout(PATIENCE, stream.recv()).await {
        Ok(Ok(Some(packet))) => packet,
        Ok(Ok(None)) => return Err(RejoinError::Link("the other end closed it".to_owned())),
        Ok(Err(error)) => return Err(RejoinError::Link(error.to_string())),
        Err(_) => return Err(RejoinError::Link(format!("nothing came for {PATIENCE:?}"))),
    };
    let bytes = packet.len() as u64;
    let head = minicbor::decode(&packet.head).map_err(|error| RejoinError::Unexpected(error.to_string()))?;
    Ok((head, packet.body, bytes))
}

/// An answer as it should travel.
fn compress(plain: Bytes) -> (Encoding, Bytes) {
    match zstd::bulk::compress(&plain, 1) {
        Ok(small) if small.len() < plain.len() / 10 * 9 => (Encoding::Zstd, small.into()),
        _ => (Encoding::Plain, plain),
    }
}

/// An answer as it was, if it is as long as announced.
fn decompress(encoding: Encoding, plain_len: u32, body: Bytes) -> Result<Bytes, RejoinError> {
    let plain_len = plain_len as usize;
    if plain_len > ANSWER_LIMIT {
        let why = format!("an answer of {plain_len} bytes, expected at most {ANSWER_LIMIT}");
        return Err(RejoinError::Unexpected(why));
    }
    let plain = match encoding {
        Encoding::Plain => body,
        // Never gives more bytes than announced.
        Encoding::Zstd => zstd::bulk::decompress(&body, plain_len)
            .map_err(|error| RejoinError::Unexpected(format!("decompress an answer: {error}")))?
            .into(),
    };
    if plain.len() == plain_len {
        Ok(plain)
    } else {
        let why = format!("an answer of {} bytes, announced as {plain_len}", plain.len());
        Err(RejoinError::Unexpected(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_read_back_and_wrong_lengths_are_refused() {
        for plain in [Bytes::from(vec![7; 100_000]), Bytes::from_static(b"\x01\x9f\x33")] {
            let len = u32::try_from(plain.len()).unwrap();
            let (encoding, body) = compress(plain.clone());
            assert_eq!(encoding == Encoding::Zstd, plain.len() > 1000);
            assert_eq!(decompress(encoding, len, body.clone()).unwrap(), plain);
            assert!(decompress(encoding, len - 1, body.clone()).is_err());
            assert!(decompress(encoding, len + 1, body.clone()).is_err());
            assert!(decompress(encoding, u32::MAX, body).is_err());
        }
        assert!(decompress(Encoding::Zstd, 10, Bytes::from_static(b"not zstd")).is_err());
    }

    #[test]
    fn messages_read_back_and_those_of_whole_copies_are_errors() {
        let target = Head::Target(Stamp::default(), 4096, 7, TermHistory::default(), true);
        let bytes = minicbor::to_vec(&target).unwrap();
        assert!(matches!(minicbor::decode::<Head>(&bytes).unwrap(), Head::Target(_, 4096, 7, _, true)));
        let bytes = minicbor::to_vec(Head::Ask(Stamp::default(), [3; 32], true)).unwrap();
        assert!(
            matches!(minicbor::decode::<Head>(&bytes).unwrap(), Head::Ask(_, key, true) if key == [3; 32])
        );
        for old in 0..5u8 {
            // `[old, []]` in CBOR.
            assert!(minicbor::decode::<Head>(&[0x82, old, 0x80]).is_err());
        }
    }
}
