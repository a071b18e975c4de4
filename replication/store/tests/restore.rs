//! A database file that no machine runs on: looked at, and made the beginning of a new cluster.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use common::{Pair, commit, new_master, query};
use rusqlite::Connection;
use tanist_replication::{Position, Term};
use tanist_store::{Anew, Database, Options, Snapshot, StoreError, begin_anew, inspect};
use tempfile::TempDir;

/// The snapshot's pages, as one file in a directory of its own.
fn copy(of: &Path) -> (TempDir, PathBuf) {
    let snapshot = Snapshot::open(of).unwrap();
    let target = snapshot.target().clone();
    let mut bytes = vec![];
    let mut image = vec![0; target.page_size as usize];
    for page in 1..=target.pages {
        snapshot.page(page, &mut image).unwrap();
        bytes.extend_from_slice(&image);
    }
    assert_eq!(bytes.len() as u64, target.bytes());
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn anew(term: u64) -> Anew<'static> {
    Anew {
        term: Term(term),
        master: "new-1",
        reason: "restored from a copy",
        chain: [7; 16],
        cluster: "new",
        forget_tokens: false,
    }
}

#[test]
fn snapshot_is_a_whole_database_at_its_stamp_whatever_is_written_meanwhile() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    for dir in [pair.master_dir.path().to_owned(), pair.backup_dir.path().to_owned()] {
        let snapshot = Snapshot::open(&dir).unwrap();
        let stamp = pair.master.stamp();
        pair.step("INSERT INTO t SELECT hex(randomblob(900)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)");
        assert_eq!(snapshot.target().stamp, stamp);
        drop(snapshot);
        let (_dir, path) = copy(&dir);
        let found = inspect(&path).unwrap();
        assert_eq!((found.stamp, &found.problems), (pair.master.stamp(), &vec![]));
        assert_eq!(&found.history().unwrap(), pair.master.history());
    }
}

#[test]
fn restored_database_begins_a_reign_of_its_own_and_goes_on_as_master() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let (dir, path) = copy(pair.backup_dir.path());
    let old = pair.backup.stamp();
    let stamp = begin_anew(&path, &anew(1001)).unwrap();
    assert_eq!(stamp.position, Position { term: Term(1001), txid: old.position.txid.next() });
    assert!(!dir.path().join("state.db-wal").exists(), "everything is in the one file");
    let found = inspect(&path).unwrap();
    assert_eq!((found.stamp, found.reigns.len(), found.problems.len()), (stamp, 2, 0));
    assert_eq!(
        (found.reigns[1].master.as_str(), found.reigns[1].reason.as_str()),
        ("new-1", "restored from a copy")
    );
    // No replica of the old cluster is on its branch, however far it has come.
    let history = found.history().unwrap();
    pair.step("INSERT INTO t VALUES (2)");
    assert!(!history.contains(pair.backup.stamp().position, stamp.position));
    assert!(history.contains(old.position, stamp.position), "but what was copied");
    let mut master = Database::open(dir.path(), Options::default()).unwrap();
    assert_eq!(master.stamp(), stamp);
    master.become_master().unwrap();
    master.start_reign(Term(1002), "new-1", "founded").unwrap();
    let mut batch = master.begin(Term(1002)).unwrap();
    batch.request(|connection| connection.execute_batch("INSERT INTO t VALUES (3)")).unwrap().unwrap();
    batch.commit().unwrap();
    drop(master);
    assert_eq!(query(dir.path(), "SELECT group_concat(x) FROM t"), "1,3");
}

#[test]
fn tokens_are_kept_or_forgotten_as_told() {
    let token = "INSERT INTO tanist_tokens (name, role, hash) VALUES ('ui', 'read', zeroblob(32))";
    for forget_tokens in [false, true] {
        let source = TempDir::new().unwrap();
        drop(new_master(source.path(), Options::default()));
        Connection::open(source.path().join("state.db")).unwrap().execute_batch(token).unwrap();
        let (dir, path) = copy(source.path());
        begin_anew(&path, &Anew { forget_tokens, ..anew(5) }).unwrap();
        let left = query(dir.path(), "SELECT count(*) FROM tanist_tokens");
        assert_eq!(left, if forget_tokens { "0" } else { "1" });
    }
}

#[test]
fn what_cannot_begin_anew_is_refused_by_reason() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t(x)");
    let (_dir, path) = copy(pair.master_dir.path());
    assert!(matches!(begin_anew(&path, &anew(1)), Err(StoreError::History(_))), "its own term");
    Connection::open(&path)
        .unwrap()
        .execute_batch("INSERT INTO tanist_schema (version) VALUES (999)")
        .unwrap();
    assert!(matches!(begin_anew(&path, &anew(9)), Err(StoreError::NewerSchema { found: 999, .. })));
    let dir = TempDir::new().unwrap();
    let other = dir.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    for error in [begin_anew(&other, &anew(9)).unwrap_err(), inspect(&other).unwrap_err()] {
        assert!(error.to_string().contains("not a replica of a cluster"), "{error}");
    }
    let text = dir.path().join("text");
    std::fs::write(&text, vec![b'x'; 5000]).unwrap();
    assert!(matches!(inspect(&text), Err(StoreError::NotADatabase { .. })));
    assert!(inspect(&dir.path().join("nowhere")).is_err());
    assert!(!dir.path().join("nowhere").exists(), "looking makes nothing");
}

#[test]
fn damage_that_sqlite_can_name_is_named() {
    let source = TempDir::new().unwrap();
    let (mut master, _) = new_master(source.path(), Options::default());
    commit(
        &mut master,
        "CREATE TABLE t(x); CREATE INDEX i ON t(x); INSERT INTO t VALUES ('a'), ('b'), ('c')",
    );
    let root: usize =
        query(source.path(), "SELECT rootpage FROM sqlite_schema WHERE name = 'i'").parse().unwrap();
    let (_dir, path) = copy(source.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let page = &mut bytes[(root - 1) * 4096..root * 4096];
    let at = page.iter().rposition(|byte| *byte == b'b').unwrap();
    page[at] = b'z';
    std::fs::write(&path, bytes).unwrap();
    let found = inspect(&path).unwrap();
    assert!(found.problems.iter().any(|problem| problem.contains("index i")), "{:?}", found.problems);
}
