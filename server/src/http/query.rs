//! `POST /v1/query`: reads, each stating how current they must be.
//!
//! Strong: on the master, under lease, and nothing is shown that isn't acknowledged. Local: this replica, now. Bounded:
//! this replica, when it is known to have been current recently.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use tanist_api::{HEADER_MIN_POSITION, QueryRequest, Statement, code};
use tanist_replication::Position;
use tokio::{sync::watch, time::timeout};

use super::{
    ApiError, AppState, Inner, WAIT,
    execute::{check_statements, insert_position, parse},
    read_body, results_body,
};
use crate::{
    auth::Holder,
    clock,
    reader::{ReadDone, Sight},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    Strong,
    Local,
    Bounded(Duration),
}

pub(super) async fn post(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let state = &*state.0;
    let (Parts { uri, headers, extensions, .. }, body) = request.into_parts();
    let consistency = consistency(uri.query(), state.max_staleness)?;
    let min_position = min_position(&headers)?;
    if consistency == Consistency::Strong {
        state.reign(&uri).await?;
    }
    let limits = state.limits();
    let body = read_body(body, limits.body).await?;
    let request: QueryRequest = parse(&headers, &body)?;
    check_statements(&request.statements, limits.statements)?;
    let done = read(state, (request.statements, sight(&extensions)), consistency, min_position, &uri).await?;
    let mut response = (StatusCode::OK, results_body(done.position, &done.answer)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    insert_position(headers, done.position);
    Ok(response)
}

/// What the sender may see.
pub(super) fn sight(extensions: &Extensions) -> Sight {
    match extensions.get::<Holder>() {
        Some(holder) if !holder.sees_all() => Sight::Usual,
        _ => Sight::All,
    }
}

/// Statements, and what they may see.
type Asked = (Vec<Statement>, Sight);

/// Runs the statements on one snapshot that is as current as asked for.
pub(super) async fn read(
    state: &Inner,
    asked: Asked,
    consistency: Consistency,
    min_position: Option<Position>,
    uri: &Uri,
) -> Result<ReadDone, ApiError> {
    if let Some(min) = min_position {
        wait_until_stored(state, min).await?;
    }
    match consistency {
        Consistency::Local => state.readers.read(asked.0, asked.1).await.map_err(ApiError::read),
        Consistency::Bounded(staleness) => bounded(state, asked, staleness, uri).await,
        Consistency::Strong => strong(state, asked, uri).await,
    }
}

/// Waits (bounded) until this replica has the position that the request asks for.
pub(super) async fn wait_until_stored(state: &Inner, min: Position) -> Result<(), ApiError> {
    wait_for(state.gate.stored(), min).await.map_err(|found| {
        ApiError::not_fresh(format!(
            "this replica stands at {found}, not yet at {min} as {HEADER_MIN_POSITION} asks"
        ))
    })
}

/// R11, I5, I6: read, wait until all that was seen is acknowledged, and answer only if the lease still lasts then.
async fn strong(state: &Inner, (statements, sight): Asked, uri: &Uri) -> Result<ReadDone, ApiError> {
    let gate = &state.gate;
    let term = state.reign(uri).await?;
    let done = state.readers.read(statements, sight).await.map_err(ApiError::read)?;
    wait_for(gate.acknowledged(), done.position).await.map_err(|acknowledged| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code::NOT_FRESH,
            format!("what was read ({}) isn't acknowledged yet, only {acknowledged} is", done.position),
        )
    })?;
    if gate.is_open(clock::now_ns()) == Some(term) {
        return Ok(done);
    }
    state.reign(uri).await?;
    Err(ApiError::not_master(&gate.view(), uri))
}

async fn bounded(
    state: &Inner,
    (statements, sight): Asked,
    staleness: Duration,
    uri: &Uri,
) -> Result<ReadDone, ApiError> {
    if state.gate.is_open(clock::now_ns()).is_some() {
        return strong(state, (statements, sight), uri).await;
    }
    // What was fresh before the read is at least as fresh after it.
    let Some(fresh_as_of) = state.gate.view().fresh_as_of_ns else {
        return Err(ApiError::not_fresh("this replica doesn't know how current it is"));
    };
    let done = state.readers.read(statements, sight).await.map_err(ApiError::read)?;
    let age = Duration::from_nanos(clock::now_ns().saturating_sub(fresh_as_of));
    if age > staleness {
        return Err(ApiError::not_fresh(format!(
            "this replica was current {} ms ago, asked for at most {} ms",
            age.as_millis(),
            staleness.as_millis()
        )));
    }
    Ok(done)
}

/// Waits (bounded) until the watched position reaches `target`; gives where it stands otherwise.
async fn wait_for(mut watched: watch::Receiver<Position>, target: Position) -> Result<(), Position> {
    let reached = matches!(timeout(WAIT, watched.wait_for(|position| *position >= target)).await, Ok(Ok(_)));
    if reached { Ok(()) } else { Err(*watched.borrow()) }
}

pub(super) fn consistency(query: Option<&str>, default_staleness: Duration) -> Result<Consistency, ApiError> {
    let mut kind = None;
    let mut staleness = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "consistency" => kind = Some(value),
            "max_staleness" => staleness = Some(value),
            _ => {
                let detail = format!("query parameter {name:?}: expected consistency or max_staleness");
                return Err(ApiError::bad_request(detail));
            }
        }
    }
    consistency_of(kind, staleness, default_staleness)
}

/// The same from the values of the two parameters.
pub(super) fn consistency_of(
    kind: Option<&str>,
    staleness: Option<&str>,
    default_staleness: Duration,
) -> Result<Consistency, ApiError> {
    let staleness = staleness.map(|value| {
        milliseconds(value).ok_or_else(|| {
            ApiError::bad_request(format!(
                "max_staleness: found {value:?}, expected a duration such as 500ms or 2s"
            ))
        })
    });
    let staleness = staleness.transpose()?;
    match kind {
        None | Some("strong") => Ok(Consistency::Strong),
        Some("local") => Ok(Consistency::Local),
        Some("bounded") => Ok(Consistency::Bounded(staleness.unwrap_or(default_staleness))),
        Some(other) => Err(ApiError::bad_request(format!(
            "consistency: found {other:?}, expected strong, local or bounded"
        ))),
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        ms.parse().ok().map(Duration::from_millis)
    } else {
        text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
    }
}

pub(super) fn min_position(headers: &HeaderMap) -> Result<Option<Position>, ApiError> {
    let Some(value) = headers.get(HEADER_MIN_POSITION) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?");
    text.parse().map(Some).map_err(|error| ApiError::bad_request(format!("{HEADER_MIN_POSITION}: {error}")))
}
