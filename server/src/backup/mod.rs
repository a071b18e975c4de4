//! Copies of the whole database: a file of their own, made from one snapshot of a living replica.
//!
//! Owns the format (`format.rs`), taking one (`take.rs`), reading one (`read.rs`), its file on the disk
//! (`file.rs`), those that a machine takes by itself (`schedule.rs`), and what changed between them (`increments.rs`,
//! `points.rs`).
//! Never decides who may have one: that is `http/backup.rs`. Read `docs/backup.md` for the format and for restoring.

mod file;
mod format;
mod increments;
mod place;
mod points;
#[cfg(test)]
mod points_tests;
mod read;
pub(crate) mod schedule;
mod take;
#[cfg(test)]
mod tests;

pub(crate) use file::{COPY_SUFFIX, CopyFile};
pub use format::Manifest;
pub(crate) use points::{Point, Until, choose, points_in};
pub use read::{CopyError, read_manifest, unpack};
pub(crate) use take::{Source, key_mark, write_copy};
pub use take::{TakeError, take};

/// zstd levels that may be asked for: higher ones take more memory than a small machine should give.
pub(crate) const LEVELS: std::ops::RangeInclusive<i32> = 1..=9;
/// The level where none is asked for.
pub(crate) const LEVEL: i32 = 3;
