//! Why a call has no answer.

use std::time::Duration;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host list can't be used.
    #[error("hosts: {0}")]
    Hosts(String),
    /// The idempotency key can't be used.
    #[error("idempotency key: found {0:?}, expected 1 to 200 visible ASCII characters")]
    Key(String),
    /// The token can't be one. Says nothing of it but its length.
    #[error("token: found {length} bytes, expected 1 to 500 visible ASCII characters")]
    Token {
        /// Bytes found.
        length: usize,
    },
    /// The certificates can't be used.
    #[error("certificates: {0}")]
    Certificate(String),
    /// A blocking call where none may be, or the blocking client's thread could not be started.
    #[error("runtime: {0}")]
    Runtime(String),
    /// A machine refused the request for good; repeating it would not help.
    #[error("{} ({})", .0.detail, .0.code)]
    Problem(Box<tanist_api::Problem>),
    /// No machine could serve the request within the deadline; nothing was done.
    #[error("no machine served the request within {deadline:?}; tried {tried}; last: {last}")]
    Unavailable {
        /// The call's total deadline.
        deadline: Duration,
        /// Hosts that were tried.
        tried: String,
        /// The last failure.
        last: String,
    },
    /// The deadline passed, and the write may or may not have been done. Repeating it with the same key is safe.
    #[error("outcome unknown after {deadline:?} (idempotency key {key}); last: {last}")]
    OutcomeUnknown {
        /// The key to repeat it with.
        key: String,
        /// The call's total deadline.
        deadline: Duration,
        /// The last failure.
        last: String,
    },
    /// The deadline passed, and the change of the cluster that was asked for may have been made, or may still be: look at the
    /// cluster before asking again.
    #[error("not confirmed within {deadline:?}, it may have been done or still happen; last: {last}")]
    Unconfirmed {
        /// The call's total deadline.
        deadline: Duration,
        /// The last failure.
        last: String,
    },
    /// The hosts are machines of several clusters.
    #[error(
        "hosts: {host} belongs to the cluster {found:?}, the others to {expected:?}: expected machines of one cluster"
    )]
    OtherCluster {
        /// The odd one.
        host: String,
        /// Its cluster.
        found: String,
        /// The cluster of the machine that answered first, or the one that was asked for.
        expected: String,
    },
    /// An answer that isn't of the contract's shape.
    #[error("unexpected answer from {host}: {why}")]
    Unexpected {
        /// Who sent it.
        host: String,
        /// What was wrong.
        why: String,
    },
}
