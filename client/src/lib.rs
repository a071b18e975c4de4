//! Client for a Tanist cluster: give it some hosts, and it finds the master, follows it when it changes, and repeats what may
//! be repeated, within a total deadline.
//!
//! ```no_run
//! # async fn example() -> Result<(), tanist_client::Error> {
//! use tanist_client::{Client, Consistency, api::{ExecuteRequest, QueryRequest, Statement}};
//! let client = Client::new("pc-1:8080,pc-2:8080,pc-3:8080")?;
//! let insert = Statement::with("INSERT INTO note(text) VALUES (?)", vec!["hello".into()]);
//! let done = client.execute(ExecuteRequest { statements: vec![insert], transaction: true }).await?;
//! let select = QueryRequest { statements: vec![Statement::new("SELECT text FROM note")] };
//! // From the nearest replica, but not from before the write.
//! let read = client.query(select, Consistency::Local, Some(&done.position)).await?;
//! println!("{:?}", read.results[0].rows);
//! # Ok(())
//! # }
//! ```
//!
//! A program without an async runtime takes [`blocking::Client`], which has the same calls. Try either beside `tanist dev`,
//! and kill a machine meanwhile: `examples/typed.rs`, `watch.rs`, `blocking.rs` and `observer.rs` in this crate are short and whole,
//! and their heads say how to run them.
//!
//! Make one client and keep it: it is cheap to clone, and what it learns of the cluster is worth keeping. An error that
//! reaches the application means either that its request is wrong ([`Error::Problem`]) or that no machine has served
//! it for the whole deadline, 30 s unless told otherwise. A failover is neither.
//!
//! # What it does when machines fail
//!
//! | what an attempt meets | what follows |
//! |---|---|
//! | connection refused, name unknown | the next host at once; this one pauses, 10 ms at first, 500 ms at most |
//! | `307` to the master | the master at once, and first from then on |
//! | `503`, nobody reigns | other hosts, then again; `Retry-After` only ever shortens the own pause |
//! | `503`, the master is busy or lacks backups | the same host after a pause |
//! | a broken connection, no answer in time, `503 outcome-unknown` | the next host, **with the same key** |
//! | silence of 500 ms, and another machine says it reigns | that one, with the same key, without waiting for the timeout |
//! | any other `4xx`, `507` | [`Error::Problem`]: final |
//! | the deadline | [`Error::OutcomeUnknown`] if a write may have reached a machine ([`Error::Unconfirmed`] for a change of the cluster), else [`Error::Unavailable`] |
//!
//! A pause is a quarter of the time for which the host has been failing, with jitter: a failover of 400 ms is noticed at
//! most about 100 ms late, and a dead machine costs two attempts a second.
//!
//! # Writes
//!
//! Each carries an idempotency key, so repeating one never does it twice, also across a change of the master. When the
//! deadline passes while a write may have reached a machine, the error carries the key: the same call with the same key
//! settles it later (within the cluster's `request_retention`).
//!
//! # Configuration, nodes, states, commands
//!
//! [`Client::config`], [`Client::set_config`], [`Client::desired`], [`Client::report`], [`Client::send_command`] and their like are the
//! same calls with types. A change may have a condition ([`OnlyIf`]); a read may ask for what it doesn't know yet
//! ([`Client::config_unless`]).
//!
//! # On which machine am I?
//!
//! [`Client::link`] says it at any time: on which machine, or for how long and why on none. [`Client::observe`] waits for
//! changes. [`Need::Master`] is the link of writes and strong reads, [`Need::Any`] that of local reads and watches. A line
//! of `tracing` at level `info` names each new master, and one at `warn` its loss.
//!
//! # Watching
//!
//! [`Client::watch`] gives events as they happen, from the first of the hosts that is alive. When it dies, stops or falls behind,
//! the watch goes on at another with the event that follows the last one: none twice, none missed. A machine that says
//! nothing for 12 s is taken for dead.
//!
//! # Hosts
//!
//! The given hosts are never forgotten. The cluster's own list is learned beside the first request, every 10 s while in use,
//! and after a failover. Names are resolved anew at each connect. [`hosts`] holds the policy, free of I/O.
//! With the feature `discovery` the first hosts may come from the local network: `Builder::discover`.

mod backup;
pub mod blocking;
mod builder;
mod call;
mod client;
mod connect;
#[cfg(feature = "discovery")]
mod discovery;
mod error;
pub mod hosts;
mod link;
#[cfg(feature = "key")]
mod nonces;
mod send;
mod sse;
mod state;
mod watch;

pub use backup::Download;
pub use builder::Builder;
pub use client::{Client, Consistency, ExecuteOptions};
pub use error::Error;
pub use hosts::Need;
pub use link::{Link, LinkStatus, Observer};
pub use state::{At, ChangeOptions, CommandFilter, OnlyIf, Part, ReadOptions};
pub use tanist_api as api;
pub use watch::{Watch, WatchOptions};
