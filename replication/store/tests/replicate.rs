//! Whatever a master commits, its backup holds the same pages.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM, commit, new_master, query, shell, transaction};
use rusqlite::params;
use tanist_replication::{Encoding, Position, Term, Transaction};
use tanist_store::{Captured, Database, Options};
use tempfile::TempDir;

fn small_wal() -> Options {
    Options { wal_limit_bytes: 64 << 10, ..Options::default() }
}

const WORK: &[&str] = &[
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB)",
    "INSERT INTO item VALUES (1, 'one', zeroblob(10)), (2, 'two', zeroblob(9000))",
    "WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i+1 FROM n WHERE i < 2000) \
     INSERT INTO item SELECT i, 'name ' || i, randomblob(300) FROM n",
    "CREATE INDEX item_by_data ON item (data)",
    "UPDATE item SET data = randomblob(200) WHERE id % 7 = 0",
    "DELETE FROM item WHERE id % 3 = 0",
    "CREATE VIRTUAL TABLE doc USING fts5(title, body)",
    "INSERT INTO doc SELECT name, hex(data) FROM item WHERE id < 300",
    "DELETE FROM doc WHERE rowid % 2 = 0",
    "INSERT INTO doc(doc) VALUES ('optimize')",
    "CREATE VIRTUAL TABLE box USING rtree(id, x0, x1)",
    "INSERT INTO box VALUES (1, 0, 5), (2, 3, 8)",
    "CREATE TABLE big (data BLOB)",
    "INSERT INTO big VALUES (randomblob(3000000))",
    "DELETE FROM big",
    "ALTER TABLE item ADD COLUMN note TEXT DEFAULT 'none'",
    "CREATE VIEW item_view AS SELECT id, name FROM item",
    "CREATE TABLE log (id INTEGER, at TEXT); CREATE TRIGGER item_log AFTER DELETE ON item \
     BEGIN INSERT INTO log VALUES (old.id, 'now'); END",
    "DELETE FROM item WHERE id BETWEEN 100 AND 400",
    "ANALYZE",
    "REINDEX item_by_data",
    "DROP INDEX item_by_data",
    "DROP TABLE doc",
    "DROP TABLE item",
    "DROP TABLE big",
    "CREATE TABLE again (a, b); INSERT INTO again VALUES (1, 2)",
];

#[test]
fn backup_is_identical_through_all_kinds_of_statements() {
    let mut pair = Pair::new();
    for sql in WORK {
        pair.step(sql);
        pair.assert_identical();
    }
}

#[test]
fn backup_is_identical_when_transactions_are_merged() {
    let mut pair = Pair::new();
    let transactions: Vec<Transaction> = WORK.iter().map(|sql| pair.commit(sql)).collect();
    for part in transactions.chunks(7) {
        pair.backup.apply(part).unwrap();
    }
    pair.assert_identical();
}

#[test]
fn backup_is_identical_in_every_vacuum_mode_through_wal_restarts() {
    for mode in [0, 1, 2] {
        let (master_dir, backup_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        for dir in [&master_dir, &backup_dir] {
            let connection = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
            connection.pragma_update(None, "auto_vacuum", mode).unwrap();
            connection.execute_batch("CREATE TABLE t (a); DROP TABLE t").unwrap();
        }
        let (master, first) = new_master(master_dir.path(), small_wal());
        let mut backup = Database::open(backup_dir.path(), small_wal()).unwrap();
        backup.apply(&first).unwrap();
        let mut pair = Pair { master_dir, backup_dir, master, backup };
        for sql in WORK {
            pair.step(sql);
            pair.assert_identical();
            if pair.master.checkpoint_due() {
                assert!(pair.master.checkpoint_step().unwrap().is_complete());
            }
            if pair.backup.checkpoint_due() {
                assert!(pair.backup.checkpoint_step().unwrap().is_complete());
            }
            if mode == 2 {
                // Incremental vacuum is an operation of the server: users may not.
                let mut batch = pair.master.begin(TERM).unwrap();
                batch
                    .internal(|connection| connection.execute_batch("PRAGMA incremental_vacuum"))
                    .unwrap()
                    .unwrap();
                if let Captured::Transaction(transaction) = batch.commit().unwrap() {
                    pair.backup.apply(&[transaction]).unwrap();
                }
                pair.assert_identical();
            }
        }
        assert_eq!(query(pair.backup_dir.path(), "PRAGMA auto_vacuum"), mode.to_string());
    }
}

#[test]
fn vacuum_and_change_of_vacuum_mode_from_outside_are_replicated() {
    let mut pair = Pair::new();
    pair.step(WORK[0]);
    pair.step(WORK[2]);
    for (mode, change) in [
        (1, "DELETE FROM item WHERE id % 5 = 0"),
        (0, "DELETE FROM item WHERE id < 900"),
        (2, "DELETE FROM item WHERE id < 1500"),
        (1, "UPDATE item SET data = NULL"),
        (0, "DELETE FROM item"),
    ] {
        let outside = common::outsider(pair.master_dir.path());
        outside.execute_batch(&format!("PRAGMA auto_vacuum = {mode}; VACUUM")).unwrap();
        drop(outside);
        assert!(pair.master.outside_change().unwrap());
        // Merged with a change that leaves free pages behind.
        let first = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
        let second = pair.commit(change);
        pair.backup.apply(&[first, second]).unwrap();
        pair.assert_identical();
        assert_eq!(query(pair.backup_dir.path(), "PRAGMA auto_vacuum"), mode.to_string());
        pair.step("INSERT INTO item (name, data) VALUES (hex(randomblob(8)), randomblob(20000))");
        pair.assert_identical();
    }
}

#[test]
fn transaction_larger_than_the_cache_is_identical() {
    let options = Options { page_cache_bytes: 256 << 10, ..Options::default() };
    let mut pair = Pair::with(options);
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 4000) \
                INSERT INTO t SELECT i, randomblob(1000) FROM n";
    let filled = pair.step(fill);
    assert!(filled.plain_len > 4_000_000, "{}", filled.plain_len);
    pair.assert_identical();
    pair.step("UPDATE t SET data = zeroblob(900)");
    pair.assert_identical();
    // Spilled, then undone: its frames must not be captured.
    let mut batch = pair.master.begin(TERM).unwrap();
    batch
        .request(|connection| {
            connection
                .execute_batch("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET data = randomblob(900)")?;
            Err::<(), _>(rusqlite::Error::QueryReturnedNoRows)
        })
        .unwrap()
        .unwrap_err();
    batch.request(|connection| connection.execute("DELETE FROM t WHERE id = 1", [])).unwrap().unwrap();
    let small = transaction(batch.commit().unwrap());
    assert!(small.plain_len < 100_000, "{}", small.plain_len);
    pair.backup.apply(&[small]).unwrap();
    pair.assert_identical();
}

#[test]
fn compressible_payload_is_compressed_and_random_one_is_not() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (data)");
    assert_eq!(pair.step("INSERT INTO t VALUES (zeroblob(100000))").encoding, Encoding::Zstd);
    assert_eq!(pair.step("INSERT INTO t VALUES (randomblob(100000))").encoding, Encoding::Plain);
    assert_eq!(pair.step("INSERT INTO t VALUES (1)").encoding, Encoding::Plain);
    pair.assert_identical();
}

#[test]
fn first_transaction_holds_schema_and_reign_and_every_page() {
    let (master_dir, backup_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // A database that was there before, with content no transaction has carried.
    let before = rusqlite::Connection::open(master_dir.path().join("state.db")).unwrap();
    before.execute_batch("CREATE TABLE old (a); INSERT INTO old VALUES (zeroblob(50000))").unwrap();
    drop(before);
    let (master, first) = new_master(master_dir.path(), Options::default());
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].stamp.position, Position::new(1, 1));
    assert_eq!(master.history().term_of(first[0].stamp.position.txid), Some(Term(1)));
    let mut backup = Database::open(backup_dir.path(), Options::default()).unwrap();
    let applied = backup.apply(&first).unwrap();
    assert!(applied.history_changed);
    assert_eq!(backup.history(), master.history());
    let pair = Pair { master_dir, backup_dir, master, backup };
    pair.assert_identical();
    assert_eq!(query(pair.backup_dir.path(), "SELECT length(a) FROM old"), "50000");
    assert_eq!(query(pair.backup_dir.path(), "SELECT reason FROM tanist_terms"), "first start");
}

#[test]
fn backup_becomes_master_and_the_old_master_follows() {
    let mut pair = Pair::new();
    pair.step(WORK[0]);
    pair.step(WORK[2]);
    pair.master.become_backup().unwrap();
    pair.backup.become_master().unwrap();
    std::mem::swap(&mut pair.master, &mut pair.backup);
    std::mem::swap(&mut pair.master_dir, &mut pair.backup_dir);
    assert!(pair.master.start_reign(TERM, "pc-2", "same term").is_err());
    let reign = pair.master.start_reign(Term(3), "pc-2", "handover").unwrap();
    let transactions: Vec<_> = reign.into_iter().map(transaction).collect();
    assert_eq!(transactions.len(), 1);
    let applied = pair.backup.apply(&transactions).unwrap();
    assert!(applied.history_changed);
    assert_eq!(pair.backup.history(), pair.master.history());
    assert_eq!(pair.backup.history().last().map(|reign| reign.term), Some(Term(3)));
    let mut batch = pair.master.begin(Term(3)).unwrap();
    batch.request(|connection| connection.execute("DELETE FROM item WHERE id < 50", [])).unwrap().unwrap();
    pair.backup.apply(&[transaction(batch.commit().unwrap())]).unwrap();
    pair.assert_identical();
}

#[test]
fn replicas_stand_where_they_were_after_reopening() {
    let mut pair = Pair::new();
    pair.step(WORK[0]);
    pair.step(WORK[1]);
    let Pair { master_dir, backup_dir, master, backup } = pair;
    let stamp = master.stamp();
    drop((master, backup));
    let mut master = Database::open(master_dir.path(), Options::default()).unwrap();
    let backup = Database::open(backup_dir.path(), Options::default()).unwrap();
    assert_eq!(master.stamp(), stamp);
    assert_eq!(backup.stamp(), stamp);
    assert_eq!(master.history(), backup.history());
    master.become_master().unwrap();
    let mut pair = Pair { master_dir, backup_dir, master, backup };
    pair.step("DELETE FROM item");
    pair.assert_identical();
}

#[test]
fn empty_batch_leaves_no_trace() {
    let mut pair = Pair::new();
    pair.step(WORK[0]);
    let stamp = pair.master.stamp();
    let wal = pair.master.wal_bytes();
    assert_eq!(pair.master.begin(TERM).unwrap().commit().unwrap(), Captured::Nothing);
    assert_eq!(commit(&mut pair.master, "DELETE FROM item WHERE id = 77; SELECT 1"), Captured::Nothing);
    let mut batch = pair.master.begin(TERM).unwrap();
    let failed = batch.request(|connection| {
        connection.execute("INSERT INTO item (id) VALUES (5)", [])?;
        connection.execute("INSERT INTO nowhere VALUES (5)", [])
    });
    failed.unwrap().unwrap_err();
    assert_eq!(batch.commit().unwrap(), Captured::Nothing);
    assert_eq!((pair.master.stamp(), pair.master.wal_bytes()), (stamp, wal));
    // Neither DDL nor a change without a changed row is taken for nothing.
    pair.step("CREATE VIEW v AS SELECT 1");
    pair.step("REINDEX");
    pair.assert_identical();
}

#[test]
fn random_work_is_identical_with_merging_and_checkpoints() {
    let mut pair = Pair::with(Options { page_cache_bytes: 128 << 10, ..small_wal() });
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB); CREATE INDEX i ON t (data)");
    let mut seed = 7u64;
    let mut random = move |bound: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % bound
    };
    let mut waiting = Vec::new();
    for round in 0..600 {
        let (id, size) = (random(400) as i64, random(if round % 50 == 0 { 200_000 } else { 900 }) as i64);
        let kind = random(10);
        let mut batch = pair.master.begin(TERM).unwrap();
        for offset in 0..random(4) as i64 + 1 {
            let write = |connection: &rusqlite::Connection| match kind {
                0..=5 => connection.execute(
                    "INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2))",
                    params![id + offset, size],
                ),
                6 => connection
                    .execute("UPDATE t SET data = zeroblob(?2) WHERE id > ?1", params![id, size % 300]),
                7 | 8 => connection
                    .execute("DELETE FROM t WHERE id BETWEEN ?1 AND ?1 + ?2", params![id, size % 40]),
                _ => connection.execute_batch("DROP INDEX i; CREATE INDEX i ON t (data)").map(|()| 0),
            };
            batch.request(write).unwrap().unwrap();
        }
        if let Captured::Transaction(transaction) = batch.commit().unwrap() {
            waiting.push(transaction);
        }
        if random(3) == 0 {
            pair.backup.apply(&waiting).unwrap();
            waiting.clear();
        }
        if pair.master.checkpoint_due() {
            pair.master.checkpoint_step().unwrap();
        }
        if pair.backup.checkpoint_due() && random(2) == 0 {
            pair.backup.checkpoint_step().unwrap();
        }
        if round % 60 == 59 {
            pair.backup.apply(&waiting).unwrap();
            waiting.clear();
            pair.assert_identical();
        }
    }
}

#[test]
fn stock_shell_sees_whole_transactions_only() {
    let mut pair = Pair::with(small_wal());
    pair.step("CREATE TABLE pair (id INTEGER PRIMARY KEY, a, b)");
    pair.step("INSERT INTO pair SELECT value, 0, 0 FROM json_each('[1,2,3]')");
    for round in 1..=30 {
        pair.step(&format!(
            "UPDATE pair SET a = {round}, b = {round}; INSERT INTO pair SELECT NULL, {round}, {round} FROM pair LIMIT 50"
        ));
        if pair.backup.checkpoint_due() {
            pair.backup.checkpoint_step().unwrap();
        }
        let sql = "SELECT count(DISTINCT a) = 1 AND min(a) = max(b) FROM pair WHERE id <= 3";
        for dir in [pair.master_dir.path(), pair.backup_dir.path()] {
            let Some((worked, answer)) = shell(dir, &["-readonly"], sql) else { return };
            assert!(worked && answer == "1", "{answer}");
        }
    }
    pair.assert_identical();
}
