//! How long nobody has reigned, for the log: whoever looks at it only when something is wrong must find that it was.
//!
//! Owns no decision. Short times without a master belong to every failover and are not told.

use std::time::{Duration, Instant};

/// A failover is over long before.
const TELL_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Outage {
    since: Option<Instant>,
    told: bool,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Begun,
    Ended(Duration),
}

impl Outage {
    /// Looks at who reigns, as this machine knows it, and tells what is new. `why` is what is shown to operators.
    pub(crate) fn look(&mut self, has_master: bool, why: Option<&str>) {
        match self.step(has_master, Instant::now()) {
            Some(Told::Begun) => {
                let why = why.unwrap_or("this machine reaches no master");
                tracing::error!(why, "no master: the cluster waits");
            }
            Some(Told::Ended(after)) => tracing::info!(?after, "there is a master again"),
            None => {}
        }
    }

    fn step(&mut self, has_master: bool, now: Instant) -> Option<Told> {
        if has_master {
            let since = self.since.take()?;
            return std::mem::take(&mut self.told).then(|| Told::Ended(now.duration_since(since)));
        }
        let since = *self.since.get_or_insert(now);
        let is_new = !self.told && now.duration_since(since) >= TELL_AFTER;
        self.told |= is_new;
        is_new.then_some(Told::Begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failover_is_not_told_and_an_outage_is_told_once_with_its_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        assert_eq!(outage.step(false, at(0)), None);
        assert_eq!(outage.step(false, at(9)), None);
        assert_eq!(outage.step(true, at(9)), None, "a failover");
        assert_eq!(outage.step(false, at(20)), None);
        assert_eq!(outage.step(false, at(30)), Some(Told::Begun));
        assert_eq!(outage.step(false, at(50)), None, "once");
        assert_eq!(outage.step(true, at(60)), Some(Told::Ended(Duration::from_secs(40))));
        assert_eq!(outage.step(true, at(61)), None);
    }
}
