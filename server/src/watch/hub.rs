//! The ring of newest events that all watchers share, and what is known of the rest.
//!
//! Owns the numbers: up to where may be told, from where the ring holds everything, what is the oldest kept. The feeder
//! alone writes it; each watcher looks from its own place. Bounded in events and bytes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::event::{Filter, Shown};

/// Events in the ring.
pub(super) const RING_EVENTS: usize = 4096;
/// Bytes of events in the ring (one larger event is kept all the same).
pub(super) const RING_BYTES: usize = 4 << 20;

/// Why all streams end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine stops.
    Stopping,
    /// This replica has not been current for long.
    Stale,
    /// Events that were told are not in the database any more: an operator has accepted the loss of data.
    Lost,
}

#[derive(Debug, Default)]
struct State {
    /// All events up to here may be told; the ring ends here.
    told: Option<u64>,
    /// The newest event that may be told when all is read.
    newest: Option<u64>,
    /// The ring holds every event after this one, up to `told`.
    base: u64,
    /// The oldest event kept in the database, or the next one's number.
    oldest: u64,
    ring: VecDeque<Arc<Shown>>,
    bytes: usize,
    stale: bool,
    stopping: bool,
    /// Grows when told events are lost.
    losses: u64,
}

/// What a watcher finds at its place.
#[derive(Debug)]
pub(crate) enum Look {
    /// The next event that it wants.
    Event(Arc<Shown>),
    /// Nothing that it wants up to here: wait for a change.
    Nothing(u64),
    /// The ring begins after its place: read the database up to here.
    Behind(u64),
    /// The stream ends.
    End(End),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    watchers: AtomicUsize,
    came: Notify,
}

impl Hub {
    pub(crate) fn new() -> Arc<Hub> {
        Arc::new(Hub {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            watchers: AtomicUsize::new(0),
            came: Notify::new(),
        })
    }

    /// A watcher is there until the result is dropped; without any, nothing is read.
    pub(crate) fn enter(self: &Arc<Hub>) -> Presence {
        if self.watchers.fetch_add(1, SeqCst) == 0 {
            self.came.notify_one();
        }
        Presence { losses: self.state.lock().losses, hub: Arc::clone(self) }
    }

    /// Whether anybody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.watchers.load(SeqCst) > 0
    }

    /// Waits until somebody watches.
    pub(super) async fn wait_for_watcher(&self) {
        while !self.is_watched() {
            self.came.notified().await;
        }
    }

    /// Follows changes of all that a watcher can see here.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The newest event that may be told, once it is known; `Err` when this replica isn't current or stops.
    pub(crate) fn newest(&self) -> Result<Option<u64>, End> {
        let state = self.state.lock();
        match &*state {
            State { stopping: true, .. } => Err(End::Stopping),
            State { stale: true, .. } => Err(End::Stale),
            state => Ok(state.newest),
        }
    }

    /// The oldest event that is kept.
    pub(crate) fn oldest(&self) -> u64 {
        self.state.lock().oldest
    }

    /// What has been read: `until` is the last event of the reading, `newest` that of the snapshot.
    pub(super) fn publish(&self, events: Vec<Shown>, until: u64, newest: u64, oldest: u64) {
        let mut state = self.state.lock();
        state.oldest = oldest;
        if state.told.is_none() {
            state.base = events.first().map_or(until, |first| first.id.saturating_sub(1));
        }
        let nothing_new = events.is_empty() && (state.told, state.newest) == (Some(until), Some(newest));
        (state.told, state.newest) = (Some(until), Some(newest));
        for event in events {
            state.bytes += event.frame.len();
            state.ring.push_back(Arc::new(event));
        }
        while state.ring.len() > 1 && (state.ring.len() > RING_EVENTS || state.bytes > RING_BYTES) {
            if let Some(event) = state.ring.pop_front() {
                state.bytes -= event.frame.len();
                state.base = event.id;
            }
        }
        drop(state);
        if !nothing_new {
            self.changed();
        }
    }

    /// What was told is not on this replica's branch any more.
    pub(super) fn lose(&self) {
        tracing::warn!(
            "events that were told are lost, as an operator has accepted: all watchers must reload"
        );
        let mut state = self.state.lock();
        state.losses += 1;
        state.clear();
    }

    /// Where reading goes on; `None`: from the newest few.
    pub(super) fn told(&self) -> Option<u64> {
        self.state.lock().told
    }

    /// Nobody watches: forgets everything. Whether the replica is current is looked at anew for the next one.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock();
        state.clear();
        state.stale = false;
    }

    /// This replica isn't current any more, or is again.
    pub(super) fn set_stale(&self, stale: bool) {
        if std::mem::replace(&mut self.state.lock().stale, stale) != stale {
            self.changed();
        }
    }

    /// Ends all streams, and takes no more.
    pub(crate) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }
}

impl State {
    fn clear(&mut self) {
        self.ring.clear();
        (self.bytes, self.told, self.newest) = (0, None, None);
    }
}

/// A watcher's place at the hub.
#[derive(Debug)]
pub(crate) struct Presence {
    hub: Arc<Hub>,
    losses: u64,
}

impl Presence {
    /// Where the watcher stands.
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The next event after `after`.
    pub(crate) fn look(&self, after: u64, filter: &Filter) -> Look {
        let state = self.hub.state.lock();
        if state.stopping {
            return Look::End(End::Stopping);
        }
        if state.losses != self.losses {
            return Look::End(End::Lost);
        }
        if state.stale {
            return Look::End(End::Stale);
        }
        let Some(told) = state.told.filter(|told| *told > after) else { return Look::Nothing(after) };
        if after < state.base {
            return Look::Behind(told);
        }
        let start = state.ring.partition_point(|event| event.id <= after);
        let wanted = state
            .ring
            .iter()
            .skip(start)
            .find(|event| filter.wants(&event.kind, &event.subject, &event.nodes));
        wanted.map_or(Look::Nothing(told), |event| Look::Event(Arc::clone(event)))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.hub.watchers.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(id: u64, size: usize) -> Shown {
        Shown {
            id,
            kind: "row".into(),
            subject: "t".into(),
            nodes: [].into(),
            frame: Bytes::from(vec![b'x'; size]),
        }
    }

    fn look(presence: &Presence, after: u64) -> String {
        match presence.look(after, &Filter::default()) {
            Look::Event(event) => format!("event {}", event.id),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn watcher_sees_each_event_once_and_reads_the_database_when_it_is_behind_the_ring() {
        let hub = Hub::new();
        let presence = hub.enter();
        assert_eq!(look(&presence, 7), "Nothing(7)", "nothing is known yet");
        hub.publish(vec![event(11, 1), event(12, 1)], 12, 14, 3);
        assert_eq!(hub.newest(), Ok(Some(14)));
        assert_eq!(look(&presence, 9), "Behind(12)");
        assert_eq!(look(&presence, 10), "event 11");
        assert_eq!(look(&presence, 11), "event 12");
        assert_eq!(look(&presence, 12), "Nothing(12)");
        assert_eq!(look(&presence, 14), "Nothing(14)", "began at the newest, which isn't read yet");
        hub.publish(vec![event(14, 1)], 14, 14, 3);
        assert_eq!(look(&presence, 12), "event 14", "a number may be missing");
        assert_eq!(look(&presence, 13), "event 14");
        let nodes = Filter { kinds: vec!["node".into()], ..Filter::default() };
        assert!(matches!(presence.look(10, &nodes), Look::Nothing(14)));
    }

    #[test]
    fn ring_is_bounded_in_events_and_bytes() {
        let hub = Hub::new();
        let presence = hub.enter();
        for id in 1..=RING_EVENTS as u64 + 10 {
            hub.publish(vec![event(id, 1)], id, id, 1);
        }
        assert_eq!(look(&presence, 9), format!("Behind({})", RING_EVENTS + 10));
        assert_eq!(look(&presence, 10), "event 11");
        let next = RING_EVENTS as u64 + 11;
        hub.publish(vec![event(next, RING_BYTES), event(next + 1, RING_BYTES)], next + 1, next + 1, 1);
        assert_eq!(look(&presence, next - 1), format!("Behind({})", next + 1));
        assert_eq!(look(&presence, next), format!("event {}", next + 1));
    }

    #[test]
    fn lost_events_stale_replicas_and_stops_end_the_stream() {
        let hub = Hub::new();
        let presence = hub.enter();
        hub.publish(vec![event(5, 1)], 5, 5, 1);
        hub.set_stale(true);
        assert_eq!((look(&presence, 4), hub.newest()), ("End(Stale)".to_owned(), Err(End::Stale)));
        hub.set_stale(false);
        assert_eq!(look(&presence, 4), "event 5");
        hub.lose();
        hub.publish(vec![event(3, 1)], 3, 3, 1);
        assert_eq!(look(&presence, 2), "End(Lost)");
        assert_eq!(look(&hub.enter(), 2), "event 3", "who comes anew goes on");
        hub.stop();
        assert_eq!(look(&hub.enter(), 2), "End(Stopping)");
    }
}
