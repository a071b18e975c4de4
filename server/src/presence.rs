//! Which nodes are heard of: their agents give signs of life to the master, which records only what changes.
//!
//! Owns the memory of who was heard when. A new master gives all of them the time of one silence before it judges. Never
//! decides anything about the machines of the cluster, only about the nodes that they manage.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tanist_api::PresenceStatus;
use tanist_replication::Term;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    clock,
    gate::Gate,
    reader::ReadPool,
    state::{Action, Change, Condition},
    write::{WriteRequest, WriteWork, WriterHandle},
};

/// Between two looks at who is silent.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For the change that records it.
const WRITE_TIME: Duration = Duration::from_secs(5);
const ALL: &str =
    "SELECT n.name, p.status FROM tanist_nodes AS n LEFT JOIN tanist_node_presence AS p ON p.node = n.name";

/// Who was heard when.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    heard: Mutex<HashMap<String, Instant>>,
}

impl Presence {
    /// A node that there is gave a sign of life.
    pub(crate) fn hear(&self, node: &str, now: Instant) {
        let mut heard = self.heard.lock();
        match heard.get_mut(node) {
            Some(at) => *at = now,
            None => drop(heard.insert(node.to_owned(), now)),
        }
    }

    /// What has changed, given what is recorded of each node; forgets nodes that there aren't any more.
    fn changes(
        &self,
        recorded: &HashMap<String, Option<PresenceStatus>>,
        judges_since: Instant,
        silent_after: Duration,
        now: Instant,
    ) -> Vec<(String, PresenceStatus)> {
        let mut heard = self.heard.lock();
        heard.retain(|node, _| recorded.contains_key(node));
        let silence = |since: Instant| now.saturating_duration_since(since) >= silent_after;
        let status = |node: &String| match heard.get(node) {
            Some(at) if !silence(*at) => Some(PresenceStatus::Present),
            // Heard last by an earlier master, if at all.
            _ if silence(judges_since) => Some(PresenceStatus::Silent),
            _ => None,
        };
        let mut changes: Vec<_> = recorded
            .iter()
            .filter_map(|(node, was)| Some((node.clone(), *was, status(node)?)))
            // Who never had an agent isn't silent.
            .filter(|(_, was, is)| *was != Some(*is) && (was.is_some() || *is == PresenceStatus::Present))
            .map(|(node, _, is)| (node, is))
            .collect();
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        changes
    }
}

/// What the watch works with.
pub(crate) struct Parts {
    pub(crate) presence: Arc<Presence>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) readers: ReadPool,
    pub(crate) writer: WriterHandle,
    pub(crate) silent_after: Duration,
}

/// Looks again and again, as long as this machine lives; acts only while it is the master.
pub(crate) async fn watch(parts: Parts) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reign: Option<(Term, Instant)> = None;
    loop {
        ticks.tick().await;
        let Some(term) = parts.gate.is_open(clock::now_ns()) else {
            reign = None;
            continue;
        };
        let since = match reign {
            Some((judged, since)) if judged == term => since,
            _ => Instant::now(),
        };
        reign = Some((term, since));
        if let Err(why) = parts.look(since).await {
            tracing::debug!(why, "presence of nodes");
        }
    }
}

impl Parts {
    async fn look(&self, since: Instant) -> Result<(), String> {
        let recorded = self.readers.run(|connection| {
            let mut statement = connection.prepare_cached(ALL)?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.as_deref().and_then(PresenceStatus::of)))
            })?;
            rows.collect::<Result<HashMap<String, Option<PresenceStatus>>, _>>()
        });
        let recorded = recorded.await.map_err(|error| error.to_string())?;
        let changes = self.presence.changes(&recorded, since, self.silent_after, Instant::now());
        if changes.is_empty() {
            return Ok(());
        }
        for (node, status) in &changes {
            tracing::info!(node, status = status.as_str(), "presence of a node");
        }
        let change =
            Change { action: Action::MarkPresence(changes), condition: Condition::default(), actor: None };
        let write = WriteRequest {
            work: WriteWork::State(Box::new(change)),
            idempotency: None,
            time_limit: WRITE_TIME,
            author: None,
        };
        self.writer.write(write).await.map(drop).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_AFTER: Duration = Duration::from_secs(5);

    fn recorded(nodes: &[(&str, Option<PresenceStatus>)]) -> HashMap<String, Option<PresenceStatus>> {
        nodes.iter().map(|(node, status)| ((*node).to_owned(), *status)).collect()
    }

    #[test]
    fn who_is_heard_is_present_and_who_was_and_is_not_any_more_is_silent() {
        use PresenceStatus::{Present, Silent};
        let presence = Presence::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let changes = |nodes: &[_], now| presence.changes(&recorded(nodes), start, SILENT_AFTER, now);
        let all = [("a", None), ("b", None), ("c", Some(Present)), ("d", Some(Silent))];
        presence.hear("a", at(1));
        presence.hear("gone", at(1));
        assert_eq!(changes(&all, at(2)), [("a".to_owned(), Present)], "a new master doesn't judge yet");
        assert_eq!(presence.heard.lock().len(), 1, "a node that there isn't is forgotten");
        let all = [("a", Some(Present)), ("b", None), ("c", Some(Present)), ("d", Some(Silent))];
        assert_eq!(changes(&all, at(5)), [("c".to_owned(), Silent)], "b never had an agent");
        presence.hear("d", at(6));
        let expected = [("a".to_owned(), Silent), ("c".to_owned(), Silent), ("d".to_owned(), Present)];
        assert_eq!(changes(&all, at(6)), expected);
    }
}
