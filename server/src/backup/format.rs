//! What a copy's file looks like: one zstd frame that holds the SQLite file, and a skippable frame that says what it is.
//! An increment looks the same, but that its frame holds only pages that have changed, each behind its number.
//!
//! Owns the bytes of that second frame, the trailer. `zstd -d` passes over it, so that without Tanist, too, a copy gives a
//! database that opens. It comes last because its checksum does: a copy that broke off has none.

use serde::{Deserialize, Serialize};
use tanist_replication::{ChainHash, Position, Stamp, Term, Txid};

/// One of the sixteen numbers that begin a skippable frame (RFC 8878, 3.1.2), little-endian.
const SKIPPABLE: [u8; 4] = 0x184D_2A5E_u32.to_le_bytes();
/// The last bytes of every copy.
const MAGIC: [u8; 8] = *b"TANISTC1";
/// Behind the manifest: its blake3 hash, its length (little-endian), the magic bytes.
pub(super) const END_BYTES: usize = 32 + 4 + MAGIC.len();
/// Before the manifest: the number of a skippable frame and its length.
const HEAD_BYTES: usize = 8;
/// Before each page's image in an increment: its number, little-endian.
pub(super) const NUMBER_BYTES: usize = 4;
/// A manifest has some hundred bytes.
pub(super) const MANIFEST_LIMIT: usize = 16 << 10;
/// SQLite's largest page in bytes.
const LARGEST_PAGE: u32 = 65_536;

/// What a copy says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The cluster's name.
    pub cluster: String,
    /// A mark of the cluster's key, from which the key can't be found: whoever restores must take another key or name.
    pub key_mark: String,
    /// The machine whose replica was copied.
    pub member: String,
    /// When, in UTC, by its wall clock.
    pub made_at: String,
    /// Term of the newest transaction in it.
    pub term: u64,
    /// Number of the newest transaction in it.
    pub txid: u64,
    /// Hash that ties it to all before it, hexadecimal.
    pub chain: String,
    /// Size of a database page in bytes.
    pub page_size: u32,
    /// Size of the database in pages.
    pub pages: u32,
    /// Bytes of the zstd frame before the trailer.
    pub frame_bytes: u64,
    /// Their blake3 hash, hexadecimal.
    pub blake3: String,
    /// What it must be put upon; `None`: it is a whole copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
}

/// What an increment follows, and how much is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Term of the newest transaction before it.
    pub term: u64,
    /// Its number.
    pub txid: u64,
    /// Hash that ties it to all before it, hexadecimal.
    pub chain: String,
    /// Pages in the increment.
    pub changed: u32,
}

impl After {
    /// What the copy with all increments before this one is.
    ///
    /// # Errors
    /// When the chain hash is none.
    pub fn stamp(&self) -> Result<Stamp, String> {
        stamp(self.term, self.txid, &self.chain)
    }
}

fn stamp(term: u64, txid: u64, chain: &str) -> Result<Stamp, String> {
    let wrong = || format!("chain: found {chain:?}, expected 32 hexadecimal digits");
    let number =
        Some(chain).filter(|text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = number.and_then(|text| u128::from_str_radix(text, 16).ok()).ok_or_else(wrong)?;
    Ok(Stamp {
        position: Position { term: Term(term), txid: Txid(txid) },
        chain: ChainHash(number.to_be_bytes()),
    })
}

impl Manifest {
    /// Size of the database in bytes.
    #[must_use]
    pub fn database_bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.pages)
    }

    /// The newest transaction in it.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { term: Term(self.term), txid: Txid(self.txid) }
    }

    /// What the copied replica was.
    ///
    /// # Errors
    /// When the chain hash is none.
    pub fn stamp(&self) -> Result<Stamp, String> {
        stamp(self.term, self.txid, &self.chain)
    }

    /// Bytes that its frame must give: the database, or numbers and images of the changed pages.
    pub(super) fn content_bytes(&self) -> u64 {
        match &self.after {
            None => self.database_bytes(),
            Some(after) => u64::from(after.changed) * (NUMBER_BYTES as u64 + u64::from(self.page_size)),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.stamp()?;
        if !self.page_size.is_power_of_two() || !(512..=LARGEST_PAGE).contains(&self.page_size) {
            return Err(format!(
                "page_size: found {}, expected a power of two from 512 to {LARGEST_PAGE}",
                self.page_size
            ));
        }
        if self.pages == 0 {
            return Err("pages: found 0, expected at least 1".to_owned());
        }
        if let Some(after) = &self.after {
            after.stamp().map_err(|why| format!("after.{why}"))?;
            if !(1..=self.pages).contains(&after.changed) {
                let (found, pages) = (after.changed, self.pages);
                return Err(format!("after.changed: found {found}, expected 1 to {pages}"));
            }
        }
        Ok(())
    }
}

/// The trailer.
pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    // Strings and numbers: can't fail.
    let json = serde_json::to_vec(manifest).unwrap_or_default();
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let mut trailer = Vec::with_capacity(HEAD_BYTES + json.len() + END_BYTES);
    trailer.extend_from_slice(&SKIPPABLE);
    trailer.extend_from_slice(&length(json.len() + END_BYTES));
    trailer.extend_from_slice(&json);
    trailer.extend_from_slice(blake3::hash(&json).as_bytes());
    trailer.extend_from_slice(&length(json.len()));
    trailer.extend_from_slice(&MAGIC);
    trailer
}

/// How long the trailer is that ends with `end`; `None`: it is no trailer's end.
pub(super) fn trailer_bytes(end: &[u8; END_BYTES]) -> Option<Result<usize, String>> {
    let (rest, magic) = end.split_last_chunk::<8>()?;
    if *magic != MAGIC {
        return None;
    }
    let (_, length) = rest.split_last_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some(match length {
        1..=MANIFEST_LIMIT => Ok(HEAD_BYTES + length + END_BYTES),
        _ => Err(format!("a manifest of {length} bytes, expected 1 to {MANIFEST_LIMIT}")),
    })
}

/// The manifest in a whole trailer, which stands behind `frame_bytes` bytes.
///
/// # Errors
/// What was found and what was expected.
pub(super) fn decode(trailer: &[u8], frame_bytes: u64) -> Result<Manifest, String> {
    let wrong = || format!("a trailer of {} bytes that isn't one frame", trailer.len());
    let (head, rest) = trailer.split_first_chunk::<HEAD_BYTES>().ok_or_else(wrong)?;
    let (json, end) = rest.split_last_chunk::<END_BYTES>().ok_or_else(wrong)?;
    let length = u32::try_from(rest.len()).map_err(|_| wrong())?;
    if head[..4] != SKIPPABLE || head[4..] != length.to_le_bytes() {
        return Err(wrong());
    }
    if end[..32] != *blake3::hash(json).as_bytes() {
        return Err("a manifest whose checksum is wrong".to_owned());
    }
    let manifest: Manifest =
        serde_json::from_slice(json).map_err(|error| format!("a manifest that can't be read: {error}"))?;
    manifest.check()?;
    if manifest.frame_bytes != frame_bytes {
        return Err(format!("frame_bytes: found {frame_bytes}, expected {}", manifest.frame_bytes));
    }
    Ok(manifest)
}
