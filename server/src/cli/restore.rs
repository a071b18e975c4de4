//! `tanist restore`: makes a copy the first database of a new cluster, on one of its machines.
//!
//! The database gets a reign of its own, so that no replica of the old cluster passes for one of the new, and `node.db` the
//! word that it may only found: see `crate::durable`. Nothing of the old cluster's votes and records comes with a copy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tanist_replication::{HardState, Known, SuccessionRecord, Term};
use tanist_store::{Anew, DATABASE_FILE, begin_anew, private};

use super::{
    Usage,
    verify::{inspect_copy, unpack_point},
};
use crate::{
    backup::{Manifest, Point, Until, choose, key_mark, points_in},
    config::Config,
    durable::{self, DirectoryLock, Durable},
};

/// The database while it is unpacked and changed.
const PARTIAL: &str = "restore.partial";
/// The new beginning is so many terms further, so that its term isn't one of the old cluster's later ones; and up to as
/// many again, by chance, so that two machines restored by mistake don't begin alike.
const TERMS_AHEAD: u64 = 1000;

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The copy; or a directory of copies, of which the one that leads closest to --until is taken.
    file: PathBuf,
    /// Put the increments upon the copy that lead up to here and no further: a time in UTC (2026-01-31T23:59:59Z), a
    /// position (3.812), or "newest". Default: none for a copy, "newest" for a directory.
    #[arg(long)]
    until: Option<Until>,
    /// The configuration of the machine that begins the new cluster; its data directory must be empty. The cluster's name
    /// or key must be another than the copied cluster's.
    #[arg(long, default_value = "tanist.toml")]
    config: PathBuf,
    /// Make all tokens of the copied cluster worthless in the new one.
    #[arg(long)]
    forget_tokens: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let point = find(args)?;
    check_cluster(&config, &point.manifest)?;
    if config.me().rank.is_witness() {
        return Err(Usage(format!("{} is a witness: restore on a machine that holds data", config.id)).into());
    }
    let _lock = DirectoryLock::take(&config.data_dir).context("the machine must be stopped")?;
    check_empty(&config.data_dir)?;
    let partial = config.data_dir.join(PARTIAL);
    let cleanup = Cleanup(&config.data_dir);
    let manifest = point.newest();
    unpack_point(&point, &partial, args.json)?;
    let found = inspect_copy(manifest, &partial)?;
    if let Some(problem) = found.problems.first() {
        bail!("{}: SQLite finds faults in its database: {problem}", point.copy.display());
    }
    let random = getrandom::u64().map_err(|error| anyhow::anyhow!("get random bytes: {error}"))?;
    let mut chain = [0; 16];
    getrandom::fill(&mut chain).map_err(|error| anyhow::anyhow!("get random bytes: {error}"))?;
    let ahead = TERMS_AHEAD + random % TERMS_AHEAD;
    let term = Term(found.stamp.position.term.0.saturating_add(ahead));
    let reason = format!(
        "restored from a copy of {} at {}, taken from {} at {}",
        manifest.cluster,
        manifest.position(),
        manifest.member,
        manifest.made_at
    );
    let anew = Anew {
        term,
        master: config.id.as_str(),
        reason: &reason,
        chain,
        cluster: config.cluster.as_str(),
        forget_tokens: args.forget_tokens,
    };
    let stamp = begin_anew(&partial, &anew)?;
    // The votes first: a database without them would stand for election as if it had only lost them.
    let (votes, _) = Durable::open(&config.data_dir, config.cluster.as_str(), config.id.as_str())?;
    let record = SuccessionRecord::blank(config.members.clone());
    votes.persist_restored(
        &HardState {
            term,
            voted_for: None,
            record,
            promised: std::time::Duration::ZERO,
            known: Known::default(),
        },
        &reason,
    )?;
    let database = config.data_dir.join(DATABASE_FILE);
    fs::rename(&partial, &database).with_context(|| format!("rename {}", partial.display()))?;
    durable::sync_entry(&database).with_context(|| format!("sync {}", config.data_dir.display()))?;
    votes.mark_clean()?;
    drop(votes);
    // Root restores, another account runs the machine.
    private::give_all_to_owner(&config.data_dir)
        .with_context(|| format!("give what is in {} to its owner", config.data_dir.display()))?;
    drop(cleanup);
    tell(args, &config, &point, &stamp.position.to_string())
}

/// The copy, and the increments, that are wanted.
fn find(args: &RestoreArgs) -> anyhow::Result<Point> {
    if !args.file.is_dir() {
        return Ok(match &args.until {
            None => Point::alone(&args.file)?,
            Some(until) => Point::of(&args.file)?.cut(until)?,
        });
    }
    let (points, unusable) = points_in(&args.file)?;
    for error in unusable {
        eprintln!("Passed over: {error}");
    }
    let cluster = |point: &Point| (point.manifest.cluster.clone(), point.manifest.key_mark.clone());
    if let Some(other) = points.iter().find(|point| cluster(point) != cluster(&points[0])) {
        let (one, other) = (points[0].copy.display(), other.copy.display());
        return Err(Usage(format!(
            "file: found copies of several clusters, {one} and {other}; give one of them"
        ))
        .into());
    }
    let found = points.len();
    choose(points, args.until.as_ref().unwrap_or(&Until::Newest))?
        .with_context(|| format!("{}: none of its {found} copies is old enough", args.file.display()))
}

fn tell(args: &RestoreArgs, config: &Config, point: &Point, begins_at: &str) -> anyhow::Result<()> {
    let (copied, position) = (&point.manifest.cluster, point.newest().position());
    if args.json {
        let text = json!({
            "cluster": config.cluster.as_str(), "member": config.id.as_str(), "copied_cluster": copied,
            "copied_position": position.to_string(), "copied_at": point.newest().made_at, "copy": point.copy,
            "increments": point.increments.len(), "position": begins_at,
        });
        println!("{}", serde_json::to_string_pretty(&text)?);
        return Ok(());
    }
    println!(
        "{} holds the database of {copied} at {position}, as it was at {}, and begins anew at {begins_at}.",
        config.id,
        point.newest().made_at
    );
    println!(
        "Now start it and all other members of {}, these with empty data directories: the first start needs all, and they \
         get the data from {}.",
        config.cluster, config.id
    );
    if !args.forget_tokens {
        println!("Tokens of {copied} are good in it, too; --forget-tokens would have made them worthless.");
    }
    Ok(())
}

/// Machines of the old cluster, with their votes and records, must not take this one for theirs.
fn check_cluster(config: &Config, manifest: &Manifest) -> Result<(), Usage> {
    let known = config.keys().all().any(|key| key_mark(key) == manifest.key_mark);
    if config.cluster.as_str() != manifest.cluster || !known {
        return Ok(());
    }
    Err(Usage(format!(
        "cluster: found {:?} with its old key, expected another name or another key than those of the copied cluster, whose \
         machines would otherwise meet the restored ones; `tanist init` makes a new key",
        manifest.cluster
    )))
}

/// Refuses a directory in which anything stands that could be a machine's.
fn check_empty(directory: &Path) -> anyhow::Result<()> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    let mut names = read().with_context(|| format!("read {}", directory.display()))?;
    names.retain(|name| name != "tanist.lock" && name != "tanist.pid");
    if !names.is_empty() && names.iter().all(|name| name.starts_with(PARTIAL)) {
        // A restore that was killed before it had made anything.
        remove_partial(directory);
        return Ok(());
    }
    if let Some(name) = names.first() {
        bail!("data_dir: found {name} in {}, expected an empty directory", directory.display());
    }
    Ok(())
}

fn remove_partial(directory: &Path) {
    for end in ["", "-wal", "-shm", "-journal"] {
        // What isn't there needs no removing, and what stays is refused by name at the next try.
        let _ = fs::remove_file(directory.join(format!("{PARTIAL}{end}")));
    }
}

/// Leaves the directory empty when something fails.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        remove_partial(self.0);
    }
}
