//! Configuration, nodes, desired and reported states, commands: typed calls of the control room's routes.
//!
//! Owns paths, queries and conditions only; attempts and retries are those of every call. Read `call.rs` for them.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tanist_api::{
    Command, ConfigChange, ConfigEntry, DesiredState, HEADER_IDEMPOTENCY_KEY, HEADER_MIN_POSITION,
    HEADER_POSITION, MERGE_PATCH_JSON, NewCommand, NewConfig, NewDesired, NewOutcome, Node, NodeSpec,
    NodeSummary, OutcomeStatus, Page, Removed, Report, ReportedState, Seen,
};

use crate::{
    Client, Consistency, Error,
    call::{Answer, Call, Effect, parse},
    client::{json, key},
    hosts::{Host, Need},
};

/// What may differ for one read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// How current it must be.
    pub consistency: Consistency,
    /// Wait until the replica has this position (of an earlier answer), so that the caller never goes back in time.
    pub min_position: Option<String>,
}

/// What may differ for one change.
#[derive(Debug, Clone, Default)]
pub struct ChangeOptions {
    /// What must be so; otherwise nothing is changed and the error is `precondition-failed`.
    pub only_if: OnlyIf,
    /// The key of an earlier try of the same change; a new one otherwise.
    pub idempotency_key: Option<String>,
    /// Total time; the client's own otherwise.
    pub deadline: Option<Duration>,
}

/// What must be so for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnlyIf {
    /// Nothing in particular.
    #[default]
    Always,
    /// It isn't there yet.
    New,
    /// It is there.
    Exists,
    /// It still has this revision.
    Revision(i64),
}

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// `next` of the page before; the beginning otherwise.
    pub next: Option<String>,
    /// How many entries at most, 1 to 1000; 100 otherwise.
    pub limit: Option<u32>,
}

/// Which commands.
#[derive(Debug, Clone, Default)]
pub struct CommandFilter {
    /// Only those to this node.
    pub node: Option<String>,
    /// Only those of which an outcome, of that node if one is given, is such.
    pub status: Option<OutcomeStatus>,
}

/// Something with the position at which it is so, for a later [`ReadOptions::min_position`].
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// `term.txid`: of the snapshot that was read, or of the change.
    pub position: String,
    /// What is so.
    pub value: T,
}

/// All but what names consist of: a '/' in a key must not become one of the path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> = parameters
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_deref()?))))
        .collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

fn config_path(key: &str) -> String {
    format!("/v1/config/{}", encoded(key))
}

fn node_path(name: &str) -> String {
    format!("/v1/nodes/{}", encoded(name))
}

fn at<T: DeserializeOwned>(host: &Host, answer: &Answer) -> Result<At<T>, Error> {
    let position = answer.headers.get(HEADER_POSITION).and_then(|value| value.to_str().ok());
    let Some(position) = position else {
        return Err(Error::Unexpected { host: host.clone(), why: format!("no header {HEADER_POSITION}") });
    };
    Ok(At { position: position.to_owned(), value: parse(host, &answer.body)? })
}

/// A body and its media type.
struct Content(Bytes, &'static str);

impl Content {
    fn json(value: &impl Serialize) -> Result<Content, Error> {
        Ok(Content(json(value)?, "application/json"))
    }

    fn patch(patch: &Value) -> Result<Content, Error> {
        Ok(Content(json(patch)?, MERGE_PATCH_JSON))
    }
}

/// # Configuration
impl Client {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Problem`] with `not-found` when it has none; see [`Error`] for the rest. The same for all that follow.
    pub async fn config(&self, key: &str, options: &ReadOptions) -> Result<At<ConfigEntry>, Error> {
        self.get(&config_path(key), &[], options).await
    }

    /// The value of a key, unless it still has this revision: `None` then, and next to nothing travels.
    ///
    /// # Errors
    /// As [`Client::config`].
    pub async fn config_unless(
        &self,
        key: &str,
        revision: i64,
        options: &ReadOptions,
    ) -> Result<Option<At<ConfigEntry>>, Error> {
        let (host, answer) = self.read(&config_path(key), &[], options, Some(revision)).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        at(&host, &answer).map(Some)
    }

    /// The keys that begin with `prefix`, in order, a page at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn config_list(
        &self,
        prefix: &str,
        part: &Part,
        options: &ReadOptions,
    ) -> Result<At<Page<ConfigEntry>>, Error> {
        let prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
        let limit = part.limit.map(|limit| limit.to_string());
        let parameters = [("prefix", prefix), ("after", part.next.clone()), ("limit", limit)];
        self.get("/v1/config", &parameters, options).await
    }

    /// The changes of a key, the newest first, removals too.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn config_history(
        &self,
        key: &str,
        part: &Part,
        options: &ReadOptions,
    ) -> Result<At<Page<ConfigChange>>, Error> {
        let limit = part.limit.map(|limit| limit.to_string());
        let parameters = [("before", part.next.clone()), ("limit", limit)];
        self.get(&format!("{}/history", config_path(key)), &parameters, options).await
    }

    /// Gives a key a value. The same value again changes nothing.
    ///
    /// ```no_run
    /// # use tanist_client::{ChangeOptions, Client, Error, OnlyIf, ReadOptions};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let now = client.config("wall/brightness", &ReadOptions::default()).await?.value;
    /// // Only if nobody else has changed it meanwhile.
    /// let options = ChangeOptions { only_if: OnlyIf::Revision(now.revision), ..ChangeOptions::default() };
    /// client.set_config("wall/brightness", &80.into(), &options).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_config(
        &self,
        key: &str,
        value: &Value,
        options: &ChangeOptions,
    ) -> Result<At<ConfigEntry>, Error> {
        let content = Content::json(&NewConfig { value: value.clone() })?;
        self.change(Method::PUT, &config_path(key), content, options).await
    }

    /// Removes a key; its history stays.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_config(&self, key: &str, options: &ChangeOptions) -> Result<At<Removed>, Error> {
        self.remove(&config_path(key), options).await
    }
}

/// # Nodes and their states
impl Client {
    /// The nodes by name, each with whether it is in step, a page at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn nodes(&self, part: &Part, options: &ReadOptions) -> Result<At<Page<NodeSummary>>, Error> {
        let limit = part.limit.map(|limit| limit.to_string());
        self.get("/v1/nodes", &[("after", part.next.clone()), ("limit", limit)], options).await
    }

    /// One node.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn node(&self, name: &str, options: &ReadOptions) -> Result<At<Node>, Error> {
        self.get(&node_path(name), &[], options).await
    }

    /// Makes a node be such, whatever it was.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_node(
        &self,
        name: &str,
        spec: &NodeSpec,
        options: &ChangeOptions,
    ) -> Result<At<Node>, Error> {
        self.change(Method::PUT, &node_path(name), Content::json(spec)?, options).await
    }

    /// Changes of a node what the JSON Merge Patch (RFC 7396) names.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch_node(
        &self,
        name: &str,
        patch: &Value,
        options: &ChangeOptions,
    ) -> Result<At<Node>, Error> {
        self.change(Method::PATCH, &node_path(name), Content::patch(patch)?, options).await
    }

    /// Removes a node with its states; commands that wait for it count as failed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_node(&self, name: &str, options: &ChangeOptions) -> Result<At<Removed>, Error> {
        self.remove(&node_path(name), options).await
    }

    /// What a node shall have.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn desired(&self, node: &str, options: &ReadOptions) -> Result<At<DesiredState>, Error> {
        self.get(&format!("{}/desired", node_path(node)), &[], options).await
    }

    /// Makes this what a node shall have.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_desired(
        &self,
        node: &str,
        state: &Map<String, Value>,
        options: &ChangeOptions,
    ) -> Result<At<DesiredState>, Error> {
        let content = Content::json(&NewDesired { state: state.clone() })?;
        self.change(Method::PUT, &format!("{}/desired", node_path(node)), content, options).await
    }

    /// Changes of what a node shall have what the JSON Merge Patch (RFC 7396) of the state names.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch_desired(
        &self,
        node: &str,
        patch: &Map<String, Value>,
        options: &ChangeOptions,
    ) -> Result<At<DesiredState>, Error> {
        let content = Content::patch(&serde_json::json!({ "state": patch }))?;
        self.change(Method::PATCH, &format!("{}/desired", node_path(node)), content, options).await
    }

    /// What a node says it has.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn reported(&self, node: &str, options: &ReadOptions) -> Result<At<ReportedState>, Error> {
        self.get(&format!("{}/reported", node_path(node)), &[], options).await
    }

    /// Says what a node has. The same said again changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn report(
        &self,
        node: &str,
        report: &Report,
        options: &ChangeOptions,
    ) -> Result<At<ReportedState>, Error> {
        let content = Content::json(report)?;
        self.change(Method::PUT, &format!("{}/reported", node_path(node)), content, options).await
    }
}

/// # Agents
impl Client {
    /// A node's agent gives a sign of life, and learns whether there is something to do.
    ///
    /// # Errors
    /// [`Error::Problem`] with `not-found` when there is no such node; see [`Error`] for the rest.
    pub async fn seen(&self, node: &str) -> Result<Seen, Error> {
        self.operate(Method::POST, &format!("{}/seen", node_path(node)), Bytes::new()).await
    }
}

/// # Commands
impl Client {
    /// Sends a command to nodes: it is recorded, and each node fetches it and reports its outcome.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send_command(
        &self,
        command: &NewCommand,
        options: &ChangeOptions,
    ) -> Result<At<Command>, Error> {
        self.change(Method::POST, "/v1/commands", Content::json(command)?, options).await
    }

    /// Commands, the newest first, a page at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn commands(
        &self,
        filter: &CommandFilter,
        part: &Part,
        options: &ReadOptions,
    ) -> Result<At<Page<Command>>, Error> {
        let parameters = [
            ("node", filter.node.clone()),
            ("status", filter.status.map(|status| status.as_str().to_owned())),
            ("before", part.next.clone()),
            ("limit", part.limit.map(|limit| limit.to_string())),
        ];
        self.get("/v1/commands", &parameters, options).await
    }

    /// One command with its outcomes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn command(&self, id: i64, options: &ReadOptions) -> Result<At<Command>, Error> {
        self.get(&format!("/v1/commands/{id}"), &[], options).await
    }

    /// Says what became of a command at a node. `done` and `failed` are final.
    ///
    /// # Errors
    /// [`Error::Problem`] with `conflict` when another outcome was final already; see [`Error`] for the rest.
    pub async fn report_outcome(
        &self,
        command: i64,
        node: &str,
        outcome: &NewOutcome,
        options: &ChangeOptions,
    ) -> Result<At<Command>, Error> {
        let path = format!("/v1/commands/{command}/outcomes/{}", encoded(node));
        self.change(Method::PUT, &path, Content::json(outcome)?, options).await
    }
}

impl Client {
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, Option<String>)],
        options: &ReadOptions,
    ) -> Result<At<T>, Error> {
        let (host, answer) = self.read(path, parameters, options, None).await?;
        at(&host, &answer)
    }

    async fn read(
        &self,
        path: &str,
        parameters: &[(&str, Option<String>)],
        options: &ReadOptions,
        known: Option<i64>,
    ) -> Result<(Host, Answer), Error> {
        let (consistency, max_staleness, need) = match options.consistency {
            Consistency::Strong => (None, None, Need::Master),
            Consistency::Local => (Some("local".to_owned()), None, Need::Any),
            Consistency::Bounded { max_staleness } => {
                (Some("bounded".to_owned()), Some(format!("{}ms", max_staleness.as_millis())), Need::Any)
            }
        };
        let parameters =
            [parameters, &[("consistency", consistency), ("max_staleness", max_staleness)]].concat();
        let path = with_query(path, &parameters);
        let tag = known.map(|revision| format!("\"{revision}\""));
        let mut headers = Vec::new();
        headers.extend(tag.as_deref().map(|tag| (header::IF_NONE_MATCH.as_str(), tag)));
        headers.extend(options.min_position.as_deref().map(|position| (HEADER_MIN_POSITION, position)));
        self.answer(Call { headers, need, ..Call::get(&path, self.deadline()) }).await
    }

    async fn remove(&self, path: &str, options: &ChangeOptions) -> Result<At<Removed>, Error> {
        self.change(Method::DELETE, path, Content(Bytes::new(), ""), options).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        Content(body, media): Content,
        options: &ChangeOptions,
    ) -> Result<At<T>, Error> {
        let key = key(options.idempotency_key.clone())?;
        let tag = match options.only_if {
            OnlyIf::Revision(revision) => format!("\"{revision}\""),
            _ => "*".to_owned(),
        };
        let mut headers = vec![(HEADER_IDEMPOTENCY_KEY, key.as_str())];
        match options.only_if {
            OnlyIf::Always => {}
            OnlyIf::New => headers.push((header::IF_NONE_MATCH.as_str(), &tag)),
            OnlyIf::Exists | OnlyIf::Revision(_) => headers.push((header::IF_MATCH.as_str(), &tag)),
        }
        if !body.is_empty() {
            headers.push((header::CONTENT_TYPE.as_str(), media));
        }
        let deadline = options.deadline.unwrap_or(self.deadline());
        let call =
            Call { method, path, body, headers, need: Need::Master, deadline, effect: Effect::Write(&key) };
        let (host, answer) = self.answer(call).await?;
        at(&host, &answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        assert_eq!(config_path("wall/a b?c#d"), "/v1/config/wall%2Fa%20b%3Fc%23d");
        assert_eq!(node_path("n-1_x.y"), "/v1/nodes/n-1_x.y");
        let given = [("after", Some("a/b&c=d".to_owned())), ("limit", None)];
        assert_eq!(with_query("/v1/config", &given), "/v1/config?after=a%2Fb%26c%3Dd");
        assert_eq!(with_query("/v1/config", &given[1..]), "/v1/config");
    }
}
