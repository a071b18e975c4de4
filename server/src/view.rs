//! How this machine sees the cluster, in the contract's words: made from the node's status for `/v1/cluster`, readiness and
//! redirects.

use std::time::Duration;

use tanist_api::{Cluster, ClusterMember, MemberTiming, Role};
use tanist_replication::{
    MemberId, RecordKey, Times,
    status::{RoleName, Status},
};

use crate::rejoin::Board;

/// The view and what only the server needs of it.
#[derive(Debug, Clone)]
pub struct View {
    /// What `/v1/cluster` answers.
    pub cluster: Cluster,
    /// This replica was current at that moment, on [`crate::clock::now_ns`].
    pub fresh_as_of_ns: Option<u64>,
}

impl Default for View {
    fn default() -> View {
        let cluster = Cluster {
            cluster: String::new(),
            member: String::new(),
            version: None,
            clock_ms: None,
            role: Role::Unknown,
            term: 0,
            master: None,
            master_urls: vec![],
            suggested_host: None,
            position: "0.0".to_owned(),
            acknowledged: "0.0".to_owned(),
            writable: false,
            notice: None,
            sync_set: vec![],
            chain: vec![],
            members: vec![],
            api_version: None,
            upgrade: None,
            copies: None,
            timing: None,
        };
        View { cluster, fresh_as_of_ns: None }
    }
}

fn role(name: RoleName) -> Role {
    match name {
        RoleName::Master => Role::Master,
        RoleName::Backup => Role::Backup,
        RoleName::Candidate => Role::Candidate,
        RoleName::Witness => Role::Witness,
    }
}

fn join(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (first, second) => first.or(second),
    }
}

/// Times in the contract's unit.
pub(crate) fn timing(times: &Times) -> MemberTiming {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    MemberTiming {
        heartbeat_ms: ms(times.heartbeat),
        lease_ms: ms(times.lease),
        drift_margin_ms: ms(times.drift_margin),
        sync_timeout_ms: ms(times.sync_timeout),
    }
}

/// The view that a status gives.
#[must_use]
pub(crate) fn of(cluster: &str, status: &Status, board: &Board) -> View {
    let record = &status.record;
    let urls = |id: &MemberId| record.member(id).map(|member| member.urls.clone()).unwrap_or_default();
    let is_master = status.role == RoleName::Master;
    // A machine that was removed doesn't hear who reigns: it sends its clients to whoever did when it was.
    let removed = record.key > RecordKey::BLANK && record.member(&status.id).is_none();
    let master = status.master.clone().or_else(|| record.master.clone().filter(|_| removed));
    let master_urls = master.as_ref().map(urls).unwrap_or_default();
    let mut members: Vec<_> = record
        .members
        .iter()
        .map(|member| {
            let own = member.id == status.id;
            let peer = status.peers.iter().find(|peer| peer.id == member.id);
            let position = if own { Some(status.position) } else { peer.and_then(|peer| peer.position) };
            let position = position.filter(|_| !member.rank.is_witness());
            let known = if own {
                role(status.role)
            } else if master.as_ref() == Some(&member.id) {
                Role::Master
            } else if member.rank.is_witness() {
                Role::Witness
            } else if peer.is_some_and(|peer| peer.reachable) {
                Role::Backup
            } else {
                Role::Unknown
            };
            ClusterMember {
                id: member.id.to_string(),
                rank: member.rank.0,
                role: known,
                position: position.map(|position| position.to_string()),
                lag: position
                    .filter(|_| is_master)
                    .map(|position| status.tip.txid.0.saturating_sub(position.txid.0)),
                reachable: if own { Some(true) } else { peer.map(|peer| peer.reachable) },
                in_sync: status.holds_all.iter().find(|(id, _)| *id == member.id).map(|(_, holds)| *holds),
                absent: member.absent,
                unhealthy: if own {
                    status.unhealthy.clone()
                } else {
                    peer.and_then(|peer| peer.unhealthy.clone())
                },
                timing_differs: peer.and_then(|peer| peer.timing.clone()),
                slow: peer.and_then(|peer| peer.slow.clone()),
                differs_at: board.difference(&member.id).map(|position| position.to_string()),
                progress: peer.and_then(|peer| peer.progress).map(str::to_owned),
                // What is left of a rejoin that doesn't matter any more isn't shown.
                rejoin: (own || peer.is_some_and(|peer| peer.progress == Some("rejoin")))
                    .then(|| board.get(&member.id))
                    .flatten(),
                peer_addresses: member.peer_addresses.clone(),
                urls: member.urls.clone(),
                program: None,
                problem: None,
            }
        })
        .collect();
    members.sort_by_key(|member| (member.rank == 0, member.rank, member.id.clone()));
    View {
        fresh_as_of_ns: status.fresh_as_of.map(|time| time.0),
        cluster: Cluster {
            cluster: cluster.to_owned(),
            member: status.id.to_string(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            clock_ms: None,
            role: role(status.role),
            term: status.term.0,
            master: master.as_ref().map(ToString::to_string),
            suggested_host: master_urls.first().cloned(),
            master_urls,
            position: status.position.to_string(),
            acknowledged: status.acknowledged.to_string(),
            writable: status.serving && status.writes_allowed,
            notice: join(status.notice.clone(), board.notice()),
            sync_set: record.sync_set.iter().map(ToString::to_string).collect(),
            chain: status.chain.iter().map(ToString::to_string).collect(),
            members,
            api_version: Some(1),
            upgrade: None,
            copies: None,
            timing: Some(timing(&status.times)),
        },
    }
}
