//! Pages that change by themselves are found and replaced, and what was written in the ordinary way never is.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // clippy knows test functions, but not their helpers

mod common;

use std::{path::Path, process::Command, sync::Arc};

use common::{exchange::rejoin, *};
use tanist_store::{Database, Options, PAGE_SIZE, Reader, Scrub, Snapshot, StoreError, open_reader};

/// Changes some bytes of a page in the file, as a failing disk would. Another process does it: closing the file in this
/// one would end SQLite's locks.
fn rot(dir: &Path, page: u32) {
    let at = (page - 1) * PAGE_SIZE + 2000;
    let file = dir.join("state.db");
    let script =
        format!("printf rotten | dd of='{}' bs=1 seek={at} conv=notrunc status=none", file.display());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

/// Brings everything from the WAL into the database file.
fn checkpoint(database: &mut Database) {
    for _ in 0..100 {
        if database.checkpoint_step().unwrap().is_complete() {
            return;
        }
    }
    panic!("the checkpoint doesn't come to an end");
}

fn round(scrub: &mut Scrub) -> Vec<u32> {
    let mut wrong = vec![];
    loop {
        let step = scrub.step(16).unwrap();
        wrong.extend(step.wrong);
        if step.round {
            return wrong;
        }
    }
}

const NONE: [u32; 0] = [];
const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO t(data) SELECT randomblob(1500) FROM n";

#[test]
fn rotten_page_of_a_backup_is_found_and_replaced_from_the_master() {
    let mut pair = Pair::new();
    pair.step(FILL);
    checkpoint(&mut pair.backup);
    let mut scrub = Scrub::open(pair.backup_dir.path(), pair.backup.sums()).unwrap();
    assert_eq!(round(&mut scrub), NONE);
    rot(pair.backup_dir.path(), 60);
    assert_eq!(round(&mut scrub), [60]);
    assert!(scrub.is_wrong(60).unwrap() && !scrub.is_wrong(61).unwrap());
    pair.backup.distrust();
    let (_, traffic) = rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert_eq!(traffic.counts.received, 1);
    checkpoint(&mut pair.backup);
    assert_eq!(round(&mut scrub), NONE);
    pair.assert_identical();
    pair.step("DELETE FROM t WHERE id < 100");
    pair.assert_identical();
}

#[test]
fn page_that_rotted_before_anybody_had_read_it_shows_in_the_sum_of_the_whole() {
    let mut pair = Pair::new();
    pair.step(FILL);
    checkpoint(&mut pair.backup);
    // The WAL starts over, so that after reopening the pages come from the file.
    pair.step("DELETE FROM t WHERE id = 1");
    let sum = pair.master.sums().newest().unwrap();
    assert_eq!(pair.backup.sums().newest(), Some(sum), "all was written since the start");
    let dir = pair.backup_dir;
    drop(pair.backup);
    rot(dir.path(), 60);
    let backup = Database::open(dir.path(), Options::default()).unwrap();
    assert_eq!(backup.sums().newest(), None, "nobody has read the pages yet");
    let mut scrub = Scrub::open(dir.path(), backup.sums()).unwrap();
    assert_eq!(round(&mut scrub), NONE, "there is nothing to compare them with");
    let (position, whole) = backup.sums().newest().unwrap();
    assert_eq!(position, sum.0);
    assert_ne!(whole, sum.1);
}

/// Nobody knows what a page should be that somebody else has written, before it is adopted.
#[test]
fn write_from_outside_is_no_rot_and_no_snapshot_with_a_number_holds_it() {
    let mut pair = Pair::new();
    pair.step(FILL);
    let sums = pair.master.sums();
    let mut scrub = Scrub::open(pair.master_dir.path(), Arc::clone(&sums)).unwrap();
    let mut reader = open_reader(pair.master_dir.path(), 64 << 10, Some(Arc::clone(&sums))).unwrap();
    assert_eq!(round(&mut scrub), NONE);
    let outside = outsider(pair.master_dir.path());
    for n in 0..5 {
        outside.execute("UPDATE t SET data = randomblob(1500) WHERE id % 5 = ?1", [n]).unwrap();
        assert_eq!(round(&mut scrub), NONE, "it isn't judged");
        reader
            .snapshot(|db, _| db.query_row("SELECT sum(length(data)) FROM t", [], |row| row.get::<_, i64>(0)))
            .unwrap()
            .unwrap();
    }
    // Whoever wants a numbered state gets it when the write is adopted.
    let dir = pair.master_dir.path().to_owned();
    let waiting = std::thread::spawn(move || Snapshot::open_numbered(&dir, &sums).unwrap().target().stamp);
    let adopted = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
    assert_eq!(waiting.join().unwrap(), adopted.stamp);
    pair.backup.apply(&[adopted]).unwrap();
    assert_eq!(round(&mut scrub), NONE);
    pair.assert_identical();
    checkpoint(&mut pair.master);
    pair.step("DELETE FROM t WHERE id = 1"); // the WAL starts over: the other pages come from the file
    rot(pair.master_dir.path(), 60);
    assert_eq!(round(&mut scrub), [60], "what has a number is judged again");
}

#[test]
fn ordinary_writes_are_never_taken_for_rot_and_replicas_have_the_same_sums() {
    let mut pair = Pair::new();
    pair.step(FILL);
    let mut scrubs = [
        Scrub::open(pair.master_dir.path(), pair.master.sums()).unwrap(),
        Scrub::open(pair.backup_dir.path(), pair.backup.sums()).unwrap(),
    ];
    for i in 0..120 {
        let sql = match i % 4 {
            0 => format!("UPDATE t SET data = randomblob({}) WHERE id % 7 = {}", 500 + 40 * i, i % 7),
            1 => format!("DELETE FROM t WHERE id % 11 = {}", i % 11),
            2 => "INSERT INTO t(data) SELECT randomblob(900) FROM t LIMIT 30".to_owned(),
            _ => format!("CREATE TABLE u{i} AS SELECT * FROM t LIMIT 5"),
        };
        pair.step(&sql);
        for scrub in &mut scrubs {
            assert_eq!(scrub.step(7).unwrap().wrong, NONE);
        }
        if i % 10 == 0 {
            checkpoint(&mut pair.master);
            checkpoint(&mut pair.backup);
        }
        let (position, sum) = pair.backup.sums().newest().unwrap();
        assert_eq!(pair.master.sums().at(position), Some(sum));
    }
    for scrub in &mut scrubs {
        assert_eq!(round(scrub), NONE);
    }
    pair.assert_identical();
}

/// What a user's query over all rows gives.
fn total(reader: &mut Reader) -> Result<i64, StoreError> {
    let sql = "SELECT total(length(data)) + total(id) FROM t";
    let read = reader.snapshot(|connection, _| connection.query_row(sql, [], |row| row.get::<_, f64>(0)));
    read.map(|total| total.unwrap() as i64)
}

#[test]
fn query_never_answers_from_a_page_that_is_not_what_was_written() {
    let mut pair = Pair::new();
    pair.step(FILL);
    let mut readers = [
        open_reader(pair.master_dir.path(), 1, Some(pair.master.sums())).unwrap(),
        open_reader(pair.backup_dir.path(), 1, Some(pair.backup.sums())).unwrap(),
    ];
    let right = total(&mut readers[0]).unwrap();
    // From the WAL, where a page has no place of its own.
    let file = pair.backup_dir.path().join("state.db-wal");
    let wal = std::fs::read(&file).unwrap();
    let frame = 24 + PAGE_SIZE as usize;
    let index = (wal.len() - 32) / frame - 3;
    let page = u32::from_be_bytes(wal[32 + index * frame..][..4].try_into().unwrap());
    let at = 32 + index * frame + 24 + 2000;
    let write = |bytes: &str| {
        let script =
            format!("printf '{bytes}' | dd of='{}' bs=1 seek={at} conv=notrunc status=none", file.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    };
    write("rotten");
    assert!(matches!(total(&mut readers[1]), Err(StoreError::Rotten { page: found }) if found == page));
    let octal: String = wal[at..at + 6].iter().map(|byte| format!("\\{byte:03o}")).collect();
    write(&octal);
    assert_eq!(total(&mut readers[1]).unwrap(), right, "nothing wrong was kept");

    // From the database file.
    checkpoint(&mut pair.backup);
    pair.step("DELETE FROM t WHERE id = 7");
    let right = total(&mut readers[0]).unwrap();
    checkpoint(&mut pair.backup);
    assert_eq!(total(&mut readers[1]).unwrap(), right);
    rot(pair.backup_dir.path(), 60);
    for _ in 0..3 {
        assert!(matches!(total(&mut readers[1]), Err(StoreError::Rotten { page: 60 })));
    }
    pair.backup.distrust();
    rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert_eq!(total(&mut readers[1]).unwrap(), right, "healed");
}

#[test]
fn queries_beside_ordinary_writes_are_always_believed() {
    let mut pair = Pair::new();
    pair.step(FILL);
    let dirs = [pair.master_dir.path().to_owned(), pair.backup_dir.path().to_owned()];
    let sums = [pair.master.sums(), pair.backup.sums()];
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = dirs
            .iter()
            .zip(sums)
            .map(|(dir, sums)| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut reader = open_reader(dir, 1, Some(sums)).unwrap();
                    let mut read = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) || read == 0 {
                        total(&mut reader).unwrap();
                        read += 1;
                    }
                })
            })
            .collect();
        let stop = Stop(&stop);
        for i in 0..150 {
            pair.step(&format!("UPDATE t SET data = randomblob({}) WHERE id % 5 = {}", 500 + 10 * i, i % 5));
            // As far as the readers let it.
            pair.master.checkpoint_step().unwrap();
            pair.backup.checkpoint_step().unwrap();
        }
        drop(stop);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Ends the readers, also when the writer fails.
struct Stop<'s>(&'s std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
