//! Watches the threads that users' SQL runs on: a reader that is stuck is replaced, a store thread that is stuck makes the
//! machine unfit to reign, and in the end ends the process, so that another machine takes over.
//!
//! Owns what counts as stuck. Runs beside them and touches nothing that they hold. Read `reader.rs` for the replacement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tanist_replication::Complaint;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock,
    driver::Control,
    inbox::{Command, Inbox, Work},
    reader::ReadPool,
    stall::{Part, Stalls},
    thread_wait::Watched,
};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A write whose statements go on for so long past their limit makes the machine unfit,
const STATEMENT_GRACE: Duration = Duration::from_secs(3);
/// and after so long past it the process ends.
const STATEMENT_END: Duration = Duration::from_secs(30);
/// The same for all else that the store thread does as master, counted from its beginning: a commit on a slow disk, a lock
/// that somebody else holds.
const WORK_GRACE: Duration = Duration::from_secs(60);
const WORK_END: Duration = Duration::from_secs(300);
const NEVER: u64 = u64::MAX;

/// What the store thread is at, as it says itself.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// When the machine becomes unfit, by this process's clock.
    unfit_ns: AtomicU64,
    /// When the process ends.
    end_ns: AtomicU64,
    /// It runs statements of users'.
    statements: AtomicBool,
    thread: Watched,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse {
            unfit_ns: AtomicU64::new(NEVER),
            end_ns: AtomicU64::new(NEVER),
            statements: AtomicBool::new(false),
            thread: Watched::default(),
        }
    }
}

impl Pulse {
    fn set(&self, unfit: Duration, end: Duration) {
        let at = |after: Duration| {
            clock::now_ns().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(NEVER))
        };
        self.end_ns.store(at(end), Relaxed);
        self.unfit_ns.store(at(unfit), Relaxed);
    }

    /// The store thread begins with this. What a backup does, and a rejoin, takes as long as it takes: nobody waits for it.
    pub(crate) fn begin(&self, work: &Work) {
        match work {
            Work::Apply(_) | Work::Command(Command::Rejoin(_) | Command::Apply(_) | Command::Stop) => {
                self.rest();
            }
            Work::Command(_) | Work::Batch(..) | Work::Idle => self.work(),
        }
    }

    /// It does something of the server's own.
    pub(crate) fn work(&self) {
        self.statements.store(false, Relaxed);
        self.set(WORK_GRACE, WORK_END);
    }

    /// It runs statements of users', which may take so long.
    pub(crate) fn statements(&self, limit: Duration) {
        self.statements.store(true, Relaxed);
        self.set(limit + STATEMENT_GRACE, limit + STATEMENT_END);
    }

    /// It waits for work.
    pub(crate) fn rest(&self) {
        self.statements.store(false, Relaxed);
        self.unfit_ns.store(NEVER, Relaxed);
        self.end_ns.store(NEVER, Relaxed);
    }

    /// Whether it runs statements of users' now.
    pub(crate) fn runs_statements(&self) -> bool {
        self.statements.load(Relaxed)
    }

    /// The store thread.
    pub(crate) fn thread(&self) -> &Watched {
        &self.thread
    }

    /// Whether it is stuck.
    pub(crate) fn is_stuck(&self, now_ns: u64) -> bool {
        now_ns > self.unfit_ns.load(Relaxed)
    }

    fn must_end(&self, now_ns: u64) -> bool {
        now_ns > self.end_ns.load(Relaxed)
    }
}

/// Shows that the threads of this runtime go on, by its timers, which the same threads turn as its sockets.
pub(crate) async fn beat(stalls: Arc<Stalls>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        stalls.mark(Part::Http, 0);
    }
}

/// What is watched.
pub(crate) struct Parts {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) readers: ReadPool,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) stalls: Arc<Stalls>,
}

/// Looks again and again until the driver ends.
pub(crate) async fn watch(parts: Parts) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        ticks.tick().await;
        let now = clock::now_ns();
        parts.readers.look(now);
        let pulse = parts.inbox.pulse();
        // A disk that doesn't answer is no better for the next process, and holds this one's end up.
        if pulse.must_end(now) && !parts.stalls.is_disk(now) {
            let why = "the store thread is stuck in one piece of work".to_owned();
            let _ = parts.control.send(Control::End(why)).await;
            return;
        }
        let stuck = pulse.is_stuck(now);
        if stuck == told {
            continue;
        }
        told = stuck;
        let complaint = stuck.then(|| {
            let why = "its store thread is stuck in one piece of work";
            tracing::error!("the store thread is stuck: this machine isn't fit to reign");
            Complaint::new(why)
        });
        if !stuck {
            tracing::info!("the store thread goes on");
        }
        if parts.control.send(Control::Stuck(complaint)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_thread_is_stuck_past_the_limit_of_what_it_does() {
        let pulse = Pulse::default();
        let after = |seconds: u64| clock::now_ns() + seconds * 1_000_000_000;
        assert!(!pulse.is_stuck(after(10_000)), "it waits for work");
        pulse.begin(&Work::Idle);
        assert!(!pulse.is_stuck(after(59)) && pulse.is_stuck(after(61)));
        pulse.statements(Duration::from_secs(5));
        assert!(!pulse.is_stuck(after(7)) && pulse.is_stuck(after(9)));
        assert!(!pulse.must_end(after(34)) && pulse.must_end(after(36)));
        pulse.work();
        assert!(!pulse.is_stuck(after(9)) && !pulse.must_end(after(299)) && pulse.must_end(after(301)));
        pulse.begin(&Work::Apply(vec![]));
        assert!(!pulse.is_stuck(after(10_000)) && !pulse.must_end(after(10_000)));
    }
}
