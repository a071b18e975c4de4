//! Requests in a batch: each succeeds or fails alone, within its rights, its time and its size.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Pair, TERM, query, transaction};
use rusqlite::Connection;
use rusqlite::ErrorCode;
use tanist_store::{Captured, Interrupted, Options, StoreError, is_denied, open_reader, prepare_user};

#[test]
fn bad_request_fails_alone() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    let mut batch = pair.master.begin(TERM).unwrap();
    for id in 0..10 {
        let result = batch
            .request(|connection| {
                connection.execute("INSERT INTO t VALUES (?1, 1)", [id])?;
                if id % 2 == 0 { connection.execute("INSERT INTO t VALUES (?1, 2)", [id]) } else { Ok(1) }
            })
            .unwrap();
        assert_eq!(result.is_err(), id % 2 == 0);
    }
    let count: i64 = batch.connection().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 5);
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT group_concat(id) FROM t"), "1,3,5,7,9");
}

#[test]
fn dropped_batch_leaves_nothing() {
    let mut pair = Pair::new();
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|connection| connection.execute("CREATE TABLE t (a)", [])).unwrap().unwrap();
    drop(batch);
    assert_eq!(pair.master.begin(TERM).unwrap().commit().unwrap(), Captured::Nothing);
    pair.assert_identical();
}

const DENIED: &[&str] = &[
    "ATTACH 'other.db' AS other",
    "ATTACH '' AS other",
    "DETACH main",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA synchronous = OFF",
    "PRAGMA writable_schema = 1",
    "PRAGMA wal_checkpoint",
    "PRAGMA foreign_keys = 0",
    "PRAGMA optimize",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "END",
    "SAVEPOINT x",
    "RELEASE tanist_request",
    "ROLLBACK TO tanist_request",
    "SELECT load_extension('x')",
    "SELECT fts3_tokenizer('x')",
    "SELECT * FROM sqlite_dbpage",
    "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 2",
    "INSERT INTO sqlite_dbpage VALUES (2, zeroblob(4096), 'main')",
    "CREATE TEMP TABLE x (a)",
    "CREATE TEMP VIEW x AS SELECT 1",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE TABLE temp.x (a)",
    "CREATE TABLE \"TEMP\".x AS SELECT 1",
    "CREATE VIEW temp.x AS SELECT 1",
    "CREATE VIEW IF NOT EXISTS temp.x AS SELECT 1",
    "CREATE TRIGGER temp.x AFTER INSERT ON main.t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
    "CREATE TABLE tanist_x (a)",
    "CREATE TABLE Tanist_Config (a)",
    "CREATE VIRTUAL TABLE tanist USING fts5(a)",
    "CREATE VIRTUAL TABLE tanist USING rtree(id, x0, x1)",
    "CREATE VIEW tanist_v_nodes AS SELECT 1",
    "DROP TABLE tanist_requests",
    "DROP VIEW tanist_v_cluster",
    "ALTER TABLE tanist_terms ADD COLUMN x",
    "DELETE FROM tanist_terms",
    "UPDATE tanist_position SET txid = 1",
    "UPDATE TANIST_POSITION SET txid = 1",
    "INSERT INTO tanist_requests VALUES ('', 'a', x'', x'', 1)",
    "REPLACE INTO tanist_members (id, rank) VALUES ('a', 1)",
    "CREATE TRIGGER x AFTER INSERT ON tanist_requests BEGIN SELECT 1; END",
    "CREATE TRIGGER tanist_x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE INDEX x ON tanist_requests (answer)",
    "DROP INDEX tanist_requests_by_age",
    "CREATE VIRTUAL TABLE x USING dbstat",
    "CREATE VIRTUAL TABLE x USING fts3(a)",
    "CREATE VIRTUAL TABLE requests_x USING sqlite_dbpage",
];

const ALLOWED: &[&str] = &[
    "CREATE TABLE u (a PRIMARY KEY, b REFERENCES t (id))",
    "CREATE INDEX u_b ON u (b)",
    "CREATE TRIGGER u_t AFTER INSERT ON u BEGIN INSERT INTO t (a) VALUES (new.a); END",
    "INSERT INTO u VALUES (1, NULL)",
    "CREATE VIRTUAL TABLE d USING fts5(x)",
    "INSERT INTO d VALUES ('hello world')",
    "INSERT INTO d(d) VALUES ('rebuild')",
    "CREATE VIRTUAL TABLE dv USING fts5vocab('d', 'row')",
    "SELECT * FROM dv;",
    "SELECT * FROM dv; -- a remark",
    "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)",
    "INSERT INTO r VALUES (1, 2, 3)",
    "ALTER TABLE u RENAME TO w",
    "ALTER TABLE w RENAME COLUMN b TO c",
    "DROP INDEX u_b",
    "ALTER TABLE w DROP COLUMN c",
    "SELECT * FROM tanist_position, tanist_terms, tanist_v_cluster",
    // Names without the prefix are the users', and so are the numbers in the header.
    "CREATE TABLE events (number INTEGER PRIMARY KEY)",
    "CREATE TABLE config (key REFERENCES events)",
    "CREATE VIEW v_nodes AS SELECT * FROM config",
    "PRAGMA user_version = 7",
    "PRAGMA application_id = -5",
    "PRAGMA application_id",
    "PRAGMA table_info(t)",
    "PRAGMA user_version",
    "PRAGMA integrity_check",
    "SELECT * FROM pragma_table_info('t')",
    "ANALYZE",
    "DROP TABLE d",
    "DROP TABLE w",
];

fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut statement = prepare_user(connection, sql)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

#[test]
fn users_sql_is_held_to_its_rights() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    for sql in DENIED {
        let mut batch = pair.master.begin(TERM).unwrap();
        let error = batch.request(|connection| run(connection, sql)).unwrap().expect_err(sql);
        assert!(is_denied(&error), "{sql}: {error:?}");
        assert!(batch.denied().is_some(), "{sql}");
        assert_eq!(batch.commit().unwrap(), Captured::Nothing, "{sql}");
    }
    for sql in [
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "CREATE INDEX temp.x ON t (a)",
        "SELECT * FROM tanist_requests",
        "SELECT count(*) FROM tanist_requests",
        "SELECT 1 FROM tanist_position WHERE EXISTS (SELECT 1 FROM Tanist_Requests)",
        "SELECT edit('x')",
        "PRAGMA",
        "SELECT 1; SELECT 2",
    ] {
        let mut batch = pair.master.begin(TERM).unwrap();
        batch.request(|connection| run(connection, sql)).unwrap().expect_err(sql);
    }
    for sql in ALLOWED {
        let mut batch = pair.master.begin(TERM).unwrap();
        batch.request(|connection| run(connection, sql)).unwrap().expect(sql);
        if let Captured::Transaction(transaction) = batch.commit().unwrap() {
            pair.backup.apply(&[transaction]).unwrap();
        }
    }
    pair.assert_identical();
}

#[test]
fn denials_are_not_evaded_by_cached_statements_triggers_or_renames() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    let insert = "INSERT INTO tanist_requests VALUES ('', 'a', x'', x'', 1)";
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.internal(|connection| connection.prepare_cached(insert)?.execute([])).unwrap().unwrap();
    let error = batch.request(|connection| run(connection, insert)).unwrap().unwrap_err();
    assert!(is_denied(&error));
    for name in ["tanist_secret", "TANIST_more"] {
        let sql = format!("ALTER TABLE t RENAME TO {name}");
        let error = batch.request(|connection| run(connection, &sql)).unwrap_err();
        assert!(error.is_request() && matches!(error, StoreError::ReservedName { .. }), "{error:?}");
    }
    batch.request(|connection| run(connection, "ALTER TABLE t RENAME TO s")).unwrap().unwrap();
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair.assert_identical();
}

/// A key to a table of Tanist's would have the rows of users, and their triggers, take part in what the server writes.
#[test]
fn foreign_key_to_a_table_of_tanist_is_refused_however_it_is_declared() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE p (id INTEGER PRIMARY KEY)");
    pair.step("CREATE TABLE q (p REFERENCES p)");
    let refused = [
        "CREATE TABLE seen (event INTEGER REFERENCES tanist_events(number))",
        "CREATE TABLE seen (event INTEGER REFERENCES Tanist_Events)",
        "CREATE TABLE seen (term REFERENCES tanist_terms(nope) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE seen (key, FOREIGN KEY (key) REFERENCES tanist_members (id) ON DELETE CASCADE)",
        "CREATE TABLE seen (later REFERENCES tanist_not_yet_there)",
        "CREATE TABLE IF NOT EXISTS main.\"a b\" (token REFERENCES \"tanist_tokens\"(name))",
        "ALTER TABLE t ADD COLUMN node REFERENCES tanist_nodes (id)",
    ];
    for sql in refused {
        let mut batch = pair.master.begin(TERM).unwrap();
        let error = batch.request(|connection| run(connection, sql)).unwrap_err();
        assert!(
            matches!(error, StoreError::ReservedReference { .. }) && error.is_request(),
            "{sql}: {error:?}"
        );
        assert_eq!(batch.commit().unwrap(), Captured::Nothing, "{sql}");
    }
    // A rename takes the keys of others along.
    let mut batch = pair.master.begin(TERM).unwrap();
    let error = batch.request(|connection| run(connection, "ALTER TABLE p RENAME TO tanist_p")).unwrap_err();
    assert!(error.is_request(), "{error:?}");
    drop(batch);
    pair.assert_identical();
}

#[test]
fn shadow_tables_are_safe_from_users() {
    let mut pair = Pair::new();
    pair.step("CREATE VIRTUAL TABLE d USING fts5(x)");
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|connection| run(connection, "DELETE FROM d_data")).unwrap().unwrap_err();
}

#[test]
fn deferred_foreign_key_fails_its_own_request_only() {
    let mut pair = Pair::new();
    pair.step(
        "CREATE TABLE p (id INTEGER PRIMARY KEY); \
         CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    );
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|c| c.execute("INSERT INTO p VALUES (1)", [])).unwrap().unwrap();
    let error = batch.request(|c| c.execute("INSERT INTO c VALUES (2)", [])).unwrap_err();
    assert!(matches!(error, StoreError::ForeignKeys) && error.is_request());
    batch
        .request(|c| c.execute_batch("INSERT INTO c VALUES (3); INSERT INTO p VALUES (3)"))
        .unwrap()
        .unwrap();
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT count(*) FROM c"), "1");
}

#[test]
fn rollback_by_conflict_clause_costs_the_batch_and_nothing_else() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|c| c.execute("INSERT INTO t VALUES (1)", [])).unwrap().unwrap();
    let error = batch
        .request(|c| {
            c.execute("INSERT OR ROLLBACK INTO t VALUES (1)", []).unwrap_err();
            // Outside any transaction now: must not commit by itself.
            c.execute("INSERT INTO t VALUES (2)", [])
        })
        .unwrap()
        .unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation), "the commit is refused");
    assert!(batch.is_lost());
    assert!(matches!(batch.request(|_| Ok::<_, ()>(())), Err(StoreError::BatchLost { .. })));
    assert!(matches!(batch.commit(), Err(StoreError::BatchLost { .. })));
    assert!(!pair.master.outside_change().unwrap());
    assert_eq!(query(pair.master_dir.path(), "SELECT count(*) FROM t"), "0");
    pair.step("INSERT INTO t VALUES (5)");
    pair.assert_identical();
}

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n";

#[test]
fn read_past_its_deadline_fails_alone_and_a_write_costs_the_batch() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|c| c.execute("INSERT INTO t VALUES (1)", [])).unwrap().unwrap();
    batch.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    batch.request(|c| run(c, ENDLESS)).unwrap().unwrap_err();
    assert_eq!(batch.interrupted(), Some(Interrupted::Deadline));
    // The deadline was that request's.
    batch.request(|c| c.execute("INSERT INTO t VALUES (2)", [])).unwrap().unwrap();
    assert_eq!(batch.interrupted(), None);
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair.assert_identical();

    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|c| c.execute("INSERT INTO t VALUES (3)", [])).unwrap().unwrap();
    batch.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    batch.request(|c| run(c, &format!("INSERT INTO t {ENDLESS}"))).unwrap().unwrap_err();
    assert!(batch.is_lost());
    assert_eq!(batch.interrupted(), Some(Interrupted::Deadline));
    drop(batch);
    pair.step("INSERT INTO t VALUES (4)");
    pair.assert_identical();
}

#[test]
fn reader_reads_one_snapshot_within_its_rights_and_time() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    pair.step("INSERT INTO t VALUES (1)");
    let mut reader = open_reader(pair.backup_dir.path(), 1 << 20, None).unwrap();
    let (seen, after) = reader
        .snapshot(|connection, stamp| {
            let count = |c: &Connection| {
                c.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap()
            };
            let before = count(connection);
            pair.step("INSERT INTO t VALUES (2)");
            assert_eq!(before, count(connection));
            for sql in ["INSERT INTO t VALUES (9)", "COMMIT", "PRAGMA query_only = 0", "VACUUM INTO 'x.db'"] {
                connection.execute(sql, []).unwrap_err();
            }
            (stamp, before)
        })
        .unwrap();
    assert_eq!(after, 1);
    assert_eq!(seen.position.txid.next(), pair.backup.stamp().position.txid);
    assert_eq!(reader.stamp().unwrap(), pair.backup.stamp());
    reader.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    reader.snapshot(|connection, _| run(connection, ENDLESS)).unwrap().unwrap_err();
    assert_eq!(reader.interrupted(), Some(Interrupted::Deadline));
    reader.set_deadline(None);
    reader.snapshot(|connection, _| run(connection, "SELECT * FROM t")).unwrap().unwrap();
}

#[test]
fn request_too_large_fails_alone_and_an_endless_one_costs_the_batch() {
    let options = Options { max_transaction_bytes: 1 << 20, ..Options::default() };
    let mut pair = Pair::with(options);
    pair.step("CREATE TABLE t (a)");
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|c| c.execute("INSERT INTO t VALUES ('kept')", [])).unwrap().unwrap();
    let error = batch.request(|c| c.execute("INSERT INTO t VALUES (randomblob(1300000))", [])).unwrap_err();
    assert!(
        matches!(error, StoreError::TransactionTooLarge { limit_bytes: 1_048_576 }) && error.is_request()
    );
    batch.request(|c| c.execute("INSERT INTO t VALUES ('kept too')", [])).unwrap().unwrap();
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT group_concat(a) FROM t"), "kept,kept too");

    let mut batch = pair.master.begin(TERM).unwrap();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) \
                   INSERT INTO t SELECT randomblob(2000) FROM n";
    batch.request(|c| c.execute(endless, [])).unwrap().unwrap_err();
    assert!(batch.is_lost());
    assert_eq!(batch.interrupted(), Some(Interrupted::TooLarge { limit_bytes: 1 << 20 }));
    drop(batch);
    // Nothing of it stays, not even in the next transaction.
    let small = pair.step("INSERT INTO t VALUES (1)");
    assert!(small.plain_len < 20_000);
    pair.assert_identical();
    // A large one that fails first in its batch isn't carried along either.
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|c| c.execute("INSERT INTO t VALUES (randomblob(1300000))", [])).unwrap_err();
    batch.request(|c| c.execute("INSERT INTO t VALUES (2)", [])).unwrap().unwrap();
    assert!(!batch.has_outside_change());
    let small = transaction(batch.commit().unwrap());
    assert!(small.plain_len < 20_000);
    pair.backup.apply(&[small]).unwrap();
    pair.assert_identical();
}
