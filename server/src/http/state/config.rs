//! `/v1/config`: values by key, with the history of each.

use axum::response::Response;
use serde_json::json;
use tanist_api::NewConfig;

use super::{names::Key, reading::Read, writing::Write};
use crate::{
    http::ApiError,
    state::{Action, check_value, select},
};

type Answer = Result<Response, ApiError>;

/// Sorts before all that keys consist of: what follows a key, and comes before all longer ones.
const NEXT: char = '!';
/// What sorts behind every key with a prefix.
const BEHIND: char = char::MAX;

pub(super) async fn list(read: Read) -> Answer {
    let asked = read.query(&["prefix", "after", "limit"])?;
    let (prefix, after) = (asked.prefix()?, asked.key("after")?);
    let from = match after {
        Some(after) if after >= prefix => format!("{after}{NEXT}"),
        _ => prefix.to_owned(),
    };
    let more = vec![json!(format!("{prefix}{BEHIND}"))];
    read.page(&asked, &select::CONFIGS, json!(from), more).await
}

pub(super) async fn get(Key(key): Key, read: Read) -> Answer {
    read.entry(select::CONFIG, "key", &key).await
}

pub(super) async fn history(Key(key): Key, read: Read) -> Answer {
    let asked = read.query(&["before", "limit"])?;
    let before = asked.number("before")?;
    read.page(&asked, &select::HISTORY, json!(before), vec![json!(key)]).await
}

pub(super) async fn set(Key(key): Key, write: Write) -> Answer {
    let NewConfig { value } = write.body()?;
    check_value("value", &value).map_err(ApiError::bad_request)?;
    write.change(Action::SetConfig { key, value }).await
}

pub(super) async fn remove(Key(key): Key, write: Write) -> Answer {
    write.no_body()?;
    write.change(Action::RemoveConfig { key }).await
}
