//! Other processes: writes on the master are adopted, on a backup refused; their checkpoints lose nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM, exchange::rejoin, outsider, query, shell, transaction};
use rusqlite::{Connection, ErrorCode};
use tanist_replication::Term;
use tanist_store::{Captured, CopyOut, Database, Options, StoreError};

fn adopt(pair: &mut Pair) {
    assert!(pair.master.outside_change().unwrap());
    let adopted = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
    assert!(!pair.master.outside_change().unwrap());
    pair.backup.apply(&[adopted]).unwrap();
}

#[test]
fn outside_write_on_the_master_is_adopted() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    assert!(!pair.master.outside_change().unwrap());
    let outside = outsider(pair.master_dir.path());
    outside.execute_batch("INSERT INTO t VALUES ('outside'); INSERT INTO t VALUES ('twice')").unwrap();
    adopt(&mut pair);
    assert_eq!(pair.master.outside_commits(), 2);
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT count(*) FROM t"), "2");
    // Together with the master's own.
    outside.execute_batch("CREATE TABLE u (b)").unwrap();
    pair.step("INSERT INTO t VALUES ('inside')");
    assert_eq!(pair.master.outside_commits(), 3);
    pair.assert_identical();
}

#[test]
fn shell_write_is_adopted_on_the_master_and_locked_out_on_the_backup() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    let sql = "INSERT INTO t VALUES ('dba')";
    let Some((worked, answer)) = shell(pair.master_dir.path(), &[], sql) else { return };
    assert!(worked, "{answer}");
    adopt(&mut pair);
    pair.assert_identical();
    let (worked, answer) = shell(pair.backup_dir.path(), &[], sql).unwrap();
    assert!(!worked && answer.contains("database is locked"), "{answer}");
    pair.step(sql);
    pair.assert_identical();
}

#[test]
fn outside_write_on_the_backup_is_locked_out_between_and_after_applies() {
    let mut pair = Pair::new();
    let outside = outsider(pair.backup_dir.path());
    pair.step("CREATE TABLE t (a)");
    for _ in 0..3 {
        let error = outside.execute("INSERT INTO t VALUES (1)", []).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
        pair.step("INSERT INTO t VALUES (2)");
        pair.backup.checkpoint_step().unwrap();
    }
    pair.assert_identical();
}

#[test]
fn outside_checkpoints_on_the_master_lose_nothing() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    let outside = outsider(pair.master_dir.path());
    for round in 0..60 {
        let checkpoint = ["TRUNCATE", "RESTART", "FULL", "PASSIVE"][round % 4];
        outside.execute_batch("INSERT INTO t (a) VALUES (randomblob(5000))").unwrap();
        // Busy or not: what isn't captured stays.
        outside.query_row(&format!("PRAGMA wal_checkpoint({checkpoint})"), [], |_| Ok(())).unwrap();
        if round % 3 == 0 {
            outside.execute_batch("INSERT INTO t (a) VALUES (1); DELETE FROM t WHERE id % 5 = 0").unwrap();
            outside.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
        if round % 7 == 0 {
            pair.step("INSERT INTO t (a) VALUES (2)");
            outside.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        } else {
            adopt(&mut pair);
        }
        if round % 5 == 0 {
            // Everything captured and checkpointed: now the WAL may start over, by whomever.
            assert!(pair.master.checkpoint_step().unwrap().is_complete());
            outside.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
    }
    pair.assert_identical();
}

#[test]
fn shell_that_leaves_last_but_one_keeps_the_wal() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    for round in 0..5 {
        let sql = format!("INSERT INTO t VALUES ({round}); PRAGMA wal_checkpoint(TRUNCATE);");
        let Some((worked, _)) = shell(pair.master_dir.path(), &[], &sql) else { return };
        assert!(worked);
        pair.step("INSERT INTO t VALUES ('own')");
    }
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT count(*) FROM t"), "10");
}

#[test]
fn busy_outside_writer_is_reported_and_costs_nothing() {
    let mut pair = Pair::with(Options { busy_timeout_ms: 20, ..Options::default() });
    pair.step("CREATE TABLE t (a)");
    let outside = outsider(pair.master_dir.path());
    outside.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    assert!(matches!(pair.master.begin(TERM), Err(StoreError::Busy { .. })));
    assert!(matches!(pair.master.checkpoint_step(), Err(StoreError::Busy { .. })));
    outside.execute_batch("COMMIT").unwrap();
    adopt(&mut pair);
    pair.assert_identical();
}

/// Another machine becomes the master while somebody has a transaction open here.
#[test]
fn lock_held_while_a_master_leaves_is_waited_for_and_what_came_meanwhile_is_saved() {
    for commit in [false, true] {
        let mut pair = Pair::with(Options { busy_timeout_ms: 20, ..Options::default() });
        pair.step("CREATE TABLE t (a)");
        let outside = outsider(pair.master_dir.path());
        outside.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES ('too late')").unwrap();
        assert!(matches!(pair.master.become_backup(), Err(StoreError::Busy { .. })));
        assert!(!pair.master.is_master() && !pair.master.is_locked() && !pair.master.is_diverged());
        pair.backup.become_master().unwrap();
        let sql = "ALTER TABLE t ADD COLUMN b; INSERT INTO t VALUES ('next', 1)";
        let next = transaction(common::commit(&mut pair.backup, sql));
        assert!(matches!(pair.master.apply(std::slice::from_ref(&next)), Err(StoreError::Busy { .. })));
        assert!(matches!(pair.master.take_lock(), Err(StoreError::Busy { .. })));
        if commit {
            outside.execute_batch("COMMIT").unwrap();
            assert!(matches!(pair.master.take_lock(), Err(StoreError::ForeignWrite { .. })));
            assert!(matches!(pair.master.apply(&[next]), Err(StoreError::ForeignWrite { .. })));
            let (rejoined, _) = rejoin(pair.backup_dir.path(), &mut pair.master).unwrap();
            let report =
                tanist_store::divergence_directory(pair.master_dir.path(), &rejoined.report.unwrap());
            let rows = std::fs::read_to_string(report.join(tanist_store::ROWS_FILE)).unwrap();
            assert!(rows.contains("'too late'"), "told though the table is another by now: {rows}");
        } else {
            outside.execute_batch("ROLLBACK").unwrap();
            pair.master.take_lock().unwrap();
            pair.master.apply(&[next]).unwrap();
        }
        pair.assert_identical();
    }
}

/// The process of a master is killed before it has adopted what others wrote.
fn reopened_with(sql: &str, while_closed: &str) -> (Pair, tanist_replication::Stamp) {
    let mut pair = filled();
    pair.master.checkpoint_step().unwrap();
    pair.step("INSERT INTO t (a) VALUES (1)");
    let stamp = pair.master.stamp();
    let outside = outsider(pair.master_dir.path());
    outside.execute_batch(sql).unwrap();
    drop(pair.master);
    outside.execute_batch(while_closed).unwrap();
    let options = Options { was_master: true, ..Options::default() };
    pair.master = Database::open(pair.master_dir.path(), options).unwrap();
    drop(outside);
    assert_eq!(pair.master.stamp(), stamp);
    (pair, stamp)
}

#[test]
fn write_that_nobody_has_numbered_outlives_the_master_if_it_reigns_again() {
    for (sql, while_closed) in [
        ("INSERT INTO t (a) VALUES ('dba'); INSERT INTO t (a) VALUES ('again')", ""),
        (
            "INSERT INTO t (a) VALUES ('dba'); CREATE TABLE more (x)",
            "INSERT INTO more VALUES (randomblob(90000))",
        ),
        // What was put into the file while nobody looked can't be told from what was there before.
        ("INSERT INTO t (a) VALUES ('dba')", "PRAGMA wal_checkpoint(PASSIVE)"),
        ("INSERT INTO t (a) VALUES ('dba')", "PRAGMA wal_checkpoint(TRUNCATE); CREATE TABLE more (x)"),
        ("INSERT INTO t (a) VALUES ('dba')", "PRAGMA wal_checkpoint(TRUNCATE)"),
    ] {
        let (mut pair, _) = reopened_with(sql, while_closed);
        assert!(pair.master.is_unnumbered(), "{while_closed}");
        assert!(!pair.master.checkpoint_due());
        pair.master.become_master().unwrap();
        let captured = pair.master.start_reign(Term(2), "pc-1", "re-elected").unwrap();
        if while_closed.contains("checkpoint") {
            assert_eq!(captured, [Captured::Break(pair.master.stamp())]);
            rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
        } else {
            let transactions: Vec<_> = captured.into_iter().map(transaction).collect();
            pair.backup.apply(&transactions).unwrap();
        }
        pair.assert_identical();
        assert_eq!(query(pair.backup_dir.path(), "SELECT count(*) FROM t WHERE a = 'dba'"), "1");
    }
}

#[test]
fn write_that_nobody_has_numbered_is_saved_when_another_reigns() {
    let (mut pair, _) = reopened_with("INSERT INTO t (a) VALUES ('dba')", "");
    pair.backup.become_master().unwrap();
    let next = transaction(common::commit(&mut pair.backup, "INSERT INTO t (a) VALUES ('next')"));
    assert!(matches!(pair.master.apply(&[next]), Err(StoreError::ForeignWrite { .. })));
    assert!(pair.master.is_diverged());
    let (rejoined, _) = rejoin(pair.backup_dir.path(), &mut pair.master).unwrap();
    assert!(rejoined.report.is_some());
    pair.assert_identical();
}

#[test]
fn own_transactions_are_never_taken_for_others() {
    let mut pair = filled();
    let empty = tempfile::TempDir::new().unwrap();
    for round in 0..12 {
        if round % 3 == 2 {
            pair.master.checkpoint_step().unwrap();
        }
        if round % 4 != 3 {
            pair.step("INSERT INTO t (a) VALUES (randomblob(30000))");
        }
        pair.master = Database::open(empty.path(), Options::default()).unwrap(); // closes the other
        let options = Options { was_master: true, ..Options::default() };
        pair.master = Database::open(pair.master_dir.path(), options).unwrap();
        assert!(!pair.master.is_unnumbered(), "round {round}");
        pair.master.become_master().unwrap();
    }
    pair.assert_identical();
}

/// A database from elsewhere may have what nobody can make here.
#[test]
fn triggers_and_keys_of_users_on_tanists_tables_make_no_term_impossible() {
    let mut pair = filled();
    drop(pair.master);
    Connection::open(pair.master_dir.path().join("state.db"))
        .unwrap()
        .execute_batch(
            "PRAGMA foreign_keys = 0; CREATE TABLE seen (event INTEGER REFERENCES tanist_events(number), term REFERENCES tanist_terms(nope) DEFERRABLE INITIALLY DEFERRED,
                 node REFERENCES tanist_nodes(id), token REFERENCES tanist_tokens(name) ON DELETE CASCADE);
             INSERT INTO seen (token) VALUES ('ui');
             CREATE TRIGGER sly AFTER INSERT ON tanist_terms BEGIN DELETE FROM seen; END;
             CREATE TRIGGER slyer BEFORE DELETE ON tanist_nodes BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
             CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p)",
        )
        .unwrap();
    tanist_store::forget_replica(pair.master_dir.path()).unwrap();
    pair.master = Database::open(pair.master_dir.path(), Options::default()).unwrap();
    pair.master.become_master().unwrap();
    pair.master.start_reign(Term(2), "pc-1", "re-elected").unwrap();
    let own = "INSERT INTO tanist_nodes (name) VALUES ('n9'); UPDATE tanist_nodes SET address = 'a'; \
        DELETE FROM tanist_tokens; DELETE FROM tanist_members; DELETE FROM tanist_nodes; DELETE FROM tanist_requests";
    let mut batch = pair.master.begin(Term(2)).unwrap();
    batch.change(|connection| connection.execute_batch(own)).unwrap().unwrap();
    // Users' own keys hold as before.
    let error = batch
        .request(|connection| connection.execute_batch("INSERT INTO c VALUES (5)"))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation));
    batch.commit().unwrap();
    assert_eq!(
        query(pair.master_dir.path(), "SELECT count(*) FROM seen"),
        "1",
        "nothing of the users' was run"
    );
    rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    pair.assert_identical();
}

#[test]
fn uncaptured_outside_write_makes_a_new_backup_ask_for_a_full_copy() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    outsider(pair.master_dir.path()).execute_batch("INSERT INTO t VALUES ('too late')").unwrap();
    assert!(matches!(pair.master.become_backup(), Err(StoreError::ForeignWrite { .. })));
    assert!(pair.master.is_diverged() && !pair.master.is_master());
    assert!(matches!(pair.master.apply(&[]), Err(StoreError::ForeignWrite { .. })));
    assert!(matches!(pair.master.become_master(), Err(StoreError::ForeignWrite { .. })));
    let (rejoined, _) = rejoin(pair.backup_dir.path(), &mut pair.master).unwrap();
    assert_eq!(rejoined.stamp, pair.backup.stamp());
    let report = rejoined.report.unwrap();
    let rows = std::fs::read_to_string(
        tanist_store::divergence_directory(pair.master_dir.path(), &report).join(tanist_store::ROWS_FILE),
    );
    assert!(rows.unwrap().contains("'too late'"), "what was written from outside is saved");
    assert!(!pair.master.is_diverged());
    pair.assert_identical();
    pair.master.become_master().unwrap();
    pair.step("INSERT INTO t VALUES (1)");
    pair.assert_identical();
}

#[test]
fn outside_write_too_large_to_carry_is_a_break_and_a_copy_mends_it() {
    let options = Options { max_transaction_bytes: 1 << 20, ..Options::default() };
    let mut pair = Pair::with(options);
    pair.step("CREATE TABLE t (a)");
    let outside = outsider(pair.master_dir.path());
    outside.execute_batch("INSERT INTO t VALUES (zeroblob(80000000))").unwrap();
    let captured = pair.master.begin(TERM).unwrap().commit().unwrap();
    assert_eq!(captured, Captured::Break(pair.master.stamp()));
    let (rejoined, traffic) = rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert_eq!((rejoined.stamp, rejoined.report), (pair.master.stamp(), None), "behind, not diverged");
    assert!(traffic.counts.received > 15_000, "{traffic:?}");
    pair.assert_identical();
    pair.step("UPDATE t SET a = 1");
    pair.assert_identical();
}

/// Rows enough that each of Tanist's tables and the users' has pages of its own.
const FILL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a);
    CREATE TABLE big (id INTEGER PRIMARY KEY, data BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO big(data) SELECT randomblob(900) FROM n";

const OWN_ROWS: &str = "INSERT INTO tanist_members (id, rank) VALUES ('pc-1', 1), ('pc-2', 2);
    INSERT INTO tanist_nodes (name) VALUES ('n1'), ('n2');
    INSERT INTO tanist_config (key, value) VALUES ('wall/title', '\"Hall 1\"');
    INSERT INTO tanist_commands (name, nodes) VALUES ('restart', '[\"n1\"]');
    INSERT INTO tanist_tokens (name, role, hash) VALUES ('ui', 'read', zeroblob(32));
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO tanist_requests (token, key, fingerprint, answer, served_ms) SELECT '', 'key-' || i, zeroblob(32), zeroblob(200), i FROM n";

fn filled() -> Pair {
    let mut pair = Pair::new();
    pair.step(FILL);
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.internal(|connection| connection.execute_batch(OWN_ROWS)).unwrap().unwrap();
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair
}

#[test]
fn what_people_do_to_their_own_tables_and_to_the_state_is_adopted() {
    let mut pair = filled();
    let allowed = [
        "UPDATE t SET a = 5; INSERT INTO t VALUES (1, 2)",
        "DELETE FROM big WHERE id % 3 = 0",
        "CREATE TABLE events (number INTEGER PRIMARY KEY); DROP TABLE IF EXISTS config; CREATE TABLE config (a)",
        "ALTER TABLE t ADD COLUMN b REFERENCES big (id); CREATE INDEX t_b ON t (b)",
        "CREATE VIEW v AS SELECT * FROM t; CREATE TRIGGER tt AFTER INSERT ON t BEGIN DELETE FROM big WHERE id = new.id; END",
        "PRAGMA user_version = 3; PRAGMA application_id = 9",
        "UPDATE tanist_config SET value = '\"Hall 2\"' WHERE key = 'wall/title'",
        "INSERT INTO tanist_commands (name, nodes) VALUES ('restart', '[\"n1\"]')",
        "DELETE FROM tanist_config_history; DELETE FROM tanist_commands",
        "DELETE FROM tanist_nodes WHERE name = 'n2'",
        "BEGIN; INSERT INTO tanist_actor VALUES (1, 'anna'); INSERT INTO tanist_nodes (name) VALUES ('n3'); DELETE FROM tanist_actor; COMMIT",
        "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('one two')",
        "INSERT INTO t (id, a) VALUES (77, zeroblob(900000)); UPDATE t SET a = randomblob(900000) WHERE id = 77; DELETE FROM t WHERE id = 77",
        "ANALYZE; REINDEX",
        "VACUUM",
        "DROP TABLE config; DROP TABLE f",
        "VACUUM",
    ];
    for sql in allowed {
        outsider(pair.master_dir.path()).execute_batch(sql).expect(sql);
        adopt(&mut pair);
        pair.assert_identical();
    }
    // And over several commits, with the master's own between them and the WAL started over.
    for round in 0..30 {
        outsider(pair.master_dir.path())
            .execute_batch("INSERT INTO t (a) VALUES (randomblob(5000))")
            .unwrap();
        pair.step("INSERT INTO t (a) VALUES (randomblob(3000))");
        if round % 3 == 0 {
            pair.master.checkpoint_step().unwrap();
        }
    }
    pair.assert_identical();
}

/// A page of a table, by its place among the leaves.
fn leaf(pair: &Pair, table: &str) -> String {
    query(
        pair.master_dir.path(),
        &format!(
            "SELECT pageno FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf' ORDER BY pageno LIMIT 1 OFFSET 2"
        ),
    )
}

#[test]
fn what_touches_tanists_own_is_not_numbered_and_is_saved_when_it_is_replaced() {
    let pages = filled();
    let (broken, own) = (leaf(&pages, "big"), leaf(&pages, "tanist_requests"));
    drop(pages);
    let refused = [
        ("DROP TABLE IF EXISTS tanist_events; CREATE TABLE tanist_events (id)", "tables, views or triggers"),
        ("DROP TRIGGER tanist_config_changed", "tables, views or triggers"),
        ("CREATE TRIGGER sly AFTER INSERT ON tanist_nodes BEGIN SELECT 1; END", "tables, views or triggers"),
        ("CREATE TABLE tanist_mine (a)", "tables, views or triggers"),
        ("ALTER TABLE t RENAME TO tanist_t", "tables, views or triggers"),
        ("CREATE INDEX mine ON tanist_tokens (role)", "tables, views or triggers"),
        ("ALTER TABLE tanist_nodes ADD COLUMN mine TEXT", "tables, views or triggers"),
        ("UPDATE tanist_position SET txid = txid + 1", "tanist_position"),
        ("UPDATE tanist_position SET chain = zeroblob(16)", "tanist_position"),
        ("DELETE FROM tanist_members", "tanist_members"),
        ("UPDATE tanist_terms SET master = 'me'", "tanist_terms"),
        ("DELETE FROM tanist_schema", "tanist_schema"),
        ("UPDATE tanist_tokens SET role = 'admin'", "tanist_tokens"),
        ("DELETE FROM tanist_requests WHERE key = 'key-200'", "tanist_requests"),
        ("UPDATE tanist_events SET kind = 'config' WHERE id = 1", "tanist_events"),
        ("DELETE FROM tanist_events WHERE id = (SELECT max(id) FROM tanist_events)", "tanist_events"),
        ("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'tanist_events'", "numbers of tanist_events"),
        ("DELETE FROM sqlite_sequence WHERE name = 'tanist_commands'", "numbers of tanist_commands"),
        ("CREATE TABLE seen (event REFERENCES tanist_events (number))", "foreign key of table seen"),
        ("PRAGMA ignore_check_constraints = 1; UPDATE tanist_config SET value = 'no json'", ""),
        (
            "PRAGMA ignore_check_constraints = 1; UPDATE tanist_nodes SET labels = '5'",
            "rules of tanist_nodes",
        ),
        (
            "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (id = 1)', '') WHERE name = 'tanist_position'",
            "tables, views or triggers",
        ),
        (&format!("UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = {broken}"), "damaged page"),
        (&format!("UPDATE sqlite_dbpage SET data = randomblob(4096) WHERE pgno = {broken}"), "damaged page"),
        (&format!("UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = {own}"), "damaged"),
    ];
    for (sql, why) in refused {
        let mut pair = filled();
        let stamp = pair.master.stamp();
        if outsider(pair.master_dir.path()).execute_batch(sql).is_err() {
            assert_eq!(why, "", "{sql}: SQLite itself refuses it");
            continue;
        }
        for _ in 0..2 {
            let error = pair.master.begin(TERM).expect_err(sql);
            assert!(matches!(error, StoreError::OutsideWrite { .. }), "{sql}: {error}");
            assert!(error.to_string().contains(why), "{sql}: {error}");
        }
        assert_eq!(pair.master.stamp(), stamp);
        // Another becomes the master; this one is brought in line, and what was written is kept.
        assert!(matches!(pair.master.become_backup(), Err(StoreError::ForeignWrite { .. })), "{sql}");
        pair.backup.become_master().unwrap();
        let (rejoined, _) = rejoin(pair.backup_dir.path(), &mut pair.master).expect(sql);
        assert!(rejoined.report.is_some(), "{sql}");
        pair.assert_identical();
    }
}

#[test]
fn refused_write_that_is_undone_costs_nothing() {
    let mut pair = filled();
    let outside = outsider(pair.master_dir.path());
    let sql = "DELETE FROM tanist_members WHERE id = 'pc-2'; INSERT INTO t VALUES (5, 'kept')";
    outside.execute_batch(sql).unwrap();
    let error = pair.master.begin(TERM).unwrap_err();
    assert!(error.to_string().contains("tanist_members"), "{error}");
    outside.execute_batch("INSERT INTO tanist_members (id, rank) VALUES ('pc-2', 2)").unwrap();
    adopt(&mut pair);
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT a FROM t WHERE id = 5"), "kept");
}

#[test]
fn database_is_send() {
    fn send<T: Send>() {}
    send::<Database>();
    send::<CopyOut>();
    send::<tanist_store::Checkpointer>();
    send::<tanist_store::Reader>();
    send::<tanist_store::WalSync>();
}
