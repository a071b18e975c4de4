//! A backup takes only what follows, whole and unharmed; everything else changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Pair, assert_unchanged};
use tanist_replication::{ChainHash, Checksum, Encoding, PagesWriter, Position, Transaction};
use tanist_store::{Options, StoreError, database_checksum};

/// A pair with one transaction that the backup hasn't got.
fn waiting() -> (Pair, Transaction, Transaction) {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    let first = pair.commit("INSERT INTO t VALUES (zeroblob(30000))");
    let second = pair.commit("INSERT INTO t VALUES (2)");
    assert_eq!(first.encoding, Encoding::Zstd);
    (pair, first, second)
}

fn refuse(change: impl FnOnce(&mut Transaction), expected: impl FnOnce(&StoreError) -> bool) {
    let (mut pair, mut first, second) = waiting();
    let right = first.clone();
    let before = pair.backup.stamp();
    let checksum = database_checksum(pair.backup_dir.path()).unwrap().0;
    change(&mut first);
    let error = pair.backup.apply(&[first]).unwrap_err();
    assert!(expected(&error), "{error:?}");
    assert_unchanged(&pair.backup, before, pair.backup_dir.path(), checksum);
    pair.backup.apply(&[right, second]).unwrap();
    pair.assert_identical();
}

fn with_payload(transaction: &mut Transaction, plain: Bytes) {
    transaction.encoding = Encoding::Plain;
    transaction.plain_len = u32::try_from(plain.len()).unwrap();
    transaction.checksum = Checksum::of(&plain);
    transaction.payload = plain;
}

#[test]
fn backup_refuses_transaction_after_another_predecessor() {
    refuse(|t| t.previous.position = Position::new(1, 1), |e| matches!(e, StoreError::Predecessor { .. }));
    refuse(|t| t.previous.chain = ChainHash([7; 16]), |e| matches!(e, StoreError::Predecessor { .. }));
    refuse(|t| t.stamp.position.txid.0 += 1, |e| matches!(e, StoreError::Predecessor { .. }));
    refuse(|t| t.stamp.position.term.0 = 0, |e| matches!(e, StoreError::Predecessor { .. }));
}

#[test]
fn backup_refuses_merged_transactions_out_of_order() {
    let (mut pair, first, second) = waiting();
    let before = pair.backup.stamp();
    for wrong in
        [vec![second.clone(), first.clone()], vec![second.clone()], vec![first.clone(), first.clone()]]
    {
        assert!(matches!(pair.backup.apply(&wrong), Err(StoreError::Predecessor { .. })));
        assert_eq!(pair.backup.stamp(), before);
    }
    pair.backup.apply(&[]).unwrap();
    pair.backup.apply(&[first, second]).unwrap();
    pair.assert_identical();
}

#[test]
fn backup_refuses_corrupt_payload() {
    refuse(|t| t.checksum.0[3] ^= 1, |e| matches!(e, StoreError::Checksum { .. }));
    refuse(
        |t| t.payload = t.payload.slice(..t.payload.len() - 5),
        |e| matches!(e, StoreError::Decompress { .. }),
    );
    refuse(|t| t.payload = Bytes::new(), |e| matches!(e, StoreError::Decompress { .. }));
    refuse(|t| t.encoding = Encoding::Plain, |e| matches!(e, StoreError::Decompress { .. }));
}

#[test]
fn backup_refuses_hostile_lengths() {
    refuse(|t| t.plain_len = u32::MAX, |e| matches!(e, StoreError::PayloadTooLarge { .. }));
    refuse(|t| t.plain_len -= 1, |e| matches!(e, StoreError::Decompress { .. }));
    refuse(|t| t.plain_len += 1, |e| matches!(e, StoreError::Decompress { .. }));
    // A small frame that would become a gigabyte.
    let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap());
    assert!(bomb.len() < 100_000);
    refuse(|t| (t.payload, t.plain_len) = (bomb, 30_000), |e| matches!(e, StoreError::Decompress { .. }));
    refuse(|t| with_payload(t, Bytes::from_static(&[0; 7])), |e| matches!(e, StoreError::Payload(_)));
}

#[test]
fn backup_refuses_pages_of_another_size() {
    let mut writer = PagesWriter::new(8192, 1);
    writer.page(1);
    let plain = writer.finish(1);
    refuse(|t| with_payload(t, plain), |e| matches!(e, StoreError::PageSize { found: 8192, expected: 4096 }));
}

#[test]
fn backup_refuses_to_grow_by_pages_that_are_not_there() {
    let payload = |pages: &[u32], database_pages| {
        let mut writer = PagesWriter::new(4096, pages.len());
        for page in pages {
            writer.page(*page);
        }
        writer.finish(database_pages)
    };
    let hole = payload(&[u32::MAX], u32::MAX);
    refuse(|t| with_payload(t, hole), |e| matches!(e, StoreError::NewPages { found: 1, .. }));
    let nothing = payload(&[], 1 << 30);
    refuse(|t| with_payload(t, nothing), |e| matches!(e, StoreError::NewPages { found: 0, .. }));
}

#[test]
fn roles_are_kept_apart() {
    let mut pair = Pair::new();
    let transaction = pair.commit("CREATE TABLE t (a)");
    assert!(matches!(pair.master.apply(&[transaction]), Err(StoreError::Mode { wanted: "backup", .. })));
    assert!(matches!(pair.master.open_staging(), Err(StoreError::Mode { wanted: "backup", .. })));
    assert!(matches!(pair.backup.begin(common::TERM), Err(StoreError::Mode { wanted: "master", .. })));
    assert!(matches!(pair.backup.start_reign(common::TERM, "x", "y"), Err(StoreError::Mode { .. })));
    let older = pair.master.begin(tanist_replication::Term(0)).err();
    assert!(matches!(older, Some(StoreError::Term { no_reign: false, .. })));
    let mut newer = pair.master.begin(tanist_replication::Term(2)).unwrap();
    newer.request(|connection| connection.execute("CREATE TABLE u (a)", [])).unwrap().unwrap();
    assert!(matches!(newer.commit(), Err(StoreError::Term { no_reign: true, .. })));
}

#[test]
fn unfit_files_are_named_with_their_fault() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(
        &path,
        "this is certainly no database, but long enough to have a header of one hundred bytes, isn't it? yes",
    )
    .unwrap();
    let error = tanist_store::Database::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("state.db") && error.is_disk(), "{error}");

    std::fs::remove_file(&path).unwrap();
    let pair = Pair::new();
    let mut bytes = std::fs::read(pair.master_dir.path().join("state.db")).unwrap();
    drop(pair);
    bytes.resize(8192, 0);
    bytes[28..32].copy_from_slice(&2u32.to_be_bytes());
    bytes[100] = 77; // no kind of b-tree page
    std::fs::write(&path, bytes).unwrap();
    let error = tanist_store::Database::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.needs_copy());

    let nowhere = dir.path().join("missing");
    let error = tanist_store::Database::open(&nowhere, Options::default()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn second_process_cannot_open_a_backup() {
    let pair = Pair::new();
    let options = Options { busy_timeout_ms: 20, ..Options::default() };
    let error = tanist_store::Database::open(pair.backup_dir.path(), options).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
}
