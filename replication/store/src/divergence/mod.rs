//! What a diverged replica held, saved before a rejoin replaces it, so that no write vanishes in silence.
//!
//! Owns the directory `divergence` in the data directory. A report is there whole and synced, or not at all; one of a
//! rejoin that has to be tried again takes the place of its predecessor. Read `rows.rs` for the row differences.

mod literal;
mod rows;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tanist_replication::{Position, Stamp};

use crate::{connection, error::StoreError, private, rejoin::Rejoin, utc::Utc};

pub use rows::TableDifference;

/// Directory of the reports in the data directory.
pub const DIVERGENCE_DIR: &str = "divergence";
/// Reports that are kept: when one more is saved, the oldest goes.
pub const REPORTS_KEPT: usize = 10;
/// In a report: the facts.
pub const REPORT_FILE: &str = "report.json";
/// In a report: the replaced pages as they were, compressed with zstd: number (32 bits, big-endian) and image each.
pub const PAGES_FILE: &str = "pages.zst";
/// In a report: row differences as SQL.
pub const ROWS_FILE: &str = "rows.sql";
/// Row differences are looked for in databases up to this size, because that takes a copy of the database on disk.
const ROWS_DATABASE_LIMIT: u64 = 2 << 30;
/// A report in the making.
const SAVING: &str = ".saving";

/// What a report needs to know of the world.
#[derive(Debug, Clone, Copy)]
pub struct ReportContext<'a> {
    /// This machine's name.
    pub member: &'a str,
    /// The time, by this machine's wall clock (which may be wrong; it only names the report).
    pub now: SystemTime,
}

/// A replica's stamp in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportStamp {
    /// `term.txid`.
    pub position: String,
    /// The chain hash, in hexadecimal digits.
    pub chain: String,
}

impl From<Stamp> for ReportStamp {
    fn from(stamp: Stamp) -> ReportStamp {
        ReportStamp { position: stamp.position.to_string(), chain: format!("{:?}", stamp.chain) }
    }
}

/// The facts of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergenceReport {
    /// `<utc time>-<term>-<txid>`: the report's directory.
    pub id: String,
    /// The machine.
    pub member: String,
    /// When it was saved, by the machine's wall clock.
    pub saved_at: String,
    /// What this replica was.
    pub replica: ReportStamp,
    /// What took its place.
    pub cluster: ReportStamp,
    /// The newest position that both histories share; `0.0` when they share none.
    pub common: String,
    /// Whether something was written here that no master numbered.
    pub foreign_write: bool,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of this replica.
    pub pages_before: u32,
    /// Pages of what took its place.
    pub pages_after: u32,
    /// How many pages were replaced or cut off; their old images are in `pages.zst`.
    pub replaced_pages: u32,
    /// Their numbers, as ranges from first to last.
    pub replaced: Vec<[u32; 2]>,
    /// `complete`, or what is missing in `rows.sql` and why.
    pub rows: String,
    /// Table by table.
    pub tables: Vec<TableDifference>,
}

/// Saves the report of a rejoin's replica; gives its name. Where no page is another there is nothing to save.
pub(crate) fn save(
    rejoin: &mut Rejoin<'_>,
    common: Position,
    context: &ReportContext<'_>,
) -> Result<Option<String>, StoreError> {
    let saving = rejoin.database.dir.join(DIVERGENCE_DIR).join(SAVING);
    let saved = save_in(&saving, rejoin, common, context);
    if saved.is_err() {
        // Not to stand in the way of whoever makes room.
        let _ = remove(&saving);
    }
    saved
}

fn save_in(
    saving: &Path,
    rejoin: &mut Rejoin<'_>,
    common: Position,
    context: &ReportContext<'_>,
) -> Result<Option<String>, StoreError> {
    let data_dir = rejoin.database.dir.clone();
    // Old images of as many pages as come at the most; what a disk refuses later is undone.
    rejoin.staging.check_room(rejoin.staging.len() as u64)?;
    let parent = data_dir.join(DIVERGENCE_DIR);
    remove(saving)?;
    private::create_dir_all(saving)
        .map_err(|source| StoreError::io(saving, "create the directory", source))?;
    let stamp = rejoin.database.stamp;
    let saved_at = Utc::of(context.now);
    let Position { term, txid } = stamp.position;
    let mut report = DivergenceReport {
        id: format!("{}-{term}-{txid}", saved_at.compact()),
        member: context.member.to_owned(),
        saved_at: saved_at.to_string(),
        replica: stamp.into(),
        cluster: rejoin.target.stamp.into(),
        common: common.to_string(),
        foreign_write: rejoin.database.diverged,
        page_size: rejoin.target.page_size,
        pages_before: rejoin.database.captured.pages,
        pages_after: rejoin.target.pages,
        replaced_pages: 0,
        replaced: Vec::new(),
        rows: String::new(),
        tables: Vec::new(),
    };
    save_pages(rejoin, saving, &mut report)?;
    if report.replaced_pages == 0 {
        remove(saving)?;
        let _ = fs::remove_dir(&parent); // unless there are others in it
        return Ok(None);
    }
    save_rows(rejoin, saving, &mut report)?;
    let json = serde_json::to_vec_pretty(&report).map_err(|error| StoreError::Report(error.to_string()))?;
    write_file(&saving.join(REPORT_FILE), |file| file.write_all(&json))?;
    connection::sync_dir(saving)?;
    let place = parent.join(&report.id);
    remove(&place)?;
    fs::rename(saving, &place).map_err(|source| StoreError::io(&place, "keep the report", source))?;
    connection::sync_dir(&parent)?;
    connection::sync_dir(&data_dir)?;
    if let Err(error) = tidy(&data_dir, &report) {
        tracing::warn!(%error, "remove old divergence reports");
    }
    Ok(Some(report.id))
}

fn save_pages(
    rejoin: &mut Rejoin<'_>,
    saving: &Path,
    report: &mut DivergenceReport,
) -> Result<(), StoreError> {
    let path = saving.join(PAGES_FILE);
    let error = |source| StoreError::io(&path, "save replaced pages", source);
    let file = create(&path).map_err(error)?;
    let mut out = zstd::stream::write::Encoder::new(BufWriter::new(file), 1).map_err(error)?;
    rejoin.replaced(|page, image| {
        report.replaced_pages += 1;
        match report.replaced.last_mut() {
            Some([_, last]) if *last + 1 == page => *last = page,
            _ => report.replaced.push([page, page]),
        }
        out.write_all(&page.to_be_bytes()).and_then(|()| out.write_all(image)).map_err(error)
    })?;
    let file = out.finish().and_then(|out| out.into_inner().map_err(std::io::IntoInnerError::into_error));
    file.and_then(|file| file.sync_all()).map_err(error)
}

/// Compares row by row with a scratch file that holds the database as it will be.
fn save_rows(
    rejoin: &mut Rejoin<'_>,
    saving: &Path,
    report: &mut DivergenceReport,
) -> Result<(), StoreError> {
    let pages = report.pages_before.max(report.pages_after);
    let bytes = u64::from(pages) * u64::from(report.page_size);
    if bytes > ROWS_DATABASE_LIMIT {
        report.rows =
            format!("left out: the database has {bytes} bytes, at most {ROWS_DATABASE_LIMIT} are compared");
        return Ok(());
    }
    let scratch = saving.join("cluster.db");
    let error = |source| StoreError::io(&scratch, "write the scratch copy", source);
    let mut out = BufWriter::with_capacity(1 << 20, create(&scratch).map_err(error)?);
    rejoin.resulting(|page, image| {
        if page == 1 {
            let mut image = image.to_vec();
            // Not in WAL mode, so that it is one file.
            image[18..20].fill(1);
            return out.write_all(&image).map_err(error);
        }
        out.write_all(image).map_err(error)
    })?;
    out.flush().map_err(error)?;
    drop(out);
    let reader = connection::open_read_only(&rejoin.database.dir, 4 << 20)?;
    let path = saving.join(ROWS_FILE);
    let found = write_file(&path, |file| rows::write(&reader, &scratch, report, file));
    drop(reader);
    let found = match found {
        Err(StoreError::DiskFull { path, doing }) => return Err(StoreError::DiskFull { path, doing }),
        other => other,
    };
    match found {
        Ok(rows::Found { tables, rows }) => {
            report.tables = tables;
            report.rows = rows;
        }
        // The pages are saved: a damaged schema must not keep the replica away for ever.
        Err(error) => report.rows = format!("left out: {error}"),
    }
    fs::remove_file(&scratch).map_err(|source| StoreError::io(&scratch, "remove the scratch copy", source))
}

/// Makes a file anew.
fn create(path: &Path) -> std::io::Result<File> {
    private::options().write(true).create(true).truncate(true).open(path)
}

/// Writes a file and syncs it.
fn write_file<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<T>,
) -> Result<T, StoreError> {
    let run = || {
        let mut out = BufWriter::new(create(path)?);
        let result = write(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(result)
    };
    run().map_err(|source| StoreError::io(path, "save a divergence report", source))
}

fn remove(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(directory, "remove an unfinished report", error))
        }
        _ => Ok(()),
    }
}

/// Removes reports that `newest` replaces, and the oldest beyond the number that is kept.
fn tidy(data_dir: &Path, newest: &DivergenceReport) -> Result<(), StoreError> {
    let mut others = divergence_reports(data_dir)?;
    others.retain(|other| other.id != newest.id);
    let (replaced, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|other| other.replica == newest.replica);
    let surplus = (others.len() + 1).saturating_sub(REPORTS_KEPT);
    for report in replaced.iter().chain(&others[..surplus]) {
        remove(&divergence_directory(data_dir, &report.id))?;
    }
    Ok(())
}

/// Where the report `id` stands.
#[must_use]
pub fn divergence_directory(data_dir: &Path, id: &str) -> PathBuf {
    data_dir.join(DIVERGENCE_DIR).join(id)
}

/// All reports in a data directory, oldest first. What is no whole report is left out.
///
/// # Errors
/// When the directory can't be read.
pub fn divergence_reports(data_dir: &Path) -> Result<Vec<DivergenceReport>, StoreError> {
    let parent = data_dir.join(DIVERGENCE_DIR);
    let error = |source| StoreError::io(&parent, "read the divergence reports", source);
    let entries = match fs::read_dir(&parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut reports = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        let whole = fs::read(entry.path().join(REPORT_FILE))
            .ok()
            .and_then(|json| serde_json::from_slice::<DivergenceReport>(&json).ok())
            .filter(|report| entry.file_name().to_str() == Some(&report.id));
        reports.extend(whole);
    }
    reports.sort_by(|a, b| (&a.saved_at, &a.id).cmp(&(&b.saved_at, &b.id)));
    Ok(reports)
}
