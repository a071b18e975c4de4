//! `/v1/tokens`: who may ask. A token is shown once, when it is made; only its hash is kept.

use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use tanist_api::{Access, MadeToken, NewToken, Page, TokenInfo, code};

use super::{
    names::{Name, name},
    reading::{Read, unreadable},
    writing::Write,
};
use crate::{
    auth,
    http::{ApiError, AppState},
    state::{Action, NAME_EXPECTED, NewTokenRow, is_name, select},
};

/// A token that expires does so within ten years.
const MOST_SECONDS: u64 = 10 * 366 * 24 * 3600;

type Answer = Result<Response, ApiError>;

pub(super) async fn list(State(state): State<AppState>, read: Read) -> Answer {
    let asked = read.query(&["after", "limit"])?;
    let after = asked.name("after")?;
    let mut response = read.page(&asked, &select::TOKENS, serde_json::json!(after), vec![]).await?;
    let Some(tokens) = &state.0.tokens else { return Ok(response) };
    // This machine's own knowledge, beside what the table has.
    let body = to_bytes(std::mem::take(response.body_mut()), usize::MAX).await.map_err(|_| unreadable())?;
    let mut page: Page<TokenInfo> = serde_json::from_slice(&body).map_err(|_| unreadable())?;
    let used = tokens.last_used();
    for token in &mut page.entries {
        token.last_used = used.get(token.name.as_str()).cloned();
    }
    *response.body_mut() = Body::from(serde_json::to_vec(&page).unwrap_or_default());
    Ok(response)
}

pub(super) async fn make(State(state): State<AppState>, write: Write) -> Answer {
    let NewToken { name: found, role, node, expires_in_seconds } = write.body()?;
    let name = name("name", found)?;
    check(&name, role, node.as_deref(), expires_in_seconds)?;
    let token = auth::generate().map_err(|error| {
        tracing::error!(%error, "make a token: no randomness");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::INTERNAL,
            "the system has no randomness to give",
        )
    })?;
    let new = NewTokenRow { name: name.clone(), role, node, expires_in_seconds, hash: auth::hash(&token) };
    let action = Action::MakeToken(new);
    let made = write.change_and(action, |done, replayed| {
        if replayed {
            // That one is kept nowhere.
            let detail =
                format!("the token {name:?} was made, and shown, before: revoke it and make another");
            return Err(ApiError::new(StatusCode::CONFLICT, code::CONFLICT, detail));
        }
        let TokenInfo { role, node, expires_at, .. } =
            serde_json::from_str(&done.body).map_err(|_| unreadable())?;
        let made = MadeToken { name, role, node, expires_at, token };
        done.body = serde_json::to_string(&made).unwrap_or_default();
        Ok(())
    });
    let made = made.await;
    state.forget_tokens();
    let mut made = made?;
    // The only time that it is shown: nothing between here and who asked is to keep it.
    made.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(made)
}

fn check(name: &str, role: Access, node: Option<&str>, expires_in: Option<u64>) -> Result<(), ApiError> {
    if name.eq_ignore_ascii_case(auth::OPERATOR) {
        let detail = format!("name: found {name:?}, expected another: so is called who has the cluster key");
        return Err(ApiError::bad_request(detail));
    }
    match (role, node) {
        (Access::Agent, None) => {
            return Err(ApiError::bad_request(
                "node: found nothing, expected the node that this agent speaks for",
            ));
        }
        (Access::Agent, Some(node)) if !is_name(node) => {
            return Err(ApiError::bad_request(format!("node: found {node:?}, expected {NAME_EXPECTED}")));
        }
        (Access::Agent, Some(_)) | (_, None) => {}
        (role, Some(_)) => {
            let detail =
                format!("node: found one, expected none with the role {role}; only an agent has one");
            return Err(ApiError::bad_request(detail));
        }
    }
    match expires_in {
        Some(seconds) if !(1..=MOST_SECONDS).contains(&seconds) => Err(ApiError::bad_request(format!(
            "expires_in_seconds: found {seconds}, expected 1 to {MOST_SECONDS} (ten years)"
        ))),
        _ => Ok(()),
    }
}

pub(super) async fn revoke(State(state): State<AppState>, Name(name): Name, write: Write) -> Answer {
    write.no_body()?;
    let revoked = write.change(Action::RevokeToken { name }).await;
    state.forget_tokens();
    revoked
}
