//! The sync set, or the majority, is lost for good, and an operator decides.

use tanist_replication::{Event, Member, MemberChange, MemberId, Term};

use super::{FIVE, LONG, SHORT, THREE, WITNESS, founded, settle, write};
use crate::cluster::{Cluster, Setup, set};

/// What the machine answers.
fn force(c: &mut Cluster, node: usize) -> Result<MemberId, String> {
    c.machines[node].handover = None;
    c.deliver(node, Event::Force { why: "asked to".to_owned() });
    c.run_until(LONG * 2, |c| c.machines[node].handover.is_some()).unwrap();
    c.verify();
    c.machines[node].handover.clone().unwrap()
}

#[test]
fn lost_sync_set_is_replaced_by_force_and_only_by_force() {
    let mut c = founded(Setup::new(FIVE));
    c.crash(0, true);
    c.crash(1, true);
    c.run(LONG);
    assert_eq!(c.serving(), None, "R4: neither c nor d nor e is in the sync set");
    let d = c.machines[3].id.clone();
    assert_eq!(force(&mut c, 3), Ok(d));
    assert_eq!(c.await_master(LONG).0, 3);
    write(&mut c);
    // The lost ones come back after all, and follow.
    c.start(0);
    c.start(1);
    settle(c);
}

#[test]
fn machine_that_holds_less_than_another_is_not_forced() {
    let mut c = founded(Setup::new(FIVE));
    c.crash(4, true);
    write(&mut c);
    c.run(SHORT);
    c.crash(0, true);
    c.crash(1, true);
    c.start(4);
    c.run(LONG);
    let refused = force(&mut c, 4).unwrap_err();
    assert!(refused.contains("holds more") && refused.contains("force that one"), "{refused}");
    assert_eq!(c.serving(), None);
    force(&mut c, 2).unwrap();
    c.await_master(LONG);
    write(&mut c);
    c.start(0);
    settle(c);
}

#[test]
fn force_is_refused_while_it_is_not_needed_or_cannot_help() {
    let mut c = founded(Setup::new(WITNESS));
    assert!(force(&mut c, 0).unwrap_err().contains("is the master already"));
    assert!(force(&mut c, 1).unwrap_err().contains("a reigns"));
    c.crash(0, true);
    c.await_master(LONG);
    assert!(force(&mut c, 2).unwrap_err().contains("it is a witness"));
    c.crash(1, true);
    c.crash(2, true);
    c.start(0);
    c.run(LONG);
    assert!(force(&mut c, 0).unwrap_err().contains("no majority"), "one of three");
    c.start(1);
    c.start(2);
    settle(c);
}

#[test]
fn lost_majority_is_left_behind_by_a_recovered_record() {
    let mut c = founded(Setup::new(FIVE));
    let ids: Vec<_> = c.machines.iter().map(|machine| machine.id.clone()).collect();
    for node in 0..5 {
        c.crash(node, true);
    }
    let hard = c.machines[1].hard.clone().unwrap();
    c.machines[1].hard = Some(hard.recovered(&ids[1], &[ids[1].clone(), ids[2].clone()]).unwrap());
    c.start(1);
    c.run(LONG);
    assert_eq!(c.serving(), None, "both of the two are needed");
    c.start(2);
    assert_eq!(c.await_master(LONG).0, 1);
    assert!(c.machines[1].hard.as_ref().unwrap().term > Term(1000));
    write(&mut c);
    // One of the lost is found again: it is let in only as a member.
    c.start(3);
    c.run(LONG);
    assert_eq!(c.serving(), Some(1));
    let member = Member { absent: true, ..hard.record.member(&ids[3]).unwrap().clone() };
    c.deliver(1, Event::ChangeMembers(MemberChange::Add(member)));
    c.run_until(LONG, |c| c.record().members.iter().filter(|member| !member.absent).count() == 3).unwrap();
    settle(c);
}

#[test]
fn recovery_that_makes_no_sense_is_refused() {
    let c = founded(Setup::new(THREE));
    let ids: Vec<_> = c.machines.iter().map(|machine| machine.id.clone()).collect();
    let hard = c.machines[0].hard.clone().unwrap();
    let stranger: MemberId = "z".parse().unwrap();
    assert!(hard.recovered(&ids[0], &[ids[0].clone(), stranger]).unwrap_err().contains("z was no member"));
    assert!(hard.recovered(&ids[0], &[ids[1].clone()]).unwrap_err().contains("a must be among the members"));
}

#[test]
fn machine_that_missed_the_last_records_learns_from_the_others_whom_they_wait_for() {
    let mut c = founded(Setup::new(FIVE));
    c.crash(4, true);
    c.crash(1, true);
    c.run_until(LONG, |c| c.sync_set(0) == set(&["a", "c"])).unwrap();
    c.run(SHORT);
    c.crash(0, true);
    c.crash(2, true);
    c.start(1);
    c.start(4);
    c.run(LONG);
    assert_eq!(c.serving(), None);
    for node in [1, 3, 4] {
        let status = c.machines[node].node.as_ref().unwrap().status();
        let notice = status.notice.unwrap();
        assert!(notice.contains("the acknowledged data is on a, c;"), "{}: {notice}", c.name(node));
        // Said alike: yes of these, and of the others nobody knows.
        let known: Vec<_> = status.holds_all.iter().map(|(id, holds)| (id.as_str(), *holds)).collect();
        assert_eq!(known, [("a", true), ("c", true)], "{}", c.name(node));
    }
    c.start(2);
    c.await_master(LONG);
    let reigns = c.serving().unwrap();
    let known = c.machines[reigns].node.as_ref().unwrap().status().holds_all;
    let sync_set = c.sync_set(reigns);
    assert_eq!(known.len(), 5, "a master knows it of all: {known:?}");
    assert!(known.iter().all(|(id, holds)| *holds == sync_set.contains(id.as_str())), "{known:?}");
    settle(c);
}
