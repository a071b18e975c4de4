//! A disk that is nearly full: what is still written, what is refused, and how that is told.
//!
//! Owns the rule which requests may still let the database grow. Read `tanist_store::Reserve` for the room that is held back.

use std::{path::PathBuf, time::Duration};

use tanist_replication::{Complaint, MemberId};
use tanist_store::{Batch, Database, Reserve, Room, StoreError};

use crate::{
    sql,
    write::{WriteDone, WriteError, WriteRequest, WriteWork},
    writer::{StoreEvent, StoreEvents},
};

/// Pages that a request may add which takes rows away: its idempotency key, its events, and the record of it need some.
const FOR_REMOVALS: u32 = 64;
/// With less free than this a file that can't be opened isn't to blame for it.
const FULL: u64 = 1 << 20;
/// A start on a full disk looks again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The store thread's view of the disk.
#[derive(Debug)]
pub(crate) struct Watch {
    member: MemberId,
    directory: PathBuf,
    low: Option<Room>,
}

impl Watch {
    pub(crate) fn new(member: MemberId, directory: PathBuf) -> Watch {
        Watch { member, directory, low: None }
    }

    /// Looks how much room there is, before work or while there is none; tells when that has become little, or enough.
    pub(crate) fn look(&mut self, database: &mut Database, idle: bool, events: &StoreEvents) {
        let Some(room) = database.look_at_room() else { return };
        let is_low = database.is_low();
        if let Some(reserve) = database.reserve() {
            if is_low && !idle {
                reserve.make_room();
            } else if !is_low && idle {
                reserve.take_again();
            }
        }
        if is_low != self.low.is_some() {
            let directory = self.directory.display();
            let complaint = is_low.then(|| {
                tracing::error!(
                    %directory, free = room.free, held = room.held,
                    "the disk is nearly full: nothing more is taken by which the database grows; free some space, or delete rows"
                );
                Complaint::new(&format!("its disk is nearly full: {room} in {directory}"))
            });
            if !is_low {
                tracing::info!(%directory, free = room.free, "the disk has room again");
            }
            let _ = events.send(StoreEvent::Room(complaint));
        }
        self.low = is_low.then_some(room);
    }

    /// Runs a write: on a nearly full disk only as long as it needs no further pages.
    pub(crate) fn run(
        &self,
        batch: &mut Batch<'_>,
        request: &WriteRequest,
        run: impl FnOnce(&mut Batch<'_>) -> Result<Result<WriteDone, WriteError>, StoreError>,
    ) -> Result<Result<WriteDone, WriteError>, StoreError> {
        let Some(room) = self.low else { return run(batch) };
        let removes = match &request.work {
            WriteWork::Statements(statements) => {
                statements.iter().all(|statement| sql::removes(&statement.sql))
            }
            WriteWork::State(_) => false,
        };
        batch.limit_growth(Some(if removes { FOR_REMOVALS } else { 0 }))?;
        let ran = run(batch);
        batch.limit_growth(None)?;
        match ran {
            Err(error) if error.is_disk() || matches!(error, StoreError::BatchLost { interrupted: None }) => {
                tracing::debug!(%error, "refused on a nearly full disk");
                // Perhaps only its key found no room: it must not have happened in part.
                batch.give_up();
                Ok(Err(self.refusal(room)))
            }
            Ok(Err(WriteError::Sql(error))) if error.is_full() => Ok(Err(self.refusal(room))),
            Ok(Err(WriteError::Storage(_))) => Ok(Err(self.refusal(room))),
            other => other,
        }
    }

    /// What a write is told that the disk refuses.
    pub(crate) fn refused(&self, error: &StoreError) -> WriteError {
        match self.low {
            Some(room) if error.is_disk() => self.refusal(room),
            _ => WriteError::Storage(error.to_string()),
        }
    }

    fn refusal(&self, room: Room) -> WriteError {
        let Watch { member, directory, .. } = self;
        let least = (room.wanted * 2) as f64 / f64::from(1 << 20);
        WriteError::NoRoom(format!(
            "the disk of {member} is nearly full: {room} in {}; with less than {least:.1} MiB together it takes reads, deletes and \
             what needs no further pages. Free some space there, or delete rows: it goes on by itself (store.reserve)",
            directory.display()
        ))
    }
}

/// A start on a full disk: it gives up room that is held back, and waits until there is some.
#[derive(Debug)]
pub(crate) struct Start<'r> {
    reserve: &'r Reserve,
    said: bool,
}

impl<'r> Start<'r> {
    pub(crate) fn new(reserve: &'r Reserve) -> Start<'r> {
        reserve.make_room();
        Start { reserve, said: false }
    }

    /// After a failure: whether to try again because the disk is full, some time later.
    pub(crate) async fn again(&mut self, error: String) -> bool {
        let Some(room) = self.reserve.room().filter(|room| room.free < FULL) else { return false };
        if !std::mem::replace(&mut self.said, true) {
            tracing::error!(
                error,
                "the disk is full: this machine starts when there is room; free some space"
            );
        }
        // What is held back may have been given up to another program.
        if room.held > 0 {
            self.reserve.make_room();
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        true
    }
}
