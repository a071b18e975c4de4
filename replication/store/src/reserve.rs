//! Room that is held back where the data is, so that votes, deletes and reads go on when everything else has filled the disk.
//!
//! Owns the file `reserve` in the data directory, which is given up piece by piece when work needs it and taken again when
//! there is room. Decides who may still take room; whoever writes asks. Bytes are counted that are free and that are held.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use fs4::fs_std::FileExt as _;

use crate::private;

/// File name in the data directory.
pub const RESERVE_FILE: &str = "reserve";
/// At most this part of a file system is held back, so that a small one isn't all reserve.
const LARGEST_PART: u64 = 16;
/// Where a file system can't promise room, zeros are written in pieces of this size.
const PIECE: usize = 1 << 20;

/// How much room is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are held back besides.
    pub held: u64,
    /// As many are wanted of either.
    pub wanted: u64,
}

impl Room {
    fn all(&self) -> u64 {
        self.free.saturating_add(self.held)
    }

    /// Whether a disk that was low has so much room again that it won't be low at once.
    #[must_use]
    pub fn is_plenty(&self) -> bool {
        self.all() >= self.wanted.saturating_mul(2).saturating_add(self.wanted / 8)
    }

    /// Whether the master takes nothing more by which the database grows.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.all() < self.wanted.saturating_mul(2)
    }

    /// Whether a backup, too, takes nothing more by which its database grows: what is left is for votes, for deletes, and for
    /// the beginning of a term.
    #[must_use]
    pub fn is_least(&self) -> bool {
        self.all() < self.wanted
    }
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} MiB are free and {:.1} MiB held back", mib(self.free), mib(self.held))
    }
}

/// Room held back in one data directory. Of several processes only the one that has the directory may hold one.
#[derive(Debug)]
pub struct Reserve {
    directory: PathBuf,
    path: PathBuf,
    wanted: u64,
    /// Bytes of the file.
    held: Mutex<u64>,
    /// It was said that the file has been given up.
    told: AtomicBool,
}

impl PartialEq for Reserve {
    fn eq(&self, other: &Reserve) -> bool {
        self.path == other.path && self.wanted == other.wanted
    }
}

impl Eq for Reserve {}

impl Reserve {
    /// Holds back up to `wanted` bytes, less on a small file system, and what there is on a full one. Zero: none.
    #[must_use]
    pub fn open(directory: &Path, wanted: u64) -> Reserve {
        let total = fs4::total_space(directory).unwrap_or(u64::MAX);
        let path = directory.join(RESERVE_FILE);
        let reserve = Reserve {
            directory: directory.to_owned(),
            wanted: wanted.min(total / LARGEST_PART),
            held: Mutex::new(allocated(&path)),
            told: AtomicBool::new(false),
            path,
        };
        if let Some(Room { free, held, wanted }) = reserve.room() {
            // What is left beside it must not be low at once.
            reserve.hold(wanted.min(free.saturating_add(held) / 2));
        }
        reserve
    }

    /// How much room there is; `None` when the system doesn't say.
    #[must_use]
    pub fn room(&self) -> Option<Room> {
        let free = fs4::available_space(&self.directory).ok()?;
        Some(Room { free, held: self.held(), wanted: self.wanted })
    }

    /// Whether something that can wait, such as a copy or pages of a rejoin, may take `bytes` more.
    #[must_use]
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.room().is_none_or(|room| room.all() >= room.wanted.saturating_add(bytes))
    }

    /// Before work that must go on: gives up as much as makes `wanted / 2` bytes free.
    pub fn make_room(&self) {
        let Some(Room { free, held, wanted }) = self.room() else { return };
        let lacks = (wanted / 2).saturating_sub(free).min(held);
        if lacks == 0 {
            return;
        }
        if !self.told.swap(true, Relaxed) {
            tracing::error!(
                directory = %self.directory.display(), free, held,
                "the disk is full: room that is held back is used now, and only votes, deletes and reads go on; free some space"
            );
        }
        if let Err(error) = self.set(held - lacks) {
            tracing::warn!(path = %self.path.display(), %error, "room that is held back can't be given up");
        }
    }

    /// Holds back again what was given up, where there is room for it and for as much besides.
    pub fn take_again(&self) {
        let Some(Room { free, held, wanted }) = self.room() else { return };
        if held >= wanted || free.saturating_add(held) < wanted.saturating_mul(2) {
            return;
        }
        self.hold(wanted);
        if self.told.swap(false, Relaxed) {
            tracing::info!(directory = %self.directory.display(), free, "the disk has room again, and some is held back again");
        }
    }

    fn hold(&self, bytes: u64) {
        if bytes > self.held()
            && let Err(error) = self.set(bytes)
        {
            tracing::debug!(path = %self.path.display(), %error, "no room is held back");
        }
    }

    fn held(&self) -> u64 {
        *self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, bytes: u64) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file =
            private::options().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let result = if bytes < *held { file.set_len(bytes) } else { allocate(&mut file, bytes) };
        *held = allocated(&self.path);
        result
    }
}

/// Bytes that the file really has on the disk: one with holes holds nothing back.
fn allocated(path: &Path) -> u64 {
    let Ok(file) = std::fs::metadata(path) else { return 0 };
    #[cfg(unix)]
    let there = std::os::unix::fs::MetadataExt::blocks(&file).saturating_mul(512);
    #[cfg(not(unix))]
    let there = file.len();
    there.min(file.len())
}

fn allocate(file: &mut File, bytes: u64) -> io::Result<()> {
    match file.allocate(bytes) {
        Ok(()) => Ok(()),
        Err(error) if is_full(&error) => Err(error),
        // The file system doesn't know how to.
        Err(_) => {
            let zeros = vec![0; PIECE];
            let mut at = file.metadata()?.len();
            file.seek(SeekFrom::Start(at))?;
            while at < bytes {
                let piece = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
                file.write_all(&zeros[..piece])?;
                at += piece as u64;
            }
            Ok(())
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_still_take_room_depends_on_what_is_free_and_held_together() {
        let room = |free, held| Room { free, held, wanted: 16 };
        assert!(!room(16, 16).is_low() && !room(100, 0).is_low());
        assert!(room(15, 16).is_low() && !room(0, 16).is_least());
        assert!(room(15, 0).is_least());
    }

    #[test]
    fn file_is_really_there_and_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(directory.path(), 3 << 20);
        assert_eq!(reserve.room().unwrap().held, 3 << 20);
        assert_eq!(allocated(&directory.path().join(RESERVE_FILE)), 3 << 20);
        drop(reserve);
        let reserve = Reserve::open(directory.path(), 3 << 20);
        assert_eq!(reserve.room().unwrap().held, 3 << 20);
        reserve.set(1 << 20).unwrap();
        assert_eq!(reserve.room().unwrap().held, 1 << 20);
        reserve.take_again();
        assert_eq!(reserve.room().unwrap().held, 3 << 20);
        reserve.make_room();
        assert_eq!(reserve.room().unwrap().held, 3 << 20, "there is room");
    }
}
