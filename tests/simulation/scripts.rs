//! What random schedules don't show: losses of disks, since then acknowledged writes may go with them, and messages that
//! only a second mistake would send. Scripts that end well, unless the core makes a mistake.

use std::time::Duration;

use tanist_replication::{Event, Message, Position};

use crate::cluster::{Cluster, Setup};

const LONG: Duration = Duration::from_secs(10);

type Script = (&'static str, fn() -> Option<String>);

pub(crate) const SCRIPTS: [Script; 6] = [
    ("lost record", machine_that_lost_its_record_does_not_count),
    ("lost replica", machine_that_lost_its_replica_does_not_win),
    ("forked append", transaction_of_another_branch_is_not_stored),
    ("forgetful heir", heir_whose_disk_forgot_does_not_win),
    ("limping master", master_whose_bulk_reaches_nobody_leaves),
    ("slow backup", slow_backup_is_replaced),
];

fn founded(members: &[(&'static str, u32)]) -> Cluster {
    let mut c = Cluster::new(Setup::new(members));
    c.run_until(LONG, |c| c.serving().is_some());
    c.run(Duration::from_millis(500));
    for _ in 0..5 {
        c.write_acknowledged(LONG);
    }
    c.run(Duration::from_millis(500));
    c
}

fn must_not_serve(mut c: Cluster, why: &str) -> Option<String> {
    c.run(LONG * 2);
    let serves = c.serving().map(|node| format!("R3: {} serves: {why}", c.name(node)));
    c.check.failure.take().or(serves)
}

/// c may have forgotten that a newer record takes b out of the sync set.
fn machine_that_lost_its_record_does_not_count() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    c.crash(2, true);
    c.machines[2].hard = None;
    c.crash(0, true);
    c.start(2);
    must_not_serve(c, "with the vote of a machine that may have forgotten a record")
}

fn machine_that_lost_its_replica_does_not_win() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("w", 0)]);
    c.crash(1, true);
    c.lose_replica(1);
    c.crash(0, true);
    c.crash(2, true); // nor does the witness know any more what was acknowledged
    c.start(1);
    c.start(2);
    must_not_serve(c, "though it holds nothing")
}

fn transaction_of_another_branch_is_not_stored() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    let term = c.record().key.term;
    let mut branch = c.machines[1].store.clone();
    branch.content.pop();
    branch.commit(term, 999);
    let transaction = branch.commit(term, 1000);
    let from = c.machines[0].id.clone();
    let message = Message::Append { term, transaction, acknowledged: Position::ZERO };
    c.deliver(1, Event::Message { from, message });
    c.check.failure.take()
}

/// c was never in the sync set, and holds all that was acknowledged.
fn heir_whose_disk_forgot_does_not_win() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    c.run(Duration::from_secs(3));
    c.write_acknowledged(LONG);
    c.run(Duration::from_millis(500));
    for node in 0..3 {
        c.crash(node, true);
    }
    c.forget_newest(1, 2);
    c.start(1);
    c.start(2);
    must_not_serve(c, "though its disk forgot what c knows to be acknowledged")
}

fn master_whose_bulk_reaches_nobody_leaves() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    c.limp(0, true, 0);
    c.write_at(0);
    c.run(Duration::from_secs(5));
    let alone = c.sync_set(0).len() == 1 && c.serving() == Some(0);
    c.check.failure.take().or(alone.then(|| "R9: a acknowledges alone while b and c answer".to_owned()))
}

fn slow_backup_is_replaced() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    c.machines[1].disk_ns = (400_000_000, 400_000_000);
    for _ in 0..1000 {
        c.write();
        c.run(Duration::from_millis(10));
    }
    let waits = c.sync_set(0).contains("b");
    c.check.failure.take().or(waits.then(|| "R10: all wait for b, whose disk is slow".to_owned()))
}
