//! `/v1/commands`: commands to nodes, recorded before they act, with each node's outcome.

use axum::{Extension, response::Response};
use serde_json::json;
use tanist_api::{NewCommand, NewOutcome};

use super::{
    names::{CommandId, OutcomeOf},
    reading::{Read, own_part, unreadable},
    writing::Write,
};
use crate::{
    auth::Holder,
    http::ApiError,
    state::{Action, check_command, check_outcome, select},
};

type Answer = Result<Response, ApiError>;

pub(super) async fn send(write: Write) -> Answer {
    let command: NewCommand = write.body()?;
    check_command(&command).map_err(ApiError::bad_request)?;
    write.change(Action::SendCommand(command)).await
}

pub(super) async fn list(read: Read) -> Answer {
    let asked = read.query(&["node", "status", "before", "limit"])?;
    let before = asked.number("before")?;
    let all = ["pending", "done", "failed"];
    let status = asked.one_of("status", &all)?;
    match asked.name("node")? {
        None => read.page(&asked, &select::COMMANDS, json!(before), vec![json!(status)]).await,
        Some(node) => {
            let statuses = status.map_or(json!(all), |status| json!([status])).to_string();
            let more = vec![json!(node), json!(statuses)];
            read.page(&asked, &select::COMMANDS_TO, json!(before), more).await
        }
    }
}

pub(super) async fn get(CommandId(id): CommandId, read: Read) -> Answer {
    read.entry(select::COMMAND, "command", &id.to_string()).await
}

pub(super) async fn report(
    OutcomeOf(command, node): OutcomeOf,
    holder: Option<Extension<Holder>>,
    write: Write,
) -> Answer {
    let outcome: NewOutcome = write.body()?;
    check_outcome(&outcome).map_err(ApiError::bad_request)?;
    let agent_of = holder.and_then(|Extension(holder)| holder.node);
    let action = Action::ReportOutcome { command, node, outcome };
    let shown = write.change_and(action, |done, _| {
        if let Some(node) = agent_of {
            done.body = own_part(&done.body, &node).ok_or_else(unreadable)?;
        }
        Ok(())
    });
    shown.await
}
