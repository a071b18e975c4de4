//! Watched tables in a real store, with users' SQL under its authorizer.

use serde_json::{Value, json};
use tanist_replication::Term;
use tanist_store::{Database, Options, is_denied, prepare_user};

use super::*;
use crate::{
    sql::{self, SqlLimits},
    watch::row,
};

struct Master {
    _dir: tempfile::TempDir,
    database: Database,
}

impl Master {
    fn new(schema: &str) -> Master {
        let dir = tempfile::tempdir().unwrap();
        let mut database = Database::open(dir.path(), Options::default()).unwrap();
        database.become_master().unwrap();
        database.start_reign(Term(1), "pc-1", "test").unwrap();
        let mut master = Master { _dir: dir, database };
        master.user(&[schema]).unwrap();
        master
    }

    /// A user's request, as the store thread runs it.
    fn user(&mut self, statements: &[&str]) -> Result<(), rusqlite::Error> {
        let mut batch = self.database.begin(Term(1)).unwrap();
        let ran = batch.request(|connection| {
            for sql in statements.iter().flat_map(|sql| sql.split(";;")) {
                let mut statement = prepare_user(connection, sql)?;
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
            }
            Ok::<_, rusqlite::Error>(())
        });
        let ran = ran.unwrap();
        if ran.is_ok() && batch.altered() {
            batch.internal(refresh).unwrap().unwrap();
        }
        batch.commit().unwrap();
        ran
    }

    fn watch(&mut self, table: &str, watched: bool) -> Result<String, Unfit> {
        let asked = WatchTable { table: table.to_owned(), watched };
        let mut batch = self.database.begin(Term(1)).unwrap();
        let done = batch.internal(|connection| change(connection, &asked)).unwrap().unwrap();
        batch.commit().unwrap();
        done
    }

    /// Subjects and data of rows' events, in order, as watchers are told.
    fn rows(&mut self) -> Vec<(String, Value)> {
        let batch = self.database.begin(Term(1)).unwrap();
        let mut statement = batch
            .connection()
            .prepare(
                "SELECT subject, CAST(json(data) AS BLOB) FROM tanist_events WHERE kind = 'row' ORDER BY id",
            )
            .unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
        let rows = rows.map(|row| {
            let (subject, data) = row.unwrap();
            (subject, serde_json::from_str(&row::told(&data).unwrap()).unwrap())
        });
        rows.collect()
    }

    fn watched(&mut self) -> Vec<String> {
        list(self.database.begin(Term(1)).unwrap().connection()).unwrap()
    }
}

#[test]
fn every_change_of_a_row_is_an_event() {
    let mut master = Master::new("CREATE TABLE Item (id INTEGER PRIMARY KEY, name TEXT, v ANY)");
    assert_eq!(master.watch("item", true).unwrap(), "Item");
    master.user(&["INSERT INTO item VALUES (1, 'a', 1.5), (2, 'b', x'00ff')"]).unwrap();
    master.user(&["UPDATE item SET name = 'c' WHERE id = 2"]).unwrap();
    master.user(&["INSERT INTO item VALUES (2, 'd', NULL) ON CONFLICT DO UPDATE SET v = 9e999"]).unwrap();
    master.user(&["DELETE FROM item"]).unwrap();
    let two = |name, v: Value| json!({ "id": 2, "name": name, "v": v });
    let blob = json!({ "base64": "AP8=" });
    let infinity = json!({ "real": "Infinity" });
    let one = json!({ "id": 1, "name": "a", "v": 1.5 });
    let expected = [
        json!({ "op": "insert", "old": null, "new": one }),
        json!({ "op": "insert", "old": null, "new": two("b", blob.clone()) }),
        json!({ "op": "update", "old": two("b", blob.clone()), "new": two("c", blob.clone()) }),
        json!({ "op": "update", "old": two("c", blob), "new": two("c", infinity.clone()) }),
        json!({ "op": "delete", "old": one, "new": null }),
        json!({ "op": "delete", "old": two("c", infinity.clone()), "new": null }),
    ];
    assert_eq!(master.rows(), expected.map(|data| ("Item".to_owned(), data)));
    assert_eq!(master.watched(), ["Item"]);
    // Nothing is written when it is so already.
    let before = master.database.stamp();
    master.watch("ITEM", true).unwrap();
    assert_eq!(master.database.stamp(), before);
    master.watch("ITEM", false).unwrap();
    master.user(&["INSERT INTO item VALUES (3, 'e', NULL)"]).unwrap();
    assert_eq!((master.rows().len(), master.watched().len()), (6, 0));
}

#[test]
fn events_tell_values_as_queries_do() {
    let mut master = Master::new("CREATE TABLE t (hex, v)");
    master.watch("t", true).unwrap();
    let values = [
        "NULL",
        "0",
        "-9223372036854775808",
        "9223372036854775807",
        "0.0",
        "-0.0",
        "1.0",
        "0.1",
        "0.1 + 0.2",
        "1e300",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "-123456789012345678.0",
        "31.245270191439438",
        "1e15",
        "1e16",
        "9e999",
        "-9e999",
        "x''",
        "x'00ff7f'",
        "''",
        "'1.50'",
        "'ä\u{1f600}'",
        "char(0, 1, 8, 10, 34, 92, 127)",
        "'{\"hex\":\"00\"}'",
        "CAST(x'66ff6f' AS TEXT)",
        "CAST(x'22ff0a5c00' AS TEXT)",
        "CAST(x'eda080' AS TEXT)",
        "'x['",
        "json('[1.50]')",
    ];
    for value in values {
        master.user(&[&format!("INSERT INTO t VALUES ('abc', {value})")]).unwrap();
    }
    let events: Vec<_> = master.rows().into_iter().map(|(_, data)| data["new"]["v"].clone()).collect();
    let batch = master.database.begin(Term(1)).unwrap();
    let limits = SqlLimits { rows: 100, bytes: 100_000 };
    let query = [tanist_api::Statement::new("SELECT v FROM t ORDER BY rowid")];
    let rows = sql::run(batch.connection(), &query, &limits).unwrap().remove(0).rows;
    for ((event, row), value) in events.iter().zip(&rows).zip(values) {
        assert_eq!(event.to_string(), row[0].to_string(), "{value}");
    }
    assert_eq!((events.len(), rows.len()), (values.len(), values.len()));
}

#[test]
fn names_that_need_quotes_and_tables_without_a_key_are_watched() {
    let mut master = Master::new(
        r#"CREATE TABLE "a'b""c; DROP" ("x'y""" TEXT, "rowid" TEXT);;CREATE TABLE w (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID;;
           CREATE TABLE g (a INT, twice INT AS (a * 2))"#,
    );
    for table in ["a'b\"c; DROP", "w", "g"] {
        master.watch(table, true).unwrap();
    }
    master
        .user(&[
            r#"INSERT INTO "a'b""c; DROP" VALUES ('1', printf('%70000d', 1))"#,
            "INSERT INTO w VALUES ('k', 7)",
            "INSERT INTO g VALUES (4)",
        ])
        .unwrap();
    let rows = master.rows();
    let cut = json!({ "op": "insert", "old": null, "new": { "_rowid_": 1 }, "truncated": true });
    assert_eq!(rows[0], ("a'b\"c; DROP".to_owned(), cut));
    assert_eq!(rows[1].1["new"], json!({ "a": "k", "b": 7 }));
    assert_eq!(rows[2].1["new"], json!({ "a": 4, "twice": 8 }));
}

#[test]
fn large_rows_are_told_by_their_key_and_never_fail_a_write() {
    let mut master = Master::new("CREATE TABLE big (k TEXT PRIMARY KEY, v)");
    master.watch("big", true).unwrap();
    master
        .user(&[
            "INSERT INTO big VALUES ('small', printf('%16000d', 1))",
            "INSERT INTO big VALUES ('large', zeroblob(5000000))",
            "INSERT INTO big VALUES (printf('%70000d', 1), NULL)",
            "UPDATE big SET v = 'x' || char(0) || char(1) || CAST(x'ff' AS TEXT) WHERE k = 'large'",
        ])
        .unwrap();
    let rows = master.rows();
    assert_eq!(rows[0].1["new"]["v"].as_str().unwrap().len(), 16000);
    assert_eq!(rows[1].1, json!({ "op": "insert", "old": null, "new": { "k": "large" }, "truncated": true }));
    assert_eq!(rows[2].1, json!({ "op": "insert", "old": null, "new": {}, "truncated": true }));
    assert_eq!(rows[3].1["old"], json!({ "k": "large" }));
    let columns: Vec<_> = (0..450).map(|i| format!("c{i}")).collect();
    master.user(&[&format!("CREATE TABLE wide ({})", columns.join(", "))]).unwrap();
    master.watch("wide", true).unwrap();
    master.user(&["INSERT INTO wide (c1) VALUES (1)"]).unwrap();
    assert_eq!(master.rows()[4].1["new"], json!({ "rowid": 1 }));
}

#[test]
fn altered_tables_stay_writable_and_watched() {
    let mut master =
        Master::new("CREATE TABLE t (id INTEGER PRIMARY KEY, a);;CREATE TABLE s (id INTEGER PRIMARY KEY)");
    master.watch("t", true).unwrap();
    master.watch("s", true).unwrap();
    master.user(&["ALTER TABLE t ADD COLUMN b DEFAULT 5"]).unwrap();
    master.user(&["INSERT INTO t (a) VALUES (1)"]).unwrap();
    master.user(&["ALTER TABLE t RENAME COLUMN b TO \"c d\"", "INSERT INTO t (a) VALUES (2)"]).unwrap();
    master.user(&["INSERT INTO t (a) VALUES (3)"]).unwrap();
    // Two tables change names, and a third takes one of them, in one request.
    master
        .user(&[
            "ALTER TABLE t RENAME TO x",
            "ALTER TABLE s RENAME TO t",
            "ALTER TABLE x RENAME TO s",
            "CREATE TABLE x (a)",
        ])
        .unwrap();
    master
        .user(&["INSERT INTO s (a) VALUES (4)", "INSERT INTO t VALUES (9)", "INSERT INTO x VALUES (1)"])
        .unwrap();
    let rows = master.rows();
    assert_eq!(rows[0].1["new"], json!({ "id": 1, "a": 1, "b": 5 }));
    assert_eq!(rows[2].1["new"], json!({ "id": 3, "a": 3, "c d": 5 }));
    assert_eq!(
        rows[3],
        ("s".to_owned(), json!({ "op": "insert", "old": null, "new": { "id": 4, "a": 4, "c d": 5 } }))
    );
    assert_eq!(rows[4], ("t".to_owned(), json!({ "op": "insert", "old": null, "new": { "id": 9 } })));
    assert_eq!((rows.len(), master.watched()), (5, vec!["s".to_owned(), "t".to_owned()]));

    // What would take a column or the table from under the triggers is refused, and changes nothing.
    let error = master.user(&["ALTER TABLE s DROP COLUMN a"]).unwrap_err();
    assert!(error.to_string().contains("tanist_watch_"), "{error}");
    let error = master.user(&["DROP TABLE s"]).unwrap_err();
    assert!(is_denied(&error), "{error}");
    master.user(&["INSERT INTO s (a) VALUES (5)"]).unwrap();
    assert_eq!(master.rows().len(), 6);
    master.watch("s", false).unwrap();
    master.user(&["ALTER TABLE s DROP COLUMN a", "DROP TABLE s"]).unwrap();
}

#[test]
fn what_is_no_ordinary_table_is_refused_by_name() {
    let mut master = Master::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT);;CREATE VIEW v AS SELECT 1;;CREATE VIRTUAL TABLE f USING fts5(x)",
    );
    assert_eq!(master.watch("nothing", true), Err(Unfit::Unknown("nothing".into())));
    for table in ["v", "f", "f_data", "tanist_events", "tanist_terms", "sqlite_sequence", "tanist_v_cluster"]
    {
        let refused = master.watch(table, true);
        assert!(
            matches!(&refused, Err(Unfit::NotOrdinary(name, _)) if name == table),
            "{table}: {refused:?}"
        );
    }
}

#[test]
fn users_reach_the_events_only_through_watched_rows() {
    let mut master = Master::new("CREATE TABLE t (a);;CREATE TABLE u (a);;CREATE VIEW v AS SELECT 1 AS a");
    master.watch("t", true).unwrap();
    // What can be made, but not used.
    master
        .user(&[
            "CREATE TRIGGER sly AFTER INSERT ON u BEGIN INSERT INTO tanist_events (kind, subject) VALUES ('config', 'x'); END",
            "CREATE TRIGGER slyer INSTEAD OF INSERT ON v BEGIN INSERT INTO tanist_events (kind, subject) VALUES ('config', 'x'); END",
            "CREATE TRIGGER slyest AFTER INSERT ON t BEGIN DELETE FROM tanist_events; END",
        ])
        .unwrap();
    let denied = [
        "INSERT INTO tanist_events (kind, subject) VALUES ('config', 'x')",
        "WITH tanist_watch_x AS (SELECT 'config' AS a) INSERT INTO tanist_events (kind, subject) SELECT a, a FROM tanist_watch_x",
        "INSERT INTO tanist_events (kind, subject) SELECT a, a FROM (SELECT 'config' AS a) AS tanist_watch_x",
        "UPDATE tanist_events SET kind = 'config'",
        "DELETE FROM tanist_events",
        "INSERT INTO u VALUES (1)",
        "INSERT INTO v VALUES (1)",
        "INSERT INTO t VALUES (1)",
        "DROP TRIGGER tanist_watch_insert_t",
        "DROP TRIGGER IF EXISTS TANIST_watch_insert_t",
        "DROP TABLE t",
        "CREATE TRIGGER tanist_watch_x AFTER INSERT ON u BEGIN INSERT INTO tanist_events (kind, subject) VALUES ('config', 'x'); END",
        "CREATE TRIGGER \"Tanist_Watch_x\" INSTEAD OF INSERT ON v BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER tanist_watch_x AFTER INSERT ON u BEGIN SELECT 1; END",
        "CREATE TRIGGER x AFTER INSERT ON tanist_events BEGIN SELECT 1; END",
        "CREATE TRIGGER x BEFORE DELETE ON tanist_events BEGIN SELECT raise(IGNORE); END",
        "CREATE VIEW tanist_watch_x AS SELECT 1",
        "CREATE TABLE tanist_watch_x (a)",
        "ALTER TABLE tanist_events RENAME TO mine",
        "ALTER TABLE tanist_events ADD COLUMN x",
        "UPDATE tanist_position SET events = 0",
        "PRAGMA writable_schema = 1",
        "PRAGMA recursive_triggers = 1",
    ];
    for sql in denied {
        let error = master.user(&[sql]).expect_err(sql);
        assert!(is_denied(&error), "{sql}: {error}");
    }
    // A name can't be taken by renaming either, nor can numbers be made to come again or to run out; the store refuses the
    // whole request.
    let number =
        "CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO n VALUES (9223372036854775806);";
    let refused = [
        "/**/ALTER TABLE u RENAME TO tanist_watch_u".to_owned(),
        "/**/UPDATE sqlite_sequence SET seq = 0 WHERE name = 'tanist_events'".to_owned(),
        "/**/UPDATE sqlite_sequence SET seq = 9223372036854775807".to_owned(),
        "/**/INSERT INTO sqlite_sequence VALUES ('tanist_commands', 9223372036854775807)".to_owned(),
        "/**/DELETE FROM sqlite_sequence".to_owned(),
        "/**/INSERT INTO sqlite_sequence VALUES ('tanist_events', 7)".to_owned(),
        format!(
            "{number} DELETE FROM sqlite_sequence WHERE name = 'tanist_events'; UPDATE sqlite_sequence SET name = 'tanist_events' WHERE name = 'n'"
        ),
    ];
    for sql in refused {
        let mut batch = master.database.begin(Term(1)).unwrap();
        let error = batch.request(|db| db.execute_batch(&sql)).expect_err(&sql);
        assert!(error.is_request(), "{sql}: {error}");
    }
    // Also the second time, when the statement comes from the cache.
    for again in 0..3 {
        let mut batch = master.database.begin(Term(1)).unwrap();
        let error = batch
            .request(|db| {
                prepare_user(db, "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'tanist_events'")?
                    .raw_execute()
            })
            .expect_err(&format!("{again}"));
        assert!(error.is_request(), "{again}: {error}");
    }
    // Of their own tables users may, whatever an administrator has removed from outside.
    let outside = Connection::open(master._dir.path().join("state.db")).unwrap();
    outside.execute("DELETE FROM tanist_events WHERE id > 1", []).unwrap();
    master.user(&["CREATE TABLE other (a)"]).unwrap();
    master
        .user(&[
            "CREATE TABLE own (id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "INSERT INTO own VALUES (7)",
            "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'own'",
            "ALTER TABLE own RENAME TO mine",
            "DROP TABLE mine",
        ])
        .unwrap();
    master.user(&["DROP TRIGGER slyest", "INSERT INTO t VALUES (1)"]).unwrap();
    master
        .user(&[
            "CREATE TABLE more (id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "INSERT INTO more VALUES (1)",
            "DROP TABLE more",
        ])
        .unwrap();
    assert_eq!(master.rows().len(), 1);
    // The user's own trigger on a watched table, and the watcher behind a user's trigger, do their work.
    master
        .user(&["CREATE TRIGGER ok AFTER INSERT ON v_t BEGIN SELECT 1; END"])
        .expect_err("there is no such table");
    master
        .user(&[
            "DROP TRIGGER sly",
            "CREATE TRIGGER on_u AFTER INSERT ON u BEGIN INSERT INTO t VALUES (NEW.a + 1); END",
        ])
        .unwrap();
    master.user(&["INSERT INTO u VALUES (41)"]).unwrap();
    assert_eq!(master.rows()[1].1["new"], json!({ "a": 42 }));
}
