//! The record of requests by users' SQL, in the replicated table `tanist_audit`: who, when, in which transaction, which text; those
//! that have changed something, and those that were refused because nobody may do that.
//!
//! What is younger than the retention is never removed by number alone: it goes into a file first, or changes are refused, as the
//! configuration says. Never holds the values of parameters. Never decides what is recorded: `writer.rs` does, inside the batch.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, params};
use tanist_api::Statement;
use tanist_store::{Batch, StoreError, Utc};

use crate::{
    clock,
    served::{self, Served},
    state::select,
};

/// Characters of a request's SQL that are kept: of its beginning,
const HEAD_CHARS: usize = 1000;
/// and of its end.
const TAIL_CHARS: usize = 500;
/// Characters of the reason why it was refused.
const REFUSED_CHARS: usize = 300;
/// Removed in one transaction at most.
const STEP: i64 = 4096;

/// Under whose name a request is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The token's name; `None` where there are no tokens.
    pub name: Option<String>,
    /// With so many records nothing more is recorded, and so nothing more may be changed.
    pub full_at: u64,
}

/// How long, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Older ones go, by the time that the cluster was served since: a wrong wall clock removes none.
    pub retention: Duration,
    /// So many are kept in the table.
    pub records: u64,
    /// What becomes of those beyond that which are younger.
    pub when_full: WhenFull,
}

/// What is done with more records than the table shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhenFull {
    /// Changes by SQL are refused until there is room.
    Refuse,
    /// The master moves the oldest to files in this directory, one for each day, as lines of JSON.
    Files(PathBuf),
}

impl Kept {
    /// The number of records with which changes are refused. Where there are files that is only so when they can't be written.
    #[must_use]
    pub fn full_at(&self) -> u64 {
        match self.when_full {
            WhenFull::Refuse => self.records,
            WhenFull::Files(_) => self.records.saturating_mul(2).saturating_add(10_000),
        }
    }
}

/// The statements' text one after the other, its length in bytes, and its hash.
struct Text {
    shown: String,
    bytes: usize,
    hash: blake3::Hash,
}

fn text(statements: &[Statement]) -> Text {
    let whole = statements.iter().map(|one| one.sql.trim()).collect::<Vec<_>>().join(";\n");
    let shown = match whole.char_indices().nth(HEAD_CHARS) {
        Some((head, _)) if whole[head..].chars().nth(TAIL_CHARS).is_some() => {
            let tail = whole.char_indices().rev().nth(TAIL_CHARS - 1).map_or(whole.len(), |(tail, _)| tail);
            format!("{} … {}", &whole[..head], &whole[tail..])
        }
        _ => whole.clone(),
    };
    Text { shown, bytes: whole.len(), hash: blake3::hash(whole.as_bytes()) }
}

/// Whether there is no room for another record.
///
/// # Errors
/// When the table can't be read.
pub(crate) fn is_full(batch: &Batch<'_>, author: &Author) -> Result<bool, StoreError> {
    // Only the oldest are ever removed, so the ends say how many there are.
    batch
        .connection()
        .prepare_cached(
            "SELECT coalesce((SELECT max(id) FROM tanist_audit) - (SELECT min(id) FROM tanist_audit) + 1, 0)",
        )
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .map(|count| u64::try_from(count).unwrap_or(0) >= author.full_at)
        .map_err(|source| StoreError::Sqlite { doing: "count the records of requests", source })
}

/// Records a request in its own transaction, or one of which nothing was done, and why.
///
/// # Errors
/// When the row can't be written: the batch must not commit.
pub(crate) fn record(
    batch: &mut Batch<'_>,
    author: &Author,
    statements: &[Statement],
    refused: Option<&str>,
    served: &mut Served,
) -> Result<(), StoreError> {
    let now = served.store(batch)?;
    batch
        .internal(|connection| insert(connection, author, statements, refused, now))?
        .map_err(|source| StoreError::Sqlite { doing: "record a request", source })
}

fn insert(
    connection: &Connection,
    author: &Author,
    statements: &[Statement],
    refused: Option<&str>,
    served_ms: i64,
) -> Result<(), rusqlite::Error> {
    let Text { shown, bytes, hash } = text(statements);
    let refused = refused.map(|why| why.chars().take(REFUSED_CHARS).collect::<String>());
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    // The open transaction is the one after the newest.
    connection
        .prepare_cached(
            "INSERT INTO tanist_audit (id, txid, actor, statements, refused, sql, sql_bytes, sql_hash, served_ms) VALUES (
             (SELECT coalesce(max(id), 0) + 1 FROM tanist_audit),
             (SELECT coalesce(max(txid), 0) + 1 FROM tanist_position), ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            author.name,
            number(statements.len()),
            refused,
            shown,
            number(bytes),
            hash.to_hex().as_str(),
            served_ms
        ])
        .map(drop)
}

/// Removes what is too old, and moves what is too much into a file; oldest first. Says whether there is more of it.
///
/// # Errors
/// When the batch is lost.
pub(crate) fn prune(batch: &mut Batch<'_>, kept: &Kept, served: &Served) -> Result<bool, StoreError> {
    let pruned = batch.internal(|connection| {
        let old = remove_old(connection, served::before(served.now_ms(connection)?, kept.retention))?;
        Ok::<_, PruneError>(old.max(match &kept.when_full {
            WhenFull::Refuse => 0,
            WhenFull::Files(directory) => move_on(connection, kept.records, directory)?,
        }))
    })?;
    match pruned {
        Ok(count) => Ok(count >= STEP),
        Err(error) => {
            tracing::warn!(%error, "prune the record of changes by SQL");
            Ok(false)
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("audit.directory: {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

fn remove_old(connection: &Connection, before_ms: i64) -> Result<i64, rusqlite::Error> {
    // The oldest come first: what is young keeps all that came after it.
    let removed = connection
        .prepare_cached(
            "DELETE FROM tanist_audit WHERE id < coalesce(
             (SELECT min(id) FROM (SELECT id, served_ms FROM tanist_audit ORDER BY id LIMIT ?1)
              WHERE served_ms >= ?2),
             (SELECT id FROM tanist_audit ORDER BY id LIMIT 1 OFFSET ?1), 9223372036854775807)",
        )?
        .execute(params![STEP, before_ms])?;
    Ok(i64::try_from(removed).unwrap_or(i64::MAX))
}

/// Moves the oldest beyond `records` into the file of the day. What is in the file and comes once more, because the transaction
/// was lost after that, has the same number.
fn move_on(connection: &Connection, records: u64, directory: &Path) -> Result<i64, PruneError> {
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(concat!(
        "SELECT a.id, ",
        select::audit_object!(),
        " FROM tanist_audit AS a WHERE a.id <= (SELECT max(id) FROM tanist_audit) - ?1 ORDER BY a.id LIMIT ?2"
    ))?;
    let rows = statement.query_map([records, STEP], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
    let Some((last, _)) = rows.last() else { return Ok(0) };
    let day = &Utc::of(clock::wall()).to_string()[..10];
    let path = directory.join(format!("audit-{day}.jsonl"));
    let lines: String = rows.iter().flat_map(|(_, line)| [line.as_str(), "\n"]).collect();
    append(directory, &path, lines.as_bytes()).map_err(|source| PruneError::File { path, source })?;
    let removed = connection.prepare_cached("DELETE FROM tanist_audit WHERE id <= ?1")?.execute([last])?;
    Ok(i64::try_from(removed).unwrap_or(i64::MAX))
}

/// On the disk before it is gone from the table; readable for nobody else.
fn append(directory: &Path, path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut folder = fs::DirBuilder::new();
    let mut file = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        folder.mode(0o700);
        file.mode(0o600);
    }
    folder.recursive(true).create(directory)?;
    let mut file = file.create(true).append(true).open(path)?;
    file.write_all(lines)?;
    file.sync_all()?;
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    Ok(())
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

    fn nobody() -> Author {
        Author { name: None, full_at: u64::MAX }
    }

    fn add(connection: &Connection, count: usize) {
        connection.execute_batch("BEGIN").unwrap();
        for _ in 0..count {
            insert(connection, &nobody(), &[Statement::new("DELETE FROM t")], None, 5000).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    }

    /// The oldest, and how many there are.
    fn left(connection: &Connection) -> (i64, i64) {
        let sql = "SELECT coalesce(min(id), 0), count(*) FROM tanist_audit";
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    #[test]
    fn text_is_shortened_in_its_middle_and_its_hash_is_of_the_whole() {
        let two = [Statement::new(" INSERT INTO t VALUES (?)\n"), Statement::new("DELETE FROM t")];
        assert_eq!(text(&two).shown, "INSERT INTO t VALUES (?);\nDELETE FROM t");
        let long = |end: &str| [Statement::new("ä".repeat(5000)), Statement::new(end)];
        let (one, other) = (text(&long("DROP TABLE a")), text(&long("DROP TABLE b")));
        assert!(
            one.shown.starts_with(&"ä".repeat(1000)) && one.shown.ends_with("ä;\nDROP TABLE a"),
            "{}",
            one.shown
        );
        assert_eq!(one.shown.chars().count(), 1503);
        assert_eq!(one.bytes, 10_000 + ";\nDROP TABLE a".len());
        assert_ne!(one.hash, other.hash);
        for kept_whole in [1000, 1500] {
            assert_eq!(text(&[Statement::new("x".repeat(kept_whole))]).shown.len(), kept_whole);
        }
        assert_eq!(text(&[]).shown, "");
    }

    #[test]
    fn old_ones_go_in_bounded_steps_and_young_ones_never_by_number() {
        let connection = table();
        add(&connection, 6000);
        assert_eq!((remove_old(&connection, 5000).unwrap(), left(&connection)), (0, (1, 6000)));
        // Whatever their wall clock says.
        connection
            .execute("UPDATE tanist_audit SET at = '2001', served_ms = served_ms - (id < 5011)", [])
            .unwrap();
        assert_eq!((remove_old(&connection, 5000).unwrap(), left(&connection)), (STEP, (4097, 1904)));
        assert_eq!((remove_old(&connection, 5000).unwrap(), left(&connection)), (914, (5011, 990)));
        assert_eq!(remove_old(&connection, 5000).unwrap(), 0);
        assert_eq!((remove_old(&connection, 5001).unwrap(), left(&connection)), (990, (0, 0)));
    }

    #[test]
    fn what_is_too_much_is_in_a_file_before_it_is_gone() {
        let connection = table();
        let dir = tempfile::TempDir::new().unwrap();
        let directory = dir.path().join("made").join("here");
        add(&connection, 5500);
        assert_eq!(move_on(&connection, 1000, &directory).unwrap(), STEP);
        assert_eq!(move_on(&connection, 1000, &directory).unwrap(), 404);
        assert_eq!((move_on(&connection, 1000, &directory).unwrap(), left(&connection)), (0, (4501, 1000)));
        let text: String = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        let ids: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<tanist_api::AuditRecord>(line).unwrap().id)
            .collect();
        assert_eq!(ids, (1..=4500).collect::<Vec<_>>());
        // A place that can't be written to loses nothing.
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(move_on(&connection, 10, &file).is_err());
        assert_eq!(left(&connection), (4501, 1000));
    }
}
