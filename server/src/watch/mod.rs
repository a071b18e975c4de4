//! What watchers are told: the replicated table `tanist_events`, in order, each event once, and only what is acknowledged (R7).
//!
//! One thread (`feeder.rs`) reads the newest events and shares them through a bounded ring (`hub.rs`) with all watchers;
//! a watcher that is behind the ring reads the database itself (`history.rs`). The HTTP side is `http/events.rs`.
//!
//! What may be told: events that a snapshot's numbered transactions have written (`tanist_position.events`), once the
//! snapshot's position is acknowledged *in its own term*. A tail that nobody acknowledged, on a machine that was cut off,
//! carries an older term than what is acknowledged now, so it is never told, although the next reign gives its event
//! numbers again. All that was told is in every later master's database (I2), so watchers resume anywhere.

mod event;
mod feeder;
mod history;
mod hub;
mod prune;
mod row;
mod tables;

pub(crate) use event::{Filter, KINDS, Shown};
pub(crate) use feeder::{Feeder, Parts as FeederParts};
pub(crate) use history::{Page, page};
pub(crate) use hub::{End, Hub, Look, Presence};
pub(crate) use prune::{Kept, prune};
pub(crate) use tables::{Unfit, WatchTable};
pub(crate) use tables::{change, find, list, refresh};
