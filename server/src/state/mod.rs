//! Changes of the control room's state: configuration, nodes, desired and reported states, commands.
//!
//! Runs inside the write transaction, on the store thread, so that a condition and the change that it allows are one.
//! Revisions, history and events are made by the triggers of `migrations/0003_state.sql`, never here. Read `select.rs`
//! for how everything is shown, `http/state/` for the routes.

mod change;
mod condition;
mod limits;
pub(crate) mod select;
#[cfg(test)]
mod tests;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::{Map, Value};
use tanist_api::{Access, NewCommand, NewOutcome, NodeSpec, PresenceStatus, Report};

use crate::auth::Hash;

pub(crate) use condition::{Condition, tag};
pub(crate) use limits::{
    KEY_EXPECTED, NAME_EXPECTED, check_command, check_node, check_outcome, check_report, check_state,
    check_value, is_key, is_name,
};

/// One change, checked as far as it can be without the database.
#[derive(Debug)]
pub struct Change {
    /// What is to be done.
    pub(crate) action: Action,
    /// What must be so for that.
    pub(crate) condition: Condition,
    /// Who does it, if that is known.
    pub(crate) actor: Option<String>,
}

/// What can be done; names and values are within their limits.
#[derive(Debug)]
pub(crate) enum Action {
    SetConfig { key: String, value: Value },
    RemoveConfig { key: String },
    SetNode { name: String, spec: NodeSpec },
    PatchNode { name: String, patch: Value },
    RemoveNode { name: String },
    SetDesired { node: String, state: Map<String, Value> },
    PatchDesired { node: String, patch: Value },
    Report { node: String, report: Report },
    SendCommand(NewCommand),
    ReportOutcome { command: i64, node: String, outcome: NewOutcome },
    MarkPresence(Vec<(String, PresenceStatus)>),
    MakeToken(NewTokenRow),
    RevokeToken { name: String },
    HoldUpgrade,
    ReleaseUpgrade,
}

/// A token to be made; what is said of it has been checked.
#[derive(Debug)]
pub(crate) struct NewTokenRow {
    pub(crate) name: String,
    pub(crate) role: Access,
    pub(crate) node: Option<String>,
    pub(crate) expires_in_seconds: Option<u64>,
    pub(crate) hash: Hash,
}

/// Why a change was refused; nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it concerns isn't there.
    #[error("{0}")]
    NotFound(String),
    /// The condition doesn't hold.
    #[error("{0}")]
    Condition(String),
    /// What would become of it isn't allowed: a patch's result, a list of unknown nodes.
    #[error("{0}")]
    Invalid(String),
    /// What is so already forbids it.
    #[error("{0}")]
    Conflict(String),
}

/// Why a change has no outcome; nothing was done.
#[derive(Debug)]
pub(crate) enum ChangeError {
    Refused(Refusal),
    Sqlite(rusqlite::Error),
}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> ChangeError {
        ChangeError::Refused(refusal)
    }
}

impl From<rusqlite::Error> for ChangeError {
    fn from(error: rusqlite::Error) -> ChangeError {
        ChangeError::Sqlite(error)
    }
}

/// What a change made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Whether there was nothing before.
    pub(crate) created: bool,
    /// What it has now; of a removal, the removal's own.
    pub(crate) revision: i64,
    /// What is so now, as JSON.
    pub(crate) body: String,
}

impl Done {
    /// As it is kept for a repeated idempotency key: a line with the facts, then the body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let created = if self.created { "created" } else { "changed" };
        format!("{created} {}\n{}", self.revision, self.body).into_bytes()
    }

    /// The reverse of [`Done::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Option<Done> {
        let (facts, body) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let (created, revision) = facts.split_once(' ')?;
        Some(Done { created: created == "created", revision: revision.parse().ok()?, body: body.to_owned() })
    }
}

/// Makes the change, if its condition holds. Writes nothing when everything is so already.
///
/// # Errors
/// When it is refused, or SQLite fails: the caller undoes what was written.
pub(crate) fn run(connection: &Connection, change: &Change) -> Result<Done, ChangeError> {
    let db = change::Db { connection, actor: change.actor.as_deref() };
    change::perform(&db, &change.action, &change.condition)
}

/// Revision and JSON of what `sql` (of `select.rs`) finds; its first parameter is `name`.
fn entry(connection: &Connection, sql: &str, name: &str) -> Result<Option<(i64, String)>, rusqlite::Error> {
    let found = connection
        .prepare_cached(sql)?
        .query_row(params![name], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<String>>(1)?)))
        .optional()?;
    Ok(found.and_then(|(revision, entry)| Some((revision?, entry?))))
}
