//! A master's transactions, changed on their way, applied on a backup.
//!
//! The input says which of a few real transactions come, what is changed in their fields, whether the checksum is made
//! right again (as only a faulty master could), and how the payload is edited.

use std::{cell::RefCell, error::Error};

use bytes::Bytes;
use tanist_replication::{Checksum, Encoding, Term, Transaction};
use tanist_store::{Captured, Database, Options, database_checksum, open_reader};
use tempfile::TempDir;

use crate::{edit, scratch, script::Script};

#[rustfmt::skip]
pub(crate) const WORDS: &[&[u8]] = &[
    // Page size, database pages and page count at the payload's start; a page's number behind it.
    &[0, 0, 0, 4], &[0, 0, 4, 4], &[0, 0, 8, 4], &[0, 0, 12, 4], &[0x10, 0, 0, 0], &[0, 0, 0, 1], &[0xff, 0xff, 0xff, 0xff], &[0, 0x04, 0, 0x01],
    &[0x28, 0xb5, 0x2f, 0xfd],
];

/// Flags in the input's second byte.
const PLAIN: u8 = 1;
const RIGHT_LENGTH: u8 = 2;
const RIGHT_CHECKSUM: u8 = 4;
const COMPRESSED: u8 = 8;
const THEN_THE_RIGHT_ONES: u8 = 16;

struct Fixture {
    /// A backup as it stands before the transactions.
    template: TempDir,
    transactions: Vec<Transaction>,
    backup: Option<(TempDir, Database)>,
    checksum: [u8; 32],
}

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(match Fixture::new() {
        Ok(fixture) => fixture,
        Err(error) => panic!("set up: {error}"),
    });
}

fn options() -> Options {
    Options { busy_timeout_ms: 200, ..Options::default() }
}

fn captured(captured: Captured) -> Result<Transaction, Box<dyn Error>> {
    match captured {
        Captured::Transaction(transaction) => Ok(transaction),
        other => Err(format!("captured {other:?}").into()),
    }
}

impl Fixture {
    fn new() -> Result<Fixture, Box<dyn Error>> {
        let (master_dir, template) = (scratch::directory()?, scratch::directory()?);
        let mut master = Database::open(master_dir.path(), options())?;
        master.become_master()?;
        let mut before = Vec::new();
        for first in master.start_reign(Term(1), "pc-1", "test")? {
            before.push(captured(first)?);
        }
        before.push(commit(&mut master, 1, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")?);
        let mut transactions = Vec::new();
        for (term, sql) in [
            (1, "INSERT INTO t VALUES (1, 'small')"),
            (1, "INSERT INTO t VALUES (2, zeroblob(30000)); CREATE INDEX i ON t(v)"),
            (2, ""),
            (2, "DELETE FROM t; DROP INDEX i"),
            (2, "CREATE TABLE more(a); INSERT INTO more VALUES (randomblob(9000))"),
        ] {
            transactions.push(commit(&mut master, term, sql)?);
        }
        Database::open(template.path(), options())?.apply(&before)?;
        let checksum = database_checksum(template.path())?.0;
        Ok(Fixture { template, transactions, backup: None, checksum })
    }

    /// A backup in its first state, and its directory.
    fn backup(&mut self) -> Result<(TempDir, Database), Box<dyn Error>> {
        if let Some(backup) = self.backup.take() {
            return Ok(backup);
        }
        let dir = scratch::copy(self.template.path())?;
        let database = Database::open(dir.path(), options())?;
        Ok((dir, database))
    }

    fn run(&mut self, input: &[u8]) -> Result<(), Box<dyn Error>> {
        let mut script = Script::new(input);
        let (which, flags) = (script.byte(), script.byte());
        let count = 1 + usize::from(which >> 4) % self.transactions.len();
        let right = self.transactions[..count].to_vec();
        let mut sent = right.clone();
        let changed = &mut sent[usize::from(which & 15) % count];
        change_fields(changed, &mut script);
        change_payload(changed, flags, &mut script);
        let intact = sent == right;

        let (dir, mut backup) = self.backup()?;
        let before = backup.stamp();
        match backup.apply(&sent) {
            Ok(applied) => {
                assert_eq!(applied.stamp, sent[count - 1].stamp);
                let genuine = sent.iter().zip(&self.transactions).all(|(sent, right)| {
                    Checksum::of(&plain(sent)) == sent.checksum
                        && (flags & RIGHT_CHECKSUM != 0 || { sent.checksum == right.checksum })
                });
                assert!(genuine, "applied what no master sent");
                if intact {
                    assert_eq!(database_checksum(dir.path())?.1, applied.stamp);
                    assert_eq!(
                        backup.history().last().map(|reign| reign.term),
                        Some(applied.stamp.position.term)
                    );
                }
                use_it(&dir, backup, &self.transactions[count..]);
            }
            Err(error) if backup.is_diverged() => {
                assert!(flags & RIGHT_CHECKSUM != 0, "unreadable pages came from no faulty master: {error}");
            }
            Err(error) => {
                assert!(!intact, "the right transactions were refused: {error}");
                assert!(flags & RIGHT_CHECKSUM != 0 || !error.is_disk(), "the disk was blamed: {error}");
                assert_eq!(backup.stamp(), before, "after {error}");
                assert_eq!(database_checksum(dir.path())?, (self.checksum, before), "after {error}");
                if flags & THEN_THE_RIGHT_ONES != 0 {
                    backup.apply(&right)?;
                } else {
                    self.backup = Some((dir, backup));
                }
            }
        }
        Ok(())
    }
}

fn commit(master: &mut Database, term: u64, sql: &str) -> Result<Transaction, Box<dyn Error>> {
    let mut batch = master.begin(Term(term))?;
    if sql.is_empty() {
        batch.begin_reign("pc-2", "test")?;
    } else {
        batch.request(|db| db.execute_batch(sql))??;
    }
    captured(batch.commit()?)
}

fn change_fields(transaction: &mut Transaction, script: &mut Script<'_>) {
    let (field, by) = (script.byte(), script.u16());
    match field % 16 {
        1 => transaction.previous.position.term.0 ^= u64::from(by),
        2 => transaction.previous.position.txid.0 ^= u64::from(by),
        3 => transaction.stamp.position.term.0 ^= u64::from(by) << (field & 0x30),
        4 => transaction.stamp.position.txid.0 ^= u64::from(by),
        5 => transaction.previous.chain.0[usize::from(by % 16)] ^= 1,
        6 => transaction.stamp.chain.0[usize::from(by % 16)] ^= 1,
        7 => transaction.checksum.0[usize::from(by % 16)] ^= 1,
        8 => transaction.plain_len ^= u32::from(by) << (field >> 4),
        9 => {
            transaction.encoding = match transaction.encoding {
                Encoding::Plain => Encoding::Zstd,
                Encoding::Zstd => Encoding::Plain,
            }
        }
        _ => {}
    }
}

fn change_payload(transaction: &mut Transaction, flags: u8, script: &mut Script<'_>) {
    if script.is_empty() {
        return;
    }
    let mut payload =
        if flags & (PLAIN | COMPRESSED) != 0 { plain(transaction) } else { transaction.payload.to_vec() };
    edit::apply(script, &mut payload);
    if flags & (PLAIN | COMPRESSED) != 0 {
        transaction.encoding = Encoding::Plain;
    }
    if flags & RIGHT_LENGTH != 0 {
        transaction.plain_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    }
    if flags & RIGHT_CHECKSUM != 0 {
        transaction.checksum = Checksum::of(&payload);
    }
    if flags & COMPRESSED != 0 {
        (transaction.encoding, payload) =
            (Encoding::Zstd, zstd::bulk::compress(&payload, 1).unwrap_or_default());
    }
    transaction.payload = Bytes::from(payload);
}

/// The payload uncompressed; empty when it can't be.
fn plain(transaction: &Transaction) -> Vec<u8> {
    match transaction.encoding {
        Encoding::Plain => transaction.payload.to_vec(),
        Encoding::Zstd => zstd::bulk::decompress(&transaction.payload, 1 << 20).unwrap_or_default(),
    }
}

/// Whatever pages a faulty master has sent, what is done with them gives results or errors.
fn use_it(dir: &TempDir, mut backup: Database, next: &[Transaction]) {
    let _ = backup.apply(&next[..next.len().min(1)]);
    let _ = backup.checkpoint_step();
    drop(backup);
    let _ = database_checksum(dir.path());
    if let Ok(mut reader) = open_reader(dir.path(), 1 << 18, None) {
        let _ =
            reader.snapshot(|db, _| db.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
    }
    let Ok(mut database) = Database::open(dir.path(), options()) else { return };
    if database.become_master().is_ok() {
        let _ = commit(&mut database, 9, "");
        let _ = commit(&mut database, 9, "INSERT INTO t(v) VALUES (1)");
    }
}

pub(crate) fn run(input: &[u8]) {
    FIXTURE.with_borrow_mut(|fixture| {
        if let Err(error) = fixture.run(input) {
            panic!("around an apply: {error}");
        }
    });
}
