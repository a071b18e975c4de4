//! `POST /v1/execute`: a write, answered when every member of the sync set has it on disk (R7).

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde::de::DeserializeOwned;
use tanist_api::{ExecuteRequest, HEADER_IDEMPOTENCY_KEY, HEADER_POSITION, HEADER_REPLAYED, Statement, code};

use super::{ApiError, AppState, Inner, actor::Actor, read_body, results_body};
use crate::{
    audit::Author,
    config::HttpLimits,
    write::{Idempotency, WriteDone, WriteError, WriteRequest, WriteWork},
};

pub(super) async fn post(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let state = &*state.0;
    let (Parts { uri, headers, extensions, .. }, body) = request.into_parts();
    state.reign(&uri).await?;
    let limits = state.limits();
    let body = read_body(body, limits.body).await?;
    let mut write = write_request(&headers, &body, &limits)?;
    let actor = Actor::of(&extensions).0;
    if let Some(key) = &mut write.idempotency {
        key.token = actor.clone().unwrap_or_default();
    }
    write.author = state.audit.map(|full_at| Author { name: actor, full_at });
    let done = submit(state, &uri, write).await?;
    let mut response = (StatusCode::OK, results_body(done.position, &done.answer)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    insert_position(headers, done.position);
    if done.replayed {
        headers.insert(HEADER_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Hands a write in and waits for its answer; it has been seen that this machine reigns.
pub(super) async fn submit(state: &Inner, uri: &Uri, write: WriteRequest) -> Result<WriteDone, ApiError> {
    match state.writer.write(write).await {
        Ok(done) => Ok(done),
        Err(WriteError::NotMaster) => {
            // The throne was handed over while the write waited: nothing was done, the next master takes it.
            state.reign(uri).await?;
            Err(ApiError::not_master(&state.gate.view(), uri))
        }
        Err(error) => Err(ApiError::write(error, &state.gate.view(), uri)),
    }
}

/// The write that a request asks for, checked as far as it can be without the database.
pub(super) fn write_request(
    headers: &HeaderMap,
    body: &[u8],
    limits: &HttpLimits,
) -> Result<WriteRequest, ApiError> {
    let request: ExecuteRequest = parse(headers, body)?;
    check_statements(&request.statements, limits.statements)?;
    if !request.transaction {
        return Err(ApiError::bad_request("transaction: found false, expected true (all or nothing)"));
    }
    let idempotency = idempotency(headers, || *blake3::hash(body).as_bytes())?;
    let work = WriteWork::Statements(request.statements);
    Ok(WriteRequest { work, idempotency, time_limit: limits.statement_time, author: None })
}

pub(super) fn insert_position(headers: &mut HeaderMap, position: tanist_replication::Position) {
    if let Ok(value) = HeaderValue::try_from(position.to_string()) {
        headers.insert(HEADER_POSITION, value);
    }
}

/// Reads a JSON body; errors name the place and what was expected.
pub(super) fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    parse_as("application/json", headers, body)
}

/// Reads a body of this media type, some kind of JSON.
pub(super) fn parse_as<T: DeserializeOwned>(
    expected: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, ApiError> {
    // Demanded, not assumed: a page of another site can make a browser send anything but this.
    let media = headers.get(header::CONTENT_TYPE).map_or("nothing", |value| value.to_str().unwrap_or("?"));
    if !media.trim_start().to_ascii_lowercase().starts_with(expected) {
        let detail = format!("content-type: found {media:?}, expected {expected:?}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    // A struct may be written as an array, for all that serde cares; then "[]" would set every field to its default.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::bad_request("body: found an array, expected an object"));
    }
    serde_json::from_slice(body).map_err(|_| {
        // Read once more, for the place; good bodies don't pay for it.
        let found = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(body));
        let detail = match found {
            Err(error) if error.path().iter().len() > 0 => format!("{}: {}", error.path(), error.inner()),
            Err(error) => format!("body: {}", error.inner()),
            Ok(_) => "body: found more after the end of the JSON value".to_owned(),
        };
        ApiError::bad_request(detail)
    })
}

pub(super) fn check_statements(statements: &[Statement], limit: usize) -> Result<(), ApiError> {
    if statements.is_empty() || statements.len() > limit {
        let detail =
            format!("statements: found {}, expected 1 to {limit} (limits.statements)", statements.len());
        return Err(ApiError::bad_request(detail));
    }
    Ok(())
}

/// The client's key, with the request's fingerprint.
pub(super) fn idempotency(
    headers: &HeaderMap,
    fingerprint: impl FnOnce() -> [u8; 32],
) -> Result<Option<Idempotency>, ApiError> {
    let Some(value) = headers.get(HEADER_IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=200).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
    let Some(key) = key else {
        return Err(ApiError::bad_request(format!(
            "{HEADER_IDEMPOTENCY_KEY}: found {} bytes, expected 1 to 200 visible ASCII characters",
            value.len()
        )));
    };
    Ok(Some(Idempotency { key: key.to_owned(), token: String::new(), fingerprint: fingerprint() }))
}
