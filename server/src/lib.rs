//! The server of Tanist: one machine of a cluster, put together from the protocol core, the store, the links and HTTP.
//!
//! Owns the assembly ([`Server`]) and the threads; each module owns its own part. Embedding programs call
//! [`Server::start`]; the binary calls [`cli::main`]. Read `ARCHITECTURE.md` for the ways through the house.

const _: () = assert!(!tanist_replication::mistakes::POSSIBLE, "a server must not be able to make mistakes");

pub mod audit;
mod auth;
pub mod backup;
mod causes;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
mod discovery;
mod driver;
pub mod durable;
mod end_notice;
mod family;
pub mod gate;
mod health;
pub mod hooks;
pub mod http;
mod idempotency;
mod inbox;
mod lock_holder;
mod members;
mod obstacle;
mod outage;
mod pacing;
mod presence;
mod priority;
mod program;
pub mod reader;
mod recent;
mod reign;
mod rejoin;
mod room;
mod scrub;
mod secret;
mod served;
mod server;
pub mod sql;
pub mod state;
mod stop;
mod view;
mod watch;
mod watchdog;
pub mod write;
mod writer;

pub use driver::DriverError;
pub use reign::{ReignObserver, Stopped};
pub use server::{Server, ServerError, StartError};
