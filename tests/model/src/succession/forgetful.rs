//! Disks that forget: what a voter knows to be acknowledged is evidence against a candidate without it (R4).
//!
//! What is acknowledged may be lost then, where nobody who votes knows of it; so the properties are others: the evidence is true,
//! it is heeded, and it never keeps anyone from the throne who has lost nothing.

use stateright::Property;

use super::{
    Succession,
    choice::{grants_of, highest, lacks},
    log::{Entry, Log},
    state::{Role, State},
};
use crate::machines::{Id, Set};

pub(super) fn properties() -> Vec<Property<Succession>> {
    vec![
        Property::always("I1 one master per term", |_, state: &State| {
            state.winners.iter().all(|winners| winners.len() <= 1)
        }),
        Property::always("what is said to be acknowledged is", |_, state: &State| {
            state.nodes.iter().all(|node| is_acknowledged(state, node.known))
        }),
        Property::always(
            "nobody wins without what his voters know to be acknowledged",
            |_, state: &State| !state.loss_ignored,
        ),
        Property::always(
            "who has lost nothing is kept from no throne",
            |model: &Succession, state: &State| {
                candidates(state).all(|id| {
                    let holds_all = state.forgot.is_none() && eligible(state, id);
                    !holds_all || !lacks(model, state, id, everybody())
                })
            },
        ),
        Property::sometimes("a write is acknowledged", |_, state: &State| {
            state.acknowledged.iter().any(|&term| term > 1)
        }),
        Property::sometimes(
            "a disk that forgot costs its machine the throne",
            |model: &Succession, state: &State| {
                candidates(state).any(|id| {
                    state.forgot == Some(id) && eligible(state, id) && lacks(model, state, id, everybody())
                })
            },
        ),
        Property::sometimes("a reign follows that holds what was acknowledged", |_, state: &State| {
            state.forgot.is_some()
                && state
                    .nodes
                    .iter()
                    .any(|node| node.term > 1 && matches!(node.role, Role::Master { serving: true, .. }))
        }),
    ]
}

fn everybody() -> Set {
    Set(u8::MAX)
}

fn candidates(state: &State) -> impl Iterator<Item = Id> {
    (0..).zip(&state.nodes).filter(|(_, node)| node.role == Role::Candidate).map(|(id, _)| id)
}

/// R3 and R4, by the votes it has.
fn eligible(state: &State, id: Id) -> bool {
    let node = &state.nodes[usize::from(id)];
    let grants = grants_of(state, node.term, id);
    let record = highest(state, node, id, grants);
    record.members.majority_in(grants) && record.sync.has(id)
}

/// With a transaction all before it is acknowledged.
fn is_acknowledged(state: &State, log: Log) -> bool {
    let writes = log.entries().filter_map(|entry| match entry {
        Entry::Write(write) => Some(write),
        Entry::Reign(_) => None,
    });
    writes.last().is_none_or(|write| state.acknowledged[usize::from(write)] > 0)
}
