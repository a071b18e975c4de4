//! The WAL stays bounded.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM, commit, query, reader, transaction};
use rusqlite::params;
use tanist_store::Options;

#[test]
fn wal_stays_bounded_under_many_small_transactions() {
    let options = Options { wal_limit_bytes: 1 << 20, ..Options::default() };
    let mut pair = Pair::with(options);
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    let mut background = pair.master.background_checkpointer().unwrap();
    let (mut largest, mut steps, mut waiting) = (0, 0, Vec::new());
    for n in 0..20_000 {
        let mut batch = pair.master.begin(TERM).unwrap();
        batch
            .request(|c| {
                c.prepare_cached("INSERT OR REPLACE INTO t VALUES (?1, ?2)")?
                    .execute(params![n % 500, "x".repeat(50)])
            })
            .unwrap()
            .unwrap();
        waiting.push(transaction(batch.commit().unwrap()));
        if pair.master.checkpoint_due() {
            background.passive().unwrap();
            assert!(pair.master.checkpoint_step().unwrap().is_complete());
            steps += 1;
        }
        if waiting.len() == 20 {
            pair.backup.apply(&waiting).unwrap();
            waiting.clear();
        }
        largest = largest.max(pair.master.wal_bytes()).max(pair.backup.wal_bytes());
    }
    assert!(steps > 100, "{steps}");
    // The backup wasn't told to checkpoint: it does so by itself at twice the limit.
    assert!(largest < 3 << 20, "{largest}");
    for dir in [pair.master_dir.path(), pair.backup_dir.path()] {
        assert!(std::fs::metadata(dir.join("state.db-wal")).unwrap().len() < 3 << 20);
    }
    pair.assert_identical();
}

#[test]
fn reader_that_stays_keeps_the_wal_growing_and_is_reported() {
    let options = Options { wal_limit_bytes: 64 << 10, ..Options::default() };
    let mut pair = Pair::with(options);
    pair.step("CREATE TABLE t (a)");
    let stays = reader(pair.master_dir.path());
    stays.execute_batch("BEGIN").unwrap();
    stays.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    let mut busy = 0;
    for _ in 0..40 {
        pair.step("INSERT INTO t VALUES (randomblob(8000))");
        if pair.master.checkpoint_due() {
            let outcome = pair.master.checkpoint_step().unwrap();
            assert!(outcome.is_busy() && !outcome.is_complete());
            assert!(!pair.master.checkpoint_due(), "tried again only after more has been written");
            busy += 1;
        }
    }
    assert!(busy > 3);
    assert!(pair.master.wal_bytes() > 300 << 10);
    stays.execute_batch("COMMIT").unwrap();
    pair.step("INSERT INTO t VALUES (1)");
    assert!(pair.master.checkpoint_step().unwrap().is_complete());
    pair.step("INSERT INTO t VALUES (2)");
    assert!(pair.master.wal_bytes() < 64 << 10);
    pair.assert_identical();
}

#[test]
fn checkpoint_waits_for_the_capture_of_outside_writes() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    common::outsider(pair.master_dir.path()).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let outcome = pair.master.checkpoint_step().unwrap();
    assert!(outcome.uncaptured && !outcome.is_busy());
    pair.step("INSERT INTO t VALUES (2)");
    assert!(pair.master.checkpoint_step().unwrap().is_complete());
    pair.assert_identical();
}

#[test]
fn wal_sync_works_from_another_thread() {
    let mut pair = Pair::new();
    let sync = pair.master.wal_sync().unwrap();
    std::thread::spawn(move || sync.sync()).join().unwrap().unwrap();
    commit(&mut pair.master, "CREATE TABLE t (a)");
    pair.master.wal_sync().unwrap().sync().unwrap();
    assert_eq!(query(pair.master_dir.path(), "SELECT count(*) FROM t"), "0");
}
