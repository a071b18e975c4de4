//! What a start finds, held against what the machine remembers: clean ends, files that were touched, WALs that were lost, marks.
#![allow(clippy::unwrap_used)]

mod common;

use std::{path::Path, time::Duration};

use common::{Pair, TERM, exchange::rejoin, outsider, query, reader, transaction};
use rusqlite::Connection;
use tanist_replication::Term;
use tanist_store::{Captured, Closed, Database, Options, StoreError};

const PATIENCE: Duration = Duration::from_secs(5);

fn open(dir: &Path) -> Database {
    Database::open(dir, Options::default()).unwrap()
}

/// The pair with its backup's place taken by an empty database, and the backup.
fn part(pair: &mut Pair) -> (Database, tempfile::TempDir) {
    let elsewhere = tempfile::TempDir::new().unwrap();
    (std::mem::replace(&mut pair.backup, open(elsewhere.path())), elsewhere)
}

fn filled() -> Pair {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(20000))");
    pair.step("INSERT INTO t VALUES ('kept')");
    pair
}

/// As a person's shell would, which puts the WAL into the file as it ends.
fn edit(dir: &Path, sql: &str) {
    Connection::open(dir.join("state.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn clean_end_leaves_one_file_that_is_believed_until_somebody_writes_to_it() {
    let mut pair = filled();
    let dir = pair.backup_dir.path().to_owned();
    let stamp = pair.backup.stamp();
    let (backup, _elsewhere) = part(&mut pair);
    assert_eq!(backup.close(PATIENCE).unwrap(), Closed::Whole);
    assert_eq!(std::fs::metadata(dir.join("state.db-wal")).map_or(0, |wal| wal.len()), 0);
    for name in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    // Read, copied to and fro: another time on it, and the same content.
    for touched in [false, true] {
        edit(&dir, "SELECT count(*) FROM t");
        if touched {
            let bytes = std::fs::read(dir.join("state.db")).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            std::fs::write(dir.join("state.db"), bytes).unwrap();
        }
        let backup = open(&dir);
        assert!(!backup.is_diverged() && backup.stamp() == stamp);
        assert_eq!(backup.close(PATIENCE).unwrap(), Closed::Whole);
    }
    edit(&dir, "DELETE FROM t WHERE a = 'kept'");
    let mut backup = open(&dir);
    assert!(backup.is_diverged() && backup.is_unnumbered() && backup.is_barred().is_none());
    assert_eq!(backup.stamp(), stamp);
    // The same after another start: only a rejoin settles it.
    drop(backup);
    backup = open(&dir);
    assert!(backup.is_unnumbered());
    let (rejoined, _) = rejoin(pair.master_dir.path(), &mut backup).unwrap();
    assert!(rejoined.report.is_some());
    drop(backup);
    pair.backup = open(&dir);
    assert!(!pair.backup.is_diverged());
    pair.assert_identical();
}

#[test]
fn edit_of_a_stopped_file_counts_where_its_machine_becomes_the_master() {
    let mut pair = filled();
    let dir = pair.backup_dir.path().to_owned();
    let (backup, _elsewhere) = part(&mut pair);
    backup.close(PATIENCE).unwrap();
    edit(&dir, "INSERT INTO t VALUES ('by hand')");
    let mut master = open(&dir);
    master.become_master().unwrap();
    let captured = master.start_reign(Term(2), "pc-2", "succeeds").unwrap();
    assert_eq!(captured, [Captured::Break(master.stamp())], "what was there before can't be read any more");
    rejoin(&dir, &mut pair.master.into_backup()).unwrap();
    assert_eq!(query(pair.master_dir.path(), "SELECT count(*) FROM t WHERE a = 'by hand'"), "1");
}

trait IntoBackup {
    fn into_backup(self) -> Database;
}

impl IntoBackup for Database {
    fn into_backup(mut self) -> Database {
        self.become_backup().unwrap();
        self
    }
}

#[test]
fn replica_whose_wal_was_lost_counts_for_nothing() {
    let mut pair = filled();
    let dir = pair.backup_dir.path().to_owned();
    let (backup, _elsewhere) = part(&mut pair);
    backup.close(PATIENCE).unwrap();
    pair.backup = open(&dir);
    // Somebody reads while it ends: the rest stays in the WAL.
    let reading = reader(&dir);
    reading.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    pair.step("INSERT INTO t VALUES ('only in the WAL')");
    let stamp = pair.backup.stamp();
    let (backup, _elsewhere) = part(&mut pair);
    assert!(matches!(backup.close(Duration::from_millis(200)).unwrap(), Closed::Rest(1..)));
    let kept = std::fs::read(dir.join("state.db-wal")).unwrap();
    std::fs::remove_file(dir.join("state.db-wal")).unwrap();
    drop(reading);
    for name in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let mut backup = open(&dir);
    assert!(backup.is_lost() && backup.stamp().position < stamp.position);
    assert!(backup.is_barred().unwrap().contains(&stamp.position.to_string()));
    assert!(
        matches!(backup.become_master(), Err(StoreError::Lost { stored, .. }) if stored == stamp.position)
    );
    drop(backup);
    // Put back, it is as if nothing had been.
    let _ = std::fs::remove_file(dir.join("state.db-shm"));
    std::fs::write(dir.join("state.db-wal"), kept).unwrap();
    let found = open(&dir);
    assert_eq!(found.stamp(), stamp);
    assert!(!found.is_lost());
    drop(found);
    let _ = std::fs::remove_file(dir.join("state.db-wal"));
    let _ = std::fs::remove_file(dir.join("state.db-shm"));
    let mut backup = open(&dir);
    assert!(backup.is_lost());
    let (rejoined, _) = rejoin(pair.master_dir.path(), &mut backup).unwrap();
    assert_eq!(rejoined.report, None, "it holds nothing that others don't");
    drop(backup);
    pair.backup = open(&dir);
    assert!(!pair.backup.is_diverged());
    pair.assert_identical();
}

#[test]
fn writes_into_the_wal_of_a_killed_backup_are_told_from_its_own() {
    let mut pair = filled();
    let dir = pair.backup_dir.path().to_owned();
    for foreign in [false, true] {
        let other = outsider(&dir); // so that the WAL stays
        let (backup, _elsewhere) = part(&mut pair);
        drop(backup);
        if foreign {
            other.execute_batch("INSERT INTO t VALUES ('by hand')").unwrap();
        }
        pair.backup = open(&dir);
        assert_eq!(pair.backup.is_unnumbered(), foreign);
        if !foreign {
            pair.step("INSERT INTO t VALUES (1)");
        }
    }
    let next = pair.commit("INSERT INTO t VALUES (2)");
    assert!(matches!(pair.backup.apply(&[next]), Err(StoreError::ForeignWrite { .. })));
    let (rejoined, _) = rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert!(rejoined.report.is_some());
    pair.assert_identical();
}

#[test]
fn mark_of_a_replica_that_must_be_brought_in_line_outlives_its_process() {
    let mut pair = filled();
    let dir = pair.backup_dir.path().to_owned();
    pair.backup.distrust();
    let (backup, _elsewhere) = part(&mut pair);
    drop(backup);
    pair.backup = open(&dir);
    assert!(pair.backup.is_diverged() && pair.backup.is_barred().is_some());
    assert!(pair.backup.become_master().is_err());
    // Where nobody else could bring it in line it must do.
    let (backup, _elsewhere) = part(&mut pair);
    drop(backup);
    pair.backup = Database::open(&dir, Options { alone: true, ..Options::default() }).unwrap();
    assert!(pair.backup.is_barred().is_none());
    let (backup, _elsewhere) = part(&mut pair);
    drop(backup);
    pair.backup = open(&dir);
    rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    let (backup, _elsewhere) = part(&mut pair);
    drop(backup);
    pair.backup = open(&dir);
    assert!(!pair.backup.is_diverged());
    pair.step("INSERT INTO t VALUES (3)");
    pair.assert_identical();
}

#[test]
fn nobody_writes_between_the_last_adoption_and_the_handover() {
    let mut pair = filled();
    let outside = outsider(pair.master_dir.path());
    outside.execute_batch("INSERT INTO t VALUES ('by hand')").unwrap();
    assert!(!pair.master.hold(PATIENCE).unwrap(), "that must be adopted first");
    let adopted = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
    pair.backup.apply(&[adopted]).unwrap();
    assert!(pair.master.hold(PATIENCE).unwrap() && pair.master.is_holding());
    assert!(outside.execute_batch("INSERT INTO t VALUES ('too late')").is_err());
    // Given up.
    pair.master.let_go().unwrap();
    outside.execute_batch("INSERT INTO t VALUES ('again')").unwrap();
    assert!(!pair.master.hold(PATIENCE).unwrap());
    let adopted = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
    pair.backup.apply(&[adopted]).unwrap();
    // A batch that comes ends it, and so does the end of the reign, without a moment in between.
    assert!(pair.master.hold(PATIENCE).unwrap());
    pair.step("INSERT INTO t VALUES (4)");
    assert!(pair.master.hold(PATIENCE).unwrap());
    pair.master.become_backup().unwrap();
    assert!(pair.master.is_locked() && !pair.master.is_holding());
    assert!(outside.execute_batch("INSERT INTO t VALUES ('too late')").is_err());
    pair.assert_identical();
    // Another program that holds the lock is waited for no longer than one is told to.
    pair.master.become_master().unwrap();
    outside.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(pair.master.hold(Duration::from_millis(50)), Err(StoreError::Busy { .. })));
    outside.execute_batch("ROLLBACK").unwrap();
    assert!(pair.master.hold(PATIENCE).unwrap());
}
