//! A rejoin between two directories, without a network.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use tanist_store::{CopyOut, Database, Options, Rejoin, RejoinCounts, Rejoined, ReportContext, StoreError};

use super::Pair;

pub const KEY: [u8; 32] = [7; 32];

pub const FILL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); \
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000) \
    INSERT INTO t SELECT i, randomblob(900) FROM n";

/// A pair with about 900 pages.
pub fn filled() -> Pair {
    let options = Options { page_cache_bytes: 128 << 10, ..Options::default() };
    let mut pair = Pair::with(options);
    pair.step(FILL);
    pair
}

/// What a rejoin moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes of hashes, to the master.
    pub hashes: usize,
    /// Bytes of pages, to the replica, not compressed.
    pub pages: usize,
    pub counts: RejoinCounts,
}

pub fn context() -> ReportContext<'static> {
    ReportContext { member: "pc-2", now: UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
}

pub fn begin<'d>(out: &CopyOut, backup: &'d mut Database) -> Result<Rejoin<'d>, StoreError> {
    let staging = backup.open_staging()?;
    backup.begin_rejoin(staging, KEY, out.target().clone())
}

/// Asks and answers until all is staged, or `limit` questions were asked.
pub fn stage(out: &mut CopyOut, rejoin: &mut Rejoin<'_>, limit: usize) -> Result<Traffic, StoreError> {
    let mut traffic = Traffic::default();
    for _ in 0..limit {
        let Some(question) = rejoin.question()? else { break };
        let answer = out.differing(question.first, question.count, &question.hashes)?;
        traffic.hashes += question.hashes.len();
        traffic.pages += answer.len();
        rejoin.answer(answer)?;
    }
    traffic.counts = rejoin.counts();
    Ok(traffic)
}

/// A whole rejoin of `backup` with the database in `master`.
pub fn rejoin(master: &Path, backup: &mut Database) -> Result<(Rejoined, Traffic), StoreError> {
    let mut out = CopyOut::open(master, KEY)?;
    let mut rejoin = begin(&out, backup)?;
    let traffic = stage(&mut out, &mut rejoin, usize::MAX)?;
    Ok((rejoin.finish(out.whole_hash().expect("all pages were asked for"), &context())?, traffic))
}
