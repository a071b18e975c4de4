//! How a client is made: hosts, times, token, certificates.
//!
//! Owns what is checked before anything is sent. Read `client.rs` for what a client does with it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderValue;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::Client as HyperClient,
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{
    Client, Error,
    connect::Connector,
    hosts::{self, Host, Hosts},
};

/// Makes a client with other than the default times.
///
/// ```
/// # use std::time::Duration;
/// let client = tanist_client::Client::builder()
///     .hosts("pc-1:8080,pc-2:8080")
///     .deadline(Duration::from_secs(10))
///     .attempt_timeout(Duration::from_secs(2))
///     .build()?;
/// assert_eq!(client.known_hosts().len(), 2);
/// # Ok::<(), tanist_client::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) hosts: String,
    /// Heard on the local network, where anybody can say anything.
    pub(crate) found: Vec<Host>,
    pub(crate) deadline: Duration,
    pub(crate) attempt: Duration,
    connect: Duration,
    pub(crate) right: Right,
    pub(crate) cluster: Option<String>,
    pub(crate) roots: RootCertStore,
    identity: Option<Identity>,
}

/// A certificate and its key. Shown by nothing.
#[derive(Clone)]
struct Identity(Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// By what right requests are sent.
#[derive(Debug, Clone)]
pub(crate) enum Right {
    None,
    Token(Token),
    #[cfg(feature = "key")]
    Key(tanist_api::key::OperatorKey),
}

/// Shown by nothing.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) HeaderValue);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            hosts: String::new(),
            found: vec![],
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(5),
            connect: Duration::from_secs(1),
            right: Right::None,
            cluster: None,
            roots: RootCertStore::empty(),
            identity: None,
        }
    }
}

impl Builder {
    /// `a:8080,b:8080`, or URLs. The nearest first: local reads go there.
    #[must_use]
    pub fn hosts(mut self, hosts: &str) -> Builder {
        hosts.clone_into(&mut self.hosts);
        self
    }

    #[cfg(feature = "discovery")]
    pub(crate) fn found(mut self, hosts: Vec<Host>) -> Builder {
        self.found.extend(hosts);
        self
    }

    /// The given hosts, and those found that may be asked.
    fn first_hosts(&self) -> Result<Vec<Host>, Error> {
        if self.found.is_empty() {
            return hosts::parse(&self.hosts);
        }
        let mut all = if self.hosts.trim().is_empty() { vec![] } else { hosts::parse(&self.hosts)? };
        let given = all.len();
        let may_be_asked = |host: &String| match host.starts_with("https://") {
            true => !self.roots.is_empty(),
            // Who answers there isn't known, and would get the token.
            false => matches!(self.right, Right::None),
        };
        all.extend(
            self.found
                .iter()
                .filter(|host| may_be_asked(host))
                .map(|host| hosts::parse(host))
                .collect::<Result<Vec<_>, _>>()?
                .concat(),
        );
        if all.is_empty() {
            let found = self.found.join(", ");
            let expected = "https:// hosts and the authority's certificate (`ca_pem`), or no token";
            return Err(Error::Hosts(format!("found {found} on the local network, expected {expected}")));
        }
        tracing::debug!(given, all = ?all, "first hosts");
        Ok(all)
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

    /// Longest time to connect; default 1 s. A quarter of it as long as there are other hosts to ask; one that couldn't be reached is
    /// given 50 ms, then more the longer that lasts.
    #[must_use]
    pub fn connect_timeout(mut self, connect: Duration) -> Builder {
        self.connect = connect;
        self
    }

    /// The token by which requests are allowed. Sent to every host, so over a network that others listen on only with TLS.
    ///
    /// # Errors
    /// When it can't be a token.
    pub fn token(mut self, token: &str) -> Result<Builder, Error> {
        let fits =
            !token.is_empty() && token.len() <= 500 && token.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value = fits
            .then(|| HeaderValue::try_from(format!("Bearer {token}")).ok())
            .flatten()
            .ok_or(Error::Token { length: token.len() })?;
        value.set_sensitive(true);
        self.right = Right::Token(Token(value));
        Ok(self)
    }

    /// The cluster key, which is proved instead of sending a token: each request for itself, to the machine that it is for.
    #[cfg(feature = "key")]
    #[must_use]
    pub fn operator(mut self, key: tanist_api::key::OperatorKey) -> Builder {
        self.right = Right::Key(key);
        self
    }

    /// The cluster's name. Without it, the machine that answers first says it; others are refused either way.
    #[must_use]
    pub fn cluster(mut self, name: &str) -> Builder {
        self.cluster = Some(name.to_owned());
        self
    }

    /// Certificates, as PEM, by which machines with `https://` URLs are known: the authority that has signed theirs. No
    /// others are trusted.
    ///
    /// # Errors
    /// When there is none in it, or one that can't be used.
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Builder, Error> {
        let wrong = |why: String| Error::Certificate(why);
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            self.roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if self.roots.is_empty() {
            return Err(wrong("found none, expected at least one as PEM".to_owned()));
        }
        Ok(self)
    }

    /// The certificate by which machines that ask for one know this client, its chain behind it, and its key; both as PEM.
    ///
    /// # Errors
    /// When one of them isn't there.
    pub fn identity_pem(mut self, certificates: &[u8], key: &[u8]) -> Result<Builder, Error> {
        let wrong = |what: &str, why: String| Error::Certificate(format!("of this client: {what}: {why}"));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|error| wrong("certificate", error.to_string()))?;
        if chain.is_empty() {
            return Err(wrong("certificate", "found none, expected at least one as PEM".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("key", error.to_string()))?;
        self.identity = Some(Identity(Arc::new((chain, key))));
        Ok(self)
    }

    /// The client.
    ///
    /// # Errors
    /// When the host list can't be used, names `https://` URLs without certificates to know them by, or this client's own
    /// certificate and key don't belong together.
    pub fn build(self) -> Result<Client, Error> {
        let mut seed = [0; 8];
        // Without randomness only the jitter is the same everywhere.
        let _ = getrandom::fill(&mut seed);
        let given = self.first_hosts()?;
        if self.roots.is_empty() && given.iter().any(|host| host.starts_with("https://")) {
            let why = "found none, expected the authority's (`ca_pem`) for https:// hosts";
            return Err(Error::Certificate(why.to_owned()));
        }
        let secure = given.iter().all(|host| host.starts_with("https://"));
        let hosts = Hosts::new(given, u64::from_le_bytes(seed));
        let hosts = Arc::new(Mutex::new(hosts));
        let connector = Connector::new(Arc::clone(&hosts), self.connect);
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Certificate(error.to_string()))?
            .with_root_certificates(self.roots.clone());
        let tls = match &self.identity {
            None => tls.with_no_client_auth(),
            Some(Identity(identity)) => tls
                .with_client_auth_cert(identity.0.clone(), identity.1.clone_key())
                .map_err(|error| Error::Certificate(format!("of this client: {error}")))?,
        };
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(
                HttpsConnectorBuilder::new()
                    .with_tls_config(tls)
                    .https_or_http()
                    .enable_http1()
                    .wrap_connector(connector),
            );
        Ok(Client::of(hosts, http, secure, self))
    }
}
