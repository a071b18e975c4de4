//! What a machine's disk holds after its power was cut: reads the log that `power.c` keeps, and takes back what was not
//! synced.
//!
//! The model is the strict side of what POSIX lets a file system do. A sync of a file keeps its bytes and its length and
//! nothing else; a name (created, renamed, removed, linked) is kept by a sync of its directory alone. Of what wasn't
//! synced any part may be on the disk: writes in any order, each sector of 512 bytes for itself. Names come back in
//! their order, as every file system with a journal has it (ext4, XFS, NTFS). What a failed sync should have written is not on
//! the disk: the system takes it for written from then on, and no later sync brings it there.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::nemesis::Dice;

const SECTOR: usize = 512;

/// One change of the log.
#[derive(Debug)]
enum Change {
    Write { inode: u64, at: u64, size: u64, old: Vec<u8>, new: Vec<u8> },
    Cut { inode: u64, to: u64, size: u64, old: Vec<u8> },
    Sync { inode: u64, until: u64 },
    Fail { inode: u64, until: u64 },
    Name { directories: Vec<u64>, undo: Undo },
}

/// How a name comes back.
#[derive(Debug)]
enum Undo {
    Remove(PathBuf),
    RemoveDir(PathBuf),
    MakeDir(PathBuf),
    Restore { inode: u64, path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, replaced: u64 },
}

/// What of the unsynced writes a cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    /// All up to some moment.
    Beginning,
    /// Each write by chance, so that later ones are there without earlier ones.
    Some,
    /// Each sector by chance.
    Sectors,
}

/// What a log has seen, and what a cut took back.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cut {
    pub wal_writes: usize,
    pub wal_syncs: usize,
    pub directory_syncs: usize,
    /// Writes and cuts of files that weren't synced, and how many of them are not or not wholly on the disk.
    pub unsynced: usize,
    pub lost: usize,
    pub torn: usize,
    pub names_lost: usize,
}

impl std::ops::AddAssign for Cut {
    fn add_assign(&mut self, other: Cut) {
        self.wal_writes += other.wal_writes;
        self.wal_syncs += other.wal_syncs;
        self.directory_syncs += other.directory_syncs;
        self.unsynced += other.unsynced;
        self.lost += other.lost;
        self.torn += other.torn;
        self.names_lost += other.names_lost;
    }
}

/// Takes power from the disk of a machine whose process is gone: `data` becomes what may be found there afterwards, and
/// the log in `log` begins anew.
pub fn cut(data: &Path, log: &Path, dice: &mut Dice) -> Cut {
    let kept = [Kept::Nothing, Kept::Beginning, Kept::Some, Kept::Sectors][dice.roll(4)];
    cut_keeping(kept, data, log, dice)
}

/// The same with a certain share of what wasn't synced.
pub fn cut_keeping(kept: Kept, data: &Path, log: &Path, dice: &mut Dice) -> Cut {
    let bytes = fs::read(log.join("log")).unwrap_or_default();
    let changes = parse(&bytes);
    let mut cut = Cut::default();
    let places = files_in(data).into_iter().chain(files_in(log)).collect::<HashMap<_, _>>();
    let is_wal = |inode: u64| places.get(&inode).is_some_and(|path| path.ends_with("state.db-wal"));

    let mut files: BTreeMap<u64, Vec<(u64, &Change, State)>> = BTreeMap::new();
    let mut names: Vec<(u64, Vec<u64>, &Undo)> = vec![];
    for (at, change) in &changes {
        match change {
            Change::Write { inode, .. } | Change::Cut { inode, .. } => {
                cut.wal_writes += usize::from(is_wal(*inode));
                files.entry(*inode).or_default().push((*at, change, State::Unsynced));
            }
            Change::Sync { inode, until } => {
                cut.wal_syncs += usize::from(is_wal(*inode));
                cut.directory_syncs += usize::from(!places.contains_key(inode));
                if let Some(pending) = files.get_mut(inode) {
                    pass(pending, *until, State::Synced);
                    let from = pending.iter().position(|(.., state)| *state != State::Synced);
                    pending.drain(..from.unwrap_or(pending.len()));
                }
                for (at, directories, _) in &mut names {
                    if *at < *until {
                        directories.retain(|directory| directory != inode);
                    }
                }
                names.retain(|(_, directories, _)| !directories.is_empty());
            }
            Change::Fail { inode, until } => {
                pass(files.entry(*inode).or_default(), *until, State::Dropped);
            }
            Change::Name { directories, undo } => names.push((*at, directories.clone(), undo)),
        }
    }

    for (inode, pending) in files {
        let Some(path) = places.get(&inode) else { continue };
        let pending: Vec<_> = pending.into_iter().map(|(_, change, state)| (change, state)).collect();
        take_back(path, &pending, kept, dice, &mut cut);
    }
    let names_kept = if kept == Kept::Nothing { 0 } else { dice.roll(names.len() + 1) };
    cut.names_lost = names.len() - names_kept;
    for (_, _, undo) in names[names_kept..].iter().rev() {
        undo.run(log);
    }
    for (_, path) in files_in(data) {
        if path.to_string_lossy().ends_with("-shm") {
            fs::remove_file(path).unwrap();
        }
    }
    for (_, path) in files_in(log) {
        fs::remove_file(path).unwrap();
    }
    cut
}

/// What became of a change to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsynced,
    Synced,
    /// By a sync that failed.
    Dropped,
}

/// A sync that began at `until` has dealt with what was unsynced.
fn pass(pending: &mut [(u64, &Change, State)], until: u64, becomes: State) {
    let begun = pending.iter_mut().filter(|(at, ..)| *at < until);
    for (.., state) in begun.filter(|(.., state)| *state == State::Unsynced) {
        *state = becomes;
    }
}

/// The file as it was at its last sync, and then what is kept of the changes after it.
fn take_back(path: &Path, pending: &[(&Change, State)], kept: Kept, dice: &mut Dice, cut: &mut Cut) {
    let file = File::options().write(true).open(path).unwrap();
    for (change, _) in pending.iter().rev() {
        let (Change::Write { at, size, old, .. } | Change::Cut { to: at, size, old, .. }) = change else {
            unreachable!("only changes of files")
        };
        file.write_all_at(old, *at).unwrap();
        file.set_len(*size).unwrap();
    }
    let beginning = dice.roll(pending.len() + 1);
    let chance = 1 + dice.roll(9);
    cut.unsynced += pending.iter().filter(|(_, state)| *state != State::Synced).count();
    for (n, (change, state)) in pending.iter().enumerate() {
        let whole = match kept {
            _ if *state != State::Unsynced => *state == State::Synced,
            Kept::Nothing => false,
            Kept::Beginning => n < beginning,
            Kept::Some | Kept::Sectors => dice.roll(10) < chance,
        };
        match change {
            Change::Write { at, new, .. } if kept == Kept::Sectors && *state == State::Unsynced => {
                let (mut there, mut lost) = (0, 0);
                let mut from = 0;
                while from < new.len() {
                    // Sectors of the disk, not of the write.
                    let place = usize::try_from(*at).unwrap() + from;
                    let to = new.len().min(from + SECTOR - place % SECTOR);
                    if dice.roll(10) < chance {
                        file.write_all_at(&new[from..to], place as u64).unwrap();
                        there += 1;
                    } else {
                        lost += 1;
                    }
                    from = to;
                }
                cut.torn += usize::from(there > 0 && lost > 0);
                cut.lost += usize::from(lost > 0);
            }
            Change::Write { at, new, .. } if whole => file.write_all_at(new, *at).unwrap(),
            Change::Cut { to, .. } if whole => file.set_len(*to).unwrap(),
            _ => cut.lost += 1,
        }
    }
}

impl Undo {
    /// Not all has happened: the last change in the log may be one that the process did not live to do.
    fn run(&self, log: &Path) {
        match self {
            Undo::Remove(path) => drop(fs::remove_file(path)),
            Undo::RemoveDir(path) => drop(fs::remove_dir_all(path)),
            Undo::MakeDir(path) => drop(fs::create_dir(path)),
            Undo::Restore { inode, path } => drop(fs::hard_link(log.join(inode.to_string()), path)),
            Undo::Rename { from, to, replaced } => {
                if from.exists() {
                    return;
                }
                fs::rename(to, from).unwrap();
                if *replaced != 0 {
                    let _ = fs::hard_link(log.join(replaced.to_string()), to);
                }
            }
        }
    }
}

/// All files below a directory, by inode.
fn files_in(directory: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return vec![] };
    let mut found = vec![];
    for entry in entries {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(files_in(&entry.path()));
        } else {
            found.push((meta.ino(), entry.path()));
        }
    }
    found
}

/// The records with their places in the log; a kill may have cut the last one off.
fn parse(bytes: &[u8]) -> Vec<(u64, Change)> {
    const HEAD: usize = 48;
    let mut changes = vec![];
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + HEAD) {
        let word = |n: usize| u64::from_le_bytes(head[n * 8..n * 8 + 8].try_into().unwrap());
        let (kind, a, b, c) = (word(0), word(1), word(2), word(3));
        let (first, second) = (usize::try_from(word(4)).unwrap(), usize::try_from(word(5)).unwrap());
        let Some(body) = bytes.get(at + HEAD..at + HEAD + first + second) else { break };
        let (first, second) = body.split_at(first);
        let path = |bytes: &[u8]| PathBuf::from(String::from_utf8(bytes.to_vec()).unwrap());
        let name = |undo: Undo| Change::Name { directories: vec![a], undo };
        let change = match kind {
            1 => Change::Write { inode: a, at: b, size: c, old: first.to_vec(), new: second.to_vec() },
            2 => Change::Cut { inode: a, to: b, size: c, old: first.to_vec() },
            3 => Change::Sync { inode: a, until: b },
            10 => Change::Fail { inode: a, until: b },
            4 | 9 => name(Undo::Remove(path(first))),
            5 => name(Undo::RemoveDir(path(first))),
            6 => name(Undo::Restore { inode: b, path: path(first) }),
            7 => name(Undo::MakeDir(path(first))),
            8 => Change::Name {
                directories: if a == c { vec![a] } else { vec![a, c] },
                undo: Undo::Rename { from: path(first), to: path(second), replaced: b },
            },
            other => panic!("power.c wrote a record of kind {other}"),
        };
        changes.push((at as u64, change));
        at += HEAD + body.len();
    }
    changes
}
