//! What this machine's threads wait for, and since when: the disk that doesn't answer, threads that don't go on.
//!
//! Owns what counts as stalled. Those who begin something say so before and after, by atomics alone; whoever looks goes by his
//! own clock and never waits for a disk. Decides nothing: the driver makes the machine unfit, `gate.rs` shows it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tanist_replication::Complaint;
use tanist_store::Utc;

use crate::{clock, thread_wait::ThreadWait, watchdog::Pulse};

/// The store thread is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A disk that does well takes at least so many bytes a second, as a backup must (R9).
const SLOWEST: u64 = 4 << 20;
/// Threads that only have to go on, on a computer that may be busy, are given so many times `health.stall`.
const THREADS: u64 = 2;
/// Who looks several times a second and hasn't for so long was halted, and perhaps all the others with it.
const HALTED: Duration = Duration::from_secs(1);
/// `health.stall`, until the configuration is known.
const STALL: Duration = Duration::from_secs(2);

/// Who waits, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The store thread is in a transaction of its own, or begins or ends one.
    Store,
    /// The store thread removes old records, or moves them to files.
    Prune,
    /// The store thread runs a user's statement and is in one single wait: for its disk.
    Statement,
    /// A sync of the master's WAL.
    WalSync,
    /// A checkpoint in the background.
    Checkpoint,
    /// The driver stores votes and records in node.db.
    Votes,
    /// The driver goes on.
    Driver,
    /// The threads that serve HTTP go on.
    Http,
}

const PARTS: [Part; 8] = [
    Part::Store,
    Part::Prune,
    Part::Statement,
    Part::WalSync,
    Part::Checkpoint,
    Part::Votes,
    Part::Driver,
    Part::Http,
];

impl Part {
    /// In the middle of "hasn't answered … for 3 s".
    fn what(self) -> &'static str {
        match self {
            Part::Store => "a write to state.db",
            Part::Prune => "a removal of old records, or the disk of audit.directory a new file",
            Part::Statement => "a read or write of state.db in the middle of a request",
            Part::WalSync => "a sync of state.db's WAL",
            Part::Checkpoint => "a checkpoint of state.db",
            Part::Votes => "a write of votes to node.db",
            Part::Driver | Part::Http => "",
        }
    }

    /// The driver itself can't tell that it doesn't go on: then its lease ends by itself.
    fn makes_unfit(self) -> bool {
        !matches!(self, Part::Votes | Part::Driver)
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// By this process's clock; 0: nothing is under way.
    since_ns: AtomicU64,
    /// What it may take beyond `health.stall`.
    slack_ns: AtomicU64,
}

/// Something that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stall {
    pub(crate) part: Part,
    /// So far.
    pub(crate) lasts: Duration,
}

/// See the module. Shared by `Arc`.
#[derive(Debug)]
pub(crate) struct Stalls {
    slots: [Slot; PARTS.len()],
    limit_ns: AtomicU64,
    directory: OnceLock<PathBuf>,
}

impl Default for Stalls {
    fn default() -> Stalls {
        let limit_ns = AtomicU64::new(nanos(STALL));
        Stalls { slots: Default::default(), limit_ns, directory: OnceLock::new() }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Something under way; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    stalls: Arc<Stalls>,
    part: Part,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.stalls.slots[self.part as usize].since_ns.store(0, Relaxed);
    }
}

impl Stalls {
    /// For messages.
    pub(crate) fn set_directory(&self, directory: &Path) {
        let _ = self.directory.set(directory.to_owned());
    }

    /// `health.stall`, from now on.
    pub(crate) fn set_limit(&self, limit: Duration) {
        self.limit_ns.store(nanos(limit), Relaxed);
    }

    /// Begins something that brings so many bytes to the disk.
    pub(crate) fn begin(self: &Arc<Stalls>, part: Part, bytes: u64) -> UnderWay {
        self.mark(part, bytes);
        UnderWay { stalls: Arc::clone(self), part }
    }

    /// A thread goes on, or begins what the last mark doesn't count for any more.
    pub(crate) fn mark(&self, part: Part, bytes: u64) {
        let slot = &self.slots[part as usize];
        let slack = Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST);
        slot.slack_ns.store(nanos(slack), Relaxed);
        slot.since_ns.store(clock::now_ns().max(1), Relaxed);
    }

    /// The driver has seen that something waits since then, or that nothing does.
    fn seen(&self, part: Part, since_ns: Option<u64>) {
        self.slots[part as usize].since_ns.store(since_ns.unwrap_or(0), Relaxed);
    }

    /// How long this has been under way beyond what it may; `None`: not too long.
    fn stall(&self, part: Part, now_ns: u64, from_ns: u64) -> Option<Stall> {
        let slot = &self.slots[part as usize];
        let since = slot.since_ns.load(Relaxed);
        let lasts = now_ns.checked_sub(since.max(from_ns)).filter(|_| since != 0)?;
        let times = if matches!(part, Part::Driver | Part::Http) { THREADS } else { 1 };
        let limit = self.limit_ns.load(Relaxed).saturating_mul(times);
        let limit = limit.saturating_add(slot.slack_ns.load(Relaxed));
        (lasts >= limit).then_some(Stall { part, lasts: Duration::from_nanos(lasts) })
    }

    /// What keeps this machine from being the master, the longest first.
    pub(crate) fn unfit(&self, now_ns: u64) -> Option<Stall> {
        self.unfit_since(now_ns, 0)
    }

    /// The same, not counting the time before `from_ns`.
    fn unfit_since(&self, now_ns: u64, from_ns: u64) -> Option<Stall> {
        let stalls = PARTS.into_iter().filter(|part| part.makes_unfit());
        stalls.filter_map(|part| self.stall(part, now_ns, from_ns)).max_by_key(|stall| stall.lasts)
    }

    /// Whether the driver doesn't go on, so that what it last said of the cluster is old.
    pub(crate) fn driver(&self, now_ns: u64) -> Option<Stall> {
        self.stall(Part::Votes, now_ns, 0).or_else(|| self.stall(Part::Driver, now_ns, 0))
    }

    /// Whether it is the disk that is waited for, now.
    pub(crate) fn is_disk(&self, now_ns: u64) -> bool {
        let parts = [Part::Store, Part::Prune, Part::Statement, Part::WalSync, Part::Checkpoint, Part::Votes];
        parts.into_iter().any(|part| self.stall(part, now_ns, 0).is_some())
    }

    /// What to tell an operator now, if anything is stalled.
    pub(crate) fn notice(&self, now_ns: u64) -> Option<String> {
        let stall = self.driver(now_ns).or_else(|| self.unfit(now_ns))?;
        let advice = match stall.part {
            Part::Driver | Part::Http => "look at this computer's load, and restart tanist if it lasts",
            _ => {
                "look at that disk, its cable and the system's log; this machine goes on by itself when it answers"
            }
        };
        Some(format!("{}, for {} s so far: {advice}", self.describe(stall), stall.lasts.as_secs()))
    }

    /// What is stalled, in words.
    pub(crate) fn describe(&self, stall: Stall) -> String {
        match stall.part {
            Part::Driver => "the replication thread doesn't go on".to_owned(),
            Part::Http => "the threads that serve HTTP don't go on".to_owned(),
            part => {
                let directory = self.directory.get().map(|path| path.display().to_string());
                let directory = directory.unwrap_or_default();
                format!("the disk of data directory {directory} hasn't answered {}", part.what())
            }
        }
    }
}

/// What the driver makes of it.
#[derive(Debug, Default)]
pub(crate) struct StallWatch {
    stalled: Option<Complaint>,
    since_ns: u64,
    /// Something was stalled last at this time, and is remembered.
    last_ns: Option<u64>,
    /// The last look; and when looks began to follow each other, which they don't while the whole computer, or process, is halted.
    looked_ns: u64,
    looks_from_ns: u64,
    statement: ThreadWait,
    proc_looked_ns: u64,
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// This machine can't store, or can't answer.
    Stalled(Complaint),
    /// It can again, and isn't trusted yet.
    GoesOn(Complaint),
    /// It has for a while.
    Calm,
}

impl StallWatch {
    /// Looks whether the store thread's statement computes, or waits. One that doesn't end is no reason to leave: its client would
    /// send it to the next master.
    pub(crate) fn look_at_statement(&mut self, stalls: &Stalls, pulse: &Pulse, now_ns: u64) {
        if now_ns.saturating_sub(self.proc_looked_ns) < nanos(LOOK_EVERY) {
            return;
        }
        self.proc_looked_ns = now_ns;
        let since = if pulse.runs_statements() {
            self.statement.look(pulse.thread(), now_ns)
        } else {
            self.statement.forget();
            None
        };
        stalls.seen(Part::Statement, since);
    }

    /// Looks; a stall is remembered for `calm`.
    pub(crate) fn look(&mut self, stalls: &Stalls, now_ns: u64, calm: Duration) -> Option<News> {
        if now_ns.saturating_sub(self.looked_ns) > nanos(HALTED) {
            self.looks_from_ns = now_ns;
        }
        self.looked_ns = now_ns;
        let stall = stalls.unfit_since(now_ns, self.looks_from_ns);
        if let Some(stall) = stall {
            self.last_ns = Some(now_ns);
            if self.stalled.is_some() {
                return None;
            }
            self.since_ns = now_ns.saturating_sub(nanos(stall.lasts));
            let what = stalls.describe(stall);
            let wall = clock::wall().checked_sub(Duration::from_nanos(now_ns.saturating_sub(self.since_ns)));
            let what = format!("{what}, since {}", Utc::of(wall.unwrap_or_else(clock::wall)));
            tracing::error!(
                what,
                "stalled: as master this machine leaves to another that holds every acknowledged write"
            );
            let complaint = Complaint::new(&what);
            self.stalled = Some(complaint.clone());
            return Some(News::Stalled(complaint));
        }
        let last_ns = self.last_ns?;
        if let Some(complaint) = self.stalled.take() {
            let lasted_s = now_ns.saturating_sub(self.since_ns) / 1_000_000_000;
            tracing::warn!(
                lasted_s,
                ?calm,
                "stalled no more: this machine comes last in the chain for a while"
            );
            let what = format!("for {calm:?} from its end: {complaint}, for {lasted_s} s");
            return Some(News::GoesOn(Complaint::new(&what)));
        }
        (now_ns.saturating_sub(last_ns) >= nanos(calm)).then(|| {
            self.last_ns = None;
            News::Calm
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> u64 {
        clock::now_ns() + seconds * 1_000_000_000
    }

    #[test]
    fn what_is_under_way_for_too_long_is_told_until_it_has_ended() {
        let stalls = Arc::new(Stalls::default());
        stalls.set_directory(Path::new("/data"));
        assert_eq!(stalls.unfit(after(1000)), None, "nothing is under way");
        let sync = stalls.begin(Part::WalSync, 0);
        assert_eq!(stalls.unfit(after(1)), None);
        assert_eq!(stalls.unfit(after(3)).map(|stall| stall.part), Some(Part::WalSync));
        let notice = stalls.notice(after(12)).unwrap();
        let told = "the disk of data directory /data hasn't answered a sync of state.db's WAL, for 12 s";
        assert!(notice.starts_with(told), "{notice}");
        assert!(stalls.is_disk(after(3)) && stalls.driver(after(3)).is_none());
        drop(sync);
        assert_eq!(stalls.notice(after(1000)), None);
    }

    #[test]
    fn many_bytes_may_take_longer_and_the_limit_may_change() {
        let stalls = Arc::new(Stalls::default());
        let large = stalls.begin(Part::Store, 40 << 20);
        assert_eq!(stalls.unfit(after(11)), None);
        assert!(stalls.unfit(after(13)).is_some());
        drop(large);
        stalls.set_limit(Duration::from_secs(30));
        let _small = stalls.begin(Part::Store, 0);
        assert_eq!(stalls.unfit(after(29)), None);
    }

    #[test]
    fn threads_that_do_not_go_on_are_given_longer_and_a_driver_does_not_judge_itself() {
        let stalls = Stalls::default();
        stalls.mark(Part::Http, 0);
        stalls.mark(Part::Driver, 0);
        assert_eq!(stalls.unfit(after(3)), None);
        assert_eq!(stalls.unfit(after(5)).map(|stall| stall.part), Some(Part::Http));
        assert!(stalls.driver(after(3)).is_none() && stalls.driver(after(5)).is_some());
        assert!(!stalls.is_disk(after(5)));
    }

    #[test]
    fn driver_hears_of_a_stall_of_its_end_and_of_the_calm_after_it() {
        let stalls = Arc::new(Stalls::default());
        let (mut watch, calm) = (StallWatch::default(), Duration::from_secs(60));
        let start = clock::now_ns();
        let mut last = 0;
        // Ten looks a second; the last thing that was new.
        let mut look = |until: u64| {
            let looks = last * 10..until * 10;
            last = until;
            let times = looks.map(|tenth| start + tenth * 100_000_000);
            times.filter_map(|now| watch.look(&stalls, now, calm)).last()
        };
        assert_eq!(look(1), None);
        let write = stalls.begin(Part::Store, 0);
        let Some(News::Stalled(why)) = look(4) else { panic!() };
        assert!(why.as_str().contains("hasn't answered a write to state.db, since 20"), "{why}");
        assert_eq!(look(5), None);
        drop(write);
        assert!(matches!(look(6), Some(News::GoesOn(_))));
        assert_eq!(look(30), None);
        assert_eq!(look(67), Some(News::Calm));
        assert_eq!(look(80), None);
    }

    #[test]
    fn who_was_halted_himself_blames_nobody_for_that_time() {
        let stalls = Arc::new(Stalls::default());
        let (mut watch, calm) = (StallWatch::default(), Duration::from_secs(60));
        stalls.mark(Part::Http, 0);
        assert_eq!(watch.look(&stalls, after(0), calm), None);
        assert_eq!(watch.look(&stalls, after(1000), calm), None, "all were halted");
    }
}
