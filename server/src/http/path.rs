//! Parts of paths; one that can't be read is a problem like any other.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::{ApiError, AppState};

/// The only part, any text.
pub(super) struct Part(pub(super) String);

/// The parts as this type.
pub(super) async fn path<T: DeserializeOwned + Send>(
    parts: &mut Parts,
    state: &AppState,
) -> Result<T, ApiError> {
    let path = Path::<T>::from_request_parts(parts, state).await;
    path.map(|Path(found)| found)
        .map_err(|error| ApiError::bad_request(format!("path: {}", error.body_text())))
}

impl FromRequestParts<AppState> for Part {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Part, ApiError> {
        path(parts, state).await.map(Part)
    }
}
