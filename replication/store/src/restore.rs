//! A database file that no machine runs on: looked at, and made the beginning of a new cluster.
//!
//! Owns the check of a whole file and the one transaction that begins anew. Never touches a living database: `inspect` and
//! `begin_anew` are for copies and for machines that stand still. Read `snapshot.rs` for how copies are taken.

use std::{fs::File, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};
use tanist_replication::{ChainHash, Position, Reign, Stamp, Term, TermHistory, Txid};

use crate::{connection, error::StoreError, migrate, tables};

/// More complaints of SQLite about one file are not listed.
const PROBLEMS: i64 = 20;

/// A row of the term history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reigned {
    /// The reign.
    pub term: Term,
    /// Who reigned.
    pub master: String,
    /// Its first transaction.
    pub first_txid: Txid,
    /// Why it began.
    pub reason: String,
    /// When, by the master's clock.
    pub began_at: String,
}

/// What a database file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its newest transaction.
    pub stamp: Stamp,
    /// Who reigned, in order.
    pub reigns: Vec<Reigned>,
    /// Version of its schema.
    pub schema: usize,
    /// Size of a page in bytes.
    pub page_size: u32,
    /// Size in pages.
    pub pages: u32,
    /// What `PRAGMA integrity_check` complains of; nothing on a sound file.
    pub problems: Vec<String>,
}

impl Inspection {
    /// The reigns as the protocol knows them.
    ///
    /// # Errors
    /// When they don't ascend.
    pub fn history(&self) -> Result<TermHistory, StoreError> {
        let reigns = self.reigns.iter().map(|reign| Reign { term: reign.term, first_txid: reign.first_txid });
        Ok(TermHistory::from_reigns(reigns)?)
    }
}

/// Reads the whole database in `path`, whose WAL stands beside it if it has one.
///
/// # Errors
/// When it can't be read, or isn't a replica; damage that SQLite can name is in [`Inspection::problems`].
pub fn inspect(path: &Path) -> Result<Inspection, StoreError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let error = |error| StoreError::sqlite(path, "look at the database", error);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(error)?;
    connection.execute_batch("BEGIN").map_err(error)?;
    let number =
        |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0)).map_err(error);
    let (page_size, pages) = (number("page_size")?, number("page_count")?);
    let schema = migrate::version_of(&connection).map_err(error)?;
    let check = || -> Result<Vec<String>, rusqlite::Error> {
        let mut statement = connection.prepare(&format!("PRAGMA integrity_check({PROBLEMS})"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let mut problems = check().map_err(error)?;
    problems.retain(|problem| problem != "ok");
    let stamp = known_stamp(&connection, path)?;
    let reigns = read_reigns(&connection, path)?;
    let inspection = Inspection { stamp, reigns, schema, page_size, pages, problems };
    inspection.history()?;
    Ok(inspection)
}

/// How a database is to begin anew.
#[derive(Debug)]
pub struct Anew<'a> {
    /// The term of its new beginning, later than all in its history.
    pub term: Term,
    /// The member that begins.
    pub master: &'a str,
    /// Stands in the term history.
    pub reason: &'a str,
    /// Random: no other branch may look the same (I3).
    pub chain: [u8; 16],
    /// The new cluster's name.
    pub cluster: &'a str,
    /// Whether the tokens of the old cluster are made worthless.
    pub forget_tokens: bool,
}

/// Writes one more transaction into the database in `path`, which parts it from every replica of the cluster that it was
/// copied from: a reign of its own, and a chain hash that nobody else has. Everything is in the one file, and synced, when
/// it returns.
///
/// # Errors
/// When the database isn't a replica, its schema is newer than this program, the term isn't a later one, or the file
/// can't be written. What was written then is of no use.
pub fn begin_anew(path: &Path, anew: &Anew<'_>) -> Result<Stamp, StoreError> {
    let mut connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let error = |error| StoreError::sqlite(path, "begin anew", error);
    let (found, known) = (migrate::version_of(&connection).map_err(error)?, migrate::schema_version());
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(error)?;
    let transaction = connection.transaction().map_err(error)?;
    let old = known_stamp(&transaction, path)?;
    let position = Position { term: anew.term, txid: old.position.txid.next() };
    let stamp = Stamp { position, chain: ChainHash(anew.chain) };
    let reign = Reign { term: anew.term, first_txid: position.txid };
    tables::read_history(&transaction, path)?.push(reign.clone())?;
    let write = || -> Result<(), rusqlite::Error> {
        if anew.forget_tokens && tables::table_exists(&transaction, "tanist_tokens")? {
            transaction.execute("DELETE FROM tanist_tokens", [])?;
        }
        tables::write_founding(&transaction, anew.cluster)?;
        tables::write_reign(&transaction, &reign, anew.master, anew.reason)?;
        tables::write_stamp(&transaction, &stamp)
    };
    write().map_err(error)?;
    transaction.commit().map_err(error)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(error)?;
    connection.close().map_err(|(_, source)| error(source))?;
    let file = File::options().read(true).write(true).open(path);
    file.and_then(|file| file.sync_all()).map_err(|source| StoreError::io(path, "sync", source))?;
    Ok(stamp)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    connection::check_library()?;
    let error = |error| StoreError::sqlite(path, "open the database", error);
    let connection =
        Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(error)?;
    let set_up = || -> Result<(), rusqlite::Error> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, connection::LONGEST_VALUE)?;
        // The file comes from elsewhere: what its schema says must not do more than SQL.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(())
    };
    set_up().map_err(error)?;
    Ok(connection)
}

fn known_stamp(connection: &Connection, path: &Path) -> Result<Stamp, StoreError> {
    let stamp = tables::read_stamp(connection, path)?;
    if stamp == Stamp::default() {
        let found = format!("no position in {}: not a replica of a cluster", path.display());
        return Err(StoreError::Table { table: "tanist_position", found });
    }
    Ok(stamp)
}

fn read_reigns(connection: &Connection, path: &Path) -> Result<Vec<Reigned>, StoreError> {
    let read = || -> Result<Vec<Reigned>, rusqlite::Error> {
        let mut statement = connection
            .prepare("SELECT term, master, first_txid, reason, began_at FROM tanist_terms ORDER BY term")?;
        let rows = statement.query_map([], |row| {
            Ok(Reigned {
                // The table's own check refuses negative ones.
                term: Term(u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0)),
                master: row.get(1)?,
                first_txid: Txid(u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0)),
                reason: row.get(3)?,
                began_at: row.get(4)?,
            })
        })?;
        rows.collect()
    };
    read().map_err(|error| StoreError::sqlite(path, "read the term history", error))
}
