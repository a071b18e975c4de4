//! `tanist verify`: whether a copy, or the database of a machine that stands still, is sound, and what it holds.

use std::{
    fs::File,
    io::{BufWriter, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tanist_store::{DATABASE_FILE, Inspection, inspect};

use super::{backup::progress_bar, table};
use crate::{
    backup::{Manifest, read_manifest, unpack},
    durable::DirectoryLock,
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A copy, or a data directory's state.db while its machine stands still.
    file: PathBuf,
    /// Where a copy is unpacked meanwhile; it takes the room of the whole database. Default: the system's.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let (manifest, found) = match is_database(&args.file)? {
        true => (None, look_at_database(&args.file)?),
        false => {
            let (manifest, found) = look_at_copy(&args.file, args.scratch.as_deref(), args.json)?;
            (Some(manifest), found)
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&facts(args, manifest.as_ref(), &found))?);
    } else {
        print!("{}", text(args, manifest.as_ref(), &found));
    }
    if !found.problems.is_empty() {
        bail!("{}: SQLite finds {} faults in the database", args.file.display(), found.problems.len());
    }
    Ok(())
}

fn is_database(path: &Path) -> anyhow::Result<bool> {
    let mut file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start).with_context(|| format!("read {}", path.display()))?;
    Ok(start == b"SQLite format 3\0")
}

fn look_at_database(path: &Path) -> anyhow::Result<Inspection> {
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let machine = path.file_name() == Some(DATABASE_FILE.as_ref()) && directory.join("tanist.lock").exists();
    let _lock = match machine {
        true => Some(DirectoryLock::take(directory).context("the machine must be stopped")?),
        false => None,
    };
    Ok(inspect(path)?)
}

/// Unpacks it somewhere and looks at what is in it.
fn look_at_copy(path: &Path, scratch: Option<&Path>, quiet: bool) -> anyhow::Result<(Manifest, Inspection)> {
    let manifest = read_manifest(path)?;
    let scratch = match scratch {
        Some(scratch) => tempfile::tempdir_in(scratch),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("make a directory to unpack the copy in (--scratch)")?;
    let database = scratch.path().join(DATABASE_FILE);
    unpack_to(path, &manifest, &database, quiet)?;
    let found = inspect_copy(&manifest, &database)?;
    Ok((manifest, found))
}

/// Unpacks a copy into a new file, with progress.
pub(super) fn unpack_to(
    path: &Path,
    manifest: &Manifest,
    database: &Path,
    quiet: bool,
) -> anyhow::Result<()> {
    let file = File::options().write(true).create_new(true).open(database);
    let file = file.with_context(|| format!("make {}", database.display()))?;
    let mut out = BufWriter::new(file);
    let bar = progress_bar(Some(manifest.database_bytes()), quiet);
    bar.set_message("unpacking");
    unpack(path, &mut out, |bytes| bar.set_position(bytes))?;
    bar.set_message("checking");
    out.get_ref().sync_all().with_context(|| format!("sync {}", database.display()))?;
    bar.finish_and_clear();
    Ok(())
}

/// Looks at an unpacked copy's database, which must be what the copy says of it.
pub(super) fn inspect_copy(manifest: &Manifest, database: &Path) -> anyhow::Result<Inspection> {
    let found = inspect(database)?;
    let announced = manifest.stamp().map_err(anyhow::Error::msg)?;
    if found.problems.is_empty() && found.stamp != announced {
        bail!("its database stands at {:?}, the copy says {announced:?}", found.stamp);
    }
    Ok(found)
}

fn facts(args: &VerifyArgs, manifest: Option<&Manifest>, found: &Inspection) -> serde_json::Value {
    let reigns: Vec<_> = found
        .reigns
        .iter()
        .map(|reign| {
            json!({
                "term": reign.term.0, "master": reign.master, "first_txid": reign.first_txid.0,
                "reason": reign.reason, "began_at": reign.began_at,
            })
        })
        .collect();
    json!({
        "file": args.file, "sound": found.problems.is_empty(), "problems": found.problems,
        "position": found.stamp.position.to_string(), "schema": found.schema,
        "page_size": found.page_size, "pages": found.pages, "terms": reigns, "copy": manifest,
    })
}

fn text(args: &VerifyArgs, manifest: Option<&Manifest>, found: &Inspection) -> String {
    let mut text = match manifest {
        Some(Manifest { cluster, member, made_at, .. }) => format!(
            "{}: a whole copy of {}, taken from {} at {}.\n",
            args.file.display(),
            table::safe(cluster),
            table::safe(member),
            table::safe(made_at)
        ),
        None => format!("{}: a database.\n", args.file.display()),
    };
    let bytes = u64::from(found.page_size) * u64::from(found.pages);
    text += &format!(
        "It stands at {}, has {} pages ({} KiB) and schema {}.\n",
        found.stamp.position,
        found.pages,
        bytes >> 10,
        found.schema
    );
    match found.problems.is_empty() {
        true => text += "Sound: SQLite finds no fault in it.\n",
        false => {
            text += "Damaged:\n";
            found.problems.iter().for_each(|problem| text += &format!("  {}\n", table::safe(problem)));
        }
    }
    let headings = ["term", "master", "from", "began", "why"].map(str::to_owned);
    let rows: Vec<Vec<String>> = found
        .reigns
        .iter()
        .map(|reign| {
            let (term, first) = (reign.term.to_string(), reign.first_txid.to_string());
            vec![term, reign.master.clone(), first, reign.began_at.clone(), reign.reason.clone()]
        })
        .collect();
    text + "\n" + &table::layout(&headings, &rows)
}
