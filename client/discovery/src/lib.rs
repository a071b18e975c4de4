//! Machines that find each other on the local network: one says "here I am", others hear it (mDNS, DNS-SD, RFC 6762 and 6763).
//!
//! What is heard is a hint and nothing more. Anybody on the network can say anything: peers know each other by the cluster
//! key, clients know machines by TLS, and neither is replaced by this. Nothing secret is said.
//!
//! ```no_run
//! use std::time::Duration;
//! use tanist_discovery::{Announcement, Announcer, browse};
//! let here = Announcement::new("office", "anna", &["http://192.168.1.20:8080"])?;
//! let announcer = Announcer::start(&here, &[])?;
//! for found in browse(Duration::from_secs(2), &[])? {
//!     println!("{} of {} at {}", found.member(), found.cluster(), found.urls().join(" "));
//! }
//! announcer.stop(); // says goodbye
//! # Ok::<(), tanist_discovery::Error>(())
//! ```

mod announcement;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use mdns_sd::{DaemonEvent, DaemonStatus, IfKind, Receiver, ServiceDaemon, ServiceEvent};

pub use announcement::{Announcement, Wrong};

/// The service as registered names go.
const SERVICE: &str = "_tanist._tcp.local.";
/// Machines kept by a browser; others are not told of. A cluster has at most some tens.
pub const FOUND_MAX: usize = 256;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Once one machine has answered, the others of its cluster have as long.
const OTHERS: Duration = Duration::from_millis(400);

/// Why nothing can be said or heard.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What shall be said can't be.
    #[error(transparent)]
    Announcement(#[from] Wrong),
    /// The network or the system.
    #[error("multicast DNS: {0}")]
    System(#[from] mdns_sd::Error),
}

/// A daemon on the network cards that have these addresses; on all when none is given.
fn daemon(addresses: &[IpAddr]) -> Result<ServiceDaemon, Error> {
    let daemon = ServiceDaemon::new()?;
    if !addresses.is_empty() {
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(addresses.iter().copied().map(IfKind::Addr).collect::<Vec<_>>())?;
    }
    Ok(daemon)
}

/// What the system has said against it since the last call, if anything.
fn trouble(monitor: &Receiver<DaemonEvent>) -> Option<String> {
    monitor.try_iter().fold(None, |last, event| match event {
        DaemonEvent::Error(error) => Some(error.to_string()),
        _ => last,
    })
}

/// Says "here I am" until it is stopped or dropped. Owns one thread.
pub struct Announcer {
    daemon: ServiceDaemon,
    monitor: Receiver<DaemonEvent>,
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Announcer")
    }
}

impl Announcer {
    /// Begins to say it, on the network cards with these addresses; on all when none is given.
    ///
    /// # Errors
    /// When the thread can't be started. A network that lets nobody multicast is told by [`Announcer::trouble`].
    pub fn start(announcement: &Announcement, addresses: &[IpAddr]) -> Result<Announcer, Error> {
        let service = announcement.service()?;
        let daemon = daemon(addresses)?;
        let monitor = daemon.monitor()?;
        daemon.register(service)?;
        Ok(Announcer { daemon, monitor })
    }

    /// What the network or the system has said against it since the last call, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        trouble(&self.monitor)
    }

    /// Says goodbye, which takes some milliseconds and at most a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        shut_down(&self.daemon);
    }
}

fn shut_down(daemon: &ServiceDaemon) {
    // A queue that is full for a moment is the only reason for a second try.
    let until = Instant::now() + GOODBYE;
    while Instant::now() < until {
        match daemon.shutdown() {
            Ok(done) => {
                let _: Result<DaemonStatus, _> = done.recv_timeout(GOODBYE);
                return;
            }
            Err(mdns_sd::Error::Again) => std::thread::yield_now(),
            Err(_) => return,
        }
    }
}

/// What a [`Browser`] hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A machine is there, or says something else than before.
    Here(Announcement),
    /// A machine has said goodbye, or wasn't heard of for long (about two minutes after a crash: ask it instead of
    /// waiting for this).
    Gone(Announcement),
}

/// Hears who says "here I am", until it is dropped. Owns one thread.
pub struct Browser {
    daemon: ServiceDaemon,
    monitor: Receiver<DaemonEvent>,
    /// None while it is dropped.
    events: Option<Receiver<ServiceEvent>>,
    found: BTreeMap<String, Announcement>,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browser").field("found", &self.found).finish_non_exhaustive()
    }
}

impl Browser {
    /// Asks who is there, and goes on listening, on the network cards with these addresses; on all when none is given.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(addresses: &[IpAddr]) -> Result<Browser, Error> {
        let daemon = daemon(addresses)?;
        let monitor = daemon.monitor()?;
        let events = Some(daemon.browse(SERVICE)?);
        Ok(Browser { daemon, monitor, events, found: BTreeMap::new() })
    }

    /// What is heard next, within this time. Should be called again soon: while nobody does, little more is heard.
    pub fn next(&mut self, within: Duration) -> Option<Heard> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.as_ref()?.recv_timeout(left).ok()?;
            let heard = match event {
                ServiceEvent::ServiceResolved(service) => {
                    let Some(here) = Announcement::of(&service) else { continue };
                    let name = service.get_fullname().to_owned();
                    if self.found.len() >= FOUND_MAX && !self.found.contains_key(&name) {
                        continue;
                    }
                    if self.found.insert(name, here.clone()).as_ref() == Some(&here) {
                        continue;
                    }
                    Heard::Here(here)
                }
                ServiceEvent::ServiceRemoved(_, name) => match self.found.remove(&name) {
                    Some(gone) => Heard::Gone(gone),
                    None => continue,
                },
                _ => continue,
            };
            return Some(heard);
        }
    }

    /// All that are there now, as far as they were heard.
    #[must_use]
    pub fn found(&self) -> Vec<Announcement> {
        let mut found: Vec<_> = self.found.values().cloned().collect();
        found.sort();
        found.dedup();
        found
    }

    /// What the network or the system has said against it since the last call, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        trouble(&self.monitor)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The thread may wait until somebody takes what it has heard.
        self.events = None;
        shut_down(&self.daemon);
    }
}

/// Who is there. Waits the whole time, for one who is slow to answer may be the one that is wanted.
///
/// # Errors
/// As [`Browser::start`].
pub fn browse(within: Duration, addresses: &[IpAddr]) -> Result<Vec<Announcement>, Error> {
    let mut browser = Browser::start(addresses)?;
    let until = Instant::now() + within;
    while browser.next(until.saturating_duration_since(Instant::now())).is_some() {}
    Ok(browser.found())
}

/// The machines of one cluster. Waits until one is heard, at most for so long, and a moment more for the others.
///
/// # Errors
/// As [`Browser::start`].
pub fn find(cluster: &str, within: Duration, addresses: &[IpAddr]) -> Result<Vec<Announcement>, Error> {
    let mut browser = Browser::start(addresses)?;
    let mut until = Instant::now() + within;
    while let Some(heard) = browser.next(until.saturating_duration_since(Instant::now())) {
        if matches!(&heard, Heard::Here(here) if here.cluster() == cluster) {
            until = until.min(Instant::now() + OTHERS);
        }
    }
    Ok(browser.found().into_iter().filter(|found| found.cluster() == cluster).collect())
}
