//! What handlers make of a request before they ask anything else of the machine: what `tests/fuzz` feeds with hostile
//! bytes.
//!
//! Owns no rule of its own and is no interface for programs. A refusal is given as its HTTP status.

use std::time::Duration;

use axum::{
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use tanist_api::{HandoverRequest, MemberPatch, NewMember, QueryRequest};
use tanist_replication::{Member, Position};

use super::{ApiError, execute, members, query};
use crate::{config::HttpLimits, write::WriteRequest};

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
