//! How many files and sockets this process may have open, and what of them clients may take.
//!
//! Owns the arithmetic: what peers, files and operators need is set aside first, and clients' connections get no more than what is
//! left. Without that enough idle clients would keep the machine from accepting its peers. Read `http/mod.rs` for who counts.

use crate::config::Config;

/// Databases with their WALs, logs, copies, runtimes, programs that are started, and handshakes that aren't done.
const OWN: usize = 160;
/// Links of one other member: two that we dialled, two that it did, copies, and what is just closing.
const EACH_PEER: usize = 8;
/// Clients get at least so many, however few there are: then it is others that may find none, and the log says so.
const FEWEST: usize = 16;

/// What is set aside in a cluster of so many members; with the reserve for operators.
fn kept(members: usize) -> usize {
    OWN + EACH_PEER * members + crate::http::RESERVE
}

/// So many may be open when clients take all that `limits.connections` allows.
pub(crate) fn wanted(config: &Config) -> u64 {
    (config.limits.connections + kept(config.members.len())) as u64
}

/// Asks the system for as many as the configuration wants, as far as an administrator lets it. Children inherit that.
#[cfg(unix)]
pub(crate) fn raise(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current: Some(soft), maximum } = getrlimit(Resource::Nofile) else { return };
    let wanted = wanted(config);
    let reached = maximum.map_or(wanted, |most| most.min(wanted));
    if reached <= soft {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(reached), maximum }) {
        Ok(()) => tracing::debug!(from = soft, to = reached, "the limit of open files was raised"),
        Err(error) => tracing::warn!(%error, soft, "the limit of open files can't be raised"),
    }
}

/// Sockets aren't counted with files there.
#[cfg(not(unix))]
pub(crate) fn raise(_: &Config) {}

/// How many this process may have open; `None`: as many as it likes.
pub(crate) fn limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// Lets clients have no more connections than fit, and says so.
pub(crate) fn clamp(config: &mut Config) {
    if let Some(limit) = limit() {
        fit(config, usize::try_from(limit).unwrap_or(usize::MAX));
    }
}

fn fit(config: &mut Config, limit: usize) {
    let limits = &mut config.limits;
    let room = limit.saturating_sub(kept(config.members.len())).max(FEWEST);
    if room >= limits.connections {
        return;
    }
    let wanted = limits.connections;
    // Each address keeps its part of them.
    let each = (limits.connections_per_address.min(wanted) * room / wanted).max(1);
    (limits.connections, limits.connections_per_address) = (room, each);
    tracing::warn!(
        open_files = limit,
        wanted,
        connections = room,
        connections_per_address = each,
        "limits.connections doesn't fit into the limit of open files (LimitNOFILE in a systemd unit, ulimit -n): fewer clients can be \
         connected, so that peers, files and operators find room"
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn clients_get_what_others_leave() {
        let text = "cluster = \"c\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n[limits]\nconnections = 2000\n\
                    connections_per_address = 1000\n[[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n";
        let mut config = Config::parse(Path::new("t.toml"), text).unwrap();
        let found = |config: &Config| (config.limits.connections, config.limits.connections_per_address);
        fit(&mut config, 1 << 20);
        assert_eq!(found(&config), (2000, 1000), "there is room for all");
        fit(&mut config, 1024);
        let room = 1024 - kept(1);
        assert_eq!(found(&config), (room, room / 2));
        fit(&mut config, 1024);
        assert_eq!(found(&config), (room, room / 2), "once is enough");
        fit(&mut config, 64);
        assert_eq!(config.limits.connections, FEWEST);
    }
}
