//! Single messages at a backup: doubled, overtaken, missing, of another branch.

use std::time::Duration;

use tanist_replication::{Effect, Event, Message, Position, Stamp, Term, Transaction};

use super::{THREE, founded, settle};
use crate::cluster::{Cluster, Setup, store::Store};

/// The transactions that would follow on what `b` has, and the term they are sent in.
fn next(c: &Cluster, count: usize) -> (Term, Vec<Transaction>) {
    let term = c.machines[0].hard.as_ref().unwrap().term;
    let mut branch: Store = c.machines[1].store.clone();
    (term, (0..count).map(|n| branch.commit(term, 900 + n as u64)).collect())
}

fn append(c: &mut Cluster, term: Term, transaction: &Transaction) -> Vec<Effect> {
    let from = c.machines[0].id.clone();
    let acknowledged = Position::ZERO;
    let message = Message::Append { term, transaction: transaction.clone(), acknowledged };
    c.effects_of(1, Event::Message { from, message })
}

fn applied(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Apply(_))).count()
}

fn refused(effects: &[Effect]) -> Option<Stamp> {
    effects.iter().find_map(|e| match e {
        Effect::Send { message: Message::Refused(report), .. } => Some(report.stamp),
        _ => None,
    })
}

#[test]
fn doubled_append_is_ignored() {
    let mut c = founded(Setup::new(THREE));
    let (term, sent) = next(&c, 2);
    assert_eq!(applied(&append(&mut c, term, &sent[0])), 1);
    assert_eq!(applied(&append(&mut c, term, &sent[1])), 1);
    for transaction in &sent {
        let effects = append(&mut c, term, transaction);
        assert_eq!((applied(&effects), refused(&effects)), (0, None));
    }
}

#[test]
fn append_with_a_gap_is_refused_with_the_place_to_go_on_from() {
    let mut c = founded(Setup::new(THREE));
    let (term, sent) = next(&c, 3);
    let stands = c.stamp(1);
    let effects = append(&mut c, term, &sent[2]);
    assert_eq!((applied(&effects), refused(&effects)), (0, Some(stands)));
    assert_eq!(applied(&append(&mut c, term, &sent[0])), 1, "the next one is still welcome");
}

#[test]
fn append_of_another_branch_is_not_applied() {
    let mut c = founded(Setup::new(THREE));
    let (term, mut sent) = next(&c, 1);
    sent[0].previous.chain = crate::cluster::store::odd_chain(9);
    assert_eq!(applied(&append(&mut c, term, &sent[0])), 0);
}

#[test]
fn append_of_an_older_term_is_ignored() {
    let mut c = founded(Setup::new(THREE));
    c.crash(0, false);
    c.await_master(Duration::from_secs(5));
    let mut branch: Store = c.machines[2].store.clone();
    let late = branch.commit(Term(1), 900);
    let from = c.machines[0].id.clone();
    let message = Message::Append { term: Term(1), transaction: late, acknowledged: Position::ZERO };
    let effects = c.effects_of(2, Event::Message { from, message });
    assert_eq!(applied(&effects), 0);
    c.start(0);
    settle(c);
}

#[test]
fn lost_transactions_are_sent_again_although_nothing_new_follows() {
    let mut c = founded(Setup::new(THREE));
    c.write();
    c.network.ways[0][1].epoch += 1; // as if the bulk link were replaced and nobody told
    settle(c);
}
