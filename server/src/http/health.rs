//! `/healthz`, `/readyz` and the status page.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{Html, IntoResponse, Response},
};
use tanist_api::{Ready, Role};

use super::{ApiError, AppState, openapi::PAGE_POLICY};
use crate::clock;

/// The process lives.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Whether this machine can serve, and as what.
pub(super) async fn ready(State(state): State<AppState>) -> Result<Response, ApiError> {
    let gate = &state.0.gate;
    let view = gate.view();
    let position = view.cluster.position.clone();
    let now = clock::now_ns();
    if let Some(notice) = gate.stalls().notice(now) {
        return Err(ApiError::not_fresh(notice));
    }
    if state.0.writer.is_stuck(now) {
        return Err(ApiError::not_fresh("the store thread is stuck in one piece of work"));
    }
    if gate.is_open(now).is_some() {
        return Ok(Json(Ready { role: Role::Master, position }).into_response());
    }
    let fresh = view
        .fresh_as_of_ns
        .is_some_and(|at| Duration::from_nanos(now.saturating_sub(at)) <= state.0.max_staleness * 2);
    let role = view.cluster.role;
    let ready = match role {
        Role::Backup => view.cluster.master.is_some() && fresh,
        Role::Witness => view.cluster.master.is_some(),
        _ => false,
    };
    if ready {
        return Ok(Json(Ready { role, position }).into_response());
    }
    let why = view.cluster.notice.clone().unwrap_or_else(|| "not yet current with the master".to_owned());
    Err(ApiError::not_fresh(why))
}

/// The status page: one file, no outside resources.
pub(super) async fn dashboard() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(include_str!("dashboard.html")))
}
