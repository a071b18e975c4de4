//! The staging file: pages that have come for a rejoin, before all of them are put in place at once.
//!
//! Owns the file's form. Each page carries a checksum, so nothing needs to be synced: what a crash tore is as if it had
//! never come. Never outlives the state of the replica for which it was begun. Read `rejoin.rs` next.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tanist_replication::Stamp;

use crate::{Reserve, error::StoreError, private};

/// File name in the data directory.
pub(crate) const STAGING_FILE: &str = "rejoin.pages";
const MAGIC: &[u8; 16] = b"tanist staging 1";
const HEADER: usize = 64;
const NUMBER: usize = 4;
const CHECKSUM: usize = 16;
/// Room is looked for before each of so many pages.
const LOOK_EVERY: u64 = 256;

/// Pages that have come, by number.
#[derive(Debug)]
pub struct Staging {
    file: File,
    path: PathBuf,
    page_size: u32,
    /// Where each page stands: the number of its record.
    index: BTreeMap<u32, u64>,
    records: u64,
    record: Vec<u8>,
    reserve: Option<Arc<Reserve>>,
}

impl Staging {
    /// Opens the file in `dir`, with what an earlier try has left there for the same state of the replica.
    pub(crate) fn open(
        dir: &Path,
        base: Stamp,
        page_size: u32,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Staging, StoreError> {
        let path = dir.join(STAGING_FILE);
        let error = |doing| {
            let path = path.clone();
            move |source| StoreError::io(&path, doing, source)
        };
        let file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(error("open the staging file"))?;
        let record = vec![0; NUMBER + CHECKSUM + page_size as usize];
        let mut staging = Staging {
            file,
            path: path.clone(),
            page_size,
            index: BTreeMap::new(),
            records: 0,
            record,
            reserve,
        };
        staging.read_back(&header(base, page_size)).map_err(error("read the staging file"))?;
        Ok(staging)
    }

    /// Finds the intact pages; begins anew when the file belongs to something else.
    fn read_back(&mut self, header: &[u8; HEADER]) -> io::Result<()> {
        let mut found = [0; HEADER];
        self.file.seek(SeekFrom::Start(0))?;
        let whole = self.file.metadata()?.len() >= HEADER as u64;
        if whole {
            self.file.read_exact(&mut found)?;
        }
        if !whole || found != *header {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            return self.file.write_all(header);
        }
        let records = (self.file.metadata()?.len() - HEADER as u64) / self.record.len() as u64;
        let mut reader = io::BufReader::with_capacity(1 << 20, &self.file);
        for at in 0..records {
            reader.read_exact(&mut self.record)?;
            if let Some(page) = number(&self.record) {
                self.index.insert(page, at);
            }
        }
        self.records = records;
        Ok(())
    }

    /// Pages in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(crate) fn contains(&self, page: u32) -> bool {
        self.index.contains_key(&page)
    }

    /// Reads a page into `image`, which has the page's size; `false` when it isn't in the file.
    pub(crate) fn get(&mut self, page: u32, image: &mut [u8]) -> Result<bool, StoreError> {
        let Some(at) = self.index.get(&page).copied() else { return Ok(false) };
        let mut read = || {
            self.file.seek(SeekFrom::Start(HEADER as u64 + at * self.record.len() as u64))?;
            self.file.read_exact(&mut self.record)
        };
        read().map_err(|source| StoreError::io(&self.path, "read a staged page", source))?;
        if number(&self.record) != Some(page) {
            return Err(StoreError::Staged { path: self.path.clone(), page });
        }
        image.copy_from_slice(&self.record[NUMBER + CHECKSUM..]);
        Ok(true)
    }

    /// Keeps a page; it takes the place of an earlier image.
    pub(crate) fn put(&mut self, page: u32, image: &[u8]) -> Result<(), StoreError> {
        assert_eq!(image.len(), self.page_size as usize, "a staged page has the database's page size");
        let at = self.index.get(&page).copied().unwrap_or(self.records);
        if at == self.records && at.is_multiple_of(LOOK_EVERY) {
            self.check_room(LOOK_EVERY)?;
        }
        let number = page.to_be_bytes();
        self.record[..NUMBER].copy_from_slice(&number);
        self.record[NUMBER..NUMBER + CHECKSUM].copy_from_slice(&checksum(&number, image));
        self.record[NUMBER + CHECKSUM..].copy_from_slice(image);
        let mut write = || {
            self.file.seek(SeekFrom::Start(HEADER as u64 + at * self.record.len() as u64))?;
            self.file.write_all(&self.record)
        };
        write().map_err(|source| StoreError::io(&self.path, "stage a page", source))?;
        self.records = self.records.max(at + 1);
        self.index.insert(page, at);
        Ok(())
    }

    /// Whether there is room for so many pages, in the file or in the WAL, beside what is held back.
    pub(crate) fn check_room(&self, pages: u64) -> Result<(), StoreError> {
        let bytes = pages.saturating_mul(self.page_size.into());
        match &self.reserve {
            Some(reserve) if !reserve.has_room_for(bytes) => Err(StoreError::DiskFull {
                path: self.path.clone(),
                doing: "keep the pages of a rejoin, beside the room that is held back",
            }),
            _ => Ok(()),
        }
    }

    /// Removes the file: what is in it is in place, or of no use.
    pub(crate) fn discard(self) -> Result<(), StoreError> {
        drop(self.file);
        std::fs::remove_file(&self.path)
            .map_err(|source| StoreError::io(&self.path, "remove the staging file", source))
    }
}

fn header(base: Stamp, page_size: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..20].copy_from_slice(&page_size.to_be_bytes());
    header[20..28].copy_from_slice(&base.position.term.0.to_be_bytes());
    header[28..36].copy_from_slice(&base.position.txid.0.to_be_bytes());
    header[36..52].copy_from_slice(&base.chain.0);
    header
}

fn checksum(number: &[u8], image: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(number);
    hasher.update(image);
    let mut short = [0; CHECKSUM];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM]);
    short
}

/// The page's number, if the record is intact.
fn number(record: &[u8]) -> Option<u32> {
    let (number, rest) = record.split_at(NUMBER);
    let (sum, image) = rest.split_at(CHECKSUM);
    let page = u32::from_be_bytes([number[0], number[1], number[2], number[3]]);
    (page != 0 && checksum(number, image) == sum).then_some(page)
}
