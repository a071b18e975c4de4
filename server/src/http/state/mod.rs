//! The control room: `/v1/config`, `/v1/nodes`, `/v1/commands`; and `/v1/tokens`, which are kept the same way.
//!
//! Parses and checks, then asks for SQL on a replica (`reading.rs`) or for a change by the store thread (`writing.rs`),
//! with the rules of `/v1/query` and `/v1/execute`. What changes make is in `crate::state`.

mod commands;
mod config;
mod names;
mod nodes;
mod reading;
#[cfg(test)]
mod tests;
mod tokens;
mod writing;

use axum::{
    Router,
    routing::{delete, get, post, put},
};

use super::{ApiError, AppState};

/// Prefix and limit of a list's query, for `parsers.rs`.
pub(super) fn list_query(query: &str) -> Result<(String, usize), ApiError> {
    let known = ["prefix", "after", "before", "limit", "node"];
    let asked = names::Query::read(query, &known)?;
    asked.key("after")?;
    asked.number("before")?;
    asked.name("node")?;
    Ok((asked.prefix()?.to_owned(), asked.limit()?))
}

/// The routes.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/config", get(config::list))
        .route("/v1/config/{key}", get(config::get).put(config::set).delete(config::remove))
        .route("/v1/config/{key}/history", get(config::history))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{name}", get(nodes::get).put(nodes::set).patch(nodes::patch).delete(nodes::remove))
        .route(
            "/v1/nodes/{name}/desired",
            get(nodes::desired).put(nodes::set_desired).patch(nodes::patch_desired),
        )
        .route("/v1/nodes/{name}/reported", get(nodes::reported).put(nodes::report))
        .route("/v1/nodes/{name}/seen", post(nodes::seen))
        .route("/v1/tokens", get(tokens::list).post(tokens::make))
        .route("/v1/tokens/{name}", delete(tokens::revoke))
        .route("/v1/commands", post(commands::send).get(commands::list))
        .route("/v1/commands/{id}", get(commands::get))
        .route("/v1/commands/{id}/outcomes/{node}", put(commands::report))
}
