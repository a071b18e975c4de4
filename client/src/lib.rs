//! Client for a Tanist cluster: give it some hosts, and it finds the master, follows it when it changes, and repeats what may
//! be repeated, within a total deadline.
//!
//! Writes carry an idempotency key, so repeating one never does it twice. When the deadline passes while a write may have
//! reached a machine, the error says so ([`Error::OutcomeUnknown`]) and carries the key: the same call with the same key
//! settles it later.
//!
//! ```no_run
//! # async fn example() -> Result<(), tanist_client::Error> {
//! use tanist_api::{ExecuteRequest, Statement};
//! let client = tanist_client::Client::new("pc-1:8080,pc-2:8080,pc-3:8080")?;
//! let insert = Statement::with("INSERT INTO note(text) VALUES (?)", vec!["hello".into()]);
//! client.execute(ExecuteRequest { statements: vec![insert], transaction: true }).await?;
//! # Ok(())
//! # }
//! ```

mod client;
mod error;
pub mod hosts;

pub use client::{Builder, Client, Consistency, ExecuteOptions};
pub use error::Error;
pub use tanist_api as api;
