//! Who asks: the token's name, put into the request's extensions by `authorize.rs`.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};

/// The name that changes are recorded under; `None` when it isn't known.
#[derive(Debug, Clone, Default)]
pub(super) struct Actor(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Actor, Infallible> {
        Ok(parts.extensions.get::<Actor>().cloned().unwrap_or_default())
    }
}
