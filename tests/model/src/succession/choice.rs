//! What may happen in a state.
//!
//! A machine reads what has arrived straight from what was sent. Which messages have arrived is chosen by which steps
//! are taken: a step that needs none of them can be taken at any time. Messages to a machine in its present role
//! change nothing but what it may do next, so nothing is lost by this.

use super::{
    Succession,
    log::{Entry, Log},
    state::{Message, Node, Record, Role, State},
};
use crate::{
    machines::{Id, Set},
    mistake::Mistake,
};

/// One step of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It stands in the next term.
    Stand(Id),
    /// It votes (R1).
    Vote(Id, Id, u8),
    /// It wins by these grants (R3 to R5).
    Win(Id, Set),
    /// It accepts a record (R6).
    Accept(Id, Record),
    /// The master proposes a sync set and members (R8, R9).
    Propose(Id, Set, Set),
    /// The master takes a write.
    Write(Id),
    /// The master acknowledges a write (R7).
    Acknowledge(Id, u8),
    /// A data member takes transactions, or a copy (R6, R12).
    Receive(Id, u8, Log),
    /// What a data member has taken is on its disk.
    Sync(Id),
    /// It ends, and starts again with what is on its disk.
    Crash(Id),
    /// The master gives up for an heir.
    Goodbye(Id, Id),
    /// Its disk is put back to what it held at the beginning. Only by mistake.
    Restore(Id),
    /// It ends, and its disk keeps only so many of its transactions.
    Forget(Id, u32),
    /// It hears what is acknowledged.
    Learn(Id, Log),
}

/// All that can happen in a state.
pub(super) fn enabled(model: &Succession, state: &State, actions: &mut Vec<Action>) {
    for (id, node) in (0..).zip(&state.nodes) {
        if model.data.has(id) && node.term < model.last_term && !matches!(node.role, Role::Master { .. }) {
            actions.push(Action::Stand(id));
        }
        if node.seen != node.disk {
            actions.push(Action::Sync(id));
        }
        // A candidate that crashes may do what one may do that isn't elected, and no more.
        let reigns = matches!(node.role, Role::Master { .. });
        if node.seen != node.disk || reigns || model.mistake.is_some() && node.role == Role::Candidate {
            actions.push(Action::Crash(id));
        }
        if model.is(Mistake::RestoredDisk) {
            actions.push(Action::Restore(id));
        }
        if model.forgets && state.forgot.is_none() && model.data.has(id) {
            actions.extend((0..node.disk.len()).map(|len| Action::Forget(id, len)));
        }
        for message in &state.sent {
            arrival(model, id, node, message, actions);
        }
        match node.role {
            Role::Follower => {}
            Role::Candidate => wins(model, state, id, node, actions),
            Role::Master { committed, serving } => {
                master(model, state, id, node, committed, serving, actions)
            }
        }
    }
}

/// What a message may make a machine do.
fn arrival(model: &Succession, id: Id, node: &Node, message: &Message, actions: &mut Vec<Action>) {
    match *message {
        Message::Grant { term, to, from, .. } => {
            let free = term > node.term || term == node.term && node.voted_for.is_none();
            if from == to && to != id && free {
                actions.push(Action::Vote(id, to, term));
            }
        }
        Message::Accepted { record, from } if from == record.master && from != id => {
            let term_allows = record.term >= node.term || model.is(Mistake::RecordOfLowerTerm);
            if term_allows && record > node.record {
                actions.push(Action::Accept(id, record));
            }
        }
        Message::Append { term, from, log } if from != id && model.data.has(id) => {
            let term_allows = term >= node.term || model.is(Mistake::TransactionOfLowerTerm);
            let reigns = matches!(node.role, Role::Master { .. }) && term <= node.term;
            if term_allows && !reigns && !node.seen.starts_with(log) {
                actions.push(Action::Receive(id, term, log));
            }
        }
        Message::Acknowledged { from, log } if from != id && log.position() > node.known.position() => {
            actions.push(Action::Learn(id, log));
        }
        _ => {}
    }
}

/// Who has voted for it.
pub(super) fn grants_of(state: &State, term: u8, id: Id) -> Set {
    granted(state, term, id).fold(Set::default(), |set, (from, _)| set.with(from))
}

/// R4: whether one of these voters, or the candidate itself, knows something to be acknowledged that lies beyond its end.
pub(super) fn lacks(model: &Succession, state: &State, id: Id, grants: Set) -> bool {
    let node = &state.nodes[usize::from(id)];
    let known = |grants: Set| {
        state.sent.iter().filter_map(move |message| match *message {
            Message::Grant { term, to, from, known, .. }
                if (term, to) == (node.term, id) && grants.has(from) =>
            {
                Some(known)
            }
            _ => None,
        })
    };
    model.forgets && known(grants).any(|known| known.position() > node.seen.position())
}

/// The highest record among a candidate's grants, its own included.
pub(super) fn highest(state: &State, node: &Node, id: Id, grants: Set) -> Record {
    granted(state, node.term, id)
        .filter(|&(from, _)| grants.has(from))
        .map(|(_, record)| record)
        .fold(node.record, Record::max)
}

fn granted(state: &State, in_term: u8, whom: Id) -> impl Iterator<Item = (Id, Record)> {
    state.sent.iter().filter_map(move |message| match *message {
        Message::Grant { term, to, from, record, .. } if (term, to) == (in_term, whom) => {
            Some((from, record))
        }
        _ => None,
    })
}

fn wins(model: &Succession, state: &State, id: Id, node: &Node, actions: &mut Vec<Action>) {
    let all = grants_of(state, node.term, id);
    for grants in all.subsets().filter(|grants| grants.has(id)) {
        let record = highest(state, node, id, grants);
        let electing = if model.is(Mistake::MajorityOfOwnRecord) { node.record } else { record };
        let eligible = if model.is(Mistake::EligibilityOfOwnRecord) { node.record } else { record };
        let whole = !lacks(model, state, id, grants) || model.is(Mistake::LossIgnored);
        let may_reign = eligible.sync.has(id) || model.is(Mistake::NoEligibility);
        if electing.members.majority_in(grants) && may_reign && whole {
            actions.push(Action::Win(id, grants));
        }
    }
}

/// Whom an acknowledgement waits for besides the master (R7).
pub(super) fn awaited(model: &Succession, id: Id, committed: Record, proposed: Record) -> Set {
    let all = match model.mistake {
        Some(Mistake::AcknowledgeOnCommitted) => committed.sync,
        Some(Mistake::AcknowledgeOnProposed) => proposed.sync,
        Some(Mistake::AcknowledgeOnOwnDisk) => Set::default(),
        _ => committed.sync.union(proposed.sync),
    };
    all.minus(Set::of(&[id]))
}

fn master(
    model: &Succession,
    state: &State,
    id: Id,
    node: &Node,
    committed: Option<Record>,
    serving: bool,
    actions: &mut Vec<Action>,
) {
    let proposed = node.record;
    let (Some(committed), true) = (committed, serving) else { return };
    let stored = |len| {
        awaited(model, id, committed, proposed).minus(state.stored_by(node.term, node.seen, len)).is_empty()
    };
    let begun = node.begun();
    if state.next_write < model.writes {
        actions.push(Action::Write(id));
    }
    for (len, entry) in (1..).zip(node.seen.entries()).skip(begun as usize) {
        if let Entry::Write(write) = entry
            && state.acknowledged[usize::from(write)] == 0
            && (node.disk.len() >= len || model.is(Mistake::AcknowledgeWithoutOwnDisk))
            && stored(len)
        {
            actions.push(Action::Acknowledge(id, write));
        }
    }
    if committed == proposed || model.is(Mistake::TwoProposals) {
        proposals(model, state, id, node, proposed, actions);
    }
    if model.stalls {
        let both = proposed.sync.iter().filter(|&heir| heir != id && committed.sync.has(heir));
        actions.extend(both.map(|heir| Action::Goodbye(id, heir)));
    } else if model.handover && committed == proposed {
        let all = node.seen.len();
        let has_all = state.stored_by(node.term, node.seen, all);
        for heir in proposed.sync.iter().filter(|&heir| heir != id) {
            if has_all.has(heir) || model.is(Mistake::GoodbyeTooEarly) {
                actions.push(Action::Goodbye(id, heir));
            }
        }
    }
}

/// The sync sets and members a master may propose next: any that R8 allows. R9's timeout and R10's choice are left
/// open, so all they could choose is tried.
fn proposals(
    model: &Succession,
    state: &State,
    id: Id,
    node: &Node,
    last: Record,
    actions: &mut Vec<Action>,
) {
    if last.version >= model.last_version {
        return;
    }
    // Everything from before the reign with its first transaction, and everything acknowledged in it (R8).
    let needed = (1..)
        .zip(node.seen.entries())
        .filter(|&(_, entry)| match entry {
            Entry::Reign(term) => term == node.term,
            Entry::Write(write) => state.acknowledged[usize::from(write)] > 0,
        })
        .map(|(len, _)| len)
        .max()
        .unwrap_or(0);
    let able = if model.is(Mistake::GrowTooEarly) {
        model.data
    } else if model.is(Mistake::GrowDuringCopy) {
        let has = |&each: &Id| state.nodes[usize::from(each)].seen.starts_with(node.seen.prefix(needed));
        Set::of(&model.data.iter().filter(has).collect::<Vec<_>>())
    } else {
        state.stored_by(node.term, node.seen, needed)
    };
    let by_two = model.is(Mistake::ChangeByTwo) || model.is(Mistake::ChangeByTwoByNewMajority);
    let apart = if by_two { 2 } else { 1 };
    let changes =
        model.memberships.iter().copied().filter(|new| {
            new.has(id) && new.minus(last.members).union(last.members.minus(*new)).len() <= apart
        });
    for members in changes.chain([last.members]) {
        let choice = last.sync.union(able).with(id).and(members);
        for sync in choice.subsets().filter(|sync| sync.has(id)) {
            if (sync, members) != (last.sync, last.members) {
                actions.push(Action::Propose(id, sync, members));
            }
        }
    }
}
