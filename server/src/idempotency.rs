//! Answers of idempotent writes, kept in the replicated table `tanist_requests` in the same transaction as the write.
//!
//! A key repeated within the retention gives the first answer, on any later master too. Never decides when to look:
//! `writer.rs` does, inside the batch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, params};
use tanist_store::{Batch, StoreError};

use crate::write::Idempotency;

/// Keys forgotten at a time.
const STEP: u32 = 10_000;

/// What is known of a key.
#[derive(Debug)]
pub(crate) enum Stored {
    /// Never seen, or forgotten.
    Unknown,
    /// The first answer.
    Answer(Bytes),
    /// The key came with another request before.
    OtherRequest,
}

/// Wall-clock milliseconds, for the retention only: a jumping clock can prune early or late, never lose a write.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Looks the key up.
///
/// # Errors
/// When the database can't be read.
pub(crate) fn stored(batch: &Batch<'_>, key: &Idempotency) -> Result<Stored, StoreError> {
    let row = batch
        .connection()
        .prepare_cached("SELECT fingerprint, answer FROM tanist_requests WHERE token = ?1 AND key = ?2")
        .and_then(|mut statement| {
            statement
                .query_row([&key.token, &key.key], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
                })
                .optional()
        })
        .map_err(|source| StoreError::Sqlite { doing: "look an idempotency key up", source })?;
    Ok(match row {
        None => Stored::Unknown,
        Some((fingerprint, answer)) if fingerprint == key.fingerprint => Stored::Answer(answer.into()),
        Some(_) => Stored::OtherRequest,
    })
}

/// Keeps the answer, in the write's own transaction.
///
/// # Errors
/// When the row can't be written: the batch must not commit.
pub(crate) fn store(batch: &mut Batch<'_>, key: &Idempotency, answer: &[u8]) -> Result<(), StoreError> {
    batch
        .internal(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO tanist_requests (token, key, fingerprint, answer, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![key.token, key.key, key.fingerprint, answer, now_ms()])
        })?
        .map(drop)
        .map_err(|source| StoreError::Sqlite { doing: "keep an idempotency key", source })
}

/// Forgets answers older than the retention, a bounded number at a time, and says whether more of them wait.
///
/// # Errors
/// When the batch is lost.
pub(crate) fn prune(batch: &mut Batch<'_>, retention: Duration) -> Result<bool, StoreError> {
    let before = now_ms().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
    let pruned = batch.internal(|connection| {
        connection
            .prepare_cached(
                "DELETE FROM tanist_requests WHERE (token, key) IN (SELECT token, key FROM tanist_requests WHERE created_ms < ?1 LIMIT ?2)",
            )?
            .execute(params![before, STEP])
    })?;
    match pruned {
        Ok(0) => Ok(false),
        Ok(count) => {
            tracing::debug!(count, "idempotency keys pruned");
            Ok(count >= STEP as usize)
        }
        Err(error) => {
            tracing::warn!(%error, "prune idempotency keys");
            Ok(false)
        }
    }
}
