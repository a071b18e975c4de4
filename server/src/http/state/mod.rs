//! The control room: `/v1/config`, `/v1/nodes`, `/v1/commands`; and `/v1/tokens`, which are kept the same way.
//!
//! Parses and checks, then asks for SQL on a replica (`reading.rs`) or for a change by the store thread (`writing.rs`),
//! with the rules of `/v1/query` and `/v1/execute`. What changes make is in `crate::state`.

mod audit;
mod commands;
mod config;
mod names;
mod nodes;
mod reading;
#[cfg(test)]
mod tests;
mod tokens;
mod upgrade;
mod writing;

use super::{
    ApiError,
    openapi::{
        Routes,
        operations::{self, state as shown},
    },
};

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
pub(super) fn routes() -> Routes {
    Routes::new()
        .on(shown::configs(), config::list)
        .on(shown::config(), config::get)
        .on(shown::set_config(), config::set)
        .on(shown::remove_config(), config::remove)
        .on(shown::config_history(), config::history)
        .on(shown::nodes(), nodes::list)
        .on(shown::node(), nodes::get)
        .on(shown::set_node(), nodes::set)
        .on(shown::patch_node(), nodes::patch)
        .on(shown::remove_node(), nodes::remove)
        .on(shown::desired(), nodes::desired)
        .on(shown::set_desired(), nodes::set_desired)
        .on(shown::patch_desired(), nodes::patch_desired)
        .on(shown::reported(), nodes::reported)
        .on(shown::report(), nodes::report)
        .on(shown::seen(), nodes::seen)
        .on(operations::cluster::audit(), audit::list)
        .on(operations::cluster::tokens(), tokens::list)
        .on(operations::cluster::make_token(), tokens::make)
        .on(operations::cluster::hold_upgrade(), upgrade::hold)
        .on(operations::cluster::release_upgrade(), upgrade::go)
        .on(operations::cluster::revoke_token(), tokens::revoke)
        .on(shown::send_command(), commands::send)
        .on(shown::commands(), commands::list)
        .on(shown::command(), commands::get)
        .on(shown::report_outcome(), commands::report)
}
