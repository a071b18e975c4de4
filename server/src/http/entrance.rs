//! What a request passes on its way to its route and back: who may, how often, how many at once; panics, position, counts.
//!
//! One layer for all of it: each layer of the router costs every request copies of the layers within. Who may is
//! `authorize.rs`, how often is `rate.rs`.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use tanist_api::Access;
use tokio::sync::SemaphorePermit;

use super::{
    ApiError, AppState, authorize, error, execute,
    openapi::Routes,
    rate,
    shares::{self, Reserved, Share, Who},
    socket::Usage,
};

/// The limits that a route counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limits {
    /// None: what tells how the machine is must answer however busy it is.
    None,
    /// `limits.requests_per_second`: a watcher stays for long and must not take a request's place.
    Rate,
    /// And `limits.concurrent_requests`, `limits.answers`.
    All,
}

/// The router's only layer.
pub(super) struct Entrance {
    state: AppState,
    open: Vec<(Method, &'static str)>,
    watch: Vec<(Method, &'static str)>,
}

impl Entrance {
    /// Routes that aren't named here count against all limits.
    pub(super) fn new(state: AppState, open: &Routes, watch: &Routes) -> Entrance {
        Entrance { state, open: open.list(), watch: watch.list() }
    }

    fn limits(&self, request: &Request) -> Limits {
        // Nothing is there: that is said at once.
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Limits::None };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let is_in =
            |routes: &[(Method, &str)]| routes.iter().any(|(m, p)| m == method && *p == path.as_str());
        if is_in(&self.open) {
            Limits::None
        } else if is_in(&self.watch) {
            Limits::Rate
        } else {
            Limits::All
        }
    }
}

/// Passes a request, or answers it.
pub(super) async fn pass(State(entrance): State<Arc<Entrance>>, request: Request, next: Next) -> Response {
    let state = &entrance.state;
    let reserved = request.extensions().get::<Reserved>().is_some();
    let answered = AssertUnwindSafe(answer(&entrance, request, next)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(error::panicked);
    if reserved && !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    state.0.answers.count(response.status());
    // Every answer says where this replica stands; those of reads and writes have said it more precisely already.
    if !response.headers().contains_key(tanist_api::HEADER_POSITION) {
        let position = *state.0.gate.stored().borrow();
        execute::insert_position(response.headers_mut(), position);
    }
    response
}

async fn answer(entrance: &Entrance, mut request: Request, next: Next) -> Response {
    let needed = authorize::needed(request.method(), request.uri().path());
    let record = match authorize::authorize(&entrance.state, needed, &mut request).await {
        Ok(record) => record,
        Err(error) => return error.into_response(),
    };
    let response = match admit(entrance, &request) {
        Ok(_admitted) => {
            let usage = request.extensions().get::<Arc<Usage>>().cloned();
            let response = next.run(request).await;
            let untaken = &entrance.state.0.untaken;
            let kept = untaken.keep(response, needed > Some(Access::Read), usage.as_deref());
            kept.unwrap_or_else(ApiError::into_response)
        }
        Err(error) => error.into_response(),
    };
    if let Some(record) = record {
        record.log(response.status());
    }
    response
}

/// Refuses what is too much, rather than queueing without end. The permit is held while the request runs.
fn admit<'e>(entrance: &'e Entrance, request: &Request) -> Result<Admitted<'e>, ApiError> {
    let (state, limits) = (&entrance.state, entrance.limits(request));
    if limits == Limits::None {
        return Ok(Admitted::default());
    }
    let operator = shares::is_operator(state, request);
    if !operator && request.extensions().get::<Reserved>().is_some() {
        return Err(ApiError::overloaded(
            "all connections are taken, or all of this address's; what is left is for operators (limits.connections, \
             limits.connections_per_address)",
        ));
    }
    rate::check(state, request)?;
    if limits == Limits::Rate {
        return Ok(Admitted::default());
    }
    let refused = |_| ApiError::overloaded("too many requests are under way (limits.concurrent_requests)");
    if operator {
        let permit = state.0.requests.try_acquire().or_else(|_| state.0.operators_requests.try_acquire());
        return Ok(Admitted { _permit: Some(permit.map_err(refused)?), _share: None });
    }
    state.0.untaken.check()?;
    let who = Who::of(request);
    let share = state.0.requests_each.take(who.clone());
    let share = share
        .ok_or_else(|| shares::full(&who, "requests under way", "limits.concurrent_requests_per_client"))?;
    let permit = state.0.requests.try_acquire().map_err(refused)?;
    Ok(Admitted { _permit: Some(permit), _share: Some(share) })
}

/// What a request holds while it runs.
#[derive(Default)]
struct Admitted<'e> {
    _permit: Option<SemaphorePermit<'e>>,
    _share: Option<Share>,
}
