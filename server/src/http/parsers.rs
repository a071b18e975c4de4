//! What handlers make of a request before they ask anything else of the machine: what `tests/fuzz` feeds with hostile
//! bytes.
//!
//! Owns no rule of its own and is no interface for programs. A refusal is given as its HTTP status.

use std::time::Duration;

use axum::{
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tanist_api::{
    HandoverRequest, MemberPatch, NewCommand, NewConfig, NewDesired, NewMember, NewOutcome, NodeSpec,
    QueryRequest, Report,
};
use tanist_replication::{Member, Position};

use super::{ApiError, execute, members, query, state as routes};
use crate::{config::HttpLimits, state, write::WriteRequest};

fn status(error: ApiError) -> StatusCode {
    error.into_response().status()
}

/// `POST /v1/execute`.
///
/// # Errors
/// The answer's status.
pub fn write(headers: &HeaderMap, body: &[u8], limits: &HttpLimits) -> Result<WriteRequest, StatusCode> {
    execute::write_request(headers, body, limits).map_err(status)
}

/// `POST /v1/query`: the statements, and the position that the replica must have.
///
/// # Errors
/// The answer's status.
pub fn read(
    query: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
    limits: &HttpLimits,
) -> Result<(QueryRequest, Option<Position>), StatusCode> {
    query::consistency(query, Duration::from_secs(1)).map_err(status)?;
    let min = query::min_position(headers).map_err(status)?;
    let request: QueryRequest = execute::parse(headers, body).map_err(status)?;
    execute::check_statements(&request.statements, limits.statements).map_err(status)?;
    Ok((request, min))
}

/// `POST /v1/cluster/members`.
///
/// # Errors
/// The answer's status.
pub fn new_member(headers: &HeaderMap, body: &[u8]) -> Result<Member, StatusCode> {
    execute::parse::<NewMember>(headers, body).and_then(members::member).map_err(status)
}

/// `PATCH /v1/cluster/members/{id}`.
///
/// # Errors
/// The answer's status.
pub fn member_patch(headers: &HeaderMap, body: &[u8]) -> Result<MemberPatch, StatusCode> {
    execute::parse(headers, body).map_err(status)
}

/// `POST /v1/cluster/promote` and `/demote`.
///
/// # Errors
/// The answer's status.
pub fn handover(headers: &HeaderMap, body: &[u8]) -> Result<HandoverRequest, StatusCode> {
    execute::parse(headers, body).map_err(status)
}

/// The bodies that change state, by number; gives what was understood, written again.
///
/// # Errors
/// The answer's status.
pub fn change(body_of: u8, headers: &HeaderMap, body: &[u8]) -> Result<Value, StatusCode> {
    fn checked<T: DeserializeOwned + Serialize>(
        headers: &HeaderMap,
        body: &[u8],
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Result<Value, ApiError> {
        let found: T = execute::parse(headers, body)?;
        check(&found).map_err(ApiError::bad_request)?;
        Ok(serde_json::to_value(&found).unwrap_or_default())
    }
    let found = match body_of % 6 {
        0 => checked::<NewConfig>(headers, body, |new| state::check_value("value", &new.value)),
        1 => checked::<NodeSpec>(headers, body, state::check_node),
        2 => checked::<NewDesired>(headers, body, |new| state::check_state(&new.state)),
        3 => checked::<Report>(headers, body, state::check_report),
        4 => checked::<NewCommand>(headers, body, state::check_command),
        _ => checked::<NewOutcome>(headers, body, state::check_outcome),
    };
    found.map_err(status)
}

/// `If-Match` and `If-None-Match`: whether an answer of this revision is known to the client.
///
/// # Errors
/// The answer's status.
pub fn conditions(headers: &HeaderMap, revision: i64) -> Result<bool, StatusCode> {
    let condition = state::Condition::from_headers(headers);
    condition.map(|condition| condition.is_known(revision)).map_err(|_| StatusCode::BAD_REQUEST)
}

/// The queries of lists: prefix and limit.
///
/// # Errors
/// The answer's status.
pub fn list(query: &str) -> Result<(String, usize), StatusCode> {
    routes::list_query(query).map_err(status)
}
