//! Answers of idempotent writes, kept in the replicated table `tanist_requests` in the same transaction as the write.
//!
//! A key repeated within the retention gives the first answer, on any later master too. Keys age by the time that the
//! cluster was served (`served.rs`), so that no wall clock removes one early. Never decides when to look: `writer.rs` does,
//! inside the batch.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, params};
use tanist_store::{Batch, StoreError};

use crate::{
    served::{self, Served},
    write::Idempotency,
};

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
pub(crate) fn store(
    batch: &mut Batch<'_>,
    key: &Idempotency,
    answer: &[u8],
    served: &mut Served,
) -> Result<(), StoreError> {
    let now = served.store(batch)?;
    batch
        .internal(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO tanist_requests (token, key, fingerprint, answer, served_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![key.token, key.key, key.fingerprint, answer, now])
        })?
        .map(drop)
        .map_err(|source| StoreError::Sqlite { doing: "keep an idempotency key", source })
}

/// Forgets answers older than the retention, a bounded number at a time, and says whether more of them wait.
///
/// # Errors
/// When the batch is lost.
pub(crate) fn prune(batch: &mut Batch<'_>, retention: Duration, served: &Served) -> Result<bool, StoreError> {
    let pruned = batch.internal(|connection| {
        let before = served::before(served.now_ms(connection)?, retention);
        connection
            .prepare_cached(
                "DELETE FROM tanist_requests WHERE (token, key) IN (SELECT token, key FROM tanist_requests WHERE served_ms < ?1 LIMIT ?2)",
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

#[cfg(test)]
mod tests {
    use tanist_replication::Term;
    use tanist_store::{Database, Options};

    use super::*;
    use crate::served::tests::SECOND;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key(name: &str) -> Idempotency {
        Idempotency { key: name.to_owned(), token: String::new(), fingerprint: [7; 32] }
    }

    /// Commits what `act` does in a transaction.
    fn with<T>(database: &mut Database, act: impl FnOnce(&mut Batch<'_>) -> T) -> T {
        let mut batch = database.begin(Term(1)).unwrap();
        let done = act(&mut batch);
        batch.commit().unwrap();
        done
    }

    fn is_known(database: &mut Database, name: &str) -> bool {
        with(database, |batch| matches!(stored(batch, &key(name)).unwrap(), Stored::Answer(_)))
    }

    /// So much time passes for a machine that reigns and whose clock stands at `from`.
    fn reign(served: &mut Served, from: u64, seconds: u64) {
        for second in from..=from + seconds {
            served.look(second * SECOND, true);
        }
    }

    #[test]
    fn key_ages_by_the_time_that_masters_have_served_whatever_their_clocks_say() {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(directory.path(), Options::default()).unwrap();
        database.become_master().unwrap();
        database.start_reign(Term(1), "pc-1", "test").unwrap();

        let mut first = Served::default();
        reign(&mut first, 1000, 600);
        with(&mut database, |batch| store(batch, &key("a"), b"first", &mut first).unwrap());
        reign(&mut first, 1600, 1800);
        with(&mut database, |batch| store(batch, &key("b"), b"second", &mut first).unwrap());
        assert!(!with(&mut database, |batch| prune(batch, HOUR, &first).unwrap()));

        // The next master's clock says something else; it has reigned for 29 minutes.
        let mut second = Served::default();
        reign(&mut second, 9_000_000, 29 * 60);
        with(&mut database, |batch| prune(batch, HOUR, &second).unwrap());
        assert!(is_known(&mut database, "a") && is_known(&mut database, "b"));
        // Its machine sleeps for two hours; then the first key's hour is over, the second's isn't.
        second.look((9_000_000 + 29 * 60 + 7200) * SECOND, true);
        with(&mut database, |batch| prune(batch, HOUR, &second).unwrap());
        assert!(is_known(&mut database, "a"), "an hour less 50 s");
        reign(&mut second, 9_008_940, 120);
        with(&mut database, |batch| prune(batch, HOUR, &second).unwrap());
        assert!(!is_known(&mut database, "a") && is_known(&mut database, "b"));
        reign(&mut second, 9_009_060, 1800);
        with(&mut database, |batch| prune(batch, HOUR, &second).unwrap());
        assert!(!is_known(&mut database, "b"));
    }
}
