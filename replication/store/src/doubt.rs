//! What a failed sync leaves in doubt: the system takes what it should have written for written, and no later sync brings it to
//! the disk, though it reads well until it leaves the system's cache.
//!
//! Owns the durable mark of that, a file in the data directory, which goes only when the replica was written anew and
//! synced. Read `checkpoint.rs` for who syncs, `rejoin.rs` for who writes anew.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use crate::{connection::sync_dir, error::StoreError, private};

/// File name in the data directory.
const MARK_FILE: &str = "state.db-doubt";
const TEXT: &[u8] = b"A sync of state.db or its WAL failed: this replica is written anew before it counts.\n";

/// Whether the replica of one data directory is in doubt.
#[derive(Debug)]
pub(crate) struct Doubt {
    dir: PathBuf,
    doubted: AtomicBool,
    /// The mark could not be made durable.
    unmarked: AtomicBool,
}

impl Doubt {
    /// As an earlier process has left it.
    pub(crate) fn of(dir: &Path) -> Doubt {
        // One that can't be looked at stands.
        let doubted = dir.join(MARK_FILE).try_exists().unwrap_or(true);
        Doubt { dir: dir.to_owned(), doubted: doubted.into(), unmarked: false.into() }
    }

    pub(crate) fn stands(&self) -> bool {
        self.doubted.load(SeqCst)
    }

    pub(crate) fn is_unmarked(&self) -> bool {
        self.unmarked.load(SeqCst)
    }

    /// A sync has failed. The mark is on the disk when this returns, or [`Doubt::is_unmarked`].
    pub(crate) fn raise(&self) {
        self.doubted.store(true, SeqCst);
        let path = self.dir.join(MARK_FILE);
        let made = private::write(&path, TEXT)
            .and_then(|()| File::options().write(true).open(&path)?.sync_all())
            .map_err(|error| StoreError::io(&path, "mark the replica as in doubt", error))
            .and_then(|()| sync_dir(&self.dir));
        match made {
            Ok(()) => tracing::error!(
                "a sync of state.db or its WAL failed: nothing of this replica counts until it was written anew"
            ),
            Err(error) => {
                self.unmarked.store(true, SeqCst);
                tracing::error!(%error, "a sync of state.db or its WAL failed, and that can't be kept in mind");
            }
        }
    }

    /// The replica was written anew, and synced.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let path = self.dir.join(MARK_FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io(&path, "remove the mark of doubt", error));
            }
            _ => {}
        }
        sync_dir(&self.dir)?;
        self.doubted.store(false, SeqCst);
        self.unmarked.store(false, SeqCst);
        Ok(())
    }
}
