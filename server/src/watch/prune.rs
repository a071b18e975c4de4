//! Events are kept for a time and up to a number; the master removes the oldest, a bounded number in a transaction.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};
use tanist_store::{Batch, StoreError};

/// How long, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Older ones go, by the wall clock that the master had when it wrote them.
    pub(crate) retention: Duration,
    /// More than so many aren't kept.
    pub(crate) count: u64,
}

/// Removed in one transaction at most.
const STEP: i64 = 4096;
/// So many stay whatever their age: a wall clock that jumps must not remove what watchers haven't seen.
pub(crate) const STAY: u64 = 1000;

/// Removes what is too old or too much, oldest first, and says whether there is more to remove.
///
/// # Errors
/// When the batch is lost.
pub(crate) fn prune(batch: &mut Batch<'_>, kept: &Kept) -> Result<bool, StoreError> {
    match batch.internal(|connection| remove(connection, kept))? {
        Ok(0) => Ok(false),
        Ok(count) => {
            tracing::debug!(count, "events pruned");
            Ok(count >= STEP)
        }
        Err(error) => {
            tracing::warn!(%error, "prune events");
            Ok(false)
        }
    }
}

fn remove(connection: &Connection, kept: &Kept) -> Result<i64, rusqlite::Error> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let newest: Option<i64> =
        connection.prepare_cached("SELECT max(id) FROM tanist_events")?.query_row([], |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(0) };
    let (too_many, may_go) = (newest - number(kept.count), newest - number(STAY));
    // Whatever comes before the first that is to stay; never from the middle, or a watcher would miss it unnoticed.
    let first: Option<i64> = connection
        .prepare_cached(
            "SELECT id FROM (SELECT id, at FROM tanist_events ORDER BY id LIMIT ?1)
             WHERE id > ?2 AND (id > ?3 OR at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)) ORDER BY id LIMIT 1",
        )?
        .query_row(
            params![STEP + 1, too_many, may_go, format!("-{} seconds", kept.retention.as_secs())],
            |row| row.get(0),
        )
        .optional()?;
    let removed = match first {
        Some(first) => {
            connection.prepare_cached("DELETE FROM tanist_events WHERE id < ?1")?.execute([first])?
        }
        None => connection
            .prepare_cached(
                "DELETE FROM tanist_events WHERE id IN (SELECT id FROM tanist_events ORDER BY id LIMIT ?1)",
            )?
            .execute([STEP])?,
    };
    Ok(i64::try_from(removed).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count: u64, at: impl Fn(u64) -> &'static str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../../../migrations/0001_cluster.sql")).unwrap();
        connection.execute_batch(include_str!("../../../migrations/0002_events.sql")).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for id in 1..=count {
            connection
                .prepare_cached("INSERT INTO tanist_events (at, kind, subject) VALUES (?1, 'row', 't')")
                .unwrap()
                .execute([at(id)])
                .unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    fn left(connection: &Connection) -> (i64, i64) {
        connection
            .query_row("SELECT min(id), count(*) FROM tanist_events", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn more_than_the_configured_number_goes_in_bounded_steps() {
        let connection = table(7000, |_| "9999");
        let kept = Kept { retention: HOUR, count: 1500 };
        assert_eq!(remove(&connection, &kept).unwrap(), STEP);
        assert_eq!(left(&connection), (4097, 2904));
        assert_eq!(remove(&connection, &kept).unwrap(), 1404);
        assert_eq!(left(&connection), (5501, 1500));
        assert_eq!(remove(&connection, &kept).unwrap(), 0);
    }

    #[test]
    fn old_events_go_but_never_from_the_middle_and_never_the_newest_thousand() {
        let kept = Kept { retention: HOUR, count: 1_000_000 };
        // A clock that was wrong for one event keeps what comes after it.
        let connection = table(3000, |id| if id == 300 { "9999" } else { "2001-01-01T00:00:00.000Z" });
        assert_eq!(remove(&connection, &kept).unwrap(), 299);
        assert_eq!(left(&connection), (300, 2701));
        let connection = table(3000, |_| "2001-01-01T00:00:00.000Z");
        assert_eq!(remove(&connection, &kept).unwrap(), 2000);
        assert_eq!((left(&connection), remove(&connection, &kept).unwrap()), ((2001, 1000), 0));
    }
}
