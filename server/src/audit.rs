//! The record of changes by users' SQL, in the replicated table `tanist_audit`: who, when, in which transaction, which text.
//!
//! Never holds the values of parameters. Never decides what is recorded: `writer.rs` does, inside the batch.

use std::time::Duration;

use rusqlite::{Connection, params};
use tanist_api::Statement;
use tanist_store::{Batch, StoreError};

/// Characters of a request's SQL that are kept.
const SQL_CHARS: usize = 1000;
/// Removed in one transaction at most.
const STEP: i64 = 4096;

/// Under whose name a request is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author(
    /// The token's name; `None` where there are no tokens.
    pub Option<String>,
);

/// How long, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Older ones go, by the wall clock that the master had when it wrote them.
    pub retention: Duration,
    /// More than so many aren't kept.
    pub records: u64,
}

/// The statements' text, shortened.
fn text(statements: &[Statement]) -> String {
    let separate = |index: usize| if index == 0 { "" } else { ";\n" };
    let parts = statements.iter().enumerate().flat_map(|(index, one)| [separate(index), one.sql.trim()]);
    let mut chars = parts.flat_map(str::chars);
    let mut text: String = chars.by_ref().take(SQL_CHARS).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

/// Records a request in its own transaction.
///
/// # Errors
/// When the row can't be written: the batch must not commit.
pub(crate) fn record(
    batch: &mut Batch<'_>,
    author: &Author,
    statements: &[Statement],
) -> Result<(), StoreError> {
    batch
        .internal(|connection| insert(connection, author, statements))?
        .map_err(|source| StoreError::Sqlite { doing: "record a request", source })
}

fn insert(connection: &Connection, author: &Author, statements: &[Statement]) -> Result<(), rusqlite::Error> {
    // The open transaction is the one after the newest.
    connection
        .prepare_cached(
            "INSERT INTO tanist_audit (id, txid, actor, statements, sql) VALUES (
             (SELECT coalesce(max(id), 0) + 1 FROM tanist_audit),
             (SELECT coalesce(max(txid), 0) + 1 FROM tanist_position), ?1, ?2, ?3)",
        )?
        .execute(params![author.0, i64::try_from(statements.len()).unwrap_or(i64::MAX), text(statements)])
        .map(drop)
}

/// Removes what is too old or too much, oldest first, and says whether there is more to remove.
///
/// # Errors
/// When the batch is lost.
pub(crate) fn prune(batch: &mut Batch<'_>, kept: &Kept) -> Result<bool, StoreError> {
    match batch.internal(|connection| remove(connection, kept))? {
        Ok(count) => Ok(count >= STEP),
        Err(error) => {
            tracing::warn!(%error, "prune the record of changes by SQL");
            Ok(false)
        }
    }
}

fn remove(connection: &Connection, kept: &Kept) -> Result<i64, rusqlite::Error> {
    let records = i64::try_from(kept.records).unwrap_or(i64::MAX);
    let removed = connection
        .prepare_cached(
            "DELETE FROM tanist_audit WHERE id IN (
             SELECT id FROM (SELECT id, at FROM tanist_audit ORDER BY id LIMIT ?1)
             WHERE id <= (SELECT max(id) FROM tanist_audit) - ?2 OR at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3))",
        )?
        .execute(params![STEP, records, format!("-{} seconds", kept.retention.as_secs())])?;
    Ok(i64::try_from(removed).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../../migrations/0001_cluster.sql")).unwrap();
        connection.execute_batch(include_str!("../../migrations/0006_audit.sql")).unwrap();
        connection
    }

    #[test]
    fn text_is_shortened_and_tells_all_statements() {
        let two = [Statement::new(" INSERT INTO t VALUES (?)\n"), Statement::new("DELETE FROM t")];
        assert_eq!(text(&two), "INSERT INTO t VALUES (?);\nDELETE FROM t");
        let long = [Statement::new("ä".repeat(5000)), Statement::new("SELECT 1")];
        assert_eq!(text(&long), format!("{}…", "ä".repeat(1000)));
        assert_eq!(text(&[Statement::new("x".repeat(1000))]).len(), 1000, "nothing was left out");
    }

    #[test]
    fn old_ones_and_too_many_go_in_bounded_steps_and_numbers_go_on() {
        let connection = table();
        let add = |count: usize| {
            connection.execute_batch("BEGIN").unwrap();
            for _ in 0..count {
                insert(&connection, &Author::default(), &[Statement::new("DELETE FROM t")]).unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
        };
        let left = || {
            connection
                .query_row("SELECT min(id), count(*) FROM tanist_audit", [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                })
                .unwrap()
        };
        let kept = Kept { retention: Duration::from_secs(3600), records: 1000 };
        add(6000);
        assert_eq!(remove(&connection, &kept).unwrap(), STEP);
        assert_eq!(remove(&connection, &kept).unwrap(), 904);
        assert_eq!((remove(&connection, &kept).unwrap(), left()), (0, (5001, 1000)));
        connection.execute("UPDATE tanist_audit SET at = '2001' WHERE id < 5011", []).unwrap();
        assert_eq!((remove(&connection, &kept).unwrap(), left()), (10, (5011, 990)));
        add(1);
        assert_eq!(left(), (5011, 991));
    }
}
