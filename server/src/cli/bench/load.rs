//! Load on one machine: keep-alive connections, one request under way on each.
//!
//! Owns the connections and the counting. Never parses an answer's body: status and position header tell enough.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tanist_api::{HEADER_IDEMPOTENCY_KEY, HEADER_POSITION};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::histogram::Histogram;

/// Load before counting begins: connections are made, caches warm.
const WARM_UP: Duration = Duration::from_millis(500);
/// No request is waited for longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A worker rests after an error, so that a machine that refuses isn't flooded.
const REST: Duration = Duration::from_millis(20);

/// What is sent, again and again.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Taken in turn; empty for requests without body.
    pub(super) bodies: Arc<[Bytes]>,
    /// A new idempotency key with each request.
    pub(super) keys: bool,
    /// The token, if there is one.
    pub(super) authorization: Option<HeaderValue>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) latencies: Histogram,
    pub(super) errors: BTreeMap<String, u64>,
    /// First and last transaction id among the answers.
    pub(super) txids: Option<(u64, u64)>,
    /// The time in which it was counted.
    pub(super) time: Duration,
}

impl Tally {
    fn see(&mut self, first: u64, last: u64) {
        self.txids = Some(self.txids.map_or((first, last), |(low, high)| (low.min(first), high.max(last))));
    }

    fn merge(&mut self, other: &Tally) {
        self.latencies.merge(&other.latencies);
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        if let Some((first, last)) = other.txids {
            self.see(first, last);
        }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.time.as_secs_f64()
    }

    /// Requests per transaction: what group commit gathers.
    pub(super) fn per_transaction(&self) -> Option<f64> {
        self.txids.map(|(first, last)| self.latencies.count() as f64 / (last - first + 1) as f64)
    }
}

/// Loads the machine at `url` for `time`, after a short warm-up.
pub(super) async fn load(
    url: &str,
    work: &Work,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Tally> {
    let uri: Uri = url.parse().with_context(|| format!("read the master's URL {url}"))?;
    if uri.scheme_str() == Some("https") {
        bail!("{url}: the load speaks plain HTTP only; measure where the cluster has no TLS");
    }
    let Some(authority) = uri.authority().map(ToString::to_string) else {
        bail!("the master's URL {url} has no host")
    };
    let from = Instant::now() + WARM_UP;
    let window = (from, from + time);
    let mut workers = JoinSet::new();
    for index in 0..connections {
        workers.spawn(worker(authority.clone(), work.clone(), index, window));
    }
    let mut all = Tally { time, ..Tally::default() };
    while let Some(tally) = workers.join_next().await {
        all.merge(&tally.context("a worker of the load")?);
    }
    if all.latencies.count() == 0 {
        let errors: Vec<String> =
            all.errors.iter().map(|(error, count)| format!("{error} ({count} times)")).collect();
        bail!("{url} answered no {} in {time:?}: {}", work.path, errors.join("; "));
    }
    Ok(all)
}

async fn worker(authority: String, work: Work, index: usize, (from, until): (Instant, Instant)) -> Tally {
    let mut tally = Tally::default();
    let mut headers = HeaderMap::new();
    if let Ok(host) = HeaderValue::try_from(&authority) {
        headers.insert(header::HOST, host);
    }
    if let Some(authorization) = &work.authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    if !work.bodies.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    // Each worker begins elsewhere in the list.
    let mut next = index.wrapping_mul(97);
    loop {
        let began = Instant::now();
        if began >= until {
            return tally;
        }
        if work.keys
            && let Ok(key) = HeaderValue::try_from(uuid::Uuid::now_v7().to_string())
        {
            headers.insert(HEADER_IDEMPOTENCY_KEY, key);
        }
        let body =
            if work.bodies.is_empty() { Bytes::new() } else { work.bodies[next % work.bodies.len()].clone() };
        next = next.wrapping_add(1);
        let ended = match timeout(REQUEST_LIMIT, exchange(&authority, &mut connection, &work, &headers, body))
            .await
        {
            Ok(ended) => ended,
            Err(_) => Err(format!("no answer within {REQUEST_LIMIT:?}")),
        };
        let now = Instant::now();
        let counts = now >= from && now < until;
        match ended {
            Ok(txid) if counts => {
                // A request that began before the window took its true time nevertheless.
                tally.latencies.record(now - began);
                if let Some(txid) = txid {
                    tally.see(txid, txid);
                }
            }
            Ok(_) => {}
            Err(error) => {
                connection = None;
                *tally.errors.entry(error).or_default() += 1;
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// One request and its whole answer; gives the transaction id of its position.
async fn exchange(
    authority: &str,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    work: &Work,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Option<u64>, String> {
    let sender = match connection {
        Some(sender) => sender,
        None => connection.insert(connect(authority).await?),
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = work.method.clone();
    *request.uri_mut() = Uri::from_static(work.path);
    *request.headers_mut() = headers.clone();
    let response = sender.send_request(request).await.map_err(|error| format!("request: {error}"))?;
    let (head, mut body) = response.into_parts();
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| format!("answer: {error}"))?;
    }
    if head.status != StatusCode::OK {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let position = head.headers.get(HEADER_POSITION).and_then(|value| value.to_str().ok());
    Ok(position.and_then(|position| position.split_once('.')?.1.parse().ok()))
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(authority).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| format!("connect: {error}"))?;
    tokio::spawn(async move {
        // The request that fails tells.
        let _ = connection.await;
    });
    Ok(sender)
}
