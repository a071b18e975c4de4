//! Pages that change by themselves are found and replaced, and what was written in the ordinary way never is.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // clippy knows test functions, but not their helpers

mod common;

use std::{path::Path, process::Command};

use common::{exchange::rejoin, *};
use tanist_store::{Database, Options, PAGE_SIZE, Scrub};

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
    rot(pair.backup_dir.path(), 40);
    assert_eq!(round(&mut scrub), [40]);
    assert!(scrub.is_wrong(40).unwrap() && !scrub.is_wrong(41).unwrap());
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
    rot(dir.path(), 40);
    let backup = Database::open(dir.path(), Options::default()).unwrap();
    assert_eq!(backup.sums().newest(), None, "nobody has read the pages yet");
    let mut scrub = Scrub::open(dir.path(), backup.sums()).unwrap();
    assert_eq!(round(&mut scrub), NONE, "there is nothing to compare them with");
    let (position, whole) = backup.sums().newest().unwrap();
    assert_eq!(position, sum.0);
    assert_ne!(whole, sum.1);
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
