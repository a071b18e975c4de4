//! The serving end of a rejoin (R12): one snapshot of a living database, compared with a replica page by page.
//!
//! Owns the walk over all pages. Never blocks readers or the writer, and keeps no more than one answer in memory. Read
//! `rejoin.rs` for the other end.

use std::path::Path;

use bytes::Bytes;
use tanist_replication::PagesWriter;

use crate::{
    error::StoreError,
    page_hash::{PAGE_HASH_BYTES, PageHash, PageHasher, WholeHasher, window_pages},
    snapshot::{Snapshot, Target},
    wal::is_lock_page,
    walk::Walk,
};

/// A snapshot of a whole database, as a replica asks for it.
#[derive(Debug)]
pub struct CopyOut {
    snapshot: Snapshot,
    hasher: PageHasher,
    whole: WholeHasher,
    image: Vec<u8>,
    walk: Walk,
    next: u32,
    moved: u32,
}

impl CopyOut {
    /// Opens the database in `dir` and its snapshot, for a replica that hashes with `key`.
    ///
    /// # Errors
    /// When it can't be opened or read.
    pub fn open(dir: &Path, key: [u8; 32]) -> Result<CopyOut, StoreError> {
        Ok(CopyOut::of(Snapshot::open(dir)?, key))
    }

    /// Of a snapshot, for a replica that hashes with `key`.
    #[must_use]
    pub fn of(snapshot: Snapshot, key: [u8; 32]) -> CopyOut {
        let walk = Walk::All(snapshot.target().pages);
        CopyOut::along(snapshot, key, walk)
    }

    /// Of those pages of a snapshot that were written since the replica's stamp (`PageSums::changed_since`).
    ///
    /// # Errors
    /// When the list isn't one of pages of the snapshot.
    pub fn of_changed(snapshot: Snapshot, key: [u8; 32], changed: Vec<u32>) -> Result<CopyOut, StoreError> {
        let Target { page_size, pages, .. } = *snapshot.target();
        let walk = Walk::these(changed, page_size, pages)?;
        Ok(CopyOut::along(snapshot, key, walk))
    }

    fn along(snapshot: Snapshot, key: [u8; 32], walk: Walk) -> CopyOut {
        let Target { page_size, pages, .. } = *snapshot.target();
        let hasher = PageHasher::new(key);
        let whole = hasher.whole(page_size, pages);
        let image = vec![0; page_size as usize];
        CopyOut { snapshot, hasher, whole, image, walk, next: 1, moved: 0 }
    }

    /// The pages that questions are about, if not all.
    #[must_use]
    pub fn changed(&self) -> Option<&[u32]> {
        match &self.walk {
            Walk::All(_) => None,
            Walk::These(list) => Some(list),
        }
    }

    /// What the snapshot is.
    #[must_use]
    pub fn target(&self) -> &Target {
        self.snapshot.target()
    }

    /// The pages among `count` from place `first` on that differ from the replica's, whose hashes follow each other in
    /// `hashes` (fewer, where the replica ends earlier), as a payload of `tanist_replication::Pages`. Questions go
    /// through the database in order.
    ///
    /// # Errors
    /// [`StoreError::Exchange`] for a question that makes no sense; otherwise when the database can't be read.
    pub fn differing(&mut self, first: u32, count: u32, hashes: &[u8]) -> Result<Bytes, StoreError> {
        let Target { page_size, pages, .. } = *self.snapshot.target();
        let end = first.checked_add(count).filter(|end| {
            first == self.next && (1..=window_pages(page_size)).contains(&count) && end - 1 <= self.walk.len()
        });
        let end = end.ok_or_else(|| {
            StoreError::Exchange(format!(
                "asked for {count} pages from place {first} on, expected at most {} from place {} on, of {}",
                window_pages(page_size),
                self.next,
                self.walk.len()
            ))
        })?;
        if !hashes.len().is_multiple_of(PAGE_HASH_BYTES) || hashes.len() / PAGE_HASH_BYTES > count as usize {
            let found = hashes.len();
            return Err(StoreError::Exchange(format!("{found} bytes of hashes for {count} pages")));
        }
        let mut theirs = hashes.chunks_exact(PAGE_HASH_BYTES);
        let mut writer = PagesWriter::new(page_size, 0);
        for page in self.walk.pages(first..end) {
            let their = theirs.next();
            if is_lock_page(page, page_size) {
                continue;
            }
            self.snapshot.page(page, &mut self.image)?;
            let hash = self.hasher.page(page, &self.image);
            self.whole.add(hash);
            if hash == PageHash::NONE || their != Some(&hash.0) {
                writer.page(page).copy_from_slice(&self.image);
                self.moved += 1;
            }
        }
        self.next = end;
        Ok(writer.finish(pages))
    }

    /// Pages given so far.
    #[must_use]
    pub fn moved(&self) -> u32 {
        self.moved
    }

    /// The hash of all pages that questions are about, once all were asked for.
    #[must_use]
    pub fn whole_hash(&self) -> Option<[u8; 32]> {
        (self.next > self.walk.len()).then(|| self.whole.finish())
    }
}
