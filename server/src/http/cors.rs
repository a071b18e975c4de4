//! Which pages of other origins a browser lets ask this machine: none, unless the configuration names them.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tanist_api::{
    HEADER_CLUSTER, HEADER_IDEMPOTENCY_KEY, HEADER_MASTER, HEADER_MIN_POSITION, HEADER_POSITION,
    HEADER_REDIRECT, HEADER_REPLAYED,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Browsers may remember the answer for so long.
const REMEMBERED: Duration = Duration::from_secs(600);

/// For these origins; `*` is any.
pub(super) fn layer(origins: &[HeaderValue]) -> CorsLayer {
    let named = HeaderName::from_static;
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().cloned())
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            named("last-event-id"),
            named(HEADER_IDEMPOTENCY_KEY),
            named(HEADER_MIN_POSITION),
            named(HEADER_REDIRECT),
            named(HEADER_CLUSTER),
        ])
        .expose_headers([
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            named(HEADER_MASTER),
            named(HEADER_POSITION),
            named(HEADER_REPLAYED),
            named(HEADER_CLUSTER),
        ])
        .max_age(REMEMBERED)
}
