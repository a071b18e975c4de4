//! Which machine to ask next: a pure policy; time and randomness are arguments.
//!
//! Owns the host list as given, what was learned since, the believed master, and a pause for each host that failed. Never
//! does I/O, and never forgets the given hosts. Read `call.rs` for what reports to it.

use std::time::{Duration, Instant};

use crate::Error;

/// A machine's base URL, such as `http://10.0.0.1:8080`.
pub type Host = String;

/// The shortest pause of a host that failed.
pub const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest one.
pub const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A pause is this part of the time since which the host has been failing: whenever it comes back, it is asked after at
/// most a quarter more (and the jitter). Exponential in effect, yet quick while a failover takes its few 100 ms.
const PAUSE_PART: u32 = 4;
/// A host that wasn't tried for so long after its pause begins with the shortest pause again.
const FORGET: Duration = Duration::from_secs(1);
/// The shortest time in which a host that failed has to take a connection.
const CONNECT_MIN: Duration = Duration::from_millis(50);
/// Learned hosts kept beside the given ones.
const LEARNED_MAX: usize = 64;
/// Redirects that end a pause, one after another; further ones wait like any failure.
const REDIRECTS_AT_ONCE: u32 = 3;

/// Why a host could not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, a broken one, or no answer.
    Unreachable,
    /// It answers that it can't serve this; another machine perhaps can.
    Refusing,
    /// It is the right machine, but can't now: asking another is no use.
    Busy,
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The master: the believed one first, the others in turn.
    Master,
    /// Any machine: the first of the list that hasn't just failed. Users put the nearest first.
    Any,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    why: Trouble,
    failing_since: Instant,
}

#[derive(Debug, Clone)]
struct Entry {
    url: Host,
    given: bool,
    pause: Option<Pause>,
}

impl Entry {
    fn paused(&self, now: Instant) -> Option<Pause> {
        self.pause.filter(|pause| pause.until > now)
    }

    /// The pause, also when it is over but not long ago: it has failed and not been tried since.
    fn failed_lately(&self, now: Instant) -> Option<Pause> {
        self.pause.filter(|pause| now < pause.until + FORGET)
    }
}

/// The host list and what is known of each.
#[derive(Debug, Clone)]
pub struct Hosts {
    entries: Vec<Entry>,
    master: Option<Host>,
    next: usize,
    redirects: u32,
    random: u64,
}

/// Reads `a:8080, http://b:8080/` into base URLs.
///
/// # Errors
/// When the list is empty or an entry is neither `host:port` nor an `http://` or `https://` URL.
///
/// # Example
/// ```
/// let hosts = tanist_client::hosts::parse("pc-1:8080, http://pc-2:8080/")?;
/// assert_eq!(hosts, ["http://pc-1:8080", "http://pc-2:8080"]);
/// # Ok::<(), tanist_client::Error>(())
/// ```
pub fn parse(list: &str) -> Result<Vec<Host>, Error> {
    let hosts: Vec<Host> = list
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .map(|host| {
            let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
            let url = url.trim_end_matches('/').to_owned();
            let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            let authority = authority.unwrap_or_default();
            // An IPv6 address stands in brackets.
            let named = |name: &str| !name.is_empty() && (name.ends_with(']') || !name.contains(':'));
            let port = authority.rsplit_once(':').map(|(name, port)| (named(name), port.parse::<u16>()));
            let plain = authority.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\".contains(&byte));
            if matches!(port, Some((true, Ok(1..)))) && plain {
                Ok(url)
            } else {
                Err(Error::Hosts(format!(
                    "found {host:?}, expected \"host:port\", \"http://host:port\" or \"https://host:port\""
                )))
            }
        })
        .collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        return Err(Error::Hosts("found none, expected at least one \"host:port\"".to_owned()));
    }
    Ok(hosts)
}

impl Hosts {
    /// The given hosts, in order; none is the master yet. The seed drives the jitter.
    #[must_use]
    pub fn new(given: Vec<Host>, seed: u64) -> Hosts {
        let mut hosts = Hosts { entries: vec![], master: None, next: 0, redirects: 0, random: seed | 1 };
        for url in given {
            if !hosts.entries.iter().any(|entry| entry.url == url) {
                hosts.entries.push(Entry { url, given: true, pause: None });
            }
        }
        hosts
    }

    /// The host to ask now.
    ///
    /// # Errors
    /// How long to wait, when every host has just failed or the master is busy.
    pub fn pick(&mut self, need: Need, now: Instant) -> Result<Host, Duration> {
        if need == Need::Any {
            let due = self.entries.iter().find(|entry| entry.paused(now).is_none());
            return due.map(|entry| entry.url.clone()).ok_or_else(|| self.wait(now));
        }
        if let Some(master) = &self.master
            && let Some(entry) = self.entries.iter().find(|entry| entry.url == *master)
        {
            match entry.paused(now) {
                None => return Ok(entry.url.clone()),
                Some(pause) if pause.why == Trouble::Busy => return Err(pause.until - now),
                Some(_) => {}
            }
        }
        let count = self.entries.len();
        for index in (self.next..self.next + count).map(|index| index % count) {
            if self.entries[index].paused(now).is_none() {
                self.next = index + 1;
                return Ok(self.entries[index].url.clone());
            }
        }
        self.redirects = 0;
        Err(self.wait(now))
    }

    /// Time until the first pause ends.
    fn wait(&self, now: Instant) -> Duration {
        let soonest =
            self.entries.iter().filter_map(|entry| entry.paused(now)).map(|pause| pause.until).min();
        soonest.map_or(Duration::ZERO, |until| until - now)
    }

    /// How long a connection to the host is waited for, `longest` at most: a quarter of that as long as there are others to ask, and
    /// once it failed about as long as it has been failing. A firewall may let nobody see that a process has ended, and a
    /// machine that is asked meanwhile may still take it for the master.
    #[must_use]
    pub fn connect_patience(&self, host: &str, longest: Duration, now: Instant) -> Duration {
        if self.entries.len() < 2 {
            return longest;
        }
        let entry = self.entries.iter().find(|entry| entry.url == host);
        match entry.and_then(|entry| entry.failed_lately(now)) {
            Some(pause) if pause.why == Trouble::Unreachable => {
                now.saturating_duration_since(pause.failing_since).max(CONNECT_MIN).min(longest)
            }
            _ => longest / 4,
        }
    }

    /// The host served a request that needed this.
    pub fn on_served(&mut self, host: &str, need: Need) {
        if let Some(entry) = self.entry(host) {
            entry.pause = None;
        }
        if need == Need::Master {
            self.redirects = 0;
            self.master = Some(host.to_owned());
        }
    }

    /// The host could not serve: it pauses, longer the longer this has been so, yet no longer than it asks for itself.
    pub fn on_trouble(&mut self, host: &str, why: Trouble, retry_after: Option<Duration>, now: Instant) {
        if why != Trouble::Busy && self.master.as_deref() == Some(host) {
            self.master = None;
        }
        let percent = self.jitter();
        let Some(entry) = self.entry(host) else { return };
        let failing_since = entry.failed_lately(now).map_or(now, |pause| pause.failing_since);
        let part = (now.saturating_duration_since(failing_since) / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX);
        let pause =
            (part * percent / 100).min(PAUSE_MAX).min(retry_after.unwrap_or(PAUSE_MAX)).max(PAUSE_MIN / 2);
        entry.pause = Some(Pause { until: now + pause, why, failing_since });
    }

    /// `from` says that `to` is the master. It is asked at once if it was alive when last seen; `from` pauses, for it may
    /// lag behind a failover and would send everybody to and fro.
    pub fn on_redirect(&mut self, from: &str, to: &str, now: Instant) {
        self.on_trouble(from, Trouble::Refusing, None, now);
        self.redirects += 1;
        let at_once = self.redirects <= REDIRECTS_AT_ONCE;
        self.learn(to);
        if let Some(entry) = self.entry(to)
            && at_once
            && entry.pause.is_some_and(|pause| pause.why != Trouble::Unreachable)
        {
            entry.pause = None;
        }
        self.master = Some(to.to_owned());
    }

    /// A machine told who is the master.
    pub fn on_master(&mut self, host: &str) {
        self.learn(host);
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
        let learned = self.entries.iter().filter(|entry| !entry.given).count();
        if self.entry(url).is_none() && learned < LEARNED_MAX {
            self.entries.push(Entry { url: url.to_owned(), given: false, pause: None });
        }
    }

    fn entry(&mut self, host: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.url == host)
    }

    /// 75 to 125 per cent, so that many clients don't return in step (xorshift64).
    fn jitter(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        75 + u32::try_from(self.random % 51).unwrap_or(25)
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

    const A: &str = "http://a:1";
    const B: &str = "http://b:2";
    const C: &str = "http://c:3";
    const MS: Duration = Duration::from_millis(1);

    fn hosts() -> (Hosts, Instant) {
        (Hosts::new(parse("a:1,b:2, http://c:3/ ").unwrap(), 7), Instant::now())
    }

    fn down(hosts: &mut Hosts, host: &str, now: Instant) {
        hosts.on_trouble(host, Trouble::Unreachable, None, now);
    }

    #[test]
    fn list_is_read_and_nonsense_is_named() {
        assert_eq!(parse("a:1,http://b:2/").unwrap(), ["http://a:1", "http://b:2"]);
        assert_eq!(parse("[::1]:80,https://b:2").unwrap(), ["http://[::1]:80", "https://b:2"]);
        assert!(parse("::1:80").is_err(), "an IPv6 address without brackets");
        for bad in [
            "",
            " , ",
            "a",
            "a:x",
            "a:0",
            ":1",
            "ftp://a:1",
            "https://a",
            "http://a:1/path",
            "a b:1",
            "x@a:1",
        ] {
            assert!(matches!(parse(bad), Err(Error::Hosts(_))), "{bad}");
        }
    }

    #[test]
    fn master_is_asked_first_and_others_in_turn_after_it_fails() {
        let (mut hosts, now) = hosts();
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), A);
        hosts.on_master(C);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), C);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), C);
        down(&mut hosts, C, now);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), B);
        down(&mut hosts, B, now);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), A);
        down(&mut hosts, A, now);
        let wait = hosts.pick(Need::Master, now).unwrap_err();
        assert!(wait <= PAUSE_MIN * 5 / 4 && !wait.is_zero(), "{wait:?}");
        assert!(hosts.pick(Need::Master, now + wait).is_ok());
    }

    #[test]
    fn host_that_serves_a_master_request_is_the_master_from_then_on() {
        let (mut hosts, now) = hosts();
        hosts.on_served(B, Need::Master);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), B);
        hosts.on_served(C, Need::Any);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), B);
    }

    #[test]
    fn any_machine_means_the_first_of_the_list_that_has_not_just_failed() {
        let (mut hosts, now) = hosts();
        hosts.on_master(C);
        assert_eq!(hosts.pick(Need::Any, now).unwrap(), A);
        assert_eq!(hosts.pick(Need::Any, now).unwrap(), A);
        down(&mut hosts, A, now);
        assert_eq!(hosts.pick(Need::Any, now).unwrap(), B);
        assert_eq!(hosts.pick(Need::Any, now + PAUSE_MAX).unwrap(), A);
    }

    #[test]
    fn connection_is_waited_for_briefly_where_others_can_be_asked_and_longer_the_longer_it_fails() {
        let (mut hosts, now) = hosts();
        let second = Duration::from_secs(1);
        assert_eq!(hosts.connect_patience(A, second, now), 250 * MS);
        down(&mut hosts, A, now);
        assert_eq!(hosts.connect_patience(A, second, now + 10 * MS), 50 * MS);
        down(&mut hosts, A, now + 60 * MS);
        down(&mut hosts, A, now + 400 * MS);
        assert_eq!(hosts.connect_patience(A, second, now + 500 * MS), 500 * MS);
        down(&mut hosts, A, now + 1000 * MS);
        assert_eq!(hosts.connect_patience(A, second, now + 1500 * MS), second);
        assert_eq!(hosts.connect_patience(B, second, now), 250 * MS);
        // Who refuses is there.
        hosts.on_trouble(B, Trouble::Refusing, None, now);
        assert_eq!(hosts.connect_patience(B, second, now + 10 * MS), 250 * MS);
        // Nobody else could be asked.
        let alone = Hosts::new(vec![A.to_owned()], 1);
        assert_eq!(alone.connect_patience(A, second, now), second);
    }

    #[test]
    fn retries_overshoot_an_outage_of_any_length_by_little() {
        for outage in [5, 50, 200, 400, 1000, 2000].map(Duration::from_millis) {
            let (mut hosts, start) = (Hosts::new(vec![A.to_owned()], 3), Instant::now());
            let (mut now, mut attempts) = (start, 0);
            while now < start + outage {
                match hosts.pick(Need::Master, now) {
                    Ok(_) => {
                        attempts += 1;
                        down(&mut hosts, A, now);
                    }
                    Err(wait) => now += wait,
                }
            }
            let late = now - (start + outage);
            assert!(late <= outage / 2 + PAUSE_MIN * 5 / 4, "{outage:?} outage: {late:?} late");
            assert!(attempts <= 40, "{outage:?} outage: {attempts} attempts");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_an_answer() {
        let (mut hosts, mut now) = (Hosts::new(vec![A.to_owned()], 9), Instant::now());
        let mut longest = Duration::ZERO;
        for _ in 0..60 {
            down(&mut hosts, A, now);
            let wait = hosts.pick(Need::Master, now).unwrap_err();
            longest = longest.max(wait);
            now += wait;
        }
        assert_eq!(longest, PAUSE_MAX);
        hosts.on_served(A, Need::Master);
        down(&mut hosts, A, now);
        assert!(hosts.pick(Need::Master, now).unwrap_err() <= PAUSE_MIN * 5 / 4);
    }

    #[test]
    fn retry_after_shortens_a_pause_and_never_lengthens_it() {
        let (mut hosts, now) = (Hosts::new(vec![A.to_owned()], 9), Instant::now());
        hosts.on_trouble(A, Trouble::Refusing, Some(Duration::from_secs(3600)), now);
        assert!(hosts.pick(Need::Master, now).unwrap_err() <= PAUSE_MIN * 5 / 4);
        let later = now + Duration::from_millis(900);
        hosts.on_trouble(A, Trouble::Refusing, Some(Duration::ZERO), later);
        assert!(hosts.pick(Need::Master, later).unwrap_err() <= PAUSE_MIN);
    }

    #[test]
    fn busy_master_is_waited_for_and_not_asked_for_elsewhere() {
        let (mut hosts, now) = hosts();
        hosts.on_served(B, Need::Master);
        hosts.on_trouble(B, Trouble::Busy, None, now);
        let wait = hosts.pick(Need::Master, now).unwrap_err();
        assert_eq!(hosts.pick(Need::Master, now + wait).unwrap(), B);
    }

    #[test]
    fn redirect_goes_at_once_to_a_host_that_was_alive_but_not_to_one_that_was_not() {
        let (mut hosts, now) = hosts();
        hosts.on_trouble(B, Trouble::Refusing, None, now);
        hosts.on_redirect(A, B, now);
        assert_eq!(hosts.pick(Need::Master, now).unwrap(), B);
        down(&mut hosts, B, now);
        hosts.on_redirect(C, B, now);
        assert!(hosts.pick(Need::Master, now).is_err(), "a and c redirected, b is down");
    }

    #[test]
    fn hosts_that_redirect_to_each_other_are_not_asked_without_a_pause() {
        let (mut hosts, now) = (Hosts::new(parse("a:1,b:2").unwrap(), 5), Instant::now());
        let mut attempts = 0;
        while let Ok(host) = hosts.pick(Need::Master, now) {
            attempts += 1;
            assert!(attempts < 10, "to and fro without a pause");
            hosts.on_redirect(&host, if host == A { B } else { A }, now);
        }
        assert!(attempts >= 2);
    }

    #[test]
    fn late_news_of_the_old_master_does_not_depose_the_new_one() {
        let (mut hosts, now) = hosts();
        hosts.on_served(A, Need::Master);
        down(&mut hosts, A, now);
        hosts.on_served(B, Need::Master);
        down(&mut hosts, A, now + MS);
        assert_eq!(hosts.pick(Need::Master, now + MS).unwrap(), B);
    }

    #[test]
    fn learned_hosts_come_and_go_but_given_ones_stay() {
        let (mut hosts, _) = hosts();
        hosts.on_members(&["http://d:4".to_owned(), A.to_owned()]);
        assert_eq!(hosts.all(), [A, B, C, "http://d:4"]);
        hosts.on_members(&["http://e:5".to_owned()]);
        assert_eq!(hosts.all(), [A, B, C, "http://e:5"]);
        let many: Vec<Host> = (0..1000).map(|i| format!("http://x{i}:1")).collect();
        hosts.on_members(&many);
        assert_eq!(hosts.all().len(), 3 + LEARNED_MAX);
    }
}
