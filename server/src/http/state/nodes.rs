//! `/v1/nodes`: the managed machines, what each shall have, and what it says it has.

use std::time::Instant;

use axum::{extract::State, response::Response};
use serde_json::json;
use tanist_api::{NewDesired, NodeSpec, Report};

use super::{names::Name, reading::Read, writing::Write};
use crate::{
    http::{ApiError, AppState},
    state::{Action, check_node, check_report, check_state, select},
};

type Answer = Result<Response, ApiError>;

pub(super) async fn list(read: Read) -> Answer {
    let asked = read.query(&["after", "limit"])?;
    let after = asked.name("after")?;
    read.page(&asked, &select::NODES, json!(after), vec![]).await
}

pub(super) async fn get(Name(name): Name, read: Read) -> Answer {
    read.entry(select::NODE, "node", &name).await
}

pub(super) async fn set(Name(name): Name, write: Write) -> Answer {
    let spec: NodeSpec = write.body()?;
    check_node(&spec).map_err(ApiError::bad_request)?;
    write.change(Action::SetNode { name, spec }).await
}

pub(super) async fn patch(Name(name): Name, write: Write) -> Answer {
    let patch = write.patch()?;
    write.change(Action::PatchNode { name, patch }).await
}

pub(super) async fn remove(Name(name): Name, write: Write) -> Answer {
    write.no_body()?;
    write.change(Action::RemoveNode { name }).await
}

pub(super) async fn desired(Name(node): Name, read: Read) -> Answer {
    read.entry(select::DESIRED, "node", &node).await
}

pub(super) async fn set_desired(Name(node): Name, write: Write) -> Answer {
    let NewDesired { state } = write.body()?;
    check_state(&state).map_err(ApiError::bad_request)?;
    write.change(Action::SetDesired { node, state }).await
}

pub(super) async fn patch_desired(Name(node): Name, write: Write) -> Answer {
    let patch = write.patch()?;
    write.change(Action::PatchDesired { node, patch }).await
}

pub(super) async fn reported(Name(node): Name, read: Read) -> Answer {
    read.entry(select::REPORTED, "node", &node).await
}

/// On the master alone: it remembers who was heard of.
pub(super) async fn seen(State(state): State<AppState>, Name(name): Name, read: Read) -> Answer {
    let answer = read.strong_entry(select::SEEN, "node", &name).await?;
    state.0.presence.hear(&name, Instant::now());
    Ok(answer)
}

pub(super) async fn report(Name(node): Name, write: Write) -> Answer {
    let report: Report = write.body()?;
    check_report(&report).map_err(ApiError::bad_request)?;
    write.change(Action::Report { node, report }).await
}
