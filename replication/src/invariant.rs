//! The invariants that one machine can check by itself, asserted after every event (I1..I6 of `PROTOCOL.md`).
//!
//! An assert here is for our own bugs: nothing that comes from outside may reach one.

use crate::{
    node::Node,
    position::{Position, Term},
    role::{Phase, Role},
    succession::RecordKey,
};

/// What must not go back.
pub(crate) struct Before {
    term: Term,
    record: RecordKey,
    acknowledged: Option<(Term, Position)>,
}

fn acknowledged(node: &Node) -> Option<(Term, Position)> {
    match &node.role {
        Role::Master(master) => Some((master.term, master.acknowledged)),
        _ => None,
    }
}

impl Before {
    pub(crate) fn of(node: &Node) -> Before {
        Before { term: node.hard.term, record: node.hard.record.key, acknowledged: acknowledged(node) }
    }

    pub(crate) fn check(&self, node: &Node) {
        assert!(node.hard.term >= self.term, "R1: term went from {} to {}", self.term, node.hard.term);
        assert!(
            node.hard.record.key >= self.record,
            "R1: record went from {} to {}",
            self.record,
            node.hard.record.key
        );
        let Role::Master(master) = &node.role else { return };
        assert!(master.term == node.hard.term, "I1: master of {} in term {}", master.term, node.hard.term);
        assert!(
            master.record().is_some_and(|record| record.key == node.hard.record.key),
            "R6: the master has accepted another record than its own"
        );
        if let Some((term, position)) = self.acknowledged
            && term == master.term
        {
            assert!(
                master.acknowledged >= position,
                "I2: acknowledged went from {position} to {}",
                master.acknowledged
            );
        }
        assert!(
            master.acknowledged.txid <= master.stored,
            "R7: acknowledged {} beyond the own disk's {}",
            master.acknowledged,
            master.stored
        );
        if master.phase == Phase::Serving {
            assert!(master.committed.is_some(), "R5: serves without a committed record");
            assert!(master.acknowledged.txid >= master.first_txid, "R5: serves before its first transaction");
        }
    }
}
