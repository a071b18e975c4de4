//! Tests on real processes and real files: clusters of the `tanist` binary on loopback, killed, stopped, cut off and
//! restarted. Longer: `TANIST_ROUNDS=20`.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod agent;
mod audit;
mod backup;
mod bad_start;
mod boot;
mod clocks;
mod cluster;
mod command_line;
mod cut_off;
#[cfg(feature = "discovery")]
mod discovery;
mod dotnet;
mod examples;
mod expensive;
mod failover;
mod files;
mod full_disk;
mod handover;
mod hands;
mod health;
mod hooks;
mod http_document;
mod http_input;
mod http_recipe;
mod huge;
mod log_files;
mod lost;
mod members;
mod nemesis;
mod operators_list;
mod outrun;
mod outside;
mod power;
mod power_log;
mod power_syncs;
mod proxy;
mod register;
mod rejoin;
mod reload;
mod rot;
mod rust_client;
mod secrets;
mod security;
mod service;
mod state;
mod stuck;
mod tls;
mod tokens;
mod virtual_ip;
mod watch;
mod weak;
mod windows;
mod wine;
mod workload;
