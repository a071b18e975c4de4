//! Durations and sizes as people write them.

use std::{net::Ipv6Addr, time::Duration};

/// Addresses that one member may have, for peers and for clients each.
pub(crate) const MOST_ADDRESSES: usize = 8;
/// What a list of addresses should be.
pub(crate) const ADDRESS_COUNT: &str = "1 to 8 addresses";
/// What [`is_peer_address`] expects.
pub(crate) const PEER_ADDRESS: &str = "\"host:port\", an IPv6 address in brackets: \"[fd00::1]:7450\"";
/// What [`is_client_url`] expects.
pub(crate) const CLIENT_URL: &str = "such as \"http://10.0.0.1:8080\" or \"http://[fd00::1]:8080\"";
/// Longest address in bytes; a DNS name has at most 253.
const ADDRESS_LENGTH: usize = 280;

/// Whether this can stand before a port: with a colon in it, only an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| {
            // A zone, as of a link-local address, is for this machine to know.
            let address = address.split_once('%').map_or(address, |(address, _)| address);
            address.parse::<Ipv6Addr>().is_ok()
        }),
        None => !text.is_empty() && !text.contains([':', ']']),
    }
}

/// Whether this is a `host:port` that can be dialled.
pub(crate) fn is_peer_address(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(host, port)| is_host(host).then_some(port));
    text.len() <= ADDRESS_LENGTH
        && port.and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port != 0)
}

/// Whether this is a base URL that clients can use.
pub(crate) fn is_client_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    // The port may be left out.
    let fits = is_host(authority) || is_peer_address(authority);
    text.len() <= ADDRESS_LENGTH && fits
}

/// `100ms`, `1s`, `5m`, `2h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" | "min" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

/// `4096`, `16MiB`, `8MB`, `64KiB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let number: u64 = number.parse().ok()?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nonsense_is_not() {
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("2 h"), Some(Duration::from_secs(7200)));
        assert_eq!(bytes("16MiB"), Some(16 << 20));
        assert_eq!(bytes("4096"), Some(4096));
        for bad in ["", "ms", "1", "-1s", "1.5s", "1 week", "99999999999999999999s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for bad in ["", "MiB", "1XB", "-1", "99999999999GiB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        for good in ["pc-1:7450", "10.0.0.1:7450", "[::1]:7450", "[fd00::12]:1", "[fe80::1%eth0]:7450"] {
            assert!(is_peer_address(good), "{good}");
            assert!(is_client_url(&format!("http://{good}")), "{good}");
        }
        for bad in
            ["::1:7450", "[::1]", "fd00::12:7450", "[pc-1]:7450", "[::1:7450", "::1]:7450", ":7450", "[]:1"]
        {
            assert!(!is_peer_address(bad), "{bad}");
        }
        for good in ["https://[::1]", "http://pc-1", "http://[fd00::1]:8080/"] {
            assert!(is_client_url(good), "{good}");
        }
        for bad in
            ["http://::1:8080", "http://", "http://:8080", "http://[::1", "[::1]:8080", "http://fd00::1"]
        {
            assert!(!is_client_url(bad), "{bad}");
        }
    }
}
