//! What the programs of two members say of their versions, and what the two agree on.
//!
//! Owns ranges, features and the rule. Never decides what a version means: `wire.rs` of the core and the server's `upgrade.rs`
//! do. Read `handshake.rs` for when it is said.

use std::{fmt, ops::BitAnd};

use minicbor::{Decode, Encode};

use crate::HandshakeError;

/// Longest name of a version that a peer may give, in bytes.
const MOST_VERSION: usize = 64;

/// A range of numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Range {
    /// The lowest.
    #[n(0)]
    pub min: u32,
    /// The highest.
    #[n(1)]
    pub max: u32,
}

impl Range {
    /// From `min` to `max`.
    #[must_use]
    pub const fn new(min: u32, max: u32) -> Range {
        Range { min, max }
    }

    /// Whether `number` is in it.
    #[must_use]
    pub const fn contains(&self, number: u32) -> bool {
        self.min <= number && number <= self.max
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.max)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// Things beside the version of the protocol that both ends must know before one uses them: one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Features(#[n(0)] pub u64);

impl Features {
    /// Whether all of `others` are among them.
    #[must_use]
    pub const fn has(self, others: Features) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitAnd for Features {
    type Output = Features;

    fn bitand(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}

/// What a program says of itself to its peers. Later versions may add fields.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Program {
    /// Its version, for people.
    #[n(0)]
    pub version: String,
    /// Versions of the peer protocol that it speaks.
    #[n(1)]
    pub protocol: Range,
    /// What it knows beside.
    #[n(2)]
    pub features: Features,
    /// Levels of the cluster that it can serve.
    #[n(3)]
    pub levels: Range,
}

/// What two programs use between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The highest version of the protocol that both speak.
    pub protocol: u32,
    /// What both know.
    pub features: Features,
}

impl Agreed {
    /// With a peer of which nothing is known.
    pub const LEAST: Agreed = Agreed { protocol: 1, features: Features(0) };
}

impl Program {
    /// What a program is that says nothing of its versions: it was built before they could differ.
    #[must_use]
    pub fn silent() -> Program {
        Program {
            version: "0.1.0 or older".to_owned(),
            protocol: Range::new(1, 1),
            features: Features(0),
            levels: Range::new(crate::FIRST_LEVEL, crate::FIRST_LEVEL),
        }
    }

    /// What the two agree on; `None` when they have no version of the protocol in common.
    #[must_use]
    pub fn agree(&self, other: &Program) -> Option<Agreed> {
        let protocol = self.protocol.max.min(other.protocol.max);
        (protocol >= self.protocol.min && protocol >= other.protocol.min)
            .then(|| Agreed { protocol, features: self.features & other.features })
    }

    /// Refuses what no program says of itself.
    pub(crate) fn check(&self) -> Result<(), HandshakeError> {
        let sound = |range: &Range| range.min <= range.max;
        if !sound(&self.protocol) || !sound(&self.levels) {
            return Err(HandshakeError::Malformed("a range of versions that ends before it begins"));
        }
        // It is shown to people, on terminals too.
        let printable = self.version.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if self.version.is_empty() || self.version.len() > MOST_VERSION || !printable {
            return Err(HandshakeError::Malformed("a version that is no short text"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(min: u32, max: u32, features: u64) -> Program {
        let protocol = Range::new(min, max);
        Program { protocol, features: Features(features), ..Program::silent() }
    }

    #[test]
    fn highest_common_version_and_common_features_are_used() {
        let agreed = |a: &Program, b: &Program| {
            assert_eq!(a.agree(b), b.agree(a), "both sides must come to the same");
            a.agree(b).map(|agreed| (agreed.protocol, agreed.features.0))
        };
        assert_eq!(agreed(&program(1, 3, 0b110), &program(2, 4, 0b011)), Some((3, 0b010)));
        assert_eq!(agreed(&program(1, 2, 1), &Program::silent()), Some((1, 0)));
        assert_eq!(agreed(&program(2, 3, 1), &Program::silent()), None);
        assert_eq!(agreed(&program(1, 2, 0), &program(3, 4, 0)), None);
        assert!(Features(0b110).has(Features(0b010)) && !Features(0b110).has(Features(0b011)));
    }

    #[test]
    fn what_no_program_says_of_itself_is_refused() {
        assert!(program(1, 2, 0).check().is_ok());
        assert!(program(3, 2, 0).check().is_err());
        for version in ["", "1\u{1b}[2J", &"9".repeat(65)] {
            assert!(
                Program { version: version.to_owned(), ..program(1, 1, 0) }.check().is_err(),
                "{version:?}"
            );
        }
    }
}
