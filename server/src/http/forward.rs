//! Any machine answers: what only the master can do, another machine carries there for its client, over the peers' own
//! connection, and brings the answer back. So TLS, tokens and names make no trouble, and no client need follow a redirect.
//!
//! Owns the connections to the master and the question whether a request may be sent again. A client that asks for it
//! (`Tanist-Redirect`) is told where the master is instead. Read `entrance.rs` for what a request has passed before.

use std::{
    collections::VecDeque,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tanist_api::{HEADER_IDEMPOTENCY_KEY, HEADER_MASTER, HEADER_REDIRECT, code};
use tanist_replication::MemberId;
use tanist_transport::{KeyRing, Opener, SecureStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tower::ServiceExt as _;

use super::{ApiError, AppState, BUFFER, addressed::Ends, rate::Origin, socket::Usage};
use crate::{auth::Holder, gate::Gate};

/// Says for whom a request is forwarded. Believed of machines of this cluster alone.
const HEADER_FOR: &str = "tanist-forwarded-for";
/// The machine that forwards has seen that its client has the cluster key.
const HEADER_OPERATOR: &str = "tanist-forwarded-operator";

/// Of a body so much is kept, so that the request can be sent to the next master.
const KEPT: usize = 64 << 10;
/// Connections to the master are kept for so long without a request.
const IDLE: Duration = Duration::from_secs(30);
/// So many of them are kept.
const IDLE_CONNECTIONS: usize = 64;
/// So many may be open to this machine, from all others together.
const CONNECTIONS: usize = 1024;
/// Between two tries while the master can't be reached.
const AGAIN: Duration = Duration::from_millis(50);
/// Another is the master: so long an answer of the one before is still waited for, which may have just been given.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A request that another machine of this cluster forwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarded {
    /// Its client has proved the cluster key there.
    pub(super) operator: bool,
}

/// How to reach the master.
#[derive(Debug)]
pub(super) struct Forwarder {
    client: Client<Connector, Body>,
}

/// Set once the links to other machines are there.
pub(crate) type Way = Arc<OnceLock<Opener>>;

impl Forwarder {
    pub(super) fn new(way: Way, keys: KeyRing) -> Forwarder {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            // Requests keep the host that they were sent to.
            .set_host(false)
            .build(Connector { way, keys });
        Forwarder { client }
    }

    /// Sends it to `master`, once.
    async fn send(
        &self,
        master: &MemberId,
        parts: &Parts,
        body: Body,
        gate: &Gate,
    ) -> Result<Response<Incoming>, Lost> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("http://{master}{path}").parse().map_err(|_| Lost::Unsent)?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = end_to_end(&parts.headers);
        let from = parts.extensions.get::<Ends>().map(|ends| ends.peer.ip().to_string());
        let headers = request.headers_mut();
        headers.remove(HEADER_OPERATOR);
        headers.remove(HEADER_FOR);
        if let Some(from) = from.and_then(|from| HeaderValue::try_from(from).ok()) {
            headers.insert(HEADER_FOR, from);
        }
        if parts.extensions.get::<Holder>().is_some_and(Holder::is_operator) {
            headers.insert(HEADER_OPERATOR, HeaderValue::from_static("1"));
        }
        let answered = self.client.request(request);
        tokio::pin!(answered);
        let answer = tokio::select! {
            answer = &mut answered => Some(answer),
            () = replaced(gate, master) => timeout(LAST_WORD, &mut answered).await.ok(),
        };
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if error.is_connect() => Err(Lost::Unsent),
            _ => Err(Lost::Perhaps),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// It wasn't sent.
    Unsent,
    /// It was sent, and may have been done.
    Perhaps,
}

/// Until somebody else is the master, or nobody, as far as this machine knows.
async fn replaced(gate: &Gate, master: &MemberId) {
    let mut views = gate.views();
    while views.borrow_and_update().cluster.master.as_deref() == Some(master.as_str()) {
        if views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs a request here or at the master, wherever that is by then.
pub(super) async fn run(state: &AppState, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    if request.headers().contains_key(HEADER_REDIRECT) || extensions.get::<Forwarded>().is_some() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let kept = Kept::new(body);
    let mut since: Option<Instant> = None;
    // A write was sent to this one, and may have been done.
    let mut lost_with: Option<MemberId> = None;
    loop {
        let here = Request::from_parts(parts.clone(), Body::new(kept.again()));
        let response = next.clone().run(here).await;
        let Some(master) = elsewhere(&response) else { return unless_done(response, lost_with.as_ref()) };
        let gate = &state.0.gate;
        let since = *since.get_or_insert_with(Instant::now);
        let body = Body::new(kept.again());
        let mut may_go_on = true;
        match state.0.forwarder.send(&master, &parts, body, gate).await {
            // It isn't the master any more.
            Ok(answer) if answer.status() == StatusCode::TEMPORARY_REDIRECT && kept.is_whole() => {}
            Ok(answer) => return unless_done(answered(answer, &master), lost_with.as_ref()),
            Err(lost) => {
                may_go_on = kept.is_whole();
                if lost == Lost::Perhaps && !is_read(&parts) {
                    may_go_on &= parts.headers.contains_key(HEADER_IDEMPOTENCY_KEY);
                    lost_with = Some(master.clone());
                }
            }
        }
        if !may_go_on || since.elapsed() > state.0.limits().master_wait {
            return unless_done(not_reached(&master).into_response(), lost_with.as_ref());
        }
        let mut views = gate.views();
        let _ = timeout(AGAIN, views.changed()).await;
    }
}

/// `answer`, unless it says that it can't be now of a write that may have been done by `lost_with` before.
fn unless_done(answer: Response, lost_with: Option<&MemberId>) -> Response {
    match lost_with {
        Some(master) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
            let detail = format!(
                "outcome unknown: the master, {master}, was lost while it had the request; with an Idempotency-Key it can be \
                 repeated safely"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code::OUTCOME_UNKNOWN, detail).into_response()
        }
        _ => answer,
    }
}

/// The master to which a request is referred.
fn elsewhere(response: &Response) -> Option<MemberId> {
    if response.status() != StatusCode::TEMPORARY_REDIRECT {
        return None;
    }
    response.headers().get(HEADER_MASTER)?.to_str().ok()?.parse().ok()
}

/// Whether it changes nothing, so that it does no harm to send it again.
fn is_read(parts: &Parts) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) || parts.uri.path() == "/v1/query"
}

fn not_reached(master: &MemberId) -> ApiError {
    let detail = format!("the master, {master}, isn't reached from here; nothing was done");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code::NO_MASTER, detail)
}

fn answered(answer: Response<Incoming>, master: &MemberId) -> Response {
    let (mut parts, body) = answer.into_parts();
    parts.headers = end_to_end(&parts.headers);
    if let Ok(via) = HeaderValue::try_from(format!("1.1 {master}")) {
        parts.headers.append(header::VIA, via);
    }
    Response::from_parts(parts, Body::new(body))
}

/// Without what is about one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const OF_CONNECTION: [HeaderName; 7] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut headers = headers.clone();
    for name in OF_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers
}

/// What a forwarded request says of its client: for the machine that answers. `None`: nothing that makes sense.
pub(super) fn client_of(headers: &mut HeaderMap) -> (Option<IpAddr>, Forwarded) {
    let from = headers.remove(HEADER_FOR).and_then(|value| value.to_str().ok()?.parse().ok());
    (from, Forwarded { operator: headers.remove(HEADER_OPERATOR).is_some() })
}

/// Serves the connections on which other machines forward, until told to stop; then lets what has begun finish.
pub(super) async fn serve(
    mut streams: mpsc::Receiver<SecureStream>,
    router: Router,
    keys: KeyRing,
    stop: oneshot::Receiver<()>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).max_buf_size(BUFFER);
    let mut stop = std::pin::pin!(stop);
    loop {
        let stream = tokio::select! {
            Some(stream) = streams.recv() => stream,
            _ = &mut stop => break,
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(peer = %stream.peer(), "forwarded requests refused: too many connections");
            continue;
        };
        let address = stream.address();
        let stream = match stream.into_bytes(&keys) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for forwarded requests");
                continue;
            }
        };
        let usage = Arc::new(Usage::default());
        let service = router.clone().map_request(move |mut request: hyper::Request<Incoming>| {
            usage.begin();
            request.extensions_mut().insert(Arc::clone(&usage));
            mark(&mut request, address);
            request
        });
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watcher().watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection for forwarded requests");
            }
        });
    }
    graceful.shutdown().await;
}

/// Marks a request that has come over a peer's connection.
pub(super) fn mark(request: &mut hyper::Request<Incoming>, peer: std::net::SocketAddr) {
    let (from, forwarded) = client_of(request.headers_mut());
    let ip = from.unwrap_or(peer.ip());
    let extensions = request.extensions_mut();
    extensions.insert(forwarded);
    extensions.insert(Origin::of(ip));
    extensions.insert(Ends { peer: std::net::SocketAddr::new(ip, 0), local: None });
}

/// Dials the machine that a request's host names.
#[derive(Debug, Clone)]
struct Connector {
    way: Way,
    keys: KeyRing,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Bridge>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Bridge>, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Connector { way, keys } = self.clone();
        Box::pin(async move {
            let to: MemberId = uri.host().unwrap_or_default().parse().map_err(std::io::Error::other)?;
            let opener = way.get().ok_or_else(|| std::io::Error::other("no links yet"))?;
            let stream: SecureStream = opener.open(&to).await.map_err(std::io::Error::other)?;
            stream.into_bytes(&keys).map(Bridge).map(TokioIo::new).map_err(std::io::Error::other)
        })
    }
}

/// A connection to another machine, as bytes.
#[derive(Debug)]
struct Bridge(DuplexStream);

impl Connection for Bridge {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Bridge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Bridge {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A request's body that can be read again from its beginning, if it is small; cheap to clone.
#[derive(Clone)]
struct Kept(Arc<Mutex<Taken>>);

struct Taken {
    /// What was read.
    read: Vec<Bytes>,
    bytes: usize,
    /// More was read than is kept.
    is_cut: bool,
    rest: Body,
}

impl Kept {
    fn new(body: Body) -> Kept {
        Kept(Arc::new(Mutex::new(Taken { read: vec![], bytes: 0, is_cut: false, rest: body })))
    }

    /// Whether nothing of it is lost.
    fn is_whole(&self) -> bool {
        !self.0.lock().is_cut
    }

    fn again(&self) -> Again {
        let read = self.0.lock().read.iter().cloned().collect();
        Again { kept: self.clone(), read }
    }
}

/// One reading of a [`Kept`] body.
struct Again {
    kept: Kept,
    read: VecDeque<Bytes>,
}

impl HttpBody for Again {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(bytes) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let mut taken = self.kept.0.lock();
        let frame = ready!(Pin::new(&mut taken.rest).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            taken.bytes += bytes.len();
            if taken.bytes > KEPT {
                taken.is_cut = true;
                taken.read.clear();
            } else {
                taken.read.push(bytes.clone());
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.kept.0.lock().rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let before = self.read.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        let rest = self.kept.0.lock().rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + before);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + before);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code_of(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (status, problem["code"].as_str().unwrap().to_owned())
    }

    /// A later try finds nobody, or somebody who is busy: that says nothing about the first one.
    #[tokio::test]
    async fn write_that_was_sent_once_is_never_said_to_be_undone() {
        let master: MemberId = "pc-1".parse().unwrap();
        let expected = |code: &str| (503, code.to_owned());
        for later in [not_reached(&master), ApiError::overloaded("busy")] {
            let told = unless_done(later.into_response(), Some(&master));
            assert_eq!(code_of(told).await, expected(code::OUTCOME_UNKNOWN));
        }
        let told = unless_done(not_reached(&master).into_response(), None);
        assert_eq!(code_of(told).await, expected(code::NO_MASTER));
        // What the next master says of the key is an answer.
        let refused = ApiError::bad_request("no").into_response();
        assert_eq!(code_of(unless_done(refused, Some(&master))).await.0, 400);
    }
}
