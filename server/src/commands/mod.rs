//! The commands that run machines: `run` (one) and `dev` (several, for trying out).
//!
//! Everything that talks to a running cluster is in `cli/`.

mod dev;
mod reload;
mod run;

pub use dev::{DevOptions, dev};
pub use run::run;
