//! Rules of the firewall, as arguments of `netsh`. Pure, so that it is tested anywhere.

use std::net::IpAddr;

/// The rule for the other machines.
pub const PEERS: &str = "Tanist peers";
/// The rule for clients.
pub const CLIENTS: &str = "Tanist clients";

/// What is to be let in.
#[derive(Debug, Clone)]
pub struct Firewall {
    /// The program that listens.
    pub program: String,
    /// Where it listens for the other machines.
    pub peer_port: u16,
    /// Where it listens for clients; `None`: only this computer reaches it.
    pub http_port: Option<u16>,
    /// Where the other machines are.
    pub peers: Vec<IpAddr>,
    /// In which kinds of networks: `private`, `domain`, `public`, with commas between, or `any`.
    pub profile: String,
}

/// Arguments of `netsh`, one call each: the old rules go first, also where no new one follows.
#[must_use]
pub fn rules(firewall: &Firewall) -> Vec<Vec<String>> {
    let Firewall { program, peer_port, http_port, peers, profile } = firewall;
    let words = |verb: &str, name: &str| {
        let mut words: Vec<String> = ["advfirewall", "firewall", verb, "rule"].map(str::to_owned).into();
        words.push(format!("name={name}"));
        words
    };
    let mut calls = vec![words("delete", PEERS), words("delete", CLIENTS)];
    let mut add = |name: &str, port: u16, from: Option<String>| {
        let mut call = words("add", name);
        call.extend(["dir=in", "action=allow", "protocol=TCP"].map(str::to_owned));
        call.extend([
            format!("localport={port}"),
            format!("program={program}"),
            format!("profile={profile}"),
        ]);
        call.extend(from.map(|from| format!("remoteip={from}")));
        calls.push(call);
    };
    let mut from: Vec<String> =
        peers.iter().filter(|peer| !peer.is_loopback()).map(IpAddr::to_string).collect();
    from.sort();
    from.dedup();
    // Without an address the rule would let everybody in.
    if !from.is_empty() {
        add(PEERS, *peer_port, Some(from.join(",")));
    }
    if let Some(port) = http_port {
        add(CLIENTS, *port, None);
    }
    calls
}

/// The profiles that may be named, as `netsh` writes them.
///
/// # Errors
/// When it isn't one.
pub fn profile(text: &str) -> Result<String, String> {
    let known = |word: &str| ["private", "domain", "public"].contains(&word);
    let text = text.to_ascii_lowercase();
    if text == "any" || text.split(',').all(known) {
        return Ok(text);
    }
    Err(format!("found {text:?}, expected \"any\", or private, domain, public with commas between"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firewall(peers: &[&str], http_port: Option<u16>) -> Vec<String> {
        let firewall = Firewall {
            program: r"C:\Program Files\Tanist\tanist.exe".to_owned(),
            peer_port: 7450,
            http_port,
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
            profile: "private".to_owned(),
        };
        rules(&firewall).into_iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn peers_alone_reach_the_peer_port_and_only_in_private_networks() {
        let calls = firewall(&["10.0.0.3", "10.0.0.2", "10.0.0.2", "fd00::2", "127.0.0.1"], Some(8080));
        assert_eq!(calls[0], "advfirewall firewall delete rule name=Tanist peers");
        assert_eq!(calls[1], "advfirewall firewall delete rule name=Tanist clients");
        let program = r"program=C:\Program Files\Tanist\tanist.exe";
        assert_eq!(
            calls[2],
            format!(
                "advfirewall firewall add rule name=Tanist peers dir=in action=allow protocol=TCP localport=7450 {program} profile=private \
                 remoteip=10.0.0.2,10.0.0.3,fd00::2"
            )
        );
        assert!(calls[3].contains("localport=8080") && calls[3].ends_with("profile=private"), "{}", calls[3]);
        assert_eq!(calls.len(), 4);
    }

    #[test]
    fn without_peers_or_clients_elsewhere_nothing_is_opened() {
        assert_eq!(firewall(&["127.0.0.1"], None).len(), 2, "the old rules go");
    }

    #[test]
    fn profiles_are_those_of_windows() {
        for good in ["private", "Private,Domain", "any"] {
            profile(good).unwrap();
        }
        for bad in ["", "home", "private any", "private,", "private remoteip=any"] {
            assert!(profile(bad).is_err(), "{bad:?}");
        }
    }
}
