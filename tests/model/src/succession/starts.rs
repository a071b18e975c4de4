//! Where each configuration begins, and how far it goes.
//!
//! The beginning is after term 0 with the master gone: everybody has accepted its record, and what it acknowledged is
//! on the disks of its sync set. The master, number 0, is back already and may win again.

use super::{
    Succession,
    log::{Entry, Log},
    state::{Node, Record, Role},
};
use crate::machines::Set;

fn node(record: Record, disk: Log) -> Node {
    Node {
        term: record.term,
        voted_for: None,
        record,
        disk,
        seen: disk,
        known: Log::default(),
        role: Role::Follower,
    }
}

fn founded(sync: Set, members: Set) -> Record {
    Record { term: 0, version: 1, master: 0, sync, members }
}

/// What everybody held when the master of term 0 took the last write.
fn held() -> Log {
    Log::of(&[Entry::Reign(0), Entry::Write(0)])
}

/// A machine that has never heard of the cluster.
fn newcomer() -> Node {
    let blank = Record { term: 0, version: 0, master: 0, sync: Set::default(), members: Set::default() };
    node(blank, Log::default())
}

impl Succession {
    fn new(start: Vec<Node>, data: Set) -> Self {
        Self {
            start,
            data,
            last_term: 2,
            last_version: 2,
            old_writes: 0,
            writes: 1,
            memberships: Vec::new(),
            handover: false,
            forgets: false,
            stalls: false,
            forget: true,
            mistake: None,
        }
    }

    /// Two data members and a witness.
    pub fn pair_and_witness() -> Self {
        let data = Set::of(&[0, 1]);
        let start = vec![node(founded(data, data.with(2)), Log::default()); 3];
        Self { last_version: 3, writes: 2, ..Self::new(start, data) }
    }

    /// Three data members; the sync set holds two of them, as by default.
    pub fn three() -> Self {
        let data = Set::of(&[0, 1, 2]);
        Self::new(vec![node(founded(Set::of(&[0, 1]), data), Log::default()); 3], data)
    }

    /// Two data members and a witness. The last write of term 0 wasn't acknowledged and is only on the disk of 0, so 0 has
    /// to be brought in line if 1 wins (R12).
    pub fn diverged_pair() -> Self {
        let data = Set::of(&[0, 1]);
        let record = founded(data, data.with(2));
        let start = vec![
            node(record, held().with(Entry::Write(1))),
            node(record, held()),
            node(record, Log::default()),
        ];
        Self { old_writes: 2, writes: 3, ..Self::new(start, data) }
    }

    /// Three data members, all in the sync set. The last write of term 0 wasn't acknowledged and is only on the disks of
    /// 0 and 1, so whoever doesn't win among 1 and 2 may have to be brought in line (R12).
    pub fn diverged() -> Self {
        let data = Set::of(&[0, 1, 2]);
        let record = founded(data, data);
        let more = held().with(Entry::Write(1));
        let start = vec![node(record, more), node(record, more), node(record, held())];
        Self { old_writes: 2, writes: 3, ..Self::new(start, data) }
    }

    /// Two data members, of which one may forget, and a witness that knows what was acknowledged. The last write of term 0 wasn't, and is
    /// only on the disk of 0.
    pub fn forgetful() -> Self {
        let mut start = Self::diverged_pair().start;
        start[2].known = held();
        Self { forgets: true, start, last_version: 1, ..Self::diverged_pair() }
    }

    /// The same with a third data member that isn't in the sync set in place of the witness.
    pub fn forgetful_three() -> Self {
        let data = Set::of(&[0, 1, 2]);
        let record = founded(Set::of(&[0, 1]), data);
        let mut start =
            vec![node(record, held().with(Entry::Write(1))), node(record, held()), node(record, held())];
        start[2].known = held();
        Self { start, data, ..Self::forgetful() }
    }

    /// Two data members and a witness, with masters that hand over.
    pub fn handover() -> Self {
        Self { handover: true, ..Self::pair_and_witness() }
    }

    /// Two data members and a witness, with masters that leave because their disk doesn't answer.
    pub fn stalls() -> Self {
        Self { stalls: true, last_version: 2, ..Self::handover() }
    }

    /// Two data members and a witness, which may be removed and added again.
    pub fn removal() -> Self {
        let all = Set::of(&[0, 1, 2]);
        Self { memberships: vec![Set::of(&[0, 1]), all], writes: 1, ..Self::pair_and_witness() }
    }

    /// Two data members and a witness; one of the data members may be left alone. Only by mistake, as two go at once.
    pub fn removal_of_two() -> Self {
        Self { memberships: vec![Set::of(&[0]), Set::of(&[1])], writes: 1, ..Self::pair_and_witness() }
    }

    /// One machine, which may take in a second one with data and then a witness.
    pub fn growth() -> Self {
        let (one, two) = (Set::of(&[0]), Set::of(&[0, 1]));
        let start = vec![node(founded(one, one), Log::default()), newcomer(), newcomer()];
        Self { memberships: vec![two, two.with(2)], last_version: 3, ..Self::new(start, two) }
    }

    /// Two data members; a third one may be added.
    pub fn addition() -> Self {
        let (old, data) = (Set::of(&[0, 1]), Set::of(&[0, 1, 2]));
        let member = node(founded(old, old), Log::default());
        Self { memberships: vec![data], ..Self::new(vec![member, member, newcomer()], data) }
    }

    /// Two data members and three witnesses, two of which the last master removed, one after the other; a data member
    /// and a removed witness haven't heard of it.
    pub fn missed_removals() -> Self {
        let data = Set::of(&[0, 2]);
        let old = founded(data, Set::of(&[0, 1, 2, 3, 4]));
        let new = Record { version: 3, members: Set::of(&[0, 1, 2]), ..old };
        let start = [new, new, old, new, old].map(|record| node(record, Log::default())).to_vec();
        Self { last_term: 1, last_version: 1, ..Self::new(start, data) }
    }
}
