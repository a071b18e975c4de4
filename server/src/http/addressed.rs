//! To whom a request is addressed, and from which page it comes: what keeps foreign pages out where there are no tokens.
//!
//! A page of another site can make a browser send requests here, under a name of its own that it points to this machine (DNS
//! rebinding). Such a name isn't one of this machine's. An address in figures can't be pointed elsewhere, so each passes. Where
//! tokens are asked for, a page would need one: nothing is looked at then but that there is one `Host`.

use std::{collections::HashSet, net::IpAddr, net::SocketAddr};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
};
use tanist_api::{HEADER_CLUSTER, code};

use super::{ApiError, AppState, forward::Forwarded};
use crate::{config::Config, view::View};

/// The two ends of the connection that a request has come by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Who asks.
    pub(super) peer: SocketAddr,
    /// Where it was taken.
    pub(super) local: Option<SocketAddr>,
}

/// The names of this machine, as far as the configuration knows them.
#[derive(Debug)]
pub(super) struct Names {
    /// Without a port, in lower case.
    hosts: HashSet<String>,
    /// This machine's own `host:port`, as clients write it.
    own: HashSet<String>,
    /// Whether clients speak `https://`.
    tls: bool,
}

/// `host` and port of a URL or of `host:port`; the port of the scheme where there is none.
fn parts(text: &str) -> Option<(String, u16)> {
    let (rest, default) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (rest, 80),
        (_, Some(rest)) => (rest, 443),
        _ => (text, 0),
    };
    let authority: Authority = rest.trim_end_matches('/').parse().ok()?;
    Some((host(&authority), authority.port_u16().unwrap_or(default)))
}

/// In lower case, an IPv6 address without its brackets, and without the dot of the root.
fn host(authority: &Authority) -> String {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    host.to_ascii_lowercase()
}

fn written(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The name that the operating system gives this machine.
fn system_name() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok();
    name.filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase())
}

impl Names {
    pub(super) fn of(config: &Config) -> Names {
        let mut hosts = HashSet::from(["localhost".to_owned()]);
        if let Some(name) = system_name() {
            hosts.insert(format!("{name}.local"));
            hosts.insert(name);
        }
        let listening = parts(&config.listen.http);
        let port = listening.as_ref().map_or(0, |(_, port)| *port);
        let mut own: HashSet<String> = hosts.iter().map(|host| written(host, port)).collect();
        if let Some((host, port)) = listening {
            own.insert(written(&host, port));
            hosts.insert(host);
        }
        for url in &config.me().urls {
            own.extend(parts(url).map(|(host, port)| written(&host, port)));
        }
        for name in &config.listen.names {
            if let Some((host, given)) = parts(name) {
                own.insert(written(&host, if given == 0 { port } else { given }));
                hosts.insert(host);
            }
        }
        let addresses =
            config.members.iter().flat_map(|member| member.urls.iter().chain(&member.peer_addresses));
        hosts.extend(addresses.filter_map(|address| parts(address)).map(|(host, _)| host));
        Names { hosts, own, tls: config.tls.is_some() }
    }

    /// Whether a machine of this cluster is called so.
    fn is_known(&self, host: &str, view: &View) -> bool {
        let in_figures = host.parse::<IpAddr>().is_ok();
        let of_members = || {
            let urls = view.cluster.members.iter().flat_map(|member| &member.urls);
            urls.filter_map(|url| parts(url)).any(|(name, _)| name == host)
        };
        in_figures || self.hosts.contains(host) || of_members()
    }

    /// The `host:port` that a request is addressed to, if that is this very machine: for proofs, which are good for one.
    pub(super) fn own(&self, headers: &HeaderMap, ends: Option<&Ends>, view: &View) -> Option<String> {
        let authority: Authority = headers.get(header::HOST)?.to_str().ok()?.parse().ok()?;
        let port = authority.port_u16().unwrap_or(if self.tls { 443 } else { 80 });
        let asked = written(&host(&authority), port);
        let taken_at = ends.and_then(|ends| ends.local).map(|local| {
            let ip = local.ip().to_canonical();
            (written(&ip.to_string(), local.port()), ip.is_loopback(), local.port())
        });
        let by_address = taken_at.is_some_and(|(address, loopback, port)| {
            address == asked || loopback && asked == written("localhost", port)
        });
        let mine = || {
            let me = view.cluster.members.iter().find(|member| member.id == view.cluster.member);
            me.is_some_and(|me| {
                me.urls.iter().filter_map(|url| parts(url)).any(|(host, port)| written(&host, port) == asked)
            })
        };
        (by_address || self.own.contains(&asked) || mine()).then_some(asked)
    }
}

/// Refuses a request with several `Host` fields, for another cluster, or, without tokens, under a foreign name or from a foreign page.
pub(super) fn check(state: &AppState, request: &Request, open: bool) -> Result<(), ApiError> {
    let (headers, uri) = (request.headers(), request.uri());
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(ApiError::bad_request("host: found it more than once, expected one"));
    }
    other_cluster(state, headers)?;
    // The machine that forwards has looked at it.
    let forwarded = request.extensions().get::<Forwarded>().is_some();
    if open || forwarded || state.asks_for_tokens() {
        return Ok(());
    }
    foreign_host(state, headers, uri)?;
    match *request.method() {
        Method::GET | Method::HEAD | Method::OPTIONS => Ok(()),
        _ => foreign_origin(state, headers),
    }
}

fn other_cluster(state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
    let ours = &state.0.cluster;
    match headers.get(HEADER_CLUSTER) {
        Some(found) if found != ours => {
            let found = shown(found.to_str().unwrap_or("?"));
            let ours = ours.to_str().unwrap_or_default();
            let detail =
                format!("{HEADER_CLUSTER}: found {found:?}, this machine belongs to the cluster {ours:?}");
            Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, code::OTHER_CLUSTER, detail))
        }
        _ => Ok(()),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

fn foreign_host(state: &AppState, headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let given = headers.get(header::HOST).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    // A request in the form for proxies names the host twice, and both count.
    for found in [given, uri.authority().map(|authority| Some(authority.clone()))].into_iter().flatten() {
        let name = found.as_ref().map_or_else(|| "?".to_owned(), host);
        if !state.0.names.is_known(&name, &state.0.gate.view()) {
            let detail = format!(
                "host: found {:?}, expected an address in figures or a name of this machine: its host name, localhost, those of \
                 the members, or one of listen.names (a page of another site may have sent this; with tokens any name is taken)",
                shown(&name)
            );
            return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, code::FOREIGN_HOST, detail));
        }
    }
    Ok(())
}

/// A browser says from which page a request comes.
fn foreign_origin(state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
    for origin in headers.get_all(header::ORIGIN) {
        if !is_own_page(state, headers, origin) && !state.0.cors.contains(origin) {
            let found = shown(origin.to_str().unwrap_or("?"));
            let detail =
                format!("origin: found {found:?}, expected this machine's own page or one of listen.cors");
            return Err(ApiError::new(StatusCode::FORBIDDEN, code::FOREIGN_ORIGIN, detail));
        }
    }
    Ok(())
}

/// Whether the page is of the very host and port that the request is addressed to, or of another member.
fn is_own_page(state: &AppState, headers: &HeaderMap, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let Some(page) = parts(origin).filter(|_| origin.contains("://")) else { return false };
    let scheme_port = if origin.starts_with("https://") { 443 } else { 80 };
    let asked = headers.get(header::HOST).and_then(|value| parts(value.to_str().ok()?));
    let asked = asked.map(|(host, port)| (host, if port == 0 { scheme_port } else { port }));
    let view = state.0.gate.view();
    asked.as_ref() == Some(&page)
        || view
            .cluster
            .members
            .iter()
            .flat_map(|member| &member.urls)
            .any(|url| parts(url).as_ref() == Some(&page))
}

/// Demanded of every `POST`, not assumed: a page of another site can make a browser send one with anything but this.
pub(super) fn media_type(request: &Request) -> Result<(), ApiError> {
    if *request.method() != Method::POST {
        return Ok(());
    }
    let media = request.headers().get(header::CONTENT_TYPE);
    let media = media.map_or("nothing", |value| value.to_str().unwrap_or("?"));
    if media.trim_start().to_ascii_lowercase().starts_with("application/json") {
        return Ok(());
    }
    let detail = format!("content-type: found {:?}, expected \"application/json\"", shown(media));
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code::UNSUPPORTED_MEDIA_TYPE, detail))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(extra: &str) -> Names {
        let text = format!(
            "cluster = \"test\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n{extra}\n[[member]]\nid = \"a\"\n\
             rank = 1\npeer = [\"10.0.0.1:7450\"]\nurl = [\"http://panel.example:8080\"]\n"
        );
        Names::of(&Config::parse(Path::new("t.toml"), &text).unwrap())
    }

    #[test]
    fn names_of_the_machine_and_addresses_pass_and_others_do_not() {
        let names = names("[listen]\nnames = [\"wall.corp\", \"lb.corp:9000\"]\n");
        let view = View::default();
        let known = |text: &str| names.is_known(&host(&text.parse().unwrap()), &view);
        for good in [
            "127.0.0.1:8080",
            "10.9.8.7",
            "[::1]:8080",
            "localhost:1",
            "LOCALHOST",
            "localhost.:80",
            "panel.example:8080",
            "wall.corp",
            "lb.corp:1",
        ] {
            assert!(known(good), "{good}");
        }
        for bad in
            ["evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "x", "wall.corp.evil"]
        {
            assert!(!known(bad), "{bad}");
        }
    }

    #[test]
    fn proof_is_taken_at_the_very_machine_it_was_made_for() {
        let names = names("[listen]\nnames = [\"wall.corp\", \"lb.corp:9000\"]\n");
        let ends =
            Ends { peer: "127.0.0.1:5".parse().unwrap(), local: Some("127.0.0.1:8080".parse().unwrap()) };
        let own = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
            names.own(&headers, Some(&ends), &View::default()).is_some()
        };
        for good in
            ["127.0.0.1:8080", "localhost:8080", "Panel.example:8080", "wall.corp:8080", "lb.corp:9000"]
        {
            assert!(own(good), "{good}");
        }
        for bad in ["127.0.0.1:8081", "127.0.0.1", "10.0.0.2:8080", "evil.example:8080", "lb.corp:8080"] {
            assert!(!own(bad), "{bad}");
        }
    }
}
