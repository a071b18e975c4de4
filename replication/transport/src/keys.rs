//! The cluster keys of a machine: one, or two while the key is changed.
//!
//! Owns which are accepted now. Whoever has a [`KeyRing`] sees a change at once; connections made with a key that isn't
//! accepted any more are ended by those who carry them.

use std::sync::Arc;

use tokio::sync::watch;

use crate::ClusterKey;

/// What tells two keys apart and shows neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyMark([u8; 16]);

impl KeyMark {
    pub(crate) fn of(key: &ClusterKey) -> KeyMark {
        let mut mark = [0; 16];
        mark.copy_from_slice(&key.derive("tanist 2026-12 which key a connection was made with")[..16]);
        KeyMark(mark)
    }
}

/// The keys of a moment.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The one to dial with.
    pub key: ClusterKey,
    /// One that is accepted besides. It is also dialled with, when the peer doesn't know the first one.
    pub other: Option<ClusterKey>,
}

impl Keys {
    /// All that are accepted, the one to dial with first.
    pub fn all(&self) -> impl Iterator<Item = &ClusterKey> {
        std::iter::once(&self.key).chain(&self.other)
    }
}

/// Keys with their marks: links look at those with each packet.
#[derive(Debug)]
pub(crate) struct Held {
    keys: Keys,
    marks: Vec<KeyMark>,
}

impl Held {
    fn new(keys: Keys) -> Held {
        let marks = keys.all().map(KeyMark::of).collect();
        Held { keys, marks }
    }
}

/// The keys as they are now, for all who share it.
#[derive(Debug, Clone)]
pub struct KeyRing(Arc<watch::Sender<Held>>);

/// Tells of changes of a [`KeyRing`].
#[derive(Debug)]
pub struct KeyChanges(watch::Receiver<Held>);

impl KeyChanges {
    /// Waits for the next change; `false` when there will be none.
    pub async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl KeyRing {
    /// A ring with these keys.
    #[must_use]
    pub fn new(keys: Keys) -> KeyRing {
        KeyRing(Arc::new(watch::Sender::new(Held::new(keys))))
    }

    /// From now on these count. Links made with another key end and are made anew.
    pub fn set(&self, keys: Keys) {
        self.0.send_replace(Held::new(keys));
    }

    /// Those that count now.
    #[must_use]
    pub fn now(&self) -> Keys {
        self.0.borrow().keys.clone()
    }

    /// For whoever wants to hear of changes.
    #[must_use]
    pub fn changes(&self) -> KeyChanges {
        KeyChanges(self.0.subscribe())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Held> {
        self.0.subscribe()
    }
}

impl From<ClusterKey> for KeyRing {
    fn from(key: ClusterKey) -> KeyRing {
        KeyRing::new(Keys { key, other: None })
    }
}

/// Waits until a key isn't accepted any more; for ever once nobody can change that.
pub(crate) async fn dropped(keys: &mut watch::Receiver<Held>, mark: KeyMark) {
    if keys.wait_for(|held| !held.marks.contains(&mark)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why a connection ends whose key isn't accepted any more.
pub(crate) const DROPPED: &str = "it was made with a cluster key that isn't accepted any more";
