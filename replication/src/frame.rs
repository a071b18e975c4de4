//! A transaction as it travels: its place in history and the page images it wrote.
//!
//! Owns the payload format (`encode_pages`, `Pages`) and the hash chain. Never touches SQLite: the store
//! captures and applies. Read `position.rs` for where a transaction stands.

use bytes::{BufMut, Bytes, BytesMut};
use minicbor::{Decode, Encode};

use crate::position::Position;

/// Hash that ties a transaction to all before it. Stands in the position row of the transaction it numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct ChainHash(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl std::fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// First 16 bytes of the blake3 hash of a transaction's uncompressed payload.
#[derive(Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Checksum(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        ChainHash(self.0).fmt(f)
    }
}

impl Checksum {
    /// The checksum of `payload` (uncompressed).
    #[must_use]
    pub fn of(payload: &[u8]) -> Checksum {
        Checksum(first_16(blake3::hash(payload)))
    }
}

fn first_16(hash: blake3::Hash) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    out
}

impl ChainHash {
    /// The hash for the position row of the transaction at `position`, whose predecessor has `self` in its row
    /// and the payload checksum `predecessor` (zero when no longer known: after a restart).
    #[must_use]
    pub fn next(self, predecessor: Checksum, position: Position) -> ChainHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tanist chain 1");
        hasher.update(&self.0);
        hasher.update(&predecessor.0);
        hasher.update(&position.term.0.to_be_bytes());
        hasher.update(&position.txid.0.to_be_bytes());
        ChainHash(first_16(hasher.finalize()))
    }
}

/// A position with the hash in its row: what a replica *is*. Two replicas with equal stamps hold the same
/// transactions (I3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Stamp {
    /// Newest transaction.
    #[n(0)]
    pub position: Position,
    /// The hash in its position row.
    #[n(1)]
    pub chain: ChainHash,
}

impl Stamp {
    /// What a replica says it is when it holds something that no master numbered: a stamp of nobody's branch.
    #[must_use]
    pub fn off_branch(position: Position) -> Stamp {
        Stamp { position, chain: ChainHash([0xff; 16]) }
    }

    /// Whether it is such a stamp.
    #[must_use]
    pub fn is_off_branch(&self) -> bool {
        *self == Stamp::off_branch(self.position)
    }
}

/// How a payload's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Encoding {
    /// As `encode_pages` wrote it.
    #[n(0)]
    Plain,
    /// The same, compressed with zstd.
    #[n(1)]
    Zstd,
}

/// One captured transaction: *captured* on the master; a backup *stores* it (one SQLite transaction, synced).
///
/// Cheap to clone: the payload is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// What the replica must be before.
    pub previous: Stamp,
    /// What it is afterwards.
    pub stamp: Stamp,
    /// Checksum of the uncompressed payload.
    pub checksum: Checksum,
    /// How `payload` is encoded.
    pub encoding: Encoding,
    /// Length in bytes of the uncompressed payload.
    pub plain_len: u32,
    /// Page images (see [`Pages`]), perhaps compressed.
    pub payload: Bytes,
}

/// A payload that can't be what a master captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Shorter than its own header or than the pages it announces.
    #[error("payload: {found} bytes, expected {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there must be.
        expected: usize,
    },
    /// A page size SQLite doesn't know.
    #[error("payload: page size {0}, expected a power of two from 512 to 65536")]
    PageSize(u32),
    /// Page number zero or past the database's end.
    #[error("payload: page {page} of a database with {pages} pages")]
    PageNumber {
        /// The page's number.
        page: u32,
        /// Database size in pages.
        pages: u32,
    },
}

const HEADER: usize = 12;

/// The page images of one transaction: `page size, database pages, page count`, then `(number, image)` each, all
/// numbers 32-bit big-endian. Validated on [`Pages::parse`].
#[derive(Debug, Clone)]
pub struct Pages {
    page_size: u32,
    database_pages: u32,
    bytes: Bytes,
}

impl Pages {
    /// Reads an uncompressed payload.
    ///
    /// # Errors
    /// When lengths, page size or page numbers don't fit together.
    pub fn parse(bytes: Bytes) -> Result<Pages, PayloadError> {
        if bytes.len() < HEADER {
            return Err(PayloadError::Length { found: bytes.len(), expected: HEADER });
        }
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (page_size, database_pages, count) = (word(0), word(4), word(8));
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(PayloadError::PageSize(page_size));
        }
        let expected = (count as usize)
            .checked_mul(page_size as usize + 4)
            .and_then(|pages| pages.checked_add(HEADER))
            .unwrap_or(usize::MAX);
        if bytes.len() != expected {
            return Err(PayloadError::Length { found: bytes.len(), expected });
        }
        let pages = Pages { page_size, database_pages, bytes };
        for (page, _) in pages.iter() {
            if page == 0 || page > database_pages {
                return Err(PayloadError::PageNumber { page, pages: database_pages });
            }
        }
        Ok(pages)
    }

    /// Size of each image in bytes.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Size of the database in pages after the transaction.
    #[must_use]
    pub fn database_pages(&self) -> u32 {
        self.database_pages
    }

    /// `(page number, image)`, ascending as captured.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.bytes[HEADER..].chunks_exact(self.page_size as usize + 4).map(|chunk| {
            let (number, image) = chunk.split_at(4);
            (u32::from_be_bytes([number[0], number[1], number[2], number[3]]), image)
        })
    }
}

/// Writes a payload, page by page, in one allocation.
#[derive(Debug)]
pub struct PagesWriter {
    page_size: u32,
    buffer: BytesMut,
    count: u32,
}

impl PagesWriter {
    /// Room for `expected` pages of `page_size` bytes.
    #[must_use]
    pub fn new(page_size: u32, expected: usize) -> PagesWriter {
        let mut buffer = BytesMut::with_capacity(HEADER + expected * (page_size as usize + 4));
        buffer.put_u32(page_size);
        buffer.put_u64(0); // database size and page count, filled in by `finish`
        PagesWriter { page_size, buffer, count: 0 }
    }

    /// Adds a page and gives its image's place to be filled in.
    pub fn page(&mut self, number: u32) -> &mut [u8] {
        self.count += 1;
        self.buffer.put_u32(number);
        let start = self.buffer.len();
        self.buffer.put_bytes(0, self.page_size as usize);
        &mut self.buffer[start..]
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is no page yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finished payload for a database that is `database_pages` long after the transaction.
    #[must_use]
    pub fn finish(mut self, database_pages: u32) -> Bytes {
        self.buffer[4..8].copy_from_slice(&database_pages.to_be_bytes());
        self.buffer[8..12].copy_from_slice(&self.count.to_be_bytes());
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_read_back_what_the_writer_wrote() {
        let mut writer = PagesWriter::new(512, 2);
        writer.page(1).fill(7);
        writer.page(3).fill(9);
        let pages = Pages::parse(writer.finish(3)).unwrap();
        let read: Vec<_> = pages.iter().map(|(number, image)| (number, image[0], image.len())).collect();
        assert_eq!(read, [(1, 7, 512), (3, 9, 512)]);
        assert_eq!(pages.database_pages(), 3);
    }

    #[test]
    fn pages_refuse_hostile_lengths_and_numbers() {
        assert!(Pages::parse(Bytes::from_static(&[0; 11])).is_err());
        let mut huge = vec![];
        huge.extend(4096u32.to_be_bytes());
        huge.extend(1u32.to_be_bytes());
        huge.extend(u32::MAX.to_be_bytes());
        assert!(matches!(Pages::parse(huge.into()), Err(PayloadError::Length { .. })));
        let mut writer = PagesWriter::new(512, 1);
        writer.page(2);
        assert_eq!(
            Pages::parse(writer.finish(1)).err(),
            Some(PayloadError::PageNumber { page: 2, pages: 1 })
        );
        let writer = PagesWriter::new(100, 0);
        assert_eq!(Pages::parse(writer.finish(1)).err(), Some(PayloadError::PageSize(100)));
    }
}
