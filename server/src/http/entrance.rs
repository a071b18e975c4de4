//! What a request passes on its way to its route and back: who may, how often, how many at once; panics, position, counts.
//!
//! One layer for all of it: each layer of the router costs every request copies of the layers within. Who may is
//! `authorize.rs`, how often is `rate.rs`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use tanist_api::{Access, HEADER_CLUSTER, HEADER_NONCE, key};
use tokio::sync::SemaphorePermit;

use super::{
    ApiError, AppState,
    addressed::{self, Ends},
    authorize, error, execute, forward,
    openapi::Routes,
    rate,
    shares::{self, Reserved, Share, Who},
    socket::Usage,
};
use crate::{auth::Holder, measures::Route};

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
    /// What each route takes in its query.
    queries: Vec<(Method, &'static str, Vec<String>)>,
}

/// What is asked for, under a name that the API has: a stranger's words are nobody's metric.
fn named(entrance: &Entrance, request: &Request) -> Route {
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    };
    let path = request.extensions().get::<MatchedPath>();
    let found = path.and_then(|path| entrance.queries.iter().find(|(_, known, _)| *known == path.as_str()));
    Route { method, route: found.map_or("none", |(_, path, _)| *path) }
}

impl Entrance {
    /// Those of `limited` count against all limits.
    pub(super) fn new(state: AppState, open: &Routes, watch: &Routes, limited: &Routes) -> Entrance {
        let queries = [open, watch, limited].into_iter().flat_map(Routes::queries).collect();
        Entrance { state, open: open.list(), watch: watch.list(), queries }
    }

    /// What the route that is asked for takes in its query; `None`: there is no such route.
    fn query_of(&self, method: &Method, path: &MatchedPath) -> Option<&[String]> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let found = self.queries.iter().find(|(m, p, _)| m == method && *p == path.as_str());
        found.map(|(_, _, known)| &known[..])
    }

    /// Refuses what no route takes in its query, and what is given twice: a misspelt `consistency` must not be read as none.
    fn check_query(&self, request: &Request) -> Result<(), ApiError> {
        let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else { return Ok(()) };
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok(()) };
        let Some(known) = self.query_of(request.method(), path) else { return Ok(()) };
        let mut found = Vec::with_capacity(known.len());
        for (name, _) in form_urlencoded::parse(query.as_bytes()) {
            let shown: String = name.chars().take(80).collect();
            if !known.iter().any(|known| *known == name) {
                let expected = match known {
                    [] => "none".to_owned(),
                    known => format!("one of {}", known.join(", ")),
                };
                let detail = format!("query parameter: found {shown:?}, expected {expected}");
                return Err(ApiError::bad_request(detail));
            }
            if found.contains(&name) {
                let detail = format!("query parameter: found {shown:?} twice, expected each one once");
                return Err(ApiError::bad_request(detail));
            }
            found.push(name);
        }
        Ok(())
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
    let is_api = request.uri().path().starts_with("/v1/");
    let (route, began) = (named(&entrance, &request), Instant::now());
    let answered = AssertUnwindSafe(answer(&entrance, request, next)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(error::panicked);
    if reserved && !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    state.0.measures.answered(route, response.status().as_u16(), began.elapsed());
    let refused = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    // Every answer says where this replica stands; those of reads and writes have said it more precisely already.
    if !headers.contains_key(tanist_api::HEADER_POSITION) {
        let position = *state.0.gate.stored().borrow();
        execute::insert_position(headers, position);
    }
    headers.insert(HEADER_CLUSTER, state.0.cluster.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_api {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    if refused && let Ok(challenge) = HeaderValue::try_from(challenge(state)) {
        headers.append(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Who has the cluster key may prove it with this.
fn challenge(state: &AppState) -> String {
    format!("{} nonce=\"{}\"", key::SCHEME, state.0.nonces.make())
}

/// Serves a request, and notes in the log if it was refused for who has sent it.
async fn answer(entrance: &Entrance, mut request: Request, next: Next) -> Response {
    let state = &entrance.state;
    let (method, ends) = (request.method().clone(), request.extensions().get::<Ends>().copied());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let let_in = let_in(entrance, &mut request).await;
    let holder = request.extensions().get::<Holder>().cloned();
    let mut response = match let_in {
        Ok(record) => {
            let response = serve(entrance, request, next).await;
            if let Some(record) = record {
                record.log(response.status());
            }
            response
        }
        Err(error) => error.into_response(),
    };
    if holder.as_ref().is_some_and(Holder::is_operator)
        && let Ok(nonce) = HeaderValue::try_from(state.0.nonces.make())
    {
        response.headers_mut().insert(HEADER_NONCE, nonce);
    }
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let token = holder.as_ref().map(|holder| &*holder.name);
    state.0.refusals.note(response.status(), &method, route, ends.as_ref(), token);
    response
}

/// To whom, from whom, by which right, and in what shape.
async fn let_in(entrance: &Entrance, request: &mut Request) -> Result<Option<authorize::Operated>, ApiError> {
    let path = request.uri().path();
    let needed = authorize::needed(request.method(), path);
    // Those who look whether a machine lives know it by any name; they are told nothing of the data.
    let open = matches!(path, "/healthz" | "/readyz");
    addressed::check(&entrance.state, request, open)?;
    let record = authorize::authorize(&entrance.state, needed, request).await?;
    entrance.check_query(request)?;
    let route = request.extensions().get::<MatchedPath>();
    if route.is_some_and(|path| entrance.query_of(request.method(), path).is_some()) {
        addressed::media_type(request)?;
    }
    Ok(record)
}

async fn serve(entrance: &Entrance, request: Request, next: Next) -> Response {
    let needed = authorize::needed(request.method(), request.uri().path());
    match admit(entrance, &request) {
        Ok(_admitted) => {
            let usage = request.extensions().get::<Arc<Usage>>().cloned();
            let response = forward::run(&entrance.state, request, next).await;
            let untaken = &entrance.state.0.untaken;
            let kept = untaken.keep(response, needed > Some(Access::Read), usage.as_deref());
            kept.unwrap_or_else(ApiError::into_response)
        }
        Err(error) => error.into_response(),
    }
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
