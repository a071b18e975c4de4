//! Reads and writes the tables that say where a replica stands: `tanist_position` and `tanist_terms`.
//!
//! Owns their SQL. Never opens a transaction of its own. Read `migrations/0001_cluster.sql` for their meaning.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use tanist_replication::{ChainHash, Position, Reign, Stamp, Term, TermHistory, Txid};

use crate::error::StoreError;

/// The replica's stamp; zero when the table doesn't exist yet.
pub(crate) fn read_stamp(connection: &Connection, path: &Path) -> Result<Stamp, StoreError> {
    let doing = "read the position";
    let row = match connection.prepare_cached("SELECT term, txid, chain FROM tanist_position WHERE id = 1") {
        Ok(mut statement) => statement
            .query_row([], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
            })
            .optional()
            .map_err(|error| StoreError::sqlite(path, doing, error))?,
        Err(error) => {
            if table_exists(connection, "tanist_position").unwrap_or(true) {
                return Err(StoreError::sqlite(path, doing, error));
            }
            None
        }
    };
    let Some((term, txid, chain)) = row else { return Ok(Stamp::default()) };
    let impossible = |found: String| StoreError::Table { table: "tanist_position", found };
    let number =
        |value: i64| u64::try_from(value).map_err(|_| impossible(format!("negative number {value}")));
    let chain = <[u8; 16]>::try_from(chain.as_slice())
        .map_err(|_| impossible(format!("chain hash of {} bytes", chain.len())))?;
    Ok(Stamp {
        position: Position { term: Term(number(term)?), txid: Txid(number(txid)?) },
        chain: ChainHash(chain),
    })
}

pub(crate) fn table_exists(connection: &Connection, name: &str) -> Result<bool, rusqlite::Error> {
    connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1",
        [name],
        |row| Ok(row.get::<_, i64>(0)? > 0),
    )
}

/// The term history; empty when the table doesn't exist yet.
pub(crate) fn read_history(connection: &Connection, path: &Path) -> Result<TermHistory, StoreError> {
    let read = || -> Result<Vec<(i64, i64)>, rusqlite::Error> {
        if !table_exists(connection, "tanist_terms")? {
            return Ok(Vec::new());
        }
        let mut statement = connection.prepare("SELECT term, first_txid FROM tanist_terms ORDER BY term")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let rows = read().map_err(|error| StoreError::sqlite(path, "read the term history", error))?;
    let number = |value: i64| {
        u64::try_from(value).map_err(|_| StoreError::Table {
            table: "tanist_terms",
            found: format!("negative number {value}"),
        })
    };
    let mut history = TermHistory::default();
    for (term, first_txid) in rows {
        history.push(Reign { term: Term(number(term)?), first_txid: Txid(number(first_txid)?) })?;
    }
    Ok(history)
}

/// The founding of the cluster that the data belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's name.
    pub cluster: String,
    /// Random.
    pub id: [u8; 16],
}

/// `None` for a database that holds none: an empty one.
pub(crate) fn read_founding(connection: &Connection) -> Result<Option<Founding>, rusqlite::Error> {
    if !table_exists(connection, "tanist_founding")? {
        return Ok(None);
    }
    connection
        .query_row("SELECT cluster, founding FROM tanist_founding WHERE id = 1", [], |row| {
            Ok(Founding { cluster: row.get(0)?, id: row.get(1)? })
        })
        .optional()
}

/// The data is that of a cluster of this name from now on, and of no other. Nothing is done where the database has no place for
/// that yet.
pub(crate) fn write_founding(connection: &Connection, cluster: &str) -> Result<(), rusqlite::Error> {
    if cluster.is_empty() || !table_exists(connection, "tanist_founding")? {
        return Ok(());
    }
    connection
        .execute("INSERT OR REPLACE INTO tanist_founding VALUES (1, ?1, randomblob(16))", [cluster])
        .map(drop)
}

fn integer(value: u64) -> Result<i64, rusqlite::Error> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Writes the position row of the open transaction.
pub(crate) fn write_stamp(connection: &Connection, stamp: &Stamp) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached(
            "INSERT INTO tanist_position (id, term, txid, chain) VALUES (1, ?1, ?2, ?3) \
             ON CONFLICT (id) DO UPDATE SET term = ?1, txid = ?2, chain = ?3",
        )?
        .execute(params![
            integer(stamp.position.term.0)?,
            integer(stamp.position.txid.0)?,
            stamp.chain.0.as_slice()
        ])?;
    Ok(())
}

/// Adds the row of a reign whose first transaction is the open one.
pub(crate) fn write_reign(
    connection: &Connection,
    reign: &Reign,
    master: &str,
    reason: &str,
) -> Result<(), rusqlite::Error> {
    connection.execute(
        "INSERT INTO tanist_terms (term, master, first_txid, reason) VALUES (?1, ?2, ?3, ?4)",
        params![integer(reign.term.0)?, master, integer(reign.first_txid.0)?, reason],
    )?;
    Ok(())
}
