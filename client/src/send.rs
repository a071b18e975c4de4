//! One request to one machine: by which right it is sent, and whether the machine belongs to the cluster.
//!
//! A client belongs to the cluster of the machine that answers first, or to the one it was told. What it sends says so from then on,
//! so that a machine of another cluster refuses it before it does anything; and an answer of another cluster's is none. A client
//! whose given hosts are all `https://` sends nothing to others.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tanist_api::{HEADER_CLUSTER, HEADER_REDIRECT};

use crate::{
    Client, Error,
    builder::Right,
    call::{Attempt, chain},
    hosts::{Host, Trouble},
};

/// Machines whose cluster is remembered as another; more are found out anew each time.
const ODD_HOSTS: usize = 256;

/// A request without what every request has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent<'a> {
    pub(crate) method: &'a Method,
    /// With the query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: &'a Bytes,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// It can't be made.
    Request(http::Error),
    /// The host isn't `https://`, as the given ones are.
    Clear,
    /// The machine belongs to another cluster.
    OtherCluster { found: String, expected: String },
    /// It didn't get there, or its answer didn't come.
    Http(hyper_util::client::legacy::Error),
}

impl Unsent {
    pub(crate) fn into_attempt(self, host: &Host) -> Attempt {
        let refused = |why| Attempt::Refused { why, trouble: Trouble::Refusing, retry_after: None };
        match self {
            Unsent::Request(error) => {
                Attempt::Final(Error::Unexpected { host: host.clone(), why: error.to_string() })
            }
            Unsent::Clear => {
                refused("the hosts of this client are https://, nothing is sent without TLS".to_owned())
            }
            Unsent::OtherCluster { found, expected } => {
                refused(format!("it belongs to the cluster {found:?}, the others to {expected:?}"))
            }
            // Nothing was sent on a connection that was never made.
            Unsent::Http(error) if error.is_connect() => {
                Attempt::Refused { why: chain(&error), trouble: Trouble::Unreachable, retry_after: None }
            }
            Unsent::Http(error) => Attempt::Unknown(chain(&error)),
        }
    }
}

/// To which cluster the client belongs.
#[derive(Debug, Default)]
pub(crate) struct Home {
    cluster: Option<String>,
    /// Machines that have said something else.
    odd: HashMap<Host, String>,
}

/// What the client knows beside the hosts.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// An agent isn't shown the cluster: it asks no more.
    blind: AtomicBool,
    home: Mutex<Home>,
    #[cfg(feature = "key")]
    nonces: crate::nonces::Nonces,
}

impl Known {
    pub(crate) fn of(cluster: Option<String>) -> Known {
        let known = Known::default();
        known.home.lock().unwrap_or_else(PoisonError::into_inner).cluster = cluster;
        known
    }

    /// Whether the cluster's view is refused to this client.
    pub(crate) fn is_blind(&self) -> bool {
        self.blind.load(Relaxed)
    }

    pub(crate) fn set_blind(&self) {
        self.blind.store(true, Relaxed);
    }

    fn cluster(&self) -> Option<String> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).cluster.clone()
    }

    /// Compares what a machine says; the first one's word counts.
    fn compare(&self, host: &Host, headers: &HeaderMap) -> Result<(), Unsent> {
        // An older machine doesn't say it.
        let Some(found) = headers.get(HEADER_CLUSTER).and_then(|value| value.to_str().ok()) else {
            return Ok(());
        };
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = home.cluster.get_or_insert_with(|| found.to_owned()).clone();
        if found == expected {
            return Ok(());
        }
        if !home.odd.contains_key(host) && home.odd.len() < ODD_HOSTS {
            tracing::error!(%host, found, expected, "a host belongs to another cluster: it is not used");
            home.odd.insert(host.clone(), found.to_owned());
        }
        Err(Unsent::OtherCluster { found: found.to_owned(), expected })
    }
}

impl Client {
    /// Sends a request to a machine; the answer's body is still to be read.
    pub(crate) async fn send(&self, host: &Host, sent: Sent<'_>) -> Result<Response<Incoming>, Unsent> {
        if self.is_secure() && !host.starts_with("https://") {
            return Err(Unsent::Clear);
        }
        match self.right() {
            #[cfg(feature = "key")]
            Right::Key(key) => self.prove(host, key, sent).await,
            _ => self.send_once(host, sent, None).await,
        }
    }

    /// One nonce is good for one request. Without one, or with one that is too old, the machine gives a new one, and has done nothing.
    #[cfg(feature = "key")]
    async fn prove(
        &self,
        host: &Host,
        key: &tanist_api::key::OperatorKey,
        sent: Sent<'_>,
    ) -> Result<Response<Incoming>, Unsent> {
        let nonces = &self.known().nonces;
        let proof = |nonce: &str| crate::nonces::authorization(key, nonce, host, sent);
        let mut response = self.send_once(host, sent, nonces.take(host).as_deref().map(proof)).await?;
        // The first one refused may have been kept for too long.
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(nonce) = crate::nonces::challenge(response.headers())
        {
            response = self.send_once(host, sent, Some(proof(&nonce))).await?;
        }
        nonces.keep(host, response.headers());
        Ok(response)
    }

    async fn send_once(
        &self,
        host: &Host,
        sent: Sent<'_>,
        proof: Option<String>,
    ) -> Result<Response<Incoming>, Unsent> {
        let mut request = Request::builder().method(sent.method.clone()).uri(format!("{host}{}", sent.path));
        let has_media_type = sent.headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE.as_str());
        // Demanded of every POST, one without a body, too.
        if (!sent.body.is_empty() || *sent.method == Method::POST) && !has_media_type {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        match (self.right(), proof) {
            (Right::Token(token), _) => request = request.header(header::AUTHORIZATION, &token.0),
            (_, Some(proof)) => request = request.header(header::AUTHORIZATION, proof),
            _ => {}
        }
        // The master is asked directly from then on.
        request = request.header(HEADER_REDIRECT, "1");
        if let Some(cluster) = self.known().cluster() {
            request = request.header(HEADER_CLUSTER, cluster);
        }
        for (name, value) in sent.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(sent.body.clone())).map_err(Unsent::Request)?;
        let response = self.http().request(request).await.map_err(Unsent::Http)?;
        self.known().compare(host, response.headers())?;
        Ok(response)
    }

    /// Asks all known hosts whether they belong to one cluster. Those that don't answer within `patience` are left out.
    ///
    /// # Errors
    /// [`Error::OtherCluster`] with the odd one's name.
    pub async fn check_hosts(&self, patience: std::time::Duration) -> Result<(), Error> {
        let hosts = self.known_hosts();
        let ask = |host: Host| async move {
            let call = crate::call::Call::get("/healthz", patience);
            drop(self.attempt(&host, &call, patience).await);
        };
        futures_util::future::join_all(hosts.iter().cloned().map(ask)).await;
        let home = self.known().home.lock().unwrap_or_else(PoisonError::into_inner);
        let odd = hosts.iter().find_map(|host| Some((host.clone(), home.odd.get(host)?.clone())));
        match (odd, &home.cluster) {
            (Some((host, found)), Some(expected)) => {
                Err(Error::OtherCluster { host, found, expected: expected.clone() })
            }
            _ => Ok(()),
        }
    }
}
