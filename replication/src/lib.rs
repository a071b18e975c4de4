//! The replication and succession protocol of Tanist, pure: no socket, disk, clock, randomness or thread.
//!
//! Everything that can happen to a machine enters as an event with a timestamp, everything it may ask for leaves
//! as an effect. Rules (R1..) and invariants (I1..) are those of `PROTOCOL.md` in this folder.

pub mod complaint;
pub mod config;
pub mod effect;
pub mod event;
pub mod frame;
mod invariant;
pub mod known;
pub mod log;
pub mod member;
pub mod message;
pub mod mistakes;
mod node;
pub mod pace;
pub mod position;
pub mod progress;
mod promise;
pub mod quorum;
mod role;
pub mod status;
pub mod succession;
pub mod time;
pub mod wire;

pub use complaint::Complaint;
pub use config::{Config, Timing};
pub use effect::{Effect, HardState, Note};
pub use event::Event;
pub use frame::{ChainHash, Checksum, Encoding, Pages, PagesWriter, PayloadError, Stamp, Transaction};
pub use known::Known;
pub use member::{Addresses, Member, MemberId, MemberIdError, Rank};
pub use message::Message;
pub use node::Node;
pub use position::{HistoryOrderError, ParsePositionError, Position, Reign, Term, TermHistory, Txid};
pub use promise::Times;
pub use role::MemberChange;
pub use succession::{RecordKey, SuccessionRecord, SyncSet};
pub use time::Time;
