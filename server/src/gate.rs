//! What the HTTP side may know of the reign: whether this machine may answer as master now, and what it has.
//!
//! Written by the driver alone, read by every request without a lock on the way that counts. Closed by default, and
//! shut by itself when the lease ends (I6): nobody has to remember to close it. Read `driver.rs` for who moves it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use tanist_api::Role;
use tanist_replication::{Position, Term};
use tokio::sync::watch;

use crate::{clock, stall::Stalls, view::View};

/// The gate between the reign and the clients. Shared by `Arc`.
#[derive(Debug)]
pub struct Gate {
    /// The open reign; 0: closed.
    term: AtomicU64,
    lease_until_ns: AtomicU64,
    acknowledged: watch::Sender<Position>,
    stored: watch::Sender<Position>,
    view: watch::Sender<Arc<View>>,
    /// Since when the view knows no master; meaningful only while it knows none.
    masterless_since_ns: AtomicU64,
    /// When this replica was last known to be current.
    current_ns: AtomicU64,
    stalls: Arc<Stalls>,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new(view: View, now_ns: u64) -> Gate {
        Gate {
            term: AtomicU64::new(0),
            lease_until_ns: AtomicU64::new(0),
            acknowledged: watch::Sender::new(Position::ZERO),
            stored: watch::Sender::new(Position::ZERO),
            view: watch::Sender::new(Arc::new(view)),
            masterless_since_ns: AtomicU64::new(now_ns),
            current_ns: AtomicU64::new(now_ns),
            stalls: Arc::default(),
        }
    }

    /// Opens the gate for a reign. It lets nobody through before [`Gate::extend`] has said until when.
    pub fn open(&self, term: Term) {
        assert!(term > Term::ZERO, "a gate opens for a reign, and reigns begin with term 1");
        // The lease of an earlier reign must not count for this one.
        self.lease_until_ns.store(0, SeqCst);
        self.term.store(term.0, SeqCst);
    }

    /// The lease holds until `lease_until_ns` of `clock::now_ns`; never moves back within a reign.
    pub fn extend(&self, lease_until_ns: u64) {
        self.lease_until_ns.fetch_max(lease_until_ns, SeqCst);
    }

    /// Closes the gate at once.
    pub fn close(&self) {
        self.term.store(0, SeqCst);
    }

    /// The reign for which this machine may answer at `now_ns`, if it may.
    #[must_use]
    pub fn is_open(&self, now_ns: u64) -> Option<Term> {
        let term = self.term.load(SeqCst);
        if term == 0 || now_ns >= self.lease_until_ns.load(SeqCst) {
            return None;
        }
        // The lease just read may be a later reign's; terms never come back, so the same term means the same reign.
        (self.term.load(SeqCst) == term).then_some(Term(term))
    }

    /// How long, in nanoseconds from `now_ns`, the lease of this reign still lasts at least; `None`: the reign is over.
    #[must_use]
    pub fn lease_left(&self, term: Term, now_ns: u64) -> Option<u64> {
        (self.is_open(now_ns) == Some(term))
            .then(|| self.lease_until_ns.load(SeqCst).saturating_sub(now_ns))
            // Read after the term, it could be a later reign's.
            .filter(|_| self.term.load(SeqCst) == term.0)
    }

    /// Follows the newest acknowledged position that this machine knows: its own reign's, or what the master's heartbeat
    /// told. What was acknowledged stays so, whoever reigns: it never goes back.
    #[must_use]
    pub fn acknowledged(&self) -> watch::Receiver<Position> {
        self.acknowledged.subscribe()
    }

    /// Everything up to here is acknowledged (R7).
    pub fn set_acknowledged(&self, position: Position) {
        set(&self.acknowledged, position);
    }

    /// The master has told that everything up to here is acknowledged; who has just begun to reign may know less.
    pub fn hear_acknowledged(&self, position: Position) {
        self.acknowledged.send_if_modified(|current| {
            let newer = position > *current;
            *current = position.max(*current);
            newer
        });
    }

    /// Follows this machine's own replica, on disk.
    #[must_use]
    pub fn stored(&self) -> watch::Receiver<Position> {
        self.stored.subscribe()
    }

    /// This machine's replica stands here; may go back when a tail that nobody acknowledged is replaced (R12).
    pub fn set_stored(&self, position: Position) {
        set(&self.stored, position);
    }

    /// What this machine's threads wait for.
    pub(crate) fn stalls(&self) -> &Arc<Stalls> {
        &self.stalls
    }

    /// The newest view. When the driver itself doesn't go on, what it last said of this machine isn't so any more.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        let view = Arc::clone(&self.view.borrow());
        let now = clock::now_ns();
        if self.stalls.driver(now).is_none() { view } else { Arc::new(self.stalled(&view, now)) }
    }

    fn stalled(&self, view: &View, now_ns: u64) -> View {
        let mut view = view.clone();
        let cluster = &mut view.cluster;
        if cluster.master.as_ref() == Some(&cluster.member) && self.is_open(now_ns).is_none() {
            (cluster.master, cluster.suggested_host, cluster.writable) = (None, None, false);
            cluster.master_urls.clear();
            cluster.role = Role::Unknown;
        }
        cluster.notice = self.stalls.notice(now_ns).or(cluster.notice.take());
        view
    }

    /// Follows the view.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Since when no master has been known here, if none is now (on `clock::now_ns`).
    #[must_use]
    pub fn masterless_since_ns(&self) -> Option<u64> {
        self.view.borrow().cluster.master.is_none().then(|| self.masterless_since_ns.load(SeqCst))
    }

    /// When this replica was last known to be current, or the machine started (on `clock::now_ns`).
    #[must_use]
    pub fn current_ns(&self) -> u64 {
        self.current_ns.load(SeqCst)
    }

    /// Publishes a view.
    pub fn set_view(&self, view: View, now_ns: u64) {
        if view.cluster.master.is_none() && self.view.borrow().cluster.master.is_some() {
            self.masterless_since_ns.store(now_ns, SeqCst);
        }
        if let Some(fresh) = view.fresh_as_of_ns {
            // A master is so until its lease ends.
            self.current_ns.fetch_max(fresh.min(now_ns), SeqCst);
        }
        self.view.send_replace(Arc::new(view));
    }
}

/// Wakes those who wait only when something changed.
fn set(sender: &watch::Sender<Position>, position: Position) {
    sender.send_if_modified(|current| {
        let changed = *current != position;
        *current = position;
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new(View::default(), 0)
    }

    #[test]
    fn gate_is_closed_until_a_reign_has_a_lease_and_shuts_when_it_ends() {
        let gate = gate();
        assert_eq!(gate.is_open(5), None);
        gate.open(Term(3));
        assert_eq!(gate.is_open(5), None, "no lease yet");
        gate.extend(10);
        assert_eq!(gate.is_open(9), Some(Term(3)));
        assert_eq!(gate.is_open(10), None, "the lease has ended");
        gate.extend(20);
        gate.extend(15);
        assert_eq!(gate.is_open(19), Some(Term(3)), "a lease never shrinks");
        gate.close();
        assert_eq!(gate.is_open(11), None);
    }

    #[test]
    fn lease_of_an_earlier_reign_does_not_count_for_the_next() {
        let gate = gate();
        gate.open(Term(3));
        gate.extend(100);
        gate.close();
        gate.open(Term(5));
        assert_eq!(gate.is_open(50), None);
        gate.extend(60);
        assert_eq!(gate.is_open(50), Some(Term(5)));
    }

    #[test]
    fn gate_remembers_since_when_no_master_is_known() {
        let gate = Gate::new(View::default(), 7);
        assert_eq!(gate.masterless_since_ns(), Some(7));
        let mut led = View::default();
        led.cluster.master = Some("pc-2".to_owned());
        gate.set_view(led, 8);
        assert_eq!(gate.masterless_since_ns(), None);
        gate.set_view(View::default(), 9);
        gate.set_view(View::default(), 10);
        assert_eq!(gate.masterless_since_ns(), Some(9));
        let fresh = |at| View { fresh_as_of_ns: Some(at), ..View::default() };
        assert_eq!(gate.current_ns(), 7);
        gate.set_view(fresh(20), 12);
        gate.set_view(fresh(11), 13);
        assert_eq!(gate.current_ns(), 12);
    }

    #[tokio::test]
    async fn waiting_for_a_position_wakes_when_it_is_there() {
        let gate = Arc::new(gate());
        let mut stored = gate.stored();
        let waiter =
            tokio::spawn(async move { *stored.wait_for(|p| *p >= Position::new(1, 7)).await.unwrap() });
        gate.set_stored(Position::new(1, 6));
        gate.set_stored(Position::new(1, 8));
        assert_eq!(waiter.await.unwrap(), Position::new(1, 8));
        gate.set_acknowledged(Position::new(2, 9));
        gate.hear_acknowledged(Position::new(1, 12));
        assert_eq!(*gate.acknowledged().borrow(), Position::new(2, 9), "an old reign's is no news");
    }
}
