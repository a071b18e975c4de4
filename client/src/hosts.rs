//! Which machine to ask next: a pure policy, without I/O or clock of its own.
//!
//! Owns the host list as given, what was learned since, the believed master, and a pause for hosts that failed. Never
//! forgets the given hosts. Read `client.rs` for how it is used.

use std::time::{Duration, Instant};

use crate::Error;

/// A machine's base URL, such as `http://10.0.0.1:8080`.
pub type Host = String;

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Learned hosts kept beside the given ones.
const LEARNED_MAX: usize = 64;

#[derive(Debug, Clone)]
struct Entry {
    url: Host,
    given: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// The host list and what is known of each.
#[derive(Debug, Clone)]
pub struct Hosts {
    entries: Vec<Entry>,
    master: Option<Host>,
    next: usize,
}

/// Reads `a:8080, http://b:8080/` into base URLs.
///
/// # Errors
/// When the list is empty or an entry is neither `host:port` nor an `http://` URL.
pub fn parse(list: &str) -> Result<Vec<Host>, Error> {
    let hosts: Vec<Host> = list
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .map(|host| {
            let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
            let url = url.trim_end_matches('/').to_owned();
            let authority = url.strip_prefix("http://").unwrap_or_default();
            let port = authority.rsplit_once(':').map(|(name, port)| (!name.is_empty(), port.parse::<u16>()));
            if matches!(port, Some((true, Ok(_)))) && !authority.contains('/') {
                Ok(url)
            } else {
                Err(Error::Hosts(format!("found {host:?}, expected \"host:port\" or \"http://host:port\"")))
            }
        })
        .collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        return Err(Error::Hosts("found none, expected at least one \"host:port\"".to_owned()));
    }
    Ok(hosts)
}

impl Hosts {
    /// The given hosts, in order; none is the master yet.
    #[must_use]
    pub fn new(given: Vec<Host>) -> Hosts {
        let mut hosts = Hosts { entries: vec![], master: None, next: 0 };
        for url in given {
            if !hosts.entries.iter().any(|entry| entry.url == url) {
                hosts.entries.push(Entry { url, given: true, failures: 0, not_before: None });
            }
        }
        hosts
    }

    /// The host to ask now, or how long to wait until one is due again.
    ///
    /// The believed master first; the others in turn.
    ///
    /// # Errors
    /// The wait, when every host has just failed.
    pub fn pick(&mut self, now: Instant) -> Result<Host, Duration> {
        let due = |entry: &Entry| entry.not_before.is_none_or(|at| at <= now);
        if let Some(master) = &self.master
            && let Some(entry) = self.entries.iter().find(|entry| entry.url == *master)
            && due(entry)
        {
            return Ok(entry.url.clone());
        }
        for offset in 0..self.entries.len() {
            let index = (self.next + offset) % self.entries.len();
            if due(&self.entries[index]) {
                self.next = index + 1;
                return Ok(self.entries[index].url.clone());
            }
        }
        let soonest = self.entries.iter().filter_map(|entry| entry.not_before).min().unwrap_or(now);
        Err(soonest.saturating_duration_since(now))
    }

    /// The host answered.
    pub fn on_answer(&mut self, host: &str) {
        if let Some(entry) = self.entry(host) {
            entry.failures = 0;
            entry.not_before = None;
        }
    }

    /// The host could not be reached, or can't serve now: it pauses, longer each time; it isn't the master.
    pub fn on_failure(&mut self, host: &str, now: Instant) {
        if self.master.as_deref() == Some(host) {
            self.master = None;
        }
        if let Some(entry) = self.entry(host) {
            let pause = PAUSE_MIN.saturating_mul(1 << entry.failures.min(10)).min(PAUSE_MAX);
            entry.failures += 1;
            entry.not_before = Some(now + pause);
        }
    }

    /// Somebody names the master. It is asked at once, whatever happened before.
    pub fn on_master(&mut self, host: &str) {
        self.learn(host);
        if let Some(entry) = self.entry(host) {
            entry.not_before = None;
        }
        self.master = Some(host.to_owned());
    }

    /// A machine told its list of members: learned hosts that are no longer members are forgotten.
    pub fn on_members(&mut self, urls: &[Host]) {
        self.entries.retain(|entry| entry.given || urls.contains(&entry.url));
        for url in urls {
            self.learn(url);
        }
    }

    fn learn(&mut self, url: &str) {
        if self.entry(url).is_none() && self.entries.len() < LEARNED_MAX {
            self.entries.push(Entry { url: url.to_owned(), given: false, failures: 0, not_before: None });
        }
    }

    fn entry(&mut self, host: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.url == host)
    }

    /// All hosts known now.
    #[must_use]
    pub fn all(&self) -> Vec<Host> {
        self.entries.iter().map(|entry| entry.url.clone()).collect()
    }

    /// The believed master.
    #[must_use]
    pub fn master(&self) -> Option<&Host> {
        self.master.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(parse("a:1,b:2, http://c:3/ ").unwrap())
    }

    #[test]
    fn list_is_read_and_nonsense_is_named() {
        assert_eq!(parse("a:1,http://b:2/").unwrap(), ["http://a:1", "http://b:2"]);
        for bad in ["", " , ", "a", "a:x", ":1", "ftp://a:1", "http://a:1/path"] {
            assert!(matches!(parse(bad), Err(Error::Hosts(_))), "{bad}");
        }
    }

    #[test]
    fn master_is_asked_first_and_others_in_turn_after_it_fails() {
        let (mut hosts, now) = (hosts(), Instant::now());
        assert_eq!(hosts.pick(now), Ok("http://a:1".to_owned()));
        hosts.on_master("http://c:3");
        assert_eq!(hosts.pick(now), Ok("http://c:3".to_owned()));
        assert_eq!(hosts.pick(now), Ok("http://c:3".to_owned()));
        hosts.on_failure("http://c:3", now);
        assert_eq!(hosts.pick(now), Ok("http://b:2".to_owned()));
        hosts.on_failure("http://b:2", now);
        assert_eq!(hosts.pick(now), Ok("http://a:1".to_owned()));
        hosts.on_failure("http://a:1", now);
        let wait = hosts.pick(now).unwrap_err();
        assert!(wait <= PAUSE_MIN && !wait.is_zero());
        assert!(hosts.pick(now + wait).is_ok());
    }

    #[test]
    fn pauses_grow_to_a_limit_and_end_with_an_answer_or_a_named_master() {
        let (mut hosts, now) = (Hosts::new(parse("a:1").unwrap()), Instant::now());
        for _ in 0..40 {
            hosts.on_failure("http://a:1", now);
        }
        assert_eq!(hosts.pick(now), Err(PAUSE_MAX));
        hosts.on_master("http://a:1");
        assert!(hosts.pick(now).is_ok());
        hosts.on_answer("http://a:1");
        hosts.on_failure("http://a:1", now);
        assert_eq!(hosts.pick(now), Err(PAUSE_MIN));
    }

    #[test]
    fn learned_hosts_come_and_go_but_given_ones_stay() {
        let mut hosts = hosts();
        hosts.on_members(&["http://d:4".to_owned(), "http://a:1".to_owned()]);
        assert_eq!(hosts.all(), ["http://a:1", "http://b:2", "http://c:3", "http://d:4"]);
        hosts.on_members(&["http://e:5".to_owned()]);
        assert_eq!(hosts.all(), ["http://a:1", "http://b:2", "http://c:3", "http://e:5"]);
    }
}
