//! Heartbeats come in time on a busy computer.
//!
//! Owns how the system is asked to let this machine's protocol go before other work. Nothing depends on the answer: where it
//! isn't given, a computer that is too busy for too long looks dead to the others, as without it.

/// How much nicer to others than usual; less is more. Enough to go before ordinary work, and after what the system itself needs.
#[cfg(target_os = "linux")]
const NICE: i32 = -10;

/// Lets the thread that calls it go before ordinary ones. It uses little time, but that at once.
pub(crate) fn come_first() {
    #[cfg(target_os = "linux")]
    // For a thread there, though POSIX means the process. Needs CAP_SYS_NICE or RLIMIT_NICE, which a systemd unit gives.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the protocol's thread has no priority");
    }
    // It means `THREAD_PRIORITY_HIGHEST`, which needs no right; not the one that goes before the system.
    #[cfg(windows)]
    if let Err(error) = thread_priority::set_current_thread_priority(thread_priority::ThreadPriority::Max) {
        tracing::debug!(?error, "the protocol's thread has no priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_comes_first() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let inside = std::thread::spawn(move || {
            come_first();
            nice()
        });
        let inside = inside.join().unwrap();
        // Without the right to it nothing changes.
        assert!(inside == NICE || inside == before, "{inside}");
        assert_eq!(nice(), before);
    }
}
