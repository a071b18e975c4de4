//!
//! Everything that talks to a running cluster is in `cli/`.

mod run;

pub use run::run;
