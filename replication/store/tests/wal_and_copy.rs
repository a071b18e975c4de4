//! The WAL stays bounded, and full copies are taken from and put into living databases.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM, commit, query, reader, transaction};
use rusqlite::params;
use tanist_store::{CopyOut, Database, Options, StoreError, database_checksum};

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

fn fill(pair: &mut Pair) {
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE INDEX t_a ON t (a)");
    pair.step(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000) \
         INSERT INTO t SELECT i, randomblob(700) FROM n",
    );
}

#[test]
fn full_copy_from_a_live_master_is_followed_by_streaming() {
    let options =
        Options { page_cache_bytes: 128 << 10, max_transaction_bytes: 64 << 20, ..Options::default() };
    let mut pair = Pair::with(options.clone());
    fill(&mut pair);
    let dir = tempfile::TempDir::new().unwrap();
    let mut fresh = Database::open(dir.path(), options).unwrap();
    // It held something else, larger than what comes.
    let mut other = Pair::new();
    fill(&mut other);
    let big = other.step("INSERT INTO t VALUES (NULL, zeroblob(3000000))");
    assert!(fresh.apply(&[big]).is_err());
    let mut out = CopyOut::open(other.master_dir.path()).unwrap();
    copy_in(&mut out, &mut fresh, 64, || {});

    let mut out = CopyOut::open(pair.master_dir.path()).unwrap();
    let held = reader(dir.path());
    let before = held.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    let mut meanwhile = Vec::new();
    let checksum = database_checksum(pair.master_dir.path()).unwrap();
    copy_in(&mut out, &mut fresh, 50, || {
        // Readers keep the old state; the master goes on.
        assert_eq!(held.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), before);
        meanwhile.push(pair.step("UPDATE t SET a = randomblob(700) WHERE id % 50 = 1"));
    });
    assert_eq!(database_checksum(dir.path()).unwrap(), checksum);
    assert_eq!(fresh.history(), pair.master.history());
    assert!(meanwhile.len() > 5);
    drop(out);
    fresh.apply(&meanwhile).unwrap();
    pair.backup = fresh;
    pair.backup_dir = dir;
    pair.assert_identical();
    pair.step("DELETE FROM t WHERE id > 100");
    pair.assert_identical();
}

fn copy_in(out: &mut CopyOut, backup: &mut Database, chunk_pages: u32, mut each: impl FnMut()) {
    let (stamp, pages) = (out.stamp(), out.pages());
    let mut copy = backup.begin_copy(out.page_size()).unwrap();
    while let Some(chunk) = out.next_chunk(chunk_pages).unwrap() {
        copy.chunk(chunk).unwrap();
        each();
    }
    assert_eq!(copy.finish(pages, stamp).unwrap(), stamp);
}

#[test]
fn copy_given_up_or_incomplete_changes_nothing() {
    let options =
        Options { page_cache_bytes: 128 << 10, max_transaction_bytes: 64 << 20, ..Options::default() };
    let mut pair = Pair::with(options);
    fill(&mut pair);
    let mut other = Pair::new();
    fill(&mut other);
    let stamp = pair.backup.stamp();
    for give_up in [true, false] {
        let mut out = CopyOut::open(other.master_dir.path()).unwrap();
        let (pages, their_stamp) = (out.pages(), out.stamp());
        let mut copy = pair.backup.begin_copy(4096).unwrap();
        while let Some(chunk) = out.next_chunk(100).unwrap() {
            if !give_up || out.pages() > 300 {
                copy.chunk(chunk).unwrap();
            }
        }
        if give_up {
            drop(copy);
        } else {
            assert!(matches!(copy.finish(pages + 1, their_stamp), Err(StoreError::CopyPage { .. })));
        }
        assert_eq!(pair.backup.stamp(), stamp);
        pair.assert_identical();
    }
    let mut copy = pair.backup.begin_copy(4096).unwrap();
    assert!(copy.page(0, &[0; 4096]).is_err());
    assert!(copy.page(3, &[0; 512]).is_err());
    drop(copy);
    assert!(matches!(pair.backup.begin_copy(512), Err(StoreError::PageSize { .. })));
    pair.step("DELETE FROM t");
    pair.assert_identical();
}

#[test]
fn copy_with_another_position_than_announced_is_reported() {
    let mut pair = Pair::new();
    fill(&mut pair);
    let mut out = CopyOut::open(pair.master_dir.path()).unwrap();
    let mut copy = pair.backup.begin_copy(4096).unwrap();
    while let Some(chunk) = out.next_chunk(100).unwrap() {
        copy.chunk(chunk).unwrap();
    }
    let error = copy.finish(out.pages(), tanist_replication::Stamp::default()).unwrap_err();
    assert!(matches!(error, StoreError::CopyStamp { .. }) && error.needs_copy());
    assert_eq!(pair.backup.stamp(), out.stamp());
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
