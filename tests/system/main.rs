//! Tests on real processes and real files: clusters of the `tanist` binary on loopback, killed, stopped, cut off and
//! restarted. Longer: `TANIST_ROUNDS=20`.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod bad_start;
mod cluster;
mod cut_off;
mod dotnet;
mod failover;
mod files;
mod full_disk;
mod handover;
mod http_input;
mod lost;
mod members;
mod nemesis;
mod proxy;
mod rejoin;
mod rot;
mod workload;
