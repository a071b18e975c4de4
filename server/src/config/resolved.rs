//! The configuration with units, bounds and defaults applied, and checked against itself.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs as _},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderValue;
use tanist_api::key::OperatorKey;
use tanist_replication::{Config as NodeConfig, Member, MemberId, Rank, Timing};
use tanist_store::Options;
use tanist_transport::{ClusterId, ClusterKey, Config as TransportConfig, KeyRing, Limits as LinkLimits};

use super::{
    Tls,
    discovery::Discovery,
    hooks::{Hooks, Service},
    raw::{Raw, RawAudit, RawBackup, RawHealth, RawLimits, RawLog, RawMember, RawTiming},
    secrets,
    units::{self, ADDRESS_COUNT, CLIENT_URL, MOST_ADDRESSES, PEER_ADDRESS, is_client_url, is_peer_address},
};
use crate::{
    audit, auth::operator_key, backup::schedule::is_same, reader::ReadPoolConfig, sql::SqlLimits, upgrade,
};

/// Why a configuration file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It isn't TOML, has an unknown field or one of another type.
    #[error("configuration {}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// A field's value can't be used.
    #[error("configuration {}: {field}: found {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it says.
        found: String,
        /// What it may say.
        expected: String,
    },
}

/// Where a machine listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// For peers.
    pub peer: String,
    /// For clients.
    pub http: String,
    /// Origins of pages that browsers let ask this machine, such as `https://panel.example`; `*` alone: any.
    pub cors: Vec<HeaderValue>,
    /// Further names, with or without a port, by which clients reach this machine; they count where there are no tokens, and
    /// for proofs of the cluster key.
    pub names: Vec<String>,
}

/// Limits on HTTP requests.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Bytes of a request body.
    pub body: usize,
    /// Statements in a request.
    pub statements: usize,
    /// Rows in an answer.
    pub rows: usize,
    /// Bytes of values in an answer.
    pub result: usize,
    /// How long a request's statements may run together.
    pub statement_time: Duration,
    /// Bytes of memory that all of users' SQL may take beside page caches and the threads' own parts.
    pub sql_memory: u64,
    /// Bytes of temporary files that all of users' SQL may have.
    pub sql_temp: u64,
    /// How long a request waits for a master to be found, counted from when the last one was lost.
    pub master_wait: Duration,
    /// Bytes of large answers that clients haven't taken yet.
    pub answers: usize,
    /// Requests under way.
    pub concurrent_requests: usize,
    /// Requests under way of one token's holder, or of one address where there are no tokens.
    pub concurrent_requests_per_client: usize,
    /// Requests per second of one client; `None`: as many as it likes.
    pub requests_per_second: Option<NonZeroU32>,
    /// Open connections.
    pub connections: usize,
    /// Open connections from one address.
    pub connections_per_address: usize,
    /// How long answers of idempotent writes are kept.
    pub request_retention: Duration,
    /// Watchers of events; they count as connections too, but not as requests.
    pub watchers: usize,
    /// Watchers of one token's holder, or from one address where there are no tokens.
    pub watchers_per_client: usize,
    /// How long events are kept.
    pub event_retention: Duration,
    /// Events kept at most.
    pub events: usize,
    /// How long a client that fetches a copy may take nothing of it.
    pub backup_stall: Duration,
    /// How long it may take altogether: so long the WAL can't start over.
    pub backup_time: Duration,
}

/// The record of changes by users' SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Whether it is kept.
    pub sql: bool,
    /// How much of it.
    pub kept: audit::Kept,
}

/// When this machine reports that it isn't fit to reign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The user's own check and its arguments; empty: none. It succeeds when the machine is fit, otherwise its first
    /// line says why not.
    pub program: Vec<String>,
    /// How often is looked.
    pub every: Duration,
    /// How long the program may run.
    pub timeout: Duration,
    /// So many bad results in a row, and it isn't healthy any more.
    pub failures: u32,
    /// Good results for so long, and it is healthy again.
    pub recovery: Duration,
    /// With fewer bytes free on the data directory's disk it isn't healthy; `None`: nobody looks.
    pub min_free: Option<u64>,
    /// A sync that takes so long is a bad result; `None`: nobody looks.
    pub slow_sync: Option<Duration>,
    /// A commit, write or sync that is under way for so long makes the machine unfit at once: as master it leaves.
    pub stall: Duration,
}

/// Copies that this machine takes of its replica by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where they are kept.
    pub directory: PathBuf,
    /// How often one is taken.
    pub every: Duration,
    /// How often what has changed since is kept besides; `None`: never.
    pub increments: Option<Duration>,
    /// So many are kept.
    pub keep: usize,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Lines for programs.
    Json,
}

/// What is logged.
#[derive(Debug, Clone)]
pub struct Log {
    /// Such as `info` or `tanist_server=debug`.
    pub filter: String,
    /// The format.
    pub format: LogFormat,
    /// Files beside the standard error output; `None`: none.
    pub files: Option<LogFiles>,
}

/// Log files that are replaced when they are full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFiles {
    /// Where they are.
    pub directory: PathBuf,
    /// So many are kept, with the one that is written; at least one.
    pub max_files: usize,
    /// Bytes of one.
    pub max_size: u64,
}

impl LogFiles {
    /// As many and as large as by default.
    #[must_use]
    pub fn of(directory: PathBuf) -> LogFiles {
        LogFiles { directory, max_files: 10, max_size: 10 << 20 }
    }
}

/// A machine's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster's name.
    pub cluster: ClusterId,
    /// This machine.
    pub id: MemberId,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The cluster's secret.
    pub key: ClusterKey,
    /// A second one that is accepted while the first is changed; see `docs/key.md`.
    pub other_key: Option<ClusterKey>,
    /// The file that the secret stands in; `None`: the configuration file itself.
    pub key_file: Option<PathBuf>,
    /// Where it listens.
    pub listen: Listen,
    /// A managed node that gives no sign of life for so long is silent.
    pub silent_after: Duration,
    /// For so long all members must have known the next level before the cluster comes to it.
    pub upgrade_calm: Duration,
    /// What is recorded of changes by users' SQL.
    pub audit: Audit,
    /// Whether requests need a token.
    pub tokens: bool,
    /// TLS for clients; `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// All machines.
    pub members: Vec<Member>,
    /// Times of the protocol.
    pub timing: Timing,
    /// Whether a helper process tells the others when this one has ended.
    pub end_notice: bool,
    /// A better-ranked member that has kept up for so long gets the throne back; `None`: never by itself.
    pub failback: Option<Duration>,
    /// In a cluster of four or more, a member silent for so long doesn't count as a voter; `None`: all always count.
    pub voter_timeout: Option<Duration>,
    /// Backups that hold every acknowledged write (R10).
    pub sync_backups: usize,
    /// With fewer, writes are refused (R10).
    pub min_sync_backups: usize,
    /// Bytes of transactions kept for catch-up.
    pub buffer: usize,
    /// Bytes one request may write.
    pub max_transaction: u64,
    /// WAL size that starts a checkpoint.
    pub wal_limit: u64,
    /// The writer's page cache.
    pub cache: usize,
    /// Bytes a second of the replica that are read again to find what rotted; `None`: none.
    pub scrub: Option<u64>,
    /// Bytes of the data directory's disk that are held back for votes and deletes, and wanted free besides; 0: none.
    pub reserve: u64,
    /// How long another program may hold the write lock of the master's database before another machine becomes the master.
    pub lock_patience: Duration,
    /// Limits on requests.
    pub limits: HttpLimits,
    /// What makes this machine unfit to reign.
    pub health: Health,
    /// Scheduled copies; `None`: none.
    pub backup: Option<Backup>,
    /// Programs that are told when this machine's reign begins and ends.
    pub hooks: Hooks,
    /// The program that runs only while this machine reigns; `None`: none.
    pub service: Option<Service>,
    /// Whether it says on the local network that it is there; `None`: no.
    pub discovery: Option<Discovery>,
    /// Logging.
    pub log: Log,
}

/// Long enough for a restart of the machine's process, short beside the time between two failures.
const VOTER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Fields<'a> {
    path: &'a Path,
}

impl<'a> Fields<'a> {
    pub(super) fn of(path: &'a Path) -> Fields<'a> {
        Fields { path }
    }
}

impl Fields<'_> {
    pub(super) fn error(&self, field: &str, found: impl ToString, expected: &str) -> ConfigError {
        ConfigError::Field {
            path: self.path.to_owned(),
            field: field.to_owned(),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    pub(super) fn duration(
        &self,
        field: &str,
        text: Option<&String>,
        default: Duration,
        range: (Duration, Duration),
    ) -> Result<Duration, ConfigError> {
        let Some(text) = text else { return Ok(default) };
        let expected = format!("a duration such as \"100ms\" or \"1s\", from {:?} to {:?}", range.0, range.1);
        units::duration(text)
            .filter(|value| (range.0..=range.1).contains(value))
            .ok_or_else(|| self.error(field, format!("{text:?}"), &expected))
    }

    fn bytes(
        &self,
        field: &str,
        text: Option<&String>,
        default: u64,
        range: (u64, u64),
    ) -> Result<u64, ConfigError> {
        let Some(text) = text else { return Ok(default) };
        let expected = format!("a size such as \"16MiB\", from {} to {} bytes", range.0, range.1);
        units::bytes(text)
            .filter(|value| (range.0..=range.1).contains(value))
            .ok_or_else(|| self.error(field, format!("{text:?}"), &expected))
    }

    fn count(
        &self,
        field: &str,
        value: Option<usize>,
        default: usize,
        max: usize,
    ) -> Result<usize, ConfigError> {
        let value = value.unwrap_or(default);
        if (1..=max).contains(&value) {
            Ok(value)
        } else {
            Err(self.error(field, value, &format!("a number from 1 to {max}")))
        }
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Config {
    /// Reads and checks a configuration file, and that its secrets are secret. Relative paths in it count from its folder.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let config = Config::parse(path, &Config::read(path)?)?;
        config.check_secrets(path)?;
        Ok(config)
    }

    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(path: &Path) -> Result<String, ConfigError> {
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
    }

    /// Checks a configuration's text; `path` names it in errors and anchors relative paths.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        // Without the line's text: it may be the one with the key.
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count();
            let field = text
                .lines()
                .nth(line)
                .and_then(|line| line.split_once('='))
                .map_or("", |(name, _)| name.trim());
            let place = if field.is_empty() {
                format!("line {}", line + 1)
            } else {
                format!("line {}, {field}", line + 1)
            };
            let message = without_keys(&format!("{place}: {}", error.message()));
            ConfigError::Syntax { path: path.to_owned(), message }
        })?;
        let fields = Fields { path };
        let folder = path.parent().unwrap_or(Path::new("."));
        let cluster: ClusterId = raw.cluster.parse().map_err(|_| {
            fields.error("cluster", format!("{:?}", raw.cluster), "1 to 63 letters, digits, '-', '_' or '.'")
        })?;
        let id = member_id(&fields, "id", &raw.id)?;
        let keys = secrets::keys(&fields, folder, raw.key.as_deref(), raw.key_file.as_deref())?;
        let tls = Tls::of(&fields, folder, raw.tls)?;
        let members = members(&fields, &raw.member)?;
        if !members.iter().any(|member| member.id == id) {
            let names = members.iter().map(|member| member.id.as_str()).collect::<Vec<_>>().join(", ");
            return Err(fields.error(
                "id",
                format!("{:?}", raw.id),
                &format!("one of the [[member]] ids: {names}"),
            ));
        }
        let listen = Listen {
            peer: raw.listen.peer.unwrap_or_else(|| "127.0.0.1:7450".to_owned()),
            http: raw.listen.http.unwrap_or_else(|| "127.0.0.1:8080".to_owned()),
            cors: origins(&fields, &raw.listen.cors)?,
            names: names(&fields, &raw.listen.names)?,
        };
        addresses(&fields, "listen.peer", &listen.peer)?;
        let http = addresses(&fields, "listen.http", &listen.http)?;
        let reachable = !http.iter().all(|address| address.ip().is_loopback());
        let known = tls.as_ref().is_some_and(Tls::admits_only_known);
        if reachable && !raw.auth.tokens && !known && !raw.listen.insecure {
            return Err(fields.error(
                "listen.http",
                format!("{:?}, which others can reach, and no access control", listen.http),
                "a loopback address, or tokens = true in [auth], or client_ca_file in [tls], or insecure = true in [listen] on a network where everybody may \
                 read and write",
            ));
        }
        if !raw.auth.tokens && listen.cors.iter().any(|origin| origin == "*") {
            return Err(fields.error(
                "listen.cors",
                "[\"*\"], and no access control",
                "the origins of your pages, or tokens = true in [auth]: any page of any site that a browser here shows could read \
                 and write otherwise",
            ));
        }
        let me = members.iter().find(|member| member.id == id);
        let discovery = Discovery::of(&fields, &raw.discovery, me)?;
        let timing = timing(&fields, &raw.timing)?;
        let days = Duration::from_secs(7 * 24 * 3600);
        let failback = match raw.timing.failback.as_deref() {
            None | Some("off") => None,
            Some(_) => Some(fields.duration(
                "timing.failback",
                raw.timing.failback.as_ref(),
                Duration::ZERO,
                (Duration::from_secs(1), days),
            )?),
        };
        let voter_timeout = match raw.timing.voter_timeout.as_deref() {
            Some("off") => None,
            _ => {
                let least = timing.lease * 2;
                let given = raw.timing.voter_timeout.as_ref();
                let default = VOTER_TIMEOUT.max(least);
                Some(fields.duration("timing.voter_timeout", given, default, (least, days))?)
            }
        };
        let data_members = members.iter().filter(|member| !member.rank.is_witness()).count();
        let sync_backups = raw.replication.sync_backups.unwrap_or(1) as usize;
        if sync_backups >= data_members.max(2) {
            let expected = format!("fewer than the {data_members} data members");
            return Err(fields.error("replication.sync_backups", sync_backups, &expected));
        }
        let min_sync_backups = raw.replication.min_sync_backups.unwrap_or(0) as usize;
        if min_sync_backups > sync_backups {
            let expected = format!("at most replication.sync_backups ({sync_backups})");
            return Err(fields.error("replication.min_sync_backups", min_sync_backups, &expected));
        }
        let mib = |count: u64| count << 20;
        let size =
            |field, text: &Option<String>, default, range| fields.bytes(field, text.as_ref(), default, range);
        let max_transaction = size(
            "replication.max_transaction",
            &raw.replication.max_transaction,
            mib(16),
            (mib(1), mib(256)),
        )?;
        let data_dir = folder.join(&raw.data_dir);
        #[cfg(windows)]
        check_length(&fields, &std::path::absolute(&data_dir).unwrap_or_else(|_| data_dir.clone()))?;
        Ok(Config {
            cluster,
            id,
            data_dir: data_dir.clone(),
            key: keys.key,
            other_key: keys.other,
            key_file: raw.key_file.map(|name| folder.join(name)),
            listen,
            silent_after: fields.duration(
                "nodes.silent_after",
                raw.nodes.silent_after.as_ref(),
                Duration::from_secs(5),
                (Duration::from_secs(1), days),
            )?,
            upgrade_calm: fields.duration(
                "upgrade.calm",
                raw.upgrade.calm.as_ref(),
                Duration::from_secs(60),
                (Duration::from_millis(100), days),
            )?,
            tokens: raw.auth.tokens,
            audit: audit_of(&fields, folder, &data_dir, &raw.audit, raw.auth.tokens)?,
            tls,
            members,
            timing: timing.clone(),
            end_notice: raw.timing.end_notice.unwrap_or(true),
            failback,
            voter_timeout,
            sync_backups,
            min_sync_backups,
            buffer: usize_of(size(
                "replication.buffer",
                &raw.replication.buffer,
                mib(16),
                (mib(1), mib(4096)),
            )?),
            max_transaction,
            wal_limit: size("store.wal_limit", &raw.store.wal_limit, mib(16), (mib(1), mib(4096)))?,
            cache: usize_of(size("store.cache", &raw.store.cache, mib(8), (1 << 18, mib(4096)))?),
            scrub: match raw.store.scrub.as_deref() {
                Some("off") => None,
                _ => Some(size("store.scrub", &raw.store.scrub, mib(2), (1 << 14, mib(1024)))?),
            },
            reserve: match raw.store.reserve.as_deref() {
                Some("off") => 0,
                _ => size("store.reserve", &raw.store.reserve, mib(16), (mib(1), mib(4096)))?,
            },
            lock_patience: fields.duration(
                "store.lock_patience",
                raw.store.lock_patience.as_ref(),
                Duration::from_secs(10),
                (Duration::from_secs(1), Duration::from_secs(3600)),
            )?,
            limits: limits(&fields, &raw.limits)?,
            health: health(&fields, raw.health)?,
            backup: backup(&fields, folder, &folder.join(&raw.data_dir), raw.backup)?,
            hooks: Hooks::of(&fields, raw.hooks)?,
            service: Service::of(&fields, raw.service, &timing)?,
            discovery,
            log: log(&fields, folder, raw.log)?,
        })
    }

    /// What works but should be known.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        if self.members.len() == 2 {
            warnings.push(
                "two members without a witness: when one dies, the other waits for the operator".to_owned(),
            );
        }
        if self.members.iter().filter(|member| !member.rank.is_witness()).count() == 1 {
            warnings.push("one data member: every write has one copy".to_owned());
        }
        warnings
    }

    /// What whoever has the cluster key proves it with: that allows everything.
    #[must_use]
    pub fn operator_key(&self) -> OperatorKey {
        operator_key(&self.key)
    }

    /// Where clients find the machines that this configuration names, this one first: by its scheme, and by nothing but that.
    #[must_use]
    pub fn client_urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        let own = self.members.iter().filter(|member| member.id == self.id);
        let others = self.members.iter().filter(|member| member.id != self.id);
        let mut urls: Vec<String> = own.chain(others).flat_map(|member| member.urls.clone()).collect();
        if self.me().urls.is_empty() {
            urls.insert(0, format!("{scheme}{}", reachable(&self.listen.http)));
        }
        // What is written without TLS where there is TLS is a remnant, and nothing secret goes there.
        if self.tls.is_some() {
            urls.retain(|url| url.starts_with(scheme));
        }
        urls
    }

    /// This machine's own entry.
    #[must_use]
    pub fn me(&self) -> &Member {
        // `parse` has checked that it is there.
        self.members.iter().find(|member| member.id == self.id).unwrap_or(&self.members[0])
    }

    /// Settings of the protocol; the seed is the caller's.
    #[must_use]
    pub fn node(&self) -> NodeConfig {
        NodeConfig {
            id: self.id.clone(),
            members: self.members.clone(),
            timing: self.timing.clone(),
            sync_backups: self.sync_backups,
            min_sync_backups: self.min_sync_backups,
            buffer_bytes: self.buffer,
            inflight_bytes: self.buffer / 2,
            voter_timeout: self.voter_timeout,
            failback: self.failback,
            seed: 0,
        }
    }

    /// Settings of the store.
    #[must_use]
    pub fn store_options(&self) -> Options {
        Options {
            page_cache_bytes: self.cache,
            wal_limit_bytes: self.wal_limit,
            max_transaction_bytes: self.max_transaction,
            // The store thread has other things to do than to wait for a lock: it tries again.
            busy_timeout_ms: 250,
            cluster: self.cluster.to_string(),
            ..Options::default()
        }
    }

    /// Settings of the peer links.
    #[must_use]
    pub fn transport(&self, incarnation: [u8; 16]) -> TransportConfig {
        let payload = usize_of(self.store_options().payload_limit());
        let bulk_message = payload.saturating_add(1 << 16);
        // The largest transaction finds room behind all others that are on their way.
        let queue_bytes = bulk_message.saturating_add(self.buffer);
        TransportConfig {
            cluster: self.cluster.clone(),
            me: self.id.clone(),
            incarnation,
            keys: KeyRing::new(self.keys()),
            addresses: self.me().peer_addresses.clone(),
            admit_strangers: true,
            program: upgrade::program(),
            names: tanist_transport::Names::default(),
            lives: tanist_transport::Lives::default(),
            limits: LinkLimits { bulk_message, queue_bytes, ..LinkLimits::default() },
        }
    }

    /// Limits on results.
    #[must_use]
    pub fn sql_limits(&self) -> SqlLimits {
        SqlLimits { rows: self.limits.rows, bytes: self.limits.result }
    }

    /// Settings of the read pool.
    #[must_use]
    pub fn read_pool(&self) -> ReadPoolConfig {
        ReadPoolConfig {
            threads: 2,
            queue: self.limits.concurrent_requests,
            cache_bytes: 2 << 20,
            sql: self.sql_limits(),
            time_limit: self.limits.statement_time,
        }
    }
}

/// The text without what could be the cluster key, written where no key belongs.
fn without_keys(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '/') {
        // A key has 43 characters or more, a field's name less than half of that.
        shown.push_str(if piece.len() > 40 { "(hidden) " } else { piece });
    }
    shown
}

fn member_id(fields: &Fields<'_>, field: &str, text: &str) -> Result<MemberId, ConfigError> {
    text.parse()
        .map_err(|_| fields.error(field, format!("{text:?}"), "1 to 63 letters, digits, '-', '_' or '.'"))
}

fn origins(fields: &Fields<'_>, found: &[String]) -> Result<Vec<HeaderValue>, ConfigError> {
    const EXPECTED: &str =
        "origins such as \"https://panel.example\" (no path, no slash at the end), or \"*\" alone";
    let wrong = |found: &String| fields.error("listen.cors", format!("{found:?}"), EXPECTED);
    found
        .iter()
        .map(|origin| {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let fits = host.is_some_and(|host| {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@*,".contains(&b))
            });
            let any = origin == "*" && found.len() == 1;
            let value = HeaderValue::try_from(origin).ok().filter(|_| fits || any);
            value.ok_or_else(|| wrong(origin))
        })
        .collect()
}

/// Names of this machine: a host, with or without a port.
fn names(fields: &Fields<'_>, found: &[String]) -> Result<Vec<String>, ConfigError> {
    const EXPECTED: &str =
        "up to 64 names such as \"wall.example\" or \"wall.example:8080\", without a scheme";
    if found.len() > 64 {
        return Err(fields.error("listen.names", found.len(), EXPECTED));
    }
    let fits = |name: &String| {
        let authority = name.parse::<http::uri::Authority>();
        !name.contains(['/', '@', '*']) && authority.is_ok_and(|authority| !authority.host().is_empty())
    };
    match found.iter().find(|name| !fits(name)) {
        Some(name) => Err(fields.error("listen.names", format!("{name:?}"), EXPECTED)),
        None => Ok(found.to_vec()),
    }
}

/// The address by which a process of this machine reaches what listens there.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

fn addresses(fields: &Fields<'_>, field: &str, text: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let expected = "an address and port of this machine, such as \"0.0.0.0:8080\"";
    let found: Vec<_> = text.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    if found.is_empty() { Err(fields.error(field, format!("{text:?}"), expected)) } else { Ok(found) }
}

fn members(fields: &Fields<'_>, raw: &[RawMember]) -> Result<Vec<Member>, ConfigError> {
    if raw.is_empty() || raw.len() > 63 {
        return Err(fields.error("member", raw.len(), "1 to 63 [[member]] sections"));
    }
    let mut ids = BTreeSet::new();
    let mut ranks = BTreeSet::new();
    let mut peers = BTreeSet::new();
    let mut members = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let field = |name: &str| format!("member[{index}].{name}");
        let id = member_id(fields, &field("id"), &raw.id)?;
        if !ids.insert(id.clone()) {
            return Err(fields.error(
                &field("id"),
                format!("{:?} a second time", raw.id),
                "a different id for each",
            ));
        }
        let rank = Rank(raw.rank);
        if !rank.is_witness() && !ranks.insert(rank) {
            let found = format!("rank {} a second time", raw.rank);
            return Err(fields.error(
                &field("rank"),
                found,
                "a different rank for each data member (0: witness)",
            ));
        }
        if !(1..=MOST_ADDRESSES).contains(&raw.peer.len()) {
            return Err(fields.error(&field("peer"), raw.peer.len(), ADDRESS_COUNT));
        }
        for peer in &raw.peer {
            if !is_peer_address(peer) {
                return Err(fields.error(&field("peer"), format!("{peer:?}"), PEER_ADDRESS));
            }
            if !peers.insert(peer.clone()) {
                let found = format!("{peer:?} a second time");
                return Err(fields.error(&field("peer"), found, "addresses of its own for each member"));
            }
        }
        if raw.url.len() > MOST_ADDRESSES {
            return Err(fields.error(&field("url"), raw.url.len(), ADDRESS_COUNT));
        }
        if let Some(url) = raw.url.iter().find(|url| !is_client_url(url)) {
            return Err(fields.error(&field("url"), format!("{url:?}"), CLIENT_URL));
        }
        let urls = raw.url.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        members.push(Member { id, rank, peer_addresses: raw.peer.clone(), urls, absent: false });
    }
    if ranks.is_empty() {
        return Err(fields.error("member", "witnesses only", "at least one member with rank 1 or more"));
    }
    Ok(members)
}

fn timing(fields: &Fields<'_>, raw: &RawTiming) -> Result<Timing, ConfigError> {
    let default = Timing::default();
    let ms = Duration::from_millis;
    let heartbeat =
        fields.duration("timing.heartbeat", raw.heartbeat.as_ref(), default.heartbeat, (ms(10), ms(5000)))?;
    let lease = fields.duration(
        "timing.lease",
        raw.lease.as_ref(),
        default.lease.max(heartbeat * 10),
        (ms(50), ms(60_000)),
    )?;
    if lease < heartbeat * 3 {
        let expected = format!("at least three heartbeats ({:?})", heartbeat * 3);
        return Err(fields.error("timing.lease", format!("{lease:?}"), &expected));
    }
    let drift_margin =
        fields.duration("timing.drift_margin", raw.drift_margin.as_ref(), lease / 20, (ms(1), ms(10_000)))?;
    if drift_margin >= lease / 2 {
        let expected = format!("less than half of the lease ({:?})", lease / 2);
        return Err(fields.error("timing.drift_margin", format!("{drift_margin:?}"), &expected));
    }
    let sync_timeout =
        fields.duration("timing.sync_timeout", raw.sync_timeout.as_ref(), lease, (ms(20), ms(60_000)))?;
    if sync_timeout < heartbeat * 2 {
        let expected = format!("at least two heartbeats ({:?})", heartbeat * 2);
        return Err(fields.error("timing.sync_timeout", format!("{sync_timeout:?}"), &expected));
    }
    let election_stagger = fields.duration(
        "timing.election_stagger",
        raw.election_stagger.as_ref(),
        heartbeat,
        (ms(1), ms(10_000)),
    )?;
    Ok(Timing {
        heartbeat,
        lease,
        drift_margin,
        sync_timeout,
        election_stagger,
        trust_refused: raw.trust_refused.unwrap_or(default.trust_refused),
    })
}

fn health(fields: &Fields<'_>, raw: RawHealth) -> Result<Health, ConfigError> {
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let is_off = |text: &Option<String>| text.as_deref() == Some("off");
    if raw.program.first().is_some_and(String::is_empty) {
        return Err(fields.error(
            "health.program",
            "\"\"",
            "a program and its arguments, such as [\"/usr/bin/check\", \"-q\"]",
        ));
    }
    let every = fields.duration("health.every", raw.every.as_ref(), s(5), (ms(100), s(3600)))?;
    let failures = fields.count("health.failures", raw.failures, 3, 1000)?;
    Ok(Health {
        program: raw.program,
        every,
        timeout: fields.duration("health.timeout", raw.timeout.as_ref(), s(5), (ms(10), s(600)))?,
        failures: u32::try_from(failures).unwrap_or(u32::MAX),
        recovery: fields.duration("health.recovery", raw.recovery.as_ref(), s(60), (ms(0), s(86_400)))?,
        min_free: match is_off(&raw.min_free) {
            true => None,
            false => Some(fields.bytes("health.min_free", raw.min_free.as_ref(), 64 << 20, (1, 1 << 50))?),
        },
        slow_sync: match is_off(&raw.slow_sync) {
            true => None,
            false => {
                Some(fields.duration("health.slow_sync", raw.slow_sync.as_ref(), s(1), (ms(1), s(600)))?)
            }
        },
        stall: fields.duration("health.stall", raw.stall.as_ref(), s(2), (ms(100), s(600)))?,
    })
}

fn backup(
    fields: &Fields<'_>,
    folder: &Path,
    data_dir: &Path,
    raw: RawBackup,
) -> Result<Option<Backup>, ConfigError> {
    let hour = Duration::from_secs(3600);
    let every =
        fields.duration("backup.every", raw.every.as_ref(), hour * 24, (hour / 3600, hour * 24 * 30))?;
    let increments = match raw.increments.as_deref() {
        None | Some("off") => None,
        Some(_) => {
            let range = (Duration::from_secs(1), hour);
            Some(fields.duration("backup.increments", raw.increments.as_ref(), hour, range)?)
        }
    };
    if let Some(pause) = increments.filter(|pause| *pause >= every) {
        let expected = "less than backup.every, or \"off\"";
        return Err(fields.error("backup.increments", format!("{pause:?}"), expected));
    }
    let keep = fields.count("backup.keep", raw.keep, 7, 10_000)?;
    let Some(directory) = raw.directory.filter(|directory| !directory.is_empty()) else {
        if raw.every.is_some() || raw.keep.is_some() || raw.increments.is_some() {
            return Err(fields.error("backup.directory", "nothing", "a directory for the copies"));
        }
        return Ok(None);
    };
    let directory = folder.join(directory);
    if is_same(&directory, data_dir) {
        let expected = "another directory than data_dir, best on another disk";
        return Err(fields.error("backup.directory", directory.display(), expected));
    }
    Ok(Some(Backup { directory, every, increments, keep }))
}

/// On Windows SQLite opens its files by the old rules: 260 UTF-16 units with the zero at the end. The longest name in a data
/// directory, `divergence\.saving\cluster.db-journal`, has 37 of them.
#[cfg(any(windows, test))]
fn check_length(fields: &Fields<'_>, data_dir: &Path) -> Result<(), ConfigError> {
    const LONGEST: usize = 215;
    let length = data_dir.to_string_lossy().encode_utf16().count();
    if length <= LONGEST {
        return Ok(());
    }
    let found = format!("{length} characters ({})", data_dir.display());
    Err(fields.error("data_dir", found, &format!("at most {LONGEST} on Windows, from the drive on")))
}

fn log(fields: &Fields<'_>, folder: &Path, raw: RawLog) -> Result<Log, ConfigError> {
    let usual = LogFiles::of(PathBuf::new());
    let max_files = fields.count("log.max_files", raw.max_files, usual.max_files, 1000)?;
    let max_size =
        fields.bytes("log.max_size", raw.max_size.as_ref(), usual.max_size, (64 << 10, 1 << 30))?;
    let directory = raw.directory.filter(|directory| !directory.is_empty());
    if directory.is_none() && (raw.max_files.is_some() || raw.max_size.is_some()) {
        return Err(fields.error("log.directory", "nothing", "a directory for the log files"));
    }
    Ok(Log {
        filter: raw.filter.unwrap_or_else(|| "info".to_owned()),
        format: match raw.format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                return Err(fields.error("log.format", format!("{other:?}"), "\"text\" or \"json\""));
            }
        },
        files: directory.map(|directory| LogFiles { directory: folder.join(directory), max_files, max_size }),
    })
}

fn audit_of(
    fields: &Fields<'_>,
    folder: &Path,
    data_dir: &Path,
    raw: &RawAudit,
    tokens: bool,
) -> Result<Audit, ConfigError> {
    let hour = Duration::from_secs(3600);
    let retention = fields.duration(
        "audit.retention",
        raw.retention.as_ref(),
        hour * 24 * 30,
        (Duration::from_secs(1), hour * 24 * 3660),
    )?;
    let records = fields.count("audit.records", raw.records, 100_000, 100_000_000)? as u64;
    // Where nobody is known there is nobody to name.
    let sql = raw.sql.unwrap_or(tokens);
    let directory = raw.directory.as_ref().map_or_else(|| data_dir.join("audit"), |path| folder.join(path));
    let when_full = match raw.when_full.as_deref() {
        None | Some("file") => audit::WhenFull::Files(directory),
        Some("refuse") => audit::WhenFull::Refuse,
        Some(other) => {
            return Err(fields.error("audit.when_full", format!("{other:?}"), "\"file\" or \"refuse\""));
        }
    };
    Ok(Audit { sql, kept: audit::Kept { retention, records, when_full } })
}

fn limits(fields: &Fields<'_>, raw: &RawLimits) -> Result<HttpLimits, ConfigError> {
    let ms = Duration::from_millis;
    let hour = Duration::from_secs(3600);
    let connections = fields.count("limits.connections", raw.connections, 2048, 65_536)?;
    // Each watcher keeps a connection, and requests need some too.
    let watchers = raw.watchers.unwrap_or((connections / 2).clamp(1, 1000));
    if watchers == 0 || watchers >= connections.max(2) {
        let expected = format!("a number from 1 to less than limits.connections ({connections})");
        return Err(fields.error("limits.watchers", watchers, &expected));
    }
    let requests_per_second = raw.requests_per_second.unwrap_or(0);
    if requests_per_second > 1_000_000 {
        let expected = "a number from 1 to 1000000, or 0 for no limit";
        return Err(fields.error("limits.requests_per_second", requests_per_second, expected));
    }
    let concurrent_requests =
        fields.count("limits.concurrent_requests", raw.concurrent_requests, 1024, 65_536)?;
    // A control room's screens may have one address, and one token: half of all is much, and leaves the others theirs.
    let share = |field: &str, asked: Option<usize>, all: usize| {
        fields.count(field, asked, (all / 2).max(64).min(all), all)
    };
    let result = fields.bytes("limits.result", raw.result.as_ref(), 8 << 20, (1024, 1 << 30))?;
    // At least one answer must fit.
    let (usual, range) = ((64 << 20).max(2 * result), (result.max(1 << 20), 1 << 32));
    Ok(HttpLimits {
        answers: usize_of(fields.bytes("limits.answers", raw.answers.as_ref(), usual, range)?),
        requests_per_second: NonZeroU32::new(requests_per_second),
        body: usize_of(fields.bytes("limits.body", raw.body.as_ref(), 1 << 20, (1024, 64 << 20))?),
        statements: fields.count("limits.statements", raw.statements, 1000, 100_000)?,
        rows: fields.count("limits.rows", raw.rows, 10_000, 10_000_000)?,
        result: usize_of(result),
        statement_time: fields.duration(
            "limits.statement_time",
            raw.statement_time.as_ref(),
            ms(5000),
            (ms(10), ms(600_000)),
        )?,
        // Of a machine with 2 GB; a value of the greatest length must fit, twice.
        sql_memory: fields.bytes(
            "limits.sql_memory",
            raw.sql_memory.as_ref(),
            256 << 20,
            (16 << 20, 1 << 40),
        )?,
        sql_temp: fields.bytes("limits.sql_temp", raw.sql_temp.as_ref(), 1 << 30, (1 << 20, 1 << 44))?,
        master_wait: fields.duration(
            "limits.master_wait",
            raw.master_wait.as_ref(),
            ms(2000),
            (ms(0), ms(60_000)),
        )?,
        concurrent_requests,
        concurrent_requests_per_client: share(
            "limits.concurrent_requests_per_client",
            raw.concurrent_requests_per_client,
            concurrent_requests,
        )?,
        connections,
        connections_per_address: share(
            "limits.connections_per_address",
            raw.connections_per_address,
            connections,
        )?,
        request_retention: fields.duration(
            "limits.request_retention",
            raw.request_retention.as_ref(),
            hour,
            (ms(1000), hour * 24 * 30),
        )?,
        watchers,
        watchers_per_client: share("limits.watchers_per_client", raw.watchers_per_client, watchers)?,
        event_retention: fields.duration(
            "limits.event_retention",
            raw.event_retention.as_ref(),
            hour * 24,
            (ms(1000), hour * 24 * 365),
        )?,
        events: fields.count("limits.events", raw.events, 100_000, 100_000_000)?,
        backup_stall: fields.duration(
            "limits.backup_stall",
            raw.backup_stall.as_ref(),
            ms(10_000),
            (ms(100), hour),
        )?,
        backup_time: fields.duration(
            "limits.backup_time",
            raw.backup_time.as_ref(),
            hour / 2,
            (ms(1000), hour * 24),
        )?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
cluster = "wall"
id = "pc-1"
key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
[listen]
http = "127.0.0.1:8080"
[[member]]
id = "pc-1"
rank = 1
peer = ["10.0.0.1:7450"]
url = ["http://10.0.0.1:8080/"]
[[member]]
id = "pc-2"
rank = 2
peer = ["10.0.0.2:7450"]
[[member]]
id = "w"
rank = 0
peer = ["10.0.0.3:7450"]
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/tanist/tanist.toml"), text)
    }

    #[test]
    fn syntax_error_never_shows_the_key() {
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for line in [format!("key \"{key}\""), format!("key = {key}"), key.to_owned(), format!("{key} 1")] {
            let text = GOOD.replace(&format!("key = \"{key}\""), &line);
            let error = Config::parse(Path::new("t.toml"), &text).unwrap_err().to_string();
            assert!(error.contains("t.toml: line 4"), "{error}");
            assert!(!error.contains("AAECAwQ"), "{error}");
        }
    }

    #[test]
    fn largest_transaction_fits_into_a_link_behind_all_that_may_be_in_flight() {
        for limit in ["16MiB", "256MiB"] {
            let text = format!("{GOOD}[replication]\nmax_transaction = \"{limit}\"");
            let config = parse(&text).unwrap();
            let limits = config.transport([0; 16]).limits;
            assert!(limits.queue_bytes >= limits.bulk_message + config.node().inflight_bytes, "{limits:?}");
        }
    }

    #[test]
    fn good_file_is_read_with_defaults() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/tanist/data"));
        assert_eq!(config.me().urls, ["http://10.0.0.1:8080"]);
        assert_eq!((config.sync_backups, config.timing.lease), (1, Duration::from_secs(1)));
        assert!(config.warnings().is_empty());
    }

    #[test]
    fn bad_value_is_refused_by_field_with_what_was_found() {
        let cases = [
            (GOOD.replace("id = \"pc-1\"\nkey", "id = \"pc-7\"\nkey"), vec!["id", "pc-7", "pc-1, pc-2"]),
            (GOOD.replace("rank = 2", "rank = 1"), vec!["member[1].rank", "second time"]),
            (GOOD.replace("id = \"pc-2\"", "id = \"pc-1\""), vec!["member[1].id"]),
            (GOOD.replace("[\"10.0.0.2:7450\"]", "[\"10.0.0.2\"]"), vec!["member[1].peer", "10.0.0.2"]),
            (GOOD.replace("[\"10.0.0.2:7450\"]", "[]"), vec!["member[1].peer"]),
            (GOOD.replace("10.0.0.2:7450", "10.0.0.2:0"), vec!["member[1].peer", "10.0.0.2:0"]),
            (GOOD.replace("10.0.0.2:7450", "10.0.0.1:7450"), vec!["member[1].peer", "second time"]),
            (GOOD.replace("http://10.0.0.1:8080/", "http://"), vec!["member[0].url", "http://"]),
            (format!("{GOOD}[timing]\nfailback = \"soon\""), vec!["timing.failback", "soon"]),
            (format!("{GOOD}[limits]\nmaster_wait = \"2h\""), vec!["limits.master_wait", "2h"]),
            (GOOD.replace("127.0.0.1:8080", "0.0.0.0:8080"), vec!["listen.http", "insecure"]),
            (GOOD.replace("127.0.0.1:8080", "nowhere"), vec!["listen.http", "nowhere"]),
            (format!("{GOOD}[timing]\nlease = \"200ms\""), vec!["timing.lease", "200ms", "three heartbeats"]),
            (format!("{GOOD}[timing]\nheartbeat = \"0ms\""), vec!["timing.heartbeat", "0ms"]),
            (format!("{GOOD}[timing]\nsync_timeout = \"100ms\""), vec!["timing.sync_timeout"]),
            (format!("{GOOD}[timing]\nbeat = \"1s\""), vec!["beat", "unknown field"]),
            (
                format!("{GOOD}[replication]\nsync_backups = 2"),
                vec!["replication.sync_backups", "2 data members"],
            ),
            (format!("{GOOD}[replication]\nmin_sync_backups = 2"), vec!["replication.min_sync_backups"]),
            (format!("{GOOD}[replication]\nbuffer = \"lots\""), vec!["replication.buffer", "lots"]),
            (format!("{GOOD}[limits]\nrows = 0"), vec!["limits.rows"]),
            (
                format!("{GOOD}[limits]\nrequests_per_second = 1000001"),
                vec!["limits.requests_per_second", "1000001", "0 for no limit"],
            ),
            (
                format!("{GOOD}[limits]\nresult = \"16MiB\"\nanswers = \"8MiB\""),
                vec!["limits.answers", "8MiB", "from 16777216"],
            ),
            (
                format!("{GOOD}[limits]\nwatchers = 2048"),
                vec!["limits.watchers", "2048", "limits.connections"],
            ),
            (GOOD.replace("[listen]", "[listen]\ncors = [\"panel\"]"), vec!["listen.cors", "panel"]),
            (
                GOOD.replace("[listen]", "[listen]\ncors = [\"*\", \"http://a\"]"),
                vec!["listen.cors", "\"*\""],
            ),
            (format!("{GOOD}[hooks]\nrequired = true"), vec!["hooks.required", "hooks.on_promote"]),
            (format!("{GOOD}[hooks]\non_demote = [\"\"]"), vec!["hooks.on_demote", "a program"]),
            (format!("{GOOD}[hooks]\ntimeout = \"1h\""), vec!["hooks.timeout", "1h"]),
            (format!("{GOOD}[service]\nstop_time = \"900ms\""), vec!["service.stop_time", "to 750ms"]),
            (format!("{GOOD}[log]\nformat = \"xml\""), vec!["log.format", "xml"]),
            (format!("{GOOD}[discovery]\naddresses = [\"here\"]"), vec!["discovery.addresses", "here"]),
            (
                format!("{GOOD}[discovery]\nannounce = true\naddresses = {:?}", vec!["::1"; 17]),
                vec!["discovery.addresses", "17 addresses"],
            ),
            (
                format!("{}[discovery]\nannounce = true", GOOD.replace("\"pc-1\"\nkey", "\"pc-2\"\nkey")),
                vec!["discovery.announce", "a url"],
            ),
            (format!("{GOOD}[log]\nmax_files = 3"), vec!["log.directory", "nothing"]),
            (format!("{GOOD}[log]\ndirectory = \"l\"\nmax_files = 0"), vec!["log.max_files", "from 1 to"]),
            (format!("{GOOD}[log]\ndirectory = \"l\"\nmax_size = \"1B\""), vec!["log.max_size", "1B"]),
            (format!("{GOOD}[backup]\nkeep = 3"), vec!["backup.directory", "nothing"]),
            (format!("{GOOD}[backup]\ndirectory = \"data\""), vec!["backup.directory", "another directory"]),
            (format!("{GOOD}[backup]\ndirectory = \"b\"\nkeep = 0"), vec!["backup.keep", "from 1 to"]),
            (format!("{GOOD}[backup]\ndirectory = \"b\"\nevery = \"0s\""), vec!["backup.every", "0s"]),
            (
                format!("{GOOD}[backup]\ndirectory = \"b\"\nevery = \"30s\"\nincrements = \"30s\""),
                vec!["backup.increments", "30s", "less than backup.every"],
            ),
            (
                format!("{GOOD}[backup]\ndirectory = \"b\"\nincrements = \"2h\""),
                vec!["backup.increments", "2h"],
            ),
            (GOOD.replace("key = \"AAEC", "key = \"x"), vec!["key", "32 bytes"]),
            (GOOD.replace("key = ", "key_file = "), vec!["key_file"]),
            (GOOD.replace("rank = 1", "rank = \"one\""), vec!["rank", "line"]),
            (String::new(), vec!["cluster"]),
        ];
        for (text, names) in cases {
            let error = parse(&text).unwrap_err().to_string();
            for name in names {
                assert!(error.contains(name), "expected {name:?} in {error}");
            }
            assert!(error.contains("tanist.toml"), "{error}");
        }
    }

    #[test]
    fn data_directory_too_long_for_windows_is_named() {
        let fields = Fields { path: Path::new("tanist.toml") };
        let check =
            |count: usize| check_length(&fields, Path::new(&format!(r"C:\{}", "ж".repeat(count - 3))));
        check(215).unwrap();
        let error = check(216).unwrap_err().to_string();
        for part in ["data_dir", "216 characters", "at most 215"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn secret_is_not_repeated_in_errors() {
        for broken in
            [GOOD.replace("key = \"AAEC", "key = \"SECRET"), GOOD.replace("key = \"AAEC", "key = SECRET")]
        {
            let error = parse(&broken).unwrap_err().to_string();
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
