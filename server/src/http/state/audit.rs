//! `/v1/audit`: who has changed what by SQL.

use axum::response::Response;
use serde_json::json;

use super::reading::Read;
use crate::{http::ApiError, state::select};

pub(super) async fn list(read: Read) -> Result<Response, ApiError> {
    let asked = read.query(&["after", "limit"])?;
    let after = asked.number("after")?;
    read.page(&asked, &select::AUDIT, json!(after), vec![]).await
}
