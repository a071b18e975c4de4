//! `tanist backup`: fetches a copy of the whole database from a running cluster.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tanist_api::{Cluster, Role};
use tanist_client::{Client, Download, Error};

use super::{Connection, Usage, status};
use crate::backup::{COPY_SUFFIX, CopyFile, Manifest};

/// A replica that lacks more transactions isn't asked as long as there is another.
const MUCH_BEHIND: u64 = 1000;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    connection: Connection,
    /// The file to write, or a folder; it has this name only once it is whole and proven.
    #[arg(long)]
    out: PathBuf,
    /// From this machine's replica. Default: a healthy backup, the master only if there is none.
    #[arg(long)]
    from: Option<String>,
    /// How hard to compress, 1 to 9. Default: 3.
    #[arg(long)]
    level: Option<u32>,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

pub(super) async fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let client = args.connection.client().await?;
    let cluster = status::seen_by_the_master(&client).await?;
    let sources = sources(&cluster, args.from.as_deref())?;
    // What was acknowledged before the copy was asked for is in it, wherever it comes from.
    let min_position = cluster.master.is_some().then_some(cluster.acknowledged.as_str());
    let (mut download, member) = begin(&client, &sources, args.level, min_position).await?;
    let path = match args.out.is_dir() {
        true => args.out.join(format!("{}-{}{COPY_SUFFIX}", cluster.cluster, download.position())),
        false => args.out.clone(),
    };
    if path.exists() && !args.force {
        return Err(Usage(format!("--out: {} exists already; --force replaces it", path.display())).into());
    }
    let begun = Instant::now();
    let manifest = fetch(&mut download, &path, args.connection.json).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (bytes, database_bytes) = (manifest.frame_bytes, manifest.database_bytes());
    if args.connection.json {
        let text = json!({
            "file": path, "member": member, "cluster": manifest.cluster, "position": manifest.position().to_string(),
            "made_at": manifest.made_at, "database_bytes": database_bytes, "bytes": bytes, "seconds": seconds,
        });
        println!("{}", serde_json::to_string_pretty(&text)?);
    } else {
        println!(
            "{}: the database of {} at {}, from {member}; {} KiB of {} KiB, in {seconds:.1} s.",
            path.display(),
            manifest.cluster,
            manifest.position(),
            bytes >> 10,
            database_bytes >> 10,
        );
    }
    Ok(())
}

/// Whom to ask, the best first, with their URLs: a healthy backup far from the throne has least to do.
fn sources(cluster: &Cluster, from: Option<&str>) -> Result<Vec<(String, String)>, Usage> {
    let place = |id: &String| cluster.chain.iter().position(|other| other == id).unwrap_or(0);
    let mut members: Vec<_> = cluster
        .members
        .iter()
        .filter(|member| member.rank > 0 && from.is_none_or(|from| member.id == from))
        .collect();
    members.sort_by_key(|member| {
        let well = member.reachable != Some(false)
            && member.unhealthy.is_none()
            && member.differs_at.is_none()
            && member.rejoin.is_none()
            && member.lag.is_some_and(|lag| lag <= MUCH_BEHIND);
        (member.role == Role::Master, !well, std::cmp::Reverse(place(&member.id)))
    });
    let sources: Vec<_> =
        members.iter().filter_map(|member| Some((member.id.clone(), member.urls.first()?.clone()))).collect();
    match (from, sources.is_empty()) {
        (_, false) => Ok(sources),
        (Some(from), true) => Err(Usage(format!(
            "--from: found {from:?}, expected a data member with a URL: {}",
            cluster.members.iter().map(|member| member.id.as_str()).collect::<Vec<_>>().join(", ")
        ))),
        (None, true) => Err(Usage("no data member of the cluster has a URL".to_owned())),
    }
}

async fn begin(
    client: &Client,
    sources: &[(String, String)],
    level: Option<u32>,
    min_position: Option<&str>,
) -> Result<(Download, String), Error> {
    let mut last = Error::Hosts("no machine to ask".to_owned());
    for (member, url) in sources {
        match client.backup_of(url, level, min_position).await {
            Ok(download) => return Ok((download, member.clone())),
            // No other machine will say anything else.
            Err(error @ Error::Problem(_)) => return Err(error),
            Err(error) => {
                tracing::debug!(%member, %error, "no copy from here");
                last = error;
            }
        }
    }
    Err(last)
}

/// Writes what comes, and proves it.
async fn fetch(download: &mut Download, path: &Path, quiet: bool) -> anyhow::Result<Manifest> {
    let mut file = CopyFile::begin(path)?;
    let bar = progress_bar(download.database_bytes(), quiet);
    bar.set_message("fetching");
    // Unpacked beside, for the progress alone: the proof comes last.
    let mut unpacked = zstd::stream::write::Decoder::new(Counter(0)).context("start zstd")?;
    while let Some(bytes) = download.chunk().await? {
        tokio::task::block_in_place(|| file.write_all(&bytes))
            .with_context(|| format!("write {}", path.display()))?;
        if unpacked.write_all(&bytes).is_err() {
            bail!("what {} sends is no copy, or was damaged on its way: nothing is kept", download.host());
        }
        bar.set_position(unpacked.get_ref().0);
    }
    bar.set_message("proving");
    let manifest = tokio::task::block_in_place(|| file.finish(|bytes| bar.set_position(bytes)))?;
    bar.finish_and_clear();
    Ok(manifest)
}

/// On a terminal; elsewhere nothing is shown.
pub(super) fn progress_bar(bytes: Option<u64>, quiet: bool) -> ProgressBar {
    let shown = !quiet && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(bytes, target);
    let template = "{msg:9} {bar:30} {percent:>3} %  {bytes} of {total_bytes}, {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Counts what would be written.
struct Counter(u64);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_backup_furthest_from_the_throne_is_asked_first_and_the_master_last() {
        let member = |id: &str, rank: u32, role: &str, lag: Option<u64>, unhealthy: Option<&str>| {
            json!({
                "id": id, "rank": rank, "role": role, "position": null, "lag": lag, "reachable": true, "in_sync": false,
                "unhealthy": unhealthy, "progress": null, "peer_addresses": [], "urls": [format!("http://{id}")],
            })
        };
        let cluster: Cluster = serde_json::from_value(json!({
            "cluster": "c", "member": "m", "role": "master", "term": 1, "master": "m", "master_urls": [],
            "suggested_host": null, "position": "1.1", "acknowledged": "1.1", "writable": true, "notice": null,
            "sync_set": [], "chain": ["m", "heir", "last", "ill", "late"],
            "members": [
                member("m", 1, "master", None, None),
                member("w", 0, "witness", None, None),
                member("ill", 4, "backup", Some(0), Some("disk")),
                member("heir", 2, "backup", Some(3), None),
                member("last", 3, "backup", Some(4), None),
                member("late", 5, "backup", Some(5000), None),
            ],
        }))
        .unwrap();
        let order: Vec<_> = sources(&cluster, None).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(order, ["last", "heir", "late", "ill", "m"]);
        assert_eq!(sources(&cluster, Some("m")).unwrap(), [("m".to_owned(), "http://m".to_owned())]);
        assert!(sources(&cluster, Some("w")).unwrap_err().0.contains("--from"));
        assert!(sources(&cluster, Some("x")).unwrap_err().0.contains("heir"));
    }
}
