//! The scrub thread: reads the replica's pages again and again, slowly, and has those replaced that rotted.
//!
//! Owns the patience with which a page is suspected. The store thread does what follows: a backup is brought in line with
//! the master, a master hands over first. Read `tanist_store::Scrub` for how a page is judged.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tanist_store::{PageSums, Scrub, StoreError};

use crate::inbox::{Command, Inbox};

/// Between two steps.
const STEP: Duration = Duration::from_millis(250);
/// Between two rounds over the whole database, at least.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(2);
/// Between two looks at a page that seems wrong.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// A write from outside looks wrong until it is adopted; what looks wrong so often has rotted.
const LOOKS: u32 = 3;
/// While a page is wrong this is said again, in case it could not be helped the first time.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// The thread, as long as it should run.
#[derive(Debug)]
pub(crate) struct ScrubThread {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the thread works with.
pub(crate) struct Parts {
    pub(crate) sums: Arc<PageSums>,
    pub(crate) inbox: Arc<Inbox>,
    /// Bytes a second.
    pub(crate) rate: u64,
    pub(crate) page_size: u32,
}

impl ScrubThread {
    /// Starts on the database in `dir`.
    ///
    /// # Errors
    /// When it can't be opened once more.
    pub(crate) fn start(dir: &Path, parts: Parts) -> Result<ScrubThread, StoreError> {
        let scrub = Scrub::open(dir, Arc::clone(&parts.sums))?;
        let (stop, stopped) = mpsc::channel();
        let run = move || Scrubber { scrub, parts, suspects: BTreeMap::new(), failed: None }.run(&stopped);
        let thread = std::thread::Builder::new().name("scrub".to_owned()).spawn(run).map_err(|source| {
            StoreError::Io { doing: "start the scrub thread", path: dir.to_owned(), source }
        })?;
        Ok(ScrubThread { stop, thread })
    }

    /// Ends it; waits for its step.
    pub(crate) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

struct Suspect {
    looks: u32,
    look_at: Instant,
}

struct Scrubber {
    scrub: Scrub,
    parts: Parts,
    suspects: BTreeMap<u32, Suspect>,
    /// What was last said about pages that can't be read at all.
    failed: Option<String>,
}

impl Scrubber {
    fn run(&mut self, stopped: &mpsc::Receiver<()>) {
        let bytes = self.parts.rate.saturating_mul(STEP.as_millis() as u64) / 1000;
        let count = u32::try_from(bytes / u64::from(self.parts.page_size)).unwrap_or(u32::MAX).max(1);
        let mut pause = STEP;
        while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
            pause = match self.step(count) {
                Ok(true) => BETWEEN_ROUNDS,
                Ok(false) => STEP,
                Err(error) => {
                    self.on_failure(&error);
                    SAY_AGAIN
                }
            };
            if !self.suspects.is_empty() {
                pause = pause.min(LOOK_AGAIN);
            }
        }
    }

    /// Whether it was the last of a round.
    fn step(&mut self, count: u32) -> Result<bool, StoreError> {
        let found = self.scrub.step(count)?;
        if self.failed.take().is_some() {
            tracing::info!("scrub: the database can be read again");
        }
        for page in found.wrong {
            let look_at = Instant::now() + LOOK_AGAIN;
            self.suspects.entry(page).or_insert(Suspect { looks: 1, look_at });
        }
        self.look_again()?;
        Ok(found.round)
    }

    fn look_again(&mut self) -> Result<(), StoreError> {
        let due: Vec<u32> = self
            .suspects
            .iter()
            .filter(|(_, suspect)| Instant::now() >= suspect.look_at)
            .map(|(page, _)| *page)
            .collect();
        for page in due {
            let wrong = self.scrub.is_wrong(page)?;
            let Some(suspect) = self.suspects.get_mut(&page) else { continue };
            if !wrong {
                if suspect.looks >= LOOKS {
                    tracing::info!(page, "scrub: the page is right again");
                }
                self.suspects.remove(&page);
                continue;
            }
            suspect.looks += 1;
            suspect.look_at = Instant::now() + LOOK_AGAIN;
            if suspect.looks >= LOOKS {
                suspect.look_at = Instant::now() + SAY_AGAIN;
                tracing::error!(
                    page,
                    "scrub: the page is not what was written: the disk, or somebody, has changed it"
                );
                self.parts.inbox.command(Command::Rotten(format!("page {page} of its database has rotted")));
            }
        }
        Ok(())
    }

    fn on_failure(&mut self, error: &StoreError) {
        let why = error.to_string();
        if !matches!(error, StoreError::Corrupt { .. } | StoreError::NotADatabase { .. }) {
            tracing::debug!(why, "scrub");
            return;
        }
        if self.failed.as_ref() != Some(&why) {
            tracing::error!(why, "scrub: the database can't be read");
            self.failed = Some(why.clone());
        }
        self.parts.inbox.command(Command::Rotten(why));
    }
}
