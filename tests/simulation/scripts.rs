//! What random schedules don't show: losses of disks, since then acknowledged writes may go with them, and messages that
//! only a second mistake would send. Scripts that end well, unless the core makes a mistake.

use std::time::Duration;

use tanist_replication::{Event, Member, MemberChange, Message, Position, Rank};

use crate::cluster::{Cluster, Setup, hang::Hang};

const LONG: Duration = Duration::from_secs(10);

type Script = (&'static str, fn() -> Option<String>);

pub(crate) const SCRIPTS: [Script; 14] = [
    ("lost record", machine_that_lost_its_record_does_not_count),
    ("lost replica", machine_that_lost_its_replica_does_not_win),
    ("lost WAL", machine_that_lost_its_wal_does_not_win),
    ("lost replicas", machine_that_knows_of_its_loss_helps_found_no_cluster),
    ("forked append", transaction_of_another_branch_is_not_stored),
    ("shorter lease", voters_with_a_shorter_lease_wait_for_what_they_promised),
    ("shorter promise", voters_with_a_shorter_lease_hear_their_master_again),
    ("two restarts", voters_with_a_shorter_lease_start_twice),
    ("shorter voters", voters_that_promise_less_come_in_two_steps),
    ("refused for the living", firewall_refuses_for_a_master_that_serves),
    ("forgetful heir", heir_whose_disk_forgot_does_not_win),
    ("limping master", master_whose_bulk_reaches_nobody_leaves),
    ("slow backup", slow_backup_is_replaced),
    ("hung disk", master_whose_disk_hangs_is_relieved),
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

/// All promise for three seconds, of which the master makes use.
fn long_promises() -> Cluster {
    let mut setup = Setup::new(&[("a", 1), ("b", 2), ("c", 3)]);
    setup.leases = vec![Duration::from_secs(3); 3];
    let mut c = Cluster::new(setup);
    serve_a_while(&mut c);
    c
}

fn serve_a_while(c: &mut Cluster) {
    c.run_until(LONG, |c| c.serving().is_some());
    c.run(Duration::from_secs(1));
    c.write_acknowledged(LONG);
}

/// The two that aren't the master start again, now with a tenth of that.
fn restart_voters(c: &mut Cluster) {
    for node in [1, 2] {
        c.crash(node, true);
        c.set_lease(node, Duration::from_millis(300));
        c.start(node);
    }
}

/// The master is cut off: nobody may serve beside it.
fn cut_master(mut c: Cluster) -> Option<String> {
    c.isolate(0);
    c.run(LONG);
    c.check.failure.take()
}

fn voters_with_a_shorter_lease_wait_for_what_they_promised() -> Option<String> {
    let mut c = long_promises();
    c.isolate(0);
    restart_voters(&mut c);
    cut_master(c)
}

fn voters_with_a_shorter_lease_hear_their_master_again() -> Option<String> {
    let mut c = long_promises();
    restart_voters(&mut c);
    c.run(Duration::from_millis(150));
    cut_master(c)
}

fn voters_with_a_shorter_lease_start_twice() -> Option<String> {
    let mut c = long_promises();
    restart_voters(&mut c);
    c.run(Duration::from_millis(150));
    restart_voters(&mut c);
    cut_master(c)
}

/// The master counts on c, which promises much; then b, and after it d, which promise little, take c's place.
fn voters_that_promise_less_come_in_two_steps() -> Option<String> {
    let (long, short) = (Duration::from_secs(3), Duration::from_millis(300));
    let mut setup = Setup::new(&[("a", 1), ("b", 2), ("c", 0), ("d", 0)]);
    setup.leases = vec![long, short, long, short];
    let mut c = Cluster::new(setup);
    serve_a_while(&mut c);
    let change = |c: &mut Cluster, change| {
        c.machines[0].change = None;
        c.deliver(0, Event::ChangeMembers(change));
        c.run_until(LONG, |c| c.machines[0].change.is_some());
    };
    let ids: Vec<_> = c.machines.iter().map(|machine| machine.id.clone()).collect();
    change(&mut c, MemberChange::Remove(ids[3].clone()));
    c.run(Duration::from_millis(500));
    let d = Member { id: ids[3].clone(), rank: Rank(0), peer_addresses: vec![], urls: vec![], absent: false };
    change(&mut c, MemberChange::Remove(ids[2].clone()));
    change(&mut c, MemberChange::Add(d));
    c.run_until(LONG, |c| {
        c.record().members.len() == 3 && c.record().members.iter().all(|member| !member.absent)
    });
    c.run(Duration::from_millis(200));
    cut_master(c)
}

/// Its peer port rejects all that the others send, and what they have open with it is reset; it sees nothing of that.
fn firewall_refuses_for_a_master_that_serves() -> Option<String> {
    let mut setup = Setup::new(&[("a", 1), ("b", 2), ("c", 3)]);
    setup.timing.trust_refused = false;
    let mut c = Cluster::new(setup);
    serve_a_while(&mut c);
    for node in [1, 2] {
        c.cut_way(node, 0);
    }
    c.refuse_for_the_living(0, u64::MAX);
    c.run(LONG);
    c.check.failure.take()
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

/// All that it had acknowledged is on its backup, so another can serve.
fn master_whose_disk_hangs_is_relieved() -> Option<String> {
    let mut c = founded(&[("a", 1), ("b", 2), ("w", 0)]);
    c.hang(0, Hang::Sync);
    c.write();
    let relieved = c.run_until(LONG, |c| c.serving().is_some_and(|node| node != 0));
    let stays = || "R7: nobody acknowledges anything while the master's disk hangs".to_owned();
    c.check.failure.take().or_else(|| relieved.is_none().then(stays))
}
