//! Bearer tokens: what they look like, what is kept of them, and whose they are.
//!
//! Owns the copy of the replicated table that requests are judged by; it is at most a second old, and read anew at once
//! for a token that it doesn't know. Read `http/authorize.rs` for what each route demands.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::RwLock;
use tanist_api::Access;
use tanist_transport::{ClusterKey, Keys};
use tokio::sync::Mutex;

use crate::reader::{ReadError, ReadPool};

/// So old may the copy be: a revoked token is good for so long at most.
const FRESH: Duration = Duration::from_secs(1);
/// For tokens that it doesn't know it is read anew no more often than this.
const AGAIN: Duration = Duration::from_millis(100);
/// More than this are not kept.
pub(crate) const MOST_TOKENS: i64 = 1000;
/// How a token begins, so that it is recognized where it doesn't belong.
const PREFIX: &str = "tanist_";
/// The name of the token that every machine makes of the cluster key.
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

/// The token that whoever has the cluster key has: it allows everything, and needs no table.
#[must_use]
pub(crate) fn operator_token(key: &ClusterKey) -> String {
    text(&key.derive("tanist 2026-11 operator's bearer token"))
}

fn text(secret: &[u8; 32]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))
}

pub(crate) fn hash(token: &str) -> Hash {
    blake3::derive_key("tanist 2026-11 bearer token at rest", token.as_bytes())
}

/// The tokens made of the cluster's keys, one or two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operators(Arc<RwLock<Vec<Hash>>>);

impl Operators {
    /// These keys count from now on.
    pub(crate) fn set(&self, keys: &Keys) {
        *self.0.write() = keys.all().map(|key| hash(&operator_token(key))).collect();
    }

    /// Whether it is one of them.
    pub(crate) fn have(&self, token: &Hash) -> bool {
        self.0.read().contains(token)
    }
}

/// Knows whose tokens are whose.
#[derive(Debug)]
pub(crate) struct Tokens {
    operators: Operators,
    readers: ReadPool,
    known: RwLock<Known>,
    /// One reading of the table at a time.
    reading: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    holders: HashMap<Hash, Holder>,
    read_at: Option<Instant>,
}

impl Known {
    fn younger_than(&self, age: Duration) -> bool {
        self.read_at.is_some_and(|read_at| read_at.elapsed() < age)
    }
}

impl Tokens {
    /// Those of the replica that the pool reads, and those made of the cluster's keys.
    pub(crate) fn new(operators: Operators, readers: ReadPool) -> Tokens {
        Tokens { operators, readers, known: RwLock::default(), reading: Mutex::default() }
    }

    /// Whose token it is; `None`: nobody's.
    ///
    /// # Errors
    /// When the table can't be read.
    pub(crate) async fn holder(&self, token: &str) -> Result<Option<Holder>, ReadError> {
        let hash = hash(token);
        if self.operators.have(&hash) {
            return Ok(Some(Holder { name: OPERATOR.into(), role: Access::Admin }));
        }
        if let Some(found) = self.find(&hash) {
            return Ok(found);
        }
        let _reading = self.reading.lock().await;
        // Another request may have read it meanwhile.
        if let Some(found) = self.find(&hash) {
            return Ok(found);
        }
        let holders = self.read().await?;
        let found = holders.get(&hash).cloned();
        *self.known.write() = Known { holders, read_at: Some(Instant::now()) };
        Ok(found)
    }

    /// What the copy says, if it is young enough to say it.
    fn find(&self, hash: &Hash) -> Option<Option<Holder>> {
        let known = self.known.read();
        match known.holders.get(hash) {
            Some(holder) => known.younger_than(FRESH).then(|| Some(holder.clone())),
            None => known.younger_than(AGAIN).then_some(None),
        }
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

    async fn read(&self) -> Result<HashMap<Hash, Holder>, ReadError> {
        let rows = self.readers.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT hash, name, role FROM tanist_tokens")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<Result<Vec<(Hash, String, String)>, _>>()
        });
        rows.await?
            .into_iter()
            .map(|(hash, name, role)| {
                let role = role
                    .parse()
                    .map_err(|error| ReadError::Storage(format!("tanist_tokens: role: {error}")))?;
                Ok((hash, Holder { name: name.into(), role }))
            })
            .collect()
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
    fn operators_token_follows_from_the_key_and_does_not_show_it() {
        let key = ClusterKey::from_bytes([7; 32]);
        assert_eq!(operator_token(&key), operator_token(&ClusterKey::from_bytes([7; 32])));
        assert_ne!(operator_token(&key), operator_token(&ClusterKey::from_bytes([8; 32])));
        assert_ne!(operator_token(&key), text(&[7; 32]));
    }
}
