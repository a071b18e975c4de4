//! Points in time: a copy and the increments that follow it, put together up to where somebody wants.

use std::{
    cmp::Reverse,
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use tanist_replication::Position;

use super::{
    COPY_SUFFIX, CopyError, Manifest,
    file::increments_of,
    increments::Name,
    read::{read_increment, read_manifest, unpack_pages},
};

/// Up to where increments are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Until {
    /// All of them.
    Newest,
    /// None that was made later than this, in UTC by its machine's clock.
    Time(String),
    /// None that holds a later transaction.
    Position(Position),
}

impl Until {
    fn admits(&self, manifest: &Manifest) -> bool {
        match self {
            Until::Newest => true,
            // Both are written like 2026-01-31T23:59:59Z.
            Until::Time(time) => manifest.made_at <= *time,
            Until::Position(position) => manifest.position() <= *position,
        }
    }

    /// Nothing that comes after this can be admitted.
    fn is_reached_by(&self, manifest: &Manifest) -> bool {
        matches!(self, Until::Position(position) if manifest.position() == *position)
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Until, String> {
        if text == "newest" {
            return Ok(Until::Newest);
        }
        if let Ok(position) = text.parse() {
            return Ok(Until::Position(position));
        }
        let wrong = || {
            format!(
                "found {text:?}, expected \"newest\", a position like 3.812, or a time in UTC like 2026-01-31T23:59:59Z"
            )
        };
        let plain = text.strip_suffix(['Z', 'z']).unwrap_or(text).replace([' ', 't'], "T");
        let full = match plain.len() {
            10 => format!("{plain}T00:00:00Z"),
            16 => format!("{plain}:00Z"),
            _ => format!("{plain}Z"),
        };
        let pattern = b"dddd-dd-ddTdd:dd:ddZ";
        let fits = full.len() == pattern.len()
            && full.bytes().zip(pattern).all(|(byte, like)| match like {
                b'd' => byte.is_ascii_digit(),
                like => byte == *like,
            });
        fits.then_some(Until::Time(full)).ok_or_else(wrong)
    }
}

/// An increment of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Increment {
    pub(super) number: u32,
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
}

/// A copy and increments that follow it without a gap.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) copy: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) increments: Vec<Increment>,
    /// Why those behind the last one are of no use.
    pub(crate) broken: Option<CopyError>,
}

impl Point {
    /// The copy with all increments that follow it. Reads what they say of themselves only.
    ///
    /// # Errors
    /// When the copy is none, or the directory can't be read.
    pub(crate) fn of(copy: &Path) -> Result<Point, CopyError> {
        let mut point = Point::alone(copy)?;
        for (number, path) in list(&increments_of(copy))? {
            match point.follow(number, path) {
                Ok(increment) => point.increments.push(increment),
                Err(broken) => {
                    point.broken = Some(broken);
                    break;
                }
            }
        }
        Ok(point)
    }

    /// The copy without any.
    ///
    /// # Errors
    /// As [`Point::of`].
    pub(crate) fn alone(copy: &Path) -> Result<Point, CopyError> {
        let manifest = read_manifest(copy)?;
        Ok(Point { copy: copy.to_owned(), manifest, increments: vec![], broken: None })
    }

    fn follow(&self, number: u32, path: PathBuf) -> Result<Increment, CopyError> {
        let (manifest, after) = read_increment(&path)?;
        let last = self.newest();
        let stamps = (after.stamp(), last.stamp());
        let (Ok(found), Ok(expected)) = stamps else {
            return Err(damaged(&path, "chain: found no hash".to_owned()));
        };
        let same = (&manifest.cluster, &manifest.key_mark, manifest.page_size)
            == (&last.cluster, &last.key_mark, last.page_size);
        if found != expected || !same {
            return Err(CopyError::Gap { path, found: found.position, expected: expected.position });
        }
        Ok(Increment { number, path, manifest })
    }

    /// The newest of it.
    pub(crate) fn newest(&self) -> &Manifest {
        self.increments.last().map_or(&self.manifest, |increment| &increment.manifest)
    }

    /// Bytes of its increments' files, about.
    pub(crate) fn increment_bytes(&self) -> u64 {
        self.increments.iter().map(|increment| increment.manifest.frame_bytes).sum()
    }

    /// Lets increments go that aren't wanted.
    ///
    /// # Errors
    /// When one that may be wanted can't be used.
    pub(crate) fn cut(mut self, until: &Until) -> Result<Point, CopyError> {
        if !until.admits(&self.manifest) {
            return Err(CopyError::Later { path: self.copy, made_at: self.manifest.made_at });
        }
        let whole = self.increments.len();
        let wanted = self.increments.iter().take_while(|increment| until.admits(&increment.manifest)).count();
        self.increments.truncate(wanted);
        match self.broken.take() {
            Some(broken) if wanted == whole && !until.is_reached_by(self.newest()) => Err(broken),
            _ => Ok(self),
        }
    }

    /// Brings the unpacked database in `path`, which is the copy's, to this point. `progress` is told the bytes of each
    /// increment.
    ///
    /// # Errors
    /// When an increment is damaged, or the disk refuses.
    pub(crate) fn apply(&self, path: &Path, mut progress: impl FnMut(u64)) -> Result<(), CopyError> {
        let fail = |source| CopyError::Io { doing: "write", path: path.to_owned(), source };
        if self.increments.is_empty() {
            return Ok(());
        }
        let mut file = File::options().write(true).open(path).map_err(fail)?;
        let mut pages = self.manifest.pages;
        let page_size = u64::from(self.manifest.page_size);
        for increment in &self.increments {
            unpack_pages(&increment.path, |page, image| {
                file.seek(SeekFrom::Start(u64::from(page - 1) * page_size))?;
                file.write_all(image)
            })?;
            pages = increment.manifest.pages;
            progress(increment.manifest.frame_bytes);
        }
        file.set_len(u64::from(pages) * page_size).and_then(|()| file.sync_all()).map_err(fail)
    }
}

/// The increments in a directory, in order; none where there is no directory.
fn list(directory: &Path) -> Result<Vec<(u32, PathBuf)>, CopyError> {
    let fail = |source| CopyError::Io { doing: "read", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(fail(error)),
    };
    let mut found = vec![];
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if let Some(name) = entry.file_name().to_str().and_then(Name::parse) {
            found.push((name.number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// All copies in a directory with their increments, the newest first, and those that are none.
///
/// # Errors
/// When the directory can't be read.
pub(crate) fn points_in(directory: &Path) -> Result<(Vec<Point>, Vec<CopyError>), CopyError> {
    let fail = |source| CopyError::Io { doing: "read", path: directory.to_owned(), source };
    let (mut points, mut unusable) = (vec![], vec![]);
    for entry in fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(COPY_SUFFIX)) {
            match Point::of(&path) {
                Ok(point) => points.push(point),
                Err(error) => unusable.push(error),
            }
        }
    }
    points.sort_by_key(|point| Reverse((point.manifest.position(), point.manifest.made_at.clone())));
    Ok((points, unusable))
}

/// Of these, the one that comes closest to what is wanted, cut there; `None`: all are later.
///
/// # Errors
/// When one that may come closer can't be used as far.
pub(crate) fn choose(points: Vec<Point>, until: &Until) -> Result<Option<Point>, CopyError> {
    let mut best: Option<Point> = None;
    let mut failed: Option<(Position, CopyError)> = None;
    for point in points.into_iter().filter(|point| until.admits(&point.manifest)) {
        let from = point.manifest.position();
        match point.cut(until) {
            Ok(point) => {
                let better = |best: &Point| best.newest().position() < point.newest().position();
                if best.as_ref().is_none_or(better) {
                    best = Some(point);
                }
            }
            Err(error) if failed.as_ref().is_none_or(|(other, _)| *other < from) => {
                failed = Some((from, error))
            }
            Err(_) => {}
        }
    }
    match (best, failed) {
        // A copy is made at the latest when the one before has its last increment.
        (Some(best), Some((from, _)))
            if best.manifest.position() >= from || until.is_reached_by(best.newest()) =>
        {
            Ok(Some(best))
        }
        (_, Some((_, error))) => Err(error),
        (best, None) => Ok(best),
    }
}

pub(super) fn damaged(path: &Path, why: String) -> CopyError {
    CopyError::Damaged { path: path.to_owned(), why }
}
