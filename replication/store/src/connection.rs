//! Opens SQLite connections with the settings replication relies on.
//!
//! Owns every `PRAGMA` of the crate. Never opens the database file by any other way than SQLite. Read `database.rs`
//! next.

use std::{
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};

use crate::{
    DATABASE_FILE, Options, PAGE_SIZE, error::StoreError, functions, inserted, private, sqlite_file,
};

/// Earlier versions can lose committed writes when one connection checkpoints while another writes.
const OLDEST_LIBRARY: i32 = 3_051_003;
const COMPILE_OPTIONS: [&str; 4] = ["ENABLE_DBPAGE_VTAB", "ENABLE_SNAPSHOT", "ENABLE_FTS5", "ENABLE_RTREE"];
/// Larger WAL files are cut to this size when they start over, in bytes.
const WAL_FILE_LIMIT: i64 = 16 << 20;
const CACHED_STATEMENTS: usize = 128;
/// Longest text or blob, in bytes: no single value may take the memory of a small machine.
pub(crate) const LONGEST_VALUE: i32 = 64 << 20;

/// Limits of SQLite's for hostile SQL, <https://sqlite.org/security.html>. Ordinary applications are far from them.
const LIMITS: [(Limit, i32); 11] = [
    (Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 20),
    (Limit::SQLITE_LIMIT_COLUMN, 2000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 1000),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    (Limit::SQLITE_LIMIT_VDBE_OP, 1_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50_000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];
/// Folder in the data directory for what SQLite sorts beyond its cache.
const TEMP_DIRECTORY: &str = "temp";
/// How SQLite's temporary files begin.
const TEMP_FILES: &str = "etilqs_";

/// Makes SQLite count what users' SQL takes, and put temporary files into a folder of `dir`; clears what a process that was
/// killed has left there. Call it before anything in the process uses SQLite; only the first call decides about the folder.
///
/// # Errors
/// When the folder can't be made.
pub fn prepare(dir: &Path) -> Result<(), StoreError> {
    let temp = dir.join(TEMP_DIRECTORY);
    if !sqlite_file::prepare(&temp) {
        tracing::warn!(
            "this process has used SQLite before: memory of users' SQL isn't bounded (limits.sql_memory)"
        );
    }
    let io = |error| StoreError::io(&temp, "make the folder for temporary files", error);
    private::create_dir_all(&temp).map_err(io)?;
    for entry in std::fs::read_dir(&temp).map_err(io)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMP_FILES) {
            // One that is in use on Windows stays.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// [`prepare`], unless somebody has done that. Without its folder SQLite takes one of the system's.
pub(crate) fn prepare_once(dir: &Path) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        if !sqlite_file::is_prepared()
            && let Err(error) = prepare(dir)
        {
            tracing::warn!(%error, "temporary files go where the system has room for them");
        }
    });
}

/// What connections need on which users' SQL runs.
fn harden(connection: &Connection) -> Result<(), rusqlite::Error> {
    for (limit, value) in LIMITS {
        connection.set_limit(limit, value)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    functions::install(connection)
}

/// The database file in a data directory.
pub(crate) fn database_path(dir: &Path) -> PathBuf {
    dir.join(DATABASE_FILE)
}

/// The WAL file in a data directory.
pub(crate) fn wal_path(dir: &Path) -> PathBuf {
    dir.join(format!("{DATABASE_FILE}-wal"))
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// The one that writes; creates the file.
    Writer,
    /// Only reads, but may hold locks in the WAL index.
    Observer,
    /// Only checkpoints.
    Checkpointer,
}

/// Opens the database of `dir`.
pub(crate) fn open(dir: &Path, usage: Use, options: &Options) -> Result<Connection, StoreError> {
    let path = database_path(dir);
    let error = |doing| {
        let path = path.clone();
        move |error| StoreError::sqlite(&path, doing, error)
    };
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if usage == Use::Writer {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    if usage == Use::Writer {
        private::touch(&path).map_err(|source| StoreError::io(&path, "make the database", source))?;
    }
    let connection = Connection::open_with_flags(&path, flags).map_err(error("open the database"))?;
    let set_up = || -> Result<(), rusqlite::Error> {
        connection.busy_timeout(Duration::from_millis(options.busy_timeout_ms.into()))?;
        connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        harden(&connection)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        if usage == Use::Writer {
            inserted::watch_inserts(&connection)?;
            connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            connection.pragma_update(None, "page_size", PAGE_SIZE)?;
            let mode: String =
                connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
            if mode != "wal" {
                return Err(rusqlite::Error::InvalidParameterName(format!("journal mode stays {mode}")));
            }
        }
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update_and_check(None, "journal_size_limit", WAL_FILE_LIMIT, |row| {
            row.get::<_, i64>(0)
        })?;
        let cache_bytes = match usage {
            Use::Writer => options.writer_cache_bytes(),
            Use::Observer | Use::Checkpointer => 256 << 10,
        };
        set_cache(&connection, cache_bytes)?;
        connection.pragma_update(None, "foreign_keys", usage == Use::Writer)?;
        if usage == Use::Observer {
            connection.pragma_update(None, "query_only", true)?;
        }
        // Opens the WAL and finds damage in the schema now rather than later.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(())
    };
    set_up().map_err(error("open the database"))?;
    if usage == Use::Writer && connection.is_readonly("main").map_err(error("open the database"))? {
        return Err(StoreError::ReadOnly { path, doing: "open the database" });
    }
    Ok(connection)
}

/// Whether the file where the replica of `dir` belongs is one, or not there, or empty. Changes nothing.
///
/// # Errors
/// [`StoreError::NoReplica`] for a database that no cluster has made; SQLite's when it can't be read.
pub fn check_file(dir: &Path) -> Result<(), StoreError> {
    let path = database_path(dir);
    if std::fs::metadata(&path).map_or(true, |file| file.len() == 0) {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let error = |error| StoreError::sqlite(&path, "look at the database", error);
    let connection = Connection::open_with_flags(&path, flags).map_err(error)?;
    let look = || -> Result<Option<String>, rusqlite::Error> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let page_size: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
        let tables = "SELECT count(*), min(name), coalesce(max(name = 'tanist_position'), 0) FROM sqlite_schema \
                      WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        let (count, first, replica) = connection.query_row(tables, [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, bool>(2)?))
        })?;
        Ok(match first {
            _ if page_size != PAGE_SIZE => Some(format!("its pages have {page_size} bytes, not {PAGE_SIZE}")),
            _ if encoding != "UTF-8" => Some(format!("its text is {encoding}, not UTF-8")),
            Some(first) if !replica => {
                Some(format!("it holds {count} tables or views of its own, such as {first:?}"))
            }
            _ => None,
        })
    };
    match look().map_err(error)? {
        Some(what) => Err(StoreError::NoReplica { path: path.clone(), what }),
        None => Ok(()),
    }
}

/// Opens the database of `dir` for reading only.
pub(crate) fn open_read_only(dir: &Path, cache_bytes: u64) -> Result<Connection, StoreError> {
    let path = database_path(dir);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        harden(&connection)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.pragma_update(None, "query_only", true)?;
        set_cache(&connection, cache_bytes)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(connection)
    };
    open().map_err(|error| StoreError::sqlite(&path, "open the database for reading", error))
}

fn set_cache(connection: &Connection, bytes: u64) -> Result<(), rusqlite::Error> {
    let kib = i64::try_from(bytes / 1024).unwrap_or(i64::MAX).max(64);
    connection.pragma_update(None, "cache_size", -kib)
}

/// Whether the SQLite linked in is recent enough and has what replication needs.
pub(crate) fn check_library() -> Result<(), StoreError> {
    if rusqlite::version_number() < OLDEST_LIBRARY {
        return Err(StoreError::Library(format!(
            "version {}, at least 3.51.3 is needed",
            rusqlite::version()
        )));
    }
    let options = || -> Result<Vec<String>, rusqlite::Error> {
        let connection = Connection::open_in_memory()?;
        let mut statement = connection.prepare("PRAGMA compile_options")?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let options = options().map_err(|error| StoreError::Library(error.to_string()))?;
    for needed in COMPILE_OPTIONS {
        if !options.iter().any(|option| option == needed) {
            return Err(StoreError::Library(format!(
                "compiled without SQLITE_{needed}; build with LIBSQLITE3_FLAGS as in .cargo/config.toml"
            )));
        }
    }
    Ok(())
}

/// Makes the directory's entries (a new database, a new WAL) durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| StoreError::Io {
        path: dir.to_owned(),
        doing: "sync the directory",
        source,
    })?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}
