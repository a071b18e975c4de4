//! Watching: events as they happen, from any machine, resumed on another one when it fails.
//!
//! Owns the place in the stream. Read `sse.rs` for the format.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tanist_api::{HEADER_LAST_EVENT_ID, Problem, WatchEvent, code};
use tokio::time::timeout;

use crate::{
    Client, Error,
    call::{Attempt, chain, refusal},
    hosts::{Host, Need, Trouble},
    send::Sent,
    sse::{Block, Parser},
    state::encoded,
};

/// Machines say something every 5 s; one that doesn't for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(12);
/// A machine may wait 5 s for the watcher's place before it answers.
const LEAST_ATTEMPT: Duration = Duration::from_secs(8);
/// Largest error answer taken, in bytes.
const PROBLEM_LIMIT: usize = 1 << 20;

/// What to watch; by default everything, from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Begin after this event; from now on otherwise.
    pub after: Option<u64>,
    /// Only these kinds; all when empty.
    pub kinds: Vec<String>,
    /// Only subjects that begin so.
    pub subject_prefix: String,
    /// Of rows only those of these tables; with no kinds given, nothing but them.
    pub tables: Vec<String>,
}

/// A stream of events that goes on at another machine when one fails: in order, none twice, none missed.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    path: String,
    after: Option<u64>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    host: Host,
    body: Incoming,
    parser: Parser,
}

/// The last thing that a machine says.
#[derive(Debug, Deserialize)]
struct End {
    code: String,
    detail: String,
}

/// The part of an event that stands in its data.
#[derive(Debug, Deserialize)]
struct Data {
    at: String,
    subject: String,
    actor: Option<String>,
    data: serde_json::Value,
}

impl Client {
    /// Watches what changes. Nothing is sent before the first [`Watch::next`].
    ///
    /// ```no_run
    /// # use tanist_client::{Client, Error, WatchOptions};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let mut watch = client.watch(WatchOptions { kinds: vec!["config".into()], ..WatchOptions::default() });
    /// loop {
    ///     let event = watch.next().await?;
    ///     println!("{} is now {}", event.subject, event.data);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self, options: WatchOptions) -> Watch {
        let mut parameters = vec![];
        for (name, value) in [
            ("kinds", options.kinds.join(",")),
            ("subject_prefix", options.subject_prefix),
            ("tables", options.tables.join(",")),
        ] {
            if !value.is_empty() {
                parameters.push(format!("{name}={}", encoded(&value)));
            }
        }
        let separator = if parameters.is_empty() { "" } else { "?" };
        let path = format!("/v1/events{separator}{}", parameters.join("&"));
        Watch { client: self.clone(), path, after: options.after, open: None }
    }
}

impl Watch {
    /// The newest event that was seen (or passed by, unwanted): a later watch goes on after it. None before the first
    /// answer of a watch that begins now.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.after
    }

    /// The machine that tells now.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.open.as_ref().map(|open| open.host.as_str())
    }

    /// The next event. May be dropped and called again: nothing is lost by that.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no machine has let the watch go on within the client's deadline; called again it goes on
    /// trying. [`Error::Problem`] with `events-pruned` or `events-lost` when what follows can't be told any more: read
    /// what you follow anew, as the detail says.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }

    /// Connects, and gives the event after which the watch begins: what is read from the database from now on is at least as
    /// new. Only needed by who wants to know.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn begin(&mut self) -> Result<u64, Error> {
        loop {
            if let (Some(after), Some(_)) = (self.after, &self.open) {
                return Ok(after);
            }
            // A machine says where it begins before it tells anything.
            self.step().await?;
        }
    }

    /// One thing at a time; gives an event if that was one.
    async fn step(&mut self) -> Result<Option<WatchEvent>, Error> {
        let Some(open) = &mut self.open else {
            self.open = Some(self.connect().await?);
            return Ok(None);
        };
        if let Some(block) = open.parser.next() {
            return match told(&mut self.after, &open.host, block) {
                None => Ok(None),
                Some(Ok(event)) => Ok(Some(event)),
                Some(Err(Ended::Elsewhere(why))) => {
                    self.leave(Trouble::Refusing, &why);
                    Ok(None)
                }
                Some(Err(Ended::Final(error))) => {
                    self.open = None;
                    Err(error)
                }
            };
        }
        let why = match timeout(SILENCE, open.body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let pushed = open.parser.push(&frame.into_data().unwrap_or_default());
                return match pushed {
                    Ok(()) => Ok(None),
                    Err(why) => {
                        let host = open.host.clone();
                        self.open = None;
                        Err(Error::Unexpected { host, why })
                    }
                };
            }
            Ok(Some(Err(error))) => chain(&error),
            Ok(None) => "the stream ended".to_owned(),
            Err(_) => format!("nothing came for {SILENCE:?}"),
        };
        self.leave(Trouble::Unreachable, &why);
        Ok(None)
    }

    /// The same as a stream, for `StreamExt` and the like; it never ends by itself.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent, Error>> {
        stream::unfold(self, |mut watch| async move {
            let next = watch.next().await;
            Some((next, watch))
        })
    }

    fn leave(&mut self, trouble: Trouble, why: &str) {
        if let Some(open) = self.open.take() {
            tracing::debug!(host = open.host, why, "the watch goes on elsewhere");
            self.client.on_trouble(&open.host, Need::Any, trouble, None, why);
        }
    }

    async fn connect(&self) -> Result<Open, Error> {
        let deadline = self.client.deadline();
        let until = Instant::now() + deadline;
        let mut tried: Vec<Host> = vec![];
        let mut last = "there was no time for an attempt".to_owned();
        while let Some((host, left)) = self.client.next_host(Need::Any, until).await {
            if !tried.contains(&host) {
                tried.push(host.clone());
            }
            let limit = self.client.attempt_timeout().max(LEAST_ATTEMPT).min(left);
            let attempt = timeout(limit, self.attempt(&host)).await;
            let attempt =
                attempt.unwrap_or_else(|_| Err(Attempt::Unknown(format!("no answer within {limit:?}"))));
            let (why, trouble, retry_after) = match attempt {
                Ok(body) => {
                    self.client.on_served(&host, Need::Any);
                    self.client.refresh(&host, tried.len() > 1);
                    return Ok(Open { host, body, parser: Parser::default() });
                }
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Refused { why, trouble, retry_after }) => (why, trouble, retry_after),
                Err(Attempt::Unknown(why)) => (why, Trouble::Unreachable, None),
                Err(Attempt::Done(_) | Attempt::Redirect(_) | Attempt::Superseded(_)) => {
                    ("an answer that is no stream of events".to_owned(), Trouble::Refusing, None)
                }
            };
            self.client.on_trouble(&host, Need::Any, trouble, retry_after, &why);
            last = format!("{host}: {why}");
        }
        Err(Error::Unavailable { deadline, tried: tried.join(", "), last })
    }

    async fn attempt(&self, host: &Host) -> Result<Incoming, Attempt> {
        let after = self.after.map(|after| after.to_string());
        let mut headers = vec![(header::ACCEPT.as_str(), "text/event-stream")];
        headers.extend(after.as_deref().map(|after| (HEADER_LAST_EVENT_ID, after)));
        let body = Bytes::new();
        let sent = Sent { method: &Method::GET, path: &self.path, headers: &headers, body: &body };
        let response =
            self.client.send(host, sent).await.map_err(|unsent| match unsent.into_attempt(host) {
                // A watch does nothing that could have been done.
                Attempt::Unknown(why) => {
                    Attempt::Refused { why, trouble: Trouble::Unreachable, retry_after: None }
                }
                other => other,
            })?;
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            return Ok(body);
        }
        match Limited::new(body, PROBLEM_LIMIT).collect().await {
            Ok(body) => Err(refusal(host, head.status, &head.headers, &body.to_bytes())),
            Err(error) => Err(Attempt::Unknown(format!("the answer broke off: {error}"))),
        }
    }
}

enum Ended {
    /// Another machine can go on.
    Elsewhere(String),
    /// None can.
    Final(Error),
}

/// What a block says, if it says anything to the watcher; moves his place.
fn told(after: &mut Option<u64>, host: &str, block: Block) -> Option<Result<WatchEvent, Ended>> {
    let unexpected = |why| Some(Err(Ended::Final(Error::Unexpected { host: host.to_owned(), why })));
    if block.event == "end" {
        return Some(Err(match serde_json::from_str(&block.data) {
            Ok(End { code, detail }) if [code::EVENTS_PRUNED, code::EVENTS_LOST].contains(&code.as_str()) => {
                let problem = Problem {
                    kind: format!("urn:tanist:problem:{code}"),
                    title: code.replace('-', " "),
                    status: StatusCode::GONE.as_u16(),
                    code,
                    detail,
                    statement: None,
                    sqlite_code: None,
                    sql_offset: None,
                    sql_excerpt: None,
                };
                Ended::Final(Error::Problem(Box::new(problem)))
            }
            Ok(End { detail, .. }) => Ended::Elsewhere(detail),
            Err(error) => Ended::Elsewhere(format!("its end can't be read: {error}")),
        }));
    }
    let id = match block.id.as_deref().map(str::parse::<u64>) {
        Some(Ok(id)) => id,
        Some(Err(_)) => return unexpected(format!("an event's id that is no number: {:?}", block.id)),
        None if block.data.is_empty() => return None,
        None => return unexpected("an event without an id".to_owned()),
    };
    if block.data.is_empty() {
        // No event, only a place: all before it that was wanted has been told.
        *after = Some(after.map_or(id, |after| after.max(id)));
        return None;
    }
    if let Some(known) = after.filter(|known| id <= *known) {
        return unexpected(format!("event {id} after event {known}"));
    }
    match serde_json::from_str(&block.data) {
        Ok(Data { at, subject, actor, data }) => {
            *after = Some(id);
            Some(Ok(WatchEvent { id, kind: block.event, at, subject, actor, data }))
        }
        Err(error) => unexpected(format!("event {id}: {error}")),
    }
}
