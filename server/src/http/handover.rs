//! `POST /v1/cluster/promote` and `/demote`: planned handover. Answered when the next master serves.
//!
//! Both may be repeated: what is so already is answered as done.

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use tanist_api::{Access, Cluster, HandoverRequest, HandoverResponse, code};
use tanist_replication::MemberId;
use tokio::{sync::oneshot, time::timeout};

use super::{ApiError, AppState, Inner, authorize::demand, execute::parse, read_body};
use crate::{auth::Holder, clock, driver::Control};

/// The replication thread gives a handover up before that, unless it waits for its disk.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the next master may take to serve before the answer says so.
const NEXT_MASTER: Duration = Duration::from_secs(5);

pub(super) async fn promote(
    State(state): State<AppState>,
    holder: Option<Extension<Holder>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<HandoverResponse>, ApiError> {
    let state = &*state.0;
    let request: HandoverRequest = parse(&headers, &read_body(body, state.limits().body).await?)?;
    if request.force || request.accept_data_loss {
        if let Some(Extension(holder)) = holder {
            demand(&holder, Access::Admin)?;
        }
        return force(state, &request).await;
    }
    state.reign(&uri).await?;
    let cluster = &state.gate.view().cluster;
    if request.member == cluster.member {
        return Ok(answer(cluster));
    }
    let to = known(cluster, &request.member)?;
    hand_over(state, Some(to), format!("an operator promotes {}", request.member)).await
}

pub(super) async fn demote(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<HandoverResponse>, ApiError> {
    let state = &*state.0;
    state.reign(&uri).await?;
    let request: HandoverRequest = parse(&headers, &read_body(body, state.limits().body).await?)?;
    if request.force || request.accept_data_loss {
        return Err(ApiError::bad_request("force: found with demote, expected with promote only"));
    }
    let cluster = &state.gate.view().cluster;
    known(cluster, &request.member)?;
    if request.member != cluster.member {
        return Ok(answer(cluster));
    }
    hand_over(state, None, "an operator demotes it".to_owned()).await
}

/// Makes this machine reign on an operator's word, where nobody can by himself.
async fn force(state: &Inner, request: &HandoverRequest) -> Result<Json<HandoverResponse>, ApiError> {
    if !(request.force && request.accept_data_loss) {
        let found =
            if request.force { "force without accept_data_loss" } else { "accept_data_loss without force" };
        return Err(ApiError::bad_request(format!(
            "force: found {found}, expected both to be true, or neither"
        )));
    }
    let view = state.gate.view();
    known(&view.cluster, &request.member)?;
    if request.member != view.cluster.member {
        let detail = format!(
            "member: found {:?}, expected {:?}: ask that machine itself",
            request.member, view.cluster.member
        );
        return Err(ApiError::bad_request(detail));
    }
    let (respond, ended) = oneshot::channel();
    let why = format!("an operator asked {} to", request.member);
    succeed(state, Control::Force { why, respond }, ended).await
}

fn known(cluster: &Cluster, name: &str) -> Result<MemberId, ApiError> {
    let unknown = || {
        let members: Vec<_> = cluster.members.iter().map(|member| member.id.as_str()).collect();
        ApiError::bad_request(format!("member: found {name:?}, expected one of {}", members.join(", ")))
    };
    let id: MemberId = name.parse().map_err(|_| unknown())?;
    if cluster.members.iter().any(|member| member.id == id.as_str()) { Ok(id) } else { Err(unknown()) }
}

fn answer(cluster: &Cluster) -> Json<HandoverResponse> {
    Json(HandoverResponse { master: cluster.master.clone().unwrap_or_default(), term: cluster.term })
}

async fn hand_over(
    state: &Inner,
    to: Option<MemberId>,
    why: String,
) -> Result<Json<HandoverResponse>, ApiError> {
    let (respond, handed) = oneshot::channel();
    succeed(state, Control::HandOver { to, why, respond }, handed).await
}

/// Asks for another reign and waits until it serves.
async fn succeed(
    state: &Inner,
    asked: Control,
    ended: oneshot::Receiver<Result<MemberId, String>>,
) -> Result<Json<HandoverResponse>, ApiError> {
    let failed = |why: String| ApiError::new(StatusCode::CONFLICT, code::HANDOVER_FAILED, why);
    let stopped = |_| ApiError::overloaded("this machine stops");
    let mut views = state.gate.views();
    let before = views.borrow().cluster.term;
    state.operators.try_send(asked).map_err(|_| ApiError::overloaded("too many handovers were asked for"))?;
    let silent = |_| {
        let notice = state.gate.stalls().notice(clock::now_ns()).unwrap_or_default();
        ApiError::overloaded(format!("no answer from the replication thread in {ANSWER:?}; {notice}"))
    };
    let ended = timeout(ANSWER, ended).await.map_err(silent)?;
    let heir = ended.map_err(stopped)?.map_err(failed)?;
    let serves = views.wait_for(|view| {
        let cluster = &view.cluster;
        cluster.term > before && cluster.writable && cluster.master.is_some()
    });
    match timeout(NEXT_MASTER, serves).await {
        Ok(Ok(view)) => Ok(answer(&view.cluster)),
        _ => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code::NO_MASTER,
            format!("the throne is {heir}'s, but no master serves yet"),
        )),
    }
}
