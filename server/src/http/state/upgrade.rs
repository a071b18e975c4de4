//! `/v1/cluster/upgrade/hold` and `/go`: whether the cluster's level may be raised.

use axum::{extract::State, response::Response};

use super::writing::Write;
use crate::{
    http::{ApiError, AppState},
    state::Action,
};

pub(super) async fn hold(State(_): State<AppState>, write: Write) -> Result<Response, ApiError> {
    write.no_body()?;
    write.change(Action::HoldUpgrade).await
}

pub(super) async fn go(State(_): State<AppState>, write: Write) -> Result<Response, ApiError> {
    write.no_body()?;
    write.change(Action::ReleaseUpgrade).await
}
