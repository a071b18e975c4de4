//! `tanist bench`: load on a running cluster, measured against what its disk and network do without Tanist.
//!
//! Owns the order of the measurements and the benchmark's tables; all load is bounded in connections and in time. Never
//! touches other tables. Read `load.rs` for the hot path, `failover.rs` for the kills.

mod failover;
pub(super) mod histogram;
mod load;
pub(super) mod probe;
mod report;
mod writers;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::json;
use tanist_api::{Access, Cluster, ExecuteRequest, NewToken, QueryRequest, Statement};
use tanist_client::Client;

use self::{
    failover::{DevCluster, Removal},
    load::Work,
    report::{Disk, Quantiles, Report, Run},
};
use super::{Connection, Usage};

const CREATE: &str = "CREATE TABLE bench_items(id INTEGER PRIMARY KEY, body TEXT NOT NULL)";
const DROP: &str = "DROP TABLE bench_items";
const FILL: &str = "WITH RECURSIVE n(i) AS (VALUES(?1) UNION ALL SELECT i + 1 FROM n WHERE i < ?2) \
     INSERT INTO bench_items(id, body) SELECT i, hex(randomblob(50)) FROM n";
const UPSERT: &str =
    "INSERT INTO bench_items(id, body) VALUES (?, ?) ON CONFLICT(id) DO UPDATE SET body = excluded.body";
const SELECT: &str = "SELECT body FROM bench_items WHERE id = ?";
/// Rows in one transaction of the prefill.
const FILL_STEP: u32 = 1000;
/// Different requests, sent in turn.
const BODIES: u32 = 4096;
/// How long the HTTP exchange without a write is measured.
const EXCHANGE_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    connection: Connection,
    /// The directory of a running `tanist dev --dir`: gives hosts, the disk to measure, and the process to kill.
    #[arg(long)]
    dev_dir: Option<PathBuf>,
    /// Numbers of connections to measure, one after the other; 1 to 4096 each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: Vec<u16>,
    /// Seconds for each number of connections, 1 to 600.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Measure strong reads too.
    #[arg(long)]
    reads: bool,
    /// Rows in the table before the load; writes and reads fall on them at random.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    /// An idempotency key with each write, as the client library sends: costs a row more for each.
    #[arg(long)]
    keys: bool,
    /// A directory on the disk to compare with: its fsync is measured before and after the load.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Instead of the load: kill the master under writes, see how long none is acknowledged, and check that none is lost.
    /// Needs --dev-dir or --kill-command.
    #[arg(long)]
    failover: bool,
    /// As --failover, but the throne is handed over instead: planned, without a kill.
    #[arg(long, conflicts_with = "failover")]
    handover: bool,
    /// How often the master is killed or demoted.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Writers meanwhile.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    writers: u16,
    /// A shell command that kills the master, with {master} for its name. Something must start it again.
    #[arg(long, requires = "failover", conflicts_with = "dev_dir")]
    kill_command: Option<String>,
    /// Keep the benchmark's tables.
    #[arg(long)]
    keep: bool,
    /// Markdown tables instead of text.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

pub(super) async fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let hosts = match &args.dev_dir {
        Some(dir) => DevCluster::read(dir)?.hosts(),
        None => args.connection.hosts()?,
    };
    let builder = args.connection.builder()?.hosts(&hosts);
    let client = builder.clone().build()?;
    let cluster = client.cluster().await?;
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        system: std::env::consts::OS,
        cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        machines: cluster.members.len(),
        copies: cluster.sync_set.len(),
        idempotency_keys: args.keys || args.failover || args.handover,
        rows: args.rows,
        disk: None,
        loopback: None,
        exchange: None,
        writes: vec![],
        reads: vec![],
        write_ratio: None,
        failover: None,
    };
    if args.failover || args.handover {
        let removal = match (&args.dev_dir, &args.kill_command) {
            _ if args.handover => Removal::Handover,
            (Some(dir), _) => Removal::Dev(dir.clone()),
            (None, Some(command)) => Removal::Command(command.clone()),
            (None, None) => {
                let why = "--failover: needs --dev-dir (of `tanist dev --dir D --restart`) or --kill-command";
                return Err(Usage(why.to_owned()).into());
            }
        };
        let found =
            failover::failover(&builder, &removal, args.rounds, args.writers.into(), args.keep).await?;
        report.failover = Some(found);
    } else {
        measure(args, &client, &cluster, &mut report).await?;
    }
    if args.connection.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if args.markdown {
        print!("{}", report.markdown());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

async fn measure(
    args: &BenchArgs,
    client: &Client,
    cluster: &Cluster,
    report: &mut Report,
) -> anyhow::Result<()> {
    let disk = args.data_dir.clone().or_else(|| args.dev_dir.clone());
    let before = match &disk {
        Some(dir) => Some(
            blocking({
                let dir = dir.clone();
                move || probe::fsync(&dir)
            })
            .await?,
        ),
        None => None,
    };
    report.loopback = Some(Quantiles::of(&blocking(probe::round_trip).await?));
    fill(client, args.rows).await?;
    // The table exists from here on: it is dropped whatever happens.
    let measured = with_token(args, client, cluster, report).await;
    if !args.keep {
        let request = ExecuteRequest { statements: vec![Statement::new(DROP)], transaction: true };
        let dropped = client.execute(request).await.context("drop the table of the benchmark");
        measured?;
        dropped?;
    } else {
        measured?;
    }
    if let (Some(dir), Some(before)) = (disk, before) {
        let after = blocking({
            let dir = dir.clone();
            move || probe::fsync(&dir)
        })
        .await?;
        report.disk = Some(Disk::new(dir, &before, &after, probe::FSYNC_TIME));
    }
    report.derive();
    Ok(())
}

/// The load goes by a token: a proof of the cluster key is good for one request. With `--config` it is one of the measurement's own.
async fn with_token(
    args: &BenchArgs,
    client: &Client,
    cluster: &Cluster,
    report: &mut Report,
) -> anyhow::Result<()> {
    if args.connection.config.is_none() {
        let token = args.connection.token.as_ref().map(|token| token.trim());
        return load_all(args, client, cluster, report, token).await;
    }
    let name = format!("bench-{}", std::process::id());
    let new = NewToken { expires_in_seconds: Some(24 * 3600), ..NewToken::new(&name, Access::Write) };
    let made = client.make_token_as(&new).await.context("make a token for the measurement")?;
    let measured = load_all(args, client, cluster, report, Some(&made.token)).await;
    let revoked = client.revoke_token(&name).await.context("revoke the token of the measurement");
    measured?;
    revoked
}

async fn load_all(
    args: &BenchArgs,
    client: &Client,
    cluster: &Cluster,
    report: &mut Report,
    token: Option<&str>,
) -> anyhow::Result<()> {
    let mut master = cluster.master_urls.first().cloned();
    if master.is_none() {
        // It was just elected: the table could be filled.
        master = client.cluster().await?.master_urls.first().cloned();
    }
    let url = master.context("the cluster's list has no URL of the master; see `tanist status`")?;
    let authorization = token.map(|token| format!("Bearer {token}").parse()).transpose()?;
    let work = |method, path, bodies, keys| Work {
        method,
        path,
        bodies,
        keys,
        authorization: authorization.clone(),
    };
    let nothing = work(Method::GET, "/healthz", Arc::new([]), false);
    eprintln!("measuring {url}: an HTTP exchange without a write");
    report.exchange = Some(Quantiles::of(&load::load(&url, &nothing, 1, EXCHANGE_TIME).await?.latencies));
    let time = Duration::from_secs(args.seconds);
    let writes = work(Method::POST, "/v1/execute", upserts(args.rows)?, args.keys);
    for &connections in &args.connections {
        eprintln!("measuring {url}: writes on {connections} connections for {time:?}");
        let tally = load::load(&url, &writes, connections.into(), time).await?;
        report.writes.push(Run::of_writes(connections.into(), &tally));
    }
    if args.reads {
        let reads = work(Method::POST, "/v1/query", selects(args.rows)?, false);
        for &connections in &args.connections {
            eprintln!("measuring {url}: strong reads on {connections} connections for {time:?}");
            let tally = load::load(&url, &reads, connections.into(), time).await?;
            report.reads.push(Run::new(connections.into(), &tally));
        }
    }
    Ok(())
}

/// Runs what blocks beside the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a measurement panicked")?
}

/// Makes the table and its rows; a table that exists isn't ours to overwrite.
async fn fill(client: &Client, rows: u32) -> anyhow::Result<()> {
    let create = ExecuteRequest { statements: vec![Statement::new(CREATE)], transaction: true };
    client.execute(create).await.with_context(|| {
        format!("make the benchmark's table (left by an earlier run? `tanist execute \"{DROP}\"`)")
    })?;
    for first in (1..=rows).step_by(FILL_STEP as usize) {
        let last = rows.min(first + FILL_STEP - 1);
        let insert = Statement::with(FILL, vec![json!(first), json!(last)]);
        let insert = ExecuteRequest { statements: vec![insert], transaction: true };
        client.execute(insert).await.context("fill the benchmark's table")?;
    }
    Ok(())
}

/// The same row numbers on every run (xorshift32).
fn numbers(rows: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut random = 0x9E37_79B9_u32;
    (0..BODIES).map(move |_| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        (random % rows + 1, random)
    })
}

fn upserts(rows: u32) -> anyhow::Result<Arc<[Bytes]>> {
    let body = |(id, random): (u32, u32)| {
        // 100 characters, different each time.
        let text = format!("{random:08x}-{id:07}").repeat(7).chars().take(100).collect::<String>();
        let upsert = Statement::with(UPSERT, vec![json!(id), json!(text)]);
        serde_json::to_vec(&ExecuteRequest { statements: vec![upsert], transaction: true }).map(Bytes::from)
    };
    numbers(rows).map(body).collect::<Result<_, _>>().context("prepare the writes")
}

fn selects(rows: u32) -> anyhow::Result<Arc<[Bytes]>> {
    let body = |(id, _): (u32, u32)| {
        let select = Statement::with(SELECT, vec![json!(id)]);
        serde_json::to_vec(&QueryRequest { statements: vec![select] }).map(Bytes::from)
    };
    numbers(rows).map(body).collect::<Result<_, _>>().context("prepare the reads")
}
