//! HTTP: routes, limits, connections. One file per resource.
//!
//! Owns the listening socket and who may come in; the gate decides whether this machine may answer at all. Read
//! `execute.rs` and `query.rs` for the two that matter.

mod actor;
mod authorize;
mod cluster;
mod error;
mod execute;
mod handover;
mod health;
mod members;
#[doc(hidden)]
pub mod parsers;
mod query;
mod state;
#[cfg(test)]
mod tests;
mod tls;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::Uri,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, patch, post},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tanist_replication::Term;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    auth::Tokens,
    clock,
    config::{Config, HttpLimits},
    driver::Control,
    gate::Gate,
    reader::ReadPool,
    write::WriterHandle,
};

pub use error::ApiError;
pub use tls::TlsError;
pub(crate) use tls::acceptor;

/// How long a request waits for a position, or for the acknowledgement of what it read.
const WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to send its request's head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send its request's body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long requests may finish when the server stops.
const STOP_TIME: Duration = Duration::from_secs(2);

/// What every handler needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Arc<Gate>,
    writer: WriterHandle,
    readers: ReadPool,
    operators: mpsc::Sender<Control>,
    /// They may change while requests run.
    limits: watch::Receiver<HttpLimits>,
    requests: Semaphore,
    /// Whose tokens are whose; `None`: everybody may do everything.
    tokens: Option<Tokens>,
    max_staleness: Duration,
}

impl AppState {
    /// Puts the parts together.
    #[must_use]
    pub(crate) fn new(
        gate: Arc<Gate>,
        writer: WriterHandle,
        operators: mpsc::Sender<Control>,
        readers: ReadPool,
        limits: watch::Receiver<HttpLimits>,
        config: &Config,
    ) -> AppState {
        AppState(Arc::new(Inner {
            gate,
            writer,
            tokens: config.tokens.then(|| Tokens::new(&config.key, readers.clone())),
            readers,
            operators,
            requests: Semaphore::new(config.limits.concurrent_requests),
            max_staleness: config.timing.lease,
            limits,
        }))
    }
}

impl AppState {
    /// Tokens were made or revoked: what is known of them is read anew.
    fn forget_tokens(&self) {
        if let Some(tokens) = &self.0.tokens {
            tokens.forget();
        }
    }
}

impl Inner {
    fn limits(&self) -> HttpLimits {
        self.limits.borrow().clone()
    }

    /// The reign that this machine serves now. Otherwise the request belongs to the master; while that is being found,
    /// it waits, so that clients don't notice a handover or a quick failover.
    async fn reign(&self, uri: &Uri) -> Result<Term, ApiError> {
        if let Some(term) = self.gate.is_open(clock::now_ns()) {
            return Ok(term);
        }
        let came = clock::now_ns();
        let mut views = self.gate.views();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            let now = clock::now_ns();
            if let Some(term) = self.gate.is_open(now) {
                return Ok(term);
            }
            let cluster = &view.cluster;
            let elsewhere = cluster.master.as_ref().is_some_and(|master| *master != cluster.member);
            let since = self.gate.masterless_since_ns().unwrap_or(came);
            let waited = Duration::from_nanos(now.saturating_sub(since));
            let Some(left) =
                self.limits().master_wait.checked_sub(waited).filter(|left| !elsewhere && !left.is_zero())
            else {
                return Err(ApiError::not_master(&view, uri));
            };
            // Without a change by then the loop ends by the time that has passed.
            let _ = timeout(left, views.changed()).await;
        }
    }
}

/// All routes.
pub fn router(state: AppState) -> Router {
    let limited = Router::new()
        .route("/v1/execute", post(execute::post))
        .route("/v1/query", post(query::post))
        .route("/v1/cluster/promote", post(handover::promote))
        .route("/v1/cluster/demote", post(handover::demote))
        .route("/v1/cluster/members", post(members::add))
        .route("/v1/cluster/members/{id}", patch(members::set).delete(members::remove))
        .merge(state::routes())
        .layer(middleware::from_fn_with_state(state.clone(), limit_requests));
    // What tells how the machine is must answer however busy it is.
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/v1/cluster", get(cluster::get))
        .route("/v1/cluster/members", get(members::list))
        .route("/v1/cluster/members/{id}", get(members::get))
        .route("/", get(health::dashboard))
        .merge(limited)
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), authorize::authorize))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::map_response_with_state(state.clone(), add_position))
        .with_state(state)
}

/// Every answer says where this replica stands; those of reads and writes have said it more precisely already.
async fn add_position(State(state): State<AppState>, mut response: Response) -> Response {
    if !response.headers().contains_key(tanist_api::HEADER_POSITION) {
        let position = *state.0.gate.stored().borrow();
        execute::insert_position(response.headers_mut(), position);
    }
    response
}

/// Refuses a request when too many are under way, rather than queueing without end.
async fn limit_requests(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match state.0.requests.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => ApiError::overloaded("too many requests are under way (limits.concurrent_requests)")
            .into_response(),
    }
}

/// Serves until told to stop; then lets requests that have begun finish.
///
/// # Errors
/// When the socket can't be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    state: AppState,
    stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Arc::new(Semaphore::new(state.0.limits().connections));
    let router = router(state);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).pipeline_flush(true);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        // Beyond the limit, further connections wait in the system's queue.
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            _ = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let (builder, tls, watcher) = (builder.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            let ended = match tls {
                None => watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await,
                Some(tls) => match timeout(HEAD_TIME, tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "TLS");
                        return;
                    }
                    Err(_) => return,
                },
            };
            // A client that breaks off or sends no HTTP is its own affair.
            if let Err(error) = ended {
                tracing::debug!(%error, "HTTP connection");
            }
        });
    }
    let _ = tokio::time::timeout(STOP_TIME, graceful.shutdown()).await;
    Ok(())
}

/// Reads a request's body, bounded in size and time.
async fn read_body(body: Body, limit: usize) -> Result<axum::body::Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(ApiError::body(&error, limit)),
        Err(_) => Err(ApiError::new(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            tanist_api::code::BAD_REQUEST,
            format!("body: it didn't come within {BODY_TIME:?}"),
        )),
    }
}

/// Joins a results array that is JSON already to its position, without parsing it again.
fn results_body(position: tanist_replication::Position, results: &[u8]) -> Body {
    let head = format!("{{\"position\":\"{position}\",\"results\":");
    let mut body = Vec::with_capacity(head.len() + results.len() + 1);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(results);
    body.push(b'}');
    Body::from(body)
}
