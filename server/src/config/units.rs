//! Durations and sizes as people write them.

use std::time::Duration;

/// Addresses that one member may have, for peers and for clients each.
pub(crate) const MOST_ADDRESSES: usize = 8;
/// What a list of addresses should be.
pub(crate) const ADDRESS_COUNT: &str = "1 to 8 addresses";
/// What [`is_peer_address`] expects.
pub(crate) const PEER_ADDRESS: &str = "\"host:port\"";
/// What [`is_client_url`] expects.
pub(crate) const CLIENT_URL: &str = "such as \"http://10.0.0.1:8080\"";
/// Longest address in bytes; a DNS name has at most 253.
const ADDRESS_LENGTH: usize = 280;

/// Whether this is a `host:port` that can be dialled.
pub(crate) fn is_peer_address(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    text.len() <= ADDRESS_LENGTH
        && port.and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port != 0)
}

/// Whether this is a base URL that clients can use.
pub(crate) fn is_client_url(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    text.len() <= ADDRESS_LENGTH && host.is_some_and(|host| !host.trim_start_matches(['/', ':']).is_empty())
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
}
