//! Compresses payloads when it pays and reads back what a master sent.
//!
//! Owns the choice of encoding. Never accepts more bytes than announced. Read `apply.rs` next.

use bytes::Bytes;
use tanist_replication::{Checksum, Encoding, Pages, Transaction};

use crate::error::StoreError;

/// Smaller payloads (one or two pages) cost more to compress than to send.
const COMPRESS_FROM: usize = 12 << 10;
const LEVEL: i32 = 1;
const LONGEST_PAUSE: u32 = 64;

/// Compresses payloads, with pauses while that doesn't pay.
pub(crate) struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// Payloads still to be left as they are.
    pause: u32,
    /// Length of the next pause.
    next_pause: u32,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { zstd: zstd::bulk::Compressor::new(LEVEL).ok(), pause: 0, next_pause: 1 }
    }

    /// The payload as it should travel.
    pub(crate) fn encode(&mut self, plain: Bytes) -> (Encoding, Bytes) {
        if plain.len() < COMPRESS_FROM {
            return (Encoding::Plain, plain);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return (Encoding::Plain, plain);
        }
        let compressed = self.zstd.as_mut().and_then(|zstd| zstd.compress(&plain).ok());
        match compressed {
            Some(mut compressed) if compressed.len() < plain.len() / 10 * 9 => {
                self.next_pause = 1;
                // It was made for the worst case, and the catch-up buffer, which counts its bytes, keeps it long.
                compressed.shrink_to_fit();
                (Encoding::Zstd, compressed.into())
            }
            _ => {
                self.pause = self.next_pause;
                self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
                (Encoding::Plain, plain)
            }
        }
    }
}

/// Reads payloads back.
pub(crate) struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder { zstd: zstd::bulk::Decompressor::new().ok() }
    }

    /// The pages of a transaction, checked against its checksum and `limit_bytes`.
    pub(crate) fn decode(
        &mut self,
        transaction: &Transaction,
        limit_bytes: u64,
    ) -> Result<Pages, StoreError> {
        let position = transaction.stamp.position;
        let plain_len = transaction.plain_len;
        if u64::from(plain_len) > limit_bytes {
            return Err(StoreError::PayloadTooLarge { position, bytes: plain_len.into(), limit_bytes });
        }
        let plain = match transaction.encoding {
            Encoding::Plain => Some(transaction.payload.clone()),
            // Never gives more bytes than the capacity.
            Encoding::Zstd => self
                .zstd
                .as_mut()
                .and_then(|zstd| zstd.decompress(&transaction.payload, plain_len as usize).ok())
                .map(Bytes::from),
        };
        let plain = plain
            .filter(|plain| plain.len() == plain_len as usize)
            .ok_or(StoreError::Decompress { position, plain_len })?;
        if Checksum::of(&plain) != transaction.checksum {
            return Err(StoreError::Checksum { position });
        }
        Ok(Pages::parse(plain)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_payload_keeps_no_more_memory_than_its_bytes() {
        let plain = Bytes::from(vec![7; 1 << 20]);
        let (encoding, payload) = Encoder::new().encode(plain);
        assert_eq!(encoding, Encoding::Zstd);
        let len = payload.len();
        assert!(len < 1 << 12);
        let capacity = payload.try_into_mut().map(|bytes| bytes.capacity());
        assert_eq!(capacity.ok(), Some(len));
    }
}
