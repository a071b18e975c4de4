//! The replication and succession protocol of Tanist, pure: no socket, disk, clock, randomness or thread.
//!
//! Everything that can happen to a machine enters as an event with a timestamp, everything it may ask for leaves
//! as an effect. Rules (R1..) and invariants (I1..) are those of `PROTOCOL.md` in this folder.

pub mod frame;
pub mod member;
pub mod position;

pub use frame::{ChainHash, Checksum, Encoding, Pages, PagesWriter, PayloadError, Stamp, Transaction};
pub use member::{Member, MemberId, Rank};
pub use position::{Position, Reign, Term, TermHistory, Txid};
