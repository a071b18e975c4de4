//! A replica's content: the transactions in it, in order.

use std::fmt;

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The first transaction of a reign: the row of the term history.
    Reign(u8),
    /// A client's write. The number stands for its content; each write is sent once.
    Write(u8),
}

/// What a replica holds.
///
/// Position, term history and chain hash (I3) come down to this: two replicas agree up to some point exactly when one
/// log starts with the other's beginning. Eight transactions at most, a byte each, the oldest in the lowest byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Log(u64);

const WRITE: u64 = 0x80;

impl Log {
    /// The replica with these transactions.
    pub fn of(entries: &[Entry]) -> Self {
        entries.iter().fold(Self::default(), |log, &entry| log.with(entry))
    }

    /// How many transactions it holds.
    pub fn len(self) -> u32 {
        8 - self.0.leading_zeros() / 8
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The same with one more transaction.
    pub fn with(self, entry: Entry) -> Self {
        let byte = match entry {
            Entry::Reign(term) => u64::from(term) + 1,
            Entry::Write(id) => WRITE | u64::from(id),
        };
        assert!(self.len() < 8, "the bounds of a model leave room for all its transactions");
        Self(self.0 | byte << (8 * self.len()))
    }

    /// Its first `len` transactions.
    pub fn prefix(self, len: u32) -> Self {
        if len >= 8 { self } else { Self(self.0 & ((1 << (8 * len)) - 1)) }
    }

    /// Whether `beginning` is where it comes from.
    pub fn starts_with(self, beginning: Self) -> bool {
        self.prefix(beginning.len()) == beginning
    }

    /// Its transactions, oldest first.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        (0..self.len()).map(move |at| {
            let byte = self.0 >> (8 * at) & 0xff;
            if byte & WRITE == 0 { Entry::Reign(byte as u8 - 1) } else { Entry::Write((byte & !WRITE) as u8) }
        })
    }

    /// Whether the two hold the same up to every position that both have (I3). A position is the number of a
    /// transaction together with the reign that made it.
    pub fn agrees_with(self, other: Self) -> bool {
        let same = ((self.0 ^ other.0).trailing_zeros() / 8).min(self.len()).min(other.len());
        let common = self.len().min(other.len());
        (same + 1..=common).all(|len| self.prefix(len).term() != other.prefix(len).term())
    }

    /// The reign that made its last transaction.
    pub fn term(self) -> Option<u8> {
        self.entries()
            .filter_map(|entry| match entry {
                Entry::Reign(term) => Some(term),
                Entry::Write(_) => None,
            })
            .last()
    }

    /// The position of its last transaction: by reign, then by number.
    pub fn position(self) -> (Option<u8>, u32) {
        (self.term(), self.len())
    }

    /// How many of its transactions it takes to hold `entry`, if it does.
    pub fn len_to(self, entry: Entry) -> Option<u32> {
        (0..).zip(self.entries()).find(|&(_, each)| each == entry).map(|(at, _)| at + 1)
    }

    /// Whether it holds the write.
    pub fn has_write(self, id: u8) -> bool {
        self.len_to(Entry::Write(id)).is_some()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_one_branch_agree_and_others_part() {
        let start = Log::of(&[Entry::Reign(1), Entry::Write(0)]);
        let first = start.with(Entry::Reign(2)).with(Entry::Write(1));
        let second = start.with(Entry::Reign(3)).with(Entry::Write(1));
        assert!(start.agrees_with(first) && first.agrees_with(second) && first.agrees_with(first));
        let forged = start.with(Entry::Reign(2)).with(Entry::Write(2));
        assert!(!first.agrees_with(forged));
        assert!(!start.agrees_with(Log::of(&[Entry::Reign(1), Entry::Write(1)])));
    }

    #[test]
    fn beginning_of_a_log_is_no_more_than_its_first_transactions() {
        let log = Log::of(&[Entry::Reign(0), Entry::Write(0), Entry::Write(1)]);
        assert_eq!(log.len(), 3);
        assert!(log.starts_with(log.prefix(2)) && !log.prefix(2).starts_with(log));
        assert_eq!(log.len_to(Entry::Write(0)), Some(2));
        assert_eq!(log.prefix(2), Log::of(&[Entry::Reign(0), Entry::Write(0)]));
        assert_eq!(log.entries().last(), Some(Entry::Write(1)));
    }
}
