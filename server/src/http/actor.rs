//! Who asks: the name of the token that `authorize.rs` has found.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{Extensions, request::Parts},
};

use crate::auth::Holder;

/// The name that changes are recorded under; `None` when it isn't known.
#[derive(Debug, Clone, Default)]
pub(super) struct Actor(pub(super) Option<String>);

impl Actor {
    /// Of a request with these.
    pub(super) fn of(extensions: &Extensions) -> Actor {
        Actor(extensions.get::<Holder>().map(|holder| holder.name.to_string()))
    }
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Actor, Infallible> {
        Ok(Actor::of(&parts.extensions))
    }
}
