//! A replica is brought in line by page hashes: only what differs travels, all or nothing is put in place, whatever
//! breaks in between.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{
    Pair, TERM,
    exchange::{FILL, KEY, begin, context, filled, rejoin, stage},
    new_master, outsider, query, reader, shell,
};
use rusqlite::Connection;
use tanist_replication::{PagesWriter, Stamp, Term};
use tanist_store::{
    CopyOut, Database, Options, PAGE_HASH_BYTES, StoreError, Target, database_checksum, window_pages,
};
use tempfile::TempDir;

/// Brings the backup in line and checks that it is, and that it follows afterwards.
fn bring_in_line(pair: &mut Pair) -> common::exchange::Traffic {
    let (rejoined, traffic) = rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert_eq!(rejoined.stamp, pair.master.stamp());
    pair.assert_identical();
    assert_eq!(pair.backup.history(), pair.master.history());
    assert!(!pair.backup_dir.path().join("rejoin.pages").exists(), "the staging file goes");
    traffic
}

#[test]
fn same_database_moves_hashes_only() {
    let mut pair = filled();
    let traffic = bring_in_line(&mut pair);
    assert_eq!(traffic.counts.received, 0);
    assert_eq!(traffic.hashes, traffic.counts.pages as usize * PAGE_HASH_BYTES);
    pair.step("INSERT INTO t VALUES (NULL, 1)");
    pair.assert_identical();
}

#[test]
fn one_changed_page_moves_alone_with_the_position() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900) WHERE id = 1500");
    let traffic = bring_in_line(&mut pair);
    // The row's page, the position row's, and the first.
    assert!((2..=3).contains(&traffic.counts.received), "{traffic:?}");
    pair.step("DELETE FROM t WHERE id < 100");
    pair.assert_identical();
}

#[test]
fn grown_database_moves_what_is_new() {
    let mut pair = filled();
    pair.commit("INSERT INTO t SELECT id + 10000, randomblob(900) FROM t LIMIT 1000");
    let before = pair.backup.pages();
    let traffic = bring_in_line(&mut pair);
    assert!(traffic.counts.pages > before + 200, "{traffic:?}");
    assert!(traffic.counts.received < traffic.counts.pages - before + 20, "{traffic:?}");
}

#[test]
fn shrunk_database_is_cut() {
    let mut pair = filled();
    pair.commit("DELETE FROM t WHERE id > 500");
    // VACUUM is an operation of the server; from outside it is adopted as one transaction.
    outsider(pair.master_dir.path()).execute_batch("VACUUM").unwrap();
    pair.commit("INSERT INTO t VALUES (9999, 'after')");
    assert!(pair.master.pages() * 3 < pair.backup.pages());
    bring_in_line(&mut pair);
    assert_eq!(pair.backup.pages(), pair.master.pages());
}

#[test]
fn empty_replica_takes_everything_by_the_same_path() {
    let pair = filled();
    let dir = TempDir::new().unwrap();
    let mut fresh = Database::open(dir.path(), Options::default()).unwrap();
    let (rejoined, traffic) = rejoin(pair.master_dir.path(), &mut fresh).unwrap();
    assert_eq!((rejoined.stamp, rejoined.report), (pair.master.stamp(), None));
    assert_eq!(traffic.counts.received, traffic.counts.pages);
    assert!(traffic.hashes <= PAGE_HASH_BYTES, "{traffic:?}");
    assert_eq!(database_checksum(dir.path()).unwrap(), database_checksum(pair.master_dir.path()).unwrap());
}

#[test]
fn master_goes_on_and_readers_keep_the_old_state_meanwhile() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = 'new' WHERE id % 3 = 0");
    let snapshot = database_checksum(pair.master_dir.path()).unwrap();
    let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    let held = reader(pair.backup_dir.path());
    let new_rows = |connection: &Connection| -> i64 {
        connection.query_row("SELECT count(*) FROM t WHERE a = 'new'", [], |row| row.get(0)).unwrap()
    };
    let mut meanwhile = Vec::new();
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    while let Some(question) = rejoin.question().unwrap() {
        let mut batch = pair.master.begin(TERM).unwrap();
        batch
            .request(|c| c.execute_batch("UPDATE t SET a = randomblob(900) WHERE id % 50 = 1"))
            .unwrap()
            .unwrap();
        meanwhile.push(common::transaction(batch.commit().unwrap()));
        assert_eq!(new_rows(&held), 0);
        if let Some((ok, text)) =
            shell(pair.backup_dir.path(), &["-readonly"], "SELECT count(*) FROM t WHERE a = 'new'")
        {
            assert!(ok && text == "0", "{text}");
        }
        let answer = out.differing(question.first, question.count, &question.hashes).unwrap();
        rejoin.answer(answer).unwrap();
    }
    held.execute_batch("BEGIN").unwrap();
    assert_eq!(new_rows(&held), 0);
    rejoin.finish(out.whole_hash().unwrap(), &context()).unwrap();
    assert_eq!(new_rows(&held), 0, "a reader's snapshot stays");
    held.execute_batch("COMMIT").unwrap();
    assert_eq!(new_rows(&held), 1000);
    assert_eq!(database_checksum(pair.backup_dir.path()).unwrap(), snapshot);
    drop(out);
    assert!(meanwhile.len() > 2);
    pair.backup.apply(&meanwhile).unwrap();
    pair.assert_identical();
}

/// A database made elsewhere, with pages of another size, that a master takes over.
fn with_page_size(dir: &Path, page_size: u32) -> Database {
    let connection = Connection::open(dir.join("state.db")).unwrap();
    connection.pragma_update(None, "page_size", page_size).unwrap();
    connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE made (a)").unwrap();
    drop(connection);
    let options = Options { max_transaction_bytes: 64 << 20, ..Options::default() };
    Database::open(dir, options).unwrap()
}

#[test]
fn smallest_and_largest_pages_rejoin_too() {
    for page_size in [512, 65536] {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut master = with_page_size(from.path(), page_size);
        master.become_master().unwrap();
        assert_eq!(master.page_size(), page_size);
        master.start_reign(TERM, "pc-1", "first start").unwrap();
        common::commit(&mut master, FILL);
        let mut backup = with_page_size(to.path(), page_size);
        let (first, _) = rejoin(from.path(), &mut backup).unwrap();
        assert_eq!(first.stamp, master.stamp());
        common::commit(&mut master, "UPDATE t SET a = 'x' WHERE id = 7");
        let (again, traffic) = rejoin(from.path(), &mut backup).unwrap();
        assert_eq!(again.stamp, master.stamp());
        assert!(traffic.counts.received < 6, "{traffic:?}");
        assert_eq!(database_checksum(from.path()).unwrap(), database_checksum(to.path()).unwrap());
        assert_eq!(query(to.path(), "PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn other_page_size_is_refused_and_nothing_changed() {
    let mut pair = filled();
    let dir = TempDir::new().unwrap();
    let mut other = with_page_size(dir.path(), 512);
    let error = rejoin(pair.master_dir.path(), &mut other).unwrap_err();
    assert!(matches!(error, StoreError::PageSize { found: 4096, expected: 512 }));
    assert_eq!(query(dir.path(), "SELECT count(*) FROM made"), "0");
    bring_in_line(&mut pair);
}

#[test]
fn cut_rejoin_goes_on_where_it_was() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900)");
    let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    let mut first = begin(&out, &mut pair.backup).unwrap();
    let cut = stage(&mut out, &mut first, 2).unwrap();
    drop(first);
    assert!(cut.counts.received > 300, "{cut:?}");
    // Meanwhile the master changed a little, and the replica was restarted.
    pair.commit("UPDATE t SET a = 'late' WHERE id = 10");
    let options = Options::default();
    let dir = pair.backup_dir.path().to_owned();
    pair.backup = Database::open(&TempDir::new().unwrap().keep(), options.clone()).unwrap();
    pair.backup = Database::open(&dir, options).unwrap();
    let (_, traffic) = rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert_eq!(traffic.counts.staged_before, cut.counts.received);
    let again = cut.counts.received + traffic.counts.received;
    assert!(again < traffic.counts.pages + 10, "{} pages came twice", again - traffic.counts.pages);
    pair.assert_identical();
}

#[test]
fn staged_pages_of_another_state_are_forgotten() {
    let mut pair = filled();
    let late = pair.commit("UPDATE t SET a = 'late' WHERE id > 2000");
    let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    let mut given_up = begin(&out, &mut pair.backup).unwrap();
    stage(&mut out, &mut given_up, usize::MAX).unwrap();
    drop(given_up);
    pair.backup.apply(&[late]).unwrap();
    assert!(pair.backup.open_staging().unwrap().is_empty());
    bring_in_line(&mut pair);
}

#[test]
fn damaged_staging_file_costs_no_more_than_its_pages() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900)");
    let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    let whole = stage(&mut out, &mut rejoin, usize::MAX).unwrap();
    let file = pair.backup_dir.path().join("rejoin.pages");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[64 + 3 * 4116 + 2000] ^= 1; // in the fourth record
    bytes.truncate(bytes.len() - 1000); // and the last one is torn
    std::fs::write(&file, bytes).unwrap();
    // Found at the latest when it is to be put in place; then nothing has changed.
    let before = database_checksum(pair.backup_dir.path()).unwrap();
    let error = rejoin.finish(out.whole_hash().unwrap(), &context()).unwrap_err();
    assert!(matches!(error, StoreError::Staged { .. } | StoreError::Io { .. }), "{error}");
    assert_eq!(database_checksum(pair.backup_dir.path()).unwrap(), before);
    let staged = pair.backup.open_staging().unwrap().len();
    assert_eq!(staged as u32, whole.counts.received - 2);
    let traffic = bring_in_line(&mut pair);
    assert_eq!(traffic.counts.received, 2);
    // Garbage instead of the file is as good as none.
    std::fs::write(&file, [9; 5000]).unwrap();
    pair.commit("UPDATE t SET a = 1 WHERE id = 1");
    bring_in_line(&mut pair);
}

#[test]
fn result_that_is_not_the_masters_is_rolled_back() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900) WHERE id % 2 = 0");
    let before = database_checksum(pair.backup_dir.path()).unwrap();
    let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    stage(&mut out, &mut rejoin, usize::MAX).unwrap();
    let error = rejoin.finish([0; 32], &context()).unwrap_err();
    assert!(matches!(error, StoreError::Assembled { .. }), "{error}");
    assert_eq!(database_checksum(pair.backup_dir.path()).unwrap(), before);
    assert_eq!(pair.backup.stamp(), before.1);
    assert!(pair.backup.open_staging().unwrap().is_empty(), "it begins anew");
    bring_in_line(&mut pair);
}

#[test]
fn answers_that_make_no_sense_are_errors() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = 1 WHERE id = 1");
    let before = database_checksum(pair.backup_dir.path()).unwrap();
    let window = window_pages(4096);
    let payload = |page_size: u32, pages: &[u32]| {
        let mut writer = PagesWriter::new(page_size, pages.len());
        for page in pages {
            writer.page(*page);
        }
        writer.finish(1 << 20)
    };
    let answers: Vec<(&str, Bytes)> = vec![
        ("nothing", Bytes::new()),
        ("another page size", payload(512, &[2])),
        ("a page of another question", payload(4096, &[window + 1])),
        ("a page twice", payload(4096, &[3, 3])),
        ("pages in the wrong order", payload(4096, &[4, 3])),
        ("page zero", payload(4096, &[0])),
    ];
    for (what, answer) in answers {
        let out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
        let mut rejoin = begin(&out, &mut pair.backup).unwrap();
        rejoin.question().unwrap().unwrap();
        assert!(rejoin.answer(answer).is_err(), "{what}");
        // Without all answers there is no end.
        assert!(matches!(rejoin.finish([0; 32], &context()), Err(StoreError::Exchange(_))), "{what}");
    }
    let out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    assert!(matches!(rejoin.answer(payload(4096, &[])), Err(StoreError::Exchange(_))), "unasked");
    drop(rejoin);
    for target in [
        Target { pages: 0, ..out.target().clone() },
        Target { stamp: Stamp::default(), ..out.target().clone() },
    ] {
        let staging = pair.backup.open_staging().unwrap();
        assert!(pair.backup.begin_rejoin(staging, KEY, target).is_err());
    }
    assert_eq!(database_checksum(pair.backup_dir.path()).unwrap(), before);
    std::fs::remove_file(pair.backup_dir.path().join("rejoin.pages")).unwrap();
    bring_in_line(&mut pair);
}

#[test]
fn questions_that_make_no_sense_are_errors() {
    let pair = filled();
    let window = window_pages(4096);
    let ask = |first, count, hashes: usize| {
        let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
        out.differing(first, count, &vec![0; hashes])
    };
    assert!(ask(1, window, 0).is_ok());
    for (first, count, hashes) in [
        (0, 1, 0),
        (2, 1, 0),
        (1, 0, 0),
        (1, window + 1, 0),
        (1, u32::MAX, 0),
        (1, 1, 15),
        (1, 1, 32),
        (u32::MAX, 2, 0),
    ] {
        let error = ask(first, count, hashes).unwrap_err();
        assert!(matches!(error, StoreError::Exchange(_)), "{first} {count} {hashes}: {error}");
    }
    let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
    assert_eq!(out.whole_hash(), None, "not before the last page");
    let pages = out.target().pages;
    let mut first = 1;
    while first <= pages {
        let count = window.min(pages - first + 1);
        out.differing(first, count, &[]).unwrap();
        first += count;
    }
    assert!(out.differing(first, 1, &[]).is_err(), "past the end");
    assert!(out.whole_hash().is_some());
}

#[test]
fn replica_of_an_older_term_is_behind_and_one_with_its_own_tail_has_diverged() {
    let mut pair = filled();
    let (fork_dir, behind_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut behind = Database::open(behind_dir.path(), Options::default()).unwrap();
    rejoin(pair.master_dir.path(), &mut behind).unwrap();
    let at = pair.master.stamp().position;
    // The backup is promoted; the old master goes on alone.
    let mut fork = Database::open(fork_dir.path(), Options::default()).unwrap();
    rejoin(pair.master_dir.path(), &mut fork).unwrap();
    fork.become_master().unwrap();
    fork.start_reign(Term(2), "pc-2", "promoted").unwrap();
    pair.commit("INSERT INTO t VALUES (5000, 'nobody acknowledged this')");
    pair.master.become_backup().unwrap();

    let out = CopyOut::open(fork_dir.path(), KEY).unwrap();
    assert_eq!(begin(&out, &mut pair.master).unwrap().diverged_after(), Some(at));
    assert_eq!(begin(&out, &mut behind).unwrap().diverged_after(), None);
    let empty_dir = TempDir::new().unwrap();
    let mut empty = Database::open(empty_dir.path(), Options::default()).unwrap();
    assert_eq!(begin(&out, &mut empty).unwrap().diverged_after(), None);
}

/// Everyday: 20 MB, counted. `TANIST_REJOIN_MB=1024` for the full size, with times.
#[test]
fn one_percent_changed_moves_under_two_percent_of_the_bytes() {
    let megabytes: u64 = std::env::var("TANIST_REJOIN_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(20);
    let options = Options { max_transaction_bytes: 16 << 30, ..Options::default() };
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (mut master, _) = new_master(from.path(), options.clone());
    common::commit(&mut master, "CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    // One row fills a page.
    let rows = megabytes * 256;
    for first in (0..rows).step_by(4096) {
        let last = (first + 4096).min(rows);
        common::commit(
            &mut master,
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i+1 FROM n WHERE i + 1 < {last}) \
                 INSERT INTO t SELECT i, randomblob(3900) FROM n"
            ),
        );
        master.checkpoint_step().unwrap();
    }
    let mut backup = Database::open(to.path(), options).unwrap();
    let started = std::time::Instant::now();
    let (_, full) = rejoin(from.path(), &mut backup).unwrap();
    let full_time = started.elapsed();
    common::commit(&mut master, "UPDATE t SET a = randomblob(3900) WHERE id % 100 = 0");
    let started = std::time::Instant::now();
    let (rejoined, part) = rejoin(from.path(), &mut backup).unwrap();
    assert_eq!(rejoined.stamp, master.stamp());
    assert_eq!(database_checksum(from.path()).unwrap(), database_checksum(to.path()).unwrap());
    let (all, moved) = (full.pages + full.hashes, part.pages + part.hashes);
    println!(
        "{} pages: all of it {all} bytes in {full_time:?}; 1 % changed {moved} bytes ({:.2} %) in {:?}",
        part.counts.pages,
        100.0 * moved as f64 / all as f64,
        started.elapsed()
    );
    assert!(all as u64 > megabytes << 20);
    assert!(moved * 50 < all, "{moved} of {all} bytes");
}
