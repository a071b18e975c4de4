//! An abstract model of the protocol: rules R1 to R12 of `replication/PROTOCOL.md`, independent of the code that
//! implements them, in bounds small enough to visit every state.
//!
//! `succession` has records, votes and transactions, without time; `leases` has time, without data. `mistake` lists
//! the rules that can be left out, and `check` runs a model to its end.

pub mod check;
pub mod leases;
pub mod machines;
pub mod mistake;
pub mod succession;
