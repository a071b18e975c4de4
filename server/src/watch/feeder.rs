//! The thread that reads new events and puts them into the ring, as soon as they may be told.
//!
//! Owns a read-only connection. Reads when the replica has grown, and holds what it has read until the snapshot's position
//! is acknowledged. Without watchers it reads nothing. Read `hub.rs` for where it puts them.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tanist_replication::{Position, Txid};
use tanist_store::{Reader, open_reader};
use tokio::{sync::oneshot, time::timeout};

use super::{
    event::{Filter, Read, Shown, read},
    history::oldest,
    hub::Hub,
};
use crate::{clock, gate::Gate};

/// Events before the newest with which the ring begins, so that watchers who come back find their place in it.
const LOOK_BACK: u64 = 1024;
/// Events and bytes read at once.
const STEP: (usize, usize) = (1024, 1 << 20);
/// Readings that wait for their acknowledgement.
const PENDING: usize = 64;
/// The replica is looked at at least so often.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks at least.
const BETWEEN: Duration = Duration::from_millis(2);
/// A replica that could not be read is tried again after so long.
const FAILED_PAUSE: Duration = Duration::from_millis(500);
/// Page cache of the connection, in bytes.
const CACHE: u64 = 512 << 10;
/// How long a reading may take.
const READ_TIME: Duration = Duration::from_secs(5);

/// What the feeder needs.
pub(crate) struct Parts {
    /// The data directory.
    pub(crate) directory: PathBuf,
    /// Where the replica stands, and what is acknowledged.
    pub(crate) gate: Arc<Gate>,
    /// Where events go.
    pub(crate) hub: Arc<Hub>,
    /// A replica that has not been current for so long tells nothing more.
    pub(crate) stale_after: Duration,
}

/// The running thread; stops when dropped.
#[derive(Debug)]
pub(crate) struct Feeder {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start(parts: Parts) -> io::Result<Feeder> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = feed(&parts) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(run)?;
        Ok(Feeder { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What may become of a snapshot's events.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All are acknowledged.
    Tell,
    /// Perhaps soon.
    Wait,
    /// The replica stands in an older term than what is acknowledged: what it has may be a tail that nobody
    /// acknowledged. It must get the next reign's transactions first, or the pages (R12).
    OffBranch,
}

fn verdict(snapshot: Position, acknowledged: Position) -> Verdict {
    match snapshot.term.cmp(&acknowledged.term) {
        std::cmp::Ordering::Less => Verdict::OffBranch,
        std::cmp::Ordering::Equal if snapshot.txid <= acknowledged.txid => Verdict::Tell,
        _ => Verdict::Wait,
    }
}

/// One reading.
#[derive(Debug)]
struct Snapshot {
    position: Position,
    /// The newest event of the snapshot's numbered transactions.
    newest: u64,
    oldest: u64,
    events: Vec<Shown>,
    until: u64,
    /// Whether the position told before is on this snapshot's branch.
    continues: bool,
}

async fn feed(parts: &Parts) {
    let Parts { gate, hub, .. } = parts;
    let (mut acknowledged, mut stored) = (gate.acknowledged(), gate.stored());
    let mut reader = None;
    let mut pending = Pending::default();
    let mut looked: Option<Instant> = None;
    loop {
        if !hub.is_watched() {
            hub.forget();
            pending.snapshots.clear();
            hub.wait_for_watcher().await;
            looked = None;
        }
        check_current(parts);
        pending.release(hub, *acknowledged.borrow_and_update());
        let since = looked.map(|at| at.elapsed());
        let due =
            pending.more || stored.has_changed().unwrap_or(false) || since.is_none_or(|since| since >= TICK);
        if due && pending.has_room() {
            // Under load one look finds the events of many transactions.
            if let Some(early) = since.and_then(|since| BETWEEN.checked_sub(since)) {
                tokio::time::sleep(early).await;
            }
            looked = Some(Instant::now());
            stored.mark_unchanged();
            match pending.look(&mut reader, &parts.directory, hub) {
                Ok(()) => continue,
                Err(why) => {
                    tracing::warn!(why, "read events");
                    reader = None;
                    tokio::time::sleep(FAILED_PAUSE).await;
                }
            }
        }
        let room = pending.has_room();
        let either = async {
            tokio::select! {
                _ = stored.changed(), if room => stored.mark_changed(),
                _ = acknowledged.changed() => {}
            }
        };
        let _ = timeout(TICK, either).await;
    }
}

/// What has been read and may not be told yet, oldest first.
#[derive(Debug, Default)]
struct Pending {
    snapshots: VecDeque<Snapshot>,
    /// The newest reading has left something over.
    more: bool,
    /// The position of what was told last.
    told_at: Position,
}

impl Pending {
    fn has_room(&self) -> bool {
        let bytes: usize =
            self.snapshots.iter().flat_map(|snapshot| &snapshot.events).map(|event| event.frame.len()).sum();
        self.snapshots.len() < PENDING && bytes < STEP.1
    }

    /// Tells what may be told by now.
    fn release(&mut self, hub: &Hub, acknowledged: Position) {
        while let Some(first) = self.snapshots.front() {
            match verdict(first.position, acknowledged) {
                Verdict::Wait => return,
                // What was read after it may rest on it.
                Verdict::OffBranch => self.snapshots.clear(),
                Verdict::Tell => {
                    let Some(snapshot) = self.snapshots.pop_front() else { return };
                    self.told_at = snapshot.position;
                    if !snapshot.continues {
                        hub.lose();
                    }
                    hub.publish(snapshot.events, snapshot.until, snapshot.newest, snapshot.oldest);
                }
            }
        }
    }

    /// Reads what has come.
    fn look(&mut self, reader: &mut Option<Reader>, directory: &Path, hub: &Hub) -> Result<(), String> {
        let last = self.snapshots.back().map(|last| (last.position, last.until));
        let told = last.map(|(_, until)| until).or_else(|| hub.told());
        self.more = false;
        let Some(snapshot) = snapshot(reader, directory, told, self.told_at)? else { return Ok(()) };
        // The replica has been brought in line meanwhile: what was read before may be gone.
        if last.is_some_and(|(at, _)| at.term != snapshot.position.term || at > snapshot.position)
            || (last.is_some() && !snapshot.continues)
        {
            self.snapshots.clear();
            self.more = true;
            return Ok(());
        }
        self.more = snapshot.until < snapshot.newest;
        // A newer position without events tells nothing, but when the last word is old.
        if !snapshot.events.is_empty() || told.is_none() || !snapshot.continues || last.is_none() {
            self.snapshots.push_back(snapshot);
        }
        Ok(())
    }
}

/// Says whether this replica has been current lately.
fn check_current(parts: &Parts) {
    let age = Duration::from_nanos(clock::now_ns().saturating_sub(parts.gate.current_ns()));
    parts.hub.set_stale(age >= parts.stale_after);
}

/// Reads what comes after `told`; `None` while the database has no such tables yet.
fn snapshot(
    slot: &mut Option<Reader>,
    directory: &Path,
    told: Option<u64>,
    told_at: Position,
) -> Result<Option<Snapshot>, String> {
    let reader = match slot {
        Some(reader) => reader,
        None => slot.insert(open_reader(directory, CACHE, None).map_err(|error| error.to_string())?),
    };
    reader.set_deadline(Some(Instant::now() + READ_TIME));
    let found = reader.snapshot(|connection, stamp| {
        if stamp.position == Position::ZERO || !has_marks(connection)? {
            return Ok(None);
        }
        look(connection, stamp.position, told, told_at).map(Some)
    });
    reader.set_deadline(None);
    found.map_err(|error| error.to_string())?.map_err(|error: rusqlite::Error| format!("{error}"))
}

/// Whether the schema is new enough; the master brings it up to date.
fn has_marks(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection
        .prepare_cached("SELECT count(*) FROM pragma_table_info('tanist_position') WHERE name = 'events'")?
        .query_row([], |row| Ok(row.get::<_, i64>(0)? > 0))
}

fn look(
    connection: &Connection,
    position: Position,
    told: Option<u64>,
    told_at: Position,
) -> Result<Snapshot, rusqlite::Error> {
    let newest = connection
        .prepare_cached("SELECT events FROM tanist_position WHERE id = 1")?
        .query_row([], |row| row.get::<_, i64>(0))?;
    let newest = u64::try_from(newest).unwrap_or_default();
    let oldest = oldest(connection)?;
    let continues = position.term == told_at.term || told_at == Position::ZERO || {
        let next: Option<i64> = connection
            .prepare_cached("SELECT min(first_txid) FROM tanist_terms WHERE term > ?1")?
            .query_row([i64::try_from(told_at.term.0).unwrap_or(i64::MAX)], |row| row.get(0))?;
        let next = next.and_then(|next| u64::try_from(next).ok());
        told_at < position && next.is_none_or(|next| Txid(next) > told_at.txid)
    };
    let continues = continues && told.is_none_or(|told| told <= newest);
    let after = told.filter(|_| continues).unwrap_or_else(|| newest.saturating_sub(LOOK_BACK));
    let Read { events, until } = read(connection, after, newest, &Filter::default(), STEP)?;
    Ok(Snapshot { position, newest, oldest, events, until, continues })
}

#[cfg(test)]
mod tests;
