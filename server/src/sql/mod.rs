//! Users' statements: JSON parameters in, JSON results out, with limits; the same for reads and writes.
//!
//! Runs on a connection somebody else has made safe (authorizer, deadline, savepoint). Never commits.

mod error;
pub(crate) mod value;
mod verb;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, ErrorCode, Row, types::ValueRef};
use serde_json::{Map, Value};
use tanist_api::{Params, Statement, StatementResult};
use tanist_store::{InsertWatch, forget_inserts, prepare_user};

pub use error::{Place, SqlError, SqlErrorKind};

use verb::Verb;
pub(crate) use verb::removes;

/// What a value costs an answer beside its bytes, so that many small ones don't take much more memory than they count.
const EACH: usize = 8;
/// The same for a blob, which is an object in the answer.
const EACH_BLOB: usize = 128;

/// Limits on results.
#[derive(Debug, Clone, Copy)]
pub struct SqlLimits {
    /// Rows of all statements together.
    pub rows: usize,
    /// Bytes of text and blobs in all rows together.
    pub bytes: usize,
}

/// Runs the statements in order, each exactly one SQL statement. A connection that may write is one of the store's, or
/// [`tanist_store::watch_inserts`] was called for it.
///
/// # Errors
/// The first refusal; the caller undoes what came before.
pub fn run(
    connection: &Connection,
    statements: &[Statement],
    limits: &SqlLimits,
) -> Result<Vec<StatementResult>, SqlError> {
    run_telling(connection, statements, limits).map(|(results, _)| results)
}

/// The same; tells also whether anything was changed, rows or schema.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_telling(
    connection: &Connection,
    statements: &[Statement],
    limits: &SqlLimits,
) -> Result<(Vec<StatementResult>, bool), SqlError> {
    let mut budget = *limits;
    let mut changes = false;
    forget_inserts(connection);
    let results = statements.iter().enumerate().map(|(index, statement)| {
        let (result, changed) = run_one(connection, index, statement, &mut budget)?;
        changes |= changed;
        Ok(result)
    });
    let results = results.collect::<Result<_, _>>()?;
    Ok((results, changes))
}

fn run_one(
    connection: &Connection,
    index: usize,
    statement: &Statement,
    budget: &mut SqlLimits,
) -> Result<(StatementResult, bool), SqlError> {
    let sql = statement.sql.as_str();
    let sqlite = |error: rusqlite::Error| SqlError::from_sqlite(index, &error);
    if sql.contains('\0') {
        return Err(SqlError::new(index, SqlErrorKind::Sql, "sql: found a NUL character, expected SQL text"));
    }
    let verb = Verb::of(sql);
    if verb == Verb::Vacuum {
        let message = "not allowed here: VACUUM is the server's own affair";
        return Err(SqlError::new(index, SqlErrorKind::Denied, message));
    }
    let mut prepared = prepare_user(connection, sql).map_err(sqlite)?;
    if prepared.is_explain() != 0 {
        // SQLite never makes an explanation anew: one from the cache would be of an older schema.
        prepared.discard();
        prepared = prepare_user(connection, sql).map_err(sqlite)?;
    }
    bind(&mut prepared, index, &statement.params)?;
    let changes_before = connection.total_changes();
    let watch = (verb == Verb::Insert).then(|| InsertWatch::begin(connection));
    let mut names = None;
    let mut rows = Vec::new();
    let mut cursor = prepared.raw_query();
    loop {
        let row = match cursor.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) => return Err(SqlError::from_sqlite(index, &with_place(connection, sql, error))),
        };
        if names.is_none() {
            // Only now: the first step makes a cached statement anew if the schema has changed since.
            names = Some(columns(row.as_ref(), index)?);
        }
        if rows.len() >= budget.rows {
            let message = format!("the result has more rows than the limit of {} (limits.rows)", budget.rows);
            return Err(SqlError::new(index, SqlErrorKind::ResultTooLarge, message));
        }
        rows.push(values(row, index, names.as_ref().map_or(0, Vec::len), budget)?);
    }
    drop(cursor);
    let columns = names.map_or_else(|| columns(&prepared, index), Ok)?;
    budget.rows -= rows.len();
    // Like the names, what it may write is certain only now: a CREATE IF NOT EXISTS may have had nothing to do the last time.
    let writes = !prepared.readonly() && prepared.is_explain() == 0;
    let about_rows = matches!(verb, Verb::Insert | Verb::Change);
    let result = StatementResult {
        rows_affected: (writes && about_rows).then(|| connection.changes()),
        last_insert_id: watch.and_then(InsertWatch::finish),
        columns,
        rows,
    };
    // What writes and isn't about rows is about the schema.
    Ok((result, connection.total_changes() != changes_before || writes && !about_rows))
}

/// The names of a statement's columns, none when it returns no rows.
fn columns(statement: &rusqlite::Statement<'_>, index: usize) -> Result<Vec<String>, SqlError> {
    let name = |column| statement.column_name(column).map(str::to_owned);
    let names = || (0..statement.column_count()).map(name).collect::<Result<Vec<_>, _>>();
    // A name that isn't UTF-8, which somebody may have made from outside, is a panic of the crate's.
    match catch_unwind(AssertUnwindSafe(names)) {
        Ok(names) => names.map_err(|error| SqlError::from_sqlite(index, &error)),
        Err(_) => Err(SqlError::new(
            index,
            SqlErrorKind::Sql,
            "a column's name isn't UTF-8: give it another one (AS), or name the columns that are wanted",
        )),
    }
}

fn values(
    row: &Row<'_>,
    index: usize,
    columns: usize,
    budget: &mut SqlLimits,
) -> Result<Vec<Value>, SqlError> {
    let mut values = Vec::with_capacity(columns);
    for column in 0..columns {
        let value = row.get_ref(column).map_err(|error| SqlError::from_sqlite(index, &error))?;
        let size = match value {
            ValueRef::Text(bytes) => bytes.len().max(EACH),
            ValueRef::Blob(bytes) => bytes.len() + EACH_BLOB,
            _ => EACH,
        };
        budget.bytes = budget.bytes.checked_sub(size).ok_or_else(|| {
            let message = "the result has more bytes than limits.result";
            SqlError::new(index, SqlErrorKind::ResultTooLarge, message)
        })?;
        values.push(value::to_json(value));
    }
    Ok(values)
}

/// The error with the place in the SQL: a cached statement that no longer fits the schema fails without one, when it is run.
fn with_place(connection: &Connection, sql: &str, error: rusqlite::Error) -> rusqlite::Error {
    if error.sqlite_error_code() != Some(ErrorCode::Unknown) {
        return error;
    }
    match connection.prepare(sql) {
        Err(place @ rusqlite::Error::SqlInputError { .. }) => place,
        _ => error,
    }
}

fn bind(prepared: &mut rusqlite::Statement<'_>, index: usize, params: &Params) -> Result<(), SqlError> {
    let bad = |message: String| SqlError::new(index, SqlErrorKind::BadParameter, message);
    let expected = prepared.parameter_count();
    match params {
        Params::Positional(values) => {
            if values.len() != expected {
                let found = values.len();
                return Err(bad(format!("params: found {found}, expected {expected} parameters")));
            }
            for (i, value) in values.iter().enumerate() {
                let value = value::parameter(value).map_err(|why| bad(format!("params[{i}]: {why}")))?;
                prepared.raw_bind_parameter(i + 1, value).map_err(|e| SqlError::from_sqlite(index, &e))?;
            }
        }
        Params::Named(values) => bind_named(prepared, index, values, expected)?,
    }
    Ok(())
}

fn bind_named(
    prepared: &mut rusqlite::Statement<'_>,
    index: usize,
    values: &Map<String, Value>,
    expected: usize,
) -> Result<(), SqlError> {
    let bad = |message: String| SqlError::new(index, SqlErrorKind::BadParameter, message);
    let mut bound = vec![false; expected];
    for (name, value) in values {
        let candidates = match name.as_bytes().first() {
            Some(b':' | b'@' | b'$') => vec![name.clone()],
            _ => [":", "@", "$"].iter().map(|prefix| format!("{prefix}{name}")).collect(),
        };
        let place = candidates
            .iter()
            .find_map(|candidate| prepared.parameter_index(candidate).ok().flatten())
            .ok_or_else(|| bad(format!("params.{name}: the SQL has no such parameter")))?;
        let value = value::parameter(value).map_err(|why| bad(format!("params.{name}: {why}")))?;
        prepared.raw_bind_parameter(place, value).map_err(|e| SqlError::from_sqlite(index, &e))?;
        if let Some(slot) = bound.get_mut(place - 1) {
            *slot = true;
        }
    }
    match bound.iter().position(|bound| !bound) {
        None => Ok(()),
        Some(missing) => {
            let name = prepared.parameter_name(missing + 1).unwrap_or("?").to_owned();
            Err(bad(format!("params: no value for parameter {name}")))
        }
    }
}

#[cfg(test)]
mod tests;
