//! What a machine says of itself, checked on both ways.

use mdns_sd::{ResolvedService, ServiceInfo};

use crate::{Error, SERVICE};

/// URLs that a machine may say.
const URLS_MAX: usize = 8;
/// Bytes of a URL: one string of a TXT record with its key.
const URL_MAX: usize = 200;
/// Bytes of a name, as in the rest of Tanist.
const NAME_MAX: usize = 63;
/// The version of what is said.
const VERSION: &str = "1";

/// A machine, as it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    cluster: String,
    member: String,
    urls: Vec<String>,
}

/// What can't be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("announcement: {field}: found {found:?}, expected {expected}")]
pub struct Wrong {
    /// Which part.
    pub field: &'static str,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl Announcement {
    /// What this machine says.
    ///
    /// # Errors
    /// When a name or URL can't be used.
    pub fn new(cluster: &str, member: &str, urls: &[impl AsRef<str>]) -> Result<Announcement, Wrong> {
        let wrong = |field, found: &str, expected: String| Wrong {
            field,
            found: found.chars().take(80).collect(),
            expected,
        };
        for (field, name) in [("cluster", cluster), ("member", member)] {
            if !is_name(name) {
                let expected = format!("1 to {NAME_MAX} letters, digits, '-', '_' and '.'");
                return Err(wrong(field, name, expected));
            }
        }
        let urls: Vec<String> = urls.iter().map(|url| url.as_ref().to_owned()).collect();
        if let Some(url) = urls.iter().find(|url| !is_url(url)) {
            return Err(wrong(
                "url",
                url,
                format!("http:// or https:// and host:port, {URL_MAX} bytes at most"),
            ));
        }
        if urls.is_empty() || urls.len() > URLS_MAX {
            return Err(wrong("url", &format!("{} URLs", urls.len()), format!("1 to {URLS_MAX}")));
        }
        Ok(Announcement { cluster: cluster.to_owned(), member: member.to_owned(), urls })
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The machine's name in it.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.member
    }

    /// Where clients reach it, such as `http://192.168.1.20:8080`.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// As it is registered: names for people, and all that counts in the TXT record.
    pub(crate) fn service(&self) -> Result<ServiceInfo, Error> {
        let mut said = vec![
            ("v".to_owned(), VERSION.to_owned()),
            ("cluster".to_owned(), self.cluster.clone()),
            ("member".to_owned(), self.member.clone()),
        ];
        said.extend(self.urls.iter().enumerate().map(|(i, url)| (format!("url{i}"), url.clone())));
        let port = self.urls.first().and_then(|url| url.rsplit_once(':')?.1.parse().ok()).unwrap_or_default();
        let names = format!("{} {}", self.cluster, self.member);
        let label = |text: &str| text.chars().take(NAME_MAX).collect::<String>();
        let host: String = names.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let host = format!("{}.local.", label(&format!("tanist-{host}")));
        Ok(ServiceInfo::new(SERVICE, &label(&names), &host, "", port, &said[..])?.enable_addr_auto())
    }

    /// What was heard; `None` when it is nothing that can be used.
    pub(crate) fn of(service: &ResolvedService) -> Option<Announcement> {
        let said = |key: &str| service.get_property_val_str(key);
        if said("v") != Some(VERSION) {
            return None;
        }
        let urls: Vec<&str> = (0..URLS_MAX).map_while(|i| said(&format!("url{i}"))).collect();
        Announcement::new(said("cluster")?, said("member")?, &urls).ok()
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

fn is_url(url: &str) -> bool {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or_default();
    let port = authority.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let plain = authority.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\".contains(&byte));
    url.len() <= URL_MAX && plain && port.is_some_and(|(_, port)| matches!(port.parse::<u16>(), Ok(1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(said: &[(&str, &str)]) -> Option<Announcement> {
        let info = ServiceInfo::new(SERVICE, "x", "x.local.", "10.0.0.1", 1, said).unwrap();
        Announcement::of(&info.as_resolved_service())
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let long = "x".repeat(63);
        for (cluster, member, urls) in [
            ("office", "anna", vec!["http://10.0.0.1:8080"]),
            ("c.1_x-y", &*long, vec!["https://anna.local:1", "http://[fe80::1]:65535"]),
            (&*long, "a", vec!["http://a:1"; 8]),
        ] {
            let announcement = Announcement::new(cluster, member, &urls).unwrap();
            let service = announcement.service().unwrap();
            assert_eq!(Announcement::of(&service.as_resolved_service()), Some(announcement));
        }
    }

    #[test]
    fn what_cannot_be_said_is_named() {
        let good = ["http://a:1"];
        for (cluster, member, urls, field) in [
            ("", "a", &good[..], "cluster"),
            ("c", "a b", &good, "member"),
            ("c", "a", &[], "url"),
            ("c", "a", &["http://a:1"; 9], "url"),
            ("c", "a", &["http://a"], "url"),
            ("c", "a", &["ftp://a:1"], "url"),
            ("c", "a", &["http://a:0"], "url"),
            ("c", "a", &["http://u@a:1"], "url"),
        ] {
            let wrong = Announcement::new(cluster, member, urls).unwrap_err();
            assert_eq!(wrong.field, field, "{wrong}");
        }
    }

    #[test]
    fn what_anybody_says_is_checked_before_it_is_believed() {
        let good = [("v", "1"), ("cluster", "c"), ("member", "m"), ("url0", "http://a:1")];
        assert!(heard(&good).is_some());
        for (i, bad) in [
            (0, ("v", "2")),
            (0, ("w", "1")),
            (1, ("cluster", "a\u{1b}[31m")),
            (2, ("member", "")),
            (2, ("other", "m")),
            (3, ("url0", "javascript:alert(1)")),
            (3, ("url1", "http://a:1")),
        ] {
            let mut said = good;
            said[i] = bad;
            assert_eq!(heard(&said), None, "{bad:?}");
        }
    }
}
