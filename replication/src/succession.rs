//! The succession record: who reigns, who holds the data, who votes, and who follows whom.
//!
//! Owns eligibility (R4), the first record of a reign (R5) and the chain of succession. Never counts votes
//! (`quorum.rs`) and never decides when to change a record (`role/master.rs`).

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use crate::{
    member::{Member, MemberId, Rank},
    mistakes::{Mistake, made},
    position::Term,
};

/// The members, master included, that must hold a write on disk before it is acknowledged (R7).
pub type SyncSet = BTreeSet<MemberId>;

/// Order of succession records: by term, then by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub struct RecordKey {
    /// Term of the master that proposed it.
    #[n(0)]
    pub term: Term,
    /// Counts a reign's records, from 1.
    #[n(1)]
    #[cbor(decode_with = "crate::position::bounded")]
    pub version: u64,
}

impl RecordKey {
    /// Key of the record made from configuration, before anybody reigned.
    pub const BLANK: RecordKey = RecordKey { term: Term::ZERO, version: 0 };
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.term, self.version)
    }
}

/// Who holds the data and who votes. *Committed* once a majority of its voters has accepted it durably.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SuccessionRecord {
    /// Its place in the order of records.
    #[n(0)]
    pub key: RecordKey,
    /// The reign's master; `None` before the first reign.
    #[n(1)]
    pub master: Option<MemberId>,
    /// Who holds every acknowledged write.
    #[n(2)]
    pub sync_set: SyncSet,
    /// All machines of the cluster: voters, but for those that are absent.
    #[n(3)]
    pub members: Vec<Member>,
}

impl SuccessionRecord {
    /// The record before the first reign: every data member holds everything, for there is nothing.
    #[must_use]
    pub fn blank(members: Vec<Member>) -> SuccessionRecord {
        let sync_set = members
            .iter()
            .filter(|member| !member.rank.is_witness())
            .map(|member| member.id.clone())
            .collect();
        SuccessionRecord { key: RecordKey::BLANK, master: None, sync_set, members }
    }

    /// The first record of `winner`'s reign (R5): itself and the old sync set, never with the old master.
    #[must_use]
    pub fn first_of_reign(&self, term: Term, winner: &MemberId) -> SuccessionRecord {
        let mut sync_set = self.sync_set.clone();
        if let Some(old) = self.master.as_ref().filter(|_| !made(Mistake::OldMasterStays)) {
            sync_set.remove(old);
        }
        sync_set.insert(winner.clone());
        SuccessionRecord {
            key: RecordKey { term, version: 1 },
            master: Some(winner.clone()),
            sync_set,
            members: self.members.clone(),
        }
    }

    /// The next record of the same reign, with another sync set.
    #[must_use]
    pub fn with_sync_set(&self, sync_set: SyncSet) -> SuccessionRecord {
        SuccessionRecord {
            key: RecordKey { version: self.key.version + 1, ..self.key },
            sync_set,
            ..self.clone()
        }
    }

    /// The next record of the same reign, with other members.
    #[must_use]
    pub fn with_members(&self, members: Vec<Member>) -> SuccessionRecord {
        SuccessionRecord {
            key: RecordKey { version: self.key.version + 1, ..self.key },
            members,
            ..self.clone()
        }
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: &MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// The member's rank; a witness's for a stranger.
    #[must_use]
    pub fn rank(&self, id: &MemberId) -> Rank {
        self.member(id).map_or(Rank::WITNESS, |member| member.rank)
    }

    /// The chain of succession: the master, the rest of its sync set in rank order, then the other data members
    /// in rank order; who isn't healthy comes last.
    #[must_use]
    pub fn chain(&self, unhealthy: &BTreeSet<MemberId>) -> Vec<MemberId> {
        let mut data: Vec<&Member> = self.members.iter().filter(|member| !member.rank.is_witness()).collect();
        data.sort_by_key(|member| {
            let heir = self.master.as_ref() != Some(&member.id);
            let in_sync = self.sync_set.contains(&member.id);
            (heir, heir && unhealthy.contains(&member.id), !in_sync, member.rank, member.id.clone())
        });
        data.into_iter().map(|member| member.id.clone()).collect()
    }

    /// How many stand before `id` in the chain once the master is gone; past the end for strangers.
    #[must_use]
    pub fn place(&self, id: &MemberId, unhealthy: &BTreeSet<MemberId>) -> usize {
        let chain = self.chain(unhealthy);
        let heirs = chain.iter().filter(|member| self.master.as_ref() != Some(*member));
        let heirs: Vec<_> = heirs.collect();
        heirs.iter().position(|member| *member == id).unwrap_or(heirs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn member(id: &str, rank: u32) -> Member {
        Member {
            id: id.parse().unwrap(),
            rank: Rank(rank),
            peer_addresses: vec![],
            urls: vec![],
            absent: false,
        }
    }

    #[test]
    fn chain_is_master_then_sync_set_then_the_others_by_rank_without_witness() {
        let members = vec![member("w", 0), member("a", 1), member("b", 2), member("c", 3), member("d", 4)];
        let mut record = SuccessionRecord::blank(members);
        assert_eq!(record.sync_set.len(), 4);
        record = record.first_of_reign(Term(1), &"c".parse().unwrap());
        record = record.with_sync_set(["c", "d"].iter().map(|id| id.parse().unwrap()).collect());
        let all_well = BTreeSet::new();
        let chain: Vec<_> = record.chain(&all_well).iter().map(ToString::to_string).collect();
        assert_eq!(chain, ["c", "d", "a", "b"]);
        assert_eq!(record.place(&"d".parse().unwrap(), &all_well), 0);
        assert_eq!(record.place(&"a".parse().unwrap(), &all_well), 1);
        let unhealthy = ["c", "d"].iter().map(|id| id.parse().unwrap()).collect();
        let chain: Vec<_> = record.chain(&unhealthy).iter().map(ToString::to_string).collect();
        assert_eq!(chain, ["c", "a", "b", "d"], "the master stays first as long as it reigns");
        assert_eq!(record.place(&"d".parse().unwrap(), &unhealthy), 2);
        assert_eq!(record.key, RecordKey { term: Term(1), version: 2 });
    }

    #[test]
    fn first_record_leaves_the_old_master_out() {
        let record = SuccessionRecord::blank(vec![member("a", 1), member("b", 2), member("c", 3)]);
        let first = record.first_of_reign(Term(1), &"a".parse().unwrap());
        let second = first.first_of_reign(Term(2), &"b".parse().unwrap());
        let set: Vec<_> = second.sync_set.iter().map(ToString::to_string).collect();
        assert_eq!(set, ["b", "c"]);
        let again = first.first_of_reign(Term(2), &"a".parse().unwrap());
        assert!(again.sync_set.contains(&"a".parse().unwrap()), "a re-elected master keeps its own place");
    }
}
