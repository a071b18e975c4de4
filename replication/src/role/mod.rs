//! What a machine can be, each role with the data that means something only in it.
//!
//! `follower.rs` backs and votes, `candidate.rs` stands, `master.rs` reigns, `sync_set.rs` keeps the sync set,
//! `members.rs` the members, `handover.rs` leaves the throne, `limp.rs` too when nobody gets what it sends, `stall.rs` without the own
//! disk's help, `force.rs` takes it on an operator's word.

mod candidate;
mod follower;
mod force;
mod handover;
pub(crate) mod limp;
mod master;
pub(crate) mod members;
mod stall;
mod sync_set;

pub(crate) use candidate::Candidate;
pub(crate) use follower::Follower;
pub(crate) use force::Forced;
pub(crate) use handover::{Cause, Handover};
pub(crate) use master::{Master, Phase};
pub use members::MemberChange;

/// The role and its data.
#[derive(Debug)]
pub(crate) enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Master(Box<Master>),
}
