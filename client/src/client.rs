//! The client: one call is a series of attempts on the hosts that the policy picks, within a deadline.
//!
//! Owns connections (kept alive, names resolved anew at each connect) and the retry loop. Never repeats a write without
//! its idempotency key. Read `hosts.rs` for the order of attempts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tanist_api::{
    Cluster, ExecuteRequest, ExecuteResponse, HEADER_IDEMPOTENCY_KEY, HEADER_MIN_POSITION, Problem,
    QueryRequest, QueryResponse, code,
};
use tokio::time::timeout;

use crate::{
    Error,
    hosts::{self, Host, Hosts},
};

/// Largest answer taken, in bytes.
const ANSWER_LIMIT: usize = 256 << 20;
/// The member list is asked for again after so long, beside a request.
const LEARN_EVERY: Duration = Duration::from_secs(10);

/// How current a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Everything acknowledged before; served by the master.
    #[default]
    Strong,
    /// What the asked replica has.
    Local,
    /// What the asked replica has, if it was current so recently.
    Bounded {
        /// How long ago at most.
        max_staleness: Duration,
    },
}

/// What may differ for one write.
#[derive(Debug, Clone, Default)]
pub struct ExecuteOptions {
    /// The key of an earlier try of the same write; a new one otherwise.
    pub idempotency_key: Option<String>,
    /// Total time; the client's own otherwise.
    pub deadline: Option<Duration>,
}

/// Makes a client with other than the default times.
#[derive(Debug, Clone)]
pub struct Builder {
    hosts: String,
    deadline: Duration,
    attempt: Duration,
    connect: Duration,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            hosts: String::new(),
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(5),
            connect: Duration::from_secs(1),
        }
    }
}

impl Builder {
    /// `a:8080,b:8080`, or URLs.
    #[must_use]
    pub fn hosts(mut self, hosts: &str) -> Builder {
        hosts.clone_into(&mut self.hosts);
        self
    }

    /// Total time of a call, all attempts together; default 30 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.deadline = deadline;
        self
    }

    /// Time of one attempt; default 5 s.
    #[must_use]
    pub fn attempt_timeout(mut self, attempt: Duration) -> Builder {
        self.attempt = attempt;
        self
    }

    /// Time to connect; default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, connect: Duration) -> Builder {
        self.connect = connect;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// When the host list can't be used.
    pub fn build(self) -> Result<Client, Error> {
        let hosts = Hosts::new(hosts::parse(&self.hosts)?);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.connect));
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        let learned = Mutex::new(Instant::now() - LEARN_EVERY);
        Ok(Client(Arc::new(Inner { hosts: Mutex::new(hosts), http, settings: self, learned })))
    }
}

/// A client of a cluster; cheap to clone, usable from many tasks at once.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hosts: Mutex<Hosts>,
    http: HyperClient<HttpConnector, Full<Bytes>>,
    settings: Builder,
    learned: Mutex<Instant>,
}

/// How one attempt ended.
enum Attempt {
    Done(Bytes),
    /// Another machine is the master.
    Redirect(Host),
    /// Not served; nothing was done.
    Refused(String),
    /// Not answered; something may have been done.
    Unknown(String),
    Final(Error),
}

struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
    headers: Vec<(&'static str, String)>,
    deadline: Duration,
    /// The write's key.
    key: Option<&'a str>,
}

impl Client {
    /// A client with default times.
    ///
    /// # Errors
    /// When the host list can't be used.
    pub fn new(hosts: &str) -> Result<Client, Error> {
        Client::builder().hosts(hosts).build()
    }

    /// For other times.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs the statements as one transaction; answered when the cluster has stored it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(&self, request: ExecuteRequest) -> Result<ExecuteResponse, Error> {
        self.execute_with(request, ExecuteOptions::default()).await
    }

    /// As [`Client::execute`], with a key or deadline of the caller's.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute_with(
        &self,
        request: ExecuteRequest,
        options: ExecuteOptions,
    ) -> Result<ExecuteResponse, Error> {
        let key = options.idempotency_key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let call = Call {
            method: Method::POST,
            path: "/v1/execute",
            body: json(&request)?,
            headers: vec![(HEADER_IDEMPOTENCY_KEY, key.clone())],
            deadline: options.deadline.unwrap_or(self.0.settings.deadline),
            key: Some(&key),
        };
        self.call(call).await
    }

    /// Runs read-only statements on one snapshot.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query(
        &self,
        request: QueryRequest,
        consistency: Consistency,
        min_position: Option<&str>,
    ) -> Result<QueryResponse, Error> {
        let path = match consistency {
            Consistency::Strong => "/v1/query".to_owned(),
            Consistency::Local => "/v1/query?consistency=local".to_owned(),
            Consistency::Bounded { max_staleness } => {
                format!("/v1/query?consistency=bounded&max_staleness={}ms", max_staleness.as_millis())
            }
        };
        let headers = min_position.map(|position| (HEADER_MIN_POSITION, position.to_owned()));
        let call = Call {
            method: Method::POST,
            path: &path,
            body: json(&request)?,
            headers: headers.into_iter().collect(),
            deadline: self.0.settings.deadline,
            key: None,
        };
        self.call(call).await
    }

    /// How some machine sees the cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        let call = Call {
            method: Method::GET,
            path: "/v1/cluster",
            body: Bytes::new(),
            headers: vec![],
            deadline: self.0.settings.deadline,
            key: None,
        };
        let cluster: Cluster = self.call(call).await?;
        self.learn(&cluster);
        Ok(cluster)
    }

    /// How this machine sees the cluster; one attempt.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster_of(&self, host: &str) -> Result<Cluster, Error> {
        let host = hosts::parse(host)?.remove(0);
        let deadline = self.0.settings.attempt;
        let call = Call {
            method: Method::GET,
            path: "/v1/cluster",
            body: Bytes::new(),
            headers: vec![],
            deadline,
            key: None,
        };
        match self.attempt(&host, &call, deadline).await {
            Attempt::Done(body) => parse(&host, &body),
            Attempt::Redirect(to) => Err(Error::Unexpected { host, why: format!("a redirect to {to}") }),
            Attempt::Refused(last) | Attempt::Unknown(last) => {
                Err(Error::Unavailable { deadline, tried: host, last })
            }
            Attempt::Final(error) => Err(error),
        }
    }

    /// All hosts known now: those given and those learned.
    #[must_use]
    pub fn known_hosts(&self) -> Vec<Host> {
        self.hosts().all()
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, cluster: &Cluster) {
        let urls: Vec<Host> = cluster.members.iter().flat_map(|member| member.urls.iter().cloned()).collect();
        let mut hosts = self.hosts();
        if !urls.is_empty() {
            hosts.on_members(&urls);
        }
        if cluster.writable
            && let Some(master) = cluster.master_urls.first()
        {
            hosts.on_master(master);
        }
    }

    /// Asks for the current member list beside the request, now and then.
    fn refresh(&self, host: &Host) {
        {
            let mut learned = self.0.learned.lock().unwrap_or_else(PoisonError::into_inner);
            if learned.elapsed() < LEARN_EVERY {
                return;
            }
            *learned = Instant::now();
        }
        let (client, host) = (self.clone(), host.clone());
        tokio::spawn(async move {
            if let Ok(cluster) = client.cluster_of(&host).await {
                client.learn(&cluster);
            }
        });
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Error> {
        let until = Instant::now() + call.deadline;
        let mut unknown = false;
        let mut tried: Vec<Host> = vec![];
        let mut last = "no attempt was made".to_owned();
        loop {
            let now = Instant::now();
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            let picked = self.hosts().pick(now);
            let host = match picked {
                Ok(host) => host,
                Err(wait) => {
                    tokio::time::sleep(wait.max(Duration::from_millis(1)).min(left)).await;
                    continue;
                }
            };
            if !tried.contains(&host) {
                tried.push(host.clone());
            }
            match self.attempt(&host, &call, left.min(self.0.settings.attempt)).await {
                Attempt::Done(body) => {
                    self.hosts().on_answer(&host);
                    self.refresh(&host);
                    return parse(&host, &body);
                }
                Attempt::Redirect(master) => {
                    last = format!("{host}: the master is {master}");
                    let mut hosts = self.hosts();
                    // The one that redirects may lag behind a failover: don't be sent to and fro without a pause.
                    hosts.on_failure(&host, Instant::now());
                    hosts.on_master(&master);
                }
                Attempt::Refused(why) => {
                    last = format!("{host}: {why}");
                    self.hosts().on_failure(&host, Instant::now());
                }
                Attempt::Unknown(why) => {
                    last = format!("{host}: {why}");
                    unknown = true;
                    self.hosts().on_failure(&host, Instant::now());
                }
                Attempt::Final(error) => {
                    self.hosts().on_answer(&host);
                    return Err(error);
                }
            }
            tracing::debug!(%last, "attempt failed");
        }
        match call.key {
            Some(key) if unknown => {
                Err(Error::OutcomeUnknown { key: key.to_owned(), deadline: call.deadline, last })
            }
            _ => Err(Error::Unavailable { deadline: call.deadline, tried: tried.join(", "), last }),
        }
    }

    async fn attempt(&self, host: &Host, call: &Call<'_>, limit: Duration) -> Attempt {
        let mut request = Request::builder().method(call.method.clone()).uri(format!("{host}{}", call.path));
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let request = match request.body(Full::new(call.body.clone())) {
            Ok(request) => request,
            Err(error) => return Attempt::Final(Error::Hosts(format!("{host}: {error}"))),
        };
        let response = match timeout(limit, self.0.http.request(request)).await {
            Ok(Ok(response)) => response,
            // Nothing was sent on a connection that was never made.
            Ok(Err(error)) if error.is_connect() => return Attempt::Refused(chain(&error)),
            Ok(Err(error)) => return Attempt::Unknown(chain(&error)),
            Err(_) => return Attempt::Unknown(format!("no answer within {limit:?}")),
        };
        let status = response.status();
        if status == StatusCode::TEMPORARY_REDIRECT {
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            return match location.and_then(|location| location.strip_suffix(call.path)).map(hosts::parse) {
                Some(Ok(mut hosts)) => Attempt::Redirect(hosts.remove(0)),
                _ => Attempt::Refused("a redirect without a usable Location".to_owned()),
            };
        }
        let body = match timeout(limit, Limited::new(response.into_body(), ANSWER_LIMIT).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Attempt::Unknown(format!("the answer broke off: {error}")),
            Err(_) => return Attempt::Unknown(format!("the answer took longer than {limit:?}")),
        };
        if status.is_success() {
            return Attempt::Done(body);
        }
        let problem: Problem = match serde_json::from_slice(&body) {
            Ok(problem) => problem,
            Err(_) if status.is_server_error() => return Attempt::Unknown(format!("status {status}")),
            Err(error) => {
                let why = format!("status {status} without a problem document: {error}");
                return Attempt::Final(Error::Unexpected { host: host.clone(), why });
            }
        };
        match problem.code.as_str() {
            code::OUTCOME_UNKNOWN | code::INTERNAL => Attempt::Unknown(problem.detail),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Attempt::Refused(problem.detail),
            _ => Attempt::Final(Error::Problem(Box::new(problem))),
        }
    }
}

/// An error with its causes: hyper's own text says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn json(value: &impl serde::Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::Unexpected {
        host: "this program".to_owned(),
        why: format!("write the request: {error}"),
    })
}

fn parse<T: serde::de::DeserializeOwned>(host: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::Unexpected { host: host.to_owned(), why: error.to_string() })
}
