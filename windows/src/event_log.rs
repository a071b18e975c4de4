//! Entries in the Event Log, under "Windows Logs", "Application".
//!
//! Owns a thread that writes: who logs never waits for the Event Log's service. Entries that find no room in the queue, or are too many
//! a minute, are left out, and the next one says how many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::Dispatch;
use tracing_layer_win_eventlog::EventLogLayer;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::{
    EVENT_SOURCE, MESSAGE_FILE,
    events::{Entry, Severity},
    registry,
};

/// Entries that wait.
const QUEUE: usize = 256;
/// Entries a minute: a machine that fails all the time mustn't push out what others have written.
const PER_MINUTE: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// How long the end waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(2);

fn source_key() -> String {
    format!(r"SYSTEM\CurrentControlSet\Services\EventLog\Application\{EVENT_SOURCE}")
}

/// Lets the Event Log show this program's entries as they are. Needs an administrator's rights.
///
/// # Errors
/// When the registry can't be written, with its key.
pub fn register_source() -> Result<(), String> {
    // Errors, warnings, information.
    registry::write(&source_key(), ("EventMessageFile", MESSAGE_FILE), ("TypesSupported", 7))
}

/// Takes that back. Entries that were written stay.
///
/// # Errors
/// When the registry can't be written, with its key.
pub fn unregister_source() -> Result<(), String> {
    registry::remove(&source_key())
}

/// Writes entries as long as it is there.
#[derive(Debug)]
pub struct EventLog {
    queue: SyncSender<Item>,
    left_out: Arc<AtomicU32>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl EventLog {
    /// Starts to write. Whether the Event Log takes anything is seen with the first entry; nothing else depends on it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn open() -> std::io::Result<EventLog> {
        let (queue, items) = sync_channel(QUEUE);
        let (end, ended) = sync_channel(1);
        let left_out = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&left_out);
        let thread = std::thread::Builder::new().name("event-log".into()).spawn(move || {
            write_all(&items, &count);
            let _ = end.send(());
        })?;
        Ok(EventLog { queue, left_out, ended, thread: Some(thread) })
    }

    /// A way to give entries, which never waits.
    pub fn giver(&self) -> impl Fn(Entry) + Send + Sync + Clone + 'static {
        let (queue, left_out) = (self.queue.clone(), Arc::clone(&self.left_out));
        move |entry| {
            if queue.try_send(Item::Entry(entry)).is_err() {
                left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes what waits, for two seconds at most. Entries given later are lost: givers may be kept for as long as the process lives.
    pub fn close(mut self) {
        if self.queue.try_send(Item::End).is_ok()
            && self.ended.recv_timeout(PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What waits in the queue.
enum Item {
    Entry(Entry),
    /// Nothing that comes later is written.
    End,
}

fn write_all(items: &Receiver<Item>, left_out: &AtomicU32) {
    // Without the Event Log the log files have it all the same.
    let Some(log) = open_log() else { return };
    let (mut minute, mut written) = (Instant::now(), 0);
    while let Ok(Item::Entry(entry)) = items.recv() {
        if minute.elapsed() >= MINUTE {
            (minute, written) = (Instant::now(), 0);
        }
        written += 1;
        if written > PER_MINUTE {
            left_out.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let missing = left_out.swap(0, Ordering::Relaxed);
        let text = match missing {
            0 => entry.text,
            missing => format!("{}\r\n({missing} entries before this one were left out)", entry.text),
        };
        write(&log, entry.severity, entry.id, &text);
    }
}

/// The crate that writes is a layer for what is logged: it gets a subscriber of its own, on this thread alone.
fn open_log() -> Option<Dispatch> {
    let layer = EventLogLayer::new(EVENT_SOURCE).ok()?;
    Some(Dispatch::new(tracing_subscriber::registry().with(layer)))
}

fn write(log: &Dispatch, severity: Severity, id: u16, text: &str) {
    // A NUL would end the text.
    let (id, text) = (u64::from(id), text.replace('\0', " "));
    tracing::dispatcher::with_default(log, || match severity {
        Severity::Information => tracing::info!(id, "{text}"),
        Severity::Warning => tracing::warn!(id, "{text}"),
        Severity::Error => tracing::error!(id, "{text}"),
    });
}
