//! Time as the protocol sees it: nanoseconds of a monotonic clock of this machine alone.
//!
//! Owns no clock: the driver passes `Time` in with every event. Never compared between machines.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

use minicbor::{Decode, Encode};

/// A moment on this machine's monotonic clock (which counts suspend), in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Time(#[n(0)] pub u64);

impl Time {
    /// Later than any event.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long after `earlier` this is; zero if it isn't.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, duration: Duration) -> Time {
        Time(self.0.saturating_sub(nanos(duration)))
    }
}
