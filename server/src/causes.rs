//! How an error is told to a person: each of its causes once.

use anyhow::Error;

/// The error and its causes, without those that one before them has already quoted: many messages end in their cause, because
/// they are logged alone as well.
#[must_use]
pub(crate) fn in_words(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read {path}: {source}")]
    struct Quotes {
        path: &'static str,
        source: io::Error,
    }

    #[test]
    fn each_cause_is_told_once() {
        let missing = || io::Error::from_raw_os_error(2);
        let quoted = Err::<(), _>(Quotes { path: "a", source: missing() }).context("start").unwrap_err();
        assert_eq!(in_words(&quoted), format!("start: read a: {}", missing()));
        let plain = Err::<(), _>(missing()).context("open b").context("start").unwrap_err();
        assert_eq!(in_words(&plain), format!("start: open b: {}", missing()));
        assert_eq!(in_words(&Error::msg("alone")), "alone");
    }
}
