//! Reads of state: SQL on the read pool, as current as asked for, shown as entries and pages.

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tanist_api::{Command, Statement, StatementResult, code};
use tanist_replication::Position;

use super::names::Query;
use crate::{
    auth::Holder,
    http::{ApiError, AppState, execute::insert_position, query},
    state::{Condition, select::List, tag},
};

/// A read that has come in: what it asks of the replica that answers.
pub(super) struct Read {
    state: AppState,
    parts: Parts,
    condition: Condition,
}

impl FromRequestParts<AppState> for Read {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Read, ApiError> {
        let condition = Condition::from_headers(&parts.headers).map_err(ApiError::bad_request)?;
        Ok(Read { state: state.clone(), parts: parts.clone(), condition })
    }
}

type Rows = Vec<Vec<Value>>;

impl Read {
    /// The request's query: what all reads take, and these.
    pub(super) fn query(&self, others: &[&'static str]) -> Result<Query, ApiError> {
        let known: Vec<_> =
            ["consistency", "max_staleness"].into_iter().chain(others.iter().copied()).collect();
        Query::parse(&self.parts.uri, &known)
    }

    async fn run(&self, asked: &Query, statement: Statement) -> Result<(Position, Rows), ApiError> {
        let state = &*self.state.0;
        let consistency =
            query::consistency_of(asked.get("consistency"), asked.get("max_staleness"), state.max_staleness)?;
        let min_position = query::min_position(&self.parts.headers)?;
        let asked = (vec![statement], query::sight(&self.parts.extensions));
        let read = query::read(state, asked, consistency, min_position, &self.parts.uri).await;
        // The server's own SQL fails only where its tables are still to come: on a new replica, or during an upgrade.
        let done = read.map_err(|error| match error.is(code::SQL_ERROR) {
            true => ApiError::not_fresh("this replica doesn't hold these tables yet"),
            false => error,
        })?;
        let results: Vec<StatementResult> = serde_json::from_slice(&done.answer).map_err(|_| unreadable())?;
        Ok((done.position, results.into_iter().next().unwrap_or_default().rows))
    }

    /// The node of the agent that asks, if it is one.
    fn node(&self) -> Option<&str> {
        self.parts.extensions.get::<Holder>()?.node.as_deref()
    }

    /// One entry, as current as can be; neither a tag nor another consistency is taken.
    pub(super) async fn strong_entry(self, sql: &str, what: &str, name: &str) -> Result<Response, ApiError> {
        let asked = Query::parse(&self.parts.uri, &[])?;
        let (position, rows) = self.run(&asked, Statement::with(sql, vec![json!(name)])).await?;
        match rows.into_iter().next().map(<[Value; 2]>::try_from) {
            Some(Ok([_, Value::String(entry)])) => {
                let mut response = answer(StatusCode::OK, entry);
                insert_position(response.headers_mut(), position);
                Ok(response)
            }
            Some(_) => Err(unreadable()),
            None => {
                let why = format!("there is no {what} {name:?}");
                Err(ApiError::new(StatusCode::NOT_FOUND, code::NOT_FOUND, why))
            }
        }
    }

    /// One entry with its revision; 304 when the client has that already.
    pub(super) async fn entry(self, sql: &str, what: &str, name: &str) -> Result<Response, ApiError> {
        let asked = self.query(&[])?;
        let (position, rows) = self.run(&asked, Statement::with(sql, vec![json!(name)])).await?;
        let missing = |why| Err(ApiError::new(StatusCode::NOT_FOUND, code::NOT_FOUND, why));
        let Some(row) = rows.into_iter().next() else {
            return missing(format!("there is no {what} {name:?}"));
        };
        let (revision, entry) = match <[Value; 2]>::try_from(row) {
            Ok([Value::Number(revision), Value::String(entry)]) => (revision.as_i64().unwrap_or(0), entry),
            Ok([Value::Null, _]) => return missing(format!("{what} {name:?} has none yet")),
            _ => return Err(unreadable()),
        };
        let entry = match self.node().filter(|_| what == "command") {
            None => entry,
            Some(node) => match own_part(&entry, node) {
                Some(entry) => entry,
                None => return missing(format!("there is no {what} {name:?} to the node {node:?}")),
            },
        };
        let mut response = if self.condition.is_known(revision) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            answer(StatusCode::OK, entry)
        };
        insert_tag(&mut response, revision);
        insert_position(response.headers_mut(), position);
        Ok(response)
    }

    /// A page of a list that begins behind `from`. `more`: further parameters of the list's SQL.
    pub(super) async fn page(
        self,
        asked: &Query,
        list: &List,
        from: Value,
        more: Vec<Value>,
    ) -> Result<Response, ApiError> {
        let limits = self.state.0.limits();
        let node = self.node().map(str::to_owned);
        // One more is looked for than is shown, and cursors take room beside their entries.
        let limit = asked.limit()?.min(limits.rows);
        let params = [from, json!(limit), json!(limits.result / 2)].into_iter().chain(more).collect();
        let (position, rows) = self.run(asked, Statement::with(list.page(), params)).await?;
        let mut body = "{\"entries\":[".to_owned();
        let mut next = None;
        for (index, row) in rows.into_iter().enumerate() {
            let Ok([Value::String(cursor), more, Value::String(entry)]) = <[Value; 3]>::try_from(row) else {
                return Err(unreadable());
            };
            if index > 0 {
                body.push(',');
            }
            // The only list that an agent gets is that of its commands.
            let own = node.as_ref().map(|node| own_part(&entry, node).ok_or_else(unreadable)).transpose()?;
            body.push_str(own.as_deref().unwrap_or(&entry));
            next = (more == json!(1)).then_some(cursor);
        }
        body.push(']');
        if let Some(next) = next {
            body.push_str(&format!(",\"next\":{}", json!(next)));
        }
        body.push('}');
        let mut response = answer(StatusCode::OK, body);
        insert_position(response.headers_mut(), position);
        Ok(response)
    }
}

/// A command as one of the nodes that it was sent to may see it; `None`: it wasn't sent there.
pub(super) fn own_part(command: &str, node: &str) -> Option<String> {
    let mut command: Command = serde_json::from_str(command).ok()?;
    command.nodes.retain(|name| name == node);
    command.outcomes.retain(|outcome| outcome.node == node);
    if command.nodes.is_empty() { None } else { serde_json::to_string(&command).ok() }
}

/// A JSON answer.
pub(super) fn answer(status: StatusCode, body: String) -> Response {
    let mut response = (status, Body::from(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The entity tag; whoever keeps the answer asks again with it before using it.
pub(super) fn insert_tag(response: &mut Response, revision: i64) {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::try_from(tag(revision)) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// Our bug: the server's own SQL gave something else than it should.
pub(super) fn unreadable() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        code::INTERNAL,
        "an answer of another shape than expected",
    )
}
