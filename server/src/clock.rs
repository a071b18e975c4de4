//! The only reader of the operating system's clocks.
//!
//! Owns the choice of clock: everything but names and displays goes by one that no wall clock change moves and that,
//! where the system has one, counts the time a machine sleeps. Never compared between machines. Read `tanist_replication::Time` for what the numbers mean.

/// Nanoseconds on this machine's monotonic clock; comparable within one run of the machine only.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[must_use]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Nanoseconds on this machine's monotonic clock; comparable within this process only. On Windows that is the performance
/// counter, which goes on while the machine sleeps.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[must_use]
pub fn now_ns() -> u64 {
    use std::{sync::OnceLock, time::Instant};
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    // One second ahead, so that "some time before the start" is still a number.
    let since = ORIGIN.get_or_init(Instant::now).elapsed().as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1_000_000_000)
}

/// The wall clock, which may be wrong and may jump: for names and displays only.
#[must_use]
pub fn wall() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::now_ns;

    #[test]
    fn clock_goes_forward_and_not_from_zero() {
        let first = now_ns();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let then = now_ns();
        assert!(first > 0);
        assert!(then - first >= 4_000_000, "{first} {then}");
    }
}
