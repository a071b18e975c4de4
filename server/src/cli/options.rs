//! What the commands of the control room have in common: options of reads and changes, JSON on the command line.

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use tanist_client::{ChangeOptions, Consistency, OnlyIf, Part, ReadOptions, api::Page};

use super::{Connection, Usage, sql, table};

/// Entries asked for at once.
const PAGE: u32 = 500;

/// How a read is to be done.
#[derive(Debug, Args)]
pub(super) struct Reading {
    #[command(flatten)]
    pub(super) connection: Connection,
    /// `strong` (the master, everything acknowledged), `local` (the first host's replica, now), or `bounded:500ms` (a
    /// replica that was current so recently).
    #[arg(long, default_value = "strong", value_parser = sql::consistency)]
    consistency: Consistency,
    /// Wait until the replica has this position, as an earlier answer gave it.
    #[arg(long)]
    min_position: Option<String>,
}

impl Reading {
    pub(super) fn options(&self) -> ReadOptions {
        ReadOptions { consistency: self.consistency, min_position: self.min_position.clone() }
    }
}

/// How a list is to be read.
#[derive(Debug, Args)]
pub(super) struct Listing {
    #[command(flatten)]
    pub(super) reading: Reading,
    /// How many entries at most.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// Where to go on: what an earlier list said at its end.
    #[arg(long)]
    next: Option<String>,
}

impl Listing {
    /// Asks for pages until there are no more, or enough.
    pub(super) async fn all<T, F>(&self, page: impl Fn(Part) -> F) -> Result<Page<T>, tanist_client::Error>
    where
        F: Future<Output = Result<tanist_client::At<Page<T>>, tanist_client::Error>>,
    {
        let mut all = Page { entries: Vec::new(), next: self.next.clone() };
        loop {
            let left = self.limit.saturating_sub(all.entries.len());
            let limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
            if limit == 0 {
                return Ok(all);
            }
            let found = page(Part { next: all.next.take(), limit: Some(limit) }).await?.value;
            all.entries.extend(found.entries);
            all.next = found.next;
            if all.next.is_none() {
                return Ok(all);
            }
        }
    }

    /// Shows a list: as JSON, or as a table with a hint where it goes on.
    pub(super) fn show<T: Serialize>(
        &self,
        page: &Page<T>,
        headings: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        if self.reading.connection.json {
            println!("{}", serde_json::to_string_pretty(page)?);
            return Ok(());
        }
        let headings: Vec<_> = headings.iter().map(|heading| (*heading).to_owned()).collect();
        print!("{}", table::layout(&headings, &page.entries.iter().map(row).collect::<Vec<_>>()));
        if let Some(next) = &page.next {
            println!("There are more: --next {next}");
        }
        Ok(())
    }
}

/// How a change is to be made.
#[derive(Debug, Args)]
pub(super) struct Changing {
    #[command(flatten)]
    pub(super) connection: Connection,
    /// Only if it still has this revision.
    #[arg(long, conflicts_with = "if_new")]
    if_revision: Option<i64>,
    /// Only if it isn't there yet.
    #[arg(long)]
    if_new: bool,
    /// Key of an earlier try of the same change, to settle its outcome.
    #[arg(long)]
    key: Option<String>,
}

impl Changing {
    pub(super) fn options(&self) -> ChangeOptions {
        let only_if = match (self.if_revision, self.if_new) {
            (Some(revision), _) => OnlyIf::Revision(revision),
            (None, true) => OnlyIf::New,
            (None, false) => OnlyIf::Always,
        };
        ChangeOptions { only_if, idempotency_key: self.key.clone(), deadline: None }
    }

    /// Whether the change has a condition.
    pub(super) fn is_conditional(&self) -> bool {
        self.if_new || self.if_revision.is_some()
    }
}

/// JSON, or else plain text.
pub(super) fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// A JSON object.
pub(super) fn object(argument: &str, text: &str) -> Result<Map<String, Value>, Usage> {
    serde_json::from_str(text)
        .map_err(|error| Usage(format!("{argument}: found {text:?}, expected a JSON object ({error})")))
}

/// JSON in one line, cut where it gets long for a table.
pub(super) fn short(value: &impl Serialize) -> String {
    let text = table::safe(&serde_json::to_string(value).unwrap_or_default());
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(59).chain(['…']).collect()
}

/// Shows one thing: as JSON, or as `text` says.
pub(super) fn show<T: Serialize>(
    connection: &Connection,
    thing: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    if connection.json {
        println!("{}", serde_json::to_string_pretty(thing)?);
    } else {
        print!("{}", text(thing));
    }
    Ok(())
}

/// When and by whom.
pub(super) fn signed(at: &str, by: Option<&String>) -> String {
    match by {
        Some(by) => format!("{at} by {}", table::safe(by)),
        None => at.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_json_or_else_text_and_states_are_objects() {
        assert_eq!(value("[1, null]"), json!([1, null]));
        assert_eq!(value("plain text"), json!("plain text"));
        assert!(object("STATE", r#"{"a":1}"#).is_ok());
        for bad in ["", "5", "[]", "{", "{a:1}"] {
            assert!(object("STATE", bad).unwrap_err().0.starts_with("STATE"), "{bad}");
        }
    }

    #[test]
    fn long_values_are_cut_and_control_characters_shown() {
        assert_eq!(short(&json!("x\u{9b}2J")), "\"x\\u{9b}2J\"");
        let cut = short(&json!("ä".repeat(100)));
        assert!(cut.chars().count() == 60 && cut.ends_with('…'), "{cut}");
    }
}
