//! Increments: what has changed since a copy, in files of their own beside it, each following the one before.
//!
//! Owns how the directory of increments that belongs to a copy is continued. Read `points.rs` for putting them together again,
//! `tanist_store::KnownPages` for how changes are found.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::SystemTime,
};

use tanist_replication::Stamp;
use tanist_store::{KnownPages, PageSums, Snapshot, Utc, private};

use super::{
    CopyError, CopyFile, Manifest, Source,
    file::{INCREMENT_SUFFIX, increments_of},
    points::{Point, damaged},
    read::unpack_pages,
    schedule::{KeepError, Stoppable},
    take::write_increment,
};
use crate::durable;

/// A copy with its increments, and what they hold together.
#[derive(Debug)]
pub(super) struct Chain {
    directory: PathBuf,
    /// Number of the newest increment.
    number: u32,
    stamp: Stamp,
    known: KnownPages,
    /// Tries in a row that were too early.
    put_off: u32,
}

/// So often in a row a try may be too early before somebody is told.
const PUT_OFF: u32 = 10;

impl Chain {
    /// Of a copy that was just made, whose pages are known.
    pub(super) fn of(copy: &Path, manifest: &Manifest, known: KnownPages) -> Result<Chain, CopyError> {
        let stamp = manifest.stamp().map_err(|why| damaged(copy, why))?;
        Ok(Chain { directory: increments_of(copy), number: 0, stamp, known, put_off: 0 })
    }

    /// Of a copy that an earlier process made: reads it and all its increments. The copy's manifest must be `source`'s.
    ///
    /// # Errors
    /// When one of them can't be read, is damaged or missing: then nothing can follow.
    pub(super) fn open(copy: &Path) -> Result<(Chain, Manifest), CopyError> {
        let point = Point::of(copy)?;
        if let Some(broken) = point.broken {
            return Err(broken);
        }
        let mut known = KnownPages::default();
        let mut set = |page, image: &[u8]| {
            known.set(page, image);
            Ok(())
        };
        unpack_pages(copy, &mut set)?;
        for increment in &point.increments {
            unpack_pages(&increment.path, &mut set)?;
        }
        let number = point.increments.last().map_or(0, |increment| increment.number);
        let newest = point.newest().clone();
        known.resize(newest.pages);
        let stamp = newest.stamp().map_err(|why| damaged(copy, why))?;
        Ok((Chain { directory: increments_of(copy), number, stamp, known, put_off: 0 }, newest))
    }

    /// A try was too early; whether that is nothing to speak of.
    pub(super) fn put_off(&mut self) -> bool {
        self.put_off = self.put_off.saturating_add(1);
        self.put_off < PUT_OFF
    }

    /// Makes the next increment; `None`: there was no transaction since the last.
    pub(super) fn next(
        &mut self,
        source: &Source,
        sums: &PageSums,
        stopping: &AtomicBool,
    ) -> Result<Option<Manifest>, KeepError> {
        let snapshot = Snapshot::open_numbered(&source.directory, sums).map_err(super::TakeError::from)?;
        let stamp = snapshot.target().stamp;
        if stamp == self.stamp {
            return Ok(None);
        }
        let fail = |doing, path: &Path, source| KeepError::Io { doing, path: path.to_owned(), source };
        if !self.directory.exists() {
            private::create_dir_all(&self.directory)
                .map_err(|source| fail("make", &self.directory, source))?;
            durable::sync_entry(&self.directory)
                .map_err(|source| fail("sync the name of", &self.directory, source))?;
        }
        let number = self.number + 1;
        let name = Name { number, made_at: Utc::of(SystemTime::now()).compact(), position: stamp.position };
        let mut file = CopyFile::begin(&self.directory.join(name.to_string()))?;
        let mut out = Stoppable { file: &mut file, stopping };
        let changes = write_increment(source, &snapshot, (self.stamp, &self.known, sums), &mut out)?;
        drop(snapshot);
        let manifest = file.finish_pages(|_, _| {})?;
        self.known.accept(changes);
        (self.number, self.stamp, self.put_off) = (number, stamp, 0);
        Ok(Some(manifest))
    }
}

/// What an increment's file is called: its number among those of its copy, when it was made, up to where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) number: u32,
    made_at: String,
    position: tanist_replication::Position,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Name { number, made_at, position } = self;
        write!(f, "{number:08}-{made_at}-{position}{INCREMENT_SUFFIX}")
    }
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Name> {
        let (number, rest) = name.strip_suffix(INCREMENT_SUFFIX)?.split_once('-')?;
        let (made_at, position) = rest.split_once('-')?;
        let digits = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
        Some(Name {
            number: number.parse().ok().filter(|_| digits)?,
            made_at: made_at.to_owned(),
            position: position.parse().ok()?,
        })
    }
}

/// Removes the increments that follow a copy; other files in their directory stay, and so does it then.
pub(super) fn remove(copy: &Path) -> std::io::Result<()> {
    let directory = increments_of(copy);
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if Name::parse(name.strip_suffix(".partial").unwrap_or(&name)).is_some() {
            fs::remove_file(entry.path())?;
        }
    }
    match fs::remove_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}
