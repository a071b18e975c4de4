//! Whether a thread is in one single wait of the system's, such as a read from a disk that doesn't answer, or is computing.
//!
//! Owns how that is seen: on Linux by `/proc`, where a thread that does anything at all is switched in and out. Elsewhere nobody
//! knows.

use std::sync::OnceLock;

/// The thread that is watched, once it has said which it is.
#[derive(Debug, Default)]
pub(crate) struct Watched(OnceLock<String>);

impl Watched {
    /// The calling thread is the one.
    pub(crate) fn is_this(&self) {
        if let Ok(own) = std::fs::read_link("/proc/thread-self") {
            let _ = self.0.set(format!("/proc/{}/status", own.display()));
        }
    }

    /// How often it was switched in and out, unless it computes now, or nobody knows.
    fn switches(&self) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(self.0.get()?).ok()?;
        let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if of("State:")?.starts_with('R') {
            return None;
        }
        let count = |name| of(name)?.parse().ok();
        Some((count("voluntary_ctxt_switches:")?, count("nonvoluntary_ctxt_switches:")?))
    }
}

/// What was seen of a thread so far.
#[derive(Debug, Default)]
pub(crate) struct ThreadWait {
    last: Option<((u64, u64), u64)>,
}

impl ThreadWait {
    /// Since when it has been in one single wait, if it is.
    pub(crate) fn look(&mut self, thread: &Watched, now_ns: u64) -> Option<u64> {
        let now = thread.switches();
        self.last = match (now, self.last) {
            (None, _) => None,
            (Some(switches), Some((before, since))) if switches == before => Some((switches, since)),
            (Some(switches), _) => Some((switches, now_ns)),
        };
        self.last.map(|(_, since)| since)
    }

    /// It isn't at what is watched.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
            mpsc,
        },
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn thread_that_waits_is_told_from_one_that_computes() {
        let thread = Arc::new(Watched::default());
        let (computes, for_thread) = (Arc::new(AtomicBool::new(true)), Arc::clone(&thread));
        let (ready, is_ready) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let busy = Arc::clone(&computes);
        let run = thread::spawn(move || {
            for_thread.is_this();
            ready.send(()).unwrap();
            while busy.load(Relaxed) {
                std::hint::spin_loop();
            }
            let _ = may_go_on.recv();
        });
        is_ready.recv().unwrap();
        let mut wait = ThreadWait::default();
        for look in 1..20 {
            // Between two looks it is switched out at most.
            assert!(wait.look(&thread, look).is_none_or(|since| since >= look - 1), "it computes");
            thread::sleep(Duration::from_millis(5));
        }
        computes.store(false, Relaxed);
        let waits = (100..).find(|look| {
            thread::sleep(Duration::from_millis(5));
            wait.look(&thread, *look).is_some_and(|since| look - since >= 10)
        });
        assert!(waits.is_some());
        go_on.send(()).unwrap();
        run.join().unwrap();
    }
}
