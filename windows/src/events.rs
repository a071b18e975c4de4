//! What an operator must know, for the Event Log: which lines of the log these are, and what they are called there.
//!
//! Owns the list, and a layer that picks the listed lines out of all that is logged. Builds on every system, so that the list is
//! tested where the server is; `event_log.rs` writes.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    subscriber::Interest,
};
use tracing_subscriber::layer::{Context, Filter, Layer};

use crate::one_line::one_line;

/// How bad it is, as the Event Log sorts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It is so.
    Information,
    /// Somebody should look at it.
    Warning,
    /// Something doesn't work.
    Error,
}

/// A line of the log that goes to the Event Log.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number there; never used for anything else later. 1 to 1000, see [`crate::MESSAGE_FILE`].
    pub id: u16,
    /// How bad it is.
    pub severity: Severity,
    /// Who logs it.
    pub target: &'static str,
    /// What it says, without its fields.
    pub message: &'static str,
}

/// The number of an event that isn't a line of the log: the machine could not start, or had to end.
pub const FAILED: u16 = 3;

const fn listed(id: u16, severity: Severity, target: &'static str, message: &'static str) -> Listed {
    Listed { id, severity, target, message }
}

const RUN: &str = "tanist_server::commands::run";
const RELOAD: &str = "tanist_server::commands::reload";
const DRIVER: &str = "tanist_server::driver";
const OUTAGE: &str = "tanist_server::outage";
const WRITER: &str = "tanist_server::writer";
const SCRUB: &str = "tanist_server::scrub";

/// All of them. Numbers by tens: life, configuration, reign, health, cluster, disk, divergence.
#[rustfmt::skip]
pub const LIST: &[Listed] = &[
    listed(1, Severity::Information, RUN, "tanist runs"),
    listed(2, Severity::Information, RUN, "stopped"),
    listed(4, Severity::Error, "tanist_server::commands::logging", "a part of this program has failed"),
    listed(10, Severity::Information, RUN, "the configuration has changed"),
    listed(11, Severity::Error, RUN, "refused, the old configuration stays in force"),
    listed(12, Severity::Warning, RELOAD, "these settings need a restart"),
    listed(20, Severity::Information, DRIVER, "became master"),
    listed(21, Severity::Warning, DRIVER, "stepped down"),
    listed(22, Severity::Information, DRIVER, "hands over"),
    listed(23, Severity::Error, DRIVER, "protocol violation"),
    listed(30, Severity::Warning, DRIVER, "not healthy"),
    listed(31, Severity::Information, DRIVER, "healthy again"),
    listed(32, Severity::Warning, DRIVER, "member is not healthy"),
    listed(33, Severity::Information, DRIVER, "member is healthy again"),
    listed(40, Severity::Error, OUTAGE, "no master: the cluster waits"),
    listed(41, Severity::Information, OUTAGE, "there is a master again"),
    listed(42, Severity::Warning, DRIVER, "refuses writes"),
    listed(43, Severity::Information, DRIVER, "takes writes again"),
    listed(44, Severity::Warning, DRIVER, "no longer a member"),
    listed(50, Severity::Error, WRITER, "a transaction could not be stored"),
    listed(51, Severity::Error, WRITER, "a batch of writes was not committed"),
    listed(52, Severity::Error, WRITER, "rejoin: waits until the disk has room, nothing was changed"),
    listed(53, Severity::Error, SCRUB, "scrub: the page is not what was written: the disk, or somebody, has changed it"),
    listed(54, Severity::Error, SCRUB, "scrub: the database can't be read"),
    listed(55, Severity::Error, "tanist_server::backup::schedule", "a scheduled copy failed"),
    listed(56, Severity::Warning, RUN, "a write filter of Windows is installed: exclude the data directory from it, or what is written is lost at the next boot"),
    listed(60, Severity::Warning, "tanist_server::rejoin::take", "rejoin: what only this replica held is saved in a divergence report"),
    listed(61, Severity::Error, DRIVER, "its database differs from the master's"),
    listed(62, Severity::Error, DRIVER, "files are gone"),
    listed(63, Severity::Error, "tanist_server::server", "this replica can't be read any more: it was put aside, and the master's pages take its place"),
];

/// The entry for a line, if it is on the list.
#[must_use]
pub fn find(target: &str, message: &str) -> Option<&'static Listed> {
    LIST.iter().find(|listed| listed.target == target && listed.message == message)
}

/// An entry for the Event Log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: u16,
    /// How bad it is.
    pub severity: Severity,
    /// The message, and its fields line by line.
    pub text: String,
}

/// Picks the listed lines out of all that is logged and gives them on.
#[derive(Debug)]
pub struct Operators<F> {
    give: F,
}

impl<F: Fn(Entry) + Send + Sync + 'static> Operators<F> {
    /// `give` gets each entry, on the thread that logs it: it must not wait.
    pub fn new(give: F) -> Operators<F> {
        Operators { give }
    }

    /// The layer, with the filter that makes it cost nothing for all other lines.
    pub fn layer<S>(self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        self.with_filter(OnlyListed)
    }
}

impl<S: Subscriber, F: Fn(Entry) + Send + Sync + 'static> Layer<S> for Operators<F> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if let Some(listed) = find(event.metadata().target(), &line.message) {
            let text = format!("{}{}", line.message, line.fields);
            (self.give)(Entry { id: listed.id, severity: listed.severity, text });
        }
    }
}

/// By who logs, and never what only developers read.
struct OnlyListed;

impl OnlyListed {
    fn lets_pass(metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= Level::INFO
            && LIST.iter().any(|listed| listed.target == metadata.target())
    }
}

impl<S> Filter<S> for OnlyListed {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        OnlyListed::lets_pass(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if OnlyListed::lets_pass(metadata) { Interest::always() } else { Interest::never() }
    }
}

/// Longer values are cut: the Event Log takes no more than about 31,000 characters altogether.
const VALUE: usize = 2000;

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn put(&mut self, field: &Field, value: &str) {
        let cut: String = value.chars().take(VALUE).collect();
        // The entry has a line for each field: what is quoted makes none of its own.
        let cut = one_line(&cut).into_owned();
        if field.name() == "message" {
            self.message = cut;
        } else if !cut.is_empty() && self.fields.len() < 10 * VALUE {
            let _ = write!(self.fields, "\r\n{}: {cut}", field.name());
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn numbers_are_within_the_message_file_and_lines_are_listed_once() {
        let ids: BTreeSet<_> = LIST.iter().map(|listed| listed.id).collect();
        assert_eq!(ids.len(), LIST.len(), "a number stands for one thing");
        assert!(ids.iter().all(|id| (1..=1000).contains(id)) && !ids.contains(&FAILED));
        let lines: BTreeSet<_> = LIST.iter().map(|listed| (listed.target, listed.message)).collect();
        assert_eq!(lines.len(), LIST.len());
    }

    #[test]
    fn listed_lines_are_given_on_with_their_fields_and_no_others() {
        let given = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&given);
        let layer = Operators::new(move |entry| into.lock().unwrap().push(entry)).layer();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(target: "tanist_server::driver", term = 7, peer = "", why = "founded", "{}", "became master");
            tracing::info!(target: "tanist_server::driver", "streams to backup");
            tracing::info!(target: "tanist_server::http", "became master");
            tracing::debug!(target: "tanist_server::driver", "became master");
            tracing::error!(target: "tanist_server::commands::run", why = "x".repeat(5000), "refused, the old configuration stays in force");
        });
        let given = given.lock().unwrap();
        assert_eq!(given.len(), 2, "{given:?}");
        let text = "became master\r\nterm: 7\r\nwhy: founded".to_owned();
        assert_eq!(given[0], Entry { id: 20, severity: Severity::Information, text });
        assert_eq!((given[1].id, given[1].severity), (11, Severity::Error));
        assert!(given[1].text.len() < 2100, "long values are cut");
    }

    #[test]
    fn what_is_quoted_makes_no_lines_of_its_own() {
        let entries = Arc::new(Mutex::new(vec![]));
        let into = Arc::clone(&entries);
        let layer = Operators::new(move |entry: Entry| into.lock().unwrap().push(entry.text)).layer();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let evil = "full\r\nwhy: forged\u{1b}[2J";
            tracing::warn!(target: "tanist_server::driver", why = %evil, "not healthy");
        });
        let texts = entries.lock().unwrap();
        assert_eq!(*texts, ["not healthy\r\nwhy: full\\r\\nwhy: forged\\u001b[2J"]);
    }
}
