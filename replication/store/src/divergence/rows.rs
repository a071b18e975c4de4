//! Row differences between a diverged replica and the cluster's database, as SQL for an operator.
//!
//! Owns what is written actively and what only as a comment: rows that only the replica has can be put back without
//! harm; for rows that differ nobody can tell which side is newer. Never grows beyond its limit. Read `mod.rs` for when.

use std::{
    io::{self, Write},
    path::Path,
};

use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::{DivergenceReport, literal};

/// Bytes of SQL after which no more rows are written; they still are counted.
const SQL_LIMIT: u64 = 16 << 20;

/// How one table differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDifference {
    /// Its name.
    pub name: String,
    /// Rows in this replica.
    pub rows_here: u64,
    /// Rows in the cluster's database; none when the table doesn't exist there.
    pub rows_in_cluster: Option<u64>,
    /// Rows that only this replica had (without a key: distinct rows).
    pub only_here: u64,
    /// Rows with the same key and other values.
    pub changed: u64,
    /// What should be known about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was found.
pub(super) struct Found {
    pub(super) tables: Vec<TableDifference>,
    /// For [`DivergenceReport::rows`].
    pub(super) rows: String,
}

/// Columns of a table that hold values of their own.
#[derive(PartialEq, Eq)]
struct Columns {
    names: Vec<String>,
    /// Names of the primary key's columns.
    key: Vec<String>,
}

struct Rows<'a, W> {
    connection: &'a Connection,
    out: &'a mut W,
    written: u64,
    left_out: u64,
}

/// Writes the differences between `reader`'s database and the scratch copy of the cluster's.
pub(super) fn write(
    reader: &Connection,
    scratch: &Path,
    report: &DivergenceReport,
    out: &mut impl Write,
) -> io::Result<Found> {
    let scratch =
        scratch.to_str().ok_or_else(|| io::Error::other("the data directory's name isn't UTF-8"))?;
    reader.execute("ATTACH ?1 AS cluster", [scratch]).map_err(io::Error::other)?;
    let mut rows = Rows { connection: reader, out, written: 0, left_out: 0 };
    rows.line(&format!(
        "-- {} held {} when the cluster stood at {}; both share everything up to {}.",
        report.member, report.replica.position, report.cluster.position, report.common
    ))?;
    rows.line(
        "-- Rows that only it held follow as INSERTs: they add what is missing and change nothing else.",
    )?;
    rows.line(
        "-- Rows that differ follow as comments: the cluster's values may be newer. Take the dashes away to",
    )?;
    rows.line(
        "-- put this machine's values back. Rows that only the cluster has are counted in report.json.",
    )?;
    let names: Vec<(String, String, String)> = rows.tables().map_err(io::Error::other)?;
    let mut tables = Vec::new();
    for (name, kind, sql) in names {
        let mut table = TableDifference { name, ..TableDifference::default() };
        match rows.table(&mut table, &kind, &sql) {
            Ok(()) => {}
            Err(Failure::Write(error)) => return Err(error),
            Err(Failure::Sqlite(error)) => table.note = Some(format!("couldn't be compared: {error}")),
        }
        tables.push(table);
    }
    if let Err(Failure::Write(error)) = rows.other_schema() {
        return Err(error);
    }
    let left_out = rows.left_out;
    let told = if left_out == 0 {
        "complete".to_owned()
    } else {
        format!(
            "{left_out} rows are left out: {SQL_LIMIT} bytes of SQL are the limit; pages.zst has them all"
        )
    };
    if left_out > 0 {
        rows.line(&format!("-- {told}"))?;
    }
    Ok(Found { tables, rows: told })
}

/// Why a table has no row differences.
enum Failure {
    Sqlite(rusqlite::Error),
    Write(io::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sqlite(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Write(error)
    }
}

impl<W: Write> Rows<'_, W> {
    fn line(&mut self, line: &str) -> io::Result<()> {
        self.written += line.len() as u64 + 1;
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Whether a statement of at most `bound` bytes may still be written; counts it as left out otherwise.
    fn has_room(&mut self, bound: u64) -> bool {
        let room = self.written + bound <= SQL_LIMIT;
        self.left_out += u64::from(!room);
        room
    }

    /// Name, kind and SQL of this replica's tables, in the order in which they were made.
    fn tables(&self) -> Result<Vec<(String, String, String)>, rusqlite::Error> {
        let mut statement = self.connection.prepare(
            "SELECT s.name, l.type, coalesce(s.sql, '') FROM main.sqlite_schema AS s \
             JOIN pragma_table_list AS l ON l.schema = 'main' AND l.name = s.name \
             WHERE s.type = 'table' ORDER BY s.rowid",
        )?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    }

    fn columns(&self, schema: &str, table: &str) -> Result<Columns, rusqlite::Error> {
        let mut statement = self
            .connection
            .prepare("SELECT name, pk FROM pragma_table_xinfo(?1, ?2) WHERE hidden = 0 ORDER BY cid")?;
        let found: Vec<(String, i64)> = statement
            .query_map([table, schema], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut key: Vec<_> = found.iter().filter(|(_, pk)| *pk > 0).cloned().collect();
        key.sort_by_key(|(_, pk)| *pk);
        Ok(Columns {
            names: found.into_iter().map(|(name, _)| name).collect(),
            key: key.into_iter().map(|(name, _)| name).collect(),
        })
    }

    fn count(&self, schema: &str, table: &str) -> Result<u64, rusqlite::Error> {
        let sql = format!("SELECT count(*) FROM {schema}.{}", literal::name(table));
        self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    }

    fn table(&mut self, table: &mut TableDifference, kind: &str, sql: &str) -> Result<(), Failure> {
        if matches!(kind, "virtual" | "shadow") {
            if kind == "virtual" {
                table.note = Some("a virtual table: only its pages are saved".to_owned());
            }
            return Ok(());
        }
        table.rows_here = self.count("main", &table.name)?;
        let columns = self.columns("main", &table.name)?;
        let there = self.columns("cluster", &table.name)?;
        if there.names.is_empty() {
            // SQLite keeps it beginning with these words.
            let sql = sql.replacen("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1);
            let schema = sql.replace(['\n', '\r'], " ");
            // A comment within it would swallow the rest of the line.
            self.line(&if sql.contains("--") { format!("{sql};") } else { format!("{schema};") })?;
            return self.only_here(table, &columns, true);
        }
        table.rows_in_cluster = Some(self.count("cluster", &table.name)?);
        if is_own(&table.name) {
            table.note = Some("kept by Tanist or SQLite itself: not to be put back".to_owned());
            return Ok(());
        }
        let columns = if columns == there {
            columns
        } else {
            // Altered on one of the two since.
            table.note = Some("its columns differ: rows are told by those that both have".to_owned());
            let key = if columns.key == there.key { columns.key } else { vec![] };
            let both = |name: &String| there.names.contains(name);
            Columns { names: columns.names.into_iter().filter(both).collect(), key }
        };
        if columns.names.is_empty() {
            table.note = Some("it has no column that both have: only its pages are saved".to_owned());
            return Ok(());
        }
        self.only_here(table, &columns, false)?;
        if !columns.key.is_empty() {
            self.changed(table, &columns)?;
        }
        Ok(())
    }

    /// Rows that only this replica has; all of them when the cluster hasn't the table.
    fn only_here(
        &mut self,
        table: &mut TableDifference,
        columns: &Columns,
        all: bool,
    ) -> Result<(), Failure> {
        let name = literal::name(&table.name);
        let listed = list(&columns.names, "", ", ");
        let sql = if all {
            format!("SELECT {listed} FROM main.{name}")
        } else if columns.key.is_empty() {
            format!("SELECT {listed} FROM main.{name} EXCEPT SELECT {listed} FROM cluster.{name}")
        } else {
            let same = same_key(&columns.key);
            format!(
                "SELECT {} FROM main.{name} AS o WHERE NOT EXISTS (SELECT 1 FROM cluster.{name} AS n WHERE {same})",
                list(&columns.names, "o.", ", ")
            )
        };
        let mut statement = self.connection.prepare(&sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            table.only_here += 1;
            let bound = bound(row, columns.names.len())?;
            if !self.has_room(bound) {
                continue;
            }
            let texts = literals(row, 0, columns.names.len())?;
            let insert = if columns.key.is_empty() {
                let same: Vec<String> = columns
                    .names
                    .iter()
                    .zip(&texts)
                    .map(|(column, value)| format!("{} IS {value}", literal::name(column)))
                    .collect();
                format!(
                    "INSERT INTO {name}({listed}) SELECT {} WHERE NOT EXISTS (SELECT 1 FROM {name} WHERE {});",
                    texts.join(", "),
                    same.join(" AND ")
                )
            } else {
                format!("INSERT INTO {name}({listed}) VALUES ({}) ON CONFLICT DO NOTHING;", texts.join(", "))
            };
            self.line(&insert)?;
        }
        Ok(())
    }

    /// Rows that both have, with different values.
    fn changed(&mut self, table: &mut TableDifference, columns: &Columns) -> Result<(), Failure> {
        let values_of: Vec<String> =
            columns.names.iter().filter(|name| !columns.key.contains(name)).cloned().collect();
        if values_of.is_empty() {
            return Ok(());
        }
        let name = literal::name(&table.name);
        let differs: Vec<String> = values_of
            .iter()
            .map(|column| format!("o.{0} IS NOT n.{0} COLLATE BINARY", literal::name(column)))
            .collect();
        let sql = format!(
            "SELECT {}, {}, {} FROM main.{name} AS o JOIN cluster.{name} AS n ON {} WHERE {}",
            list(&columns.key, "o.", ", "),
            list(&values_of, "o.", ", "),
            list(&values_of, "n.", ", "),
            same_key(&columns.key),
            differs.join(" OR ")
        );
        let (keys, count) = (columns.key.len(), values_of.len());
        let mut statement = self.connection.prepare(&sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            table.changed += 1;
            let bound = bound(row, keys + 2 * count)?;
            if !self.has_room(bound) {
                continue;
            }
            let key = literals(row, 0, keys)?;
            let (here, there) = (literals(row, keys, count)?, literals(row, keys + count, count)?);
            let differing: Vec<usize> = (0..count).filter(|at| here[*at] != there[*at]).collect();
            let pair = |column: &String, word: &str, value: &String| {
                format!("{} {word} {value}", literal::name(column))
            };
            let set = |side: &[String]| -> String {
                let pairs: Vec<String> =
                    differing.iter().map(|at| pair(&values_of[*at], "=", &side[*at])).collect();
                pairs.join(", ")
            };
            let wanted: Vec<String> =
                columns.key.iter().zip(&key).map(|(column, value)| pair(column, "IS", value)).collect();
            self.line(&format!(
                "-- UPDATE {name} SET {} WHERE {}; -- in the cluster: {}",
                set(&here),
                wanted.join(" AND "),
                set(&there)
            ))?;
        }
        Ok(())
    }

    /// Indexes, views and triggers that only this replica has, as comments.
    fn other_schema(&mut self) -> Result<(), Failure> {
        let sql = "SELECT sql FROM main.sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL \
                   EXCEPT SELECT sql FROM cluster.sqlite_schema";
        let mut statement = self.connection.prepare(sql)?;
        let found: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for sql in found {
            for line in sql.lines() {
                self.line(&format!("-- {line}"))?;
            }
        }
        Ok(())
    }
}

/// Tables that Tanist or SQLite fill themselves.
fn is_own(table: &str) -> bool {
    table.starts_with("tanist_") || table.starts_with("sqlite_")
}

fn list(columns: &[String], prefix: &str, between: &str) -> String {
    let names: Vec<String> = columns.iter().map(|name| format!("{prefix}{}", literal::name(name))).collect();
    names.join(between)
}

fn same_key(key: &[String]) -> String {
    let same: Vec<String> = key.iter().map(|name| format!("n.{0} IS o.{0}", literal::name(name))).collect();
    same.join(" AND ")
}

fn literals(row: &Row<'_>, from: usize, count: usize) -> Result<Vec<String>, rusqlite::Error> {
    (from..from + count).map(|at| row.get_ref(at).map(literal::value)).collect()
}

/// Bytes that a row takes as SQL, at most: a row without a key names each value twice.
fn bound(row: &Row<'_>, count: usize) -> Result<u64, rusqlite::Error> {
    let mut bytes = 256;
    for at in 0..count {
        bytes += 2 * literal::bound(row.get_ref(at)?) + 64;
    }
    Ok(bytes)
}
