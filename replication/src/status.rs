//! What a node can tell about itself and the others: for displays and readiness, never for decisions.

use crate::{
    member::MemberId,
    node::Node,
    position::{Position, Term},
    promise::Times,
    role::{Phase, Role, limp::in_words},
    succession::SuccessionRecord,
    time::Time,
};

/// A machine's role, as told to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleName {
    /// Reigns (perhaps not yet serving).
    Master,
    /// Follows, or looks for a master.
    Backup,
    /// Stands for election.
    Candidate,
    /// Votes only.
    Witness,
}

/// One peer in a [`Status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub id: MemberId,
    /// Whether our control link to it is up.
    pub reachable: bool,
    /// What it last reported (known to the master only).
    pub position: Option<Position>,
    /// `probe`, `stream` or `rejoin` (known to the master only).
    pub progress: Option<&'static str>,
    /// Why it shouldn't reign now, if it shouldn't; the reason is known to the master only.
    pub unhealthy: Option<String>,
    /// What its `[timing]` differs in from this machine's: known to the master, and to the others of the master.
    pub timing: Option<String>,
    /// How slowly it stores, if that is slow beside the others (known to the master only).
    pub slow: Option<String>,
}

/// A snapshot of what this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This machine.
    pub id: MemberId,
    /// Its role.
    pub role: RoleName,
    /// Newest term it knows.
    pub term: Term,
    /// The master it is or follows.
    pub master: Option<MemberId>,
    /// Newest accepted record.
    pub record: SuccessionRecord,
    /// Whether a member holds all that was acknowledged: while somebody reigns, and of the sync set also without a master.
    /// Who isn't listed may, or may not.
    pub holds_all: Vec<(MemberId, bool)>,
    /// This replica, on disk.
    pub position: Position,
    /// Newest acknowledged position it knows.
    pub acknowledged: Position,
    /// Newest position on the master it knows.
    pub tip: Position,
    /// Whether the master serves, as far as known.
    pub serving: bool,
    /// Whether writes are taken (R10); known to the master only, `true` elsewhere.
    pub writes_allowed: bool,
    /// This replica was current at that moment (the master: until its lease ends).
    pub fresh_as_of: Option<Time>,
    /// The master, and who follows it in which order.
    pub chain: Vec<MemberId>,
    /// Why this machine shouldn't reign now, if it shouldn't.
    pub unhealthy: Option<String>,
    /// All other members.
    pub peers: Vec<PeerStatus>,
    /// This machine's times.
    pub times: Times,
    /// What an operator should know now.
    pub notice: Option<String>,
}

impl Node {
    /// The newest position that this node's master (or itself, reigning) has acknowledged, as far as it has heard.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Position> {
        match &self.role {
            Role::Master(master) => Some(master.acknowledged),
            Role::Candidate(_) => None,
            Role::Follower(follower) => follower.leader.as_ref().map(|leader| leader.acknowledged),
        }
    }

    /// What this node knows now.
    #[must_use]
    pub fn status(&self) -> Status {
        let witness = self.hard.record.rank(&self.config.id).is_witness();
        let (role, master, acknowledged, tip, serving, fresh_as_of) = match &self.role {
            Role::Master(master) => (
                RoleName::Master,
                Some(self.config.id.clone()),
                master.acknowledged,
                master.log.tip_position(),
                master.phase == Phase::Serving,
                (master.phase == Phase::Serving).then_some(master.lease_until),
            ),
            Role::Candidate(_) => (RoleName::Candidate, None, Position::ZERO, Position::ZERO, false, None),
            Role::Follower(follower) => {
                let role = if witness { RoleName::Witness } else { RoleName::Backup };
                let leader = follower.leader.as_ref();
                (
                    role,
                    leader.map(|leader| leader.id.clone()),
                    leader.map(|leader| leader.acknowledged).unwrap_or_default(),
                    leader.map(|leader| leader.tip).unwrap_or_default(),
                    leader.is_some_and(|leader| leader.serving),
                    leader.and_then(|leader| leader.fresh_as_of),
                )
            }
        };
        let unhealthy = self.unhealthy_members();
        let peers = self.others().into_iter().map(|id| {
            let peer = match &self.role {
                Role::Master(master) => master.peers.get(&id),
                _ => None,
            };
            let data = !self.hard.record.rank(&id).is_witness();
            PeerStatus {
                reachable: self.links.contains(&id),
                position: peer.filter(|_| data).and_then(|peer| peer.reported).map(|stamp| stamp.position),
                unhealthy: unhealthy.contains(&id).then(|| {
                    let why = peer.and_then(|peer| peer.unhealthy.as_ref());
                    why.map_or_else(|| "as it told the master".to_owned(), ToString::to_string)
                }),
                timing: self.differing.get(&id).cloned(),
                slow: peer.and_then(|peer| peer.slow.slow()).map(in_words),
                progress: peer.filter(|_| data && self.links.contains(&id)).map(|peer| peer.progress.name()),
                id,
            }
        });
        Status {
            id: self.config.id.clone(),
            role,
            term: self.hard.term,
            holds_all: self.holds_all(master.as_ref()),
            master,
            record: self.hard.record.clone(),
            position: self.stamp.position,
            acknowledged,
            tip,
            serving,
            writes_allowed: !matches!(&self.role, Role::Master(master) if !master.writes_allowed),
            fresh_as_of,
            chain: self.hard.record.chain(&unhealthy),
            unhealthy: self.unhealthy.as_ref().map(ToString::to_string),
            peers: peers.collect(),
            times: Times::from(&self.config.timing),
            notice: match (self.notice(), self.timing_notice()) {
                (Some(notice), Some(timing)) => Some(format!("{notice}; {timing}")),
                (notice, timing) => notice.or(timing),
            },
        }
    }

    /// The newest record that this machine has seen, for displays: accepted by it or not.
    fn newest_record(&self) -> &SuccessionRecord {
        let record = &self.hard.record;
        self.shown.as_ref().filter(|shown| shown.key > record.key).unwrap_or(record)
    }

    fn holds_all(&self, master: Option<&MemberId>) -> Vec<(MemberId, bool)> {
        // A machine that was removed knows only how it was then.
        if self.hard.record.member(&self.config.id).is_none() {
            return vec![];
        }
        let record = if master.is_some() { &self.hard.record } else { self.newest_record() };
        let data = record.members.iter().filter(|member| !member.rank.is_witness());
        let holds = data.map(|member| (member.id.clone(), record.sync_set.contains(&member.id)));
        let known = |id: &MemberId| master.is_some() || !self.is_known_to_lack(id);
        holds.filter(|(id, holds)| (*holds || master.is_some()) && known(id)).collect()
    }

    fn notice(&self) -> Option<String> {
        let record = &self.hard.record;
        if record.key.term != Term::ZERO && record.member(&self.config.id).is_none() {
            return Some(
                "this machine is no member: it was removed, and must be added again to take part".to_owned(),
            );
        }
        let list = |ids: Vec<&MemberId>| ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
        match &self.role {
            Role::Master(master) => {
                let backups = record.sync_set.len().saturating_sub(1);
                if !master.writes_allowed {
                    return Some(format!(
                        "writes are refused: {backups} backups in the sync set, at least {} required",
                        self.config.min_sync_backups
                    ));
                }
                if master.phase != Phase::Serving {
                    let awaited: Vec<_> =
                        record.sync_set.iter().filter(|id| **id != self.config.id).collect();
                    return Some(format!("the reign begins: waits for {}", list(awaited)));
                }
                if let Some(why) = &self.unhealthy {
                    return Some(format!(
                        "the master isn't healthy ({why}), and no healthy member that keeps up can relieve it"
                    ));
                }
                if let Some(limping) = self.limping_notice(master) {
                    return Some(limping);
                }
                let data = record.members.iter().filter(|member| !member.rank.is_witness()).count();
                (backups < self.config.sync_backups.min(data.saturating_sub(1))).then(|| {
                    let alone = if backups == 0 { ": new writes are on the master's disk alone" } else { "" };
                    format!(
                        "{backups} of {} wanted backups hold every write{alone}",
                        self.config.sync_backups
                    )
                })
            }
            Role::Follower(follower) if follower.leader.is_some() => None,
            _ if record.key.term == Term::ZERO => {
                let missing: Vec<_> = record
                    .members
                    .iter()
                    .map(|member| &member.id)
                    .filter(|id| **id != self.config.id && !self.links.contains(*id))
                    .collect();
                Some(if missing.is_empty() {
                    "the cluster is being founded".to_owned()
                } else {
                    format!("the cluster's first start needs all members: waits for {}", list(missing))
                })
            }
            _ => {
                let record = self.newest_record();
                if let Some(lacking) = self.lacking_notice(record) {
                    return Some(lacking);
                }
                let holders: Vec<_> = record.sync_set.iter().collect();
                let here: Vec<_> = holders
                    .iter()
                    .copied()
                    .filter(|id| **id == self.config.id || self.links.contains(*id))
                    .collect();
                let of_these = match here.len() {
                    0 => "; none of these is reached from here".to_owned(),
                    count if count == holders.len() => "; it is here".to_owned(),
                    1 => format!("; of these {} is here", list(here)),
                    _ => format!("; of these {} are here", list(here)),
                };
                let down: Vec<_> = record
                    .members
                    .iter()
                    .map(|member| &member.id)
                    .filter(|id| **id != self.config.id && !self.links.contains(*id))
                    .collect();
                let own =
                    self.unhealthy.as_ref().map_or(String::new(), |why| format!("; this machine: {why}"));
                Some(format!(
                    "no master: the acknowledged data is on {}{of_these}; not reached from here: {}{own}",
                    list(holders),
                    if down.is_empty() { "nobody".to_owned() } else { list(down) }
                ))
            }
        }
    }
}
