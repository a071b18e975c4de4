//! Hostile bytes for everything that reads bytes from outside: other machines, clients, configuration, files.
//!
//! Owns the targets, the mutations and the bounded run that `cargo test` makes of them. Never finds new paths by
//! coverage: `coverage/` does, with the same targets. Read `targets/mod.rs` next; `CONTRIBUTING.md` has the commands.

mod edit;
pub mod mutate;
pub mod run;
mod scratch;
mod script;
pub mod targets;

pub use targets::{TARGETS, Target};
