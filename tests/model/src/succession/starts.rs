//! Where each configuration begins, and how far it goes.
//!
//! The beginning is after term 0 with the master gone: everybody has accepted its record, and what it acknowledged is
//! on the disks of its sync set. The master, number 0, is back already and may win again.

use super::{
    Succession,
    log::{Entry, Log},
    state::{Node, Record, Role, Set},
};

fn node(record: Record, disk: Log) -> Node {
    Node { term: record.term, voted_for: None, record, disk, seen: disk, role: Role::Follower }
}

fn founded(sync: Set, members: Set) -> Record {
    Record { term: 0, version: 1, master: 0, sync, members }
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
            mistake: None,
        }
    }

    /// Two data members and a witness.
    pub fn pair_and_witness() -> Self {
        let data = Set::of(&[0, 1]);
        Self::new(vec![node(founded(data, data.with(2)), Log::default()); 3], data)
    }

    /// Three data members; the sync set holds two of them, as by default.
    pub fn three() -> Self {
        let data = Set::of(&[0, 1, 2]);
        Self::new(vec![node(founded(Set::of(&[0, 1]), data), Log::default()); 3], data)
    }

    /// Three data members, all in the sync set. The last write of term 0 wasn't acknowledged and is only on the disks of
    /// 0 and 1, so whoever doesn't win among 1 and 2 may have to be brought in line (R12).
    pub fn diverged() -> Self {
        let data = Set::of(&[0, 1, 2]);
        let record = founded(data, data);
        let held = Log::of(&[Entry::Reign(0), Entry::Write(0)]);
        let more = held.with(Entry::Write(1));
        let start = vec![node(record, more), node(record, more), node(record, held)];
        Self { old_writes: 2, writes: 3, ..Self::new(start, data) }
    }
}
