//! `/v1/tokens`: who may ask. A token is shown once, when it is made; only its hash is kept.

use axum::{extract::State, http::StatusCode, response::Response};
use tanist_api::{MadeToken, NewToken, code};

use super::{
    names::{Name, name},
    reading::Read,
    writing::Write,
};
use crate::{
    auth,
    http::{ApiError, AppState},
    state::{Action, select},
};

type Answer = Result<Response, ApiError>;

pub(super) async fn list(read: Read) -> Answer {
    let asked = read.query(&["after", "limit"])?;
    let after = asked.name("after")?;
    read.page(&asked, &select::TOKENS, serde_json::json!(after), vec![]).await
}

pub(super) async fn make(State(state): State<AppState>, write: Write) -> Answer {
    let NewToken { name: found, role } = write.body()?;
    let name = name("name", found)?;
    let token = auth::generate().map_err(|error| {
        tracing::error!(%error, "make a token: no randomness");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::INTERNAL,
            "the system has no randomness to give",
        )
    })?;
    let action = Action::MakeToken { name: name.clone(), role, hash: auth::hash(&token) };
    let made = write.change_and(action, |done, replayed| {
        if replayed {
            // That one is kept nowhere.
            let detail =
                format!("the token {name:?} was made, and shown, before: revoke it and make another");
            return Err(ApiError::new(StatusCode::CONFLICT, code::CONFLICT, detail));
        }
        done.body = serde_json::to_string(&MadeToken { name, role, token }).unwrap_or_default();
        Ok(())
    });
    let made = made.await;
    state.forget_tokens();
    made
}

pub(super) async fn revoke(State(state): State<AppState>, Name(name): Name, write: Write) -> Answer {
    write.no_body()?;
    let revoked = write.change(Action::RevokeToken { name }).await;
    state.forget_tokens();
    revoked
}
