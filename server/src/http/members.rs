//! `/v1/cluster/members`: who takes part. Any machine lists them, the master changes them, one at a time.
//!
//! Checks what is asked for; the protocol core decides whether it can be (`replication/src/role/members.rs`).

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use tanist_api::{Cluster, ClusterMember, MemberPatch, MembersResponse, NewMember, code};
use tanist_replication::{Member, MemberId, Rank};
use tokio::sync::oneshot;

use super::{ApiError, AppState, Inner, execute::parse, path::Part, read_body};
use crate::{
    config,
    driver::{Control, MemberEdit},
};

type Answer = Result<Json<MembersResponse>, ApiError>;

pub(super) async fn list(State(state): State<AppState>) -> Json<MembersResponse> {
    Json(MembersResponse { members: state.0.gate.view().cluster.members.clone() })
}

pub(super) async fn get(
    State(state): State<AppState>,
    Part(id): Part,
) -> Result<Json<ClusterMember>, ApiError> {
    let view = state.0.gate.view();
    known(&view.cluster, &id).cloned().map(Json)
}

pub(super) async fn add(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<MembersResponse>), ApiError> {
    let state = &*state.0;
    state.reign(&uri).await?;
    let new: NewMember = parse(&headers, &read_body(body, state.limits().body).await?)?;
    let view = state.gate.view();
    if view.cluster.members.iter().any(|member| is_already(member, &new)) {
        return Ok((StatusCode::OK, Json(MembersResponse { members: view.cluster.members.clone() })));
    }
    let member = member(new)?;
    Ok((StatusCode::CREATED, change(state, MemberEdit::Add(member)).await?))
}

/// The member that a request describes.
pub(super) fn member(new: NewMember) -> Result<Member, ApiError> {
    let id = new.id.parse::<MemberId>().map_err(|_| {
        let expected = "1 to 63 letters, digits, '-', '_' or '.'";
        ApiError::bad_request(format!("id: found {:?}, expected {expected}", new.id))
    })?;
    Ok(Member {
        id,
        rank: Rank(new.rank),
        peer_addresses: peer_addresses(new.peer_addresses)?,
        urls: urls(new.urls)?,
        absent: true,
    })
}

pub(super) async fn set(
    State(state): State<AppState>,
    Part(id): Part,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let state = &*state.0;
    state.reign(&uri).await?;
    let patch: MemberPatch = parse(&headers, &read_body(body, state.limits().body).await?)?;
    let edit = MemberEdit::Set {
        id: id_of(known(&state.gate.view().cluster, &id)?)?,
        rank: patch.rank.map(Rank),
        peer_addresses: patch.peer_addresses.map(peer_addresses).transpose()?,
        urls: patch.urls.map(urls).transpose()?,
    };
    change(state, edit).await
}

pub(super) async fn remove(State(state): State<AppState>, Part(id): Part, uri: Uri) -> Answer {
    let state = &*state.0;
    state.reign(&uri).await?;
    let id = id_of(known(&state.gate.view().cluster, &id)?)?;
    change(state, MemberEdit::Remove(id)).await
}

async fn change(state: &Inner, edit: MemberEdit) -> Answer {
    let (respond, changed) = oneshot::channel();
    let asked = Control::ChangeMembers { edit, respond };
    state.operators.try_send(asked).map_err(|_| ApiError::overloaded("too many changes were asked for"))?;
    let changed = changed.await.map_err(|_| ApiError::overloaded("this machine stops"))?;
    let members = changed.map_err(|why| ApiError::new(StatusCode::CONFLICT, code::MEMBERS_UNCHANGED, why))?;
    Ok(Json(MembersResponse { members }))
}

fn known<'a>(cluster: &'a Cluster, id: &str) -> Result<&'a ClusterMember, ApiError> {
    cluster.members.iter().find(|member| member.id == id).ok_or_else(|| {
        let members: Vec<_> = cluster.members.iter().map(|member| member.id.as_str()).collect();
        let detail = format!("member: found {id:?}, expected one of {}", members.join(", "));
        ApiError::new(StatusCode::NOT_FOUND, code::NOT_FOUND, detail)
    })
}

fn id_of(member: &ClusterMember) -> Result<MemberId, ApiError> {
    member.id.parse().map_err(|error| ApiError::bad_request(format!("member: {error}")))
}

fn is_already(member: &ClusterMember, new: &NewMember) -> bool {
    (&member.id, member.rank) == (&new.id, new.rank)
        && (&member.peer_addresses, &member.urls) == (&new.peer_addresses, &new.urls)
}

fn peer_addresses(found: Vec<String>) -> Result<Vec<String>, ApiError> {
    if !(1..=config::MOST_ADDRESSES).contains(&found.len()) {
        return Err(refuse("peer_addresses", found.len(), config::ADDRESS_COUNT));
    }
    match found.iter().find(|address| !config::is_peer_address(address)) {
        Some(address) => Err(refuse("peer_addresses", format!("{address:?}"), config::PEER_ADDRESS)),
        None => Ok(found),
    }
}

fn urls(found: Vec<String>) -> Result<Vec<String>, ApiError> {
    if found.len() > config::MOST_ADDRESSES {
        return Err(refuse("urls", found.len(), config::ADDRESS_COUNT));
    }
    match found.iter().find(|url| !config::is_client_url(url)) {
        Some(url) => Err(refuse("urls", format!("{url:?}"), config::CLIENT_URL)),
        None => Ok(found.iter().map(|url| url.trim_end_matches('/').to_owned()).collect()),
    }
}

fn refuse(field: &str, found: impl std::fmt::Display, expected: &str) -> ApiError {
    ApiError::bad_request(format!("{field}: found {found}, expected {expected}"))
}
