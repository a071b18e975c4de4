//! Records, votes, transactions and disks: rules R1 and R3 to R9, R12, changes of members, and handover.
//!
//! Time is left out. Any machine may stand at any moment, a master may think any other lost at any moment, and a
//! message may be arbitrarily late, so whatever timeouts do is among what is visited. What rests on time (R2, R11) is
//! in `leases`; R10 only chooses among the sync sets that are all tried here.

mod choice;
mod forgetful;
pub mod log;
mod rules;
mod starts;
pub mod state;

use stateright::{Model, Property};

use self::{
    choice::Action,
    state::{Node, Role, State},
};
use crate::{machines::Set, mistake::Mistake};

/// The model and its bounds.
#[derive(Debug, Clone)]
pub struct Succession {
    /// The machines as they are at the beginning.
    pub start: Vec<Node>,
    /// Who holds a replica.
    pub data: Set,
    /// The last term anyone stands in.
    pub last_term: u8,
    /// The last version of a record in each reign.
    pub last_version: u8,
    /// How many client writes have been made at the beginning, all acknowledged in term 0 but the last of them.
    pub old_writes: u8,
    /// How many client writes there are in all.
    pub writes: u8,
    /// What the members may change to, one at a time; empty if they stay.
    pub memberships: Vec<Set>,
    /// Masters may hand over.
    pub handover: bool,
    /// One disk may forget the end of what was on it, and masters tell what is acknowledged.
    pub forgets: bool,
    /// Disks may never answer: a master may leave to any member of the sync set at any time, whatever that one has stored.
    pub stalls: bool,
    /// Messages that nobody can use any more are dropped, so that states that differ in nothing else count as one.
    pub forget: bool,
    /// The rule left out.
    pub mistake: Option<Mistake>,
}

impl Succession {
    /// The same with a rule left out.
    pub fn with(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

impl Model for Succession {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut acknowledged = [0; 4];
        for each in acknowledged.iter_mut().take(usize::from(self.old_writes.saturating_sub(1))) {
            *each = 1;
        }
        vec![State {
            nodes: self.start.clone(),
            sent: Vec::new(),
            next_write: self.old_writes,
            acknowledged,
            shown: acknowledged,
            winners: [Set::default(); 4],
            went_back: false,
            heir_lacks: false,
            handed_over: false,
            forgot: None,
            loss_ignored: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        choice::enabled(self, state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        rules::apply(self, &mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if self.forgets {
            return forgetful::properties();
        }
        let mut properties = vec![
            Property::always("I1 one master per term", |_, state: &State| {
                state.winners.iter().all(|winners| winners.len() <= 1)
            }),
            Property::always(
                "I2 acknowledged writes are in every later serving master",
                |_, state: &State| keeps(state, &state.acknowledged),
            ),
            Property::always(
                "what a reign begins with is in every later serving master",
                |_, state: &State| keeps(state, &state.shown),
            ),
            Property::always("I3 equal positions have equal content", |_, state: &State| {
                let mut logs = state.nodes.iter().flat_map(|node| [node.disk, node.seen]);
                while let Some(log) = logs.next() {
                    if !logs.clone().all(|other| log.agrees_with(other)) {
                        return false;
                    }
                }
                true
            }),
            Property::always("I4 no disk loses an acknowledged write", |_, state: &State| !state.went_back),
            Property::sometimes("a write is acknowledged", |_, state: &State| {
                state.acknowledged.iter().any(|&term| term > 1)
            }),
        ];
        if self.last_term > 1 {
            properties.extend([
                Property::sometimes("a later reign serves what was acknowledged", |_, state: &State| {
                    serving(state)
                        .any(|node| state.acknowledged.iter().any(|&term| term > 1 && term - 1 < node.term))
                }),
                Property::sometimes("two reigns serve", |_, state: &State| {
                    serving(state).any(|node| second(state, node.term))
                }),
                Property::sometimes("the second reign acknowledges", |_, state: &State| {
                    state.acknowledged.iter().any(|&term| term > 1 && second(state, term - 1))
                }),
            ]);
        }
        if self.handover {
            if !self.stalls {
                properties
                    .push(Property::always("an heir has all its predecessor held", |_, state: &State| {
                        !state.heir_lacks
                    }));
            }
            properties.push(Property::sometimes("an heir serves", |_, state: &State| state.handed_over));
        }
        if !self.memberships.is_empty() {
            properties.push(Property::sometimes(
                "a change of members is committed",
                |model: &Self, state: &State| {
                    state.nodes.iter().any(|node| {
                        matches!(node.role, Role::Master { committed: Some(record), .. }
                        if record.members != model.start[0].record.members)
                    })
                },
            ));
        }
        if self.old_writes > 0 {
            properties.push(Property::sometimes(
                "a copy replaces a replica",
                |model: &Self, state: &State| {
                    model.start.iter().zip(&state.nodes).any(|(old, new)| !new.disk.starts_with(old.disk))
                },
            ));
        }
        properties
    }
}

fn serving(state: &State) -> impl Iterator<Item = &Node> {
    state.nodes.iter().filter(|node| matches!(node.role, Role::Master { serving: true, .. }))
}

/// Whether each serving master holds the writes that are marked with a term before its own.
fn keeps(state: &State, marks: &[u8; 4]) -> bool {
    serving(state).all(|node| {
        (0..).zip(marks).all(|(write, &mark)| mark == 0 || mark > node.term || node.seen.has_write(write))
    })
}

/// Whether a reign of this term follows one that was won within the model.
fn second(state: &State, term: u8) -> bool {
    state.winners[..usize::from(term)].iter().any(|winners| !winners.is_empty())
}
