//! `node.db`: what this machine must not forget of its own (R1), and the data directory's lock.
//!
//! Owns the durable votes, the accepted succession record and the clean-stop mark. Never holds user data and is
//! never copied between machines. Read `driver.rs` for when it is written.

mod identity;
mod machine;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension as _, config::DbConfig, params};
use tanist_replication::{HardState, RecordKey};
use tanist_store::private;

pub use identity::Begun;
pub(crate) use machine::mark as machine_mark;

/// Why `node.db` or the data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The directory can't be made or written.
    #[error("data directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("data directory {path} is in use by another tanist process{owner}")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Its process id, when known.
        owner: String,
    },
    /// SQLite refuses the file.
    #[error("{context} {path}: {source}")]
    Database {
        /// What was tried.
        context: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The stored state can't be read.
    #[error(
        "read {path}: the stored votes can't be decoded ({why}); restore the file or remove this machine's data directory and let it join again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// The directory was made on another computer.
    #[error(
        "{path} belongs to another computer. If its disk was moved here, or this computer has got a new identity, and the data directory is \
         used nowhere else, run `tanist adopt` here once. If it is a copy of a machine that goes on, empty this data directory and give \
         this machine a name of its own"
    )]
    Moved {
        /// The file.
        path: PathBuf,
    },
    /// The directory belongs to another machine or cluster.
    #[error("{path} belongs to {what} {found:?}, the configuration says {expected:?}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// `cluster` or `member`.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What the configuration says.
        expected: String,
    },
}

/// Exclusive use of a data directory, as long as it lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory if needed and takes it for this process.
    ///
    /// # Errors
    /// When it can't be made or written, or another process holds it.
    pub fn take(directory: &Path) -> Result<DirectoryLock, DurableError> {
        let fail = |source| DurableError::Directory { path: directory.to_owned(), source };
        make_durable(directory).map_err(fail)?;
        let path = directory.join("tanist.lock");
        let file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = std::fs::read_to_string(directory.join("tanist.pid")).unwrap_or_default();
                let owner = owner.trim();
                let owner = if owner.is_empty() { String::new() } else { format!(" (pid {owner})") };
                return Err(DurableError::InUse { path: directory.to_owned(), owner });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let pid = format!("{}\n", std::process::id());
        let pid_path = directory.join("tanist.pid");
        match private::write(&pid_path, pid.as_bytes()) {
            // For people alone: a full disk is no reason not to start.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
            written => written.map_err(fail)?,
        }
        // Of a command that root runs: the machine's own account must be able to open them.
        for made in [&path, &pid_path].into_iter().filter(|made| made.exists()) {
            private::give_to_owner_of(directory, made).map_err(fail)?;
        }
        Ok(DirectoryLock { _file: file })
    }
}

/// Takes what others may in a data directory from them, and says so.
pub(crate) fn close_to_others(directory: &Path) {
    tell_mended(directory, &private::mend(directory));
}

/// Says what was open to others until now.
pub(crate) fn tell_mended(directory: &Path, mended: &private::Mended) {
    let directory = directory.display();
    if let Some(first) = &mended.first {
        tracing::warn!(%directory, count = mended.count, first = %first.display(), "others could read or enter what is here: it is this account's alone now");
    }
    if let Some((path, why)) = &mended.failed {
        tracing::warn!(%directory, path = %path.display(), why, "what others can read or enter here can't be closed");
    }
}

/// Makes the directory if needed. Its name must outlive a power cut like what is in it, which the syncs of its files
/// don't see to.
fn make_durable(directory: &Path) -> std::io::Result<()> {
    let new: Vec<_> = directory.ancestors().take_while(|directory| !directory.exists()).collect();
    private::create_dir_all(directory)?;
    if new.is_empty() {
        // Perhaps by a start that was killed just then. An administrator's own may stand where we may not read.
        let _ = sync_entry(directory);
    }
    new.into_iter().try_for_each(sync_entry)
}

/// Whether the machine of this data directory was stopped cleanly; `None`: it has never run, or nobody can say. Changes nothing.
pub(crate) fn was_stopped_cleanly(directory: &Path) -> Option<bool> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(directory.join("node.db"), flags).ok()?;
    connection.query_row("SELECT clean FROM node", [], |row| row.get(0)).ok()
}

/// Syncs the entry of a directory or a file in its parent.
pub(crate) fn sync_entry(directory: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    match directory.parent() {
        Some(parent) if parent == Path::new("") => File::open(".")?.sync_all()?,
        Some(parent) => File::open(parent)?.sync_all()?,
        None => {}
    }
    // Directories can't be synced there; a file's own sync takes what NTFS has noted before, its name included.
    #[cfg(windows)]
    if directory.is_file() {
        File::options().write(true).open(directory)?.sync_all()?;
    }
    Ok(())
}

/// This machine's durable protocol state.
#[derive(Debug)]
pub struct Durable {
    connection: Connection,
    path: PathBuf,
}

/// What was on disk at the start.
#[derive(Debug)]
pub struct Recovered {
    /// Votes and record; `None` on the first start.
    pub hard: Option<HardState>,
    /// Whether the last stop left its mark.
    pub clean: bool,
    /// Where the database came from, if it was restored from a copy and no cluster has been founded on it yet.
    pub restored: Option<String>,
}

impl Durable {
    /// Opens or makes `node.db` and takes away the clean-stop mark.
    ///
    /// # Errors
    /// When the file can't be used, or belongs to another member or cluster.
    pub fn open(directory: &Path, cluster: &str, member: &str) -> Result<(Durable, Recovered), DurableError> {
        let path = directory.join("node.db");
        let fail = |context| {
            let path = path.clone();
            move |source| DurableError::Database { context, path, source }
        };
        private::touch(&path)
            .map_err(|source| DurableError::Directory { path: directory.to_owned(), source })?;
        let connection = Connection::open(&path).map_err(fail("open"))?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA locking_mode = NORMAL;
                 CREATE TABLE IF NOT EXISTS node (
                     id INTEGER PRIMARY KEY CHECK (id = 1),
                     cluster TEXT NOT NULL,
                     member TEXT NOT NULL,
                     clean INTEGER NOT NULL,
                     term INTEGER NOT NULL DEFAULT 0,
                     voted_for TEXT,
                     record TEXT,
                     state BLOB
                 ) STRICT;
                 CREATE TABLE IF NOT EXISTS restored (
                     id INTEGER PRIMARY KEY CHECK (id = 1),
                     reason TEXT NOT NULL
                 ) STRICT;",
            )
            .and_then(|()| connection.execute_batch(identity::TABLES))
            .map_err(fail("open"))?;
        keep_room(&connection, &path).map_err(fail("keep room in"))?;
        let row = connection
            .query_row("SELECT cluster, member, clean, state FROM node", [], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, bool>(2)?,
                    row.get::<_, Option<Vec<u8>>>(3)?,
                ))
            })
            .optional()
            .map_err(fail("read"))?;
        // What a killed process wrote and never synced must not count as kept; nor is it synced by writing the same again.
        tanist_store::sync_files(&connection).map_err(fail("sync"))?;
        sync_entry(&path).map_err(|source| DurableError::Directory { path: directory.to_owned(), source })?;
        let recovered = match row {
            None => {
                connection
                    .execute(
                        "INSERT INTO node (id, cluster, member, clean) VALUES (1, ?1, ?2, 0)",
                        [cluster, member],
                    )
                    .map_err(fail("write"))?;
                Recovered { hard: None, clean: true, restored: None }
            }
            Some((found_cluster, found_member, clean, state)) => {
                for (what, found, expected) in
                    [("cluster", found_cluster, cluster), ("member", found_member, member)]
                {
                    if found != expected {
                        let expected = expected.to_owned();
                        return Err(DurableError::Foreign { path, what, found, expected });
                    }
                }
                let damaged = |why| DurableError::Damaged { path: path.clone(), why };
                let hard = state.as_deref().map(|state| decode(state).map_err(damaged)).transpose()?;
                connection.execute("UPDATE node SET clean = 0", []).map_err(fail("write"))?;
                let restored = connection
                    .query_row("SELECT reason FROM restored", [], |row| row.get(0))
                    .optional()
                    .map_err(fail("read"))?;
                let founded = hard.as_ref().is_some_and(|hard| hard.record.key > RecordKey::BLANK);
                Recovered { hard, clean, restored: restored.filter(|_| !founded) }
            }
        };
        Ok((Durable { connection, path: path.clone() }, recovered))
    }

    /// Writes votes and record; on disk when it returns (R1).
    ///
    /// # Errors
    /// When the disk refuses: the caller must not send what depends on it.
    pub fn persist(&self, hard: &HardState) -> Result<(), DurableError> {
        let state = encode(hard);
        let record = format!("{} sync set {:?}", hard.record.key, hard.record.sync_set);
        self.connection
            .prepare_cached("UPDATE node SET term = ?1, voted_for = ?2, record = ?3, state = ?4")
            .and_then(|mut statement| {
                statement.execute(params![
                    i64::try_from(hard.term.0).unwrap_or(i64::MAX),
                    hard.voted_for.as_ref().map(|id| id.as_str()),
                    record,
                    state
                ])
            })
            .map(drop)
            .map_err(|source| DurableError::Database { context: "write", path: self.path.clone(), source })
    }

    /// Writes the first votes of a machine whose database was restored from a copy, with the word that it may only found:
    /// it must not meet a cluster that has begun, where its old data would stand for newer.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn persist_restored(&self, hard: &HardState, reason: &str) -> Result<(), DurableError> {
        let fail = |source| DurableError::Database { context: "write", path: self.path.clone(), source };
        self.connection
            .execute("INSERT OR REPLACE INTO restored (id, reason) VALUES (1, ?1)", [reason])
            .map_err(fail)?;
        self.persist(hard)
    }

    /// Leaves the mark of a clean stop.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn mark_clean(&self) -> Result<(), DurableError> {
        self.connection
            .execute("UPDATE node SET clean = 1", [])
            // The WAL stays, for the room that it has; what is in it must not be needed.
            .and_then(|_| self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
            .map_err(|source| DurableError::Database { context: "write", path: self.path.clone(), source })
    }
}

/// Bytes that `node.db` and its WAL have at least: votes never need more.
const ROOM_BYTES: u64 = 256 << 10;
/// The WAL begins anew after so many pages, well within that.
const CHECKPOINT_PAGES: u32 = 32;

/// Keeps the room in both files that votes need, so that a full disk refuses none: SQLite writes over what is there. Not where
/// there is no room: then it is tried at the next start.
fn keep_room(connection: &Connection, path: &Path) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let wal = path.with_file_name("node.db-wal");
    let has = |file: &Path| std::fs::metadata(file).is_ok_and(|file| file.len() >= ROOM_BYTES);
    if has(path) && has(&wal) {
        return Ok(());
    }
    let fill = format!(
        "DROP TABLE IF EXISTS room;
         CREATE TABLE room (bytes BLOB);
         INSERT INTO room VALUES (zeroblob({}));",
        ROOM_BYTES + ROOM_BYTES / 4
    );
    let filled = connection
        .execute_batch(&fill)
        .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())))
        .and_then(|()| connection.execute_batch("DROP TABLE room"));
    if let Err(error) = filled {
        tracing::warn!(path = %path.display(), %error, "no room is kept for votes: a full disk may refuse them");
    }
    Ok(())
}

/// Bytes of the checksum at the end of the stored state.
const CHECKSUM_BYTES: usize = 8;

fn checksum(state: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&blake3::hash(state).as_bytes()[..CHECKSUM_BYTES]);
    short
}

fn encode(hard: &HardState) -> Vec<u8> {
    let mut state = minicbor::to_vec(hard).unwrap_or_default();
    let checksum = checksum(&state);
    state.extend(checksum);
    state
}

/// A vote that has changed on the disk must not be taken for another.
fn decode(stored: &[u8]) -> Result<HardState, String> {
    let (state, found) = stored
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or_else(|| format!("found {} bytes, expected more than {CHECKSUM_BYTES}", stored.len()))?;
    if *found != checksum(state) {
        return Err("their checksum is wrong".to_owned());
    }
    minicbor::decode(state).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tanist_replication::{Known, Member, Rank, SuccessionRecord, Term};

    use super::*;

    fn hard() -> HardState {
        let member = Member {
            id: "a".parse().unwrap(),
            rank: Rank(1),
            peer_addresses: vec![],
            urls: vec![],
            absent: false,
        };
        HardState {
            term: Term(7),
            voted_for: Some("a".parse().unwrap()),
            record: SuccessionRecord::blank(vec![member]),
            promised: std::time::Duration::from_secs(3),
            known: Known::default(),
        }
    }

    #[test]
    fn votes_survive_a_reopen_and_the_clean_mark_holds_for_one_start() {
        let directory = tempfile::tempdir().unwrap();
        let (durable, recovered) = Durable::open(directory.path(), "c", "a").unwrap();
        assert!(recovered.hard.is_none() && recovered.clean);
        durable.persist(&hard()).unwrap();
        drop(durable);
        let (durable, recovered) = Durable::open(directory.path(), "c", "a").unwrap();
        assert_eq!(recovered.hard, Some(hard()));
        assert!(!recovered.clean, "no mark was left");
        durable.mark_clean().unwrap();
        drop(durable);
        assert!(Durable::open(directory.path(), "c", "a").unwrap().1.clean);
        assert!(!Durable::open(directory.path(), "c", "a").unwrap().1.clean);
    }

    #[test]
    fn mark_of_a_restore_holds_until_a_cluster_is_founded() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Durable::open(directory.path(), "c", "a").unwrap();
        let (durable, recovered) = open();
        assert_eq!(recovered.restored, None);
        durable.persist_restored(&hard(), "restored from a copy").unwrap();
        drop(durable);
        let (durable, recovered) = open();
        assert_eq!(recovered.restored.as_deref(), Some("restored from a copy"));
        assert_eq!(recovered.hard, Some(hard()));
        let mut stood = hard();
        stood.term = Term(8);
        durable.persist(&stood).unwrap();
        assert!(open().1.restored.is_some(), "it has stood, but not won");
        let record = stood.record.first_of_reign(Term(8), &"a".parse().unwrap());
        durable.persist(&HardState { record, ..stood }).unwrap();
        assert_eq!(open().1.restored, None);
    }

    #[test]
    fn node_db_of_another_member_or_cluster_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        drop(Durable::open(directory.path(), "c", "a").unwrap());
        let error = Durable::open(directory.path(), "c", "b").unwrap_err().to_string();
        assert!(error.contains("member \"a\"") && error.contains("\"b\""), "{error}");
        let error = Durable::open(directory.path(), "d", "a").unwrap_err().to_string();
        assert!(error.contains("cluster \"c\""), "{error}");
    }

    #[test]
    fn node_db_that_is_no_database_is_refused_by_path() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("node.db"), vec![7; 5000]).unwrap();
        let error = Durable::open(directory.path(), "c", "a").unwrap_err().to_string();
        assert!(error.contains("node.db"), "{error}");
    }

    #[test]
    fn data_directory_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(directory.path()).unwrap();
        let error = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        DirectoryLock::take(directory.path()).unwrap();
    }

    #[test]
    fn vote_that_has_changed_on_the_disk_is_noticed() {
        let stored = encode(&hard());
        assert_eq!(decode(&stored), Ok(hard()));
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "byte {at}");
        }
        assert!(decode(&stored[..5]).unwrap_err().contains("found 5 bytes"));
    }
}
