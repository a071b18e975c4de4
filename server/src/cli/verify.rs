//! `tanist verify`: whether a copy, a directory of copies, or the database of a machine that stands still, is sound, and what
//! it holds.

use std::{
    fs::File,
    io::{BufWriter, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tanist_store::{DATABASE_FILE, Inspection, inspect, private};

use super::{backup::progress_bar, table};
use crate::{
    backup::{Manifest, Point, points_in, unpack},
    causes::in_words,
    durable::{self, DirectoryLock},
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A copy, a directory of copies with their increments, or a data directory's state.db while its machine stands still.
    file: PathBuf,
    /// Where a copy is unpacked meanwhile; it takes the room of the whole database. Default: the system's.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    if args.file.is_dir() {
        return verify_directory(args);
    }
    let alone =
        !wal_of(&args.file).exists() && durable::was_stopped_cleanly(directory_of(&args.file)).is_none();
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
        print!("{}", text(args, manifest.as_ref(), &found, alone));
    }
    if !found.problems.is_empty() {
        bail!("{}: found {} faults in the database", args.file.display(), found.problems.len());
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
    let directory = directory_of(path);
    let machine = path.file_name() == Some(DATABASE_FILE.as_ref()) && directory.join("tanist.lock").exists();
    let _lock = match machine {
        true => Some(DirectoryLock::take(directory).context("the machine must be stopped")?),
        false => None,
    };
    // SQLite makes an empty one when it looks.
    let missing = missing_wal(path, directory);
    match (inspect(path), missing) {
        (Ok(mut found), missing) => {
            found.problems.extend(missing);
            Ok(found)
        }
        (Err(error), Some(missing)) => Err(error).context(missing),
        (Err(error), None) => Err(error.into()),
    }
}

fn wal_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// The directory of a file that is named.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// A process that was killed leaves its WAL, and in it the newest transactions. Without it the file is sound to SQLite, and too old.
fn missing_wal(path: &Path, directory: &Path) -> Option<String> {
    let wal = wal_of(path);
    let is_machines = path.file_name() == Some(DATABASE_FILE.as_ref());
    (is_machines && durable::was_stopped_cleanly(directory) == Some(false) && !wal.exists()).then(|| {
        format!(
            "{} is missing, and its machine was not stopped cleanly: the newest transactions, which stood in it, are lost here. Put \
             it back if you have it; otherwise empty this data directory, and the machine gets everything from the master, unless it \
             alone holds the newest data",
            wal.display()
        )
    })
}

/// Unpacks it somewhere and looks at what is in it.
fn look_at_copy(path: &Path, scratch: Option<&Path>, quiet: bool) -> anyhow::Result<(Manifest, Inspection)> {
    let point = Point::alone(path)?;
    let found = look_at_point(&point, scratch, quiet)?;
    Ok((point.manifest, found))
}

fn look_at_point(point: &Point, scratch: Option<&Path>, quiet: bool) -> anyhow::Result<Inspection> {
    let scratch = match scratch {
        Some(scratch) => tempfile::tempdir_in(scratch),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("make a directory to unpack the copy in (--scratch)")?;
    let database = scratch.path().join(DATABASE_FILE);
    unpack_point(point, &database, quiet)?;
    inspect_copy(point.newest(), &database)
}

/// Each copy is put together with all its increments, and looked at.
fn verify_directory(args: &VerifyArgs) -> anyhow::Result<()> {
    let (points, unusable) = points_in(&args.file)?;
    let mut problems: Vec<String> = unusable.iter().map(ToString::to_string).collect();
    let (mut rows, mut facts) = (vec![], vec![]);
    for point in &points {
        let found = look_at_point(point, args.scratch.as_deref(), args.json);
        let wrong = match &found {
            Ok(found) => found.problems.first().map(|problem| format!("{}: {problem}", point.copy.display())),
            Err(error) => Some(in_words(error)),
        };
        let wrong: Vec<_> = wrong.into_iter().chain(point.broken.as_ref().map(ToString::to_string)).collect();
        let (from, to) = (&point.manifest, point.newest());
        facts.push(json!({
            "copy": point.copy, "cluster": from.cluster, "member": from.member, "made_at": from.made_at,
            "position": from.position().to_string(), "increments": point.increments.len(),
            "until_time": to.made_at, "until_position": to.position().to_string(), "problems": wrong,
        }));
        let state = if wrong.is_empty() { "sound" } else { "DAMAGED" };
        rows.push(vec![
            from.made_at.clone(),
            from.position().to_string(),
            from.member.clone(),
            point.increments.len().to_string(),
            to.made_at.clone(),
            to.position().to_string(),
            state.to_owned(),
        ]);
        problems.extend(wrong);
    }
    if args.json {
        let text = json!({ "directory": args.file, "points": facts, "problems": problems });
        println!("{}", serde_json::to_string_pretty(&text)?);
    } else {
        let headings = ["copy of", "at", "member", "increments", "up to", "at", "state"].map(str::to_owned);
        print!("{}", table::layout(&headings, &rows));
        problems.iter().for_each(|problem| println!("{}", table::safe(problem)));
    }
    if points.is_empty() && problems.is_empty() {
        bail!("{}: found no copy in it", args.file.display());
    }
    if !problems.is_empty() {
        bail!("{}: {} copies or increments can't be used", args.file.display(), problems.len());
    }
    Ok(())
}

/// Unpacks a copy into a new file and puts its increments upon it, with progress.
pub(super) fn unpack_point(point: &Point, database: &Path, quiet: bool) -> anyhow::Result<()> {
    unpack_to(&point.copy, &point.manifest, database, quiet)?;
    let bar = progress_bar(Some(point.increment_bytes()), quiet);
    bar.set_message("increments");
    point.apply(database, |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(())
}

/// Unpacks a copy into a new file, with progress.
fn unpack_to(path: &Path, manifest: &Manifest, database: &Path, quiet: bool) -> anyhow::Result<()> {
    let file = private::options().write(true).create_new(true).open(database);
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

/// `alone`: nobody can say whether a WAL belongs to the database.
fn text(args: &VerifyArgs, manifest: Option<&Manifest>, found: &Inspection, alone: bool) -> String {
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
    if manifest.is_none() && alone {
        text += "No -wal file stands beside it: if it was copied without one, newer transactions may be missing.\n";
    }
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
