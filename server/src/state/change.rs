//! Each kind of change: find what is there, check the condition, write what differs, show what is so then.

use rusqlite::{Connection, OptionalExtension as _, Params, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tanist_api::{NewCommand, NewOutcome, NodeSpec, OutcomeStatus, PresenceStatus, Report};

use crate::auth::MOST_TOKENS;

use super::{
    Action, ChangeError, Condition, Done, NewTokenRow, Refusal, entry,
    limits::{check_node, check_state},
    select,
};

type Answer = Result<Done, ChangeError>;

/// The transaction, and who signs what is written in it.
pub(super) struct Db<'c> {
    pub(super) connection: &'c Connection,
    pub(super) actor: Option<&'c str>,
}

impl Db<'_> {
    fn write(&self, sql: &str, params: impl Params) -> Result<(), rusqlite::Error> {
        let execute = |sql: &str, params: &[&str]| {
            self.connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(params)).map(drop)
        };
        // Whoever a person has left there doesn't sign for others.
        execute("DELETE FROM tanist_actor WHERE id = 1", &[])?;
        if let Some(actor) = self.actor {
            execute("INSERT INTO tanist_actor (id, name) VALUES (1, ?1)", &[actor])?;
        }
        self.connection.prepare_cached(sql)?.execute(params)?;
        if self.actor.is_some() {
            execute("DELETE FROM tanist_actor WHERE id = 1", &[])?;
        }
        Ok(())
    }
}

/// What is there now: revision and JSON.
type Found = Option<(i64, String)>;

pub(super) fn perform(db: &Db<'_>, action: &Action, condition: &Condition) -> Answer {
    if let Action::SendCommand(_) = action {
        // Always something new.
        condition.check(None)?;
    }
    match action {
        Action::SetConfig { key, value } => set_config(db, key, value, condition),
        Action::RemoveConfig { key } => remove(db, &CONFIG, key, condition),
        Action::SetNode { name, spec } => {
            let found = entry(db.connection, select::NODE, name)?;
            condition.check(revision(&found))?;
            set_node(db, name, spec, found)
        }
        Action::PatchNode { name, patch } => patch_node(db, name, patch, condition),
        Action::RemoveNode { name } => remove(db, &NODE, name, condition),
        Action::SetDesired { node, state } => {
            let found = desired(db, node)?;
            condition.check(revision(&found))?;
            set_desired(db, node, state, found)
        }
        Action::PatchDesired { node, patch } => patch_desired(db, node, patch, condition),
        Action::Report { node, report } => set_reported(db, node, report, condition),
        Action::MarkPresence(nodes) => mark_presence(db, nodes),
        Action::MakeToken(new) => make_token(db, new),
        Action::RevokeToken { name } => remove(db, &TOKEN, name, condition),
        Action::HoldUpgrade => hold_upgrade(db, true, condition),
        Action::ReleaseUpgrade => hold_upgrade(db, false, condition),
        Action::SendCommand(command) => send(db, command),
        Action::ReportOutcome { command, node, outcome } => {
            report_outcome(db, *command, node, outcome, condition)
        }
    }
}

fn revision(found: &Found) -> Option<i64> {
    found.as_ref().map(|(revision, _)| *revision)
}

/// What was found, when it can be read. The tables hold any JSON, a person's odd one too; that differs from everything.
fn read<T: DeserializeOwned>(found: &Found) -> Option<T> {
    serde_json::from_str(&found.as_ref()?.1).ok()
}

/// Everything is so already.
fn unchanged(found: Found) -> Option<Done> {
    found.map(|(revision, body)| Done { created: false, revision, body })
}

/// What is so after a write.
fn shown(db: &Db<'_>, sql: &str, name: &str, created: bool) -> Answer {
    let (revision, body) = entry(db.connection, sql, name)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok(Done { created, revision, body })
}

/// A thing that can be removed.
struct Kind {
    what: &'static str,
    select: &'static str,
    delete: &'static str,
}

const CONFIG: Kind =
    Kind { what: "key", select: select::CONFIG, delete: "DELETE FROM tanist_config WHERE key = ?1" };
const NODE: Kind =
    Kind { what: "node", select: select::NODE, delete: "DELETE FROM tanist_nodes WHERE name = ?1" };

const TOKEN: Kind =
    Kind { what: "token", select: select::TOKEN, delete: "DELETE FROM tanist_tokens WHERE name = ?1" };

fn mark_presence(db: &Db<'_>, nodes: &[(String, PresenceStatus)]) -> Answer {
    for (node, status) in nodes {
        // One that was removed meanwhile has no presence.
        db.write(
            "INSERT INTO tanist_node_presence (node, status) SELECT name, ?2 FROM tanist_nodes WHERE name = ?1 \
             ON CONFLICT (node) DO UPDATE SET status = excluded.status",
            params![node, status.as_str()],
        )?;
    }
    Ok(Done { created: false, revision: 0, body: "null".to_owned() })
}

/// Never a second time under the same name: whoever has the first would be shut out unasked.
fn make_token(db: &Db<'_>, new: &NewTokenRow) -> Answer {
    let NewTokenRow { name, role, node, expires_in_seconds, hash } = new;
    if entry(db.connection, select::TOKEN, name)?.is_some() {
        return Err(Refusal::Conflict(format!("there is a token {name:?} already: revoke it first")).into());
    }
    let count: i64 = db
        .connection
        .prepare_cached("SELECT count(*) FROM tanist_tokens")?
        .query_row([], |row| row.get(0))?;
    if count >= MOST_TOKENS {
        return Err(Refusal::Conflict(format!("there are {count} tokens already, which is the most")).into());
    }
    db.write(
        "INSERT INTO tanist_tokens (name, role, hash, node, expires_at) \
         VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+' || ?5 || ' seconds'))",
        params![name, role.as_str(), hash, node, expires_in_seconds.map(|seconds| seconds.to_string())],
    )?;
    shown(db, select::TOKEN, name, true)
}

/// The level stays where it is, or may be raised.
fn hold_upgrade(db: &Db<'_>, hold: bool, condition: &Condition) -> Answer {
    condition.check(None)?;
    // On a database that hasn't come to that migration it isn't there yet.
    db.connection.execute_batch(tanist_store::HOLD_TABLE)?;
    let held: bool =
        db.connection.query_row("SELECT count(*) FROM tanist_upgrade_hold", [], |row| row.get(0))?;
    match (held, hold) {
        (false, true) => db.write("INSERT INTO tanist_upgrade_hold (id) VALUES (1)", [])?,
        (true, false) => db.write("DELETE FROM tanist_upgrade_hold", [])?,
        _ => {}
    }
    shown(db, select::UPGRADE, "", false)
}

fn missing(what: &str, name: &str) -> Refusal {
    Refusal::NotFound(format!("there is no {what} {name:?}"))
}

fn remove(db: &Db<'_>, kind: &Kind, name: &str, condition: &Condition) -> Answer {
    let found = entry(db.connection, kind.select, name)?;
    let Some(revision) = revision(&found) else { return Err(missing(kind.what, name).into()) };
    condition.check(Some(revision))?;
    db.write(kind.delete, [name])?;
    let revision: i64 =
        db.connection.prepare_cached("SELECT max(id) FROM tanist_events")?.query_row([], |row| row.get(0))?;
    Ok(Done { created: false, revision, body: json!({ "revision": revision }).to_string() })
}

fn set_config(db: &Db<'_>, key: &str, value: &Value, condition: &Condition) -> Answer {
    #[derive(Deserialize)]
    struct Now {
        value: Value,
    }
    let found = entry(db.connection, select::CONFIG, key)?;
    condition.check(revision(&found))?;
    let created = found.is_none();
    if read::<Now>(&found).is_some_and(|now| now.value == *value)
        && let Some(done) = unchanged(found)
    {
        return Ok(done);
    }
    db.write("INSERT INTO tanist_config (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        params![key, value.to_string()],
    )?;
    shown(db, select::CONFIG, key, created)
}

/// The part of a node's entry that requests set.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Spec {
    address: Option<String>,
    row: Option<u32>,
    column: Option<u32>,
    labels: Map<String, Value>,
}

impl From<Spec> for NodeSpec {
    fn from(spec: Spec) -> NodeSpec {
        let Spec { address, row, column, labels } = spec;
        NodeSpec { address, row, column, labels }
    }
}

fn set_node(db: &Db<'_>, name: &str, spec: &NodeSpec, found: Found) -> Answer {
    let created = found.is_none();
    if read::<Spec>(&found).is_some_and(|now| NodeSpec::from(now) == *spec)
        && let Some(done) = unchanged(found)
    {
        return Ok(done);
    }
    db.write(
        "INSERT INTO tanist_nodes (name, address, grid_row, grid_column, labels) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (name) DO UPDATE SET address = excluded.address, grid_row = excluded.grid_row, \
         grid_column = excluded.grid_column, labels = excluded.labels",
        params![name, spec.address, spec.row, spec.column, text(&spec.labels)],
    )?;
    shown(db, select::NODE, name, created)
}

fn patch_node(db: &Db<'_>, name: &str, patch: &Value, condition: &Condition) -> Answer {
    let found = entry(db.connection, select::NODE, name)?;
    if found.is_none() {
        return Err(missing("node", name).into());
    }
    condition.check(revision(&found))?;
    let now: NodeSpec = read::<Spec>(&found).unwrap_or_default().into();
    let spec: NodeSpec = merged(db, &now, patch)?;
    check_node(&spec).map_err(Refusal::Invalid)?;
    set_node(db, name, &spec, found)
}

/// The node's desired state, if it has one.
fn desired(db: &Db<'_>, node: &str) -> Result<Found, ChangeError> {
    known_node(db, node)?;
    Ok(entry(db.connection, select::DESIRED, node)?)
}

fn known_node(db: &Db<'_>, node: &str) -> Result<(), ChangeError> {
    let known = db.connection.prepare_cached("SELECT 1 FROM tanist_nodes WHERE name = ?1")?.exists([node])?;
    if known { Ok(()) } else { Err(missing("node", node).into()) }
}

#[derive(Default, Deserialize, Serialize)]
struct State {
    state: Map<String, Value>,
}

fn set_desired(db: &Db<'_>, node: &str, state: &Map<String, Value>, found: Found) -> Answer {
    check_state(state).map_err(Refusal::Invalid)?;
    let created = found.is_none();
    if read::<State>(&found).is_some_and(|now| now.state == *state)
        && let Some(done) = unchanged(found)
    {
        return Ok(done);
    }
    db.write("INSERT INTO tanist_desired_state (node, state) VALUES (?1, ?2) ON CONFLICT (node) DO UPDATE SET state = excluded.state",
        params![node, text(state)],
    )?;
    shown(db, select::DESIRED, node, created)
}

/// Where nothing is desired yet, a patch begins with an empty state.
fn patch_desired(db: &Db<'_>, node: &str, patch: &Value, condition: &Condition) -> Answer {
    let found = desired(db, node)?;
    condition.check(revision(&found))?;
    let now: State = read(&found).unwrap_or_default();
    let new: tanist_api::NewDesired = merged(db, &now, patch)?;
    set_desired(db, node, &new.state, found)
}

/// `now` with the patch merged into it (RFC 7396), by SQLite's own `json_patch`.
fn merged<T: DeserializeOwned>(db: &Db<'_>, now: &impl Serialize, patch: &Value) -> Result<T, ChangeError> {
    let now = serde_json::to_string(now).unwrap_or_default();
    let merged: String = db
        .connection
        .prepare_cached("SELECT json_patch(?1, ?2)")?
        .query_row(params![now, patch.to_string()], |row| row.get(0))?;
    let mut json = serde_json::Deserializer::from_str(&merged);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        Refusal::Invalid(match error.path().iter().len() {
            0 => format!("patch: its result: {}", error.inner()),
            _ => format!("{}: {}", error.path(), error.inner()),
        })
        .into()
    })
}

fn set_reported(db: &Db<'_>, node: &str, report: &Report, condition: &Condition) -> Answer {
    #[derive(Deserialize)]
    struct Now {
        state: Map<String, Value>,
        desired_revision: Option<i64>,
        error: Option<String>,
    }
    known_node(db, node)?;
    let found = entry(db.connection, select::REPORTED, node)?;
    condition.check(revision(&found))?;
    let created = found.is_none();
    let same = read::<Now>(&found).is_some_and(|now| {
        (&now.state, now.desired_revision, &now.error)
            == (&report.state, report.desired_revision, &report.error)
    });
    if same && let Some(done) = unchanged(found) {
        return Ok(done);
    }
    db.write("INSERT INTO tanist_reported_state (node, state, desired_revision, error) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (node) DO UPDATE SET state = excluded.state, desired_revision = excluded.desired_revision, \
         error = excluded.error",
        params![node, text(&report.state), report.desired_revision, report.error],
    )?;
    shown(db, select::REPORTED, node, created)
}

fn send(db: &Db<'_>, command: &NewCommand) -> Answer {
    for (index, node) in command.nodes.iter().enumerate() {
        match known_node(db, node) {
            Err(ChangeError::Refused(_)) => {
                let why = format!("nodes[{index}]: found {node:?}, expected a node that there is");
                return Err(Refusal::Invalid(why).into());
            }
            other => other?,
        }
    }
    db.write(
        "INSERT INTO tanist_commands (name, arguments, nodes) VALUES (?1, ?2, ?3)",
        params![command.name, command.arguments.to_string(), Value::from(command.nodes.clone()).to_string()],
    )?;
    let id = db.connection.last_insert_rowid();
    shown(db, select::COMMAND, &id.to_string(), true)
}

fn report_outcome(
    db: &Db<'_>,
    command: i64,
    node: &str,
    outcome: &NewOutcome,
    condition: &Condition,
) -> Answer {
    let id = command.to_string();
    let found = entry(db.connection, select::COMMAND, &id)?;
    if found.is_none() {
        return Err(missing("command", &id).into());
    }
    condition.check(revision(&found))?;
    let before: Option<(String, String)> = db
        .connection
        .prepare_cached(
            "SELECT status, detail FROM tanist_command_outcomes WHERE command = ?1 AND node = ?2",
        )?
        .query_row(params![command, node], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((status, detail)) = before else {
        let why = format!("command {id} wasn't sent to a node {node:?}");
        return Err(Refusal::NotFound(why).into());
    };
    let same = status == outcome.status.as_str()
        && serde_json::from_str::<Value>(&detail).is_ok_and(|detail| detail == outcome.detail);
    if same && let Some(done) = unchanged(found) {
        return Ok(done);
    }
    if status != OutcomeStatus::Pending.as_str() {
        let why = format!("status: found {:?} after {status:?}, which is final", outcome.status.as_str());
        return Err(Refusal::Conflict(why).into());
    }
    db.write(
        "UPDATE tanist_command_outcomes SET status = ?3, detail = ?4 WHERE command = ?1 AND node = ?2",
        params![command, node, outcome.status.as_str(), outcome.detail.to_string()],
    )?;
    shown(db, select::COMMAND, &id, false)
}

pub(super) fn text(object: &Map<String, Value>) -> String {
    serde_json::to_string(object).unwrap_or_default()
}
