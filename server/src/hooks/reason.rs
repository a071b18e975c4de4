//! Why a reign began or ended, as one of a few fixed words: what programs get.
//!
//! The reasons in words, for the log and the term history, may quote an operator, a health check, or a disk: text that a script must
//! not find in its environment. Each begins with words of our own, by which it is told here.

/// Beginnings of reasons, and what they are called.
const BEGINNINGS: [(&str, &str); 14] = [
    ("founded", "founded"),
    ("recovered by an operator", "recovered"),
    ("forced", "forced"),
    ("re-elected", "re-elected"),
    ("succeeds ", "succeeds"),
    ("no majority of leases", "no-majority"),
    ("own disk failed", "disk"),
    ("leaves to ", "stalled"),
    ("the store could not start", "store"),
    ("term ", "newer-term"),
    (PROCESS_ENDED, "process-ended"),
    (PROCESS_ENDS, "process-ends"),
    (LATER_REIGN, "later-reign"),
    ("this machine stops", "stops"),
];

/// The same of what follows "hands over to …: ".
const HANDOVERS: [(&str, &str); 7] = [
    ("an operator ", "operator"),
    ("this machine stops", "stops"),
    ("this machine isn't healthy", "unhealthy"),
    ("failback", "failback"),
    ("this computer goes to sleep", "sleeps"),
    ("its disk ", "disk"),
    ("page ", "disk"),
];

/// What is said of a reign of which only this is known.
pub(super) const PROCESS_ENDED: &str = "the process that reigned ended";
pub(super) const PROCESS_ENDS: &str = "this machine ends";
pub(super) const LATER_REIGN: &str = "a later reign has begun and ended";

/// The word for a reason.
pub(super) fn code(reason: &str) -> &'static str {
    let find = |list: &[(&str, &'static str)], text: &str| {
        list.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, code)| *code)
    };
    // A member's name has no colon.
    let handed = reason.strip_prefix("hands over to ").and_then(|rest| rest.split_once(": "));
    match handed {
        Some((_, why)) => find(&HANDOVERS, why).unwrap_or("handover"),
        None => find(&BEGINNINGS, reason).unwrap_or("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fixed_words_come_out_whatever_is_quoted() {
        let evil = "$(reboot)\n; rm -rf /";
        for (reason, expected) in [
            ("founded".to_owned(), "founded"),
            ("succeeds pc-2".to_owned(), "succeeds"),
            (format!("hands over to pc-2: this machine isn't healthy: {evil}"), "unhealthy"),
            ("hands over to pc-2: an operator promotes pc-2".to_owned(), "operator"),
            (format!("hands over to pc-2: {evil}"), "handover"),
            (format!("own disk failed: {evil}"), "disk"),
            (format!("leaves to pc-2 without its own disk: {evil}"), "stalled"),
            (format!("term 7: {evil}"), "newer-term"),
            (evil.to_owned(), "other"),
            (String::new(), "other"),
        ] {
            assert_eq!(code(&reason), expected, "{reason}");
        }
        let all = BEGINNINGS.iter().chain(&HANDOVERS);
        assert!(all.clone().all(|(_, code)| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }
}
