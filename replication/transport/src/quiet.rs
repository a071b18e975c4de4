//! Keeps a fault that repeats from filling the log.
//!
//! Owns when the same text may be said again. Never drops a new text. Read `link.rs` for its use.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const AGAIN_AFTER: Duration = Duration::from_secs(10);
const MOST_TEXTS: usize = 256;

/// Texts said lately.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    said: BTreeMap<String, (Instant, u64)>,
}

impl Quiet {
    /// Whether `text` may be said now: then how often it was kept back since the last time.
    pub(crate) fn may_say(&mut self, text: &str, now: Instant) -> Option<u64> {
        if let Some((last, kept_back)) = self.said.get_mut(text) {
            if now.saturating_duration_since(*last) < AGAIN_AFTER {
                *kept_back += 1;
                return None;
            }
            *last = now;
            return Some(std::mem::take(kept_back));
        }
        if self.said.len() >= MOST_TEXTS {
            self.said.retain(|_, (last, _)| now.saturating_duration_since(*last) < AGAIN_AFTER);
        }
        if self.said.len() >= MOST_TEXTS {
            // More different faults than anybody reads: an address per fault, perhaps. The known ones stay quiet.
            return None;
        }
        self.said.insert(text.to_owned(), (now, 0));
        Some(0)
    }

    /// All is well again: the next fault is news.
    pub(crate) fn forget(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_fault_is_said_once_in_ten_seconds_and_counted() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.may_say("refused", start), Some(0));
        assert_eq!(quiet.may_say("refused", start + Duration::from_secs(1)), None);
        assert_eq!(quiet.may_say("timed out", start + Duration::from_secs(1)), Some(0));
        assert_eq!(quiet.may_say("refused", start + Duration::from_secs(11)), Some(1));
    }

    #[test]
    fn number_of_remembered_faults_is_bounded() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        for n in 0..10 * MOST_TEXTS {
            quiet.may_say(&n.to_string(), start);
        }
        assert_eq!(quiet.said.len(), MOST_TEXTS);
        assert_eq!(quiet.may_say("later", start + AGAIN_AFTER), Some(0));
    }
}
