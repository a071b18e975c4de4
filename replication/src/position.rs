//! Names for points in history: terms, transaction ids, positions, and who reigned when.
//!
//! Owns no state and does no I/O. Never guesses: a position is on a branch only when the term history
//! says so. Read `frame.rs` next for what stands at a position.

use std::fmt;

use minicbor::{Decode, Encode};

/// Largest number taken from a peer or a file: a database holds it, and there is room to count on from it.
const LARGEST: u64 = 1 << 62;

/// Reads a number that is counted up.
pub(crate) fn bounded<C>(
    decoder: &mut minicbor::Decoder<'_>,
    _: &mut C,
) -> Result<u64, minicbor::decode::Error> {
    let number = decoder.u64()?;
    if number <= LARGEST {
        Ok(number)
    } else {
        let wrong = format!("found the number {number}, expected at most {LARGEST}");
        Err(minicbor::decode::Error::message(wrong))
    }
}

/// Reign number: grows by at least one with every election; one master at most per term (I1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Term(
    #[n(0)]
    #[cbor(decode_with = "bounded")]
    pub u64,
);

impl Term {
    /// The term before anybody reigned.
    pub const ZERO: Term = Term(0);

    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a replicated transaction: grows by exactly one per transaction, over all terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Txid(
    #[n(0)]
    #[cbor(decode_with = "bounded")]
    pub u64,
);

impl Txid {
    /// No transaction yet: an empty replica.
    pub const ZERO: Txid = Txid(0);

    /// The id that the next transaction gets.
    #[must_use]
    pub fn next(self) -> Txid {
        Txid(self.0 + 1)
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The newest transaction in a replica, and the term whose master numbered it.
///
/// Ordered by term first: within one branch both grow together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Position {
    /// Term in which the transaction was numbered.
    #[n(0)]
    pub term: Term,
    /// Its number.
    #[n(1)]
    pub txid: Txid,
}

impl Position {
    /// The position of an empty replica.
    pub const ZERO: Position = Position { term: Term::ZERO, txid: Txid::ZERO };

    /// Shorthand for `Position { term: Term(term), txid: Txid(txid) }`.
    #[must_use]
    pub fn new(term: u64, txid: u64) -> Position {
        Position { term: Term(term), txid: Txid(txid) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.txid)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("position {found:?}: expected \"term.txid\", two decimal numbers, such as \"3.1042\"")]
pub struct ParsePositionError {
    found: String,
}

impl std::str::FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Position, ParsePositionError> {
        let error = || ParsePositionError { found: text.chars().take(64).collect() };
        let (term, txid) = text.split_once('.').ok_or_else(error)?;
        let number = |part: &str| {
            if part.bytes().all(|b| b.is_ascii_digit()) { part.parse::<u64>().ok() } else { None }
        };
        Ok(Position {
            term: Term(number(term).ok_or_else(error)?),
            txid: Txid(number(txid).ok_or_else(error)?),
        })
    }
}

/// One reign in the term history.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Reign {
    /// The reign's term.
    #[n(0)]
    pub term: Term,
    /// First transaction of the reign: the one that wrote this row.
    #[n(1)]
    pub first_txid: Txid,
}

/// Which term each transaction id belongs to on one branch, as the database's `tanist_terms` table says.
///
/// Invariant: strictly ascending in term and in `first_txid`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct TermHistory {
    #[n(0)]
    reigns: Vec<Reign>,
}

/// A term history whose rows do not ascend: a damaged table or a hostile message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "term history: reign of term {term} from txid {first_txid} does not follow term {last_term} from txid {last_txid}"
)]
pub struct HistoryOrderError {
    term: Term,
    first_txid: Txid,
    last_term: Term,
    last_txid: Txid,
}

impl TermHistory {
    /// Reads rows in order.
    ///
    /// # Errors
    /// When a row doesn't ascend in both term and first txid.
    pub fn from_reigns(reigns: impl IntoIterator<Item = Reign>) -> Result<TermHistory, HistoryOrderError> {
        let mut history = TermHistory::default();
        for reign in reigns {
            history.push(reign)?;
        }
        Ok(history)
    }

    /// Adds the newest reign.
    ///
    /// # Errors
    /// When it doesn't ascend in both term and first txid.
    pub fn push(&mut self, reign: Reign) -> Result<(), HistoryOrderError> {
        if let Some(last) = self.reigns.last()
            && (reign.term <= last.term || reign.first_txid <= last.first_txid)
        {
            return Err(HistoryOrderError {
                term: reign.term,
                first_txid: reign.first_txid,
                last_term: last.term,
                last_txid: last.first_txid,
            });
        }
        self.reigns.push(reign);
        Ok(())
    }

    /// The term to which this branch gives `txid`; term zero for txid zero, `None` before the first reign.
    #[must_use]
    pub fn term_of(&self, txid: Txid) -> Option<Term> {
        if txid == Txid::ZERO {
            return Some(Term::ZERO);
        }
        let after = self.reigns.partition_point(|reign| reign.first_txid <= txid);
        after.checked_sub(1).map(|index| self.reigns[index].term)
    }

    /// Whether a replica at `position` holds only what this branch holds too, where `tip` is the branch's end.
    #[must_use]
    pub fn contains(&self, position: Position, tip: Position) -> bool {
        position.txid <= tip.txid && self.term_of(position.txid) == Some(position.term)
    }

    /// All reigns, oldest first.
    #[must_use]
    pub fn reigns(&self) -> &[Reign] {
        &self.reigns
    }

    /// The newest reign.
    #[must_use]
    pub fn last(&self) -> Option<&Reign> {
        self.reigns.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> TermHistory {
        TermHistory::from_reigns([
            Reign { term: Term(1), first_txid: Txid(1) },
            Reign { term: Term(4), first_txid: Txid(10) },
        ])
        .unwrap()
    }

    #[test]
    fn replica_is_on_branch_only_with_the_term_that_numbered_its_transaction() {
        let tip = Position::new(4, 20);
        let contains = |term, txid| history().contains(Position::new(term, txid), tip);
        assert!(contains(0, 0));
        assert!(contains(1, 9));
        assert!(!contains(1, 10), "txid 10 was numbered again by term 4");
        assert!(contains(4, 10));
        assert!(!contains(4, 21), "past the tip");
        assert!(!contains(3, 9));
    }

    #[test]
    fn history_refuses_rows_that_do_not_ascend() {
        let mut history = history();
        assert!(history.push(Reign { term: Term(4), first_txid: Txid(30) }).is_err());
        assert!(history.push(Reign { term: Term(5), first_txid: Txid(10) }).is_err());
        assert_eq!(history.reigns().len(), 2);
    }

    #[test]
    fn position_reads_back_what_it_prints_and_refuses_the_rest() {
        assert_eq!("3.1042".parse(), Ok(Position::new(3, 1042)));
        assert_eq!(Position::new(3, 1042).to_string(), "3.1042");
        for bad in ["", "3", "3.", ".4", "3.4.5", "-1.2", "+1.2", "a.b", "99999999999999999999.1"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
