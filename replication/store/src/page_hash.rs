//! Short hashes of pages, by which two replicas find out where they differ (R12).
//!
//! Owns what goes into a hash. Never stored: every rejoin has a key of its own, so nobody can prepare two pages that look
//! the same. Read `rejoin.rs` next.

use crate::checksum;

/// Bytes of a page's hash.
pub const PAGE_HASH_BYTES: usize = 16;
/// Bytes of database that one question of a rejoin covers.
const WINDOW_BYTES: u32 = 1 << 20;

/// Hash of one page: its number and its image, without the bytes that each machine's SQLite writes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHash(pub(crate) [u8; PAGE_HASH_BYTES]);

impl PageHash {
    /// Stands for a page that the replica doesn't have: no page's hash.
    pub(crate) const NONE: PageHash = PageHash([0; PAGE_HASH_BYTES]);
}

/// Hashes pages under one rejoin's key.
#[derive(Clone)]
pub(crate) struct PageHasher {
    key: [u8; 32],
    scratch: Vec<u8>,
}

impl PageHasher {
    pub(crate) fn new(key: [u8; 32]) -> PageHasher {
        PageHasher { key, scratch: Vec::new() }
    }

    pub(crate) fn page(&mut self, page: u32, image: &[u8]) -> PageHash {
        self.scratch.clear();
        self.scratch.extend_from_slice(&page.to_be_bytes());
        self.scratch.extend_from_slice(image);
        if page == 1 {
            checksum::mask_own_bytes(&mut self.scratch[4..]);
        }
        let hash = blake3::keyed_hash(&self.key, &self.scratch);
        let mut short = [0; PAGE_HASH_BYTES];
        short.copy_from_slice(&hash.as_bytes()[..PAGE_HASH_BYTES]);
        PageHash(short)
    }

    /// The hash of a whole database of `pages` pages of `page_size` bytes, still without them.
    pub(crate) fn whole(&self, page_size: u32, pages: u32) -> WholeHasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&page_size.to_be_bytes());
        hasher.update(&pages.to_be_bytes());
        WholeHasher(hasher)
    }
}

impl std::fmt::Debug for PageHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageHasher")
    }
}

/// Hash of a whole database from the hashes of its pages, in order.
#[derive(Debug)]
pub(crate) struct WholeHasher(blake3::Hasher);

impl WholeHasher {
    pub(crate) fn add(&mut self, hash: PageHash) {
        self.0.update(&hash.0);
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Pages that one question of a rejoin covers at most: about 1 MiB of database, so that an answer has a bound.
#[must_use]
pub fn window_pages(page_size: u32) -> u32 {
    (WINDOW_BYTES / page_size.max(512)).max(1)
}
