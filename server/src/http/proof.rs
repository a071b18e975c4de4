//! Nonces for proofs of the cluster key, and which of them have been used.
//!
//! A nonce is made without being kept: it carries the time at which it was made, by this process's own clock that nobody sets,
//! and a hash by a secret of this process. Only one that came with a good proof is remembered, until it is too old anyway; so
//! who has no key can fill nothing. Read `tanist_api::key` for what is proved.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;

/// So long is a nonce good.
const LIFE: Duration = Duration::from_secs(60);
/// Used ones that are remembered; with so many within their life, further proofs are refused until some are too old.
const USED: usize = 65_536;

type Raw = [u8; 40];

/// Why a nonce isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It isn't this process's, or too old.
    Unknown,
    /// It has been used.
    Used,
    /// Too many have been used lately.
    Full,
}

/// The nonces of one process.
#[derive(Debug)]
pub(super) struct Nonces {
    secret: [u8; 32],
    began: Instant,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    set: HashSet<Raw>,
    /// The same in the order of their use, with the time in ms from which on they are too old.
    order: VecDeque<(u64, Raw)>,
}

impl Nonces {
    pub(super) fn new() -> Nonces {
        let mut secret = [0; 32];
        // Without randomness there is no proof: a secret that could be guessed is none.
        if let Err(error) = getrandom::fill(&mut secret) {
            tracing::error!(%error, "no randomness: a random state of the process stands in");
            secret = blake3::derive_key("tanist 2026-12 nonces", uuid::Uuid::now_v7().as_bytes());
        }
        Nonces { secret, began: Instant::now(), used: Mutex::default() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn seal(&self, head: &[u8]) -> [u8; 16] {
        let mut seal = [0; 16];
        seal.copy_from_slice(&blake3::keyed_hash(&self.secret, head).as_bytes()[..16]);
        seal
    }

    /// A new one.
    pub(super) fn make(&self) -> String {
        let mut raw: Raw = [0; 40];
        raw[..8].copy_from_slice(&self.now_ms().to_le_bytes());
        let _ = getrandom::fill(&mut raw[8..24]);
        let seal = self.seal(&raw[..24]);
        raw[24..].copy_from_slice(&seal);
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// Takes a nonce, once. To be asked only when the proof is good.
    pub(super) fn take(&self, nonce: &str) -> Result<(), Refused> {
        self.take_at(nonce, self.now_ms())
    }

    fn take_at(&self, nonce: &str, now: u64) -> Result<(), Refused> {
        let raw = URL_SAFE_NO_PAD.decode(nonce).ok().and_then(|bytes| Raw::try_from(bytes).ok());
        let raw = raw.ok_or(Refused::Unknown)?;
        let mut made = [0; 8];
        made.copy_from_slice(&raw[..8]);
        let until = u64::from_le_bytes(made).saturating_add(LIFE.as_millis() as u64);
        // As hashes, which are compared in constant time.
        if blake3::hash(&raw[24..]) != blake3::hash(&self.seal(&raw[..24])) || now > until {
            return Err(Refused::Unknown);
        }
        let mut used = self.used.lock();
        while let Some((until, old)) = used.order.front().copied()
            && (now > until || !used.set.contains(&old))
        {
            used.set.remove(&old);
            used.order.pop_front();
        }
        if used.set.contains(&raw) {
            return Err(Refused::Used);
        }
        if used.order.len() >= USED {
            return Err(Refused::Full);
        }
        used.set.insert(raw);
        // Kept in the order of use: an older one behind a younger one stays a little longer than it must.
        used.order.push_back((now.saturating_add(LIFE.as_millis() as u64), raw));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_is_taken_once_by_its_maker_within_its_life() {
        let nonces = Nonces::new();
        let (one, other) = (nonces.make(), nonces.make());
        assert_ne!(one, other);
        assert_eq!(nonces.take(&one), Ok(()));
        assert_eq!(nonces.take(&one), Err(Refused::Used));
        assert_eq!(nonces.take(&other), Ok(()));
        assert_eq!(
            nonces.take_at(&nonces.make(), nonces.now_ms() + 60_001),
            Err(Refused::Unknown),
            "too old"
        );
        assert_eq!(Nonces::new().take(&nonces.make()), Err(Refused::Unknown), "another process's");
        for bad in ["", "x", &one[1..], &format!("{one}A")] {
            assert_eq!(nonces.take(bad), Err(Refused::Unknown), "{bad}");
        }
    }

    #[test]
    fn used_ones_are_forgotten_when_they_are_too_old_and_never_before() {
        let nonces = Nonces::new();
        let all: Vec<_> = (0..USED).map(|_| nonces.make()).collect();
        for nonce in &all {
            assert_eq!(nonces.take_at(nonce, 1000), Ok(()));
        }
        let more = nonces.make();
        assert_eq!(nonces.take_at(&more, 1000), Err(Refused::Full));
        assert_eq!(nonces.take_at(&all[0], 60_000), Err(Refused::Used));
        assert_eq!(nonces.take_at(&all[0], 62_000), Err(Refused::Unknown), "too old by itself");
        assert_eq!(nonces.used.lock().order.len(), USED, "looked at only with one that is good");
    }
}
