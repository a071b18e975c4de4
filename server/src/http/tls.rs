//! TLS for clients, when the configuration names a certificate. Links between machines have their own encryption.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

use crate::{
    clock,
    config::{ClientCertificates, Tls},
};

const OWN: &str = "one or more certificates as PEM, this machine's first";
const AUTHORITY: &str = "one or more certificates of authorities as PEM";

/// From so long before its end on a certificate is warned of.
const NEAR: i64 = 30 * DAY;
/// And so often.
const AGAIN: Duration = Duration::from_secs(DAY as u64);
const DAY: i64 = 24 * 3600;

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read, or isn't PEM of the right kind.
    #[error("{field} {path}: {why}; expected {expected}", path = .path.display())]
    File {
        /// The configuration field.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The two don't belong together, or are of a kind that isn't supported.
    #[error("tls: the certificate and key can't be used: {0}")]
    Pair(#[from] tokio_rustls::rustls::Error),
}

/// By what clients know this machine.
#[derive(Clone)]
pub(crate) struct Secured {
    /// Makes TLS out of connections.
    pub(crate) acceptor: TlsAcceptor,
    /// When the first certificate of the chain ends, in seconds since 1970.
    pub(crate) expires: i64,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secured").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Secured {
    /// Reads the files.
    ///
    /// # Errors
    /// When the certificates or the key can't be used.
    pub(crate) fn load(tls: &Tls) -> Result<Secured, TlsError> {
        let own = certificates("tls.cert_file", &tls.cert_file, OWN)?;
        let expires = expiry(&tls.cert_file, &own)?;
        let key = PrivateKeyDer::from_pem_file(&tls.key_file)
            .map_err(|error| wrong("tls.key_file", &tls.key_file, error, "a private key as PEM"))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &tls.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
        };
        let mut config = builder.with_single_cert(own, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Secured { acceptor: TlsAcceptor::from(Arc::new(config)), expires })
    }
}

/// Who judges the certificates of clients.
fn verifier(
    clients: &ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const FIELD: &str = "tls.client_ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(FIELD, &clients.ca_file, AUTHORITY)? {
        roots.add(certificate).map_err(|error| wrong(FIELD, &clients.ca_file, error, AUTHORITY))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| wrong(FIELD, &clients.ca_file, error, AUTHORITY))
}

/// When the first of the certificates ends: one of the chain that has ended makes clients go away, too.
fn expiry(path: &Path, certificates: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    let ends = certificates.iter().map(|certificate| {
        let (_, read) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| wrong("tls.cert_file", path, error, OWN))?;
        Ok(read.validity().not_after.timestamp())
    });
    ends.collect::<Result<Vec<_>, TlsError>>().map(|ends| ends.into_iter().min().unwrap_or(i64::MAX))
}

fn certificates(
    field: &'static str,
    path: &Path,
    expected: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| wrong(field, path, why, expected);
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate".to_owned())) } else { Ok(found) }
}

fn wrong(field: &'static str, path: &Path, why: impl ToString, expected: &'static str) -> TlsError {
    TlsError::File { field, path: path.to_owned(), why: why.to_string(), expected }
}

/// How near a certificate's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It is far away, in so many days.
    Later(i64),
    /// It comes within so many days.
    Soon(i64),
    /// So many days ago.
    Ended(i64),
}

impl Ends {
    /// By a clock of seconds since 1970.
    pub(crate) fn of(expires: i64, now: i64) -> Ends {
        match expires.saturating_sub(now) {
            left if left <= 0 => Ends::Ended(left.saturating_neg() / DAY),
            left if left <= NEAR => Ends::Soon(left / DAY),
            left => Ends::Later(left / DAY),
        }
    }

    /// As it is now; `None` when the clock was never set.
    pub(crate) fn now(expires: i64) -> Option<Ends> {
        Some(Ends::of(expires, i64::try_from(clock::wall_ms()? / 1000).ok()?))
    }
}

/// Warns of a certificate whose end is near, when it is read and once a day.
pub(crate) async fn watch_expiry(mut secured: watch::Receiver<Secured>) {
    loop {
        let expires = secured.borrow_and_update().expires;
        match Ends::now(expires) {
            Some(Ends::Soon(days)) => tracing::warn!(
                days,
                "the certificate for clients ends soon: put a new one in its place, it is read at once"
            ),
            Some(Ends::Ended(days)) => tracing::warn!(
                days,
                "the certificate for clients has ended: clients refuse this machine until a new one is in its place"
            ),
            Some(Ends::Later(_)) | None => {}
        }
        if matches!(timeout(AGAIN, secured.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_certificate_is_near_for_thirty_days() {
        let now = 1_800_000_000;
        assert_eq!(Ends::of(now + 31 * DAY, now), Ends::Later(31));
        assert_eq!(Ends::of(now + 30 * DAY, now), Ends::Soon(30));
        assert_eq!(Ends::of(now + 1, now), Ends::Soon(0));
        assert_eq!(Ends::of(now, now), Ends::Ended(0));
        assert_eq!(Ends::of(now - 3 * DAY, now), Ends::Ended(3));
        assert_eq!(Ends::of(i64::MIN, now), Ends::Ended(i64::MAX / DAY), "whatever the file says");
    }
}
