//! Takes the throne from the master again and again under load, by a kill or by a handover: how long is no write
//! acknowledged, and is every acknowledged write there at the end, once, on every machine?
//!
//! Owns the rounds and the check. Never touches a machine but so; waits until the cluster is whole again before the
//! next one. Read `writers.rs` for the load.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::json;
use tanist_api::{Cluster, ExecuteRequest, QueryRequest, Statement};
use tanist_client::{Builder, Client, Consistency};

use super::{
    report::{Failover, Round},
    writers::{self, Record, Writers},
};

/// The cluster must be whole for so long before a round.
const QUIET: Duration = Duration::from_secs(1);
/// And must be whole again after so long.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// A call of a writer may take so long: longer than any failover.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// How the master loses its throne.
#[derive(Debug, Clone)]
pub(super) enum Removal {
    /// By the process id in the directory's `cluster.json`, which `tanist dev --restart` keeps current.
    Dev(PathBuf),
    /// By a shell command with `{master}` for the machine's name.
    Command(String),
    /// By a planned handover to its heir.
    Handover,
}

/// `cluster.json` of `tanist dev`, as far as needed here.
#[derive(Debug, Deserialize)]
pub(super) struct DevCluster {
    pub(super) machines: Vec<DevMachine>,
}

/// One machine of it.
#[derive(Debug, Deserialize)]
pub(super) struct DevMachine {
    id: String,
    pid: Option<u32>,
    pub(super) http: String,
}

impl DevCluster {
    pub(super) fn read(dir: &Path) -> anyhow::Result<DevCluster> {
        let path = dir.join("cluster.json");
        let hint =
            || format!("read {} (written by `tanist dev --dir {} --restart`)", path.display(), dir.display());
        let text = std::fs::read_to_string(&path).with_context(hint)?;
        serde_json::from_str(&text).with_context(hint)
    }

    pub(super) fn hosts(&self) -> String {
        self.machines.iter().map(|machine| machine.http.clone()).collect::<Vec<_>>().join(",")
    }
}

/// Runs the rounds.
pub(super) async fn failover(
    builder: &Builder,
    removal: &Removal,
    rounds: u32,
    writer_count: usize,
    keep: bool,
) -> anyhow::Result<Failover> {
    let builder = builder.clone().deadline(WRITE_LIMIT);
    let client = builder.clone().build()?;
    let mut view = whole(&client, 0, 0).await?;
    if view.members.iter().filter(|member| member.rank > 0).count() < 2 {
        bail!("--failover, --handover: found a cluster of one data machine, expected at least two");
    }
    writers::create(&client).await?;
    let writers = Writers::start(&client, writer_count);
    let mut done = vec![];
    for number in 1..=rounds {
        let ended = round(&client, &writers, removal, &view).await;
        let (round, after) = ended.with_context(|| format!("round {number} of {rounds}"))?;
        view = after;
        eprintln!(
            "round {number} of {rounds}: {} {}, {} follows, {:.0} ms without an acknowledged write",
            removal.verb(),
            round.killed,
            round.heir,
            round.gap_ms
        );
        done.push(round);
    }
    let records = writers.finish().await?;
    let after = whole(&client, view.sync_set.len(), view.term).await?;
    let acknowledged = records.iter().map(Record::acknowledged).sum();
    let unknown = records.iter().map(|record| record.unknown.len() as u64).sum();
    for member in after.members.iter().filter(|member| member.rank > 0) {
        let url =
            member.urls.first().with_context(|| format!("{} has no URL in the cluster's list", member.id))?;
        check(&builder, &member.id, url, &after.acknowledged, &records).await?;
    }
    if !keep {
        let drop = ExecuteRequest { statements: vec![Statement::new(writers::DROP)], transaction: true };
        client.execute(drop).await.context("drop the table of the benchmark")?;
    }
    Ok(Failover::new(matches!(removal, Removal::Handover), done, acknowledged, unknown, writer_count))
}

/// One kill, until the cluster is whole again: what the old master's return costs belongs to the round.
async fn round(
    client: &Client,
    writers: &Writers,
    removal: &Removal,
    before: &Cluster,
) -> anyhow::Result<(Round, Cluster)> {
    let killed = before.member.clone();
    writers.begin_round();
    remove(client, removal, &killed, before).await?;
    let after = whole(client, before.sync_set.len(), before.term + 1).await?;
    let whole_at = Instant::now();
    while !writers.acknowledged_after(whole_at) {
        writers.check()?;
        if whole_at.elapsed() > WHOLE_LIMIT {
            bail!(
                "no write acknowledged for {WHOLE_LIMIT:?} although the cluster is whole; see `tanist status` and the machines' logs"
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gap_ms = writers.longest_gap().as_secs_f64() * 1000.0;
    Ok((Round { killed, heir: after.member.clone(), gap_ms }, after))
}

/// Waits until, for a while without interruption, every machine is reached and gets the stream, and so many hold every
/// acknowledged write, in this term or a later one; gives the master's view.
async fn whole(client: &Client, copies: usize, term: u64) -> anyhow::Result<Cluster> {
    let until = Instant::now() + WHOLE_LIMIT;
    let mut since = Instant::now();
    loop {
        let missing = match master_view(client).await {
            Ok(view) if view.term < term => "the killed master still reigns".to_owned(),
            Ok(view) => match lacks(&view, copies) {
                None if since.elapsed() >= QUIET => return Ok(view),
                None => String::new(),
                Some(missing) => missing,
            },
            Err(error) => error.to_string(),
        };
        let now = Instant::now();
        if !missing.is_empty() {
            since = now;
        }
        if now > until {
            bail!(
                "the cluster isn't whole after {WHOLE_LIMIT:?}: {missing}. Killed machines must be started again: by `tanist dev --restart`, or a supervisor"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn master_view(client: &Client) -> Result<Cluster, tanist_client::Error> {
    let view = client.cluster().await?;
    let mut last = None;
    for url in &view.master_urls {
        match client.cluster_of(url).await {
            Ok(view) => return Ok(view),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(view), Err)
}

/// What isn't as it should be.
fn lacks(view: &Cluster, copies: usize) -> Option<String> {
    if view.master.as_ref() != Some(&view.member) || !view.writable {
        return Some("no serving master".to_owned());
    }
    let data = view.members.iter().filter(|member| member.rank > 0);
    let wanted = copies.max(2.min(data.count()));
    for member in view.members.iter().filter(|member| member.id != view.member) {
        if member.reachable != Some(true) {
            return Some(format!("{} isn't reached", member.id));
        }
        if member.rank > 0 && member.progress.as_deref() != Some("stream") {
            return Some(format!(
                "{} isn't up to date ({})",
                member.id,
                member.progress.as_deref().unwrap_or("?")
            ));
        }
    }
    (view.sync_set.len() < wanted)
        .then(|| format!("{} machines hold every acknowledged write, expected {wanted}", view.sync_set.len()))
}

impl Removal {
    fn verb(&self) -> &'static str {
        match self {
            Removal::Dev(_) | Removal::Command(_) => "killed",
            Removal::Handover => "demoted",
        }
    }
}

async fn remove(client: &Client, removal: &Removal, master: &str, view: &Cluster) -> anyhow::Result<()> {
    match removal {
        Removal::Dev(dir) => {
            let cluster = DevCluster::read(dir)?;
            let machine = cluster.machines.iter().find(|machine| machine.id == master);
            let machine = machine
                .with_context(|| format!("{master} reigns, but isn't in {}/cluster.json", dir.display()))?;
            let ours =
                view.members.iter().any(|member| member.id == master && member.urls.contains(&machine.http));
            let Some(pid) = machine.pid.filter(|_| ours) else {
                bail!("{}/cluster.json has no process of this cluster's {master}", dir.display());
            };
            kill_process(pid)
        }
        Removal::Handover => {
            client.demote(master).await.with_context(|| format!("demote {master}"))?;
            Ok(())
        }
        Removal::Command(template) => {
            let command = template.replace("{master}", master);
            let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
            let status = std::process::Command::new(shell).arg(flag).arg(&command).status();
            let status = status.with_context(|| format!("run {command:?}"))?;
            if !status.success() {
                bail!("--kill-command: {command:?} ended with {status}");
            }
            Ok(())
        }
    }
}

#[cfg(unix)]
fn kill_process(pid: u32) -> anyhow::Result<()> {
    // The file may be old and the number another program's by now.
    if let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm"))
        && name.trim() != "tanist"
    {
        bail!(
            "process {pid} is {:?}, not tanist: cluster.json is old; is `tanist dev` still running?",
            name.trim()
        );
    }
    let id = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let id = id.with_context(|| format!("process {pid}"))?;
    rustix::process::kill_process(id, rustix::process::Signal::KILL)
        .with_context(|| format!("kill process {pid}"))
}

#[cfg(not(unix))]
fn kill_process(pid: u32) -> anyhow::Result<()> {
    let status = std::process::Command::new("taskkill").args(["/F", "/PID", &pid.to_string()]).status();
    let status = status.with_context(|| format!("kill process {pid}"))?;
    if status.success() { Ok(()) } else { bail!("kill process {pid}: {status}") }
}

/// Every acknowledged row stands in this machine's replica, none twice.
async fn check(
    builder: &Builder,
    id: &str,
    url: &str,
    position: &str,
    records: &[Record],
) -> anyhow::Result<()> {
    let client = builder.clone().hosts(url).build()?;
    for (writer, record) in records.iter().enumerate() {
        let except = json!(record.unknown).to_string();
        let statement = Statement::with(
            writers::COUNT,
            vec![json!(writer), json!(record.next), json!(except), json!(writer)],
        );
        let request = QueryRequest { statements: vec![statement] };
        let read = client.query(request, Consistency::Local, Some(position)).await;
        let read = read.with_context(|| format!("check the replica of {id}"))?;
        let counts = read.results.first().and_then(|result| result.rows.first());
        let number =
            |column: usize| counts.and_then(|row| row.get(column)).and_then(serde_json::Value::as_u64);
        let (Some(found), Some(rows), Some(distinct)) = (number(0), number(1), number(2)) else {
            bail!("check the replica of {id}: found {counts:?}, expected three counts");
        };
        let expected = record.acknowledged();
        if found != expected {
            bail!(
                "{id} holds {found} of {expected} acknowledged writes of writer {writer}: {} are LOST",
                expected.abs_diff(found)
            );
        }
        if rows != distinct {
            bail!("{id} holds {} writes of writer {writer} twice", rows - distinct);
        }
    }
    Ok(())
}
