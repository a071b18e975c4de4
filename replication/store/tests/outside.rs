//! Other processes: writes on the master are adopted, on a backup refused; their checkpoints lose nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM, exchange::rejoin, outsider, query, shell, transaction};
use rusqlite::ErrorCode;
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
    assert!(matches!(pair.master.become_backup(), Err(StoreError::Busy { .. })));
    assert!(pair.master.is_master());
    outside.execute_batch("COMMIT").unwrap();
    adopt(&mut pair);
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

#[test]
fn database_is_send() {
    fn send<T: Send>() {}
    send::<Database>();
    send::<CopyOut>();
    send::<tanist_store::Checkpointer>();
    send::<tanist_store::Reader>();
    send::<tanist_store::WalSync>();
}
