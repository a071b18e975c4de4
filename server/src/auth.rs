//! Bearer tokens: what they look like, what is kept of them, and whose they are; and by which key an operator proves himself.
//!
//! When a token was last used is kept in memory alone, by each machine for itself: no request costs a write. Whether one has
//! expired is judged by this machine's wall clock, or by the time of the newest event where that is later: so a clock that is
//! behind revives no token that the cluster has outlived, and one that is ahead refuses no longer than it is.
//!
//! Owns the copy of the replicated table that requests are judged by; it is at most a second old, and read anew at once
//! for a token that it doesn't know. Read `http/authorize.rs` for what each route demands.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::RwLock;
use tanist_api::{
    Access,
    key::{OperatorKey, Proven},
};
use tanist_store::Utc;
use tanist_transport::{ClusterKey, Keys};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    clock,
    reader::{ReadError, ReadPool},
};

/// So old may the copy be: a revoked token is good for so long at most.
const FRESH: Duration = Duration::from_secs(1);
/// For tokens that it doesn't know it is read anew no more often than this.
const AGAIN: Duration = Duration::from_millis(100);
/// So long it may take to be read: a disk that doesn't answer is waited for no longer.
const READ_TIME: Duration = Duration::from_secs(5);
/// More than this are not kept.
pub(crate) const MOST_TOKENS: i64 = 1000;
/// How a token begins, so that it is recognized where it doesn't belong.
const PREFIX: &str = "tanist_";
/// The name of whoever proves that he has the cluster key. No token may be called so.
pub(crate) const OPERATOR: &str = "cluster-key";

/// What is kept of a token. The tokens are 256 random bits: nothing slower is needed.
pub(crate) type Hash = [u8; 32];

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The token's name.
    pub(crate) name: Arc<str>,
    /// What it allows.
    pub(crate) role: Access,
    /// The node that an agent speaks for.
    pub(crate) node: Option<Arc<str>>,
}

impl Holder {
    /// Whoever has the cluster key.
    pub(crate) fn operator() -> Holder {
        Holder { name: OPERATOR.into(), role: Access::Admin, node: None }
    }

    /// Whether it is one who has proved the cluster key, by this very request.
    pub(crate) fn is_operator(&self) -> bool {
        &*self.name == OPERATOR
    }

    /// Whether users' SQL of this holder may see what is behind the roles: the record of changes by SQL.
    pub(crate) fn sees_all(&self) -> bool {
        self.role == Access::Admin
    }
}

/// A new token.
///
/// # Errors
/// When the operating system has no randomness.
pub(crate) fn generate() -> Result<String, getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(text(&secret))
}

/// What whoever has the cluster key proves it with: that allows everything, and needs no table.
#[must_use]
pub(crate) fn operator_key(key: &ClusterKey) -> OperatorKey {
    OperatorKey::from_bytes(key.derive("tanist 2026-12 proof of the cluster key over HTTP"))
}

fn text(secret: &[u8; 32]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))
}

pub(crate) fn hash(token: &str) -> Hash {
    blake3::derive_key("tanist 2026-11 bearer token at rest", token.as_bytes())
}

/// What proofs of the cluster's keys are made with, one or two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operators(Arc<RwLock<Vec<OperatorKey>>>);

impl Operators {
    /// These keys count from now on.
    pub(crate) fn set(&self, keys: &Keys) {
        *self.0.write() = keys.all().map(operator_key).collect();
    }

    /// Whether the request proves one of the keys.
    pub(crate) fn are_proven(&self, request: &Proven<'_>, proof: &str) -> bool {
        self.0.read().iter().any(|key| key.is_proof(request, proof))
    }
}

/// Knows whose tokens are whose.
#[derive(Debug)]
pub(crate) struct Tokens {
    readers: ReadPool,
    known: RwLock<Known>,
    /// One reading of the table at a time.
    reading: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<Hash, Entry>,
    read_at: Option<Instant>,
    /// When the newest event was, in milliseconds since 1970.
    newest_event_ms: i64,
}

/// What the table says of a token, and when it was last used here.
#[derive(Debug, Clone)]
struct Entry {
    holder: Holder,
    /// In milliseconds since 1970.
    expires_ms: Option<i64>,
    /// By this machine's wall clock, in milliseconds since 1970; 0: not since the start.
    used_ms: Arc<AtomicU64>,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Nobody's.
    Nobody,
    /// It was this one's, until it expired.
    Expired(Holder),
    /// This one's.
    Holder(Holder),
}

impl Known {
    fn younger_than(&self, age: Duration) -> bool {
        self.read_at.is_some_and(|read_at| read_at.elapsed() < age)
    }

    fn whose(&self, hash: &Hash, wall_ms: u64) -> Whose {
        let Some(entry) = self.entries.get(hash) else { return Whose::Nobody };
        let now = i64::try_from(wall_ms).unwrap_or(i64::MAX).max(self.newest_event_ms);
        if entry.expires_ms.is_some_and(|expires| now >= expires) {
            return Whose::Expired(entry.holder.clone());
        }
        entry.used_ms.store(wall_ms, Relaxed);
        Whose::Holder(entry.holder.clone())
    }
}

impl Tokens {
    /// Those of the replica that the pool reads.
    pub(crate) fn new(readers: ReadPool) -> Tokens {
        Tokens { readers, known: RwLock::default(), reading: Mutex::default() }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// When the table can't be read.
    pub(crate) async fn whose(&self, token: &str) -> Result<Whose, ReadError> {
        let hash = hash(token);
        if let Some(found) = self.find(&hash) {
            return Ok(found);
        }
        // The disk may not answer.
        match timeout(READ_TIME, self.whose_anew(&hash)).await {
            Ok(whose) => whose,
            Err(_) => Err(ReadError::Storage("the table of tokens can't be read in time".to_owned())),
        }
    }

    async fn whose_anew(&self, hash: &Hash) -> Result<Whose, ReadError> {
        let _reading = self.reading.lock().await;
        // Another request may have read it meanwhile.
        if let Some(found) = self.find(hash) {
            return Ok(found);
        }
        let (mut entries, newest_event_ms) = self.read().await?;
        let mut known = self.known.write();
        for (hash, entry) in &mut entries {
            if let Some(before) = known.entries.get(hash) {
                entry.used_ms = Arc::clone(&before.used_ms);
            }
        }
        *known = Known { entries, read_at: Some(Instant::now()), newest_event_ms };
        Ok(known.whose(hash, clock::wall_ms().unwrap_or(0)))
    }

    /// What the copy says, if it is young enough to say it.
    fn find(&self, hash: &Hash) -> Option<Whose> {
        let known = self.known.read();
        let fresh = if known.entries.contains_key(hash) { FRESH } else { AGAIN };
        known.younger_than(fresh).then(|| known.whose(hash, clock::wall_ms().unwrap_or(0)))
    }

    /// When this machine last took the tokens, by their names; of those alone that it has taken since it was started.
    pub(crate) fn last_used(&self) -> HashMap<Arc<str>, String> {
        let known = self.known.read();
        let used = known.entries.values().filter_map(|entry| {
            let ms = Some(entry.used_ms.load(Relaxed)).filter(|ms| *ms > 0)?;
            let at = Utc::of(UNIX_EPOCH.checked_add(Duration::from_millis(ms))?).to_string();
            Some((Arc::clone(&entry.holder.name), at))
        });
        used.collect()
    }

    /// Whether this machine has no table to judge by. It has no data either, and never reigns: whatever is asked of it,
    /// it sends to the master or refuses.
    pub(crate) fn is_witness(&self) -> bool {
        self.readers.is_witness()
    }

    /// The table is another now, on this machine: the next request reads it.
    pub(crate) fn forget(&self) {
        self.known.write().read_at = None;
    }

    async fn read(&self) -> Result<(HashMap<Hash, Entry>, i64), ReadError> {
        let found = self.readers.run(|connection| {
            // What isn't a time has passed.
            let mut statement = connection.prepare_cached(
                "SELECT hash, name, role, node, expires_at IS NOT NULL, \
                 coalesce(CAST(unixepoch(expires_at, 'subsec') * 1000 AS INTEGER), 0) FROM tanist_tokens",
            )?;
            let rows = statement.query_map([], |row| {
                let expires = row.get::<_, bool>(4)?.then_some(row.get::<_, i64>(5)?);
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, expires))
            })?;
            let rows = rows.collect::<Result<Vec<(Hash, String, String, Option<String>, Option<i64>)>, _>>()?;
            let newest = connection
                .prepare_cached(
                    "SELECT coalesce((SELECT CAST(unixepoch(at, 'subsec') * 1000 AS INTEGER) FROM tanist_events \
                     ORDER BY id DESC LIMIT 1), 0)",
                )?
                .query_row([], |row| row.get::<_, i64>(0))?;
            Ok((rows, newest))
        });
        let (rows, newest) = found.await?;
        let entries = rows.into_iter().map(|(hash, name, role, node, expires_ms)| {
            let role =
                role.parse().map_err(|error| ReadError::Storage(format!("tanist_tokens: role: {error}")))?;
            let holder = Holder { name: name.into(), role, node: node.map(Into::into) };
            Ok((hash, Entry { holder, expires_ms, used_ms: Arc::default() }))
        });
        Ok((entries.collect::<Result<_, ReadError>>()?, newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_recognized_and_never_alike() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert!(one.starts_with("tanist_") && one.len() == 50, "{one}");
        assert_ne!(one, other);
        assert_ne!(hash(&one), hash(&other));
    }

    #[test]
    fn operators_key_follows_from_the_cluster_key_and_does_not_show_it() {
        let key = ClusterKey::from_bytes([7; 32]);
        assert_eq!(operator_key(&key), operator_key(&ClusterKey::from_bytes([7; 32])));
        assert_ne!(operator_key(&key), operator_key(&ClusterKey::from_bytes([8; 32])));
        assert_ne!(operator_key(&key), OperatorKey::from_bytes([7; 32]));
        assert_eq!(format!("{:?}", operator_key(&key)), "(hidden)");
    }

    #[test]
    fn expiry_goes_by_the_later_of_the_own_clock_and_the_newest_event() {
        let holder = Holder { name: "ui".into(), role: Access::Read, node: None };
        let entry = Entry { holder: holder.clone(), expires_ms: Some(10_000), used_ms: Arc::default() };
        let mut known = Known { entries: HashMap::from([([1; 32], entry)]), ..Known::default() };
        let (good, over) = (Whose::Holder(holder.clone()), Whose::Expired(holder));
        assert_eq!(known.whose(&[1; 32], 9_999), good);
        assert_eq!(known.whose(&[1; 32], 10_000), over);
        assert_eq!(known.whose(&[2; 32], 0), Whose::Nobody);
        // This machine's clock is behind, and the cluster has gone on.
        known.newest_event_ms = 10_001;
        assert_eq!(known.whose(&[1; 32], 0), over);
        // It was another's that was ahead, and a newer event says so.
        known.newest_event_ms = 9_000;
        assert_eq!(known.whose(&[1; 32], 5_000), good);
        assert_eq!(known.entries[&[1; 32]].used_ms.load(Relaxed), 5_000);
    }
}
