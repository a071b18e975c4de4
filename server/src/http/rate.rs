//! How many requests per second a client may send: `limits.requests_per_second`.
//!
//! A client is whoever holds a token, or, without tokens, an address. Counts in a fixed number of buckets; two clients
//! that meet in one share its rate, and which do is known to nobody before (the hash has a secret of the process).
//! Nothing waits here: what is too much is refused.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hash},
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use axum::{extract::Request, http::StatusCode};
use tanist_api::code;

use super::{ApiError, AppState};
use crate::{auth::Holder, clock};

const BUCKETS: usize = 4096;
const SECOND_NS: u64 = 1_000_000_000;

/// Where a request comes from; of IPv6 the first 64 bits, which are one customer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin([u8; 8]);

impl Origin {
    pub(super) fn of(address: IpAddr) -> Origin {
        let mut first = [0; 8];
        match address.to_canonical() {
            IpAddr::V4(address) => first[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => first.copy_from_slice(&address.octets()[..8]),
        }
        Origin(first)
    }
}

/// Each bucket holds the time in ns when what was taken from it will have been given back.
#[derive(Debug)]
pub(super) struct Rates {
    buckets: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }
}

impl Rates {
    /// One request of this client, which may save up one second's worth of them.
    ///
    /// # Errors
    /// How long until the next one is allowed: a second at most.
    fn take(&self, client: impl Hash, per_second: NonZeroU32, now_ns: u64) -> Result<(), Duration> {
        let step = SECOND_NS / u64::from(per_second.get());
        let hash = self.hasher.hash_one(client);
        let bucket = &self.buckets[(hash % BUCKETS as u64) as usize];
        let taken = bucket.fetch_update(Relaxed, Relaxed, |until| {
            let until = until.max(now_ns);
            (until - now_ns <= SECOND_NS - step).then(|| until + step)
        });
        taken.map(drop).map_err(|until| Duration::from_nanos(until - now_ns - (SECOND_NS - step)))
    }
}

/// Refuses what is too much; behind `authorize`, which knows the holder.
pub(super) fn check(state: &AppState, request: &Request) -> Result<(), ApiError> {
    let inner = &*state.0;
    let Some(per_second) = inner.limits.borrow().requests_per_second else { return Ok(()) };
    let extensions = request.extensions();
    let now = clock::now_ns();
    let holder = extensions.get::<Holder>();
    let taken = match holder {
        Some(holder) => inner.rates.take(&holder.name, per_second, now),
        None => inner.rates.take(extensions.get::<Origin>(), per_second, now),
    };
    taken.map_err(|wait| {
        let who =
            holder.map_or_else(|| "this address".to_owned(), |holder| format!("the token {:?}", holder.name));
        let detail = format!(
            "{who} sends more than {per_second} requests per second (limits.requests_per_second); the next one is \
             taken in {} ms",
            wait.as_millis() + 1
        );
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, code::RATE_LIMITED, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rates: &Rates, who: &str, rate: u32, times_ms: impl Iterator<Item = u64>) -> usize {
        let rate = NonZeroU32::new(rate).unwrap();
        times_ms.filter(|ms| rates.take(who, rate, 5_000_000_000 + ms * 1_000_000).is_ok()).count()
    }

    #[test]
    fn a_second_s_worth_at_once_and_then_as_many_as_come_back() {
        let rates = Rates::default();
        assert_eq!(count(&rates, "a", 100, (0..1000).map(|_| 0)), 100);
        assert_eq!(count(&rates, "a", 100, 1..=1000), 100, "ten in a hundred milliseconds");
        assert_eq!(count(&rates, "b", 100, (0..1000).map(|_| 1000)), 100, "another one has his own");
        assert_eq!(count(&rates, "c", 1, [0, 0, 999, 1000, 1999, 2000].into_iter()), 3);
        let wait = rates.take("a", NonZeroU32::new(100).unwrap(), 6_000_000_000).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
