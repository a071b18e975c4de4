//! How members change: one at a time, by a record that majorities of the old and of the new voters accept.
//!
//! Owns what an operator may ask for, and which voters are counted: a machine that is silent for long is absent until
//! it answers again, so that the rest keeps its majority. Never touches the sync set of a member that stays
//! (`sync_set.rs`).

use crate::{
    effect::Effect,
    member::{Member, MemberId},
    node::Node,
    quorum,
    role::{Master, Phase, Role},
    succession::{RecordKey, SuccessionRecord},
    time::Time,
};

/// How many leases a change may take.
const LEASES: u32 = 10;
/// More members than this make elections slow for no gain.
const MOST_MEMBERS: usize = 63;
/// In a cluster of three, leaving one out only takes away the one who could help when the second fails.
const LEAST_MEMBERS: usize = 4;
/// With fewer voters the loss of one more could not be survived anyway.
const FEWEST_VOTERS: usize = 2;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// A new machine. It counts as a voter as soon as it answers.
    Add(Member),
    /// Another rank or other addresses. A data member that takes another's rank gives it its own.
    Update(Member),
    /// The machine leaves for good.
    Remove(MemberId),
}

impl MemberChange {
    fn id(&self) -> &MemberId {
        match self {
            MemberChange::Add(member) | MemberChange::Update(member) => &member.id,
            MemberChange::Remove(id) => id,
        }
    }

    /// Whether the machine holds no data afterwards.
    fn ends_data(&self) -> bool {
        match self {
            MemberChange::Add(_) => false,
            MemberChange::Update(member) => member.rank.is_witness(),
            MemberChange::Remove(_) => true,
        }
    }
}

/// A change under way.
#[derive(Debug)]
pub(crate) struct Pending {
    change: MemberChange,
    /// The record that makes it, once proposed.
    proposed: Option<RecordKey>,
    pub(crate) until: Time,
}

impl Master {
    /// A member that is about to lose its data, and so leaves the sync set first.
    pub(crate) fn leaving(&self) -> Option<&MemberId> {
        let change = &self.change.as_ref()?.change;
        change.ends_data().then(|| change.id())
    }
}

impl Node {
    /// Begins a change; answered by [`Effect::MembersChanged`].
    pub(crate) fn on_change_members(&mut self, change: MemberChange) {
        let (now, lease) = (self.now, self.config.timing.lease);
        let refused = self.refuse_change(&change).err();
        if let (None, Role::Master(master)) = (&refused, &mut self.role) {
            master.change =
                Some(Pending { change, proposed: None, until: now + lease.saturating_mul(LEASES) });
            self.review();
        }
        if let Some(why) = refused {
            self.out.push(Effect::MembersChanged(Err(why)));
        }
    }

    fn refuse_change(&self, change: &MemberChange) -> Result<(), String> {
        let Role::Master(master) = &self.role else { return Err("this machine isn't the master".to_owned()) };
        let (Phase::Serving, Some(record)) = (master.phase, &master.committed) else {
            return Err("the reign has only just begun".to_owned());
        };
        if let Some(pending) = &master.change {
            return Err(format!("a change of {} is under way", pending.change.id()));
        }
        let id = change.id();
        let known = record.member(id);
        let own = *id == self.config.id;
        match change {
            MemberChange::Add(_) if known.is_some() => return Err(format!("{id} is a member already")),
            MemberChange::Add(_) if record.members.len() >= MOST_MEMBERS => {
                return Err(format!("there are {MOST_MEMBERS} members already, which is the most"));
            }
            MemberChange::Update(_) | MemberChange::Remove(_) if known.is_none() => {
                return Err(format!("{id} is no member"));
            }
            change if own && change.ends_data() => {
                return Err(format!("{id} is the master: hand the throne over first"));
            }
            _ => {}
        }
        if let MemberChange::Add(member) | MemberChange::Update(member) = change
            && let Some((other, address)) =
                record.members.iter().filter(|other| other.id != *id).find_map(|other| {
                    let taken = |address: &&String| other.peer_addresses.contains(address);
                    Some((&other.id, member.peer_addresses.iter().find(taken)?))
                })
        {
            return Err(format!("peer address {address} is {other}'s"));
        }
        if let MemberChange::Add(member) | MemberChange::Update(member) = change
            && !member.rank.is_witness()
            && let Some(other) =
                record.members.iter().find(|other| other.rank == member.rank && other.id != *id)
            // Two data members change places; a newcomer has no place to give.
            && known.is_none_or(|known| known.rank.is_witness())
        {
            return Err(format!("rank {} is {}'s", member.rank.0, other.id));
        }
        Ok(())
    }

    /// The next record that the members ask for, if it can be committed with those who answer.
    pub(crate) fn plan_members(&self, master: &Master) -> Option<(SuccessionRecord, String)> {
        let committed = master.committed.as_ref()?;
        let (record, why) = self.changed(master, committed)?;
        let answers = |id: &MemberId| {
            *id == self.config.id
                || master
                    .peers
                    .get(id)
                    .filter(|peer| peer.accepted > RecordKey::BLANK) // else it wouldn't count in an election
                    .is_some_and(|peer| self.now.since(peer.last_answer) < self.config.timing.sync_timeout)
        };
        let possible = quorum::has_majority(committed, answers) && quorum::has_majority(&record, answers);
        possible.then_some((record, why))
    }

    fn changed(&self, master: &Master, committed: &SuccessionRecord) -> Option<(SuccessionRecord, String)> {
        if let Some(pending) = master.change.as_ref().filter(|pending| pending.proposed.is_none()) {
            let id = pending.change.id();
            if pending.change.ends_data() && committed.sync_set.contains(id) {
                return None; // another takes its place there first
            }
            let mut members = committed.members.clone();
            let place = members.iter().position(|member| member.id == *id);
            let why = match (&pending.change, place) {
                (MemberChange::Add(member), None) => {
                    members.push(Member { absent: true, ..member.clone() });
                    format!("{id} is added")
                }
                (MemberChange::Update(member), Some(place)) => {
                    let old = members[place].rank;
                    if !member.rank.is_witness()
                        && let Some(other) = members.iter_mut().find(|other| other.rank == member.rank)
                    {
                        other.rank = old;
                    }
                    members[place] = Member { absent: members[place].absent, ..member.clone() };
                    format!("{id} has changed")
                }
                (MemberChange::Remove(_), Some(place)) => {
                    members.remove(place);
                    format!("{id} is removed")
                }
                _ => return None,
            };
            return Some((committed.with_members(members), why));
        }
        let mut members = committed.members.clone();
        for member in &mut members {
            let moved = if member.id == self.config.id {
                self.moved(committed)
            } else {
                master.peers.get(&member.id).and_then(|peer| peer.moved.clone())
            };
            if let Some(to) = moved.filter(|to| member.has_moved(to)) {
                (member.peer_addresses, member.urls) = (to.peer, to.urls);
                let why = format!("{} has new addresses", member.id);
                return Some((committed.with_members(members), why));
            }
        }
        let (member, absent) = self.presence(master, committed)?;
        members.iter_mut().filter(|each| each.id == member).for_each(|each| each.absent = absent);
        let why = if absent {
            "has been silent for long and doesn't count"
        } else {
            "answers and counts as a voter"
        };
        Some((committed.with_members(members), format!("{member} {why}")))
    }

    /// Who is to be counted as a voter again, or no longer: the living first.
    fn presence(&self, master: &Master, committed: &SuccessionRecord) -> Option<(MemberId, bool)> {
        let timing = &self.config.timing;
        let silent = |id: &MemberId| {
            master
                .peers
                .get(id)
                .map(|peer| self.now.since(peer.last_answer))
                .filter(|_| *id != self.config.id)
        };
        let returned = committed.members.iter().find(|member| {
            member.absent
                && silent(&member.id).is_some_and(|silent| silent < timing.sync_timeout)
                && master.peers.get(&member.id).is_some_and(|peer| peer.lease_from.is_some())
        });
        if let Some(member) = returned {
            return Some((member.id.clone(), false));
        }
        let limit = self.config.voter_timeout?;
        if committed.members.len() < LEAST_MEMBERS || quorum::voters(committed).count() <= FEWEST_VOTERS {
            return None;
        }
        let gone = committed
            .members
            .iter()
            .filter(|member| !member.absent && !committed.sync_set.contains(&member.id));
        let gone = gone.filter(|member| silent(&member.id).is_some_and(|silent| silent >= limit));
        gone.map(|member| (member.id.clone(), true)).next()
    }

    /// A record was proposed or committed, or time has passed: what becomes of the change.
    pub(crate) fn follow_change(&mut self) {
        let now = self.now;
        let Role::Master(master) = &mut self.role else { return };
        let (Some(pending), Some(committed)) = (&mut master.change, &master.committed) else { return };
        let ended = match pending.proposed {
            Some(key) if committed.key >= key => Ok(()),
            _ if now < pending.until => return,
            Some(_) => {
                Err("proposed, but no majority has accepted it yet: look at the members again".to_owned())
            }
            None => Err(
                "no majority of the old and of the new voters answers, or no other backup can take its place"
                    .to_owned(),
            ),
        };
        master.change = None;
        self.out.push(Effect::MembersChanged(ended));
    }

    /// The change under way, if any, is now part of this record.
    pub(crate) fn change_proposed(&mut self, key: RecordKey) {
        if let Role::Master(master) = &mut self.role
            && let Some(pending) = &mut master.change
            && pending.proposed.is_none()
        {
            pending.proposed = Some(key);
        }
    }
}
