//! Time and size limits of running statements, enforced from SQLite's progress handler.
//!
//! Owns the reason why a statement was interrupted. Never decides what is done about it. Read `batch.rs` next.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use rusqlite::Connection;

use crate::{account, sqlite_file::SpillMeter};

/// Why a statement was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// Its deadline passed.
    Deadline,
    /// It wrote far more than a transaction may hold.
    TooLarge {
        /// What it may hold, in bytes.
        limit_bytes: u64,
    },
    /// It needed more memory than users' SQL may have.
    Memory {
        /// What all of it may have, in bytes.
        limit_bytes: u64,
    },
    /// It needed more room for sorting on the disk than users' SQL may have.
    TempSpace {
        /// What all of it may have, in bytes.
        limit_bytes: u64,
    },
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interrupted::Deadline => f.write_str("statement ran past its deadline"),
            Interrupted::TooLarge { limit_bytes } => {
                write!(f, "transaction writes more than {limit_bytes} bytes")
            }
            Interrupted::Memory { limit_bytes } => {
                write!(f, "statement needs more memory than there is for SQL ({limit_bytes} bytes)")
            }
            Interrupted::TempSpace { limit_bytes } => {
                write!(f, "statement needs more temporary files than there is room for ({limit_bytes} bytes)")
            }
        }
    }
}

/// Virtual machine instructions between two looks at the limits of a connection that only reads: some tens of
/// microseconds.
pub(crate) const READS: i32 = 2000;
/// The same for the writer: some rows, each of which may write a value of the greatest length.
pub(crate) const WRITES: i32 = 100;
const NEVER: u64 = u64::MAX;

struct Shared {
    origin: Instant,
    deadline_nanos: AtomicU64,
    spill_start: AtomicU32,
    spill_pages: AtomicU32,
    limit_bytes: AtomicU64,
    interrupted: AtomicU8,
}

/// The limits of one connection. Cheap to clone; all clones are the same limits.
#[derive(Clone)]
pub(crate) struct Limits(Arc<Shared>);

impl Limits {
    /// Installs the progress handler on `connection`, without limits yet; it looks at them after each `every`
    /// instructions.
    pub(crate) fn install(connection: &mut Connection, every: i32) -> Result<Limits, rusqlite::Error> {
        let limits = Limits(Arc::new(Shared {
            origin: Instant::now(),
            deadline_nanos: AtomicU64::new(NEVER),
            spill_start: AtomicU32::new(0),
            spill_pages: AtomicU32::new(u32::MAX),
            limit_bytes: AtomicU64::new(0),
            interrupted: AtomicU8::new(0),
        }));
        let shared = Arc::clone(&limits.0);
        let meter = SpillMeter::of(connection);
        connection.progress_handler(every, Some(move || shared.exceeded(&meter)))?;
        Ok(limits)
    }

    /// Statements that run past `deadline` are interrupted; `None` for no limit. Forgets an earlier interruption.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        let nanos = deadline.map_or(NEVER, |deadline| {
            u64::try_from(deadline.saturating_duration_since(self.0.origin).as_nanos()).unwrap_or(NEVER)
        });
        self.0.deadline_nanos.store(nanos, Relaxed);
        self.0.interrupted.store(0, Relaxed);
        account::begin(deadline);
    }

    /// Statements are interrupted once more than `pages` were spilled since the count stood at `start`; the limit behind
    /// it is `limit_bytes`.
    pub(crate) fn set_spill(&self, start: u32, pages: u32, limit_bytes: u64) {
        self.0.limit_bytes.store(limit_bytes, Relaxed);
        self.0.spill_start.store(start, Relaxed);
        self.0.spill_pages.store(pages, Relaxed);
        self.0.interrupted.store(0, Relaxed);
    }

    /// No limits any more; what was interrupted stays known.
    pub(crate) fn lift(&self) {
        self.0.deadline_nanos.store(NEVER, Relaxed);
        self.0.spill_pages.store(u32::MAX, Relaxed);
        account::lift();
    }

    /// Why the last statement was interrupted, since a limit was last set.
    pub(crate) fn interrupted(&self) -> Option<Interrupted> {
        match self.0.interrupted.load(Relaxed) {
            1 => Some(Interrupted::Deadline),
            2 => Some(Interrupted::TooLarge { limit_bytes: self.0.limit_bytes.load(Relaxed) }),
            _ => account::refused(),
        }
    }
}

impl Shared {
    fn exceeded(&self, meter: &SpillMeter) -> bool {
        let deadline = self.deadline_nanos.load(Relaxed);
        if deadline != NEVER && self.origin.elapsed().as_nanos() >= u128::from(deadline) {
            self.interrupted.store(1, Relaxed);
            return true;
        }
        let pages = self.spill_pages.load(Relaxed);
        if pages != u32::MAX && meter.pages().wrapping_sub(self.spill_start.load(Relaxed)) > pages {
            self.interrupted.store(2, Relaxed);
            return true;
        }
        false
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").finish_non_exhaustive()
    }
}
