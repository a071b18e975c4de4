//! Leases, restarts, goodbyes and word of a process's end: rules R2, R6 and R11, and what I1, I5 and I6 say about time.
//!
//! Records and transactions are left out: who wins a majority serves at once, and has everything (I2 is the matter of
//! `succession`). Time passes in steps. In each step every clock advances by one or two units, whichever it likes, so of
//! two clocks one may run twice as fast as the other for as long as it wants; the drift margin is chosen accordingly. A
//! machine that sleeps is one that takes no step while time passes.
//!
//! A vote counts as soon as it is given: its voter is bound from then on, so that it comes later only means that the
//! candidate wins later. The same goes for what is asked: a request is answered when it arrives, which may be at any time
//! while the candidate stands. A machine stands whenever it may, so pre-votes (R2) change nothing but how often.

mod rules;
pub mod state;

use stateright::{Model, Property};

use self::{
    rules::Action,
    state::{MOST, Machine, Record, Role, State},
};
use crate::{
    machines::{Id, Set},
    mistake::Mistake,
};

/// How long a voter honours a lease, in units of its clock, unless its configuration says otherwise.
pub const PROMISE: u8 = 4;

/// How long a master relies on a promise of this length, in units of its clock: shorter, as its clock may run at half the
/// voter's speed.
pub const fn lease(promise: u8) -> u8 {
    promise / 2
}

/// The model and its bounds.
#[derive(Debug, Clone)]
pub struct Leases {
    /// How many machines vote.
    pub machines: u8,
    /// Who may stand. Machine 0 reigns in term 1 at the beginning.
    pub candidates: Set,
    /// The last term anyone stands in.
    pub last_term: u8,
    /// Who votes at the beginning.
    pub members: Set,
    /// Who may vote later; the members change one at a time. Empty if they stay, and records are left out.
    pub memberships: Vec<Set>,
    /// The last version of a record in each reign.
    pub last_version: u8,
    /// Records travel in heartbeats only: whoever accepts one honours the master's lease from then on.
    pub records_in_heartbeats: bool,
    /// The last machine is a backup that calls itself current, on the word of a master that serves: as of its own answer that
    /// the master had when it sent the heartbeat.
    pub currency: bool,
    /// Answers to heartbeats may be late. An answer in time gives the master the same lease, only earlier, so this matters
    /// to mistakes alone.
    pub late_answers: bool,
    /// Clocks may run at different speeds.
    pub drift: bool,
    /// Machines may crash.
    pub crashes: bool,
    /// Masters may say goodbye.
    pub goodbyes: bool,
    /// Word of its computer, with the cluster's key, may show that a master's process has ended.
    pub end_notices: bool,
    /// Connections to anyone may be refused and reset, as seen by any of the others: by a firewall, a port forwarder that ends,
    /// or because the process has ended. Nobody can tell which, so by the rules that changes nothing.
    pub firewalls: bool,
    /// How long each machine's configuration lets it honour a lease: at the beginning the first, after a restart any. As a
    /// master it relies on none for longer.
    pub lengths: [&'static [u8]; MOST],
    /// A record counts as committed only when the leases of its voters last as long as the lease that was counted before.
    /// Of use where a lease is counted once ([`Mistake::LeaseOutlivesChange`]).
    pub commit_covered: bool,
    /// The rule left out.
    pub mistake: Option<Mistake>,
}

impl Leases {
    /// Two machines that may reign and one that only votes.
    pub fn three() -> Self {
        Self {
            machines: 3,
            candidates: Set::of(&[0, 1]),
            last_term: 2,
            members: Set::of(&[0, 1, 2]),
            memberships: Vec::new(),
            last_version: 1,
            records_in_heartbeats: false,
            currency: false,
            late_answers: true,
            drift: true,
            crashes: true,
            goodbyes: false,
            end_notices: false,
            firewalls: false,
            lengths: [&[PROMISE]; MOST],
            commit_covered: false,
            mistake: None,
        }
    }

    /// Three voters, the last of which may be left out and then another one taken in. All clocks run at one speed, and
    /// nobody crashes: that is looked at with the members as they are.
    pub fn changing_voters() -> Self {
        Self {
            machines: 4,
            memberships: vec![Set::of(&[0, 1]), Set::of(&[0, 1, 3])],
            last_version: 3,
            late_answers: false,
            drift: false,
            crashes: false,
            ..Self::three()
        }
    }

    /// Three voters and a backup that doesn't vote (one that is marked absent and comes back).
    pub fn currency() -> Self {
        Self { machines: 4, currency: true, late_answers: false, drift: false, ..Self::three() }
    }

    /// A master whose own configuration would let it rely on a lease for longer than the others honour one, and voters that are
    /// restarted with another length, shorter or longer.
    pub fn differing_lengths() -> Self {
        let mut lengths: [&[u8]; MOST] = [&[PROMISE]; MOST];
        lengths[1] = &[2, 4];
        lengths[2] = &[4, 2];
        Self { lengths, late_answers: false, ..Self::three() }
    }

    /// Voters change from those that honour a lease for long to those that do so for a short time.
    pub fn changing_lengths() -> Self {
        let lengths: [&[u8]; MOST] = [&[6], &[2], &[6], &[2], &[2]];
        Self { lengths, records_in_heartbeats: true, commit_covered: true, ..Self::changing_voters() }
    }

    /// The same with a rule left out.
    pub fn with(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Whether the machine answers clients.
    fn answers(&self, state: &State, id: Id) -> bool {
        let machine = &state.machines[usize::from(id)];
        match machine.role {
            Role::Master { committed: None, .. } | Role::Follower | Role::Candidate { .. } => false,
            Role::Master { .. } if self.is(Mistake::AnswerWithoutLease) => true,
            // It sees so many links closed that no majority would be left.
            Role::Master { .. }
                if !machine.record.members.majority_in(machine.record.members.minus(machine.closed)) =>
            {
                false
            }
            Role::Master { counted, .. } if self.is(Mistake::LeaseOutlivesChange) => counted > 0,
            Role::Master { grants, committed: Some(committed), .. } => {
                let granted = granted(&grants).with(id);
                // The majority of either record will do.
                committed.members.majority_in(granted) || machine.record.members.majority_in(granted)
            }
            Role::Retired { grants } => machine.record.members.majority_in(granted(&grants).with(id)),
        }
    }
}

/// Whose leases haven't run out.
fn granted(grants: &[u8]) -> Set {
    (0..).zip(grants).filter(|&(_, &left)| left > 0).fold(Set::default(), |set, (id, _)| set.with(id))
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let record = Record { term: 1, version: 1, members: self.members };
        let lengths = self.lengths.iter().take(usize::from(self.machines));
        let mut machines: Vec<_> =
            lengths.map(|lengths| Machine::new(1, Some(0), record, lengths[0])).collect();
        machines[0].role = Role::master(0, Some(record));
        vec![State {
            machines,
            proposed: Vec::new(),
            acknowledged: 0,
            current: false,
            misled: false,
            goodbyes: Set::default(),
            just_now: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        rules::enabled(self, state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        rules::apply(self, &mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1 one master answers at a time", |model: &Self, state: &State| {
                answering(model, state).count() <= 1
            }),
            Property::always("I5 no read misses an acknowledged write", |model: &Self, state: &State| {
                answering(model, state).all(|machine| machine.term >= state.acknowledged)
            }),
            Property::sometimes("the second reign acknowledges", |_, state: &State| state.acknowledged > 1),
            Property::sometimes("a lease runs out", |model: &Self, state: &State| {
                state.acknowledged == 1
                    && state.machines[0].reigns(1)
                    && answering(model, state).next().is_none()
            }),
        ];
        if self.mistake.is_none() {
            properties.push(Property::always("I6 who answers is protected from elections", protected));
        }
        if self.currency {
            properties.push(Property::always("I5 no backup is current without all", |_, state: &State| {
                !state.misled
            }));
            properties
                .push(Property::sometimes("a backup is current in the second reign", |_, state: &State| {
                    state.current
                }));
        }
        if !self.memberships.is_empty() {
            properties.push(Property::sometimes(
                "all changes are committed",
                |model: &Self, state: &State| {
                    state.machines.iter().any(|machine| {
                        let last = model.memberships.last();
                        matches!(machine.role, Role::Master { committed: Some(record), .. }
                        if Some(&record.members) == last)
                    })
                },
            ));
        }
        if self.goodbyes {
            properties.push(Property::sometimes(
                "after a goodbye the next master answers at once",
                |model: &Self, state: &State| {
                    state.just_now
                        && answering(model, state).any(|machine| state.goodbyes.has(machine.term - 1))
                },
            ));
        }
        properties
    }
}

fn answering<'a>(model: &'a Leases, state: &'a State) -> impl Iterator<Item = &'a Machine> {
    (0..).zip(&state.machines).filter(|&(id, _)| model.answers(state, id)).map(|(_, machine)| machine)
}

/// Whether a majority, the master among them, gives no vote to anyone else as long as a master answers.
fn protected(model: &Leases, state: &State) -> bool {
    (0..model.machines).filter(|&id| model.answers(state, id)).all(|master| {
        let bound = (0..)
            .zip(&state.machines)
            .filter(|&(id, machine)| id == master || machine.promise > 0 || machine.wait > 0)
            .fold(Set::default(), |set, (id, _)| set.with(id));
        let machine = &state.machines[usize::from(master)];
        let committed = match machine.role {
            Role::Master { committed: Some(committed), .. } => committed.members.majority_in(bound),
            _ => false,
        };
        committed || machine.record.members.majority_in(bound)
    })
}
