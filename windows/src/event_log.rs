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

use winsafe::{HEVENTLOG, RegistryValue, co};

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
    let kinds = co::EVENTLOG::ERROR_TYPE.raw()
        | co::EVENTLOG::WARNING_TYPE.raw()
        | co::EVENTLOG::INFORMATION_TYPE.raw();
    registry::write(
        &source_key(),
        &[
            ("EventMessageFile", RegistryValue::ExpandSz(MESSAGE_FILE.to_owned())),
            ("TypesSupported", RegistryValue::Dword(u32::from(kinds))),
        ],
    )
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
        if write(entry.severity, entry.id, &text).is_err() {
            left_out.fetch_add(missing + 1, Ordering::Relaxed);
        }
    }
}

fn write(severity: Severity, id: u16, text: &str) -> Result<(), co::ERROR> {
    let kind = match severity {
        Severity::Information => co::EVENTLOG::INFORMATION_TYPE,
        Severity::Warning => co::EVENTLOG::WARNING_TYPE,
        Severity::Error => co::EVENTLOG::ERROR_TYPE,
    };
    // A NUL would end the text.
    let text = text.replace('\0', " ");
    HEVENTLOG::RegisterEventSource(None, EVENT_SOURCE)?.ReportEvent(
        kind,
        0,
        u32::from(id),
        None,
        &[text],
        &[],
    )
}
