//! A database that may not grow takes what needs no further pages, and nothing is half done.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM};
use tanist_store::{Captured, StoreError};

/// Runs `sql` in a batch that may grow by so many pages; whether it was taken.
fn run(pair: &mut Pair, sql: &str, growth: Option<u32>) -> bool {
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.limit_growth(growth).unwrap();
    let ran = batch.request(|connection| connection.execute_batch(sql));
    batch.limit_growth(None).unwrap();
    match ran {
        Ok(Ok(())) => {
            let transaction = common::transaction(batch.commit().unwrap());
            pair.backup.apply(&[transaction]).unwrap();
            true
        }
        Ok(Err(error)) => {
            assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull), "{error}");
            false
        }
        Err(error) => {
            assert!(matches!(error, StoreError::BatchLost { .. }), "{error}");
            false
        }
    }
}

#[test]
fn only_growth_is_refused() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
    pair.step("INSERT INTO t VALUES (1, randomblob(400000)), (2, randomblob(400000))");
    let pages = pair.master.pages();
    let insert = "INSERT INTO t VALUES (3, randomblob(400000))";
    assert!(!run(&mut pair, insert, Some(0)));
    assert!(!run(&mut pair, insert, Some(50)));
    assert!(run(&mut pair, "UPDATE t SET a = randomblob(400000) WHERE id = 1", Some(0)));
    assert!(run(&mut pair, "DELETE FROM t WHERE id = 2", Some(0)));
    assert!(run(&mut pair, insert, Some(0)), "in the pages that have become free");
    assert_eq!(pair.master.pages(), pages);
    assert!(run(&mut pair, "INSERT INTO t VALUES (4, randomblob(400000))", None), "with room again");
    assert!(pair.master.pages() > pages);
    pair.assert_identical();
}

#[test]
fn batch_that_is_given_up_leaves_nothing() {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    let before = pair.master.stamp();
    let mut batch = pair.master.begin(TERM).unwrap();
    batch.request(|connection| connection.execute_batch("INSERT INTO t VALUES (1)")).unwrap().unwrap();
    batch.give_up();
    assert!(batch.is_lost());
    assert!(matches!(batch.commit(), Err(StoreError::BatchLost { .. })));
    assert_eq!(pair.master.stamp(), before);
    assert!(matches!(common::commit(&mut pair.master, "INSERT INTO t VALUES (2)"), Captured::Transaction(_)));
}
