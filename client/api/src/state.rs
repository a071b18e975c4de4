//! Configuration, nodes, states and commands: what the routes of the control room take and give.
//!
//! Everything has a *revision*, which changes with it and never comes back, not even after a removal; it is the `ETag`
//! of the answer, and the id of the event that told of the change. JSON integers beyond 64 bits become floating point.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Body of `PUT /v1/config/{key}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewConfig {
    /// Any JSON.
    pub value: Value,
}

/// Answer of `GET` and `PUT /v1/config/{key}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigEntry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Changes with the value.
    pub revision: i64,
    /// When, by the master's wall clock.
    pub changed_at: String,
    /// By whom; `None` when that isn't known.
    pub changed_by: Option<String>,
}

/// One change in `GET /v1/config/{key}/history`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigChange {
    /// The revision that it made.
    pub revision: i64,
    /// The value before; `None` when there was none.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// The value after; `None` when it was removed.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
    /// When, by the master's wall clock.
    pub changed_at: String,
    /// By whom; `None` when that isn't known.
    pub changed_by: Option<String>,
}

/// `null` is a value too; only a field that isn't there is none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// In order.
    pub entries: Vec<T>,
    /// There are more: ask again with this as `after` (configuration, nodes) or `before` (history, commands).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Body of `PUT /v1/nodes/{name}`, and what `PATCH` (JSON Merge Patch) changes: where a machine belongs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Where it is reached, as whoever needs it understands it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its row in the arrangement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 1_000_000))]
    pub row: Option<u32>,
    /// Its column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 1_000_000))]
    pub column: Option<u32>,
    /// Further properties: strings by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, String>))]
    pub labels: Map<String, Value>,
}

/// Answer of `GET`, `PUT` and `PATCH /v1/nodes/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: Option<String>,
    /// Its row in the arrangement.
    pub row: Option<u32>,
    /// Its column.
    pub column: Option<u32>,
    /// Further properties.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, String>))]
    pub labels: Map<String, Value>,
    /// Changes with these; states have their own.
    pub revision: i64,
    /// When, by the master's wall clock.
    pub changed_at: String,
    /// By whom; `None` when that isn't known.
    pub changed_by: Option<String>,
}

/// One node in `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeSummary {
    /// The node.
    #[serde(flatten)]
    pub node: Node,
    /// Whether it says that it has its newest desired state; `None` when nothing is desired.
    pub in_step: Option<bool>,
    /// Revision of the desired state.
    pub desired_revision: Option<i64>,
    /// The desired state that the node's report answers.
    pub reported_for: Option<i64>,
    /// Why the node couldn't reach it.
    pub error: Option<String>,
    /// When the node first said so.
    pub reported_at: Option<String>,
    /// Whether its agent is heard of; `None` when there never was one.
    pub presence: Option<PresenceStatus>,
    /// Since when, by the master's wall clock.
    pub presence_since: Option<String>,
}

/// Whether a node's agent is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PresenceStatus {
    /// It gives signs of life.
    Present,
    /// It gave some, and gives none any more.
    Silent,
}

impl PresenceStatus {
    /// What the table says, if it is one of the two.
    #[must_use]
    pub fn of(text: &str) -> Option<PresenceStatus> {
        [PresenceStatus::Present, PresenceStatus::Silent].into_iter().find(|status| status.as_str() == text)
    }

    /// As in JSON and in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PresenceStatus::Present => "present",
            PresenceStatus::Silent => "silent",
        }
    }
}

/// Answer of `POST /v1/nodes/{name}/seen`, by which an agent gives a sign of life: whether there is something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Seen {
    /// The node.
    pub node: String,
    /// Revision of its desired state.
    pub desired_revision: Option<i64>,
    /// The desired state that its report answers.
    pub reported_for: Option<i64>,
    /// Commands of which its outcome is awaited.
    pub pending_commands: u64,
}

/// Body of `PUT /v1/nodes/{name}/desired`, and what `PATCH` (JSON Merge Patch) changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewDesired {
    /// What the node shall have.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, Value>))]
    pub state: Map<String, Value>,
}

/// Answer of `GET`, `PUT` and `PATCH /v1/nodes/{name}/desired`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DesiredState {
    /// The node.
    pub node: String,
    /// What it shall have.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, Value>))]
    pub state: Map<String, Value>,
    /// To be named in the node's report.
    pub revision: i64,
    /// When, by the master's wall clock.
    pub changed_at: String,
    /// By whom; `None` when that isn't known.
    pub changed_by: Option<String>,
}

/// Body of `PUT /v1/nodes/{name}/reported`. The same said again changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What the node has.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, Value>))]
    pub state: Map<String, Value>,
    /// Revision of the desired state that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_revision: Option<i64>,
    /// Why that couldn't be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answer of `GET` and `PUT /v1/nodes/{name}/reported`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportedState {
    /// The node.
    pub node: String,
    /// What it has.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, Value>))]
    pub state: Map<String, Value>,
    /// Revision of the desired state that it answers.
    pub desired_revision: Option<i64>,
    /// Why that couldn't be reached.
    pub error: Option<String>,
    /// Changes with the report.
    pub revision: i64,
    /// When the node first said so, by the master's wall clock.
    pub reported_at: String,
}

/// Body of `POST /v1/commands`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewCommand {
    /// What to do.
    pub name: String,
    /// Any JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
    /// To whom.
    pub nodes: Vec<String>,
}

/// Answer of `POST /v1/commands` and `GET /v1/commands/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Command {
    /// Its number.
    pub id: i64,
    /// What to do.
    pub name: String,
    /// With what.
    pub arguments: Value,
    /// To whom.
    pub nodes: Vec<String>,
    /// Changes with each outcome.
    pub revision: i64,
    /// When, by the master's wall clock.
    pub sent_at: String,
    /// By whom; `None` when that isn't known.
    pub sent_by: Option<String>,
    /// What became of it at each node.
    pub outcomes: Vec<Outcome>,
}

/// What became of a command at one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Outcome {
    /// The node.
    pub node: String,
    /// How far it is.
    pub status: OutcomeStatus,
    /// What the node says about it.
    pub detail: Value,
    /// When it said so; `None` when it hasn't been heard of.
    pub changed_at: Option<String>,
}

/// Body of `PUT /v1/commands/{id}/outcomes/{node}`. `done` and `failed` are final.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewOutcome {
    /// How far it is.
    pub status: OutcomeStatus,
    /// Any JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// How far a command is at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum OutcomeStatus {
    /// Not done yet.
    Pending,
    /// Done.
    Done,
    /// It can't be done.
    Failed,
}

impl OutcomeStatus {
    /// As in JSON and in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeStatus::Pending => "pending",
            OutcomeStatus::Done => "done",
            OutcomeStatus::Failed => "failed",
        }
    }
}

/// Answer of `DELETE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Removed {
    /// The revision of the removal.
    pub revision: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_to_null_is_no_removal() {
        let text = r#"{"revision":7,"new":null,"changed_at":"now","changed_by":null}"#;
        let change: ConfigChange = serde_json::from_str(text).unwrap();
        assert_eq!((&change.old, &change.new), (&None, &Some(Value::Null)));
        assert_eq!(serde_json::to_string(&change).unwrap(), text);
    }

    #[test]
    fn value_must_be_given() {
        assert!(serde_json::from_str::<NewConfig>("{}").is_err());
        assert!(serde_json::from_str::<NewConfig>(r#"{"value":null}"#).is_ok());
    }
}
