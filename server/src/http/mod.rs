//! HTTP: routes, limits, connections. One file per resource.
//!
//! Owns the listening socket and who may come in; the gate decides whether this machine may answer at all. Read
//! `execute.rs` and `query.rs` for the two that matter.

mod actor;
mod addressed;
mod authorize;
mod backup;
mod cluster;
mod cors;
mod entrance;
mod error;
mod events;
mod execute;
mod forward;
mod handover;
mod health;
mod members;
mod metrics;
mod openapi;
#[doc(hidden)]
pub mod parsers;
mod path;
mod proof;
mod query;
mod rate;
mod refusals;
mod shares;
mod socket;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod untaken;
mod watched_tables;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Uri},
    middleware,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tanist_api::code;
use tanist_replication::Term;
use tanist_store::PageSums;
use tanist_transport::{KeyRing, SecureStream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tower::ServiceExt as _;

use crate::{
    auth::{Operators, Tokens},
    backup::{Source, schedule},
    clock,
    config::{Config, HttpLimits},
    driver::Control,
    gate::Gate,
    measures::Measures,
    presence::Presence,
    reader::ReadPool,
    watch::Hub,
    write::WriterHandle,
};

pub use error::ApiError;
pub(crate) use forward::Way;
use openapi::{
    Routes,
    operations::{cluster as shown, data},
};
pub(crate) use shares::RESERVE;
use shares::{RESERVE_EACH, Reserved, Share, Shares, Who};
use socket::{Socket, Usage};
pub(crate) use tls::Secured;
pub use tls::TlsError;

/// How long a request waits for a position, or for the acknowledgement of what it read.
const WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to send its request's head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The same on a connection of the operators' reserve.
const RESERVED_HEAD_TIME: Duration = Duration::from_secs(2);
/// How long a client may take to send its request's body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What a connection may keep of a request's head, or of an answer that its client doesn't take, in bytes.
const BUFFER: usize = 64 << 10;
/// How long requests may finish when the server stops.
const STOP_TIME: Duration = Duration::from_secs(2);
/// How long watchers may take to hear that the server stops.
const WATCHER_STOP_TIME: Duration = Duration::from_millis(300);

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
    requests_each: Arc<Shares>,
    /// Beside them, for operators alone.
    operators_requests: Semaphore,
    untaken: untaken::Untaken,
    rates: rate::Rates,
    presence: Arc<Presence>,
    hub: Arc<Hub>,
    watchers: Arc<Semaphore>,
    watchers_each: Arc<Shares>,
    operators_watchers: Arc<Semaphore>,
    catching_up: Arc<Semaphore>,
    /// Copies that may be begun.
    copies: Arc<Semaphore>,
    /// Whose replica is copied.
    source: Source,
    /// How the scheduled copies stand, if there are any.
    scheduled: Option<schedule::Board>,
    /// Sums of the replica's pages; none on a witness.
    sums: Option<Arc<PageSums>>,
    measures: Arc<Measures>,
    cors: Vec<HeaderValue>,
    /// What proofs of the cluster's keys are made with, as they are now.
    operators_keys: Operators,
    /// The cluster's name.
    cluster: HeaderValue,
    /// What this machine is called.
    names: addressed::Names,
    nonces: proof::Nonces,
    refusals: refusals::Refusals,
    /// Whose tokens are whose; `None`: everybody may do everything.
    tokens: Option<Tokens>,
    max_staleness: Duration,
    /// Changes by users' SQL are recorded, so many of them at most; `None`: they aren't.
    audit: Option<u64>,
    /// By what clients know this machine, as it is now; `None`: plain HTTP.
    tls: Option<watch::Receiver<Secured>>,
    /// Brings to the master what only it can do.
    forwarder: forward::Forwarder,
    keys: KeyRing,
}

/// What the handlers work with.
pub(crate) struct Parts {
    /// Whether this machine may answer as master.
    pub(crate) gate: Arc<Gate>,
    /// Takes writes.
    pub(crate) writer: WriterHandle,
    /// Takes what operators ask for.
    pub(crate) operators: mpsc::Sender<Control>,
    /// Takes reads.
    pub(crate) readers: ReadPool,
    /// Which nodes are heard of.
    pub(crate) presence: Arc<Presence>,
    /// Where watchers look.
    pub(crate) hub: Arc<Hub>,
    /// How the scheduled copies stand, if there are any.
    pub(crate) scheduled: Option<schedule::Board>,
    /// Sums of the replica's pages; none on a witness.
    pub(crate) sums: Option<Arc<PageSums>>,
    /// Limits on requests, as they are now.
    pub(crate) limits: watch::Receiver<HttpLimits>,
    /// What proofs of the cluster's keys are made with, as they are now.
    pub(crate) operators_keys: Operators,
    /// The cluster's keys, as they are now.
    pub(crate) keys: KeyRing,
    /// By what clients know this machine, as it is now; `None`: plain HTTP.
    pub(crate) tls: Option<watch::Receiver<Secured>>,
    /// Counts what is answered.
    pub(crate) measures: Arc<Measures>,
    /// The way to other machines, once there is one.
    pub(crate) way: Way,
}

impl AppState {
    /// Puts the parts together.
    #[must_use]
    pub(crate) fn new(parts: Parts, config: &Config) -> AppState {
        let Parts {
            gate,
            writer,
            operators,
            readers,
            presence,
            hub,
            scheduled,
            sums,
            limits,
            operators_keys,
            keys,
            tls,
            measures,
            way,
        } = parts;
        AppState(Arc::new(Inner {
            gate,
            writer,
            presence,
            measures,
            cors: config.listen.cors.clone(),
            operators_keys,
            // A cluster's name has letters, digits, '-', '_' and '.' alone.
            cluster: HeaderValue::try_from(config.cluster.as_str()).unwrap_or(HeaderValue::from_static("")),
            names: addressed::Names::of(config),
            nonces: proof::Nonces::new(),
            refusals: refusals::Refusals::default(),
            tokens: config.tokens.then(|| Tokens::new(readers.clone())),
            readers,
            operators,
            rates: rate::Rates::default(),
            requests: Semaphore::new(config.limits.concurrent_requests),
            requests_each: Shares::new(config.limits.concurrent_requests_per_client),
            operators_requests: Semaphore::new(RESERVE),
            untaken: untaken::Untaken::new(config.limits.answers),
            hub,
            watchers: Arc::new(Semaphore::new(config.limits.watchers)),
            watchers_each: Shares::new(config.limits.watchers_per_client),
            operators_watchers: Arc::new(Semaphore::new(RESERVE)),
            catching_up: Arc::new(Semaphore::new(events::CATCHING_UP)),
            copies: Arc::new(Semaphore::new(backup::COPIES)),
            forwarder: forward::Forwarder::new(way, keys.clone()),
            source: Source::of(config, keys.clone()),
            keys,
            scheduled,
            sums,
            max_staleness: config.timing.lease,
            audit: config.audit.sql.then(|| config.audit.kept.full_at()),
            limits,
            tls,
        }))
    }
}

impl AppState {
    /// Whether requests need a token here. A witness has no table of them, and tells nothing but what `/v1/cluster` does.
    fn asks_for_tokens(&self) -> bool {
        self.0.tokens.as_ref().is_some_and(|tokens| !tokens.is_witness())
    }

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
                return Err(ApiError::not_master(&self.gate.view(), uri));
            };
            // Without a change by then the loop ends by the time that has passed.
            let _ = timeout(left, views.changed()).await;
        }
    }
}

/// What a route that counts against `limits.requests_per_second` may answer besides.
const RATE_LIMITED: (u16, &str) = (429, code::RATE_LIMITED);

/// Routes that count against all limits.
fn limited_routes() -> Routes {
    Routes::new()
        .on(data::execute(), execute::post)
        .on(data::query(), query::post)
        .on(data::backup(), backup::get)
        .on(data::watched_tables(), watched_tables::list)
        .on(data::watched_table(), watched_tables::get)
        .on(data::watch_table(), watched_tables::put)
        .on(data::unwatch_table(), watched_tables::delete)
        .on(shown::promote(), handover::promote)
        .on(shown::demote(), handover::demote)
        .on(shown::add_member(), members::add)
        .on(shown::set_member(), members::set)
        .on(shown::remove_member(), members::remove)
        .merge(state::routes())
        .problems(&[(503, code::OVERLOADED), RATE_LIMITED])
}

/// Routes with a limit of their own, beside the rate.
fn watch_routes() -> Routes {
    Routes::new().on(data::events(), events::get).problems(&[RATE_LIMITED])
}

/// Routes without a limit.
fn open_routes() -> Routes {
    Routes::new()
        .on(shown::live(), health::live)
        .on(shown::ready(), health::ready)
        .on(shown::metrics(), metrics::get)
        .on(shown::cluster(), cluster::get)
        .on(shown::members(), members::list)
        .on(shown::member(), members::get)
        .on(shown::dashboard(), health::dashboard)
        .on(shown::document(), openapi::json)
        .on(shown::docs(), openapi::page)
}

/// All routes.
pub fn router(state: AppState) -> Router {
    let (open, watch, limited) = (open_routes(), watch_routes(), limited_routes());
    let entrance = Arc::new(entrance::Entrance::new(state.clone(), &open, &watch, &limited));
    let router = open
        .merge(watch)
        .merge(limited)
        .router
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(entrance, entrance::pass));
    // Outermost: a browser asks for leave without a token.
    let router = match state.0.cors.as_slice() {
        [] => router,
        origins => router.layer(cors::layer(origins)),
    };
    router.with_state(state)
}

/// Who may connect.
struct Doors {
    connections: Arc<Semaphore>,
    each: Arc<Shares>,
    reserve: Arc<Semaphore>,
    reserve_each: Arc<Shares>,
}

/// Room for a connection that is still to come.
struct Room {
    permit: OwnedSemaphorePermit,
    reserved: bool,
}

/// A connection's room.
struct Entered {
    _permit: OwnedSemaphorePermit,
    _share: Share,
    reserved: bool,
}

impl Doors {
    fn new(limits: &HttpLimits) -> Doors {
        Doors {
            connections: Arc::new(Semaphore::new(limits.connections)),
            each: Shares::new(limits.connections_per_address),
            reserve: Arc::new(Semaphore::new(RESERVE)),
            reserve_each: Shares::new(RESERVE_EACH),
        }
    }

    /// Waits for room, in the reserve if there is none else.
    async fn room(&self) -> Room {
        loop {
            let (permit, reserved) = tokio::select! {
                biased;
                permit = Arc::clone(&self.connections).acquire_owned() => (permit, false),
                permit = Arc::clone(&self.reserve).acquire_owned() => (permit, true),
            };
            // Nobody closes them.
            if let Ok(permit) = permit {
                return Room { permit, reserved };
            }
        }
    }

    /// Who is over his share gets a place in the reserve, if there is one.
    fn enter(&self, room: Room, origin: rate::Origin) -> Option<Entered> {
        let who = Who::Address(Some(origin));
        let Room { permit, reserved } = room;
        if !reserved && let Some(share) = self.each.take(who.clone()) {
            return Some(Entered { _permit: permit, _share: share, reserved });
        }
        let share = self.reserve_each.take(who)?;
        let permit = if reserved { permit } else { Arc::clone(&self.reserve).try_acquire_owned().ok()? };
        Some(Entered { _permit: permit, _share: share, reserved: true })
    }
}

/// Serves until told to stop; then lets requests that have begun finish. `forwarded` are connections on which other machines
/// send requests of their clients.
///
/// # Errors
/// When the socket can't be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    state: AppState,
    forwarded: mpsc::Receiver<SecureStream>,
    stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let doors = Doors::new(&state.0.limits());
    let hub = Arc::clone(&state.0.hub);
    let (close_watchers, closed) = watch::channel(false);
    let secured = state.0.tls.clone();
    let keys = state.0.keys.clone();
    let router = router(state);
    let (stop_forwarded, stopped) = oneshot::channel();
    let forwarding = tokio::spawn(forward::serve(forwarded, router.clone(), keys, stopped));
    let mut builder = hyper::server::conn::http1::Builder::new();
    // Without `pipeline_flush`: with it hyper takes a streamed body as fast as it comes, whether the client reads or not.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    builder.max_buf_size(BUFFER);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        // Beyond the limit and the reserve, further connections wait in the system's queue.
        let permit = tokio::select! {
            permit = doors.room() => permit,
            _ = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let origin = rate::Origin::of(peer.ip());
        let Some(entered) = doors.enter(permit, origin) else {
            tracing::debug!(%peer, "a connection beyond limits.connections_per_address, and beyond the reserve");
            continue;
        };
        let reserved = entered.reserved;
        let _ = stream.set_nodelay(true);
        let usage = Arc::new(Usage::default());
        let for_requests = Arc::clone(&usage);
        let ends = addressed::Ends { peer, local: stream.local_addr().ok() };
        let service =
            router.clone().map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
                for_requests.begin();
                request.extensions_mut().insert(Arc::clone(&for_requests));
                request.extensions_mut().insert(origin);
                if reserved {
                    request.extensions_mut().insert(Reserved);
                }
                request.extensions_mut().insert(ends);
                request
            });
        let service = TowerToHyperService::new(service);
        let stream = Socket::new(stream, peer, Arc::clone(&usage));
        // A new certificate counts from the next connection on.
        let tls = secured.as_ref().map(|secured| secured.borrow().acceptor.clone());
        let (mut builder, watcher) = (builder.clone(), graceful.watcher());
        if reserved {
            builder.header_read_timeout(RESERVED_HEAD_TIME);
        }
        let closed = watchers_closed(closed.clone(), usage);
        let connection = async move {
            match tls {
                None => watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await,
                Some(tls) => match timeout(HEAD_TIME, tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "TLS");
                        Ok(())
                    }
                    Err(_) => Ok(()),
                },
            }
        };
        tokio::spawn(async move {
            let _entered = entered;
            tokio::select! {
                // A client that breaks off or sends no HTTP is its own affair.
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP connection");
                },
                () = closed => {}
            }
        });
    }
    hub.stop();
    let _ = stop_forwarded.send(());
    let shutdown = async {
        graceful.shutdown().await;
        let _ = forwarding.await;
    };
    let close = async {
        tokio::time::sleep(WATCHER_STOP_TIME).await;
        let _ = close_watchers.send(true);
        std::future::pending::<()>().await
    };
    let all = async {
        tokio::select! {
            () = shutdown => {}
            () = close => {}
        }
    };
    let _ = timeout(STOP_TIME, all).await;
    Ok(())
}

/// Ends when the connections of watchers are closed, should this be one.
async fn watchers_closed(mut closed: watch::Receiver<bool>, usage: Arc<Usage>) {
    if closed.wait_for(|closed| *closed).await.is_err() || !usage.is_watched() {
        std::future::pending::<()>().await;
    }
}

/// Reads a request's body, bounded in size and time.
async fn read_body(body: Body, limit: usize) -> Result<axum::body::Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(ApiError::body(&error, limit)),
        Err(_) => Err(ApiError::new(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            code::BAD_REQUEST,
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
