//! Names, keys and positions as people and headers write them.

use tanist_replication::{MemberId, Position};
use tanist_transport::{ClusterId, ClusterKey};

pub(crate) const WORDS: &[&[u8]] =
    &[b".", b"=", b"+", b"18446744073709551615", b"18446744073709551616", b"-", b" ", b"\n", "é".as_bytes()];

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = text.parse::<MemberId>() {
        assert_eq!(id.as_str(), text);
    }
    assert_eq!(text.parse::<MemberId>().is_ok(), text.parse::<ClusterId>().is_ok(), "one shape for both");
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    match text.parse::<ClusterKey>() {
        Ok(key) => {
            let again = key.to_text();
            assert_eq!(again.parse::<ClusterKey>().map(|key| key.to_text()), Ok(again));
        }
        // A key mistyped is still nearly the key.
        Err(error) if text.len() > 20 => assert!(!format!("{error} {error:?}").contains(text), "{error}"),
        Err(_) => {}
    }
}
