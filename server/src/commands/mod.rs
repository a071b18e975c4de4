//! The commands that run machines: `run` (one) and `dev` (several, for trying out).
//!
//! Everything that talks to a running cluster is in `cli/`.

mod dev;
mod host;
mod lines;
mod log_file;
mod logging;
mod reload;
mod run;

pub use dev::{DevOptions, dev};
pub use host::{Host, Phase, Wish};
pub(crate) use lines::Lines;
pub use logging::Observer;
pub use run::run;
