//! The master's catch-up buffer: the newest transactions of its branch, bounded in bytes.
//!
//! Owns which transactions can still be streamed; older ones are only in the database, and a replica that needs
//! them makes a copy (R12). Never blocks the writer: it forgets the oldest. The largest transaction in it isn't counted,
//! so that one as large as the limit doesn't make every replica that stores it just now rejoin.

use std::collections::VecDeque;

use crate::{
    frame::{Stamp, Transaction},
    position::{Position, Txid},
};

/// Newest transactions, contiguous.
#[derive(Debug)]
pub struct TransactionLog {
    transactions: VecDeque<Transaction>,
    bytes: usize,
    limit: usize,
    /// Lengths that are the largest from some transaction on, descending.
    largest: VecDeque<usize>,
    tip: Stamp,
}

impl TransactionLog {
    /// An empty buffer for a replica that stands at `tip`, keeping up to `limit` payload bytes besides
    /// those of the largest transaction kept.
    #[must_use]
    pub fn new(tip: Stamp, limit: usize) -> TransactionLog {
        TransactionLog { transactions: VecDeque::new(), bytes: 0, limit, largest: VecDeque::new(), tip }
    }

    /// Newest stamp.
    #[must_use]
    pub fn tip(&self) -> Stamp {
        self.tip
    }

    /// Newest position.
    #[must_use]
    pub fn tip_position(&self) -> Position {
        self.tip.position
    }

    /// Adds the next transaction and forgets the oldest beyond the limit, but never this one.
    ///
    /// # Panics
    /// When it doesn't follow the tip: our own writer captured out of order.
    pub fn push(&mut self, transaction: Transaction) {
        assert!(
            transaction.previous == self.tip,
            "transaction {} follows {:?}, the log ends at {:?}",
            transaction.stamp.position,
            transaction.previous,
            self.tip
        );
        assert!(transaction.stamp.position.txid == self.tip.position.txid.next());
        self.tip = transaction.stamp;
        let len = transaction.payload.len();
        self.bytes += len;
        self.transactions.push_back(transaction);
        while self.largest.back().is_some_and(|smaller| *smaller < len) {
            self.largest.pop_back();
        }
        self.largest.push_back(len);
        while self.bytes - self.largest.front().map_or(0, |largest| *largest) > self.limit {
            let Some(old) = self.transactions.pop_front() else { return };
            self.bytes -= old.payload.len();
            self.largest.pop_front_if(|largest| *largest == old.payload.len());
        }
    }

    /// Forgets everything: the replica now is `tip`, and what lies between can't be streamed.
    pub fn reset(&mut self, tip: Stamp) {
        self.transactions.clear();
        self.largest.clear();
        self.bytes = 0;
        self.tip = tip;
    }

    /// The transaction with this id, if still kept.
    #[must_use]
    pub fn get(&self, txid: Txid) -> Option<&Transaction> {
        let first = self.transactions.front()?.stamp.position.txid;
        let index = usize::try_from(txid.0.checked_sub(first.0)?).ok()?;
        self.transactions.get(index)
    }

    /// All that are kept, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions.iter()
    }

    /// Whether a replica at `position` can be brought up by streaming alone.
    #[must_use]
    pub fn reaches_back_to(&self, position: Position) -> bool {
        position.txid == self.tip.position.txid || self.get(position.txid.next()).is_some()
    }

    /// The stamp that this branch has at `txid`, when the buffer still knows it.
    #[must_use]
    pub fn stamp_at(&self, txid: Txid) -> Option<Stamp> {
        if txid == self.tip.position.txid {
            return Some(self.tip);
        }
        self.get(txid.next()).map(|transaction| transaction.previous)
    }

    /// Payload bytes kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::frame::{ChainHash, Checksum, Encoding};

    fn next(log: &TransactionLog, len: usize) -> Transaction {
        let previous = log.tip();
        let position = Position { txid: previous.position.txid.next(), ..previous.position };
        Transaction {
            previous,
            stamp: Stamp { position, chain: ChainHash([position.txid.0 as u8; 16]) },
            checksum: Checksum::default(),
            encoding: Encoding::Plain,
            plain_len: len as u32,
            payload: Bytes::from(vec![0; len]),
        }
    }

    #[test]
    fn buffer_forgets_the_oldest_beyond_its_limit_and_says_how_far_it_reaches_back() {
        let mut log = TransactionLog::new(Stamp { position: Position::new(1, 10), ..Stamp::default() }, 100);
        assert!(log.reaches_back_to(Position::new(1, 10)));
        assert!(!log.reaches_back_to(Position::new(1, 9)));
        for _ in 0..5 {
            let transaction = next(&log, 40);
            log.push(transaction);
        }
        assert_eq!(log.bytes(), 120, "80 besides one of 40");
        assert_eq!(log.get(Txid(12)), None);
        assert!(log.get(Txid(13)).is_some());
        assert!(log.reaches_back_to(Position::new(1, 12)));
        assert!(!log.reaches_back_to(Position::new(1, 11)));
        assert_eq!(log.stamp_at(Txid(13)).unwrap().chain, ChainHash([13; 16]));
    }

    #[test]
    fn large_transaction_stays_while_the_others_after_it_are_within_the_limit() {
        let mut log = TransactionLog::new(Stamp { position: Position::new(1, 10), ..Stamp::default() }, 100);
        let push = |log: &mut TransactionLog, len| {
            let transaction = next(log, len);
            log.push(transaction);
        };
        push(&mut log, 90);
        push(&mut log, 1000);
        assert!(log.reaches_back_to(Position::new(1, 10)));
        push(&mut log, 30);
        assert!(log.reaches_back_to(Position::new(1, 11)) && !log.reaches_back_to(Position::new(1, 10)));
        push(&mut log, 70);
        assert_eq!(log.bytes(), 1100);
        push(&mut log, 1);
        assert_eq!(log.bytes(), 101, "the oldest goes first, however large");
        push(&mut log, 2000);
        push(&mut log, 3000);
        assert_eq!(log.bytes(), 3000, "two large ones don't stay");
        assert!(log.reaches_back_to(Position::new(1, 16)), "the newest is always kept");
    }
}
