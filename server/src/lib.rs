//! The server of Tanist: one machine of a cluster, put together from the protocol core, the store, the links and HTTP.
//!
//! Owns the assembly ([`Server`]) and the threads; each module owns its own part. Embedding programs call
//! [`Server::start`]; the binary calls [`cli::main`]. Read `ARCHITECTURE.md` for the ways through the house.

const _: () = assert!(!tanist_replication::mistakes::POSSIBLE, "a server must not be able to make mistakes");

mod acquaintance;
pub mod audit;
mod auth;
pub mod backup;
mod causes;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
mod descriptors;
mod differences;
mod discovery;
mod driver;
pub mod durable;
mod end_notice;
mod family;
pub mod gate;
mod gone;
mod health;
pub mod hooks;
pub mod http;
mod idempotency;
mod inbox;
mod lock_holder;
mod measures;
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
mod remember;
mod room;
mod scrub;
mod secret;
mod served;
mod server;
pub mod sql;
mod stall;
pub mod state;
mod stop;
mod thread_wait;
mod upgrade;
mod usage;
mod view;
mod watch;
mod watchdog;
mod within;
pub mod write;
mod writer;

pub use driver::DriverError;
pub use reign::{ReignObserver, Stopped};
pub use server::{Server, ServerError, StartError};
