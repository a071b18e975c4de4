//! What this process takes of the computer, as the system counts it. Linux only: elsewhere nothing is told.

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// Memory, in bytes.
    pub(crate) resident: u64,
    /// Processor time, in seconds.
    pub(crate) processor: f64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
    /// How many may be open.
    pub(crate) most_descriptors: u64,
    /// When the process started, in seconds since 1970, by the wall clock.
    pub(crate) started: f64,
}

/// `None`: the system doesn't say.
#[cfg(target_os = "linux")]
pub(crate) fn usage() -> Option<Usage> {
    use procfs::{WithCurrentSystemInfo as _, process::LimitValue};
    let process = procfs::process::Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second();
    let boot = procfs::boot_time_secs().ok()?;
    let LimitValue::Value(most_descriptors) = process.limits().ok()?.max_open_files.soft_limit else {
        return None;
    };
    let seconds = |ticks_of: u64| {
        std::time::Duration::from_millis(ticks_of.saturating_mul(1000) / ticks.max(1)).as_secs_f64()
    };
    Some(Usage {
        resident: stat.rss_bytes().get(),
        processor: seconds(stat.utime.saturating_add(stat.stime)),
        descriptors: process.fd_count().ok()? as u64,
        most_descriptors,
        started: std::time::Duration::from_secs(boot).as_secs_f64() + seconds(stat.starttime),
    })
}

/// `None`: not asked for on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn usage() -> Option<Usage> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something_and_has_not_started_in_the_future() {
        let usage = usage().unwrap();
        assert!(usage.resident > 1 << 20, "{usage:?}");
        assert!(usage.descriptors > 2 && usage.descriptors <= usage.most_descriptors, "{usage:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.started <= now + 2.0 && usage.started > now - 3600.0, "{usage:?}, now {now}");
    }
}
