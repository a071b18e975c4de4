//! Users' statements: JSON parameters in, JSON results out, with limits; the same for reads and writes.
//!
//! Runs on a connection somebody else has made safe (authorizer, deadline, savepoint). Never commits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{
    Connection, ErrorCode,
    types::{ToSqlOutput, Value as SqlValue, ValueRef},
};
use serde_json::{Map, Value, json};
use tanist_api::{Params, Statement, StatementResult};
use tanist_store::{Interrupted, StoreError, is_denied, prepare_user};

/// Limits on results.
#[derive(Debug, Clone, Copy)]
pub struct SqlLimits {
    /// Rows of all statements together.
    pub rows: usize,
    /// Bytes of text and blobs in all rows together.
    pub bytes: usize,
}

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
}

impl SqlError {
    fn new(index: usize, kind: SqlErrorKind, message: impl Into<String>) -> SqlError {
        SqlError { index, kind, message: message.into(), sqlite_code: None }
    }

    /// SQLite's refusal of statement `index`.
    #[must_use]
    pub fn from_sqlite(index: usize, error: &rusqlite::Error) -> SqlError {
        let kind = match error.sqlite_error_code() {
            _ if is_denied(error) => SqlErrorKind::Denied,
            Some(ErrorCode::ConstraintViolation) => SqlErrorKind::Constraint,
            Some(ErrorCode::OperationInterrupted) => SqlErrorKind::Timeout,
            Some(ErrorCode::TooBig) => SqlErrorKind::TooLarge,
            _ => SqlErrorKind::Sql,
        };
        let sqlite_code = error.sqlite_error().map(|error| error.extended_code);
        let message = match error {
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
            other => other.to_string(),
        };
        SqlError { index, kind, message, sqlite_code }
    }

    /// A change that can't be recorded.
    #[must_use]
    pub fn audit_full() -> SqlError {
        let message = "not done: the record of changes by SQL is full (audit.records), and what is younger than audit.retention isn't \
                       removed (audit.when_full); `tanist audit export` keeps it elsewhere";
        SqlError::new(0, SqlErrorKind::AuditFull, message)
    }

    /// A statement that was stopped, and took its batch along.
    #[must_use]
    pub fn interrupted(why: Interrupted) -> SqlError {
        let error = SqlError::new(0, SqlErrorKind::Timeout, "");
        error.explain(Some(why), None)
    }

    /// Says why the connection stopped or denied the statement.
    #[must_use]
    pub fn explain(mut self, why: Option<Interrupted>, denied: Option<String>) -> SqlError {
        match (self.kind, why, denied) {
            (SqlErrorKind::Timeout, Some(Interrupted::TooLarge { limit_bytes }), _) => {
                self.kind = SqlErrorKind::TooLarge;
                self.message = too_large(limit_bytes);
            }
            (SqlErrorKind::Timeout, ..) => {
                self.message = "stopped: it ran longer than the limit (limits.statement_time)".to_owned();
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

fn too_large(limit_bytes: u64) -> String {
    format!("the transaction writes more than the limit of {limit_bytes} bytes (replication.max_transaction)")
}

/// Runs the statements in order, each exactly one SQL statement.
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
    let sqlite = |error: rusqlite::Error| SqlError::from_sqlite(index, &error);
    if statement.sql.contains('\0') {
        return Err(SqlError::new(index, SqlErrorKind::Sql, "sql: found a NUL character, expected SQL text"));
    }
    if starts_with(&statement.sql, "vacuum") {
        let message = "not allowed here: VACUUM is the server's own affair";
        return Err(SqlError::new(index, SqlErrorKind::Denied, message));
    }
    let mut prepared = prepare_user(connection, &statement.sql).map_err(sqlite)?;
    bind(&mut prepared, index, &statement.params)?;
    let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
    let writes = !prepared.readonly();
    let changes_before = connection.total_changes();
    let last_before = connection.last_insert_rowid();
    let mut rows = Vec::new();
    let mut cursor = prepared.raw_query();
    while let Some(row) = cursor.next().map_err(sqlite)? {
        if rows.len() >= budget.rows {
            let message = format!("the result has more rows than the limit of {} (limits.rows)", budget.rows);
            return Err(SqlError::new(index, SqlErrorKind::ResultTooLarge, message));
        }
        let mut values = Vec::with_capacity(columns.len());
        for column in 0..columns.len() {
            let value = row.get_ref(column).map_err(sqlite)?;
            let size = match value {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
                _ => 8,
            };
            budget.bytes = budget.bytes.checked_sub(size).ok_or_else(|| {
                SqlError::new(
                    index,
                    SqlErrorKind::ResultTooLarge,
                    "the result has more bytes than limits.result",
                )
            })?;
            values.push(to_json(value));
        }
        rows.push(values);
    }
    drop(cursor);
    budget.rows -= rows.len();
    let is_change = writes && statement_changes_rows(&statement.sql);
    let inserted = connection.last_insert_rowid() != last_before || starts_with(&statement.sql, "insert");
    let changed = connection.total_changes() != changes_before;
    let result = StatementResult {
        rows_affected: is_change.then(|| if changed { connection.changes() } else { 0 }),
        last_insert_id: (is_change && changed && inserted).then(|| connection.last_insert_rowid()),
        columns,
        rows,
    };
    // What writes and isn't about rows is about the schema.
    Ok((result, changed || writes && !is_change))
}

fn starts_with(sql: &str, word: &str) -> bool {
    without_comments(sql).get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// The statement from its first word on.
fn without_comments(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        let after = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else {
            return rest;
        };
        rest = after.trim_start();
    }
}

fn statement_changes_rows(sql: &str) -> bool {
    ["insert", "replace", "update", "delete", "with"].iter().any(|word| starts_with(sql, word))
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
                let value = to_sql(value).map_err(|why| bad(format!("params[{i}]: {why}")))?;
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
        let value = to_sql(value).map_err(|why| bad(format!("params.{name}: {why}")))?;
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

fn to_sql(value: &Value) -> Result<ToSqlOutput<'_>, String> {
    Ok(match value {
        Value::Null => ToSqlOutput::Owned(SqlValue::Null),
        Value::Bool(flag) => ToSqlOutput::Owned(SqlValue::Integer(i64::from(*flag))),
        Value::String(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => ToSqlOutput::Owned(SqlValue::Integer(integer)),
            (None, Some(real)) if !number.is_u64() => ToSqlOutput::Owned(SqlValue::Real(real)),
            _ => return Err(format!("found {number}, expected an integer of 64 bits with sign")),
        },
        Value::Object(object) => match (object.len(), object.get("base64")) {
            (1, Some(Value::String(text))) => {
                let bytes = STANDARD.decode(text).map_err(|error| format!("base64: {error}"))?;
                ToSqlOutput::Owned(SqlValue::Blob(bytes))
            }
            _ => return Err("found an object, expected {\"base64\": \"...\"} for a blob".to_owned()),
        },
        Value::Array(_) => {
            return Err("found an array, expected null, a boolean, a number, a string or {\"base64\": ...}"
                .to_owned());
        }
    })
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => json!(integer),
        // JSON has no infinities: they come as text.
        ValueRef::Real(real) if real.is_finite() => json!(real),
        ValueRef::Real(real) => json!(real.to_string()),
        ValueRef::Text(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => json!({ "base64": STANDARD.encode(blob) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SqlLimits = SqlLimits { rows: 3, bytes: 1000 };

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v)").unwrap();
        connection
    }

    fn one(connection: &Connection, sql: &str, params: Params) -> Result<StatementResult, SqlError> {
        run(connection, &[Statement { sql: sql.into(), params }], &LIMITS)
            .map(|mut results| results.remove(0))
    }

    #[test]
    fn values_go_in_and_come_out_as_they_were() {
        let connection = connection();
        let values = vec![json!(null), json!(-5), json!(1.5), json!("ä"), json!({"base64": "AAEC"})];
        for value in values {
            let result = one(
                &connection,
                "INSERT INTO t(v) VALUES (?) RETURNING v",
                Params::Positional(vec![value.clone()]),
            )
            .unwrap();
            assert_eq!(result.rows, vec![vec![value]]);
            assert_eq!(result.rows_affected, Some(1));
            assert!(result.last_insert_id.is_some());
        }
        let named = json!({"a": true, ":b": 2});
        let Value::Object(named) = named else { unreachable!() };
        let result = one(&connection, "SELECT :a + :b AS sum", Params::Named(named)).unwrap();
        assert_eq!((result.columns, result.rows), (vec!["sum".to_owned()], vec![vec![json!(3)]]));
        let update = one(&connection, "UPDATE t SET v = 1 WHERE id > 3", Params::default()).unwrap();
        assert_eq!((update.rows_affected, update.last_insert_id), (Some(2), None));
        let none = one(&connection, "DELETE FROM t WHERE id > 99", Params::default()).unwrap();
        assert_eq!(none.rows_affected, Some(0));
        let noted = one(&connection, " -- why\n/* who */ UPDATE t SET v = 2 WHERE id > 3", Params::default());
        assert_eq!(noted.unwrap().rows_affected, Some(2), "a comment comes first");
    }

    #[test]
    fn refusals_name_the_statement_and_the_parameter() {
        let connection = connection();
        let cases = [
            ("SELECT ?", Params::Positional(vec![]), SqlErrorKind::BadParameter, "expected 1"),
            ("SELECT ?", Params::Positional(vec![json!([1])]), SqlErrorKind::BadParameter, "params[0]"),
            ("SELECT ?", Params::Positional(vec![json!(u64::MAX)]), SqlErrorKind::BadParameter, "64 bits"),
            ("SELECT :a", Params::Named(Map::new()), SqlErrorKind::BadParameter, ":a"),
            ("SELECT 1; SELECT 2", Params::default(), SqlErrorKind::Sql, "exactly one"),
            ("  ", Params::default(), SqlErrorKind::Sql, "expected one"),
            ("-- nothing", Params::default(), SqlErrorKind::Sql, "expected one"),
            (";", Params::default(), SqlErrorKind::Sql, "expected one"),
            ("SELECT 1\0; DROP TABLE t", Params::default(), SqlErrorKind::Sql, "NUL"),
            ("SELEC", Params::default(), SqlErrorKind::Sql, "syntax"),
            ("INSERT INTO t(id) VALUES (1), (1)", Params::default(), SqlErrorKind::Constraint, "UNIQUE"),
        ];
        for (sql, params, kind, message) in cases {
            let error = run(
                &connection,
                &[Statement::new("SELECT 1"), Statement { sql: sql.into(), params }],
                &LIMITS,
            )
            .unwrap_err();
            assert_eq!((error.index, error.kind), (1, kind), "{sql}: {error}");
            assert!(error.message.contains(message), "{sql}: {error}");
        }
    }

    #[test]
    fn results_are_bounded_over_all_statements() {
        let connection = connection();
        let rows = "SELECT * FROM (VALUES (1), (2))";
        let error = run(&connection, &[Statement::new(rows), Statement::new(rows)], &LIMITS).unwrap_err();
        assert_eq!((error.index, error.kind), (1, SqlErrorKind::ResultTooLarge));
        let error = one(&connection, "SELECT printf('%2000d', 1)", Params::default()).unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::ResultTooLarge);
    }
}
