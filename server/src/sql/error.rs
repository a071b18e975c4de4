//! Why a statement was refused, as SQLite says it: bounded, and with the place in the user's own text.

use rusqlite::ErrorCode;
use tanist_store::{Interrupted, StoreError, is_denied};

/// Longest message, in characters: SQLite repeats words, names and expressions of the SQL in it, however long.
const MESSAGE: usize = 500;
/// Characters of the SQL shown before and behind the place.
const EXCERPT: usize = 40;

/// What kind of refusal it is; decides about the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlErrorKind {
    /// SQLite refuses the statement.
    Sql,
    /// A constraint is violated.
    Constraint,
    /// Users may not do that.
    Denied,
    /// It ran too long.
    Timeout,
    /// It writes too much.
    TooLarge,
    /// It needs more memory, or more temporary files, than users' SQL may have.
    NoRoom,
    /// Its result is too large.
    ResultTooLarge,
    /// Its parameters don't fit.
    BadParameter,
    /// It would have to be recorded, and there is no room for that.
    AuditFull,
}

/// Why a statement was refused; the whole request is undone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("statement {index}: {message}")]
pub struct SqlError {
    /// Which of the request's statements, from 0.
    pub index: usize,
    /// The kind.
    pub kind: SqlErrorKind,
    /// What was found and what was expected.
    pub message: String,
    /// SQLite's extended result code, if it came from SQLite.
    pub sqlite_code: Option<i32>,
    /// Where in the statement's SQL, if SQLite has said so.
    pub place: Option<Place>,
}

/// A place in a statement's SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Characters before it.
    pub offset: usize,
    /// The SQL around it.
    pub excerpt: String,
}

impl Place {
    fn of(sql: &str, bytes: i32) -> Place {
        let bytes = sql.floor_char_boundary(usize::try_from(bytes).unwrap_or_default());
        let (before, after) = sql.split_at(bytes);
        let start = before.char_indices().rev().take(EXCERPT).last().map_or(bytes, |(start, _)| start);
        let end = after.char_indices().nth(EXCERPT + 1).map_or(sql.len(), |(end, _)| bytes + end);
        Place { offset: before.chars().count(), excerpt: sql.get(start..end).unwrap_or_default().to_owned() }
    }
}

/// The text, or its beginning and its end.
fn bounded(text: &str) -> String {
    let count = text.chars().count();
    if count <= MESSAGE {
        return text.to_owned();
    }
    let half = MESSAGE / 2;
    let start: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(count - half).collect();
    format!("{start} … {end}")
}

impl SqlError {
    pub(super) fn new(index: usize, kind: SqlErrorKind, message: impl Into<String>) -> SqlError {
        SqlError { index, kind, message: message.into(), sqlite_code: None, place: None }
    }

    /// SQLite's refusal of statement `index`.
    #[must_use]
    pub fn from_sqlite(index: usize, error: &rusqlite::Error) -> SqlError {
        let kind = match error.sqlite_error_code() {
            _ if is_denied(error) => SqlErrorKind::Denied,
            Some(ErrorCode::ConstraintViolation) => SqlErrorKind::Constraint,
            Some(ErrorCode::OperationInterrupted) => SqlErrorKind::Timeout,
            Some(ErrorCode::TooBig) => SqlErrorKind::TooLarge,
            Some(ErrorCode::OutOfMemory) => SqlErrorKind::NoRoom,
            _ => SqlErrorKind::Sql,
        };
        let mut place = None;
        let mut sqlite_code = error.sqlite_error().map(|error| error.extended_code);
        let message = match error {
            rusqlite::Error::SqlInputError { error, msg, sql, offset } => {
                sqlite_code = Some(error.extended_code);
                place = Some(Place::of(sql, *offset));
                bounded(msg)
            }
            _ if error.sqlite_error_code() == Some(ErrorCode::ApiMisuse) => {
                "found nothing (or comments only), expected one SQL statement".to_owned()
            }
            rusqlite::Error::MultipleStatement => {
                "found several SQL statements, expected exactly one".to_owned()
            }
            rusqlite::Error::InvalidParameterName(name) => {
                return SqlError::new(
                    index,
                    SqlErrorKind::BadParameter,
                    format!("params: the SQL has no parameter {name:?}"),
                );
            }
            other => bounded(&other.to_string()),
        };
        SqlError { index, kind, message, sqlite_code, place }
    }

    /// Whether there was no room for it, on the disk or in the table.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.sqlite_code.is_some_and(|code| code & 0xff == rusqlite::ffi::SQLITE_FULL)
    }

    /// A change that can't be recorded.
    #[must_use]
    pub fn audit_full() -> SqlError {
        let message = "not done: the record of changes by SQL is full (audit.records), and what is younger than audit.retention isn't \
                       removed (audit.when_full); `tanist audit export` keeps it elsewhere";
        SqlError::new(0, SqlErrorKind::AuditFull, message)
    }

    /// A statement that goes on although it was told to end.
    #[must_use]
    pub(crate) fn stuck() -> SqlError {
        SqlError::new(0, SqlErrorKind::Timeout, "").explain(None, None)
    }

    /// Says why the connection stopped or denied the statement.
    #[must_use]
    pub fn explain(mut self, why: Option<Interrupted>, denied: Option<String>) -> SqlError {
        match (self.kind, why, denied) {
            (_, Some(Interrupted::Memory { limit_bytes }), _) => {
                self.kind = SqlErrorKind::NoRoom;
                self.message = format!(
                    "it needs more memory than is left for SQL of {limit_bytes} bytes; one request gets half of them at most \
                     (limits.sql_memory)"
                );
            }
            (_, Some(Interrupted::TempSpace { limit_bytes }), _) => {
                self.kind = SqlErrorKind::NoRoom;
                self.message = format!(
                    "it sorts or keeps more than there is room for on the disk: {limit_bytes} bytes (limits.sql_temp)"
                );
            }
            (SqlErrorKind::Sql | SqlErrorKind::NoRoom, Some(Interrupted::Deadline), _) => {
                self.kind = SqlErrorKind::Timeout;
                self.message = LATE.to_owned();
            }
            (SqlErrorKind::Timeout, Some(Interrupted::TooLarge { limit_bytes }), _) => {
                self.kind = SqlErrorKind::TooLarge;
                self.message = too_large(limit_bytes);
            }
            (SqlErrorKind::Timeout, ..) => {
                self.message = LATE.to_owned();
            }
            (SqlErrorKind::Denied, _, Some(what)) => self.message = format!("not allowed here: {what}"),
            _ => {}
        }
        self
    }

    /// A request that the store refused as a whole, after its last statement.
    #[must_use]
    pub fn refused(error: &StoreError) -> SqlError {
        match error {
            StoreError::TransactionTooLarge { limit_bytes } => {
                SqlError::new(0, SqlErrorKind::TooLarge, too_large(*limit_bytes))
            }
            StoreError::ReservedName { .. } | StoreError::ReservedReference { .. } => {
                SqlError::new(0, SqlErrorKind::Denied, error.to_string())
            }
            _ => SqlError::new(0, SqlErrorKind::Constraint, error.to_string()),
        }
    }
}

const LATE: &str = "stopped: it ran longer than the limit (limits.statement_time)";

fn too_large(limit_bytes: u64) -> String {
    format!("the transaction writes more than the limit of {limit_bytes} bytes (replication.max_transaction)")
}
