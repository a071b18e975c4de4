//! `GET /metrics`: this machine and its view of the cluster as OpenMetrics text, which Prometheus reads.
//!
//! Everything is taken from the view at the moment of the question; only answers are counted on the way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};
use tanist_api::{Role, code};
use tanist_replication::Position;

use super::{ApiError, AppState};
use crate::clock;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Answers by their class.
#[derive(Debug, Default)]
pub(super) struct Answers([AtomicU64; 5]);

impl Answers {
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(count) = self.0.get(class) {
            count.fetch_add(1, Relaxed);
        }
    }
}

type Labels = Vec<(&'static str, String)>;

pub(super) async fn get(State(state): State<AppState>) -> Result<Response, ApiError> {
    let inner = &*state.0;
    let (view, now) = (inner.gate.view(), clock::now_ns());
    let cluster = &view.cluster;
    let mut registry = Registry::with_prefix("tanist");
    let info = Info::new(vec![
        ("cluster", cluster.cluster.clone()),
        ("member", cluster.member.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    registry.register("machine", "This machine", info);
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    let txid = |text: &str| text.parse::<Position>().map_or(0, |position| position.txid.0);
    let serves = inner.gate.is_open(now).is_some();
    gauge("term", "Newest reign this machine knows", cluster.term);
    gauge("serving_master", "1 while this machine answers as master, under its lease", serves.into());
    gauge("master_known", "1 while a master is known here", cluster.master.is_some().into());
    gauge("writable", "1 while writes are taken, as far as this machine knows", cluster.writable.into());
    gauge("stored_txid", "Newest transaction of this replica, on disk", inner.gate.stored().borrow().txid.0);
    gauge(
        "acknowledged_txid",
        "Newest acknowledged transaction this machine knows",
        txid(&cluster.acknowledged),
    );
    gauge(
        "store_stuck",
        "1 while the store thread is stuck in one piece of work",
        inner.writer.is_stuck(now).into(),
    );
    let stalls = inner.gate.stalls();
    let lasts = stalls.driver(now).or_else(|| stalls.unfit(now)).map_or(0, |stall| stall.lasts.as_secs());
    gauge(
        "stalled_seconds",
        "For how long the disk, or a thread, hasn't gone on beyond health.stall; 0: all do",
        lasts,
    );
    let readers = inner.readers.health(now);
    gauge(
        "readers_stuck",
        "Reader threads that are stuck in a statement past its limit",
        readers.stuck as u64,
    );
    let usage = tanist_store::sql_usage();
    gauge("sql_memory_bytes", "Memory that users' SQL takes beyond the threads' own parts", usage.memory);
    gauge("sql_temp_bytes", "Temporary files of SQL", usage.temp);
    let fresh = view.fresh_as_of_ns.map_or(u64::MAX, |at| now.saturating_sub(at) / 1_000_000);
    if fresh != u64::MAX {
        gauge("staleness_milliseconds", "How long ago this replica is known to have been current", fresh);
    }
    if let Some(secured) = &inner.tls {
        let expires = u64::try_from(secured.borrow().expires).unwrap_or(0);
        gauge(
            "tls_certificate_end_seconds",
            "When the certificate for clients ends, in seconds since 1970",
            expires,
        );
    }
    gauge(
        "sync_set_members",
        "Members that must have a write on disk before it is answered",
        cluster.sync_set.len() as u64,
    );
    let members = [
        ("member_reachable", "1 while this machine has a link to the member"),
        ("member_in_sync", "1 while the member holds every write, absent while nobody knows"),
        ("member_healthy", "0 while the member reports that it isn't fit to reign"),
        ("member_master", "1 for the master"),
        ("member_behind_transactions", "How far the member is behind the master; known to the master"),
    ];
    let families: Vec<Family<Labels, Gauge>> = members
        .iter()
        .map(|(name, help)| {
            let family = Family::<Labels, Gauge>::default();
            registry.register(*name, *help, family.clone());
            family
        })
        .collect();
    for member in &cluster.members {
        let labels = vec![("member", member.id.clone())];
        let values = [
            member.reachable.map(i64::from),
            member.in_sync.map(i64::from),
            Some(member.unhealthy.is_none().into()),
            Some((member.role == Role::Master).into()),
            member.lag.map(|lag| i64::try_from(lag).unwrap_or(i64::MAX)),
        ];
        for (family, value) in families.iter().zip(values) {
            if let Some(value) = value {
                family.get_or_create(&labels).set(value);
            }
        }
    }
    let replaced = Counter::<u64>::default();
    replaced.inc_by(readers.replaced);
    registry.register("readers_replaced", "Reader threads that were stuck and replaced", replaced);
    let answers = Family::<Labels, Counter>::default();
    for (class, count) in CLASSES.iter().zip(&inner.answers.0) {
        answers.get_or_create(&vec![("class", (*class).to_owned())]).inc_by(count.load(Relaxed));
    }
    registry.register("http_answers", "Answers by status class, since the start", answers);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, "metrics can't be written")
    })?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
