//! Members come, go, move and fall silent, one at a time.

use std::time::Duration;

use tanist_replication::{Effect, Message};
use tanist_replication::{Event, Member, MemberChange, Rank, Term, message::VoteRequest};

use super::{FIVE, LONG, SHORT, THREE, TWO, founded, settle, write};
use crate::cluster::{Cluster, Setup, set};

const NINE: &[(&str, u32)] =
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 7), ("h", 8), ("i", 9)];

fn member(name: &str, rank: u32) -> Member {
    Member {
        id: name.parse().unwrap(),
        rank: Rank(rank),
        peer_addresses: vec![],
        urls: vec![],
        absent: false,
    }
}

fn change(c: &mut Cluster, node: usize, change: MemberChange) -> Result<(), String> {
    c.machines[node].change = None;
    c.deliver(node, Event::ChangeMembers(change));
    c.run_until(LONG * 2, |c| c.machines[node].change.is_some());
    c.verify();
    c.machines[node].change.clone().expect("an answer")
}

fn voters(c: &Cluster) -> usize {
    c.record().members.iter().filter(|member| !member.absent).count()
}

/// A cluster without its last machine, which then comes for the first time.
fn without_the_last(members: &[(&'static str, u32)]) -> Cluster {
    let mut c = founded(Setup::new(members));
    let last = members.len() - 1;
    let id = c.machines[last].id.clone();
    change(&mut c, 0, MemberChange::Remove(id)).unwrap();
    c.crash(last, false);
    c.machines[last].hard = None;
    c.lose_replica(last);
    c.run(SHORT); // for its last words
    c
}

#[test]
fn removed_machine_disturbs_nobody_and_does_not_count() {
    let mut c = founded(Setup::new(THREE));
    let id = c.machines[2].id.clone();
    change(&mut c, 0, MemberChange::Remove(id)).unwrap();
    assert_eq!(c.record().members.len(), 2);
    c.run(LONG);
    assert_eq!(c.check.opened.len(), 1, "it asks in vain");
    // Its word counts for nothing: a alone is no majority of a and b.
    c.crash(1, true);
    c.run(LONG);
    assert_eq!(c.serving(), None);
    c.start(1);
    c.await_master(LONG);
    write(&mut c);
    settle(c);
}

#[test]
fn machine_of_the_sync_set_is_replaced_before_it_is_removed() {
    let mut c = founded(Setup::new(THREE));
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    let id = c.machines[1].id.clone();
    change(&mut c, 0, MemberChange::Remove(id)).unwrap();
    assert_eq!(c.sync_set(0), set(&["a", "c"]));
    write(&mut c);
    settle(c);
}

#[test]
fn one_of_two_can_be_removed_and_the_other_goes_on_alone() {
    let mut c = founded(Setup::new(TWO));
    let id = c.machines[1].id.clone();
    change(&mut c, 0, MemberChange::Remove(id)).unwrap();
    c.crash(1, true);
    c.run(LONG);
    assert_eq!(c.serving(), Some(0));
    write(&mut c);
    settle(c);
}

#[test]
fn new_machine_gets_the_data_and_then_counts() {
    let mut c = without_the_last(THREE);
    change(&mut c, 0, MemberChange::Add(member("c", 3))).unwrap();
    c.run(SHORT);
    assert_eq!(voters(&c), 2, "it hasn't answered yet, and costs nobody the majority");
    c.start(2);
    c.run_until(LONG, |c| voters(c) == 3).unwrap();
    c.crash(0, true);
    c.await_master(LONG);
    write(&mut c);
    settle(c);
}

#[test]
fn machine_that_was_removed_may_come_back_with_its_old_data() {
    let mut c = founded(Setup::new(THREE));
    let id = c.machines[2].id.clone();
    change(&mut c, 0, MemberChange::Remove(id)).unwrap();
    for _ in 0..10 {
        write(&mut c);
    }
    c.crash(2, false);
    c.start(2);
    change(&mut c, 0, MemberChange::Add(member("c", 3))).unwrap();
    c.run_until(LONG, |c| voters(c) == 3).unwrap();
    settle(c);
}

#[test]
fn witness_becomes_data_member_and_back_without_a_pause_in_service() {
    let mut c = founded(Setup::new(FIVE));
    let before = c.check.opened.len();
    change(&mut c, 0, MemberChange::Update(member("b", 0))).unwrap();
    assert_eq!(c.sync_set(0), set(&["a", "c"]), "a witness holds nothing");
    change(&mut c, 0, MemberChange::Update(member("b", 2))).unwrap();
    c.run(LONG);
    assert_eq!(c.sync_set(0), set(&["a", "b"]));
    assert_eq!(c.check.opened.len(), before);
    settle(c);
}

#[test]
fn change_that_cannot_be_is_refused_with_the_reason() {
    let mut c = founded(Setup::new(&[("a", 1), ("b", 2), ("w", 0)]));
    let cases = [
        (MemberChange::Remove("z".parse().unwrap()), "z is no member"),
        (MemberChange::Remove("a".parse().unwrap()), "a is the master: hand the throne over first"),
        (MemberChange::Update(member("a", 0)), "a is the master: hand the throne over first"),
        (MemberChange::Update(member("w", 2)), "rank 2 is b's"),
        (MemberChange::Add(member("d", 2)), "rank 2 is b's"),
        (MemberChange::Add(member("b", 9)), "b is a member already"),
    ];
    for (wish, why) in cases {
        assert_eq!(change(&mut c, 0, wish), Err(why.to_owned()));
    }
    let id = c.machines[2].id.clone();
    assert_eq!(change(&mut c, 1, MemberChange::Remove(id)), Err("this machine isn't the master".to_owned()));
    settle(c);
}

#[test]
fn removal_that_no_majority_would_survive_is_given_up() {
    let mut c = founded(Setup::new(FIVE));
    c.crash(3, true);
    c.crash(4, true);
    c.run(LONG);
    let id = c.machines[2].id.clone();
    let refused = change(&mut c, 0, MemberChange::Remove(id)).unwrap_err();
    assert!(refused.contains("no majority of the old and of the new voters answers"), "{refused}");
    assert_eq!(c.record().members.len(), 5);
    c.start(3);
    c.start(4);
    settle(c);
}

#[test]
fn nine_machines_lost_one_after_another_serve_down_to_the_last_pair() {
    let mut setup = Setup::new(NINE);
    setup.voter_timeout = Some(Duration::from_secs(3));
    let mut c = founded(setup);
    for left in (2..9).rev() {
        let (master, _) = c.await_master(LONG);
        let node = (0..9).rev().find(|node| c.machines[*node].running() && *node != master).unwrap();
        // Now and then the master itself.
        c.crash(if left % 3 == 0 { master } else { node }, true);
        c.await_master(LONG);
        c.run_until(LONG, |c| voters(c) == left).unwrap_or_else(|| c.fail(&format!("{left} voters")));
        write(&mut c);
    }
    assert_eq!(c.machines.iter().filter(|machine| machine.running()).count(), 2);
    for node in 0..9 {
        c.start(node);
    }
    c.run_until(LONG, |c| voters(c) == 9).unwrap();
    settle(c);
}

#[test]
fn word_of_an_absent_machine_does_not_elect() {
    let mut setup = Setup::new(FIVE);
    setup.voter_timeout = Some(Duration::from_secs(3));
    let mut c = founded(setup);
    for node in [3, 4] {
        c.crash(node, true);
    }
    c.run_until(LONG, |c| voters(c) == 3).unwrap();
    c.crash(0, true);
    c.crash(1, true);
    c.crash(2, true);
    for node in [0, 3, 4] {
        c.start(node);
    }
    c.run(LONG * 2);
    assert_eq!(c.serving(), None, "a has three of five, but only itself of the three that count");
    c.start(1);
    c.await_master(LONG);
    settle(c);
}

#[test]
fn machine_that_was_away_while_others_came_hears_the_candidate_it_never_knew() {
    let mut c = without_the_last(&[("a", 1), ("b", 2), ("w", 0), ("c", 3)]);
    c.crash(1, true);
    c.start(3);
    change(&mut c, 0, MemberChange::Add(member("c", 3))).unwrap();
    c.run_until(LONG, |c| voters(c) == 4 && c.sync_set(0) == set(&["a", "c"])).unwrap();
    c.crash(0, true);
    c.run(LONG);
    assert_eq!(c.serving(), None, "c and w are two of four");
    c.start(1);
    let (master, _) = c.await_master(LONG);
    assert_eq!(
        c.name(master),
        "c",
        "b holds less, and has never heard of c, which shows it the record with both"
    );
    c.start(0);
    settle(c);
}

#[test]
fn removed_machine_is_not_heard() {
    let mut c = founded(Setup::new(THREE));
    let id = c.machines[2].id.clone();
    let old = c.record();
    change(&mut c, 0, MemberChange::Remove(id.clone())).unwrap();
    let message = Message::Vote(VoteRequest { term: Term(99), record: old, position: None });
    for node in 0..2 {
        let effects = c.effects_of(node, Event::Message { from: id.clone(), message: message.clone() });
        assert!(!effects.iter().any(|e| matches!(e, Effect::Send { to, .. } if *to == id)), "{effects:?}");
    }
    assert_eq!(c.machines[1].hard.as_ref().unwrap().term, Term(1));
    settle(c);
}

#[test]
fn machines_that_moved_while_they_stood_are_recorded_where_they_are_now() {
    let mut c = founded(Setup::new(THREE));
    for node in 0..3 {
        c.crash(node, true);
    }
    for node in 0..3 {
        let own = &mut c.machines[node].config.members[node];
        own.peer_addresses = vec![format!("new:{node}")];
        own.urls = vec![format!("http://new:{node}")];
    }
    for node in 0..3 {
        c.start(node);
    }
    let moved = |c: &Cluster| {
        let members = c.record().members;
        members.iter().enumerate().all(|(node, member)| member.urls == [format!("http://new:{node}")])
    };
    c.run_until(LONG, moved).unwrap();
    assert_eq!(c.record().members[1].peer_addresses, ["new:1"]);
    settle(c);
}

#[test]
fn absurdly_many_addresses_are_not_recorded() {
    let mut c = founded(Setup::new(THREE));
    c.crash(2, true);
    c.machines[2].config.members[2].urls = vec!["http://x".to_owned(); 100];
    c.start(2);
    c.run(LONG);
    assert!(c.record().members[2].urls.is_empty());
    settle(c);
}

#[test]
fn address_of_another_member_is_refused() {
    let mut c = without_the_last(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let at = |name: &str, rank: u32| {
        let mut member = member(name, rank);
        member.peer_addresses = vec!["x:1".to_owned()];
        member
    };
    change(&mut c, 0, MemberChange::Add(at("d", 4))).unwrap();
    let refused = change(&mut c, 0, MemberChange::Update(at("c", 3))).unwrap_err();
    assert_eq!(refused, "peer address x:1 is d's");
}

#[test]
fn data_members_change_places_in_the_order_of_succession() {
    let mut c = founded(Setup::new(THREE));
    change(&mut c, 0, MemberChange::Update(member("c", 1))).unwrap();
    let ranks: Vec<_> = c.record().members.iter().map(|member| member.rank.0).collect();
    assert_eq!(ranks, [3, 2, 1]);
    c.run_until(LONG, |c| c.sync_set(0) == set(&["a", "c"])).unwrap();
    c.crash(0, true);
    let (master, _) = c.await_master(LONG);
    assert_eq!(c.name(master), "c");
    c.start(0);
    settle(c);
}
