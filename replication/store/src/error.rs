//! What can go wrong with the store, so that each caller can tell its own fault from the disk's.
//!
//! Owns the mapping from SQLite's result codes. Never logs: whoever consumes an error does. Read `database.rs` next.

use std::{io, path::PathBuf};

use rusqlite::{ErrorCode, ffi};
use tanist_replication::{PayloadError, Position, Stamp, Term, position::HistoryOrderError};

use crate::limits::Interrupted;

/// A failure of the store. Variants say what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is no SQLite database.
    #[error("{}: not a SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The database is damaged; it needs to rejoin from another machine.
    #[error("{}: database is damaged ({doing}: {source})", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file or its directory can't be written.
    #[error("{}: read-only ({doing})", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// The disk (or quota) is full. Nothing was changed.
    #[error("{}: disk full ({doing})", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// A file operation outside SQLite failed.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// Another process holds the write lock for longer than the busy timeout. Nothing was changed.
    #[error("{}: locked by another process ({doing})", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// Any other refusal by SQLite.
    #[error("{doing}: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// A page isn't what was written: the disk, or somebody, has changed it. Nothing that was read may be believed.
    #[error("page {page} of the database isn't what was written")]
    Rotten {
        /// Its number, from 1.
        page: u32,
    },
    /// The SQLite library linked in lacks something the store relies on.
    #[error("SQLite library: {0}")]
    Library(String),
    /// A write that isn't the master's was found in a backup. The replica needs to rejoin.
    #[error("{}: changed from outside while this machine is a backup; it takes the master's pages", path.display())]
    ForeignWrite {
        /// The file.
        path: PathBuf,
    },
    /// A sync has failed, so that nobody knows what of the replica is on the disk. It needs to rejoin.
    #[error("{}: a sync failed; nothing of this replica counts until it was written anew", path.display())]
    Doubted {
        /// The file.
        path: PathBuf,
    },
    /// The replica holds less than had been stored: its WAL was lost, or an older file was put in its place. It needs to rejoin.
    #[error("{}: it holds {found}, but {stored} had been stored", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: Position,
        /// What was.
        stored: Position,
    },
    /// The replica couldn't be read when it was to be brought in line.
    #[error("{}: it can't be read any more", path.display())]
    GivenUp {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has written to the master's database what can't be numbered. Nothing is written until it is undone, or
    /// another machine is the master and this one is brought in line.
    #[error("a write from outside can't be taken over: {what}")]
    OutsideWrite {
        /// What is wrong with it.
        what: String,
    },
    /// What others have written wasn't adopted in time, so that there is no state of this replica with a number.
    #[error("what others have written after {position} has no number yet; try again")]
    Unnumbered {
        /// The newest numbered transaction.
        position: Position,
    },
    /// A database that is no replica stands where one belongs. Nothing was changed.
    #[error(
        "{}: {what}, so it is no replica of a cluster, and nothing was changed. Move it away and start again. To bring its \
         content into the cluster, run on the master: sqlite3 THE_FILE .dump | sqlite3 -cmd '.timeout 5000' {}",
        path.display(), path.display()
    )]
    NoReplica {
        /// The file.
        path: PathBuf,
        /// Why it is none.
        what: String,
    },
    /// A master's operation on a backup or the other way round.
    #[error("{operation}: possible only as {wanted}")]
    Mode {
        /// What was asked for.
        operation: &'static str,
        /// `master` or `backup`.
        wanted: &'static str,
    },
    /// A term older than the replica's, or one that has no row in the term history.
    #[error("term {term}: the replica stands at {position}{}", if *no_reign { ", and the term has begun no reign" } else { "" })]
    Term {
        /// The term asked for.
        term: Term,
        /// The replica's position.
        position: Position,
        /// Whether the term is new but its history row is missing.
        no_reign: bool,
    },
    /// A statement of a user met a disk that fails. Nothing of its batch has happened.
    #[error("{message}")]
    Statement {
        /// SQLite's words.
        message: String,
    },
    /// SQLite rolled the whole batch back (disk full, `ROLLBACK` conflict clause, interrupted write, ...). None of
    /// its requests has happened; those that weren't the cause may be run again.
    #[error("batch rolled back by SQLite{}", match interrupted { Some(why) => format!(": {why}"), None => String::new() })]
    BatchLost {
        /// Why the last request was interrupted, if it was.
        interrupted: Option<Interrupted>,
    },
    /// The request wrote more than a transaction may hold. It was rolled back alone; the batch goes on.
    #[error("request writes more than {limit_bytes} bytes")]
    TransactionTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The request left a deferred foreign key violated. It was rolled back alone; the batch goes on.
    #[error("FOREIGN KEY constraint failed")]
    ForeignKeys,
    /// The request gave a table a name that is kept for Tanist. It was rolled back alone; the batch goes on.
    #[error("the name {name} is reserved")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// The request declared a foreign key to one of Tanist's tables. It was rolled back alone; the batch goes on.
    #[error("table {table}: a foreign key may not refer to {parent}, which is Tanist's")]
    ReservedReference {
        /// The table with the key.
        table: String,
        /// What it refers to.
        parent: String,
    },
    /// A transaction that doesn't follow the one before it.
    #[error("transaction {}: follows {previous:?}, the replica is {found:?}", stamp.position)]
    Predecessor {
        /// The transaction.
        stamp: Stamp,
        /// What it follows.
        previous: Stamp,
        /// What was there.
        found: Stamp,
    },
    /// A payload that isn't what its master captured.
    #[error("transaction {position}: checksum of the payload is wrong")]
    Checksum {
        /// The transaction.
        position: Position,
    },
    /// A payload that doesn't decompress to the announced length.
    #[error("transaction {position}: payload doesn't decompress to {plain_len} bytes")]
    Decompress {
        /// The transaction.
        position: Position,
        /// Announced length.
        plain_len: u32,
    },
    /// A payload over [`crate::Options::payload_limit`].
    #[error("transaction {position}: payload of {bytes} bytes, at most {limit_bytes} are accepted")]
    PayloadTooLarge {
        /// The transaction.
        position: Position,
        /// Announced length.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A transaction that lets the database grow by other pages than it brings.
    #[error("transaction {position}: brings {found} new pages, the database grows by {expected}")]
    NewPages {
        /// The transaction.
        position: Position,
        /// New pages in its payload.
        found: usize,
        /// New pages there must be.
        expected: u32,
    },
    /// A payload or copied chunk that can't be read.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Pages of another size than this database's.
    #[error("page size {found}, this database has {expected}")]
    PageSize {
        /// Size offered.
        found: u32,
        /// Size here.
        expected: u32,
    },
    /// The other end of a rejoin said something that can't be.
    #[error("rejoin: {0}")]
    Exchange(String),
    /// The pages put together aren't the master's database; nothing was changed, and the staged pages were thrown away.
    #[error("rejoin: the pages put together aren't the master's database at {}; nothing was changed", stamp.position)]
    Assembled {
        /// What was to be reached.
        stamp: Stamp,
    },
    /// A page in the staging file isn't what was put there.
    #[error("{}: page {page} is damaged", path.display())]
    Staged {
        /// The file.
        path: PathBuf,
        /// The page.
        page: u32,
    },
    /// A report of what a diverged replica held couldn't be put together, so nothing was replaced.
    #[error("divergence report: {0}")]
    Report(String),
    /// The tables `tanist_position` or `tanist_terms` hold something impossible.
    #[error("table {table}: {found}")]
    Table {
        /// The table.
        table: &'static str,
        /// What was found.
        found: String,
    },
    /// The term history doesn't ascend.
    #[error(transparent)]
    History(#[from] HistoryOrderError),
    /// A migration failed; it was rolled back.
    #[error("migrate schema: {0}")]
    Migration(#[from] refinery_core::Error),
    /// The database was written by a newer version of this software.
    #[error("schema version {found} is newer than this program's {known}; upgrade this machine")]
    NewerSchema {
        /// Version in the database.
        found: usize,
        /// Newest version known here.
        known: usize,
    },
    /// Another build of this software has made the schema, from other migrations of the same numbers.
    #[error(
        "another build has made this database's schema: its migration {migration} differs from this program's; run the program that \
         made it, or take a copy with that and restore it"
    )]
    OtherSchema {
        /// The first that differs.
        migration: String,
    },
}

/// Whether SQLite's extended result code says something about the disk, whosever statement it answers. What a full-text
/// index, a numbering or a conflict clause complains of is its user's affair. [`SQLITE_FULL`](rusqlite::ffi::SQLITE_FULL)
/// is told apart by whether there is room: a table that has used up its row numbers says the same.
#[must_use]
pub fn is_disk_code(extended: i32) -> bool {
    match extended & 0xff {
        ffi::SQLITE_IOERR => extended != ffi::SQLITE_IOERR_NOMEM,
        ffi::SQLITE_CORRUPT => !matches!(extended, ffi::SQLITE_CORRUPT_VTAB | ffi::SQLITE_CORRUPT_SEQUENCE),
        ffi::SQLITE_FULL | ffi::SQLITE_NOTADB | ffi::SQLITE_READONLY => true,
        _ => false,
    }
}

impl StoreError {
    /// Whether only the one request failed and its batch goes on.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(
            self,
            StoreError::TransactionTooLarge { .. }
                | StoreError::ForeignKeys
                | StoreError::ReservedName { .. }
                | StoreError::ReservedReference { .. }
        )
    }

    /// Whether the machine's disk is to blame, so that it shouldn't be master.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        match self {
            StoreError::Corrupt { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::DiskFull { .. }
            | StoreError::Io { .. }
            | StoreError::NotADatabase { .. } => true,
            StoreError::Sqlite { source, .. } => {
                source.sqlite_error().is_some_and(|error| is_disk_code(error.extended_code))
            }
            StoreError::Statement { .. } => true,
            _ => false,
        }
    }

    /// Whether the replica itself is of no use any more until a rejoin replaces it.
    #[must_use]
    pub fn needs_copy(&self) -> bool {
        matches!(
            self,
            StoreError::ForeignWrite { .. }
                | StoreError::Doubted { .. }
                | StoreError::Lost { .. }
                | StoreError::Corrupt { .. }
        )
    }

    /// Whether SQLite can't read the database at all, or not enough of it to have it brought in line.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(
            self,
            StoreError::Corrupt { .. } | StoreError::NotADatabase { .. } | StoreError::GivenUp { .. }
        )
    }

    /// Whether a sync of SQLite's own has failed.
    pub(crate) fn is_failed_sync(&self) -> bool {
        let StoreError::Sqlite { source, .. } = self else { return false };
        source.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_FSYNC)
    }

    /// Gives the system's error its kind and place.
    pub(crate) fn io(path: &std::path::Path, doing: &'static str, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull { path, doing },
            _ => StoreError::Io { path, doing, source },
        }
    }

    /// Gives SQLite's error its kind and place.
    pub(crate) fn sqlite(path: &std::path::Path, doing: &'static str, source: rusqlite::Error) -> StoreError {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => StoreError::NotADatabase { path },
            Some(ErrorCode::DatabaseCorrupt) => StoreError::Corrupt { path, doing, source },
            Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path, doing },
            Some(ErrorCode::DiskFull) => StoreError::DiskFull { path, doing },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path, doing },
            _ => StoreError::Sqlite { doing, source },
        }
    }
}
