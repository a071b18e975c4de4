//! The thread that reads new events and puts them into the ring, as soon as they may be told.
//!
//! Owns a read-only connection. Reads when the replica has grown, and holds what it has read until the snapshot's position
//! is acknowledged. Without watchers it reads nothing. Read `hub.rs` for where it puts them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tanist_replication::{Position, Txid};
use tanist_store::{Reader, open_reader};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

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
    let mut told_at = Position::ZERO;
    let mut looked: Option<Instant> = None;
    loop {
        if !hub.is_watched() {
            hub.forget();
            hub.wait_for_watcher().await;
        }
        check_current(parts);
        // Under load one look finds the events of many transactions.
        if let Some(early) = looked.and_then(|at| BETWEEN.checked_sub(at.elapsed())) {
            tokio::time::sleep(early).await;
        }
        looked = Some(Instant::now());
        stored.mark_unchanged();
        let found = snapshot(&mut reader, &parts.directory, hub.told(), told_at);
        let snapshot = match found {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => {
                changed(&mut stored, &mut acknowledged).await;
                continue;
            }
            Err(why) => {
                tracing::warn!(why, "read events");
                reader = None;
                tokio::time::sleep(FAILED_PAUSE).await;
                continue;
            }
        };
        let more = snapshot.until < snapshot.newest;
        let mut told = false;
        loop {
            let newest = *acknowledged.borrow_and_update();
            match verdict(snapshot.position, newest) {
                Verdict::Tell => {
                    told = true;
                    break;
                }
                Verdict::OffBranch => break,
                Verdict::Wait => {
                    let _ = timeout(TICK, acknowledged.changed()).await;
                    check_current(parts);
                    if !hub.is_watched() {
                        break;
                    }
                }
            }
        }
        if told {
            told_at = snapshot.position;
            if !snapshot.continues {
                hub.lose();
            }
            let nothing_new = hub.told() == Some(snapshot.until) && snapshot.continues;
            if !nothing_new || hub.newest() != Ok(Some(snapshot.newest)) {
                hub.publish(snapshot.events, snapshot.until, snapshot.newest, snapshot.oldest);
            }
            if more || stored.has_changed().unwrap_or(false) {
                continue;
            }
        }
        changed(&mut stored, &mut acknowledged).await;
    }
}

/// Waits until the replica has grown or more is acknowledged, or a while.
async fn changed(stored: &mut watch::Receiver<Position>, acknowledged: &mut watch::Receiver<Position>) {
    let either = async {
        tokio::select! {
            _ = stored.changed() => {}
            _ = acknowledged.changed() => {}
        }
    };
    let _ = timeout(TICK, either).await;
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
        None => slot.insert(open_reader(directory, CACHE).map_err(|error| error.to_string())?),
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
