//! A master and a backup in temporary directories.
#![allow(dead_code, unreachable_pub)]

pub mod exchange;

use std::{path::Path, process::Command};

use rusqlite::Connection;
use tanist_replication::{Stamp, Term, Transaction};
use tanist_store::{Captured, Database, Options, database_checksum};
use tempfile::TempDir;

pub const TERM: Term = Term(1);

pub struct Pair {
    pub master_dir: TempDir,
    pub backup_dir: TempDir,
    pub master: Database,
    pub backup: Database,
}

pub fn transaction(captured: Captured) -> Transaction {
    match captured {
        Captured::Transaction(transaction) => transaction,
        other => panic!("expected a transaction, captured {other:?}"),
    }
}

pub fn new_master(dir: &Path, options: Options) -> (Database, Vec<Transaction>) {
    let mut master = Database::open(dir, options).unwrap();
    master.become_master().unwrap();
    let first = master.start_reign(TERM, "pc-1", "first start").unwrap();
    (master, first.into_iter().map(transaction).collect())
}

impl Pair {
    pub fn new() -> Pair {
        Pair::with(Options::default())
    }

    pub fn with(options: Options) -> Pair {
        let (master_dir, backup_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (master, first) = new_master(master_dir.path(), options.clone());
        let mut backup = Database::open(backup_dir.path(), options).unwrap();
        backup.apply(&first).unwrap();
        Pair { master_dir, backup_dir, master, backup }
    }

    /// Commits `sql` on the master as one request.
    pub fn commit(&mut self, sql: &str) -> Transaction {
        transaction(commit(&mut self.master, sql))
    }

    /// Commits `sql` and applies it on the backup.
    pub fn step(&mut self, sql: &str) -> Transaction {
        let transaction = self.commit(sql);
        self.backup.apply(std::slice::from_ref(&transaction)).unwrap();
        transaction
    }

    /// Runs `write` as one request on the master and applies it.
    pub fn step_with(&mut self, write: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Transaction {
        let mut batch = self.master.begin(TERM).unwrap();
        batch.request(write).unwrap().unwrap();
        let transaction = transaction(batch.commit().unwrap());
        self.backup.apply(std::slice::from_ref(&transaction)).unwrap();
        transaction
    }

    /// Both replicas are the same, page for page.
    pub fn assert_identical(&self) {
        let (master, master_stamp) = database_checksum(self.master_dir.path()).unwrap();
        let (backup, backup_stamp) = database_checksum(self.backup_dir.path()).unwrap();
        assert_eq!(master_stamp, backup_stamp);
        assert_eq!(master_stamp, self.master.stamp());
        assert_eq!(backup_stamp, self.backup.stamp());
        if master != backup {
            panic!("replicas differ at {master_stamp:?} in pages {:?}", self.differing_pages());
        }
        assert_eq!(self.master.pages(), self.backup.pages());
        assert_eq!(query(self.backup_dir.path(), "PRAGMA integrity_check"), "ok");
    }

    fn differing_pages(&self) -> Vec<i64> {
        let read = |dir: &Path| -> Vec<Vec<u8>> {
            let connection = reader(dir);
            let mut statement = connection.prepare("SELECT data FROM sqlite_dbpage ORDER BY pgno").unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let (master, backup) = (read(self.master_dir.path()), read(self.backup_dir.path()));
        (0..master.len().max(backup.len()))
            .filter(|n| master.get(*n) != backup.get(*n))
            .map(|n| n as i64 + 1)
            .collect()
    }
}

pub fn commit(master: &mut Database, sql: &str) -> Captured {
    let mut batch = master.begin(TERM).unwrap();
    batch.request(|connection| connection.execute_batch(sql)).unwrap().unwrap();
    batch.commit().unwrap()
}

pub fn reader(dir: &Path) -> Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(dir.join("state.db"), flags).unwrap()
}

pub fn query(dir: &Path, sql: &str) -> String {
    reader(dir)
        .query_row(sql, [], |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?}"),
            })
        })
        .unwrap()
}

/// The stock shell on the database of `dir`; `None` where there is none.
pub fn shell(dir: &Path, arguments: &[&str], sql: &str) -> Option<(bool, String)> {
    let output = Command::new("sqlite3").args(arguments).arg(dir.join("state.db")).arg(sql).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).trim().to_owned()))
}

/// A second, ordinary connection, as another process would have.
pub fn outsider(dir: &Path) -> Connection {
    let connection = Connection::open(dir.join("state.db")).unwrap();
    connection.busy_timeout(std::time::Duration::from_millis(5)).unwrap();
    connection
}

pub fn assert_unchanged(backup: &Database, before: Stamp, dir: &Path, checksum: [u8; 32]) {
    assert_eq!(backup.stamp(), before);
    assert_eq!(database_checksum(dir).unwrap(), (checksum, before));
}
