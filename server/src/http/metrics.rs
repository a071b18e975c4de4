//! `GET /metrics`: this machine and its view of the cluster, for Prometheus; as OpenMetrics text to who asks for that, else in
//! the older text format.
//!
//! What is counted on the way is in `measures.rs`; the rest is taken from the view at the moment of the question. Waits for no
//! disk. `docs/metrics.md` is made from what is registered here.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::ConstCounter, family::Family, gauge::ConstGauge, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use tanist_api::{Cluster, ClusterMember, Role, code};
use tanist_replication::Position;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{ApiError, AppState, Inner};
use crate::{clock, usage};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const ROLES: [(&str, Role); 4] = [
    ("master", Role::Master),
    ("backup", Role::Backup),
    ("candidate", Role::Candidate),
    ("witness", Role::Witness),
];

type Labels = Vec<(&'static str, String)>;

pub(super) async fn get(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let mut text = String::new();
    let written = registries(&state.0).iter().try_for_each(|registry| encode_registry(&mut text, registry));
    written.and_then(|()| encode_eof(&mut text)).map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, "metrics can't be written")
    })?;
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = accepted.flat_map(|value| value.split(',')).any(|media| {
        let media = media.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("application/openmetrics-text")
    });
    Ok(if open {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
    } else {
        ([(header::CONTENT_TYPE, TEXT)], as_old_text(&text)).into_response()
    })
}

/// Collects what is told at one moment.
struct Told<'r>(&'r mut Registry);

impl Told<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn gauge_in(&mut self, name: &str, help: &str, unit: Unit, value: u64) {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register_with_unit(name, help, unit, gauge);
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) {
        self.0.register_with_unit(name, help, Unit::Seconds, ConstGauge::new(value));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    fn family(&mut self, name: &str, help: &str) -> Family<Labels, Gauge> {
        let family = Family::<Labels, Gauge>::default();
        self.0.register(name, help, family.clone());
        family
    }
}

/// All metrics with their values now: Tanist's own, and those of the process under the names that every program has.
fn registries(inner: &Inner) -> [Registry; 2] {
    let (view, now) = (inner.gate.view(), clock::now_ns());
    let cluster = &view.cluster;
    let mut registry = Registry::with_prefix("tanist");
    let info = Info::new(vec![
        ("cluster", cluster.cluster.clone()),
        ("member", cluster.member.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    registry.register("machine", "This machine", info);
    inner.measures.register(&mut registry);
    let mut told = Told(&mut registry);
    leadership(&mut told, inner, cluster, now);
    if let Some(at) = view.fresh_as_of_ns {
        let age = std::time::Duration::from_nanos(now.saturating_sub(at));
        let help = "How long ago this replica is known to have been current";
        told.seconds("staleness", help, age.as_secs_f64());
    }
    members(&mut told, cluster);
    load(&mut told, inner, now);
    disk(&mut told, inner);
    [registry, process()]
}

fn leadership(told: &mut Told<'_>, inner: &Inner, cluster: &Cluster, now: u64) {
    let txid = |text: &str| text.parse::<Position>().map_or(0, |position| position.txid.0);
    let roles = told.family("role", "1 for what this machine is now");
    for (name, role) in ROLES {
        roles.get_or_create(&vec![("role", name.to_owned())]).set((cluster.role == role).into());
    }
    let serves = inner.gate.is_open(now).is_some();
    told.gauge("term", "Newest term this machine knows", cluster.term);
    told.gauge("serving_master", "1 while this machine answers as master, under its lease", serves.into());
    told.gauge("master_known", "1 while a master is known here", cluster.master.is_some().into());
    let help = "1 while writes are taken, as far as this machine knows";
    told.gauge("writable", help, cluster.writable.into());
    let stored = inner.gate.stored().borrow().txid.0;
    told.gauge("stored_txid", "Newest transaction of this replica, on disk", stored);
    let help = "Newest acknowledged transaction this machine knows";
    told.gauge("acknowledged_txid", help, txid(&cluster.acknowledged));
    let help = "Members that must have a write on disk before it is answered";
    told.gauge("sync_set_members", help, cluster.sync_set.len() as u64);
}

/// What it knows of a member under each name; `None`: nobody knows now.
type OfMember = (&'static str, &'static str, fn(&ClusterMember) -> Option<i64>);

const OF_MEMBER: [OfMember; 6] = [
    ("member_reachable", "1 while this machine has a link to the member", |member| {
        member.reachable.map(i64::from)
    }),
    ("member_in_sync", "1 while the member holds every write, absent while nobody knows", |member| {
        member.in_sync.map(i64::from)
    }),
    ("member_healthy", "0 while the member reports that it isn't fit to be master", |member| {
        Some(member.unhealthy.is_none().into())
    }),
    ("member_master", "1 for the master", |member| Some((member.role == Role::Master).into())),
    (
        "member_lag_transactions",
        "Transactions that the member lacks of the master's; known to the master",
        |member| member.lag.map(|lag| i64::try_from(lag).unwrap_or(i64::MAX)),
    ),
    (
        "member_resyncing",
        "1 while the member is brought in line page by page; known to the master",
        |member| member.progress.as_ref().map(|progress| (progress == "rejoin").into()),
    ),
];

fn members(told: &mut Told<'_>, cluster: &Cluster) {
    for (name, help, value) in OF_MEMBER {
        let family = told.family(name, help);
        for member in &cluster.members {
            if let Some(value) = value(member) {
                family.get_or_create(&vec![("member", member.id.clone())]).set(value);
            }
        }
    }
}

fn load(told: &mut Told<'_>, inner: &Inner, now: u64) {
    let stuck = inner.writer.is_stuck(now);
    told.gauge("store_stuck", "1 while the store thread is stuck in one piece of work", stuck.into());
    let stalls = inner.gate.stalls();
    let lasts =
        stalls.driver(now).or_else(|| stalls.unfit(now)).map_or(0.0, |stall| stall.lasts.as_secs_f64());
    let help = "For how long the disk, or a thread, hasn't gone on beyond health.stall; 0: all do";
    told.seconds("stalled", help, lasts);
    told.gauge("queued_writes", "Writes that wait for a transaction", inner.writer.queued() as u64);
    let limits = inner.limits();
    let under_way = limits.concurrent_requests.saturating_sub(inner.requests.available_permits());
    told.gauge("http_requests_under_way", "Requests that are being answered", under_way as u64);
    let watchers = limits.watchers.saturating_sub(inner.watchers.available_permits());
    told.gauge("watchers", "Streams of events that are open", watchers as u64);
    let readers = inner.readers.health(now);
    let help = "Reader threads that are stuck in a statement past its limit";
    told.gauge("readers_stuck", help, readers.stuck as u64);
    let help = "Reader threads that were stuck and replaced";
    told.counter("readers_replaced", help, readers.replaced);
    let usage = tanist_store::sql_usage();
    let help = "Memory that users' SQL takes beyond the threads' own parts";
    told.gauge_in("sql_memory", help, Unit::Bytes, usage.memory);
    told.gauge_in("sql_temp", "Temporary files of SQL", Unit::Bytes, usage.temp);
}

fn disk(told: &mut Told<'_>, inner: &Inner) {
    let (database, log) = inner.measures.sizes();
    told.gauge_in("database", "Size of this replica", Unit::Bytes, database);
    told.gauge_in("wal", "Size of its write-ahead log that is in use", Unit::Bytes, log);
    if let Some(free) = inner.measures.free() {
        told.gauge_in("disk_free", "Room left where the data directory is", Unit::Bytes, free);
    }
    let made = inner.scheduled.as_ref().and_then(|board| board.lock().made_at.clone());
    if let Some(made) = made.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok()) {
        let help =
            "When the newest snapshot was made that this machine took by itself, in seconds since 1970";
        told.gauge_in(
            "snapshot_time",
            help,
            Unit::Seconds,
            u64::try_from(made.unix_timestamp()).unwrap_or(0),
        );
    }
    if let Some(secured) = &inner.tls {
        let expires = u64::try_from(secured.borrow().expires).unwrap_or(0);
        let help = "When the certificate for clients ends, in seconds since 1970";
        told.gauge_in("tls_certificate_end", help, Unit::Seconds, expires);
    }
}

fn process() -> Registry {
    let mut registry = Registry::with_prefix("process");
    let Some(usage) = usage::usage() else { return registry };
    let mut told = Told(&mut registry);
    told.gauge_in("resident_memory", "Memory of this process", Unit::Bytes, usage.resident);
    told.gauge("open_fds", "Descriptors that this process has open", usage.descriptors);
    told.gauge("max_fds", "Descriptors that it may have open", usage.most_descriptors);
    told.seconds("start_time", "When this process started, in seconds since 1970", usage.started);
    let processor = ConstCounter::new(usage.processor);
    registry.register_with_unit("cpu", "Processor time of this process", Unit::Seconds, processor);
    registry
}

/// The format of before OpenMetrics: a counter's family has the name of its samples, an info is a gauge, and there are neither
/// units nor an end.
fn as_old_text(text: &str) -> String {
    let mut old = String::with_capacity(text.len());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(help) = line.strip_prefix("# HELP ") else {
            if !line.starts_with("# UNIT ") && line != "# EOF" {
                old.push_str(line);
                old.push('\n');
            }
            continue;
        };
        let (name, help) = help.split_once(' ').unwrap_or((help, ""));
        let kind = lines.next().and_then(|line| line.rsplit(' ').next()).unwrap_or("untyped");
        let (suffix, kind) = match kind {
            "counter" => ("_total", kind),
            "info" => ("_info", "gauge"),
            "unknown" => ("", "untyped"),
            _ => ("", kind),
        };
        old.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
    }
    old
}
