//! When everybody who holds the newest acknowledged writes is lost for good: an operator makes another machine reign.
//!
//! Owns the two ways: by force, with a majority of the voters but without R4 (`promote --force`); and by a record that
//! names fewer voters, when their majority is gone as well (`recover`). Neither ever happens by itself.

use crate::{
    effect::{Effect, HardState},
    known::Known,
    member::MemberId,
    node::Node,
    position::{Position, Term},
    role::{Candidate, Role},
    succession::{RecordKey, SuccessionRecord},
    time::Time,
};

/// How many leases a forced election may take.
const LEASES: u32 = 5;
/// For so many of them it waits for the answers of all that are linked; a link to a machine without power lasts longer.
const LISTENING_LEASES: u32 = 2;
/// A recovered cluster begins so many terms further, beyond whatever elections the lost machines may have held.
const TERMS_AHEAD: u64 = 1000;

/// An operator's word that this machine shall reign, although it may lack acknowledged writes.
#[derive(Debug)]
pub(crate) struct Forced {
    why: String,
    /// Everybody linked is asked where it stands until then.
    listens_until: Time,
    pub(crate) until: Time,
}

impl Node {
    /// Stands at once, and wins without R4; answered by [`Effect::HandoverEnded`].
    pub(crate) fn on_force(&mut self, why: String) {
        if let Err(refused) = self.refuse_force() {
            self.out.push(Effect::HandoverEnded(Err(refused)));
            return;
        }
        self.note("is to reign by force", None, why.clone());
        let lease = self.config.timing.lease;
        let listens_until = self.now + lease.saturating_mul(LISTENING_LEASES);
        let until = self.now + lease.saturating_mul(LEASES);
        self.forced = Some(Forced { why, listens_until, until });
        if let Role::Follower(follower) = &mut self.role {
            follower.stand_at = self.now;
        }
    }

    fn refuse_force(&self) -> Result<(), String> {
        if self.hard.record.rank(&self.config.id).is_witness() {
            return Err("it is a witness, or no member".to_owned());
        }
        match &self.role {
            Role::Master(_) => return Err("this machine is the master already".to_owned()),
            Role::Follower(follower) => {
                if let Some(leader) = &follower.leader {
                    return Err(format!("{} reigns: force is for when nobody can", leader.id));
                }
            }
            Role::Candidate(_) => {}
        }
        if self.forced.is_some() {
            return Err("it is to reign by force already".to_owned());
        }
        if let Some(why) = &self.stalled {
            return Err(format!("it could store nothing: {why}"));
        }
        if !self.may_stand() {
            return Err("it stops, or its replica is being changed".to_owned());
        }
        if self.stamp.position == Position::ZERO || self.hard.record.key == RecordKey::BLANK {
            return Err("it holds no data of this cluster".to_owned());
        }
        Ok(())
    }

    /// A data member that holds more than this machine, among those who granted: it should be forced instead.
    pub(crate) fn held_further(&self, candidate: &Candidate) -> Option<(MemberId, Position)> {
        let own = self.stamp.position;
        let mut further: Vec<_> = candidate.positions().filter(|(_, position)| *position > own).collect();
        further.sort_by_key(|(_, position)| *position);
        further.pop().map(|(id, position)| (id.clone(), position))
    }

    /// Whether a data member that could hold more is linked and hasn't answered yet, nor had the time to.
    pub(crate) fn awaits_positions(&self, candidate: &Candidate, record: &SuccessionRecord) -> bool {
        if self.forced.as_ref().is_none_or(|forced| self.now >= forced.listens_until) {
            return false;
        }
        let answered = |id: &MemberId| candidate.positions().any(|(granted, _)| granted == id);
        let mut data = record.members.iter().filter(|member| !member.rank.is_witness());
        data.any(|member| self.links.contains(&member.id) && !answered(&member.id))
    }

    /// Its first record is its alone: the others have to catch up with what there is.
    pub(crate) fn force_record(
        &self,
        old: &SuccessionRecord,
        first: &mut SuccessionRecord,
    ) -> Option<String> {
        let me = &self.config.id;
        let lacks = !old.sync_set.contains(me) || self.lacks_acknowledged();
        let forced = self.forced.as_ref().filter(|_| lacks)?;
        first.sync_set = [me.clone()].into();
        Some(format!(
            "forced, accepting data loss: {}; stood at {}, the acknowledged data was on {:?}",
            forced.why, self.stamp.position, old.sync_set
        ))
    }

    /// Ends the matter when the machine reigns, another does, or its time is over.
    pub(crate) fn follow_force(&mut self) {
        let Some(forced) = &self.forced else { return };
        let ended = match &self.role {
            Role::Master(_) => Ok(self.config.id.clone()),
            Role::Follower(follower) if follower.leader.is_some() => {
                Err("another machine reigns now".to_owned())
            }
            _ if self.now >= forced.until => {
                Err("no majority of the voters answers, or one has just heard a master: try again; if the majority is gone for \
                     good, `tanist recover` goes on without it, on a stopped machine"
                    .to_owned())
            }
            _ => return,
        };
        self.end_force(ended);
    }

    pub(crate) fn end_force(&mut self, ended: Result<MemberId, String>) {
        if self.forced.take().is_some() {
            self.out.push(Effect::HandoverEnded(ended));
        }
    }
}

impl HardState {
    /// What `me` must believe so that it and the others of `members` go on without all the rest. The machines left out
    /// must never run again with the data they have: they would be a second cluster.
    ///
    /// # Errors
    /// When `me` holds no data, or isn't among `members`, or one of these is no member.
    pub fn recovered(&self, me: &MemberId, members: &[MemberId]) -> Result<HardState, String> {
        let old = &self.record;
        if old.key == RecordKey::BLANK {
            return Err("this machine has never been in a cluster that served".to_owned());
        }
        if let Some(stranger) = members.iter().find(|id| old.member(id).is_none()) {
            return Err(format!("{stranger} was no member"));
        }
        if !members.contains(me) || old.rank(me).is_witness() {
            return Err(format!("{me} must be among the members and hold data: it begins the new reign"));
        }
        let mut kept = old.members.clone();
        kept.retain(|member| members.contains(&member.id));
        kept.iter_mut().for_each(|member| member.absent = false);
        let term = Term(self.term.0.saturating_add(TERMS_AHEAD));
        let key = RecordKey { term, version: 0 };
        let sync_set = [me.clone()].into();
        let record = SuccessionRecord { key, master: None, sync_set, members: kept };
        // What was acknowledged before is given up with this.
        Ok(HardState { term, voted_for: None, record, promised: self.promised, known: Known::default() })
    }
}
