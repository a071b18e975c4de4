//! Takes a copy: reads one snapshot page by page, compresses it, and ends with the trailer.
//!
//! Owns what a copy says of itself. Keeps one page and zstd's window in memory. Whoever takes the bytes decides how long
//! that may last: the snapshot lives until the last one is taken, or refused.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::SystemTime,
};

use tanist_replication::Stamp;
use tanist_store::{Changes, ChangesError, KnownPages, PageSums, Snapshot, StoreError, Target, Utc};
use tanist_transport::{ClusterKey, KeyRing};

use super::{
    LEVEL,
    format::{self, After, Manifest},
};
use crate::config::Config;

/// Whose replica is copied.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The data directory.
    pub(crate) directory: PathBuf,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The cluster's keys as they are now.
    pub(crate) keys: KeyRing,
    /// This machine.
    pub(crate) member: String,
}

impl Source {
    /// Of a machine whose keys are in `keys`, also when they change.
    pub(crate) fn of(config: &Config, keys: KeyRing) -> Source {
        Source {
            directory: config.data_dir.clone(),
            cluster: config.cluster.to_string(),
            keys,
            member: config.id.to_string(),
        }
    }

    /// See [`Manifest::key_mark`].
    pub(crate) fn key_mark(&self) -> String {
        key_mark(&self.keys.now().key)
    }
}

/// By which a copy's cluster is known again.
pub(crate) fn key_mark(key: &ClusterKey) -> String {
    hex(&key.derive("tanist 2026-11 mark of the cluster key in copies")[..16])
}

/// Why a copy can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The replica can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What has changed can't be told at this moment.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// Nobody takes the bytes, or the disk doesn't.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Copies the replica of the machine with this configuration, which may run, to `out`.
///
/// # Errors
/// As [`TakeError`] says; then `out` holds no whole copy, and that can be told from it.
pub fn take(config: &Config, out: &mut impl Write) -> Result<Manifest, TakeError> {
    write_copy(
        &Source::of(config, KeyRing::new(config.keys())),
        Snapshot::open(&config.data_dir)?,
        LEVEL,
        out,
    )
}

/// Writes the snapshot to `out`, compressed by `level`.
///
/// # Errors
/// When the replica can't be read or `out` refuses; then `out` holds no whole copy, and that can be told from it.
pub(crate) fn write_copy(
    source: &Source,
    snapshot: Snapshot,
    level: i32,
    out: &mut impl Write,
) -> Result<Manifest, TakeError> {
    let target = snapshot.target().clone();
    let mut frame = Frame::begin(&mut *out, level)?;
    frame.encoder.set_pledged_src_size(Some(target.bytes()))?;
    let mut image = vec![0; target.page_size as usize];
    for page in 1..=target.pages {
        snapshot.page(page, &mut image)?;
        frame.encoder.write_all(&image)?;
    }
    // Not needed for what is still on its way.
    drop(snapshot);
    frame.end(source, &target, None)
}

/// Writes the pages of the snapshot that are another than the known ones; those are the database's at `after`. Nothing
/// becomes known by it: see [`KnownPages::accept`].
///
/// # Errors
/// As [`write_copy`].
pub(super) fn write_increment(
    source: &Source,
    snapshot: &Snapshot,
    (after, known, sums): (Stamp, &KnownPages, &PageSums),
    out: &mut impl Write,
) -> Result<Changes, TakeError> {
    let mut frame = Frame::begin(&mut *out, LEVEL)?;
    let changes = known.changes(snapshot, sums, |page, image| {
        frame.encoder.write_all(&page.to_le_bytes())?;
        Ok::<_, TakeError>(frame.encoder.write_all(image)?)
    })?;
    let (term, txid) = (after.position.term.0, after.position.txid.0);
    let after = After { term, txid, chain: hex(&after.chain.0), changed: changes.count() };
    frame.end(source, snapshot.target(), Some(after))?;
    Ok(changes)
}

/// A copy's frame on its way, and the trailer behind it.
struct Frame<'w, W: Write> {
    encoder: zstd::stream::write::Encoder<'static, Hashed<&'w mut W>>,
    made_at: String,
}

impl<'w, W: Write> Frame<'w, W> {
    fn begin(out: &'w mut W, level: i32) -> io::Result<Frame<'w, W>> {
        let made_at = Utc::of(SystemTime::now()).to_string();
        let hashed = Hashed { out, hasher: blake3::Hasher::new(), bytes: 0 };
        let mut encoder = zstd::stream::write::Encoder::new(hashed, level)?;
        encoder.include_checksum(true)?;
        Ok(Frame { encoder, made_at })
    }

    fn end(self, source: &Source, target: &Target, after: Option<After>) -> Result<Manifest, TakeError> {
        let hashed = self.encoder.finish()?;
        let manifest = Manifest {
            cluster: source.cluster.clone(),
            key_mark: source.key_mark(),
            member: source.member.clone(),
            made_at: self.made_at,
            term: target.stamp.position.term.0,
            txid: target.stamp.position.txid.0,
            chain: hex(&target.stamp.chain.0),
            page_size: target.page_size,
            pages: target.pages,
            frame_bytes: hashed.bytes,
            blake3: hashed.hasher.finalize().to_hex().to_string(),
            after,
        };
        hashed.out.write_all(&format::encode(&manifest))?;
        hashed.out.flush()?;
        Ok(manifest)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Passes bytes on and hashes them.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
