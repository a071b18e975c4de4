//! The contract between a Tanist machine and its clients, as types: what travels in HTTP bodies and headers.
//!
//! Owns names and shapes only; no I/O. The server fills these, the client reads them, and both refuse unknown
//! fields in requests.

mod access;
#[cfg(feature = "key")]
pub mod key;
mod params;
#[cfg(feature = "openapi")]
mod schema;
mod state;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};

pub use access::{Access, AccessError, AuditRecord, MadeToken, NewToken, TokenInfo};
pub use state::{
    Command, ConfigChange, ConfigEntry, DesiredState, NewCommand, NewConfig, NewDesired, NewOutcome, Node,
    NodeSpec, NodeSummary, Outcome, OutcomeStatus, Page, PresenceStatus, Removed, Report, ReportedState,
    Seen,
};

/// The cluster's name: in every answer, and in requests that no machine of another cluster is to take.
pub const HEADER_CLUSTER: &str = "tanist-cluster";
/// In an answer to a request that has proved the cluster key: a nonce for the next one.
pub const HEADER_NONCE: &str = "tanist-nonce";
/// Header with the position (`term.txid`) up to which an answer is current or a write was stored.
pub const HEADER_POSITION: &str = "tanist-position";
/// Request header: wait (bounded) until the answering replica has this position.
pub const HEADER_MIN_POSITION: &str = "tanist-min-position";
/// Request header: where only the master can answer, say with `307` where it is instead of carrying the request there.
pub const HEADER_REDIRECT: &str = "tanist-redirect";
/// Header that names the master on a redirect.
pub const HEADER_MASTER: &str = "tanist-master";
/// Header of a copy: bytes of the database in it, unpacked.
pub const HEADER_DATABASE_BYTES: &str = "tanist-database-bytes";
/// Request header: a key that makes a repeated write return its first answer.
pub const HEADER_IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Response header, `true` when the answer is the stored first answer of an idempotent write.
pub const HEADER_REPLAYED: &str = "idempotency-replayed";
/// Request header of `GET /v1/events`: the newest event that the watcher has seen.
pub const HEADER_LAST_EVENT_ID: &str = "last-event-id";
/// Media type of JSON Merge Patches (RFC 7396).
pub const MERGE_PATCH_JSON: &str = "application/merge-patch+json";
/// Media type of error answers (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Body of `POST /v1/execute`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// Statements, run in order.
    pub statements: Vec<Statement>,
    /// `true` (the default and, for now, the only meaning): all or nothing.
    #[serde(default = "yes")]
    pub transaction: bool,
}

fn yes() -> bool {
    true
}

/// Body of `POST /v1/query`: all statements read one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// Read-only statements, run in order.
    pub statements: Vec<Statement>,
}

/// Body of `POST /v1/cluster/promote` (who shall reign) and `/v1/cluster/demote` (who shall no longer).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HandoverRequest {
    /// The member's name.
    pub member: String,
    /// Promote this machine although nobody reigns and others held the newest acknowledged writes; asked of the machine
    /// itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Must be `true` with `force`: what only the lost machines hold is given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_data_loss: bool,
}

impl HandoverRequest {
    /// A planned handover, which loses nothing.
    #[must_use]
    pub fn planned(member: &str) -> HandoverRequest {
        HandoverRequest { member: member.to_owned(), force: false, accept_data_loss: false }
    }
}

/// Answer to both: who reigns now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandoverResponse {
    /// The master.
    pub master: String,
    /// Its term.
    pub term: u64,
}

/// Body of `POST /v1/cluster/members`: a machine that is to be a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Its name.
    pub id: String,
    /// 1 is nearest to the throne; 0 for a witness, which votes and holds no data.
    pub rank: u32,
    /// `host:port` for peers, in order of preference.
    pub peer_addresses: Vec<String>,
    /// Base URLs for clients.
    #[serde(default)]
    pub urls: Vec<String>,
}

/// Body of `PATCH /v1/cluster/members/{id}`: what isn't given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MemberPatch {
    /// 1 is nearest to the throne; 0 makes it a witness. A data member that takes another's rank gives it its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// `host:port` for peers; a machine that runs announces those of its own configuration file, which win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_addresses: Option<Vec<String>>,
    /// Base URLs for clients; as for `peer_addresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

/// Answer of all routes under `/v1/cluster/members`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MembersResponse {
    /// All members, nearest to the throne first, witnesses last.
    pub members: Vec<ClusterMember>,
}

/// One SQL statement with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Exactly one SQL statement.
    pub sql: String,
    /// An array for `?` / `?1`, or an object for `:name`, `@name`, `$name` (keys with or without the prefix).
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = schema::Params))]
    pub params: Params,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), params: Params::default() }
    }

    /// A statement with positional parameters.
    pub fn with(sql: impl Into<String>, params: Vec<serde_json::Value>) -> Statement {
        Statement { sql: sql.into(), params: Params::Positional(params) }
    }
}

/// Parameters of a statement. Values are JSON null, booleans (stored as 0 or 1), numbers, strings, `{"base64": "..."}` for a
/// blob, `{"real": "Infinity"}` or `"-Infinity"`, and `{"text_base64": "..."}` for text that isn't UTF-8. A number that
/// SQLite can't hold as it is written is refused when it is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Params {
    /// By place.
    Positional(Vec<serde_json::Value>),
    /// By name.
    Named(serde_json::Map<String, serde_json::Value>),
}

impl Default for Params {
    fn default() -> Params {
        Params::Positional(Vec::new())
    }
}

impl Params {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Params::Positional(values) => values.is_empty(),
            Params::Named(values) => values.is_empty(),
        }
    }
}

/// Answer of `POST /v1/execute`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecuteResponse {
    /// The transaction's position: stored by every machine that must hold it.
    pub position: String,
    /// One result per statement.
    pub results: Vec<StatementResult>,
}

/// Answer of `POST /v1/query`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueryResponse {
    /// The snapshot's position.
    pub position: String,
    /// One result per statement.
    pub results: Vec<StatementResult>,
}

/// What one statement did.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatementResult {
    /// Column names, when the statement returns rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Rows, values in the order of `columns`; there, perhaps empty, whenever `columns` is.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Vec<schema::SqlValue>>))]
    pub rows: Vec<Vec<serde_json::Value>>,
    /// Rows that an INSERT, REPLACE, UPDATE or DELETE itself has written, without those of triggers and foreign keys; absent
    /// for other statements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_affected: Option<u64>,
    /// Row id of the last row that this very INSERT or REPLACE has added; absent when it has added none, or none that has a
    /// row id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_insert_id: Option<i64>,
}

impl Serialize for StatementResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        if !self.columns.is_empty() {
            object.serialize_entry("columns", &self.columns)?;
            object.serialize_entry("rows", &self.rows)?;
        }
        if let Some(count) = self.rows_affected {
            object.serialize_entry("rows_affected", &count)?;
        }
        if let Some(id) = self.last_insert_id {
            object.serialize_entry("last_insert_id", &id)?;
        }
        object.end()
    }
}

/// An error answer (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:tanist:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code, such as `no-master` or `sql-error`.
    pub code: String,
    /// What was found and what was expected.
    pub detail: String,
    /// Index of the statement that failed, for SQL errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<usize>,
    /// SQLite's extended result code, for SQL errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite_code: Option<i32>,
    /// Where in the statement's `sql` SQLite found the fault, in characters (Unicode code points, not bytes) from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_offset: Option<usize>,
    /// The SQL around `sql_offset`, at most 81 characters of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_excerpt: Option<String>,
}

/// Stable codes of [`Problem`].
pub mod code {
    /// The body isn't JSON of the expected shape (400).
    pub const BAD_REQUEST: &str = "bad-request";
    /// SQLite refused a statement (400; constraint violations 409).
    pub const SQL_ERROR: &str = "sql-error";
    /// A constraint was violated (409).
    pub const CONSTRAINT: &str = "constraint";
    /// A statement that users' SQL may not contain (403).
    pub const SQL_DENIED: &str = "sql-denied";
    /// A statement ran longer than the limit (408).
    pub const STATEMENT_TIMEOUT: &str = "statement-timeout";
    /// The transaction wrote more than the limit (413).
    pub const TRANSACTION_TOO_LARGE: &str = "transaction-too-large";
    /// A statement needs more memory, or more room for sorting, than there is for SQL (413).
    pub const SQL_MEMORY: &str = "sql-memory";
    /// The answer would have more rows or bytes than the limit (413).
    pub const RESULT_TOO_LARGE: &str = "result-too-large";
    /// The request body is larger than the limit (413).
    pub const BODY_TOO_LARGE: &str = "body-too-large";
    /// An idempotency key came back with another request (422).
    pub const IDEMPOTENCY_MISMATCH: &str = "idempotency-mismatch";
    /// More requests per second from this client than the limit (429 with Retry-After).
    pub const RATE_LIMITED: &str = "rate-limited";
    /// Too many requests at once (503 with Retry-After).
    pub const OVERLOADED: &str = "overloaded";
    /// No master is known now (503 with Retry-After).
    pub const NO_MASTER: &str = "no-master";
    /// This machine isn't the master (307 with Location).
    pub const NOT_MASTER: &str = "not-master";
    /// Not enough backups and `min_sync_backups` forbids to go on alone (503).
    pub const NOT_ENOUGH_BACKUPS: &str = "not-enough-backups";
    /// The write was made here, but whether it will last isn't known (503; repeat with the same idempotency key).
    pub const OUTCOME_UNKNOWN: &str = "outcome-unknown";
    /// This replica doesn't have the asked-for position or freshness in time (503).
    pub const NOT_FRESH: &str = "not-fresh";
    /// The master's disk is nearly full: it takes reads, deletes and what needs no further pages (507).
    pub const DISK_FULL: &str = "disk-full";
    /// The disk of the master is full or can't be written (507).
    pub const STORAGE: &str = "storage";
    /// Another program holds the write lock of the master's `state.db` (503 with Retry-After).
    pub const DATABASE_LOCKED: &str = "database-locked";
    /// Another program has written to the master's `state.db` what can't be replicated; nothing is written until another
    /// machine is the master, or that is undone (503 with Retry-After).
    pub const OUTSIDE_WRITE: &str = "outside-write";
    /// The throne wasn't handed over; the reign goes on (409).
    pub const HANDOVER_FAILED: &str = "handover-failed";
    /// The members weren't changed, or it isn't known yet (409).
    pub const MEMBERS_UNCHANGED: &str = "members-unchanged";
    /// `If-Match` or `If-None-Match` doesn't hold: somebody else has changed it (412).
    pub const PRECONDITION_FAILED: &str = "precondition-failed";
    /// What is so already forbids it (409).
    pub const CONFLICT: &str = "conflict";
    /// No such route, member, key, node or command (404).
    pub const NOT_FOUND: &str = "not-found";
    /// The request needs a token, and has none that is known (401).
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// The token's role doesn't allow this (403).
    pub const FORBIDDEN: &str = "forbidden";
    /// The request is addressed to a name that isn't this machine's, and there are no tokens (421).
    pub const FOREIGN_HOST: &str = "foreign-host";
    /// The request comes from a page of another origin, and there are no tokens (403).
    pub const FOREIGN_ORIGIN: &str = "foreign-origin";
    /// The request is for another cluster (421).
    pub const OTHER_CLUSTER: &str = "other-cluster";
    /// The record of changes by SQL is full, and `audit.when_full` is `refuse` (507).
    pub const AUDIT_FULL: &str = "audit-full";
    /// The route exists, the method doesn't (405).
    pub const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
    /// The body's media type isn't the expected one (415).
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported-media-type";
    /// Events after the asked-for one were removed already (410; reload).
    pub const EVENTS_PRUNED: &str = "events-pruned";
    /// Events that were told are lost: an operator has accepted the loss of data (ends a stream of events; reload).
    pub const EVENTS_LOST: &str = "events-lost";
    /// The machine stops (ends a stream of events; go on at another).
    pub const STOPPING: &str = "stopping";
    /// Our bug (500).
    pub const INTERNAL: &str = "internal";

    /// All of them.
    pub const ALL: [&str; 38] = [
        DISK_FULL,
        DATABASE_LOCKED,
        OUTSIDE_WRITE,
        FOREIGN_HOST,
        FOREIGN_ORIGIN,
        OTHER_CLUSTER,
        AUDIT_FULL,
        BAD_REQUEST,
        SQL_ERROR,
        CONSTRAINT,
        SQL_DENIED,
        STATEMENT_TIMEOUT,
        TRANSACTION_TOO_LARGE,
        SQL_MEMORY,
        RESULT_TOO_LARGE,
        BODY_TOO_LARGE,
        IDEMPOTENCY_MISMATCH,
        RATE_LIMITED,
        OVERLOADED,
        NO_MASTER,
        NOT_MASTER,
        NOT_ENOUGH_BACKUPS,
        OUTCOME_UNKNOWN,
        NOT_FRESH,
        STORAGE,
        HANDOVER_FAILED,
        MEMBERS_UNCHANGED,
        PRECONDITION_FAILED,
        CONFLICT,
        NOT_FOUND,
        UNAUTHORIZED,
        FORBIDDEN,
        METHOD_NOT_ALLOWED,
        UNSUPPORTED_MEDIA_TYPE,
        EVENTS_PRUNED,
        EVENTS_LOST,
        STOPPING,
        INTERNAL,
    ];
}

/// One table in `/v1/watched-tables`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WatchedTable {
    /// Its name, as it was made.
    pub table: String,
    /// Whether each change of its rows is an event.
    pub watched: bool,
}

/// Answer of `GET /v1/watched-tables`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WatchedTables {
    /// Names, in order.
    pub tables: Vec<String>,
}

/// One event of `GET /v1/events`; there its `data` is a JSON object of the fields that don't stand beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WatchEvent {
    /// Grows from event to event; a watcher resumes after it, on any machine.
    pub id: u64,
    /// What has changed: `config`, `node`, `desired`, `reported`, `command`, `token`, `cluster` or `row`.
    pub kind: String,
    /// When, by the master's wall clock.
    pub at: String,
    /// The key, node, command, member or table.
    pub subject: String,
    /// Who did it, if that is known.
    pub actor: Option<String>,
    /// What is so now. Of a row: `{"op": "insert" | "update" | "delete", "old": {…} | null, "new": {…} | null}`, with
    /// `"truncated": true` and only the key's columns when the row is large; a blob is `{"hex": "…"}`.
    pub data: serde_json::Value,
}

/// Answer of `GET /v1/cluster`, from any machine: how that machine sees the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cluster {
    /// The cluster's id.
    pub cluster: String,
    /// The machine that answers.
    pub member: String,
    /// Its version of Tanist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its wall clock, in milliseconds since 1970 (UTC). Nothing but displays depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ms: Option<u64>,
    /// What it is now.
    pub role: Role,
    /// Newest term it knows.
    pub term: u64,
    /// The master it follows (or is).
    pub master: Option<String>,
    /// The master's URLs.
    pub master_urls: Vec<String>,
    /// Where a client best sends its next request: the master's URL when known.
    pub suggested_host: Option<String>,
    /// Position of the answering machine's replica.
    pub position: String,
    /// Newest acknowledged position it knows.
    pub acknowledged: String,
    /// Whether writes are taken now (as far as this machine knows).
    pub writable: bool,
    /// Why not, when they aren't; or what is wrong although they are (no backup).
    pub notice: Option<String>,
    /// Who holds every acknowledged write, master included.
    pub sync_set: Vec<String>,
    /// The chain of succession: who follows whom. The master first.
    pub chain: Vec<String>,
    /// All members, by rank.
    pub members: Vec<ClusterMember>,
    /// The version of this API that the answering machine serves, under `/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<u32>,
    /// The level of the cluster; absent while this machine doesn't know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// Copies that the answering machine takes by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<ScheduledCopies>,
    /// Its times, which all machines should have alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<MemberTiming>,
}

/// Times of a machine's configuration file, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberTiming {
    /// `timing.heartbeat`.
    pub heartbeat_ms: u64,
    /// `timing.lease`.
    pub lease_ms: u64,
    /// `timing.drift_margin`.
    pub drift_margin_ms: u64,
    /// `timing.sync_timeout`.
    pub sync_timeout_ms: u64,
}

/// Which schema and which features of Tanist the cluster uses: raised once all members run a program that knows the next level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Upgrade {
    /// The level. A program that doesn't know it can't reign.
    pub level: u32,
    /// Whether an operator holds it there.
    pub held: bool,
    /// The token of who does, where there are tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// Since when, by the wall clock of the master of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_at: Option<String>,
    /// What the highest level that any member knows waits for; the master alone knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
}

/// What a member runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberProgram {
    /// Its version of Tanist.
    pub version: String,
    /// Versions of the peer protocol that it speaks.
    pub protocol: LevelRange,
    /// Levels that it can serve.
    pub levels: LevelRange,
}

/// Numbers from `min` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LevelRange {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl std::fmt::Display for LevelRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.max)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// Answer of `GET /readyz` of a machine that can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ready {
    /// As what.
    pub role: Role,
    /// Position of its replica.
    pub position: String,
}

/// How a machine's scheduled copies stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduledCopies {
    /// When the newest was made, in UTC, by its wall clock.
    pub made_at: Option<String>,
    /// The newest transaction in it.
    pub position: Option<String>,
    /// Why the last try failed; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// One member in [`Cluster`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterMember {
    /// Name.
    pub id: String,
    /// 1 is nearest to the throne, 0 a witness.
    pub rank: u32,
    /// What it is, as far as known.
    pub role: Role,
    /// Position it last reported (the master knows all, the others only some).
    pub position: Option<String>,
    /// Transactions behind the master, when known.
    pub lag: Option<u64>,
    /// Whether the answering machine hears it.
    pub reachable: Option<bool>,
    /// Whether it holds all that was acknowledged, because it is in the sync set; `null`: nobody knows now. Without a master that
    /// is known of those alone on which the acknowledged data is.
    #[serde(default)]
    pub in_sync: Option<bool>,
    /// It doesn't count as a voter until it answers: it has been silent for long, or is new.
    #[serde(default)]
    pub absent: bool,
    /// Its database was another than the master's at this position; only known on the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs_at: Option<String>,
    /// Why it shouldn't reign now, in its own words: it comes last in the chain. The master alone knows the words of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// What its times differ in from those of the answering machine; known on the master, and elsewhere of the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing_differs: Option<String>,
    /// How slowly it stores what it is sent, if that is slow beside the others: then it comes last among those that writes wait
    /// for. Only known on the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<String>,
    /// How it gets its data: `stream`, `rejoin`, `probe`; only known on the master.
    pub progress: Option<String>,
    /// While it is brought in line by page hashes: how far that is. Known on the master and on the machine itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin: Option<RejoinProgress>,
    /// Addresses for peers.
    pub peer_addresses: Vec<String>,
    /// URLs for clients.
    pub urls: Vec<String>,
    /// What it runs, as it last said to the answering machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<MemberProgram>,
    /// Why the answering machine doesn't reach it, while it doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How far a replica is that is being brought in line with the master.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RejoinProgress {
    /// Pages to be compared: of the master's whole database, or those alone that it has written since the replica's position;
    /// 0 while that isn't known yet.
    pub pages: u32,
    /// Pages compared so far.
    pub compared: u32,
    /// Pages that differed and have been sent so far.
    pub moved: u32,
    /// Bytes that have travelled so far, both ways.
    pub bytes: u64,
    /// Why it doesn't go on at present, such as a full disk; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Only pages that the master has written since the replica's position are compared.
    #[serde(default)]
    pub only_changed: bool,
    /// All has come: the replica proves it and puts it in place.
    #[serde(default)]
    pub placing: bool,
}

/// What a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves writes and strong reads.
    Master,
    /// Holds a replica.
    Backup,
    /// Stands for election.
    Candidate,
    /// Votes only.
    Witness,
    /// Not known.
    Unknown,
}
