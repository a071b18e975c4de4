//! What a machine remembers of its replica, beside it: up to where it was stored, which WAL and which file that was, and
//! whether it may be believed. What is found at the next start is held against that.
//!
//! Owns the file `replica.known`: two places that are written in turn, each with a number and a checksum, so that a power
//! cut costs the newer one at most. Never larger than it was made, so that a full disk doesn't matter. Read `opening.rs` for
//! who compares.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tanist_replication::{ChainHash, Position, Stamp};
use xxhash_rust::xxh3::xxh3_64;

use crate::{error::StoreError, private, sqlite_file::WalIndex};

/// File name in the data directory. Not like the database's, so that whoever clears that away leaves this.
const MEMORY_FILE: &str = "replica.known";
/// Bytes of each of the two places.
const PLACE: usize = 1024;
/// Checksum, number, length.
const HEAD: usize = 8 + 8 + 2;

/// Whether the replica may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// It is what was stored.
    #[default]
    Sound,
    /// Others have written to it, and nobody has numbered that.
    Foreign,
    /// A page is another than was written.
    Damaged,
    /// It holds less than was stored.
    Lost,
    /// SQLite can't read it.
    Unreadable,
}

/// A place in a WAL, by which it is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WalPlace {
    salts: [u8; 8],
    pub(crate) frames: u32,
}

/// How often the WAL may have started over since it was last remembered.
const MOST_RESTARTS: u32 = 1 << 16;

impl WalPlace {
    pub(crate) fn of(index: &WalIndex) -> WalPlace {
        WalPlace { salts: index.salts, frames: index.frames }
    }

    pub(crate) fn same_wal(&self, index: &WalIndex) -> bool {
        self.salts == index.salts
    }

    /// Whether a WAL that ends at `index` is this one, longer by now or started over. SQLite counts the first salt up then.
    pub(crate) fn leads_to(&self, index: &WalIndex) -> bool {
        if self.same_wal(index) {
            return index.frames >= self.frames;
        }
        let count = |salts: &[u8; 8]| u32::from_be_bytes([salts[0], salts[1], salts[2], salts[3]]);
        (1..MOST_RESTARTS).contains(&count(&index.salts).wrapping_sub(count(&self.salts)))
    }
}

/// By what it is seen that nobody has written to the database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileMark {
    length: u64,
    modified_ns: u64,
}

impl FileMark {
    pub(crate) fn of(path: &Path) -> Option<FileMark> {
        let file = std::fs::metadata(path).ok()?;
        let modified = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let modified_ns = u64::try_from(modified.as_nanos()).ok()?;
        Some(FileMark { length: file.len(), modified_ns })
    }
}

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    term: u64,
    txid: u64,
    chain: [u8; 16],
    /// Where the WAL ended then.
    pub(crate) wal: WalPlace,
    /// The database file, while nothing is in the WAL.
    pub(crate) file: Option<FileMark>,
    /// The sum of all pages, while nothing is written.
    pub(crate) sum: Option<u64>,
    /// The process has ended with the write lock in its hand, and nothing was written after this.
    pub(crate) clean: bool,
    #[serde(default)]
    pub(crate) mark: Mark,
}

impl Facts {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { position: Position::new(self.term, self.txid), chain: ChainHash(self.chain) }
    }

    pub(crate) fn set_stamp(&mut self, stamp: Stamp) {
        (self.term, self.txid) = (stamp.position.term.0, stamp.position.txid.0);
        self.chain = stamp.chain.0;
    }
}

#[derive(Debug, Default)]
struct State {
    facts: Facts,
    /// Of the place that was written last.
    number: u64,
    dirty: bool,
}

/// The memory of one replica; cheap to clone. [`Memory::note`] costs nothing, [`Memory::flush`] a sync.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Held while it is written.
    file: Mutex<File>,
    state: Mutex<State>,
}

impl Memory {
    /// Opens or makes the file; what it says, if it says anything.
    pub(crate) fn open(dir: &Path) -> Result<(Memory, Option<Facts>), StoreError> {
        let path = dir.join(MEMORY_FILE);
        let error = |source| StoreError::io(&path, "open what is remembered of the replica", source);
        let mut file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(error)?;
        let mut bytes = vec![];
        (&mut file).take(2 * PLACE as u64).read_to_end(&mut bytes).map_err(error)?;
        let found = bytes.chunks(PLACE).filter_map(parse).max_by_key(|(number, _)| *number);
        if bytes.len() < 2 * PLACE {
            // Written, not only made longer: there is room for it from now on.
            file.seek(SeekFrom::End(0)).map_err(error)?;
            file.write_all(&vec![0; 2 * PLACE - bytes.len()]).map_err(error)?;
            file.sync_all().map_err(error)?;
        }
        let (number, facts) = found.map_or((0, None), |(number, facts)| (number, Some(facts)));
        let state = State { facts: facts.clone().unwrap_or_default(), number, dirty: false };
        Ok((Memory(Arc::new(Inner { path, file: Mutex::new(file), state: Mutex::new(state) })), facts))
    }

    /// The replica is `stamp` now, on disk, and its WAL ends here; to be written with the next [`Memory::flush`].
    pub fn note(&self, stamp: Stamp, wal: WalPlace) {
        let mut state = self.0.state.lock();
        // Until a rejoin has mended it the old word counts.
        if state.facts.mark == Mark::Sound {
            state.facts.set_stamp(stamp);
            (state.facts.wal, state.facts.clean) = (wal, false);
            state.dirty = true;
        }
    }

    /// The same on a master, which has numbered what others had written.
    pub fn note_numbered(&self, stamp: Stamp, wal: WalPlace) {
        {
            let facts = &mut self.0.state.lock().facts;
            if facts.mark == Mark::Foreign {
                facts.mark = Mark::Sound;
            }
        }
        self.note(stamp, wal);
    }

    /// Writes what was noted, if anything was, and syncs it.
    ///
    /// # Errors
    /// The disk's. What was remembered before stays.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut file = self.0.file.lock();
        let (facts, number) = {
            let mut state = self.0.state.lock();
            if !std::mem::take(&mut state.dirty) {
                return Ok(());
            }
            state.number += 1;
            (state.facts.clone(), state.number)
        };
        write(&mut file, number, &facts).map_err(|source| {
            // The same place again: the other one holds the word that counts.
            let mut state = self.0.state.lock();
            (state.dirty, state.number) = (true, number - 1);
            StoreError::io(&self.0.path, "remember what the replica is", source)
        })
    }

    pub(crate) fn mark(&self) -> Mark {
        self.0.state.lock().facts.mark
    }

    /// Changes what is remembered, durably.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Facts)) -> Result<(), StoreError> {
        {
            let mut state = self.0.state.lock();
            change(&mut state.facts);
            state.dirty = true;
        }
        self.flush()
    }

    /// What the replica has become is on the disk before anything else is done about it. A worse mark stays.
    pub(crate) fn set_mark(&self, mark: Mark) {
        let better = |old: Mark| match mark {
            Mark::Sound => false,
            Mark::Foreign => old == Mark::Sound,
            Mark::Damaged | Mark::Lost => matches!(old, Mark::Sound | Mark::Foreign),
            Mark::Unreadable => true,
        };
        if better(self.mark())
            && let Err(error) = self.set(|facts| facts.mark = mark)
        {
            tracing::error!(%error, ?mark, "that this replica must be brought in line can't be kept in mind");
        }
    }
}

fn write(file: &mut File, number: u64, facts: &Facts) -> io::Result<()> {
    let text = serde_json::to_vec(facts)?;
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0; PLACE];
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..HEAD].copy_from_slice(&length.to_le_bytes());
    let body = bytes.get_mut(HEAD..HEAD + text.len()).ok_or(io::ErrorKind::InvalidData)?;
    body.copy_from_slice(&text);
    let checksum = xxh3_64(&bytes[8..]);
    bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    file.seek(SeekFrom::Start(number % 2 * PLACE as u64))?;
    file.write_all(&bytes)?;
    file.sync_data()
}

fn parse(place: &[u8]) -> Option<(u64, Facts)> {
    let checksum = u64::from_le_bytes(*place.first_chunk()?);
    if place.len() != PLACE || checksum != xxh3_64(&place[8..]) {
        return None;
    }
    let number = u64::from_le_bytes(place[8..16].try_into().ok()?);
    let length = usize::from(u16::from_le_bytes([place[16], place[17]]));
    let facts = serde_json::from_slice(place.get(HEAD..HEAD + length)?).ok()?;
    (number > 0).then_some((number, facts))
}

/// Forgets what was remembered of the replica of `dir`: an operator takes it as it is.
///
/// # Errors
/// When the file can't be removed.
pub fn forget_replica(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(MEMORY_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io(&path, "forget what was remembered of the replica", error))
        }
        _ => crate::connection::sync_dir(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(txid: u64) -> Stamp {
        Stamp { position: Position::new(3, txid), chain: ChainHash([7; 16]) }
    }

    fn place(frames: u32) -> WalPlace {
        WalPlace { salts: [1; 8], frames }
    }

    #[test]
    fn newest_word_that_is_whole_counts() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join(MEMORY_FILE);
        let (memory, facts) = Memory::open(dir.path()).unwrap();
        assert_eq!(facts, None);
        memory.note(stamp(4), place(9));
        memory.flush().unwrap();
        memory.note(stamp(5), place(12));
        memory.flush().unwrap();
        let before = std::fs::read(&path).unwrap();
        memory.flush().unwrap();
        assert_eq!(before, std::fs::read(&path).unwrap(), "nothing new, nothing written");
        let read = || Memory::open(dir.path()).unwrap().1.map(|facts| (facts.stamp(), facts.wal, facts.mark));
        assert_eq!(read(), Some((stamp(5), place(12), Mark::Sound)));
        // The third goes where the first was; torn, it leaves the second.
        memory.note(stamp(6), place(20));
        memory.flush().unwrap();
        assert_eq!(read().unwrap().0, stamp(6));
        let mut torn = std::fs::read(&path).unwrap();
        assert_eq!(torn.len(), 2 * PLACE);
        torn[PLACE + 40] ^= 1;
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(read().unwrap().0, stamp(5));
        torn[40] ^= 1;
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(read(), None);
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(read(), None);
    }

    #[test]
    fn mark_outlives_what_is_noted_and_is_replaced_by_a_worse_one_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let (memory, _) = Memory::open(dir.path()).unwrap();
        memory.note(stamp(4), place(9));
        memory.set_mark(Mark::Foreign);
        memory.set_mark(Mark::Damaged);
        memory.set_mark(Mark::Foreign);
        memory.note(stamp(7), place(30));
        memory.flush().unwrap();
        let facts = Memory::open(dir.path()).unwrap().1.unwrap();
        assert_eq!((facts.stamp(), facts.mark), (stamp(4), Mark::Damaged));
        forget_replica(dir.path()).unwrap();
        forget_replica(dir.path()).unwrap();
        assert_eq!(Memory::open(dir.path()).unwrap().1, None);
    }
}
