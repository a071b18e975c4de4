//! One call: attempts on the hosts that the policy picks, until one serves it or its time is over.
//!
//! Owns the verdict on each attempt: done, refused without effect, unknown, final. Never sends a write without its
//! idempotency key, which alone makes it safe to send it again. Read `hosts.rs` for the order of attempts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tanist_api::{Cluster, Problem, Ready, Role, code};
use tokio::time::{sleep, timeout};

use crate::{
    Client, Error,
    hosts::{self, Host, Need, Trouble},
    send::Sent,
};

/// Largest answer taken, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// After so long without an answer, ask whether there is another master by now; and again, as often.
const LOOK_AROUND: Duration = Duration::from_millis(500);

pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(&'static str, &'a str)>,
    pub(crate) need: Need,
    /// Total time.
    pub(crate) deadline: Duration,
    pub(crate) effect: Effect<'a>,
}

/// What a call that isn't answered may have done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect<'a> {
    Nothing,
    /// A write with this key.
    Write(&'a str),
    /// A change of the cluster, which nothing tells apart from the same one asked for again.
    Change,
}

impl<'a> Call<'a> {
    pub(crate) fn get(path: &'a str, deadline: Duration) -> Call<'a> {
        Call {
            method: Method::GET,
            path,
            body: Bytes::new(),
            headers: vec![],
            need: Need::Any,
            deadline,
            effect: Effect::Nothing,
        }
    }
}

/// What a machine that served the request said.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How one attempt ended.
pub(crate) enum Attempt {
    Done(Answer),
    /// Another machine is the master.
    Redirect(Host),
    /// Not served; nothing was done.
    Refused {
        why: String,
        trouble: Trouble,
        retry_after: Option<Duration>,
    },
    /// Not answered; something may have been done.
    Unknown(String),
    /// Not answered, and there is another master by now.
    Superseded(Host),
    Final(Error),
}

impl Attempt {
    fn refused(trouble: Trouble, why: impl Into<String>) -> Attempt {
        Attempt::Refused { why: why.into(), trouble, retry_after: None }
    }
}

impl Client {
    pub(crate) async fn call<T: serde::de::DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Error> {
        let (host, answer) = self.answer(call).await?;
        parse(&host, &answer.body)
    }

    /// The answer with who gave it.
    pub(crate) async fn answer(&self, call: Call<'_>) -> Result<(Host, Answer), Error> {
        let until = Instant::now() + call.deadline;
        let mut unknown = false;
        let mut tried: Vec<Host> = vec![];
        let mut last = "there was no time for an attempt".to_owned();
        let mut attempts = 0u32;
        while let Some((host, left)) = self.next_host(call.need, until).await {
            if !tried.contains(&host) {
                tried.push(host.clone());
            }
            attempts += 1;
            let limit = left.min(self.attempt_timeout());
            let ended = if call.need == Need::Master {
                tokio::select! {
                    biased;
                    ended = self.attempt(&host, &call, limit) => ended,
                    master = self.look_around(&host) => Attempt::Superseded(master),
                }
            } else {
                self.attempt(&host, &call, limit).await
            };
            let now = Instant::now();
            let why = match ended {
                Attempt::Done(answer) => {
                    self.on_served(&host, call.need);
                    self.refresh(&host, attempts > 1);
                    return Ok((host, answer));
                }
                Attempt::Final(error) => {
                    self.on_served(&host, call.need);
                    return Err(error);
                }
                Attempt::Redirect(master) => {
                    self.hosts().on_redirect(&host, &master, now);
                    // No trouble: a machine was asked that isn't the master.
                    format!("the master is {master}")
                }
                Attempt::Refused { why, trouble, retry_after } => {
                    self.on_trouble(&host, call.need, trouble, retry_after, &why);
                    why
                }
                Attempt::Unknown(why) => {
                    unknown = true;
                    self.on_trouble(&host, call.need, Trouble::Unreachable, None, &why);
                    why
                }
                Attempt::Superseded(master) => {
                    unknown = true;
                    let why = format!("no answer, and {master} is the master by now");
                    self.on_trouble(&host, call.need, Trouble::Unreachable, None, &why);
                    self.hosts().on_master(&master);
                    why
                }
            };
            last = format!("{host}: {why}");
            tracing::debug!(%last, "attempt failed");
        }
        match call.effect {
            Effect::Write(key) if unknown => {
                Err(Error::OutcomeUnknown { key: key.to_owned(), deadline: call.deadline, last })
            }
            Effect::Change if unknown => Err(Error::Unconfirmed { deadline: call.deadline, last }),
            _ => Err(Error::Unavailable { deadline: call.deadline, tried: tried.join(", "), last }),
        }
    }

    /// The host to be asked next, and how much time is left; waits while all have to rest, `None` when the time is over.
    pub(crate) async fn next_host(&self, need: Need, until: Instant) -> Option<(Host, Duration)> {
        loop {
            let now = Instant::now();
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return None;
            }
            let picked = self.hosts().pick(need, now);
            match picked {
                Ok(host) => return Some((host, left)),
                Err(wait) => sleep(wait.max(Duration::from_millis(1)).min(left)).await,
            }
        }
    }

    /// One request to one host, its whole answer included in the time limit.
    pub(crate) async fn attempt(&self, host: &Host, call: &Call<'_>, limit: Duration) -> Attempt {
        match timeout(limit, self.exchange(host, call)).await {
            Ok(ended) => ended,
            Err(_) => Attempt::Unknown(format!("no whole answer within {limit:?}")),
        }
    }

    async fn exchange(&self, host: &Host, call: &Call<'_>) -> Attempt {
        let sent = Sent { method: &call.method, path: call.path, headers: &call.headers, body: &call.body };
        let response = match self.send(host, sent).await {
            Ok(response) => response,
            Err(unsent) => return unsent.into_attempt(host),
        };
        let (head, body) = response.into_parts();
        if matches!(head.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            return redirect(&head.headers, call.path, self.is_secure());
        }
        let body = match Limited::new(body, ANSWER_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let why = format!("the answer is larger than {ANSWER_LIMIT} bytes");
                return Attempt::Final(Error::Unexpected { host: host.clone(), why });
            }
            Err(error) => return Attempt::Unknown(format!("the answer broke off: {error}")),
        };
        if head.status.is_success() || head.status == StatusCode::NOT_MODIFIED {
            Attempt::Done(Answer { status: head.status, headers: head.headers, body })
        } else {
            refusal(host, head.status, &head.headers, &body)
        }
    }

    /// Ends when the asked machine no longer serves and another one reigns instead: a machine without power doesn't even
    /// break its connections.
    async fn look_around(&self, host: &Host) -> Host {
        sleep(LOOK_AROUND).await;
        while self.reigns(host).await {
            sleep(LOOK_AROUND).await;
        }
        // It is not asked again: if it comes back, its answer ends the attempt.
        let why = format!("no answer for {LOOK_AROUND:?}");
        self.links().on_trouble(Need::Master, host, &why, self.hosts().master());
        loop {
            let others: Vec<Host> = self.hosts().all().into_iter().filter(|other| other != host).collect();
            for other in others {
                if self.reigns(&other).await {
                    return other;
                }
            }
            sleep(LOOK_AROUND).await;
        }
    }

    /// Whether this machine serves as master now; what it tells of the cluster is learned then.
    async fn reigns(&self, host: &Host) -> bool {
        match self.view_of(host, LOOK_AROUND).await {
            Ok(cluster) => {
                let serves = cluster.writable && cluster.master.as_ref() == Some(&cluster.member);
                if serves {
                    self.learn(&cluster);
                }
                serves
            }
            Err(_) if self.known().is_blind() => self
                .ask::<Ready>(host, "/readyz", LOOK_AROUND)
                .await
                .is_ok_and(|ready| ready.role == Role::Master),
            Err(_) => false,
        }
    }

    pub(crate) fn on_served(&self, host: &Host, need: Need) {
        self.hosts().on_served(host, need);
        self.links().on_served(need, host);
    }

    pub(crate) fn on_trouble(
        &self,
        host: &Host,
        need: Need,
        trouble: Trouble,
        retry_after: Option<Duration>,
        why: &str,
    ) {
        let mut hosts = self.hosts();
        hosts.on_trouble(host, trouble, retry_after, Instant::now());
        // A machine that is busy is there.
        if trouble != Trouble::Busy {
            self.links().on_trouble(need, host, why, hosts.master());
        }
    }

    /// The cluster as one machine sees it, by one attempt.
    pub(crate) async fn view_of(&self, host: &Host, limit: Duration) -> Result<Cluster, Error> {
        if self.known().is_blind() {
            let last = "this token isn't shown the cluster".to_owned();
            return Err(Error::Unavailable { deadline: limit, tried: host.clone(), last });
        }
        let view = self.ask(host, "/v1/cluster", limit).await;
        if matches!(&view, Err(Error::Problem(problem)) if problem.code == code::FORBIDDEN) {
            self.known().set_blind();
        }
        view
    }

    /// One GET on one machine.
    pub(crate) async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        host: &Host,
        path: &str,
        limit: Duration,
    ) -> Result<T, Error> {
        let unavailable = |last| Error::Unavailable { deadline: limit, tried: host.clone(), last };
        match self.attempt(host, &Call::get(path, limit), limit).await {
            Attempt::Done(answer) => parse(host, &answer.body),
            Attempt::Redirect(to) | Attempt::Superseded(to) => Err(unavailable(format!("redirects to {to}"))),
            Attempt::Refused { why, .. } | Attempt::Unknown(why) => Err(unavailable(why)),
            Attempt::Final(error) => Err(error),
        }
    }
}

fn redirect(headers: &HeaderMap, path: &str, secure: bool) -> Attempt {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    match location.and_then(|location| location.strip_suffix(path)).map(hosts::parse) {
        Some(Ok(hosts)) if secure && hosts.iter().any(|host| !host.starts_with("https://")) => {
            Attempt::refused(Trouble::Refusing, format!("a redirect to {location:?}, which has no TLS"))
        }
        Some(Ok(mut hosts)) if hosts.len() == 1 => Attempt::Redirect(hosts.remove(0)),
        _ => Attempt::refused(
            Trouble::Refusing,
            format!("a redirect to {location:?}, which is no machine's {path}"),
        ),
    }
}

pub(crate) fn refusal(host: &Host, status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Attempt {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = seconds.map(Duration::from_secs);
    let problem: Problem = match serde_json::from_slice(body) {
        Ok(problem) => problem,
        // Whoever says so, hasn't done it.
        Err(_) if status == StatusCode::TOO_MANY_REQUESTS => {
            return Attempt::Refused { why: format!("status {status}"), trouble: Trouble::Busy, retry_after };
        }
        // Not Tanist's own answer (something in between), so nothing is known of the request.
        Err(_) if status.is_server_error() => return Attempt::Unknown(format!("status {status}")),
        Err(error) => {
            let why = format!("status {status} without a problem document: {error}");
            return Attempt::Final(Error::Unexpected { host: host.clone(), why });
        }
    };
    let trouble = match problem.code.as_str() {
        code::OUTCOME_UNKNOWN | code::INTERNAL => return Attempt::Unknown(problem.detail),
        code::OVERLOADED
        | code::RATE_LIMITED
        | code::NOT_ENOUGH_BACKUPS
        | code::DATABASE_LOCKED
        | code::OUTSIDE_WRITE => Trouble::Busy,
        _ if status == StatusCode::SERVICE_UNAVAILABLE => Trouble::Refusing,
        _ => return Attempt::Final(Error::Problem(Box::new(problem))),
    };
    Attempt::Refused { why: problem.detail, trouble, retry_after }
}

/// An error with its causes: hyper's own text says little.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Many messages quote their cause already.
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(host: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::Unexpected { host: host.to_owned(), why: error.to_string() })
}
