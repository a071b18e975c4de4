//! Configuration: what the file says (`raw.rs`) and what it means (`resolved.rs`).
//!
//! Every error names the file, the field, what was found and what was expected; a bad file changes nothing.

mod changes;
mod discovery;
mod hooks;
mod raw;
mod resolved;
pub mod secrets;
mod tls;
pub(crate) mod units;

pub use changes::Changes;
pub use discovery::Discovery;
pub use hooks::{Hooks, Service};
pub use resolved::{Backup, Config, ConfigError, Health, HttpLimits, Listen, Log, LogFiles, LogFormat};
pub use tls::{ClientCertificates, Tls};
pub(crate) use units::{
    ADDRESS_COUNT, CLIENT_URL, MOST_ADDRESSES, PEER_ADDRESS, is_client_url, is_peer_address,
};
