//! The master's catch-up buffer: the newest transactions of its branch, bounded in bytes.
//!
//! Owns which transactions can still be streamed; older ones are only in the database, and a replica that needs
//! them makes a copy (R12). Never blocks the writer: it forgets the oldest.

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
    tip: Stamp,
}

impl TransactionLog {
    /// An empty buffer for a replica that stands at `tip`, keeping up to `limit` payload bytes.
    #[must_use]
    pub fn new(tip: Stamp, limit: usize) -> TransactionLog {
        TransactionLog { transactions: VecDeque::new(), bytes: 0, limit, tip }
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
        self.bytes += transaction.payload.len();
        self.transactions.push_back(transaction);
        while self.bytes > self.limit && self.transactions.len() > 1 {
            if let Some(old) = self.transactions.pop_front() {
                self.bytes -= old.payload.len();
            }
        }
    }

    /// Forgets everything: the replica now is `tip`, and what lies between can't be streamed.
    pub fn reset(&mut self, tip: Stamp) {
        self.transactions.clear();
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
        assert_eq!(log.bytes(), 80);
        assert_eq!(log.get(Txid(13)), None);
        assert!(log.get(Txid(14)).is_some());
        assert!(log.reaches_back_to(Position::new(1, 13)));
        assert!(!log.reaches_back_to(Position::new(1, 12)));
        assert_eq!(log.stamp_at(Txid(14)).unwrap().chain, ChainHash([14; 16]));
        let huge = next(&log, 1000);
        log.push(huge);
        assert!(log.reaches_back_to(Position::new(1, 15)), "the newest is always kept");
    }
}
