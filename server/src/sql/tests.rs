//! Users' statements on a database in memory.

use rusqlite::types::Value as SqlValue;
use serde_json::json;
use tanist_replication::Term;
use tanist_store::{Database, Options};

use super::*;

const LIMITS: SqlLimits = SqlLimits { rows: 3, bytes: 1000 };

fn connection() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    tanist_store::watch_inserts(&connection).unwrap();
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v)").unwrap();
    connection
}

fn one(connection: &Connection, sql: &str, params: Params) -> Result<StatementResult, SqlError> {
    run(connection, &[Statement { sql: sql.into(), params }], &LIMITS).map(|mut results| results.remove(0))
}

#[test]
fn values_go_in_and_come_out_as_they_were() {
    let connection = connection();
    let values = vec![
        json!(null),
        json!(-5),
        json!(1.5),
        json!("ä"),
        json!({"base64": "AAEC"}),
        json!({"base64": ""}),
        json!({"real": "Infinity"}),
        json!({"real": "-Infinity"}),
        json!({"text_base64": "Zv9v"}),
        json!("a\u{0}b"),
        json!(5e-324),
        json!(0.0),
    ];
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
    assert_eq!((update.rows_affected, update.last_insert_id), (Some(9), None));
    let none = one(&connection, "DELETE FROM t WHERE id > 99", Params::default()).unwrap();
    assert_eq!(none.rows_affected, Some(0));
    let noted = one(&connection, " -- why\n/* who */ UPDATE t SET v = 2 WHERE id > 3", Params::default());
    assert_eq!(noted.unwrap().rows_affected, Some(9), "a comment comes first");
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
        let error =
            run(&connection, &[Statement::new("SELECT 1"), Statement { sql: sql.into(), params }], &LIMITS)
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

#[test]
fn stored_values_are_what_was_meant() {
    let connection = connection();
    let stored = |value: Value| {
        connection.execute_batch("DELETE FROM t").unwrap();
        one(&connection, "INSERT INTO t(v) VALUES (?)", Params::Positional(vec![value])).unwrap();
        let typed = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, SqlValue>(1)?));
        connection.query_row("SELECT typeof(v), CAST(v AS BLOB) FROM t", [], typed).unwrap()
    };
    let blob = |bytes: &[u8]| SqlValue::Blob(bytes.to_vec());
    assert_eq!(stored(json!({"text_base64": "Zv9v"})), ("text".to_owned(), blob(b"f\xffo")));
    assert_eq!(stored(json!({"base64": "Zv9v"})), ("blob".to_owned(), blob(b"f\xffo")));
    assert_eq!(stored(json!({"real": "-Infinity"})), ("real".to_owned(), blob(b"-Inf")));
    // The sign of a zero is kept or not, as SQLite likes; it isn't told.
    assert_eq!(stored(json!(-0.0)).0, "real");
    let told = one(&connection, "SELECT v, 1 / v FROM t", Params::default()).unwrap();
    assert_eq!(serde_json::to_string(&told.rows).unwrap(), "[[0.0,null]]");
    for wrong in
        [json!({"real": "NaN"}), json!({"real": 1}), json!({"base64": "AA==", "real": "Infinity"}), json!({})]
    {
        let error = one(&connection, "SELECT ?", Params::Positional(vec![wrong.clone()])).unwrap_err();
        assert!(error.message.contains("expected {\"base64\""), "{wrong}: {error}");
    }
}

#[test]
fn cached_statements_answer_by_the_schema_of_now() {
    let connection = connection();
    let columns = |sql: &str| {
        one(&connection, sql, Params::default()).map(|result| (result.columns, json!(result.rows)))
    };
    let named = |names: &[&str], row: Value| {
        (names.iter().map(ToString::to_string).collect::<Vec<_>>(), json!([row]))
    };
    let (read, write) = ("SELECT * FROM t", "INSERT INTO t(v) VALUES ('b') RETURNING *");
    connection.execute_batch("INSERT INTO t(v) VALUES ('a')").unwrap();
    assert_eq!(columns(read).unwrap(), named(&["id", "v"], json!([1, "a"])));
    assert_eq!(columns(write).unwrap(), named(&["id", "v"], json!([2, "b"])));
    // More columns, others, and fewer than when they were prepared; with and without rows.
    let steps = [
        ("DELETE FROM t; ALTER TABLE t ADD COLUMN w DEFAULT 5", vec!["id", "v", "w"], json!([1, "b", 5])),
        ("DELETE FROM t; ALTER TABLE t RENAME COLUMN w TO x", vec!["id", "v", "x"], json!([1, "b", 5])),
        ("DELETE FROM t; ALTER TABLE t DROP COLUMN x", vec!["id", "v"], json!([1, "b"])),
        ("DROP TABLE t; CREATE TABLE t(v, w AS (1), id DEFAULT 2)", vec!["v", "w", "id"], json!(["b", 1, 2])),
    ];
    for (change, names, row) in steps {
        connection.execute_batch(change).unwrap();
        assert_eq!(
            columns(read).unwrap(),
            (names.iter().map(ToString::to_string).collect(), json!([])),
            "{change}"
        );
        assert_eq!(columns(write).unwrap(), named(&names, row.clone()), "{change}");
        assert_eq!(columns(read).unwrap(), named(&names, row), "{change}");
    }
    // What explains a statement is of now, too.
    let explain = "EXPLAIN QUERY PLAN SELECT * FROM t WHERE v = 1";
    let before = columns(explain).unwrap();
    connection.execute_batch("CREATE INDEX by_v ON t(v)").unwrap();
    assert_ne!(columns(explain).unwrap(), before);
    // What no longer fits says where, as if it were prepared for the first time.
    columns("SELECT v, w FROM t").unwrap();
    connection.execute_batch("ALTER TABLE t RENAME COLUMN w TO y").unwrap();
    let place = columns("SELECT v, w FROM t").unwrap_err().place.unwrap();
    assert_eq!((place.offset, place.excerpt.as_str()), (10, "SELECT v, w FROM t"));
}

#[test]
fn whether_a_cached_statement_writes_is_seen_when_it_has_run() {
    let connection = connection();
    let changes = |sql: &str| {
        run_telling(&connection, &[Statement::new(sql)], &SqlLimits { rows: 99, ..LIMITS }).unwrap().1
    };
    let make = "CREATE TABLE IF NOT EXISTS made(a)";
    let drop = "DROP TABLE IF EXISTS made";
    for _ in 0..3 {
        changes(drop);
        assert!(changes(make), "it was made");
        changes(make);
        assert!(changes(drop), "it was dropped");
        changes(drop);
    }
    for nothing in
        ["EXPLAIN INSERT INTO t DEFAULT VALUES", "SELECT 1", "PRAGMA user_version", "UPDATE t SET v = 1"]
    {
        assert!(!changes(nothing), "{nothing}");
    }
}

#[test]
fn what_a_write_did_is_told_by_sqlite_not_by_its_first_word() {
    let connection = Connection::open_in_memory().unwrap();
    tanist_store::watch_inserts(&connection).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE);
             CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID;
             CREATE TABLE log(id INTEGER PRIMARY KEY, v);
             CREATE TABLE child(id INTEGER PRIMARY KEY, t);
             CREATE TRIGGER logged AFTER UPDATE ON t BEGIN INSERT INTO log(id, v) VALUES (900, 1), (901, 2); END;
             CREATE VIEW v AS SELECT v FROM t;
             CREATE TRIGGER added INSTEAD OF INSERT ON v BEGIN INSERT INTO log(v) VALUES (NEW.v); END;
             CREATE VIRTUAL TABLE f USING fts5(x);",
        )
        .unwrap();
    let cases = [
        ("INSERT INTO t(v) VALUES ('a'), ('b')", Some(2), Some(2)),
        (";;INSERT INTO t(v) VALUES ('c')", Some(1), Some(3)),
        ("\u{feff}INSERT INTO t(v) VALUES ('d')", Some(1), Some(4)),
        ("-- x\n/* y */ WITH n(v) AS (VALUES ('e')) INSERT INTO t(v) SELECT v FROM n", Some(1), Some(5)),
        ("INSERT INTO t(v) VALUES ('a') ON CONFLICT DO UPDATE SET v = 'A'", Some(1), None),
        ("INSERT INTO t(v) VALUES ('A') ON CONFLICT DO NOTHING", Some(0), None),
        ("INSERT INTO t(v) SELECT 1 WHERE 0", Some(0), None),
        ("INSERT INTO w VALUES (1, 2)", Some(1), None),
        ("REPLACE INTO w VALUES (1, 3)", Some(1), None),
        ("INSERT INTO v VALUES (1)", Some(0), None),
        ("REPLACE INTO t(id, v) VALUES (5, 'b')", Some(1), Some(5)),
        ("INSERT INTO log(id, v) VALUES (5, 'the same number as before')", Some(1), Some(5)),
        ("INSERT INTO child(t) VALUES (last_insert_rowid())", Some(1), Some(1)),
        ("INSERT INTO f(rowid, x) VALUES (77, 'a b')", Some(1), Some(77)),
        ("UPDATE f SET x = 'c' WHERE rowid = 77", Some(1), None),
        ("WITH n AS (SELECT 77 AS id) DELETE FROM f WHERE rowid IN (SELECT id FROM n)", Some(1), None),
        ("UPDATE t SET v = 'z' WHERE id = 99", Some(0), None),
        ("UPDATE t SET v = 'z' WHERE id = 98 RETURNING v", Some(0), None),
        (";DELETE FROM child", Some(1), None),
        ("CREATE TABLE IF NOT EXISTS t(a)", None, None),
        ("CREATE TABLE u AS SELECT * FROM t", None, None),
        ("EXPLAIN QUERY PLAN DELETE FROM t", None, None),
        ("EXPLAIN INSERT INTO t(v) VALUES ('x')", None, None),
        ("SELECT 1", None, None),
        ("PRAGMA user_version = 4", None, None),
        ("DELETE FROM log", Some(4), None),
    ];
    let limits = SqlLimits { rows: 1000, bytes: 100_000 };
    for (sql, rows, id) in cases {
        let result = run(&connection, &[Statement::new(sql)], &limits).unwrap().remove(0);
        assert_eq!((result.rows_affected, result.last_insert_id), (rows, id), "{sql}");
    }
    // One statement of a request sees the number of the one before; a request doesn't see the number of another.
    let parent = Statement::new("INSERT INTO t(id, v) VALUES (42, 'p')");
    let child = Statement::new("INSERT INTO child(t) VALUES (last_insert_rowid()) RETURNING t");
    let results = run(&connection, &[parent, child.clone()], &limits).unwrap();
    assert_eq!(results[1].rows, [[json!(42)]]);
    let alone = run(&connection, &[child], &limits).unwrap();
    assert_eq!(alone[0].rows, [[json!(0)]]);
    for vacuum in ["VACUUM", ";VACUUM", "\u{feff} /**/ vacuum INTO 'x'"] {
        let error = run(&connection, &[Statement::new(vacuum)], &limits).unwrap_err();
        assert_eq!(error.kind, SqlErrorKind::Denied, "{vacuum}");
    }
}

#[test]
fn statements_that_return_rows_always_say_so() {
    let connection = connection();
    let json = |sql: &str| serde_json::to_string(&one(&connection, sql, Params::default()).unwrap()).unwrap();
    assert_eq!(json("SELECT id FROM t"), r#"{"columns":["id"],"rows":[]}"#);
    assert_eq!(json("DELETE FROM t RETURNING id"), r#"{"columns":["id"],"rows":[],"rows_affected":0}"#);
    assert_eq!(json("DELETE FROM t"), r#"{"rows_affected":0}"#);
    assert_eq!(json("CREATE TABLE n(a)"), "{}");
}

#[test]
fn errors_are_short_and_point_into_the_users_text() {
    let connection = connection();
    let error = |sql: &str| one(&connection, sql, Params::default()).unwrap_err();
    let cases = [
        ("SELEC 1", 0, "SELEC 1"),
        ("SELECT nope FROM t", 7, "SELECT nope FROM t"),
        ("  SELECT 'ä', nope FROM t", 14, "  SELECT 'ä', nope FROM t"),
        ("SELECT 1; SELEC 2", 10, "SELECT 1; SELEC 2"),
        (
            "/* ü */ SELECT * FROM t WHERE nope = 1 AND id IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)",
            30,
            "/* ü */ SELECT * FROM t WHERE nope = 1 AND id IN (1, 2, 3, 4, 5, 6, 7, 8",
        ),
    ];
    for (sql, offset, excerpt) in cases {
        let error = error(sql);
        assert_eq!(error.sqlite_code, Some(1), "{sql}: {error}");
        assert_eq!(
            error.place,
            Some(Place { offset, excerpt: excerpt.chars().take(offset + 41).collect() }),
            "{sql}: {error}"
        );
        assert!(!error.message.contains("/**/"), "{error}");
    }
    let long = "x".repeat(900_000);
    for sql in
        [format!("SELECT '{long}', nope FROM t"), format!("SELECT {long} FROM t"), format!("SELECT '{long}")]
    {
        let error = error(&sql);
        let shown = error.to_string().len() + error.place.map_or(0, |place| place.excerpt.len());
        assert!(shown < 700 && error.sqlite_code == Some(1), "{shown} {}", error.message);
    }
    // Extended codes are there with and without a place.
    connection.execute_batch("CREATE UNIQUE INDEX u ON t(v); INSERT INTO t VALUES (1, 'a')").unwrap();
    let codes = [
        ("INSERT INTO t VALUES (1, 'b')", 1555),
        ("INSERT INTO t VALUES (2, 'a')", 2067),
        ("SELECT abs(-9223372036854775807 - 1)", 1),
    ];
    for (sql, code) in codes {
        assert_eq!(error(sql).sqlite_code, Some(code), "{sql}");
    }
}

#[test]
fn column_that_is_not_utf8_is_an_error_and_nothing_else() {
    let connection = connection();
    connection.execute_batch("PRAGMA writable_schema = 1").unwrap();
    let sql = b"CREATE TABLE odd(\"f\xffo\", b)";
    connection.execute_batch("CREATE TABLE odd(a, b); INSERT INTO odd VALUES (1, 2)").unwrap();
    connection
        .execute("UPDATE sqlite_schema SET sql = CAST(? AS TEXT) WHERE name = 'odd'", [&sql[..]])
        .unwrap();
    connection.execute_batch("PRAGMA writable_schema = RESET").unwrap();
    let error = one(&connection, "SELECT * FROM odd", Params::default()).unwrap_err();
    assert!(error.message.contains("isn't UTF-8"), "{error}");
    let rows = one(&connection, "SELECT b FROM odd", Params::default()).unwrap().rows;
    assert_eq!(rows, [[json!(2)]]);
}

#[test]
fn documented_list_of_what_is_ours_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Database::open(directory.path(), Options::default()).unwrap();
    database.become_master().unwrap();
    database.start_reign(Term(1), "pc-1", "test").unwrap();
    let batch = database.begin(Term(1)).unwrap();
    let names = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut names = batch.connection().prepare(names).unwrap();
    let names =
        names.query_map([], |row| row.get::<_, String>(0)).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let document = include_str!("../../../docs/sql.md");
    for name in &names {
        assert!(
            name.starts_with("tanist_") && document.contains(&format!("`{name}`")),
            "{name} isn't in docs/sql.md"
        );
    }
    assert!(names.len() > 10, "{names:?}");
}
