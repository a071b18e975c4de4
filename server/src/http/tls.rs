//! TLS for clients, when the configuration names a certificate. Links between machines have their own encryption.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::config::Tls;

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

/// What makes TLS out of connections.
///
/// # Errors
/// When the certificate or key can't be used.
pub(crate) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let certificates = certificates(&tls.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file)
        .map_err(|error| wrong("tls.key_file", &tls.key_file, error, "a private key as PEM"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const EXPECTED: &str = "one or more certificates as PEM, this machine's first";
    let wrong = |why: String| wrong("tls.cert_file", path, why, EXPECTED);
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate".to_owned())) } else { Ok(found) }
}

fn wrong(field: &'static str, path: &Path, why: impl ToString, expected: &'static str) -> TlsError {
    TlsError::File { field, path: path.to_owned(), why: why.to_string(), expected }
}
