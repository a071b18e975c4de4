//! Who may send which request: the one place that says so.
//!
//! Runs before anything else of a request is looked at. Without `auth.tokens` everybody may do everything, which the
//! configuration allows on loopback only, or by an explicit word.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
};
use tanist_api::{Access, code};

use super::{ApiError, AppState};
use crate::auth::Holder;

/// What a request needs; `None`: nothing.
pub(super) fn needed(method: &Method, path: &str) -> Option<Access> {
    let below =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let reads = *method == Method::GET || *method == Method::HEAD;
    Some(match path {
        // Say nothing about the cluster but whether this machine serves; the pages hold no data by themselves.
        "/" | "/healthz" | "/readyz" | "/openapi.json" | "/docs" => return None,
        "/v1/query" => Access::Read,
        // A copy holds everything, the hashes of tokens too.
        _ if below("/v1/tokens") || below("/v1/backup") => Access::Admin,
        _ if reads => Access::Read,
        _ if below("/v1/cluster/members") => Access::Admin,
        _ if below("/v1/cluster") || below("/v1/watched-tables") => Access::Operate,
        _ => Access::Write,
    })
}

/// Whose request it is goes into its extensions. What is to be logged when it is answered comes back: what changes the
/// cluster itself stands in the log; data has its own history.
pub(super) async fn authorize(
    state: &AppState,
    needed: Option<Access>,
    request: &mut Request,
) -> Result<Option<Operated>, ApiError> {
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let Some(holder) = judge(state, needed, authorization).await? else { return Ok(None) };
    let operates = needed >= Some(Access::Operate) && request.method() != Method::GET;
    let record = operates.then(|| Operated {
        token: holder.name.clone(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
    });
    request.extensions_mut().insert(holder);
    Ok(record)
}

/// Who asked for a change of the cluster.
pub(super) struct Operated {
    token: Arc<str>,
    method: Method,
    path: String,
}

impl Operated {
    /// What became of it.
    pub(super) fn log(self, status: StatusCode) {
        let Operated { token, method, path } = self;
        tracing::info!(%token, %method, path, status = status.as_u16(), "operated");
    }
}

/// Whose the request is, if it may be.
pub(super) async fn judge(
    state: &AppState,
    needed: Option<Access>,
    authorization: Option<HeaderValue>,
) -> Result<Option<Holder>, ApiError> {
    let Some(tokens) = state.0.tokens.as_ref().filter(|tokens| !tokens.is_witness()) else { return Ok(None) };
    let Some(needed) = needed else { return Ok(None) };
    let token = bearer(authorization.as_ref())?;
    let holder = tokens.holder(token).await.map_err(ApiError::read)?;
    let holder = holder.ok_or_else(|| ApiError::unauthorized("this token isn't known (any more)"))?;
    demand(&holder, needed)?;
    Ok(Some(holder))
}

/// Refuses a holder whose role allows less.
pub(super) fn demand(holder: &Holder, needed: Access) -> Result<(), ApiError> {
    if holder.role >= needed {
        return Ok(());
    }
    let detail = format!("the token {:?} has the role {}, this needs {needed}", holder.name, holder.role);
    Err(ApiError::new(StatusCode::FORBIDDEN, code::FORBIDDEN, detail))
}

fn bearer(authorization: Option<&HeaderValue>) -> Result<&str, ApiError> {
    let Some(value) = authorization else {
        return Err(ApiError::unauthorized("authorization: found nothing, expected \"Bearer <token>\""));
    };
    // What was sent isn't repeated in the answer: it may be a secret of another kind.
    let wrong = || ApiError::unauthorized("authorization: found something else, expected \"Bearer <token>\"");
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_demands_the_role_that_it_should() {
        let table = [
            ("GET", "/", None),
            ("GET", "/readyz", None),
            ("GET", "/openapi.json", None),
            ("GET", "/docs", None),
            ("GET", "/v1/cluster", Some(Access::Read)),
            ("POST", "/v1/query", Some(Access::Read)),
            ("GET", "/v1/config/a/b", Some(Access::Read)),
            ("GET", "/v1/events", Some(Access::Read)),
            ("GET", "/v1/cluster/members", Some(Access::Read)),
            ("POST", "/v1/execute", Some(Access::Write)),
            ("PUT", "/v1/config/a", Some(Access::Write)),
            ("POST", "/v1/commands", Some(Access::Write)),
            ("PUT", "/v1/watched-tables/t", Some(Access::Operate)),
            ("POST", "/v1/cluster/promote", Some(Access::Operate)),
            ("POST", "/v1/cluster/demote", Some(Access::Operate)),
            ("POST", "/v1/cluster/members", Some(Access::Admin)),
            ("DELETE", "/v1/cluster/members/pc-2", Some(Access::Admin)),
            ("GET", "/v1/tokens", Some(Access::Admin)),
            ("GET", "/v1/backup", Some(Access::Admin)),
            ("HEAD", "/v1/backup", Some(Access::Admin)),
            ("DELETE", "/v1/tokens/ui", Some(Access::Admin)),
            // What nobody knows yet is no hole.
            ("POST", "/v1/queryx", Some(Access::Write)),
            ("BREW", "/v1/new", Some(Access::Write)),
            ("GET", "/v1/tokensx", Some(Access::Read)),
        ];
        for (method, path, expected) in table {
            let method: Method = method.parse().unwrap();
            assert_eq!(needed(&method, path), expected, "{method} {path}");
        }
    }
}
