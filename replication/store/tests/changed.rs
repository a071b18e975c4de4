//! A replica that the master knows is brought in line by the pages that were written since, and by no others.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    Pair,
    exchange::{KEY, Traffic, context, filled, rejoin, stage},
    outsider,
};
use tanist_replication::{ChainHash, Stamp};
use tanist_store::{CopyOut, Database, Options, Rejoin, Rejoined, Snapshot, StoreError};

/// The master's end for the backup as it is; `None` when all pages must be compared.
fn changed(pair: &Pair) -> Option<CopyOut> {
    let snapshot = Snapshot::open(pair.master_dir.path()).unwrap();
    let list = pair.master.sums().changed_since(&pair.backup.stamp(), snapshot.target())?;
    Some(CopyOut::of_changed(snapshot, KEY, list).unwrap())
}

fn begin<'d>(out: &CopyOut, backup: &'d mut Database) -> Result<Rejoin<'d>, StoreError> {
    let staging = backup.open_staging()?;
    backup.begin_rejoin(staging, KEY, out.target().clone())?.only(out.changed().unwrap().to_vec())
}

fn follow(pair: &mut Pair) -> (Rejoined, Traffic) {
    let mut out = changed(pair).expect("the master knows what this replica is");
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    let traffic = stage(&mut out, &mut rejoin, usize::MAX).unwrap();
    (rejoin.finish(out.whole_hash().unwrap(), &context()).unwrap(), traffic)
}

#[test]
fn only_what_was_written_since_is_compared_and_the_replica_follows_afterwards() {
    let mut pair = filled();
    for id in 1..=40 {
        pair.commit(&format!("UPDATE t SET a = randomblob(900) WHERE id = {id}"));
    }
    let (rejoined, traffic) = follow(&mut pair);
    assert_eq!(rejoined, Rejoined { stamp: pair.master.stamp(), report: None });
    assert!(traffic.counts.pages < 30 && pair.master.pages() > 700, "{traffic:?}");
    pair.assert_identical();
    assert!(!pair.backup_dir.path().join("rejoin.pages").exists(), "the staging file goes");
    pair.step("INSERT INTO t VALUES (NULL, 1)");
    pair.assert_identical();
    assert_eq!(
        pair.backup.sums().counts().1,
        pair.master.sums().counts().1,
        "what was known of the other pages stays known"
    );
}

#[test]
fn database_that_grows_shrinks_and_is_rebuilt_is_followed() {
    let mut pair = filled();
    for (round, sql) in [
        "INSERT INTO t SELECT id + 10000, randomblob(900) FROM t LIMIT 1000",
        "DELETE FROM t WHERE id % 3 = 0",
        "CREATE TABLE other AS SELECT * FROM t; CREATE INDEX i ON other(a)",
        "DROP TABLE other",
        "INSERT INTO t SELECT NULL, randomblob(2000) FROM t LIMIT 300",
    ]
    .into_iter()
    .enumerate()
    {
        pair.commit(sql);
        if round % 2 == 0 {
            pair.commit("UPDATE t SET a = randomblob(10) WHERE id = 7");
            follow(&mut pair);
            pair.assert_identical();
        }
    }
    pair.commit("DELETE FROM t WHERE id > 500");
    // From outside, adopted as one transaction.
    outsider(pair.master_dir.path()).execute_batch("VACUUM").unwrap();
    pair.commit("INSERT INTO t VALUES (99999, 'after')");
    assert!(pair.master.pages() < pair.backup.pages());
    follow(&mut pair);
    pair.assert_identical();
    pair.step("INSERT INTO t VALUES (NULL, 1)");
    pair.assert_identical();
}

#[test]
fn each_pass_takes_what_was_written_during_the_one_before() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900)");
    let mut passes = vec![];
    for rows in [400, 40, 4, 0] {
        let mut out = changed(&pair).unwrap();
        let mut rejoin = begin(&out, &mut pair.backup).unwrap();
        if rows > 0 {
            common::commit(&mut pair.master, &format!("UPDATE t SET a = randomblob(900) WHERE id <= {rows}"));
        }
        let traffic = stage(&mut out, &mut rejoin, usize::MAX).unwrap();
        rejoin.finish(out.whole_hash().unwrap(), &context()).unwrap();
        passes.push(traffic.counts.pages);
    }
    assert!(passes.windows(2).all(|pair| pair[1] < pair[0]), "{passes:?}");
    pair.assert_identical();
}

#[test]
fn pages_of_a_try_that_was_cut_are_not_sent_again() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900)");
    let mut out = changed(&pair).unwrap();
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    let first = stage(&mut out, &mut rejoin, 2).unwrap();
    drop(rejoin);
    pair.commit("UPDATE t SET a = randomblob(900) WHERE id < 20");
    let (_, second) = follow(&mut pair);
    assert!(first.counts.received > 400, "{first:?}");
    assert!(
        first.counts.received + second.counts.received < second.counts.pages + 20,
        "{first:?} {second:?}"
    );
    pair.assert_identical();
}

#[test]
fn result_that_is_not_the_masters_changes_nothing_and_all_is_compared_next() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = randomblob(900) WHERE id < 100");
    let before = pair.backup.stamp();
    let mut out = changed(&pair).unwrap();
    let mut rejoin = begin(&out, &mut pair.backup).unwrap();
    stage(&mut out, &mut rejoin, usize::MAX).unwrap();
    let error = rejoin.finish([1; 32], &context()).unwrap_err();
    assert!(matches!(error, StoreError::Assembled { .. }), "{error:?}");
    assert!(pair.backup.stamp() == before && pair.backup.must_compare_all());
    let out = changed(&pair).unwrap();
    assert!(begin(&out, &mut pair.backup).is_err(), "it insists");
    rejoin_all(&mut pair);
    assert!(!pair.backup.must_compare_all());
    pair.assert_identical();
}

fn rejoin_all(pair: &mut Pair) {
    rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
}

#[test]
fn nothing_is_said_of_a_stamp_that_the_master_never_had() {
    let mut pair = filled();
    pair.commit("UPDATE t SET a = 1 WHERE id = 1");
    let (sums, own) = (pair.master.sums(), pair.backup.stamp());
    let target = Snapshot::open(pair.master_dir.path()).unwrap().target().clone();
    assert!(sums.changed_since(&own, &target).is_some());
    let forked = Stamp { chain: ChainHash([9; 16]), ..own };
    assert_eq!(sums.changed_since(&forked, &target), None, "another chain");
    assert_eq!(sums.changed_since(&Stamp::default(), &target), None, "nothing yet");
    assert_eq!(sums.changed_since(&Stamp::off_branch(own.position), &target), None);
    // A process that has just begun knows nothing of what was written before.
    let dir = pair.master_dir.path().to_owned();
    drop(pair.master);
    let reopened = Database::open(&dir, Options::default()).unwrap();
    assert_eq!(reopened.sums().changed_since(&own, &target), None);
}

#[test]
fn list_that_leaves_out_new_pages_is_refused() {
    let mut pair = filled();
    pair.commit("INSERT INTO t SELECT NULL, randomblob(900) FROM t LIMIT 100");
    let out = changed(&pair).unwrap();
    let staging = pair.backup.open_staging().unwrap();
    let rejoin = pair.backup.begin_rejoin(staging, KEY, out.target().clone()).unwrap();
    let mut list = out.changed().unwrap().to_vec();
    list.pop();
    assert!(matches!(rejoin.only(list), Err(StoreError::Exchange(_))));
    assert!(pair.backup.must_compare_all());
}
