//! Configuration: what the file says (`raw.rs`) and what it means (`resolved.rs`).
//!
//! Every error names the file, the field, what was found and what was expected; a bad file changes nothing.

mod raw;
mod resolved;
mod units;

pub use resolved::{Config, ConfigError, HttpLimits, Listen, Log, LogFormat};
