//! Proofs of the cluster key: nonces that machines have given, and what is made of them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use http::{HeaderMap, header};
use tanist_api::{
    HEADER_NONCE,
    key::{self, OperatorKey, Proven, body_hash},
};

use crate::{hosts::Host, send::Sent};

/// Kept for each machine; what is more is thrown away, and asked for again.
const EACH: usize = 64;
/// Machines that they are kept for.
const HOSTS: usize = 128;

/// Nonces that haven't been used, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Nonces(Mutex<HashMap<Host, Vec<String>>>);

impl Nonces {
    pub(crate) fn take(&self, host: &Host) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(host)?.pop()
    }

    /// Keeps the one for the next request.
    pub(crate) fn keep(&self, host: &Host, headers: &HeaderMap) {
        let Some(nonce) = headers.get(HEADER_NONCE).and_then(|value| value.to_str().ok()) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < HOSTS || all.contains_key(host) {
            let of_host = all.entry(host.clone()).or_default();
            if of_host.len() < EACH {
                of_host.push(nonce.to_owned());
            }
        }
    }
}

/// The nonce of a refusal that asks for a proof.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    all.filter_map(key::challenge).next().map(str::to_owned)
}

/// The value of `Authorization`.
pub(crate) fn authorization(key: &OperatorKey, nonce: &str, host: &Host, sent: Sent<'_>) -> String {
    // A host has its port always.
    let authority =
        host.split_once("://").map_or(host.as_str(), |(_, authority)| authority).to_ascii_lowercase();
    let body = body_hash(sent.body);
    let (method, path) = (sent.method.as_str(), sent.path);
    key.authorization(&Proven { nonce, authority: &authority, method, path, body: &body })
}
