//! What keeps a machine from writing although its disk is well: another program that holds the write lock of `state.db`, or
//! that has written what can't be numbered.
//!
//! Owns the patience: who asks is told after a second, and after `store.lock_patience` the machine says that it isn't fit, so
//! that another becomes the master. Read `writer.rs` for who meets it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tanist_replication::Complaint;
use tanist_store::StoreError;

use crate::{
    lock_holder,
    write::WriteError,
    writer::{StoreEvent, StoreEvents},
};

/// Writes wait so long for a lock that another program holds.
const WRITES_WAIT: Duration = Duration::from_secs(1);
/// While it lasts it is logged again after so long.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Obstacle {
    directory: PathBuf,
    patience: Duration,
    /// Since when another program has held the lock.
    locked_since: Option<Instant>,
    /// Since when what another program has written has stood in the way.
    refused: Option<String>,
    logged: Option<Instant>,
    complained: bool,
}

/// What to do with the writes that have met it.
#[derive(Debug)]
pub(crate) enum Met {
    /// It may be over in a moment.
    Wait,
    /// Answer them.
    Answer(WriteError),
}

impl Obstacle {
    /// Nothing stands in the way yet. After `patience` the machine isn't fit to be the master.
    pub(crate) fn new(directory: PathBuf, patience: Duration) -> Obstacle {
        let (locked_since, refused, logged) = (None, None, None);
        Obstacle { directory, patience, locked_since, refused, logged, complained: false }
    }

    /// The store could write: nothing stands in the way any more.
    pub(crate) fn passed(&mut self, events: &StoreEvents) {
        if let Some(since) = self.locked_since.take()
            && self.logged.is_some()
        {
            tracing::info!(
                held_s = since.elapsed().as_secs_f32(),
                "the write lock of state.db is free again"
            );
        }
        if self.refused.take().is_some() {
            tracing::info!("what another program had written to state.db is undone, or taken over");
        }
        self.logged = None;
        if std::mem::take(&mut self.complained) {
            let _ = events.send(StoreEvent::Unfit(None));
        }
    }

    /// The store met `error`; `None` when it is no obstacle of this kind.
    pub(crate) fn meet(&mut self, error: &StoreError, events: &StoreEvents) -> Option<Met> {
        match error {
            StoreError::Busy { .. } => Some(self.locked(events)),
            StoreError::OutsideWrite { what } => {
                self.on_outside_write(what, events);
                Some(Met::Answer(WriteError::OutsideWrite(error.to_string())))
            }
            _ => None,
        }
    }

    fn locked(&mut self, events: &StoreEvents) -> Met {
        let since = *self.locked_since.get_or_insert_with(Instant::now);
        let held = since.elapsed();
        if held < WRITES_WAIT {
            return Met::Wait;
        }
        let holder = lock_holder::describe(&self.directory);
        let why = format!("{holder} holds the write lock of state.db and lets nobody write");
        if self.is_time_to_log() {
            tracing::warn!(
                holder,
                held_s = held.as_secs(),
                "another program holds the write lock of state.db: writes are refused"
            );
        }
        if held >= self.patience {
            self.complain(&why, events);
        }
        Met::Answer(WriteError::Locked(format!("{why}, for {} s so far", held.as_secs())))
    }

    fn on_outside_write(&mut self, what: &str, events: &StoreEvents) {
        let again = self.refused.as_deref() == Some(what);
        self.refused = Some(what.to_owned());
        if self.is_time_to_log() || !again {
            tracing::error!(
                what,
                "another program has written to state.db what can't be taken over: it is not replicated, and this machine hands over; \
                 its write is saved in a divergence report when another machine is the master"
            );
        }
        self.complain(&format!("a write from outside can't be taken over: {what}"), events);
    }

    fn is_time_to_log(&mut self) -> bool {
        let due = self.logged.is_none_or(|logged| logged.elapsed() >= LOG_AGAIN);
        if due {
            self.logged = Some(Instant::now());
        }
        due
    }

    fn complain(&mut self, why: &str, events: &StoreEvents) {
        if !std::mem::replace(&mut self.complained, true) {
            let _ = events.send(StoreEvent::Unfit(Some(Complaint::new(why))));
        }
    }
}
