//! Watched tables: triggers `tanist_watch_*` on users' tables, which write an event for each row that changes.
//!
//! The triggers are the only record of what is watched: they travel with the database. They name every column, so they
//! are made anew when users' SQL has altered a table. A write from outside fires them like any other.

use rusqlite::{Connection, OptionalExtension as _};
use tanist_store::is_reserved;

/// Triggers that watch a table begin so.
const PREFIX: &str = "tanist_watch_";
/// A row of which old and new values take more than this, in bytes as stored, is told by its key alone.
const VALUES: usize = 16 << 10;
/// Rows of wider tables are told by their key alone: SQLite's functions take no more arguments.
const COLUMNS: usize = 400;

/// Why a table can't be watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is none of this name.
    #[error("table: found {0:?}, expected the name of a table")]
    Unknown(String),
    /// It isn't one that users fill by SQL.
    #[error("table: found {0:?}, {1}, expected an ordinary table made by users")]
    NotOrdinary(String, &'static str),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchTable {
    /// Its name, as somebody wrote it.
    pub table: String,
    /// Whether its rows shall be told.
    pub watched: bool,
}

/// All watched tables, by name.
///
/// # Errors
/// SQLite's.
pub(crate) fn list(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT tbl_name FROM sqlite_schema
         WHERE type = 'trigger' AND substr(name, 1, length(?1)) = ?1 COLLATE NOCASE ORDER BY 1",
    )?;
    statement.query_map([PREFIX], |row| row.get(0))?.collect()
}

/// The table's name as it was made, if it can be watched.
///
/// # Errors
/// SQLite's.
pub(crate) fn find(connection: &Connection, table: &str) -> Result<Result<String, Unfit>, rusqlite::Error> {
    let found: Option<(String, String, String)> = connection
        .prepare_cached(
            "SELECT s.name, s.type, coalesce(l.type, s.type) FROM sqlite_schema AS s
             LEFT JOIN pragma_table_list AS l ON l.name = s.name AND l.schema = 'main'
             WHERE s.type IN ('table', 'view') AND s.name = ?1 COLLATE NOCASE",
        )?
        .query_row([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((name, kind, detail)) = found else { return Ok(Err(Unfit::Unknown(table.to_owned()))) };
    let why = match (kind.as_str(), detail.as_str()) {
        ("view", _) => "a view",
        (_, "virtual") => "a virtual table",
        (_, "shadow") => "a virtual table's own",
        _ if is_reserved(&name) => "a table of Tanist's",
        _ if name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_")) => {
            "a table of SQLite's"
        }
        _ => return Ok(Ok(name)),
    };
    Ok(Err(Unfit::NotOrdinary(name, why)))
}

/// Does what is asked; writes nothing when it is so already.
///
/// # Errors
/// SQLite's; the inner one when the table can't be watched.
pub(crate) fn change(
    connection: &Connection,
    asked: &WatchTable,
) -> Result<Result<String, Unfit>, rusqlite::Error> {
    let name = match find(connection, &asked.table)? {
        Ok(name) => name,
        Err(unfit) => return Ok(Err(unfit)),
    };
    let found = triggers(connection, &name)?;
    let wanted = if asked.watched { made(connection, &name)? } else { vec![] };
    if found != wanted {
        drop_all(connection, &found)?;
        create_all(connection, &wanted)?;
    }
    Ok(Ok(name))
}

/// Makes the triggers anew of tables that have other columns, or another name, than when they were made.
///
/// # Errors
/// SQLite's.
pub(crate) fn refresh(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut fresh = vec![];
    for table in list(connection)? {
        let (found, wanted) = (triggers(connection, &table)?, made(connection, &table)?);
        if found != wanted {
            drop_all(connection, &found)?;
            fresh.extend(wanted);
        }
    }
    // All old ones are gone: a table that took another's name finds its triggers' names free.
    create_all(connection, &fresh)
}

/// Name and SQL, in the order of names.
type Trigger = (String, String);

fn triggers(connection: &Connection, table: &str) -> Result<Vec<Trigger>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1
         AND substr(name, 1, length(?2)) = ?2 COLLATE NOCASE ORDER BY name",
    )?;
    statement.query_map([table, PREFIX], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn drop_all(connection: &Connection, triggers: &[Trigger]) -> Result<(), rusqlite::Error> {
    triggers.iter().try_for_each(|(name, _)| connection.execute_batch(&format!("DROP TRIGGER {}", id(name))))
}

fn create_all(connection: &Connection, triggers: &[Trigger]) -> Result<(), rusqlite::Error> {
    triggers.iter().try_for_each(|(_, sql)| connection.execute_batch(sql))
}

struct Table {
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
}

fn columns(connection: &Connection, table: &str) -> Result<Table, rusqlite::Error> {
    // Hidden: 0 ordinary, 2 and 3 generated.
    let mut statement =
        connection.prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1 ORDER BY cid")?;
    let rows = statement
        .query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut key: Vec<String> = rows.iter().filter(|(_, pk)| *pk > 0).map(|(name, _)| name.clone()).collect();
    let columns: Vec<String> = rows.into_iter().map(|(name, _)| name).collect();
    if key.is_empty() {
        // A table without a key of its own has row ids, under a name that no column took.
        let free = ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|name| columns.iter().all(|column| !column.eq_ignore_ascii_case(name)));
        key.extend(free.map(str::to_owned));
    }
    Ok(Table { name: table.to_owned(), columns, key })
}

/// The triggers that the table should have.
fn made(connection: &Connection, table: &str) -> Result<Vec<Trigger>, rusqlite::Error> {
    let table = columns(connection, table)?;
    let mut triggers: Vec<Trigger> =
        [("delete", true, false), ("insert", false, true), ("update", true, true)]
            .map(|(operation, old, new)| table.trigger(operation, old, new))
            .into();
    triggers.sort();
    Ok(triggers)
}

impl Table {
    fn trigger(&self, operation: &str, old: bool, new: bool) -> Trigger {
        let name = format!("{PREFIX}{operation}_{}", self.name);
        let rows =
            || [(old, "OLD"), (new, "NEW")].into_iter().filter(|(there, _)| *there).map(|(_, row)| row);
        let object = |columns: &[String], row: &str, there: bool| match there {
            false => "NULL".to_owned(),
            true => {
                let pairs: Vec<_> = columns
                    .iter()
                    .map(|column| format!("{}, {}", text(column), value(row, column)))
                    .collect();
                format!("json_object({})", pairs.join(", "))
            }
        };
        let data = |columns: &[String], cut: &str| {
            format!(
                "json_object('op', '{operation}', 'old', {}, 'new', {}{cut})",
                object(columns, "OLD", old),
                object(columns, "NEW", new)
            )
        };
        let size = |columns: &[String]| {
            let sizes: Vec<_> = rows().flat_map(|row| columns.iter().map(move |c| stored(row, c))).collect();
            if sizes.is_empty() { "0".to_owned() } else { sizes.join(" + ") }
        };
        let cut = ", 'truncated', json('true')";
        let by_key = format!(
            "CASE WHEN {} <= {VALUES} THEN {} ELSE {} END",
            size(&self.key),
            data(&self.key, cut),
            data(&[], cut)
        );
        let all = match self.columns.len() <= COLUMNS {
            true => {
                format!(
                    "CASE WHEN {} <= {VALUES} THEN {} ELSE {by_key} END",
                    size(&self.columns),
                    data(&self.columns, "")
                )
            }
            false => by_key,
        };
        let sql = format!(
            "CREATE TRIGGER {} AFTER {} ON {} BEGIN INSERT INTO tanist_events (kind, subject, data) VALUES ('row', {}, {all}); END",
            id(&name),
            operation.to_ascii_uppercase(),
            id(&self.name),
            text(&self.name),
        );
        (name, sql)
    }
}

/// A column's value as JSON can hold it, by functions that every SQLite knows, for a stock `sqlite3` fires the triggers too:
/// `hex()` because base64 isn't among them, `|| ''` because text that a JSON function has made would be taken for JSON, `printf()` because older ones round reals to 15 digits in JSON. `row.rs` tells it
/// to watchers as queries do.
fn value(row: &str, column: &str) -> String {
    let column = format!("{row}.{}", id(column));
    format!(
        "CASE typeof({column}) WHEN 'text' THEN {column} || '' WHEN 'blob' THEN json_object('hex', hex({column})) WHEN 'real' THEN \
         CASE WHEN abs({column}) <= 1.7976931348623157e308 THEN json(printf('%!.17g', {column})) \
         ELSE json_object('real', iif({column} > 0, 'Infinity', '-Infinity')) END ELSE {column} END"
    )
}

/// A column's size as stored, in bytes.
fn stored(row: &str, column: &str) -> String {
    format!("coalesce(length(CAST({row}.{} AS BLOB)), 0)", id(column))
}

fn id(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests;
