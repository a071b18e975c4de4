//! What may happen, and what it does.

use super::{
    Leases, lease,
    state::{Heartbeat, MOST, Machine, Record, Role, State},
};
use crate::{
    machines::{Id, Set},
    mistake::Mistake,
};

/// No lease is counted for longer.
const MOST_LENGTH: u8 = 8;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes; these clocks advance by two units, the others by one.
    Pass(Set),
    /// A master sends a heartbeat to all.
    Beat(Id),
    /// The master's heartbeat comes to a voter, which promises and answers (R6, R11).
    Promise(Id, Id),
    /// The voter's answer comes to the master.
    Answer(Id, Id),
    /// It stands in the next term.
    Stand(Id),
    /// A voter votes for a candidate.
    Vote(Id, Id),
    /// It votes, but the candidate never gets to know.
    VoteInVain(Id, Id),
    /// A machine accepts a record (R6).
    Accept(Id, Record),
    /// The master proposes other members.
    Propose(Id, Set),
    /// A candidate finds that a majority has voted for it.
    Win(Id),
    /// A master acknowledges a write.
    Acknowledge(Id),
    /// It ends, and starts again with what is on its disk, and a configuration that lets it honour leases for so long.
    Crash(Id, u8),
    /// The master of a reign shuts its gate and says goodbye.
    Goodbye(Id),
    /// A machine hears the goodbye of a reign.
    Hear(Id, u8),
    /// Word of the end of a process of the master that the machine honours.
    Ended(Id),
    /// A connection to the master that the machine honours is refused.
    Refused(Id),
    /// All links between the two are reset, as the first one sees it.
    Reset(Id, Id),
}

/// All that can happen in a state.
pub(super) fn enabled(model: &Leases, state: &State, actions: &mut Vec<Action>) {
    let all = Set((1 << model.machines) - 1);
    if model.drift {
        actions.extend(all.subsets().map(Action::Pass));
    } else {
        actions.push(Action::Pass(all));
    }
    for (id, machine) in (0..).zip(&state.machines) {
        // A machine votes for nobody, itself included, while it is bound.
        let bound = machine.promise > 0 && !model.is(Mistake::VoteDespiteLease) || machine.wait > 0;
        let reigns = matches!(machine.role, Role::Master { .. });
        if model.candidates.has(id) && machine.term < model.last_term && !reigns && !bound {
            actions.push(Action::Stand(id));
        }
        for (other, candidate) in (0..).zip(&state.machines) {
            let stands = matches!(candidate.role, Role::Candidate { .. });
            let free = candidate.term > machine.term
                || candidate.term == machine.term && machine.voted_for.is_none();
            if other != id && stands && free && !bound {
                actions.push(Action::Vote(id, other));
                if !model.memberships.is_empty() {
                    actions.push(Action::VoteInVain(id, other));
                }
            }
        }
        for &record in &state.proposed {
            if record.term >= machine.term && record > machine.record {
                actions.push(Action::Accept(id, record));
            }
        }
        if model.crashes {
            let lengths = model.lengths[usize::from(id)];
            actions.extend(lengths.iter().map(|&length| Action::Crash(id, length)));
        }
        for term in state.goodbyes.iter() {
            actions.push(Action::Hear(id, term));
        }
        if machine.promise > 0 {
            // The process that sent the heartbeat is gone.
            let lives = state.machines.iter().any(|master| master.reigns(machine.promised));
            if model.end_notices && !lives {
                actions.push(Action::Ended(id));
            }
            if model.firewalls {
                actions.push(Action::Refused(id));
            }
        }
        if model.firewalls && model.is(Mistake::ClosedLinksAreDeath) {
            let others = (0..model.machines).filter(|&other| other != id && !machine.closed.has(other));
            actions.extend(others.map(|other| Action::Reset(id, other)));
        }
        match machine.role {
            Role::Follower | Role::Retired { .. } => {}
            Role::Candidate { votes, highest } => {
                if highest.members.majority_in(votes) {
                    actions.push(Action::Win(id));
                }
            }
            Role::Master { heartbeat, committed, .. } => {
                reign(model, state, id, heartbeat, actions);
                if committed == Some(machine.record) && machine.record.version < model.last_version {
                    let old = machine.record.members;
                    let changed = |new: &Set| old.minus(*new).union(new.minus(old)).len() == 1;
                    let next = model.memberships.iter().copied().filter(changed);
                    actions.extend(next.map(|members| Action::Propose(id, members)));
                }
            }
        }
    }
}

fn reign(model: &Leases, state: &State, id: Id, heartbeat: Option<Heartbeat>, actions: &mut Vec<Action>) {
    let master = &state.machines[usize::from(id)];
    actions.push(Action::Beat(id));
    if let Some(Heartbeat { answered, .. }) = heartbeat {
        for (other, voter) in (0..).zip(&state.machines) {
            let term_allows = voter.term <= master.term || model.is(Mistake::HeartbeatOfLowerTerm);
            if other != id && term_allows {
                actions.push(Action::Promise(id, other));
            }
            if answered[usize::from(other)] > 0 {
                actions.push(Action::Answer(id, other));
            }
        }
    }
    if model.answers(state, id) {
        actions.push(Action::Acknowledge(id));
    }
    if model.goodbyes {
        actions.push(Action::Goodbye(id));
    }
}

/// Does it.
pub(super) fn apply(model: &Leases, state: &mut State, action: Action) {
    step(model, state, action);
    for (id, machine) in (0..).zip(&mut state.machines) {
        commit(model, id, machine);
    }
    // What nobody can accept any more makes no difference.
    let State { machines, proposed, .. } = state;
    proposed.retain(|record| {
        machines.iter().any(|machine| machine.term <= record.term && machine.record < *record)
    });
}

/// What a master does as soon as it may: it learns that its record is committed, and counts its leases.
fn commit(model: &Leases, id: Id, machine: &mut Machine) {
    let record = machine.record;
    let Role::Master { committed, accepted, grants, counted, .. } = &mut machine.role else { return };
    let long = |left: u8| {
        let granted = (0..).zip(&*grants).filter(|&(_, &each)| each >= left);
        record.members.majority_in(granted.fold(Set::of(&[id]), |set, (id, _)| set.with(id)))
    };
    let now = || (1..=MOST_LENGTH).filter(|&left| long(left)).max().unwrap_or(0);
    if *committed != Some(record) {
        let old_agree = committed.is_none_or(|old| old.members.majority_in(*accepted));
        let covered = !model.commit_covered || now() >= *counted;
        if record.members.majority_in(*accepted) && old_agree && covered {
            *committed = Some(record);
        }
    }
    if model.is(Mistake::LeaseOutlivesChange) {
        *counted = now().max(*counted);
    }
}

fn step(model: &Leases, state: &mut State, action: Action) {
    match action {
        Action::Pass(fast) => {
            for (id, machine) in (0..).zip(&mut state.machines) {
                pass(model, machine, 1 + u8::from(fast.has(id)));
            }
            state.just_now = false;
        }
        Action::Beat(id) => {
            let serving =
                model.currency && (model.answers(state, id) || model.is(Mistake::ServingWithoutLease));
            let machine = &mut state.machines[usize::from(id)];
            if let Role::Master { heartbeat, echo, .. } = &mut machine.role {
                let (left, answered, echo) = (longest(model, machine.length), [0; MOST], *echo);
                *heartbeat = Some(Heartbeat { left, answered, serving, echo });
            }
        }
        Action::Promise(id, voter) => {
            promise(model, state, id, voter);
            if model.currency && voter == model.machines - 1 {
                call_current(model, state, id);
            }
            if !model.late_answers {
                answer(model, state, id, voter);
            }
        }
        Action::Answer(id, voter) => answer(model, state, id, voter),
        Action::Stand(id) => {
            let machine = &mut state.machines[usize::from(id)];
            machine.term += 1;
            machine.voted_for = Some(id);
            machine.role = Role::Candidate { votes: Set::of(&[id]), highest: machine.record };
        }
        Action::Vote(id, candidate) => {
            vote(state, id, candidate);
            let record = state.machines[usize::from(id)].record;
            if let Role::Candidate { votes, highest } = &mut state.machines[usize::from(candidate)].role {
                *votes = votes.with(id);
                *highest = record.max(*highest);
            }
        }
        Action::VoteInVain(id, candidate) => vote(state, id, candidate),
        Action::Win(id) => {
            let machine = &mut state.machines[usize::from(id)];
            let Role::Candidate { highest, .. } = machine.role else { return };
            if model.memberships.is_empty() {
                machine.role = Role::master(id, Some(machine.record));
            } else {
                machine.role = Role::master(id, None);
                machine.record = Record { term: machine.term, version: 1, members: highest.members };
                state.proposed.push(machine.record);
                state.proposed.sort_unstable();
            }
        }
        Action::Accept(id, record) => {
            let machine = &mut state.machines[usize::from(id)];
            machine.adopt(record.term);
            machine.record = record;
            if model.records_in_heartbeats {
                honour(model, machine, record.term);
            }
            for master in &mut state.machines {
                if let Role::Master { accepted, .. } = &mut master.role
                    && master.record == record
                {
                    *accepted = accepted.with(id);
                }
            }
        }
        Action::Propose(id, members) => {
            let machine = &mut state.machines[usize::from(id)];
            machine.record = Record { version: machine.record.version + 1, members, ..machine.record };
            state.proposed.push(machine.record);
            state.proposed.sort_unstable();
            if let Role::Master { accepted, .. } = &mut machine.role {
                *accepted = Set::of(&[id]);
            }
        }
        Action::Acknowledge(id) => {
            state.acknowledged = state.acknowledged.max(state.machines[usize::from(id)].term);
        }
        Action::Crash(id, length) => {
            let machine = &mut state.machines[usize::from(id)];
            let (kept, term) = (machine.kept, machine.term);
            *machine = Machine::new(term, machine.voted_for, machine.record, length);
            if !model.is(Mistake::NoRestartWait) {
                let wait = if model.is(Mistake::WaitForgotten) { length } else { kept };
                (machine.wait, machine.waits_for) = (wait, term);
            }
            if !model.is(Mistake::PromiseLoweredEarly) {
                machine.keep(kept);
            }
        }
        Action::Goodbye(id) => {
            let machine = &mut state.machines[usize::from(id)];
            machine.role = match machine.role {
                Role::Master { grants, .. } if model.is(Mistake::GoodbyeKeepsServing) => {
                    Role::Retired { grants }
                }
                _ => Role::Follower,
            };
            state.goodbyes = state.goodbyes.with(machine.term);
            state.just_now = true;
        }
        Action::Hear(id, term) => {
            let machine = &mut state.machines[usize::from(id)];
            let any = model.is(Mistake::GoodbyeOfAnyTerm);
            if machine.promised <= term || any {
                machine.release();
            }
            if machine.waits_for <= term || any {
                machine.stop_waiting();
            }
        }
        Action::Ended(id) => state.machines[usize::from(id)].release(),
        // It may be a firewall.
        Action::Refused(id) => {
            let machine = &state.machines[usize::from(id)];
            let master = (0..).zip(&state.machines).find(|(_, other)| other.reigns(machine.promised));
            // The end of a process closes all its links.
            let closed = master.is_none_or(|(master, _)| machine.closed.has(master));
            if model.is(Mistake::RefusalIsDeath) || model.is(Mistake::ClosedLinksAreDeath) && closed {
                state.machines[usize::from(id)].release();
            }
        }
        Action::Reset(id, other) => {
            let machine = &mut state.machines[usize::from(id)];
            machine.closed = machine.closed.with(other);
        }
    }
}

fn vote(state: &mut State, id: Id, candidate: Id) {
    let term = state.machines[usize::from(candidate)].term;
    let voter = &mut state.machines[usize::from(id)];
    voter.adopt(term);
    voter.voted_for = Some(candidate);
}

/// How long a master relies on such a promise.
fn longest(model: &Leases, length: u8) -> u8 {
    if model.is(Mistake::NoDriftMargin) { length } else { lease(length) }
}

/// A heartbeat comes to a voter.
fn promise(model: &Leases, state: &mut State, id: Id, voter: Id) {
    let term = state.machines[usize::from(id)].term;
    let machine = &mut state.machines[usize::from(voter)];
    honour(model, machine, term);
    let length = machine.length;
    if let Role::Master { heartbeat: Some(heartbeat), .. } = &mut state.machines[usize::from(id)].role {
        heartbeat.answered[usize::from(voter)] = length;
    }
}

/// A backup that has all that the master says is acknowledged calls itself current, and answers.
fn call_current(model: &Leases, state: &mut State, id: Id) {
    let now = state.acknowledged + 1;
    let master = &mut state.machines[usize::from(id)];
    if let Role::Master { heartbeat: Some(heartbeat), echo: newest, .. } = &mut master.role {
        let from_receipt = model.is(Mistake::CurrentFromReceipt);
        let echo = if from_receipt { now } else { heartbeat.echo };
        if heartbeat.serving && echo > 0 {
            state.current |= master.term > 1;
            state.misled |= echo - 1 > master.term;
        }
        *newest = now;
    }
}

/// The voter's answer comes to the master, whose lease counts from when it sent the heartbeat (R11), for as long as the voter
/// has promised.
fn answer(model: &Leases, state: &mut State, id: Id, voter: Id) {
    let machine = &mut state.machines[usize::from(id)];
    let own = longest(model, machine.length);
    if let Role::Master { heartbeat: Some(heartbeat), grants, .. } = &mut machine.role {
        let promised = std::mem::take(&mut heartbeat.answered[usize::from(voter)]);
        let promised = longest(model, promised).min(own);
        let counted = if model.is(Mistake::LeaseUnpromised) { own } else { promised };
        let passed = own - heartbeat.left;
        let from_receipt = model.is(Mistake::LeaseFromReceipt);
        let grant = &mut grants[usize::from(voter)];
        *grant = if from_receipt { counted } else { counted.saturating_sub(passed).max(*grant) };
    }
}

/// It adopts the term of a master (R6), and honours its lease.
fn honour(model: &Leases, machine: &mut Machine, term: u8) {
    machine.adopt(term);
    let mut bound = if machine.promised == term { machine.promise } else { 0 };
    if machine.wait > 0 {
        // What it may have promised before its restart was promised to this master, or to an older one: then it has been of no
        // use to that one since this one was elected.
        if term == machine.waits_for && !model.is(Mistake::PromiseShortened) {
            bound = bound.max(machine.wait);
        }
        machine.stop_waiting();
    }
    if !model.is(Mistake::PromiseUnsaved) {
        machine.kept = machine.kept.max(machine.length);
    }
    (machine.promise, machine.promised) = (machine.length.max(bound), term);
}

/// A machine's clock advances.
fn pass(model: &Leases, machine: &mut Machine, by: u8) {
    machine.outlive(by);
    machine.promise = machine.promise.saturating_sub(by);
    if machine.promise == 0 {
        machine.release();
    }
    machine.wait = machine.wait.saturating_sub(by);
    if machine.wait == 0 {
        machine.stop_waiting();
    }
    match &mut machine.role {
        Role::Master { heartbeat, grants, counted, .. } => {
            run_down(grants, by);
            *counted = counted.saturating_sub(by);
            if let Some(sent) = heartbeat {
                sent.left = sent.left.saturating_sub(by);
                // It grants nothing any more.
                if sent.left == 0 && !model.currency && !model.is(Mistake::LeaseFromReceipt) {
                    *heartbeat = None;
                }
            }
        }
        Role::Retired { grants } => run_down(grants, by),
        Role::Follower | Role::Candidate { .. } => {}
    }
}

fn run_down(grants: &mut [u8], by: u8) {
    for left in grants {
        *left = left.saturating_sub(by);
    }
}
