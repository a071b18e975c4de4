//! What users' SQL takes of this machine: memory and room for sorting, counted where SQLite asks for it, and the deadline
//! for whoever runs long without asking the progress handler.
//!
//! Owns the counts. A thread that runs users' SQL has an account of its own, so that ordinary statements share nothing;
//! only what goes beyond a thread's own part comes from the common one. Read `sqlite_file.rs` for who asks.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use crate::limits::Interrupted;

/// What each thread may take beside its page cache, whatever the others take.
const OWN: u64 = 8 << 20;
/// Requests for more memory than this are the time to look at the deadline.
const LARGE: u64 = 4 << 10;
/// Until somebody says otherwise.
const USUAL_MEMORY: u64 = 256 << 20;
const USUAL_TEMP: u64 = 1 << 30;

static MEMORY_LIMIT: AtomicU64 = AtomicU64::new(USUAL_MEMORY);
/// Taken beyond the threads' own parts.
static MEMORY_USED: AtomicU64 = AtomicU64::new(0);
static TEMP_LIMIT: AtomicU64 = AtomicU64::new(USUAL_TEMP);
static TEMP_USED: AtomicU64 = AtomicU64::new(0);

const NOTHING: u8 = 0;
const DEADLINE: u8 = 1;
const MEMORY: u8 = 2;
const TEMP: u8 = 3;

struct Account {
    users: Cell<bool>,
    deadline: Cell<Option<Instant>>,
    /// May go below zero: what one thread took, another may give back.
    taken: Cell<i64>,
    own: Cell<u64>,
    refused: Cell<u8>,
}

thread_local! {
    static ACCOUNT: Account = const {
        Account {
            users: Cell::new(false),
            deadline: Cell::new(None),
            taken: Cell::new(0),
            own: Cell::new(OWN),
            refused: Cell::new(NOTHING),
        }
    };
}

/// What users' SQL takes of this process beyond the threads' own parts and the page caches, and what it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of temporary files.
    pub temp: u64,
}

/// What users' SQL may take in this process, in bytes: memory beside the page caches (each thread has 8 MiB of its own
/// beside that), and room for sorting on the disk. One request gets half of the memory at most.
pub fn set_sql_room(memory: u64, temp: u64) {
    MEMORY_LIMIT.store(memory, Relaxed);
    TEMP_LIMIT.store(temp, Relaxed);
}

/// What users' SQL takes now.
#[must_use]
pub fn sql_usage() -> Usage {
    Usage { memory: MEMORY_USED.load(Relaxed), temp: TEMP_USED.load(Relaxed) }
}

/// This thread's users' SQL is to end by `deadline`. Forgets what was refused before.
pub(crate) fn begin(deadline: Option<Instant>) {
    ACCOUNT.with(|account| {
        account.deadline.set(deadline);
        account.refused.set(NOTHING);
    });
}

/// This thread has no deadline any more; what was refused stays known.
pub(crate) fn lift() {
    ACCOUNT.with(|account| account.deadline.set(None));
}

/// This thread runs users' SQL from now on, on a connection with a page cache of `cache` bytes.
pub(crate) fn run_users(cache: u64) {
    ACCOUNT.with(|account| {
        account.users.set(true);
        let before = account.beyond();
        account.own.set(cache.saturating_add(OWN));
        let now = account.beyond();
        give_back(&MEMORY_USED, before.saturating_sub(now));
        MEMORY_USED.fetch_add(now.saturating_sub(before), Relaxed);
    });
}

/// What follows on this thread is the server's own.
pub(crate) fn run_own() {
    ACCOUNT.with(|account| account.users.set(false));
}

/// Whether this thread keeps more than its own part: between two requests that is what was prepared of users' SQL, and others
/// lack it.
pub(crate) fn is_beyond() -> bool {
    ACCOUNT.with(|account| account.beyond() > 0)
}

/// Whether this thread runs users' SQL.
pub(crate) fn is_users() -> bool {
    ACCOUNT.with(|account| account.users.get())
}

/// Why something was refused to this thread, since [`begin`].
pub(crate) fn refused() -> Option<Interrupted> {
    match ACCOUNT.with(|account| account.refused.get()) {
        DEADLINE => Some(Interrupted::Deadline),
        MEMORY => Some(Interrupted::Memory { limit_bytes: MEMORY_LIMIT.load(Relaxed) }),
        TEMP => Some(Interrupted::TempSpace { limit_bytes: TEMP_LIMIT.load(Relaxed) }),
        _ => None,
    }
}

/// Whether users' SQL of this thread ran past its deadline. For functions that take long.
pub(crate) fn is_late() -> bool {
    ACCOUNT.with(Account::is_late)
}

/// Takes `bytes` more for users' SQL of this thread; `false`: it may not have them.
pub(crate) fn take(bytes: u64) -> bool {
    ACCOUNT.with(|account| account.take(bytes))
}

/// Gives `bytes` back that were taken.
pub(crate) fn give(bytes: u64) {
    ACCOUNT.with(|account| {
        let before = account.beyond();
        account.taken.set(account.taken.get().saturating_sub_unsigned(bytes));
        give_back(&MEMORY_USED, before - account.beyond());
    });
}

/// Takes `bytes` more of the room for temporary files. What isn't users' is counted, and always gets it.
pub(crate) fn take_temp(bytes: u64) -> bool {
    ACCOUNT.with(|account| {
        let users = account.users.get();
        if users && account.is_late() {
            return false;
        }
        if !users {
            TEMP_USED.fetch_add(bytes, Relaxed);
        } else if !take_of(&TEMP_USED, bytes, TEMP_LIMIT.load(Relaxed)) {
            account.refused.set(TEMP);
            return false;
        }
        true
    })
}

/// Gives room for temporary files back.
pub(crate) fn give_temp(bytes: u64) {
    give_back(&TEMP_USED, bytes);
}

/// Takes what there is left below the limit.
fn take_of(used: &AtomicU64, bytes: u64, limit: u64) -> bool {
    let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
    used.fetch_update(Relaxed, Relaxed, more).is_ok()
}

fn give_back(used: &AtomicU64, bytes: u64) {
    if bytes > 0 {
        used.fetch_sub(bytes, Relaxed);
    }
}

impl Account {
    /// What was taken beyond this thread's own part.
    fn beyond(&self) -> u64 {
        u64::try_from(self.taken.get()).unwrap_or(0).saturating_sub(self.own.get())
    }

    fn is_late(&self) -> bool {
        let late = self.users.get() && self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline);
        if late {
            self.refused.set(DEADLINE);
        }
        late
    }

    fn take(&self, bytes: u64) -> bool {
        if bytes >= LARGE && self.is_late() {
            return false;
        }
        let before = (self.taken.get(), self.beyond());
        self.taken.set(before.0.saturating_add_unsigned(bytes));
        let (beyond, limit) = (self.beyond(), MEMORY_LIMIT.load(Relaxed));
        let more = beyond - before.1;
        if more == 0 {
            return true;
        }
        if beyond <= limit / 2 && take_of(&MEMORY_USED, more, limit) {
            return true;
        }
        self.taken.set(before.0);
        self.refused.set(MEMORY);
        false
    }
}
