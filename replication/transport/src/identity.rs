//! Who belongs together: the cluster's name and the secret its members share.
//!
//! Owns their text forms. Never prints a key, not even in an error. Read `handshake.rs` for where they are checked.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::{Zeroize, Zeroizing};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Identity of a cluster, such as `plant-4`: 1 to 63 letters, digits, `-`, `_` or `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(Arc<str>);

/// A text that can't be a cluster id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster id {found:?}: expected 1 to 63 letters, digits, '-', '_' or '.'")]
pub struct ClusterIdError {
    found: String,
}

impl ClusterId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = ClusterIdError;

    fn from_str(text: &str) -> Result<ClusterId, ClusterIdError> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits {
            Ok(ClusterId(text.into()))
        } else {
            Err(ClusterIdError { found: text.chars().take(80).collect() })
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The 32 secret bytes that make a machine a member. Wiped from memory when dropped; `Debug` hides them.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

/// A text that is no cluster key. Says nothing of the text but its length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterKeyError {
    /// Neither base64 nor hex.
    #[error(
        "cluster key: expected 32 bytes as base64 (44 characters) or hex (64), found {length} characters"
    )]
    Length {
        /// Characters found, white space around them left out.
        length: usize,
    },
    /// The right length, but a character that doesn't belong there.
    #[error("cluster key: not valid {encoding}")]
    Encoding {
        /// `base64` or `hex`.
        encoding: &'static str,
    },
    /// All bytes are equal: a placeholder.
    #[error("cluster key: all its bytes are equal; make a random one")]
    Weak,
}

impl ClusterKey {
    /// A new random key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> ClusterKey {
        let mut bytes = [0; 32];
        if let Err(error) = getrandom::fill(&mut bytes) {
            panic!("generate a cluster key: the operating system gave no randomness: {error}");
        }
        ClusterKey(bytes)
    }

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> ClusterKey {
        ClusterKey(bytes)
    }

    /// The key as base64, for a file that only its owner may read.
    #[must_use]
    pub fn to_text(&self) -> String {
        BASE64.encode(self.0)
    }

    /// 32 other secret bytes that follow from the key, for the purpose that `context` names; they don't show the key.
    #[must_use]
    pub fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, &self.0)
    }

    /// 16 characters by which people tell keys apart; they don't show the key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let derived = self.derive("tanist 2026-12 fingerprint of a cluster key");
        derived[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ClusterKey {
    type Err = ClusterKeyError;

    /// Reads base64 (with or without `=`) or hex; white space around it is ignored.
    fn from_str(text: &str) -> Result<ClusterKey, ClusterKeyError> {
        let text = text.trim();
        let mut key = ClusterKey([0; 32]);
        match text.len() {
            64 => {
                let wrong = ClusterKeyError::Encoding { encoding: "hex" };
                let digits = text.as_bytes().chunks_exact(2);
                for (byte, pair) in key.0.iter_mut().zip(digits) {
                    let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(|| wrong.clone());
                    *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
                }
            }
            43 | 44 => {
                // Three bytes of slack: the decoder asks for room in whole groups.
                let mut buffer = Zeroizing::new([0u8; 36]);
                match BASE64.decode_slice(text, buffer.as_mut_slice()) {
                    Ok(32) => key.0.copy_from_slice(&buffer[..32]),
                    _ => return Err(ClusterKeyError::Encoding { encoding: "base64" }),
                }
            }
            _ => return Err(ClusterKeyError::Length { length: text.chars().count() }),
        }
        if key.0.iter().all(|byte| *byte == key.0[0]) {
            return Err(ClusterKeyError::Weak);
        }
        Ok(key)
    }
}

impl PartialEq for ClusterKey {
    /// By what follows from the two: how long it takes says nothing of the keys.
    fn eq(&self, other: &ClusterKey) -> bool {
        let of = |key: &ClusterKey| key.derive("tanist 2026-12 comparison of cluster keys");
        of(self) == of(other)
    }
}

impl Eq for ClusterKey {}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_reads_back_from_base64_and_hex() {
        let key = ClusterKey::generate();
        let text = key.to_text();
        assert_eq!(text.len(), 44);
        assert_eq!(format!(" {text}\n").parse::<ClusterKey>().unwrap().0, key.0);
        assert_eq!(text.trim_end_matches('=').parse::<ClusterKey>().unwrap().0, key.0);
        let hex: String = key.0.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(hex.parse::<ClusterKey>().unwrap().0, key.0);
    }

    #[test]
    fn bad_key_is_refused_without_being_shown() {
        let secret = "Zm9vYmFyc2VjcmV0";
        let bad = [
            secret.to_owned(),
            format!("{secret:!<44}"),
            format!("{secret:!<64}"),
            "é".repeat(32),
            "00".repeat(32),
        ];
        for text in bad {
            let error = text.parse::<ClusterKey>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("Zm9v"), "{error}");
        }
        assert_eq!(format!("{:?}", ClusterKey::generate()), "ClusterKey(hidden)");
    }

    #[test]
    fn cluster_id_has_the_shape_of_a_member_id() {
        assert_eq!("plant-4".parse::<ClusterId>().unwrap().as_str(), "plant-4");
        for bad in ["", "a b", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad:?}");
        }
    }
}
