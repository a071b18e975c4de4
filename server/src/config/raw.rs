//! The configuration file as it is written; unknown fields are refused.

use serde::Deserialize;

// No `Debug`: it holds the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) cluster: String,
    pub(super) id: String,
    #[serde(default = "data")]
    pub(super) data_dir: String,
    pub(super) key_file: Option<String>,
    pub(super) key: Option<String>,
    #[serde(default)]
    pub(super) listen: RawListen,
    #[serde(default)]
    pub(super) member: Vec<RawMember>,
    #[serde(default)]
    pub(super) timing: RawTiming,
    #[serde(default)]
    pub(super) replication: RawReplication,
    #[serde(default)]
    pub(super) store: RawStore,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) nodes: RawNodes,
    #[serde(default)]
    pub(super) upgrade: RawUpgrade,
    #[serde(default)]
    pub(super) auth: RawAuth,
    #[serde(default)]
    pub(super) audit: RawAudit,
    #[serde(default)]
    pub(super) tls: RawTls,
    #[serde(default)]
    pub(super) health: RawHealth,
    #[serde(default)]
    pub(super) backup: RawBackup,
    #[serde(default)]
    pub(super) hooks: RawHooks,
    #[serde(default)]
    pub(super) service: RawService,
    #[serde(default)]
    pub(super) discovery: RawDiscovery,
    #[serde(default)]
    pub(super) log: RawLog,
}

fn data() -> String {
    "data".to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListen {
    pub(super) peer: Option<String>,
    pub(super) http: Option<String>,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pub(super) cors: Vec<String>,
    #[serde(default)]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMember {
    pub(super) id: String,
    pub(super) rank: u32,
    pub(super) peer: Vec<String>,
    #[serde(default)]
    pub(super) url: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTiming {
    pub(super) heartbeat: Option<String>,
    pub(super) lease: Option<String>,
    pub(super) drift_margin: Option<String>,
    pub(super) sync_timeout: Option<String>,
    pub(super) election_stagger: Option<String>,
    pub(super) trust_refused: Option<bool>,
    pub(super) end_notice: Option<bool>,
    pub(super) failback: Option<String>,
    pub(super) voter_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReplication {
    pub(super) sync_backups: Option<u32>,
    pub(super) min_sync_backups: Option<u32>,
    pub(super) buffer: Option<String>,
    pub(super) max_transaction: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) wal_limit: Option<String>,
    pub(super) cache: Option<String>,
    pub(super) scrub: Option<String>,
    pub(super) reserve: Option<String>,
    pub(super) lock_patience: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) body: Option<String>,
    pub(super) statements: Option<usize>,
    pub(super) rows: Option<usize>,
    pub(super) result: Option<String>,
    pub(super) statement_time: Option<String>,
    pub(super) sql_memory: Option<String>,
    pub(super) sql_temp: Option<String>,
    pub(super) master_wait: Option<String>,
    pub(super) concurrent_requests: Option<usize>,
    pub(super) concurrent_requests_per_client: Option<usize>,
    pub(super) requests_per_second: Option<u32>,
    pub(super) connections: Option<usize>,
    pub(super) connections_per_address: Option<usize>,
    pub(super) request_retention: Option<String>,
    pub(super) backup_stall: Option<String>,
    pub(super) backup_time: Option<String>,
    pub(super) answers: Option<String>,
    pub(super) watchers: Option<usize>,
    pub(super) watchers_per_client: Option<usize>,
    pub(super) event_retention: Option<String>,
    pub(super) events: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNodes {
    pub(super) silent_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpgrade {
    pub(super) calm: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) client_certificates: Option<String>,
    pub(super) ca_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    #[serde(default)]
    pub(super) tokens: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    pub(super) sql: Option<bool>,
    pub(super) retention: Option<String>,
    pub(super) records: Option<usize>,
    pub(super) when_full: Option<String>,
    pub(super) directory: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    #[serde(default)]
    pub(super) program: Vec<String>,
    pub(super) every: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) failures: Option<usize>,
    pub(super) recovery: Option<String>,
    pub(super) min_free: Option<String>,
    pub(super) slow_sync: Option<String>,
    pub(super) stall: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    pub(super) directory: Option<String>,
    pub(super) every: Option<String>,
    pub(super) increments: Option<String>,
    pub(super) keep: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHooks {
    #[serde(default)]
    pub(super) on_promote: Vec<String>,
    #[serde(default)]
    pub(super) on_demote: Vec<String>,
    pub(super) timeout: Option<String>,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) retry: Option<String>,
    pub(super) recovery: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    #[serde(default)]
    pub(super) command: Vec<String>,
    pub(super) stop_time: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDiscovery {
    #[serde(default)]
    pub(super) announce: bool,
    #[serde(default)]
    pub(super) addresses: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) filter: Option<String>,
    pub(super) format: Option<String>,
    pub(super) directory: Option<String>,
    pub(super) max_files: Option<usize>,
    pub(super) max_size: Option<String>,
}
