//! `GET /v1/events`: what has changed, as server-sent events, resumable on any machine.
//!
//! Owns a watcher's place in the stream. A watcher has no queue: it is asked for the next event when its socket has room.
//! Read `watch/mod.rs` for what may be told.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tanist_api::{HEADER_LAST_EVENT_ID, code};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::{
    ApiError, AppState, Inner, WAIT,
    authorize::may_stay,
    shares::{self, Share, Who},
    socket::Usage,
};
use crate::{
    auth::Holder,
    clock,
    reader::{ReadError, ReadPool},
    watch::{End, Filter, Hub, KINDS, Look, Page, Presence, Shown, page},
};

/// A watcher hears something at least so often, so that it notices a dead machine.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A watcher that finds the read pool full asks again after so long.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Watchers that read the database at the same time; the others wait, so that queries find their place.
pub(super) const CATCHING_UP: usize = 4;
/// Tables in a request.
const MOST_TABLES: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    after: Option<String>,
    kinds: Option<String>,
    subject_prefix: Option<String>,
    tables: Option<String>,
}

pub(super) async fn get(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let access = Access {
        state: state.clone(),
        authorization: request.headers().get(header::AUTHORIZATION).cloned(),
        holder: request.extensions().get::<Holder>().cloned(),
    };
    let state = &*state.0;
    let (after, mut filter) = asked(&request)?;
    // An agent sees what concerns its node, whatever else it asks for.
    filter.node = access.holder.as_ref().and_then(|holder| holder.node.as_deref()).map(Box::from);
    if state.readers.is_witness() {
        return Err(ApiError::read(ReadError::Witness));
    }
    let (permit, share) = place(&access.state, &request)?;
    let presence = state.hub.enter();
    let newest = newest(state, presence.hub(), after).await?;
    let oldest = presence.hub().oldest();
    let after = after.unwrap_or(newest);
    if after.saturating_add(1) < oldest {
        return Err(ApiError::new(StatusCode::GONE, code::EVENTS_PRUNED, pruned(after, oldest)));
    }
    if let Some(usage) = request.extensions().get::<Arc<Usage>>() {
        usage.watch();
    }
    let watcher = Watcher {
        changes: presence.hub().changes(),
        presence,
        readers: state.readers.clone(),
        catching_up: Arc::clone(&state.catching_up),
        filter,
        after,
        page: VecDeque::new(),
        page_until: after,
        stage: Stage::Begins,
        access,
        allowed_until: Instant::now() + KEEP_ALIVE,
        quiet_until: Instant::now() + KEEP_ALIVE,
        _permit: permit,
        _share: share,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|frame| (Ok::<_, Infallible>(frame), watcher))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// A watcher's place, and what it takes of its client's share.
fn place(app: &AppState, request: &Request) -> Result<(OwnedSemaphorePermit, Option<Share>), ApiError> {
    let state = &*app.0;
    let permit = Arc::clone(&state.watchers).try_acquire_owned();
    if shares::is_operator(app, request) {
        let permit = permit.or_else(|_| Arc::clone(&state.operators_watchers).try_acquire_owned());
        return Ok((permit.map_err(|_| too_many())?, None));
    }
    let who = Who::of(request);
    let share = state.watchers_each.take(who.clone());
    let share = share.ok_or_else(|| shares::full(&who, "watchers", "limits.watchers_per_client"))?;
    Ok((permit.map_err(|_| too_many())?, Some(share)))
}

fn too_many() -> ApiError {
    ApiError::overloaded("too many watchers (limits.watchers)")
}

/// After which event, and which of them. `Last-Event-ID` wins: a browser that connects again sends both.
fn asked(request: &Request) -> Result<(Option<u64>, Filter), ApiError> {
    let Query(asked) = Query::<Asked>::try_from_uri(request.uri())
        .map_err(|error| ApiError::bad_request(format!("query: {}", error.body_text())))?;
    let after = match last_event_id(request.headers())? {
        Some(id) => Some((HEADER_LAST_EVENT_ID, id)),
        None => asked.after.map(|after| ("after", after)),
    };
    let after = after.map(|(name, text)| match text.parse::<u64>() {
        // SQLite counts to there.
        Ok(id) if i64::try_from(id).is_ok() => Ok(id),
        _ => Err(ApiError::bad_request(format!("{name}: found {text:?}, expected an event's id"))),
    });
    let tables = list(asked.tables);
    if tables.len() > MOST_TABLES {
        let found = tables.len();
        return Err(ApiError::bad_request(format!("tables: found {found}, expected at most {MOST_TABLES}")));
    }
    let mut kinds = list(asked.kinds);
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        let expected = KINDS.join(", ");
        return Err(ApiError::bad_request(format!("kinds: found {unknown:?}, expected some of {expected}")));
    }
    if kinds.is_empty() && !tables.is_empty() {
        kinds.push("row".to_owned());
    }
    let subject_prefix = asked.subject_prefix.unwrap_or_default();
    Ok((after.transpose()?, Filter { kinds, subject_prefix, tables, node: None }))
}

fn list(text: Option<String>) -> Vec<String> {
    text.iter().flat_map(|text| text.split(',')).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(HEADER_LAST_EVENT_ID) else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        ApiError::bad_request(format!(
            "{HEADER_LAST_EVENT_ID}: found other than text, expected an event's id"
        ))
    })?;
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// The newest event that may be told, once that is known and is not before `after`; waits for it a while.
async fn newest(state: &Inner, hub: &Hub, after: Option<u64>) -> Result<u64, ApiError> {
    let until = Instant::now() + WAIT;
    let mut changes = hub.changes();
    loop {
        changes.borrow_and_update();
        let newest = hub.newest().map_err(|end| ApiError::not_fresh(why(&end)))?;
        if let Some(newest) = newest.filter(|newest| after.is_none_or(|after| after <= *newest)) {
            return Ok(newest);
        }
        if timeout_at(until, changes.changed()).await.is_ok_and(|changed| changed.is_ok()) {
            continue;
        }
        return Err(match (newest, after) {
            // What another machine has told, the master has.
            (Some(newest), Some(after)) if state.gate.is_open(clock::now_ns()).is_some() => {
                ApiError::bad_request(format!(
                    "after: found {after}, expected at most {newest}, the newest event"
                ))
            }
            (Some(newest), Some(after)) => ApiError::not_fresh(format!(
                "after: found {after}, this replica has events up to {newest}, and more will come or are on another machine"
            )),
            _ => ApiError::not_fresh("this machine doesn't know yet which events are acknowledged"),
        });
    }
}

fn pruned(after: u64, oldest: u64) -> String {
    format!(
        "after: found {after}, but events before {oldest}, the oldest kept, were removed; to reload, read what you follow \
         together with `SELECT events FROM tanist_position` in one strong /v1/query, and watch on after that number"
    )
}

fn why(end: &End) -> &'static str {
    match end {
        End::Stopping => "this machine stops: go on at another",
        End::Stale => "this replica has not been current for long: go on at another machine",
        End::Lost => {
            "events that were told are lost, as an operator has accepted: read what you follow anew, as after events-pruned"
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Begins,
    Goes,
    Ended,
}

/// By what right a watcher watches.
struct Access {
    state: AppState,
    authorization: Option<HeaderValue>,
    holder: Option<Holder>,
}

impl Access {
    async fn is_refused(&self) -> bool {
        let Some(holder) = &self.holder else { return false };
        !may_stay(&self.state, holder, self.authorization.as_ref()).await
    }
}

struct Watcher {
    presence: Presence,
    changes: watch::Receiver<u64>,
    readers: ReadPool,
    catching_up: Arc<Semaphore>,
    filter: Filter,
    /// All wanted events up to here have been sent.
    after: u64,
    /// Read from the database, while it is behind the ring.
    page: VecDeque<Shown>,
    page_until: u64,
    stage: Stage,
    access: Access,
    /// Its token is looked at again then.
    allowed_until: Instant,
    quiet_until: Instant,
    _permit: OwnedSemaphorePermit,
    _share: Option<Share>,
}

impl Watcher {
    /// What is sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let frame = match self.stage {
            Stage::Ended => return None,
            Stage::Begins => {
                self.stage = Stage::Goes;
                let after = self.after;
                // The id without data makes no event, but a client remembers it.
                Bytes::from(format!("retry: 500\nid: {after}\n: begins after event {after}\n\n"))
            }
            Stage::Goes => match self.refused().await {
                Some(why) => self.end(code::UNAUTHORIZED, why),
                None => self.following().await,
            },
        };
        self.quiet_until = Instant::now() + KEEP_ALIVE;
        Some(frame)
    }

    /// Why the watcher may not go on: its token was revoked meanwhile.
    async fn refused(&mut self) -> Option<&'static str> {
        if Instant::now() < self.allowed_until {
            return None;
        }
        self.allowed_until = Instant::now() + KEEP_ALIVE;
        self.access
            .is_refused()
            .await
            .then_some("this token isn't known (any more), or may do less than before")
    }

    async fn following(&mut self) -> Bytes {
        loop {
            if let Some(event) = self.page.pop_front() {
                self.after = if self.page.is_empty() { self.page_until } else { event.id };
                return event.frame;
            }
            self.changes.borrow_and_update();
            match self.presence.look(self.after, &self.filter) {
                Look::Event(event) => {
                    self.after = event.id;
                    return event.frame.clone();
                }
                Look::Nothing(after) => {
                    self.after = after;
                    if timeout_at(self.quiet_until, self.changes.changed()).await.is_err() {
                        return Bytes::from(format!("id: {after}\n:\n\n"));
                    }
                }
                Look::Behind(until) => {
                    if let Some(end) = self.read_on(until).await {
                        return end;
                    }
                }
                Look::End(end) => {
                    let code = match end {
                        End::Stopping => code::STOPPING,
                        End::Stale => code::NOT_FRESH,
                        End::Lost => code::EVENTS_LOST,
                    };
                    return self.end(code, why(&end));
                }
            }
        }
    }

    /// Reads the next page; gives the stream's end if there is none.
    async fn read_on(&mut self, until: u64) -> Option<Bytes> {
        let (after, filter) = (self.after, self.filter.clone());
        let found = {
            let _permit = self.catching_up.acquire().await;
            self.readers.run(move |connection| page(connection, after, until, &filter)).await
        };
        match found {
            Ok(Page::Events { events, until }) if events.is_empty() => self.after = until,
            Ok(Page::Events { events, until }) => (self.page, self.page_until) = (events.into(), until),
            Ok(Page::Pruned(oldest)) => return Some(self.end(code::EVENTS_PRUNED, &pruned(after, oldest))),
            Err(ReadError::Overloaded) => tokio::time::sleep(BUSY_PAUSE).await,
            Err(error) => {
                tracing::warn!(%error, "a watcher's events could not be read");
                return Some(self.end(code::STORAGE, &error.to_string()));
            }
        }
        None
    }

    /// The last thing a watcher hears.
    fn end(&mut self, code: &str, detail: &str) -> Bytes {
        self.stage = Stage::Ended;
        Bytes::from(format!("event: end\ndata: {}\n\n", json!({ "code": code, "detail": detail })))
    }
}
