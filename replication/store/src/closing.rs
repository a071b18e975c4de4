//! The clean end of a replica: all of it goes into the database file, and what that is then is remembered.
//!
//! Owns how long that may take: a slow disk or a reader leaves the rest in the WAL, which is remembered as it is. Read
//! `opening.rs` for what it is good for.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::ErrorCode;

use crate::{
    database::Database,
    error::StoreError,
    memory::{FileMark, WalPlace},
    wal::{self, is_lock_page},
};

/// What a clean end came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The database file holds everything.
    Whole,
    /// So many frames of the WAL aren't in the database file: without the WAL it is an older state.
    Rest(u32),
    /// Others may have written, or the replica isn't sound: nothing was moved nor remembered.
    Open,
}

impl Database {
    /// Puts everything into the database file, within about `patience`, remembers what it is and closes it.
    ///
    /// # Errors
    /// The disk's, and [`StoreError::ForeignWrite`] when somebody wrote meanwhile: the next start looks closer then.
    pub fn close(mut self, patience: Duration) -> Result<Closed, StoreError> {
        if !self.is_locked() || self.is_diverged() {
            return Ok(Closed::Open);
        }
        let sum = self.sum_of_all(Instant::now() + patience / 4)?;
        let expected = self.captured.change;
        let left = self.empty_wal(patience)?;
        self.lock(expected)?;
        let (stamp, wal, memory, path) =
            (self.stamp, WalPlace::of(&self.captured), self.memory.clone(), self.path.clone());
        let mut file = FileMark::of(&path);
        let last = self.writer;
        drop((self.observer, self.checkpoints));
        if cfg!(windows) {
            // There the time of the last write is that of the last handle's end.
            drop(last);
            file = FileMark::of(&path);
        }
        memory.set(|facts| {
            facts.set_stamp(stamp);
            (facts.wal, facts.file, facts.sum, facts.clean) = (wal, file, sum, true);
        })?;
        Ok(if left == 0 { Closed::Whole } else { Closed::Rest(left) })
    }

    /// The sum of all pages; `None` when that takes too long.
    fn sum_of_all(&self, until: Instant) -> Result<Option<u64>, StoreError> {
        let (position, mut image) = (self.stamp.position, vec![0; self.page_size as usize]);
        for page in self.sums.without_sum() {
            if Instant::now() >= until {
                return Ok(None);
            }
            if !is_lock_page(page, self.page_size) {
                self.sqlite("read a page", |db| wal::read_page(&db.writer, page, &mut image))?;
                self.sums.see(self.moment(), page, &image);
            }
        }
        Ok(self.sums.at(position))
    }

    /// How many frames are left that aren't in the database file. Gives up the write lock.
    fn empty_wal(&mut self, patience: Duration) -> Result<u32, StoreError> {
        self.sqlite("release the write lock", |db| {
            db.writer.execute_batch("ROLLBACK")?;
            db.writer.busy_timeout(patience / 2)
        })?;
        let interrupt = self.writer.get_interrupt_handle();
        let (done, waits) = mpsc::channel::<()>();
        let emptied = thread::scope(|scope| {
            scope.spawn(move || {
                if waits.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                    interrupt.interrupt();
                }
            });
            let emptied = self.sqlite("checkpoint", |db| {
                db.writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                    Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                })
            });
            drop(done);
            emptied
        });
        match emptied {
            Ok((frames, moved)) => Ok(u32::try_from(frames - moved).unwrap_or(0)),
            Err(StoreError::Sqlite { source, .. })
                if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                Ok(self.captured.frames)
            }
            Err(StoreError::Busy { .. }) => Ok(self.captured.frames),
            Err(error) => Err(error),
        }
    }
}
