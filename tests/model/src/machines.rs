//! Machines by number, and sets of them.

use std::fmt;

/// A machine, by number.
pub type Id = u8;

/// Some machines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Set(pub u8);

impl Set {
    /// These machines.
    pub fn of(ids: &[Id]) -> Self {
        Self(ids.iter().fold(0, |bits, id| bits | 1 << id))
    }

    /// Whether it is one of them.
    pub fn has(self, id: Id) -> bool {
        self.0 >> id & 1 == 1
    }

    /// How many.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// With one more.
    pub fn with(self, id: Id) -> Self {
        Self(self.0 | 1 << id)
    }

    /// All of both.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that aren't among the others.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether more than half of them are among `others`.
    pub fn majority_in(self, others: Self) -> bool {
        2 * self.and(others).len() > self.len()
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Id> {
        (0..8).filter(move |&id| self.has(id))
    }

    /// Every choice among them, nobody included.
    pub fn subsets(self) -> impl Iterator<Item = Set> {
        (0..=self.0).map(Set).filter(move |set| set.minus(self).is_empty())
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_machines_count_majorities() {
        let three = Set::of(&[0, 1, 2]);
        assert!(three.majority_in(Set::of(&[0, 2])) && !three.majority_in(Set::of(&[1, 3])));
        assert!(!Set::of(&[0, 1]).majority_in(Set::of(&[0])));
        assert_eq!(three.subsets().count(), 8);
    }
}
