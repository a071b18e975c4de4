//! What each step does: the rules themselves, besides when a step may be taken (`choice`).

use super::{
    Succession,
    choice::{Action, awaited, highest, lacks},
    log::{Entry, Log},
    state::{Message, Node, Record, Role, State},
};
use crate::{
    machines::{Id, Set},
    mistake::Mistake,
};

/// Does it.
pub(super) fn apply(model: &Succession, state: &mut State, action: Action) {
    step(model, state, action);
    for id in 0..state.nodes.len() {
        progress(model, state, id as Id);
    }
    if model.forget {
        forget(model, state);
    }
}

fn step(model: &Succession, state: &mut State, action: Action) {
    match action {
        Action::Stand(id) => {
            let node = &mut state.nodes[usize::from(id)];
            node.term += 1;
            node.voted_for = Some(id);
            node.role = Role::Candidate;
            let (term, record, known) = (node.term, node.record, knows(model, node));
            state.send(Message::Grant { term, to: id, from: id, record, known });
        }
        Action::Vote(id, to, term) => {
            let node = &mut state.nodes[usize::from(id)];
            adopt(node, term);
            node.voted_for = Some(to);
            let (record, known) = (node.record, knows(model, node));
            state.send(Message::Grant { term, to, from: id, record, known });
        }
        Action::Win(id, grants) => win(model, state, id, grants),
        Action::Accept(id, record) => {
            let node = &mut state.nodes[usize::from(id)];
            if record.term >= node.term {
                adopt(node, record.term);
            }
            node.record = record;
            state.send(Message::Accepted { record, from: id });
        }
        Action::Propose(id, sync, members) => {
            let node = &mut state.nodes[usize::from(id)];
            node.record = Record { version: node.record.version + 1, sync, members, ..node.record };
            let record = node.record;
            state.send(Message::Accepted { record, from: id });
        }
        Action::Write(id) => {
            let node = &mut state.nodes[usize::from(id)];
            node.seen = node.seen.with(Entry::Write(state.next_write));
            state.next_write += 1;
            let (term, log) = (node.term, node.seen);
            state.send(Message::Append { term, from: id, log });
        }
        Action::Acknowledge(id, write) => {
            let node = &mut state.nodes[usize::from(id)];
            state.acknowledged[usize::from(write)] = node.term + 1;
            if let (true, Some(len)) = (model.forgets, node.seen.len_to(Entry::Write(write))) {
                node.known = node.seen.prefix(len);
                let log = node.known;
                state.send(Message::Acknowledged { from: id, log });
            }
        }
        Action::Receive(id, term, log) => receive(model, state, id, term, log),
        Action::Sync(id) => sync(model, state, id),
        Action::Crash(id) => {
            let old = model.start[usize::from(id)].record;
            crash(model, &mut state.nodes[usize::from(id)], old);
        }
        Action::Goodbye(id, heir) => {
            let node = &mut state.nodes[usize::from(id)];
            node.role = Role::Follower;
            let (term, log) = (node.term, node.seen);
            state.send(Message::Goodbye { term, heir, log });
        }
        Action::Forget(id, len) => {
            state.forgot = Some(id);
            let node = &mut state.nodes[usize::from(id)];
            node.disk = node.disk.prefix(len);
            node.seen = node.disk;
            node.role = Role::Follower;
        }
        Action::Learn(id, log) => state.nodes[usize::from(id)].known = log,
        Action::Restore(id) => state.nodes[usize::from(id)] = model.start[usize::from(id)],
    }
}

/// What a voter says is acknowledged.
fn knows(model: &Succession, node: &Node) -> Log {
    let ends_higher = node.disk.position() > node.known.position();
    if model.is(Mistake::EveryEndAcknowledged) && ends_higher { node.disk } else { node.known }
}

/// R6: takes over a higher term, and leaves whatever it was in the lower one.
fn adopt(node: &mut Node, term: u8) {
    if term > node.term {
        node.term = term;
        node.voted_for = None;
        node.role = Role::Follower;
    }
}

fn win(model: &Succession, state: &mut State, id: Id, grants: Set) {
    let node = state.nodes[usize::from(id)];
    let term = node.term;
    let old = highest(state, &node, id, grants);
    let heirs = match model.mistake {
        Some(Mistake::OldMasterKept) => old.sync,
        Some(Mistake::FirstRecordAlone) => Set::default(),
        _ => old.sync.minus(Set::of(&[old.master])),
    };
    let record = Record { term, version: 1, master: id, sync: heirs.with(id), members: old.members };
    state.heir_lacks |= state.sent.iter().any(|each| {
        matches!(*each, Message::Goodbye { term: last, heir, log }
            if (last + 1, heir) == (term, id) && !node.seen.starts_with(log))
    });
    state.loss_ignored |= model.forgets && lacks(model, state, id, grants);
    state.winners[usize::from(term)] = state.winners[usize::from(term)].with(id);
    let committed = model.is(Mistake::ServeBeforeCommit).then_some(record);
    let log = node.seen.with(Entry::Reign(term));
    state.nodes[usize::from(id)] =
        Node { record, seen: log, role: Role::Master { committed, serving: false }, ..node };
    state.send(Message::Accepted { record, from: id });
    state.send(Message::Append { term, from: id, log });
}

fn receive(model: &Succession, state: &mut State, id: Id, term: u8, log: Log) {
    let node = &mut state.nodes[usize::from(id)];
    if term >= node.term {
        adopt(node, term);
        node.role = Role::Follower;
    }
    if model.is(Mistake::CopyInPieces) && !log.starts_with(node.seen) {
        // The first piece is on disk; there is no database before the last one is.
        node.seen = Log::default();
        node.disk = Log::default();
        return;
    }
    // A continuation, or a copy that replaces everything when it is synced (R12).
    node.seen = log;
    if model.is(Mistake::ReportBeforeSync) {
        state.send(Message::Stored { term, from: id, log });
    }
}

/// A backup's report names the term it is in, so an older master doesn't count it (R6).
fn sync(model: &Succession, state: &mut State, id: Id) {
    let node = &mut state.nodes[usize::from(id)];
    let (old, log) = (node.disk, node.seen);
    node.disk = log;
    let term = match log.term() {
        Some(older) if model.is(Mistake::TransactionOfLowerTerm) => older,
        _ => node.term,
    };
    let reports = !matches!(node.role, Role::Master { .. });
    state.went_back |= (0..)
        .zip(state.acknowledged)
        .any(|(write, acknowledged)| acknowledged > 0 && old.has_write(write) && !log.has_write(write));
    // A report without the reign's first transaction tells its master nothing.
    if reports && log.len_to(Entry::Reign(term)).is_some() {
        state.send(Message::Stored { term, from: id, log });
    }
}

fn crash(model: &Succession, node: &mut Node, old: Record) {
    node.role = Role::Follower;
    node.seen = node.disk;
    if model.is(Mistake::VoteNotDurable) {
        node.voted_for = None;
    }
    if model.is(Mistake::TermNotDurable) {
        node.term = node.record.term;
        node.voted_for = None;
    }
    if model.is(Mistake::RecordNotDurable) {
        node.record = old;
    }
}

/// What a master does as soon as it may: it learns that its record is committed, and begins to answer clients (R5).
///
/// A later moment would add nothing: it may do less before, and is asked for less.
fn progress(model: &Succession, state: &mut State, id: Id) {
    let node = state.nodes[usize::from(id)];
    let Role::Master { mut committed, mut serving } = node.role else { return };
    let proposed = node.record;
    if committed != Some(proposed) {
        let accepted = state.accepted_by(proposed);
        let old_agree = committed.is_none_or(|old| old.members.majority_in(accepted))
            || model.is(Mistake::ChangeByNewMajority)
            || model.is(Mistake::ChangeByTwoByNewMajority);
        if proposed.members.majority_in(accepted) && old_agree {
            committed = Some(proposed);
        }
    }
    if let (Some(committed), false) = (committed, serving) {
        let begun = node.begun();
        let others = awaited(model, id, committed, proposed);
        let own = node.disk.len() >= begun || model.is(Mistake::AcknowledgeWithoutOwnDisk);
        let stored = own && others.minus(state.stored_by(node.term, node.seen, begun)).is_empty();
        if stored || model.is(Mistake::ServeBeforeStored) {
            serving = true;
            for entry in node.seen.prefix(begun).entries() {
                if let Entry::Write(write) = entry
                    && state.shown[usize::from(write)] == 0
                {
                    state.shown[usize::from(write)] = node.term + 1;
                }
            }
            state.handed_over |= state.sent.iter().any(|each| {
                matches!(*each, Message::Goodbye { term, heir, .. } if (term + 1, heir) == (node.term, id))
            });
        }
    }
    state.nodes[usize::from(id)].role = Role::Master { committed, serving };
}

/// Drops the messages that nobody can use any more, so that states that differ in nothing else count as one.
///
/// Nobody's term goes back and nobody forgets a record or vote, so a message that is of no use now is of none later. By
/// mistake they do; to drop a message is to lose it then, which may happen at any time, so a counterexample remains one.
fn forget(model: &Succession, state: &mut State) {
    let State { nodes, sent, winners, .. } = state;
    let others = |id: Id| (0..).zip(nodes.iter()).filter(move |&(other, _)| other != id);
    let reigns =
        |term| nodes.iter().any(|node| node.term == term && matches!(node.role, Role::Master { .. }));
    sent.retain(|message| match *message {
        Message::Grant { term, to, from, .. } => {
            let candidate = nodes[usize::from(to)];
            let waits = candidate.term == term && candidate.role == Role::Candidate;
            let asks = from == to
                && others(to)
                    .any(|(_, voter)| voter.term < term || voter.term == term && voter.voted_for.is_none());
            waits || asks
        }
        Message::Accepted { record, from } => {
            let master = nodes[usize::from(record.master)];
            let waits = matches!(master.role, Role::Master { committed, .. }
                if master.record == record && committed != Some(record));
            let proposes = from == record.master
                && others(from).any(|(_, voter)| voter.term <= record.term && voter.record < record);
            waits || proposes
        }
        Message::Append { term, from, log } => others(from)
            .any(|(id, backup)| model.data.has(id) && backup.term <= term && !backup.disk.starts_with(log)),
        Message::Stored { term, .. } => reigns(term),
        Message::Acknowledged { from, log } => {
            others(from).any(|(_, each)| each.known.position() < log.position())
        }
        Message::Goodbye { term, heir, .. } => {
            term < model.last_term
                && nodes[usize::from(heir)].term <= term + 1
                && winners[usize::from(term) + 1].minus(Set::of(&[heir])).is_empty()
        }
    });
}
