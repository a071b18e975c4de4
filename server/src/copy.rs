//! A whole copy of the database from the master (R12): both ends of the stream.
//!
//! The serving end reads one snapshot in a thread of its own; the receiving end hands part after part to the store
//! thread, which applies all of them in one SQLite transaction. Memory is bounded by a few parts. Read
//! `tanist_store::CopyOut` and `CopyIn` next.

use std::{path::Path, sync::mpsc, time::Duration};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use tanist_replication::{Encoding, MemberId, Stamp};
use tanist_store::CopyOut;
use tanist_transport::{Packet, SecureStream};
use tokio::runtime::Handle;

/// Pages in one part.
const PART_PAGES: u32 = 64;
/// Parts that wait for the receiving store.
pub(crate) const PARTS_WAITING: usize = 4;
/// Largest part a receiver takes, uncompressed: 64 pages of SQLite's largest size and their numbers.
const PART_LIMIT: usize = 64 * (65536 + 4) + 64;
/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What travels on a copy stream, master to replica (after the replica's `Ask`).
#[derive(Debug, Encode, Decode)]
enum Head {
    #[n(0)]
    Ask(#[n(0)] Stamp),
    #[n(1)]
    Start(#[n(0)] Stamp, #[n(1)] u32, #[n(2)] u32),
    #[n(2)]
    Part(#[n(0)] Encoding, #[n(1)] u32),
    #[n(3)]
    End(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(4)]
    Failed(#[n(0)] String),
}

/// What the receiving end hands to the store thread.
#[derive(Debug)]
pub enum CopyPart {
    /// What the copy will be.
    Start {
        /// The snapshot's stamp.
        stamp: Stamp,
        /// Bytes of a page.
        page_size: u32,
        /// Pages of the database.
        pages: u32,
    },
    /// Pages, in the payload format of `tanist_replication::Pages`.
    Pages(Bytes),
    /// All parts came, and their hash is right.
    End,
    /// The stream broke: forget it.
    Failed(String),
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The link.
    #[error("copy stream: {0}")]
    Link(String),
    /// The other end said so.
    #[error("the master could not go on: {0}")]
    Master(String),
    /// Something that can't be.
    #[error("copy stream: {0}")]
    Unexpected(String),
    /// The local database.
    #[error("read the database: {0}")]
    Store(#[from] tanist_store::StoreError),
}

fn packet(head: &Head, body: Bytes) -> Packet {
    Packet { head: minicbor::to_vec(head).unwrap_or_default().into(), body }
}

async fn send(stream: &mut SecureStream, head: &Head, body: Bytes) -> Result<(), CopyError> {
    match tokio::time::timeout(PATIENCE, stream.send(packet(head, body))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(CopyError::Link(error.to_string())),
        Err(_) => Err(CopyError::Link(format!("no progress for {PATIENCE:?}"))),
    }
}

async fn receive(stream: &mut SecureStream) -> Result<(Head, Bytes), CopyError> {
    let packet = match tokio::time::timeout(PATIENCE, stream.recv()).await {
        Ok(Ok(Some(packet))) => packet,
        Ok(Ok(None)) => return Err(CopyError::Link("the other end closed it".to_owned())),
        Ok(Err(error)) => return Err(CopyError::Link(error.to_string())),
        Err(_) => return Err(CopyError::Link(format!("nothing came for {PATIENCE:?}"))),
    };
    let head = minicbor::decode(&packet.head).map_err(|error| CopyError::Unexpected(error.to_string()))?;
    Ok((head, packet.body))
}

/// Serves a copy to `peer` in the calling (blocking) thread; `runtime` drives the stream.
///
/// # Errors
/// When the stream breaks or the database can't be read; the replica then asks again.
pub(crate) fn serve(
    runtime: &Handle,
    directory: &Path,
    peer: &MemberId,
    mut stream: SecureStream,
) -> Result<(), CopyError> {
    let (head, _) = runtime.block_on(receive(&mut stream))?;
    let Head::Ask(from) = head else {
        return Err(CopyError::Unexpected("expected the replica's question first".to_owned()));
    };
    let result = serve_snapshot(runtime, directory, peer, from, &mut stream);
    if let Err(error @ CopyError::Store(_)) = &result {
        let _ = runtime.block_on(send(&mut stream, &Head::Failed(error.to_string()), Bytes::new()));
    }
    result
}

fn serve_snapshot(
    runtime: &Handle,
    directory: &Path,
    peer: &MemberId,
    from: Stamp,
    stream: &mut SecureStream,
) -> Result<(), CopyError> {
    let mut copy = CopyOut::open(directory)?;
    let (stamp, page_size, pages) = (copy.stamp(), copy.page_size(), copy.pages());
    tracing::info!(%peer, from = %from.position, position = %stamp.position, pages, "copy: sending the database");
    runtime.block_on(send(stream, &Head::Start(stamp, page_size, pages), Bytes::new()))?;
    let mut hasher = blake3::Hasher::new();
    let mut sent = 0u64;
    while let Some(part) = copy.next_chunk(PART_PAGES)? {
        hasher.update(&part);
        let plain_len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let (encoding, body) = match zstd::bulk::compress(&part, 1) {
            Ok(small) if small.len() < part.len() / 10 * 9 => (Encoding::Zstd, small.into()),
            _ => (Encoding::Plain, part),
        };
        sent += body.len() as u64;
        runtime.block_on(send(stream, &Head::Part(encoding, plain_len), body))?;
    }
    runtime.block_on(send(stream, &Head::End(hasher.finalize().as_bytes().to_vec()), Bytes::new()))?;
    // The replica closes the stream when it has everything.
    let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, stream.recv()).await });
    tracing::info!(%peer, position = %stamp.position, bytes = sent, "copy: sent the database");
    Ok(())
}

/// Asks for a copy and hands its parts on; ends with `End` or `Failed`.
pub(crate) async fn fetch(mut stream: SecureStream, own: Stamp, parts: mpsc::SyncSender<CopyPart>) {
    if let Err(error) = fetch_parts(&mut stream, own, &parts).await {
        let _ = hand_on(&parts, CopyPart::Failed(error.to_string())).await;
    }
}

/// Hands a part to the store thread without blocking the runtime while the store is busy.
async fn hand_on(parts: &mpsc::SyncSender<CopyPart>, mut part: CopyPart) -> Result<(), CopyError> {
    loop {
        match parts.try_send(part) {
            Ok(()) => return Ok(()),
            Err(mpsc::TrySendError::Full(back)) => {
                part = back;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(mpsc::TrySendError::Disconnected(_)) => {
                return Err(CopyError::Unexpected("the store gave the copy up".to_owned()));
            }
        }
    }
}

async fn fetch_parts(
    stream: &mut SecureStream,
    own: Stamp,
    parts: &mpsc::SyncSender<CopyPart>,
) -> Result<(), CopyError> {
    send(stream, &Head::Ask(own), Bytes::new()).await?;
    let (Head::Start(stamp, page_size, pages), _) = receive(stream).await? else {
        return Err(CopyError::Unexpected("expected the snapshot's stamp first".to_owned()));
    };
    hand_on(parts, CopyPart::Start { stamp, page_size, pages }).await?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match receive(stream).await? {
            (Head::Part(encoding, plain_len), body) => {
                let plain_len = plain_len as usize;
                if plain_len > PART_LIMIT {
                    let why = format!("a part of {plain_len} bytes, expected at most {PART_LIMIT}");
                    return Err(CopyError::Unexpected(why));
                }
                let part = match encoding {
                    Encoding::Plain => body,
                    Encoding::Zstd => zstd::bulk::decompress(&body, plain_len)
                        .map_err(|error| CopyError::Unexpected(format!("decompress a part: {error}")))?
                        .into(),
                };
                if part.len() != plain_len {
                    let why = format!("a part of {} bytes, announced as {plain_len}", part.len());
                    return Err(CopyError::Unexpected(why));
                }
                hasher.update(&part);
                hand_on(parts, CopyPart::Pages(part)).await?;
            }
            (Head::End(hash), _) => {
                if hash != hasher.finalize().as_bytes() {
                    return Err(CopyError::Unexpected("the parts' hash is wrong".to_owned()));
                }
                return hand_on(parts, CopyPart::End).await;
            }
            (Head::Failed(why), _) => return Err(CopyError::Master(why)),
            _ => return Err(CopyError::Unexpected("expected pages or the end".to_owned())),
        }
    }
}
