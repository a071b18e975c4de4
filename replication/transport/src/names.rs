//! Where names lead: looked up beside the dials, and remembered once they have led to a member.
//!
//! Owns the lookups under way (one a name) and what they said. A name service that is away or slow costs a dial a moment, not the
//! connection: it goes to where the name last led. What a name says when it is answered always counts more than what is remembered, and
//! whoever answers at an address must show the cluster's key and the member's id in any case. Read `dial.rs` for who asks.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::lookup_host, sync::watch, time::timeout};

/// A name that is looked up is waited for so long where it is known where it led before.
const KNOWN_PATIENCE: Duration = Duration::from_millis(100);
/// More names than this are not remembered: members have a few each.
const MOST_NAMES: usize = 1024;

/// See the module. Clones share what is remembered.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Known>,
    changed: Vec<(String, SocketAddr)>,
}

#[derive(Debug, Default)]
struct Known {
    /// Where it last led to a member.
    worked: Option<SocketAddr>,
    /// What the newest lookup said, or that none has ended yet.
    answer: Option<Result<Vec<SocketAddr>, String>>,
    /// Set while a lookup is under way.
    looking: Option<watch::Receiver<bool>>,
}

/// What a name is worth now.
pub(crate) enum Led {
    To(Vec<SocketAddr>),
    Nowhere(String),
}

impl Names {
    /// With what an earlier process has learnt by [`Names::take_changes`].
    #[must_use]
    pub fn remembering(known: impl IntoIterator<Item = (String, SocketAddr)>) -> Names {
        let names = Names::default();
        for (name, address) in known.into_iter().take(MOST_NAMES) {
            names.state().names.entry(name).or_default().worked = Some(address);
        }
        names
    }

    /// Names that have led to a member elsewhere than before, since this was last called: to be remembered.
    #[must_use]
    pub fn take_changes(&self) -> Vec<(String, SocketAddr)> {
        std::mem::take(&mut self.state().changed)
    }

    /// Where the name last led to a member.
    #[must_use]
    pub fn led(&self, name: &str) -> Option<SocketAddr> {
        self.state().names.get(name)?.worked
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change under this lock has two steps that can fail between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name has led to a member at `address`.
    pub(crate) fn worked(&self, name: &str, address: SocketAddr) {
        let mut state = self.state();
        let Some(known) = state.names.get_mut(name) else { return };
        if known.worked.replace(address) != Some(address) && state.changed.len() < MOST_NAMES {
            state.changed.push((name.to_owned(), address));
        }
    }

    /// Lets a lookup begin for whom [`Names::resolve`] will ask.
    pub(crate) fn begin(&self, name: &str) {
        if name.parse::<SocketAddr>().is_err() {
            drop(self.look_up(name));
        }
    }

    /// Where `name`, a `host:port`, leads; `patience` is for one of which nothing is known.
    pub(crate) async fn resolve(&self, name: &str, patience: Duration) -> Led {
        if let Ok(address) = name.parse() {
            return Led::To(vec![address]);
        }
        let (mut looking, worked) = self.look_up(name);
        let patience = if worked.is_some() { KNOWN_PATIENCE.min(patience) } else { patience };
        // An error: the runtime ends.
        let _ = timeout(patience, looking.wait_for(|done| *done)).await;
        let state = self.state();
        let known = state.names.get(name);
        let ended = *looking.borrow();
        let answer = known.and_then(|known| known.answer.as_ref()).filter(|_| ended);
        match (answer, worked) {
            (Some(Ok(addresses)), _) if !addresses.is_empty() => Led::To(addresses.clone()),
            (_, Some(worked)) => Led::To(vec![worked]),
            (Some(Ok(_)), None) => Led::Nowhere("the name has no address".to_owned()),
            (Some(Err(why)), None) => Led::Nowhere(why.clone()),
            (None, None) => Led::Nowhere("the name was not resolved in time".to_owned()),
        }
    }

    /// Begins a lookup, unless one is under way: systems take seconds for one that nobody answers.
    fn look_up(&self, name: &str) -> (watch::Receiver<bool>, Option<SocketAddr>) {
        let mut state = self.state();
        if state.names.len() >= MOST_NAMES && !state.names.contains_key(name) {
            state.names.retain(|_, known| known.looking.is_some());
        }
        let known = state.names.entry(name.to_owned()).or_default();
        if let Some(looking) = &known.looking
            && !*looking.borrow()
            && looking.has_changed().is_ok()
        {
            return (looking.clone(), known.worked);
        }
        let (done, looking) = watch::channel(false);
        known.looking = Some(looking.clone());
        let (names, name) = (self.clone(), name.to_owned());
        let worked = known.worked;
        drop(state);
        tokio::spawn(async move {
            let found = lookup_host(name.as_str()).await;
            let answer: Result<Vec<_>, _> =
                found.map(Iterator::collect).map_err(|error: io::Error| error.to_string());
            if let Some(known) = names.state().names.get_mut(&name) {
                known.answer = Some(answer);
            }
            let _ = done.send(true);
        });
        (looking, worked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolve(names: &Names, name: &str) -> Result<Vec<SocketAddr>, String> {
        match names.resolve(name, Duration::from_secs(10)).await {
            Led::To(addresses) => Ok(addresses),
            Led::Nowhere(why) => Err(why),
        }
    }

    #[tokio::test]
    async fn name_that_nobody_answers_leads_where_it_last_led() {
        let names = Names::default();
        let there: SocketAddr = "127.0.0.1:7450".parse().unwrap();
        assert!(resolve(&names, "localhost:7450").await.unwrap().contains(&there));
        assert_eq!(resolve(&names, "[::1]:7450").await.unwrap(), ["[::1]:7450".parse().unwrap()]);
        // By RFC 6761 it never leads anywhere.
        let nowhere = "pc-2.invalid:7450";
        resolve(&names, nowhere).await.unwrap_err();
        assert_eq!(names.take_changes(), []);
        names.worked(nowhere, there);
        names.worked(nowhere, there);
        assert_eq!(names.take_changes(), [(nowhere.to_owned(), there)]);
        assert_eq!(resolve(&names, nowhere).await.unwrap(), [there]);
        // The next process.
        let names = Names::remembering([
            (nowhere.to_owned(), there),
            ("localhost:7450".to_owned(), "127.0.0.9:1".parse().unwrap()),
        ]);
        assert_eq!(resolve(&names, nowhere).await.unwrap(), [there]);
        let answered = resolve(&names, "localhost:7450").await.unwrap();
        assert!(answered.contains(&there), "an answer counts more than what is remembered: {answered:?}");
        assert_eq!(names.take_changes(), []);
    }

    #[tokio::test]
    async fn names_of_all_the_world_are_not_kept() {
        let names = Names::default();
        for number in 0..MOST_NAMES + 50 {
            names.state().names.entry(format!("x{number}:1")).or_default();
        }
        resolve(&names, "localhost:1").await.unwrap();
        assert!(names.state().names.len() <= MOST_NAMES);
    }
}
