//! Changes of state: by the store thread, in the batches of `/v1/execute`, with their condition checked inside.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts as _, Request},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tanist_api::{HEADER_REPLAYED, MERGE_PATCH_JSON};

use super::{
    names::Query,
    reading::{answer, insert_tag, unreadable},
};
use crate::{
    http::{
        ApiError, AppState,
        actor::Actor,
        execute::{idempotency, insert_position, parse, parse_as, submit},
        read_body,
    },
    state::{Action, Change, Condition, Done, check_value},
    write::{Idempotency, WriteRequest, WriteWork},
};

/// A change that has come in, on the master.
pub(super) struct Write {
    state: AppState,
    parts: Parts,
    body: Bytes,
    actor: Actor,
    condition: Condition,
    idempotency: Option<Idempotency>,
}

impl FromRequest<AppState> for Write {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, state: &AppState) -> Result<Write, ApiError> {
        let (mut parts, body) = request.into_parts();
        Query::parse(&parts.uri, &[])?;
        state.0.reign(&parts.uri).await?;
        let Ok(actor) = Actor::from_request_parts(&mut parts, state).await;
        let body = read_body(body, state.0.limits().body).await?;
        let condition = Condition::from_headers(&parts.headers).map_err(ApiError::bad_request)?;
        let mut idempotency = idempotency(&parts.headers, || fingerprint(&parts, &body))?;
        if let Some(key) = &mut idempotency {
            key.token = actor.0.clone().unwrap_or_default();
        }
        Ok(Write { state: state.clone(), parts, body, actor, condition, idempotency })
    }
}

/// All that makes it this change and no other.
fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    let mut add = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(parts.method.as_str().as_bytes());
    add(parts.uri.path().as_bytes());
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        for value in parts.headers.get_all(&name) {
            add(value.as_bytes());
        }
        add(name.as_str().as_bytes());
    }
    add(body);
    *hash.finalize().as_bytes()
}

impl Write {
    /// The JSON body.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        parse(&self.parts.headers, &self.body)
    }

    /// The body as a JSON Merge Patch (RFC 7396).
    pub(super) fn patch(&self) -> Result<Value, ApiError> {
        let patch = parse_as::<Value>(MERGE_PATCH_JSON, &self.parts.headers, &self.body)?;
        if !patch.is_object() {
            return Err(ApiError::bad_request(
                "body: found no JSON object, expected one with what is to change",
            ));
        }
        check_value("body", &patch).map_err(ApiError::bad_request)?;
        Ok(patch)
    }

    /// That there is no body.
    pub(super) fn no_body(&self) -> Result<(), ApiError> {
        match self.body.len() {
            0 => Ok(()),
            found => Err(ApiError::bad_request(format!("body: found {found} bytes, expected none"))),
        }
    }

    /// Makes the change and shows what is so then.
    pub(super) async fn change(self, action: Action) -> Result<Response, ApiError> {
        self.change_and(action, |_, _| Ok(())).await
    }

    /// The same, with a last word on what is shown; it is told whether the change was made before, by the same key.
    pub(super) async fn change_and(
        self,
        action: Action,
        amend: impl FnOnce(&mut Done, bool) -> Result<(), ApiError>,
    ) -> Result<Response, ApiError> {
        let state = &*self.state.0;
        let change = Change { action, condition: self.condition, actor: self.actor.0 };
        let write = WriteRequest {
            work: WriteWork::State(Box::new(change)),
            idempotency: self.idempotency,
            time_limit: state.limits().statement_time,
            author: None,
        };
        let written = submit(state, &self.parts.uri, write).await?;
        let mut done = Done::decode(&written.answer).ok_or_else(unreadable)?;
        amend(&mut done, written.replayed)?;
        let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = answer(status, done.body);
        insert_tag(&mut response, done.revision);
        let headers = response.headers_mut();
        insert_position(headers, written.position);
        if written.replayed {
            headers.insert(HEADER_REPLAYED, HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}
