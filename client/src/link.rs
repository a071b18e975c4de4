//! On which machine the client is: a value to look at or to wait for, and a line in the log at each change.
//!
//! Owns what is shown, not what is done: `hosts.rs` decides whom to ask. Costs a lock and a comparison per call.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use crate::hosts::{Host, Need};

/// Whether a machine serves the calls of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkStatus {
    /// No call has been made yet.
    Idle,
    /// The last call was served by [`Link::host`].
    Connected,
    /// That machine doesn't answer or doesn't reign any more, and none has been found instead so far.
    Reconnecting,
}

/// On which machine the client is, for the calls of one kind.
///
/// For [`Need::Master`] it is the master; for [`Need::Any`] the machine that local reads and watches go to.
#[derive(Debug, Clone)]
pub struct Link {
    need: Need,
    status: LinkStatus,
    host: Option<Host>,
    member: Option<String>,
    reason: Option<String>,
    since: SystemTime,
    made: Instant,
}

impl Link {
    fn idle(need: Need) -> Link {
        Link::new(need, LinkStatus::Idle, None, None, None)
    }

    fn new(
        need: Need,
        status: LinkStatus,
        host: Option<Host>,
        member: Option<String>,
        reason: Option<String>,
    ) -> Link {
        Link { need, status, host, member, reason, since: SystemTime::now(), made: Instant::now() }
    }

    /// For which calls.
    #[must_use]
    pub fn need(&self) -> Need {
        self.need
    }

    /// Whether the machine serves.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        self.status
    }

    /// The machine's base URL: the one that serves, or served last.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The machine's name in the cluster, once that has been learned.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }

    /// Why it is reconnecting.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Since when it is so, by this computer's wall clock.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// For how long it has been so; doesn't jump with the wall clock.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        self.made.elapsed()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.member.as_ref().or(self.host.as_ref())) {
            (LinkStatus::Connected, Some(machine)) => write!(f, "on {machine}"),
            (LinkStatus::Reconnecting, last) => {
                write!(f, "reconnecting for {:.1} s", self.lasts().as_secs_f64())?;
                if let Some(last) = last {
                    write!(f, ", last on {last}")?;
                }
                write!(f, ": {}", self.reason.as_deref().unwrap_or("no reason known"))
            }
            _ => f.write_str("not connected yet"),
        }
    }
}

/// Follows a [`Link`]: see [`Client::observe`](crate::Client::observe). Only the newest value is kept, so that a slow observer costs
/// nothing and misses only what is past.
#[derive(Debug, Clone)]
pub struct Observer(watch::Receiver<Link>);

impl Observer {
    /// How it is now.
    #[must_use]
    pub fn now(&self) -> Link {
        self.0.borrow().clone()
    }

    /// Waits until it is other than when this was called last (at first: than when the observer was made); `None` when the
    /// client is gone. May be dropped and called again.
    pub async fn changed(&mut self) -> Option<Link> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

/// The links of a client.
#[derive(Debug)]
pub(crate) struct Links {
    master: watch::Sender<Link>,
    any: watch::Sender<Link>,
    /// The machines' names, by URL.
    members: Mutex<BTreeMap<Host, String>>,
}

impl Default for Links {
    fn default() -> Links {
        let link = |need| watch::Sender::new(Link::idle(need));
        Links { master: link(Need::Master), any: link(Need::Any), members: Mutex::default() }
    }
}

impl Links {
    fn of(&self, need: Need) -> &watch::Sender<Link> {
        match need {
            Need::Master => &self.master,
            Need::Any => &self.any,
        }
    }

    pub(crate) fn now(&self, need: Need) -> Link {
        self.of(need).borrow().clone()
    }

    pub(crate) fn observe(&self, need: Need) -> Observer {
        Observer(self.of(need).subscribe())
    }

    /// A call of this kind was served.
    pub(crate) fn on_served(&self, need: Need, host: &Host) {
        let same = |link: &Link| link.status == LinkStatus::Connected && link.host.as_ref() == Some(host);
        if same(&self.of(need).borrow()) {
            return;
        }
        let member = self.member_of(host);
        self.of(need).send_if_modified(|link| {
            if same(link) {
                return false;
            }
            let name = member.as_deref().unwrap_or(host);
            match (need, link.status) {
                (Need::Any, _) => tracing::debug!(host, "reads go to {name}"),
                (Need::Master, LinkStatus::Reconnecting) => {
                    tracing::info!(host, after = ?link.lasts(), "the master is {name}");
                }
                (Need::Master, _) => tracing::info!(host, "the master is {name}"),
            }
            *link = Link::new(need, LinkStatus::Connected, Some(host.clone()), member.clone(), None);
            true
        });
    }

    /// A call of this kind was not served there, and this is the believed master now. A machine that is busy is there:
    /// that isn't told.
    pub(crate) fn on_trouble(&self, need: Need, host: &Host, reason: &str, master: Option<&Host>) {
        self.of(need).send_if_modified(|link| {
            // Neither that the nearest machine still doesn't answer nor late news of the old master is any while another serves.
            let elsewhere =
                link.host.as_ref() != Some(host) && (need == Need::Any || link.host.as_ref() == master);
            match link.status {
                LinkStatus::Reconnecting => return false,
                LinkStatus::Connected if elsewhere => return false,
                LinkStatus::Idle | LinkStatus::Connected => {}
            }
            let reason = format!("{host}: {reason}");
            match need {
                Need::Master => tracing::warn!(reason, "looking for the master"),
                Need::Any => tracing::debug!(reason, "looking for another machine to read from"),
            }
            let (old, member) = (link.host.take(), link.member.take());
            *link = Link::new(need, LinkStatus::Reconnecting, old, member, Some(reason));
            true
        });
    }

    /// The machines' names have been learned.
    pub(crate) fn on_members(&self, members: BTreeMap<Host, String>) {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
        for need in [Need::Master, Need::Any] {
            let host = self.of(need).borrow().host.clone();
            let Some(host) = host else { continue };
            let member = self.member_of(&host);
            self.of(need).send_if_modified(|link| {
                let other = link.host.as_ref() == Some(&host) && link.member != member;
                if other {
                    link.member = member.clone();
                }
                other
            });
        }
    }

    fn member_of(&self, host: &Host) -> Option<String> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(observer: &mut Observer) -> Option<String> {
        observer.0.has_changed().unwrap().then(|| {
            let link = observer.0.borrow_and_update();
            format!("{:?} {} {:?}", link.status, link.host().unwrap_or("-"), link.member())
        })
    }

    #[test]
    fn story_of_a_failover_is_told_once_each() {
        let (links, a, b) = (Links::default(), "http://a:1".to_owned(), "http://b:1".to_owned());
        let mut observer = links.observe(Need::Master);
        assert_eq!(links.now(Need::Master).to_string(), "not connected yet");
        links.on_served(Need::Master, &a);
        assert_eq!(told(&mut observer).unwrap(), "Connected http://a:1 None");
        links.on_served(Need::Master, &a);
        assert_eq!(told(&mut observer), None);
        links.on_members(BTreeMap::from([(a.clone(), "pc-1".to_owned()), (b.clone(), "pc-2".to_owned())]));
        assert_eq!(told(&mut observer).unwrap(), "Connected http://a:1 Some(\"pc-1\")");
        links.on_trouble(Need::Master, &a, "refused", None);
        links.on_trouble(Need::Master, &b, "no master", None);
        assert_eq!(told(&mut observer).unwrap(), "Reconnecting http://a:1 Some(\"pc-1\")");
        assert_eq!(links.now(Need::Master).reason(), Some("http://a:1: refused"), "the first reason stays");
        links.on_served(Need::Master, &b);
        assert_eq!(told(&mut observer).unwrap(), "Connected http://b:1 Some(\"pc-2\")");
        assert_eq!(links.now(Need::Master).to_string(), "on pc-2");
        assert_eq!(links.now(Need::Any).status(), LinkStatus::Idle, "reads are another matter");
        links.on_trouble(Need::Master, &a, "broken", Some(&b));
        assert_eq!(told(&mut observer), None, "late news of the old master");
        links.on_trouble(Need::Master, &a, "refused", None);
        assert_eq!(
            told(&mut observer).unwrap(),
            "Reconnecting http://b:1 Some(\"pc-2\")",
            "b redirected to a"
        );
    }

    #[test]
    fn nearest_machine_that_stays_away_is_no_news_to_a_reader() {
        let (links, a, b) = (Links::default(), "http://a:1".to_owned(), "http://b:1".to_owned());
        links.on_trouble(Need::Any, &a, "refused", None);
        links.on_served(Need::Any, &b);
        let mut observer = links.observe(Need::Any);
        links.on_trouble(Need::Any, &a, "refused", Some(&a));
        links.on_served(Need::Any, &b);
        assert_eq!(told(&mut observer), None);
        links.on_trouble(Need::Any, &b, "the stream ended", Some(&b));
        assert_eq!(told(&mut observer).unwrap(), "Reconnecting http://b:1 None");
    }
}
