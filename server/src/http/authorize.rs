//! Who may send which request: the one place that says so.
//!
//! Runs before anything else of a request is looked at. Without `auth.tokens` everybody may do everything, which the
//! configuration allows on loopback only, or by an explicit word.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
};
use tanist_api::{
    Access, code,
    key::{self, Proven},
};

use super::{ApiError, AppState, addressed::Ends, forward::Forwarded, proof::Refused, read_body};
use crate::auth::{Holder, Tokens, Whose};

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
        _ if below("/v1/tokens") || below("/v1/backup") || below("/v1/audit") => Access::Admin,
        _ if reads => Access::Read,
        _ if below("/v1/cluster/members") => Access::Admin,
        _ if below("/v1/cluster") || below("/v1/watched-tables") => Access::Operate,
        _ => Access::Write,
    })
}

/// Whether an agent of this node may send this: what `tanist agent` needs, and nothing of other nodes.
fn agent_may(method: &Method, path: &str, query: Option<&str>, node: &str) -> bool {
    let segments: Vec<_> = path.strip_prefix("/v1/").unwrap_or_default().split('/').collect();
    let reads = *method == Method::GET || *method == Method::HEAD;
    match segments[..] {
        ["nodes", name] | ["nodes", name, "desired"] if reads => name == node,
        ["nodes", name, "reported"] if reads || *method == Method::PUT => name == node,
        ["nodes", name, "seen"] => name == node && *method == Method::POST,
        // What the answers tell of other nodes is left out.
        ["commands"] if reads => {
            let mut asked = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            asked.any(|(name, value)| name == "node" && value == node)
        }
        ["commands", _] | ["events"] => reads,
        ["commands", _, "outcomes", name] => name == node && *method == Method::PUT,
        _ => false,
    }
}

/// Whose request it is goes into its extensions, also when it is refused. What is to be logged when it is answered comes back:
/// what changes the cluster itself stands in the log; data has its own history.
pub(super) async fn authorize(
    state: &AppState,
    needed: Option<Access>,
    request: &mut Request,
) -> Result<Option<Operated>, ApiError> {
    let Some(tokens) = state.0.tokens.as_ref().filter(|tokens| !tokens.is_witness()) else { return Ok(None) };
    let Some(needed) = needed else { return Ok(None) };
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let is_proof = authorization.as_ref().and_then(|value| value.to_str().ok()).is_some_and(|text| {
        text.get(..key::SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(key::SCHEME))
    });
    let forwarded = request.extensions().get::<Forwarded>().is_some_and(|forwarded| forwarded.operator);
    let holder = match is_proof {
        // The proof is good at the machine that forwards alone, and was looked at there.
        true if forwarded => Holder::operator(),
        true => {
            proved(state, request).await?;
            Holder::operator()
        }
        false => match whose(tokens, authorization.as_ref()).await? {
            Whose::Holder(holder) => holder,
            Whose::Expired(holder) => {
                let detail = format!("the token {:?} has expired", holder.name);
                request.extensions_mut().insert(holder);
                return Err(ApiError::unauthorized(detail));
            }
            Whose::Nobody => return Err(ApiError::unauthorized("this token isn't known (any more)")),
        },
    };
    request.extensions_mut().insert(holder.clone());
    if holder.role == Access::Agent {
        agent(&holder, request)?;
    } else {
        demand(&holder, needed)?;
    }
    let operates = needed >= Access::Operate && request.method() != Method::GET;
    Ok(operates.then(|| Operated {
        token: holder.name.clone(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
    }))
}

fn agent(holder: &Holder, request: &Request) -> Result<(), ApiError> {
    let (uri, node) = (request.uri(), holder.node.as_deref().unwrap_or_default());
    if agent_may(request.method(), uri.path(), uri.query(), node) {
        return Ok(());
    }
    let detail = format!(
        "the token {:?} has the role agent of the node {node:?}: it may give signs of life, read what this node shall have, its \
         commands (?node={node}) and its events, and say what it has and what became of its commands",
        holder.name
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, code::FORBIDDEN, detail))
}

/// That the request proves the cluster key. Its body is read for that, within the limit of bodies.
async fn proved(state: &AppState, request: &mut Request) -> Result<(), ApiError> {
    let refused = |why: &str| ApiError::unauthorized(format!("authorization: {}: {why}", key::SCHEME));
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let header = header.unwrap_or_default().to_owned();
    let part = |name| key::parameter(&header, name);
    let (Some(nonce), Some(body), Some(proof)) = (part("nonce"), part("body"), part("proof")) else {
        return Err(refused("expected nonce, body and proof"));
    };
    let ends = request.extensions().get::<Ends>();
    let Some(authority) = state.0.names.own(request.headers(), ends, &state.0.gate.view()) else {
        return Err(refused("it is for a host and port that aren't this machine's"));
    };
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let proven = Proven { nonce, authority: &authority, method: request.method().as_str(), path, body };
    if !state.0.operators_keys.are_proven(&proven, proof) {
        return Err(refused("the proof isn't one of this cluster's key for this request"));
    }
    state.0.nonces.take(nonce).map_err(|why| match why {
        Refused::Unknown => refused("the nonce isn't this machine's, or too old: take the new one"),
        Refused::Used => refused("the nonce has been used: take the new one"),
        Refused::Full => ApiError::overloaded("too many proofs within a minute"),
    })?;
    let limit = state.0.limits().body;
    let found = read_body(std::mem::take(request.body_mut()), limit).await?;
    if key::body_hash(&found) != body {
        return Err(refused("the body is another than was proved"));
    }
    *request.body_mut() = Body::from(found);
    Ok(())
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

/// Whose the token is that a request was sent with.
async fn whose(tokens: &Tokens, authorization: Option<&HeaderValue>) -> Result<Whose, ApiError> {
    tokens.whose(bearer(authorization)?).await.map_err(ApiError::read)
}

/// Whether who has been let in may stay: his token is known still, and has the same role.
pub(super) async fn may_stay(state: &AppState, holder: &Holder, authorization: Option<&HeaderValue>) -> bool {
    let Some(tokens) = state.0.tokens.as_ref().filter(|tokens| !tokens.is_witness()) else { return true };
    match whose(tokens, authorization).await {
        _ if holder.is_operator() => true,
        Ok(Whose::Holder(now)) => now.role >= holder.role && now.node == holder.node,
        Ok(_) => false,
        // Tokens that can't be read now were good before.
        Err(_) => true,
    }
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
            ("GET", "/v1/audit", Some(Access::Admin)),
            ("BREW", "/v1/new", Some(Access::Write)),
            ("GET", "/v1/tokensx", Some(Access::Read)),
        ];
        for (method, path, expected) in table {
            let method: Method = method.parse().unwrap();
            assert_eq!(needed(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn agent_may_what_its_node_needs_and_nothing_else() {
        let good = [
            "POST /v1/nodes/n1/seen",
            "GET /v1/nodes/n1",
            "GET /v1/nodes/n1/desired",
            "GET /v1/nodes/n1/reported",
            "PUT /v1/nodes/n1/reported",
            "GET /v1/commands?node=n1&status=pending",
            "GET /v1/commands/7",
            "PUT /v1/commands/7/outcomes/n1",
            "GET /v1/events?after=0",
        ];
        let bad = [
            "POST /v1/nodes/n2/seen",
            "GET /v1/nodes/n2/desired",
            "PUT /v1/nodes/n1/desired",
            "PATCH /v1/nodes/n1/desired",
            "PUT /v1/nodes/n1",
            "DELETE /v1/nodes/n1",
            "GET /v1/nodes",
            "GET /v1/commands",
            "GET /v1/commands?node=n2",
            "POST /v1/commands",
            "PUT /v1/commands/7/outcomes/n2",
            "POST /v1/query",
            "POST /v1/execute",
            "GET /v1/config/a",
            "GET /v1/cluster",
            "GET /v1/tokens",
            "GET /v1/audit",
            "GET /v1/backup",
            "GET /metrics",
            "PUT /v1/nodes/n2/reported",
            "GET /v1/nodes/n1/seen",
            "GET /v1/nodes/n1/desired/x",
            "POST /v1/cluster/promote",
            "GET /v1/watched-tables",
        ];
        for (all, expected) in [(&good[..], true), (&bad[..], false)] {
            for text in all {
                let (method, target) = text.split_once(' ').unwrap();
                let (path, query) =
                    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
                assert_eq!(agent_may(&method.parse().unwrap(), path, query, "n1"), expected, "{text}");
            }
        }
    }
}
