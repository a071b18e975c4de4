//! A request's statements and parameters, run as the master runs them: as users' SQL, in a batch that is never committed.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tanist_api::{Params, QueryRequest, Statement};
use tanist_replication::Term;
use tanist_server::sql::{self, SqlErrorKind, SqlLimits};
use tanist_store::{Database, Options, Reader, open_reader};
use tempfile::TempDir;

use crate::scratch;

#[rustfmt::skip]
pub(crate) const WORDS: &[&[u8]] = &[
    b"SELECT ", b"INSERT INTO t VALUES (", b"UPDATE ", b"DELETE FROM ", b"REPLACE INTO ", b"WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM c) ",
    b"tanist_position", b"tanist_terms", b"tanist_requests", b"sqlite_schema", b"sqlite_dbpage", b"PRAGMA ", b"writable_schema=1", b"journal_mode=delete",
    b"foreign_keys=0", b"synchronous=0", b"query_only=0", b"ATTACH 'x' AS y", b"DETACH ", b"VACUUM", b"/**/", b"--\\n", b"BEGIN", b"COMMIT", b"ROLLBACK",
    b"SAVEPOINT tanist_request", b"RELEASE tanist_request", b"ROLLBACK TO tanist_request", b" OR ROLLBACK ", b"RAISE(ROLLBACK,'x')",
    b"CREATE TABLE x(a)", b"CREATE TEMP TABLE x(a)", b"CREATE TRIGGER g AFTER INSERT ON t BEGIN ", b"END", b"CREATE VIEW v AS ", b"CREATE VIRTUAL TABLE x USING ",
    b"fts5(a)", b"dbstat", b"ALTER TABLE t RENAME TO tanist_t", b"ALTER TABLE t RENAME TO u", b"ALTER TABLE t ADD COLUMN c", b"DROP TABLE t", b"REINDEX", b"ANALYZE",
    b"zeroblob(70000000)", b"randomblob(9)", b"printf('%.*c',100,'x')", b"load_extension('x')", b"char(0)", b"1e999", b"-9223372036854775808", b"json_each('[1]')",
    b"?", b"?1", b"?32766", b"?32767", b":a", b"@a", b"$a", b"$a::b(c)", b"'", b";", b"\\u0000", b"RETURNING *", b"\"params\":[", b"\"params\":{\":a\":", b"{\"base64\":\"AAEC\"}",
    b"18446744073709551615", b"31.245270191439438", b"null", b"EXPLAIN ", b"EXPLAIN QUERY PLAN ", b"]}]}", b"},{\"sql\":\"",
];

const LIMITS: SqlLimits = SqlLimits { rows: 100, bytes: 100_000 };
/// What statements may take, and the least that must suffice for a machine that is busy with other things.
const TIME: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    database: Database,
    reader: Reader,
    tables: String,
    settings: String,
    _dir: TempDir,
}

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(match Fixture::new() {
        Ok(fixture) => fixture,
        Err(error) => panic!("set up: {error}"),
    });
}

impl Fixture {
    fn new() -> Result<Fixture, Box<dyn std::error::Error>> {
        let dir = scratch::directory()?;
        let mut database = Database::open(dir.path(), Options::default())?;
        database.become_master()?;
        database.start_reign(Term(1), "pc-1", "test")?;
        let mut batch = database.begin(Term(1))?;
        batch.request(|db| {
            db.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(a UNIQUE, b REFERENCES t DEFERRABLE INITIALLY DEFERRED);
                 INSERT INTO t(v) VALUES (1), ('two'), (x'03'), (4.5), (NULL);",
            )
        })??;
        batch.commit()?;
        let reader = open_reader(dir.path(), 1 << 18, None)?;
        let batch = database.begin(Term(1))?;
        let (tables, settings) = (tables(batch.connection())?, settings(batch.connection())?);
        drop(batch);
        Ok(Fixture { database, reader, tables, settings, _dir: dir })
    }

    fn read(&mut self, statements: &[Statement]) {
        self.reader.set_deadline(Some(Instant::now() + TIME));
        let before = Instant::now();
        let read = self.reader.snapshot(|db, _| sql::run(db, statements, &LIMITS).map(drop));
        self.reader.set_deadline(None);
        assert!(before.elapsed() < PATIENCE, "it ran for {:?}", before.elapsed());
        if let Err(error) = read {
            panic!("a read broke the snapshot: {error}");
        }
    }

    fn write(&mut self, statements: &[Statement]) -> rusqlite::Result<()> {
        let mut batch = match self.database.begin(Term(1)) {
            Ok(batch) => batch,
            Err(error) => panic!("begin: {error}"),
        };
        let stamp = batch.next_stamp();
        batch.set_deadline(Some(Instant::now() + TIME));
        let before = Instant::now();
        let result = batch.request(|db| sql::run(db, statements, &LIMITS));
        assert!(before.elapsed() < PATIENCE, "it ran for {:?}", before.elapsed());
        batch.set_deadline(None);
        match result {
            Ok(Ok(results)) => {
                assert_eq!(results.len(), statements.len());
                assert!(results.iter().map(|result| result.rows.len()).sum::<usize>() <= LIMITS.rows);
            }
            Ok(Err(error)) => {
                assert!(error.index < statements.len(), "{error}");
                assert!(!error.to_string().is_empty());
                assert_eq!(
                    tables(batch.connection())?,
                    self.tables,
                    "a refused request left something: {error}"
                );
                if error.kind == SqlErrorKind::BadParameter {
                    assert!(error.message.contains("params"), "{error}");
                }
            }
            Err(error) if error.is_request() => {
                assert_eq!(
                    tables(batch.connection())?,
                    self.tables,
                    "a refused request left something: {error}"
                );
            }
            // SQLite rolled all back: the batch has to be written again without the request.
            Err(_) => {
                drop(batch);
                return self.unharmed();
            }
        }
        assert_eq!(batch.next_stamp(), stamp);
        let own = own_tables(batch.connection())?;
        drop(batch);
        assert!(self.tables.starts_with(&own), "users' SQL wrote Tanist's tables: {own}");
        self.unharmed()
    }

    fn unharmed(&mut self) -> rusqlite::Result<()> {
        let batch = match self.database.begin(Term(1)) {
            Ok(batch) => batch,
            Err(error) => panic!("begin after a request: {error}"),
        };
        assert_eq!(
            tables(batch.connection())?,
            self.tables,
            "something is left of a batch that was rolled back"
        );
        assert_eq!(settings(batch.connection())?, self.settings, "users' SQL changed the connection");
        Ok(())
    }
}

fn own_tables(db: &Connection) -> rusqlite::Result<String> {
    let count =
        |table| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    let position: String =
        db.query_row("SELECT term || '.' || txid || hex(chain) FROM tanist_position", [], |row| row.get(0))?;
    Ok(format!("{position}, {} terms, {} requests", count("tanist_terms")?, count("tanist_requests")?))
}

fn tables(db: &Connection) -> rusqlite::Result<String> {
    let schema: String = db.query_row("SELECT group_concat(sql) FROM sqlite_schema", [], |row| row.get(0))?;
    let rows: String = db.query_row("SELECT group_concat(id || quote(v)) FROM t", [], |row| row.get(0))?;
    let others: i64 = db.query_row("SELECT count(*) FROM u", [], |row| row.get(0))?;
    Ok(format!("{}: {rows}, {others}, {schema}", own_tables(db)?))
}

fn settings(db: &Connection) -> rusqlite::Result<String> {
    let mut all = String::new();
    for name in [
        "foreign_keys",
        "synchronous",
        "query_only",
        "recursive_triggers",
        "wal_autocheckpoint",
        "journal_mode",
        "cache_size",
        "case_sensitive_like",
        "defer_foreign_keys",
        "ignore_check_constraints",
        "writable_schema",
        "trusted_schema",
        "temp_store",
        "auto_vacuum",
        "locking_mode",
    ] {
        let mut value = String::new();
        db.pragma_query(None, name, |row| {
            value = format!("{:?}", row.get_ref(0)?);
            Ok(())
        })?;
        all.push_str(&format!("{name}={value} "));
    }
    Ok(all)
}

pub(crate) fn run(input: &[u8]) {
    let Some((mode, body)) = input.split_first() else { return };
    let statements = match mode % 2 {
        // A body as a client sends it.
        0 => match serde_json::from_slice::<QueryRequest>(body) {
            Ok(request) => request.statements,
            Err(_) => return,
        },
        // One statement's text, which needs no JSON around it.
        _ => vec![Statement { sql: String::from_utf8_lossy(body).into_owned(), params: Params::default() }],
    };
    if statements.is_empty() {
        return;
    }
    FIXTURE.with_borrow_mut(|fixture| {
        fixture.read(&statements);
        if let Err(error) = fixture.write(&statements) {
            panic!("look after a request: {error}");
        }
    });
}
