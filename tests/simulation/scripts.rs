//! What random schedules don't show: losses of disks, since then acknowledged writes may go with them, and messages that
//! only a second mistake would send. Scripts that end well, unless the core makes a mistake.

use std::time::Duration;

use tanist_replication::{Event, Message};

use crate::cluster::{Cluster, Setup};

const LONG: Duration = Duration::from_secs(10);

type Script = (&'static str, fn() -> Option<String>);

pub(crate) const SCRIPTS: [Script; 5] = [
    ("lost record", machine_that_lost_its_record_does_not_count),
    ("lost replica", machine_that_lost_its_replica_does_not_win),
    ("lost WAL", machine_that_lost_its_wal_does_not_win),
    ("lost replicas", machine_that_knows_of_its_loss_helps_found_no_cluster),
    ("forked append", transaction_of_another_branch_is_not_stored),
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
    c.start(1);
    must_not_serve(c, "though it holds nothing")
}

/// What b had stored it remembers, and that it holds less by now.
fn machine_that_lost_its_wal_does_not_win() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("w", 0)]);
    c.crash(1, false);
    c.lose_tail(1, 2);
    c.crash(0, true);
    c.start(1);
    c.deliver(1, Event::Lost(true));
    must_not_serve(c, "though it holds less than it had stored")
}

/// a and b have forgotten what they held, c hasn't.
fn machine_that_knows_of_its_loss_helps_found_no_cluster() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    for node in 0..3 {
        c.crash(node, true);
        c.lose_replica(node);
    }
    for node in 0..3 {
        c.start(node);
        c.deliver(node, Event::Lost(node == 2));
    }
    must_not_serve(c, "founded over data that is lost")
}

fn transaction_of_another_branch_is_not_stored() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("c", 3)]);
    let term = c.record().key.term;
    let mut branch = c.machines[1].store.clone();
    branch.content.pop();
    branch.commit(term, 999);
    let transaction = branch.commit(term, 1000);
    let from = c.machines[0].id.clone();
    c.deliver(1, Event::Message { from, message: Message::Append { term, transaction } });
    c.check.failure.take()
}
