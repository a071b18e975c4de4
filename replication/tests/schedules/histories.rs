//! The history checker itself: what it must refuse, and that what it accepts has a linearization by plain search.

use tanist_replication::{Position, Stamp, Term, Txid};

use crate::cluster::{
    Rng,
    history::{Answer, Call, History, Op, State},
};

fn stamp(txid: usize) -> Stamp {
    let term = Term(u64::from(txid > 0));
    Stamp { position: Position { term, txid: Txid(txid as u64) }, ..Stamp::default() }
}

fn op(call: Call, invoked: u64, returned: Option<(u64, Answer, usize)>) -> Op {
    Op {
        client: 0,
        call,
        keyed: true,
        invoked,
        returned: returned.map(|(at, answer, txid)| (at, answer, stamp(txid).position)),
        attempt: 1,
        untouched: false,
        over: true,
    }
}

fn check(ops: Vec<Op>, branch: &[u64]) -> Result<(), String> {
    let branch: Vec<_> = branch.iter().enumerate().map(|(index, write)| (stamp(index + 1), *write)).collect();
    History { ops }.check(&branch)
}

const WRITE: Call = Call::Write { register: 0, value: 5 };
const READ: Call = Call::Read { register: 0 };
const APPEND: Call = Call::Append { list: 0, value: 7 };
const LIST: Call = Call::ReadList { list: 0 };

#[test]
fn read_that_misses_an_answered_write_is_found() {
    let write = op(WRITE, 0, Some((10, Answer::Done, 1)));
    check(vec![write.clone(), op(READ, 20, Some((30, Answer::Value(5), 1)))], &[1]).unwrap();
    check(vec![write.clone(), op(READ, 5, Some((30, Answer::Value(0), 0)))], &[1]).unwrap();
    check(vec![write.clone(), op(READ, 20, Some((30, Answer::Value(0), 0)))], &[1]).unwrap_err();
    check(vec![write, op(READ, 20, Some((30, Answer::Value(0), 1)))], &[1]).unwrap_err();
}

#[test]
fn read_that_goes_back_is_found() {
    let first = op(READ, 20, Some((30, Answer::Value(5), 1)));
    let second = op(READ, 40, Some((50, Answer::Value(0), 0)));
    let unknown = op(WRITE, 0, None);
    check(vec![unknown.clone(), first.clone(), second], &[1]).unwrap_err();
    check(vec![unknown, first], &[1]).unwrap();
}

#[test]
fn write_of_unknown_outcome_may_come_late_or_never_but_not_twice_nor_early() {
    let unknown = op(APPEND, 50, None);
    check(vec![unknown.clone()], &[]).unwrap();
    check(vec![unknown.clone(), op(LIST, 60, Some((70, Answer::List(vec![]), 0)))], &[1]).unwrap();
    check(vec![unknown.clone()], &[1, 1]).unwrap_err();
    let before = op(LIST, 10, Some((20, Answer::List(vec![7]), 1)));
    check(vec![unknown, before], &[1]).unwrap_err();
}

#[test]
fn answered_write_that_is_nowhere_and_refused_write_that_is_somewhere_are_found() {
    check(vec![op(APPEND, 0, Some((10, Answer::Done, 1)))], &[0]).unwrap_err();
    check(vec![op(APPEND, 0, Some((10, Answer::Done, 4)))], &[1]).unwrap_err();
    let refused = Op { untouched: true, ..op(APPEND, 0, None) };
    check(vec![refused.clone()], &[]).unwrap();
    check(vec![refused], &[1]).unwrap_err();
}

#[test]
fn comparison_is_answered_by_what_was_there() {
    let set = |expected| Call::CompareAndSet { register: 0, expected, value: 9 };
    check(vec![op(set(0), 0, Some((10, Answer::Set(true), 1)))], &[1]).unwrap();
    check(vec![op(set(3), 0, Some((10, Answer::Set(false), 1)))], &[1]).unwrap();
    check(vec![op(set(3), 0, Some((10, Answer::Set(true), 1)))], &[1]).unwrap_err();
}

/// Wing and Gong: tries every order that real time allows.
fn has_linearization(ops: &[Op], done: u32, state: &State) -> bool {
    if ops.iter().enumerate().all(|(index, op)| done >> index & 1 == 1 || op.returned.is_none()) {
        return true;
    }
    let open = |index: &usize| done >> index & 1 == 0;
    let first_end =
        (0..ops.len()).filter(open).filter_map(|index| Some(ops[index].returned.as_ref()?.0)).min();
    (0..ops.len()).filter(open).any(|index| {
        let op = &ops[index];
        if first_end.is_some_and(|end| end < op.invoked) {
            return false;
        }
        let mut state = state.clone();
        let answer = state.run(op.call);
        op.returned.as_ref().is_none_or(|(_, told, _)| *told == answer)
            && has_linearization(ops, done | 1 << index, &state)
    })
}

/// A history of a machine that mostly does right, and the order in which it wrote.
fn random_history(rng: &mut Rng) -> (Vec<Op>, Vec<u64>) {
    let (mut state, mut branch, mut ops) = (State::default(), vec![], vec![]);
    let mut now = 0;
    for number in 1..=6 {
        let call = match rng.below(5) {
            0 => Call::Write { register: 0, value: number },
            1 => Call::CompareAndSet { register: 0, expected: rng.below(3), value: number },
            2 => Call::Append { list: 0, value: number },
            3 => READ,
            _ => LIST,
        };
        now += rng.below(10);
        let (invoked, took) = (now.saturating_sub(rng.below(15)), rng.below(12));
        let wrong = rng.chance(60);
        let mut answer = if wrong { State::default().answer(call) } else { state.answer(call) };
        if !call.reads() && !rng.chance(80) {
            answer = if wrong { answer } else { state.run(call) };
            branch.push(number);
        }
        let told = call.reads() || rng.chance(800);
        let lag = if rng.chance(60) { 1 } else { 0 };
        ops.push(op(call, invoked, told.then(|| (now + took, answer, branch.len().saturating_sub(lag)))));
    }
    (ops, branch)
}

#[test]
fn whatever_is_accepted_has_a_linearization() {
    let mut rng = Rng::new(3);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let (ops, branch) = random_history(&mut rng);
        if check(ops.clone(), &branch).is_ok() {
            accepted += 1;
            assert!(has_linearization(&ops, 0, &State::default()), "{ops:?} {branch:?}");
        } else {
            refused += 1;
        }
    }
    assert!(accepted > 4000 && refused > 4000, "{accepted} accepted, {refused} refused");
}
