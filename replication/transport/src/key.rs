//! The cluster's identity and its shared secret.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

/// The secret that all members share; 32 random bytes. Never shown by `Debug` and wiped when dropped.
#[derive(Clone)]
pub struct ClusterKey(Zeroizing<[u8; 32]>);

/// A text that is no cluster key. The text itself is never repeated: it may be most of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster key: found {found} characters that don't give 32 bytes, expected 64 hexadecimal digits or 44 characters of base64")]
pub struct KeyError {
    found: usize,
}

impl ClusterKey {
    /// A new random key.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    #[must_use]
    pub fn generate() -> ClusterKey {
        let mut bytes = Zeroizing::new([0; 32]);
        #[allow(clippy::expect_used, reason = "without random numbers there is no key to give")]
        getrandom::fill(&mut *bytes).expect("the operating system gives random numbers");
        ClusterKey(bytes)
    }

    /// The key as base64 text, for a key file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = Zeroizing::new(String::with_capacity(44));
        for chunk in self.0.chunks(3) {
            let word = chunk.iter().enumerate().fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
            for digit in 0..4 {
                if digit <= chunk.len() {
                    text.push(char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]));
                } else {
                    text.push('=');
                }
            }
        }
        text
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn digit(byte: u8) -> Option<u32> {
    Some(match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

impl FromStr for ClusterKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<ClusterKey, KeyError> {
        let text = text.trim();
        let error = KeyError { found: text.len() };
        let mut bytes = Zeroizing::new([0; 32]);
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                let pair = std::str::from_utf8(pair).map_err(|_| error.clone())?;
                *byte = u8::from_str_radix(pair, 16).map_err(|_| error.clone())?;
            }
            return Ok(ClusterKey(bytes));
        }
        let digits = text.trim_end_matches('=').as_bytes();
        if digits.len() != 43 || text.len() > 44 {
            return Err(error);
        }
        for (group, chunk) in digits.chunks(4).enumerate() {
            let mut word = 0;
            for i in 0..4 {
                let value = match chunk.get(i) {
                    Some(byte) => digit(*byte).ok_or_else(|| error.clone())?,
                    None => 0,
                };
                word = word << 6 | value;
            }
            for (i, byte) in bytes[group * 3..].iter_mut().take(3).enumerate() {
                *byte = (word >> (16 - 8 * i) & 255) as u8;
            }
        }
        Ok(ClusterKey(bytes))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Name of a cluster: 1 to 63 letters, digits, `-`, `_` or `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterId(String);

impl ClusterId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<ClusterId, String> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits {
            Ok(ClusterId(text.to_owned()))
        } else {
            let found: String = text.chars().take(80).collect();
            Err(format!("cluster {found:?}: expected 1 to 63 letters, digits, '-', '_' or '.'"))
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_reads_back_from_base64_and_hex_and_is_never_shown() {
        let key = ClusterKey::generate();
        let text = key.to_text();
        assert_eq!(text.len(), 44);
        assert_eq!(text.parse::<ClusterKey>().unwrap().bytes(), key.bytes());
        let hex: String = key.bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex.parse::<ClusterKey>().unwrap().bytes(), key.bytes());
        assert_eq!(format!("{key:?}"), "ClusterKey(..)");
        let known = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse::<ClusterKey>().unwrap();
        assert_eq!(known.bytes()[..], (0..32).collect::<Vec<u8>>()[..]);
    }

    #[test]
    fn bad_key_is_refused_without_being_repeated() {
        for bad in ["", "secret", "AAEC*wQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", &"0".repeat(63)] {
            let error = bad.parse::<ClusterKey>().unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }
}
