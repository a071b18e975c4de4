//! Reads a copy: what it says of itself, and the database in it, each proven by its checksum.
//!
//! Trusts nothing in the file: lengths are checked before anything is made by them, and memory has a bound.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tanist_replication::Position;

use super::format::{self, After, END_BYTES, Manifest, NUMBER_BYTES};

/// zstd's window for the levels that Tanist takes is a quarter of this at most, in powers of two.
const WINDOW_LOG: u32 = 24;
const CHUNK: usize = 128 << 10;

/// Why a file can't be used as a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no end mark.
    #[error("{}: it doesn't end as a copy does: it broke off, or is something else", path.display())]
    BrokenOff {
        /// The file.
        path: PathBuf,
    },
    /// A whole copy was wanted.
    #[error(
        "{}: an increment, which is of use only after the copy that it follows: give that copy with --until, or their directory",
        path.display()
    )]
    Increment {
        /// The file.
        path: PathBuf,
    },
    /// An older one was wanted.
    #[error("{}: this copy was made at {made_at}, which is later than what is wanted", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// When.
        made_at: String,
    },
    /// An increment was wanted.
    #[error("{}: not an increment, but a whole copy", path.display())]
    Whole {
        /// The file.
        path: PathBuf,
    },
    /// An increment doesn't follow what stands before it.
    #[error("{}: it follows {found}, before it stands {expected}: an increment between them is missing", path.display())]
    Gap {
        /// The file.
        path: PathBuf,
        /// What it says that it follows.
        found: Position,
        /// What stands before it.
        expected: Position,
    },
    /// Something in it isn't as it was written.
    #[error("{}: this copy is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
}

/// What the copy in `path` says of itself; its database isn't looked at.
///
/// # Errors
/// When it can't be read, broke off, or its trailer is damaged.
pub fn read_manifest(path: &Path) -> Result<Manifest, CopyError> {
    whole(manifest_of(&mut open(path)?, path)?, path)
}

/// What the increment in `path` says of itself.
///
/// # Errors
/// As [`read_manifest`].
pub(crate) fn read_increment(path: &Path) -> Result<(Manifest, After), CopyError> {
    let manifest = manifest_of(&mut open(path)?, path)?;
    match manifest.after.clone() {
        Some(after) => Ok((manifest, after)),
        None => Err(CopyError::Whole { path: path.to_owned() }),
    }
}

fn whole(manifest: Manifest, path: &Path) -> Result<Manifest, CopyError> {
    match manifest.after {
        None => Ok(manifest),
        Some(_) => Err(CopyError::Increment { path: path.to_owned() }),
    }
}

fn open(path: &Path) -> Result<File, CopyError> {
    File::open(path).map_err(|source| CopyError::Io { doing: "read", path: path.to_owned(), source })
}

fn manifest_of(file: &mut File, path: &Path) -> Result<Manifest, CopyError> {
    let fail = |source| CopyError::Io { doing: "read", path: path.to_owned(), source };
    let broken_off = || CopyError::BrokenOff { path: path.to_owned() };
    let damaged = |why: String| CopyError::Damaged { path: path.to_owned(), why };
    let length = file.metadata().map_err(fail)?.len();
    let end_at = length.checked_sub(END_BYTES as u64).ok_or_else(broken_off)?;
    let mut end = [0; END_BYTES];
    file.seek(SeekFrom::Start(end_at)).and_then(|_| file.read_exact(&mut end)).map_err(fail)?;
    let bytes = format::trailer_bytes(&end).ok_or_else(broken_off)?.map_err(damaged)?;
    let Some(frame_bytes) = length.checked_sub(bytes as u64) else {
        return Err(damaged(format!("a trailer of {bytes} bytes in a file of {length}")));
    };
    let mut trailer = vec![0; bytes];
    file.seek(SeekFrom::Start(frame_bytes)).and_then(|_| file.read_exact(&mut trailer)).map_err(fail)?;
    format::decode(&trailer, frame_bytes).map_err(damaged)
}

/// Unpacks the database of the copy in `path` into `out`, and proves that it is what was copied. `progress` is told how
/// many bytes of it are there.
///
/// # Errors
/// When it can't be read, broke off or is damaged, or `out` refuses; what `out` holds then is of no use.
pub fn unpack(path: &Path, out: &mut impl Write, progress: impl FnMut(u64)) -> Result<Manifest, CopyError> {
    unpack_file(open(path)?, path, out, progress)
}

/// The same of an open file, which is called `path` in errors.
pub(super) fn unpack_file(
    mut file: File,
    path: &Path,
    out: &mut impl Write,
    progress: impl FnMut(u64),
) -> Result<Manifest, CopyError> {
    let manifest = whole(manifest_of(&mut file, path)?, path)?;
    unpack_frame(file, path, &manifest, out, progress)?;
    Ok(manifest)
}

/// Hands each page of a copy, or of an increment, to `take`, and proves that they are what was copied.
///
/// # Errors
/// As [`unpack`]; what was taken then is of no use.
pub(super) fn unpack_pages(
    path: &Path,
    take: impl FnMut(u32, &[u8]) -> io::Result<()>,
) -> Result<Manifest, CopyError> {
    unpack_pages_of(open(path)?, path, take)
}

/// The same of an open file, which is called `path` in errors.
pub(super) fn unpack_pages_of(
    mut file: File,
    path: &Path,
    take: impl FnMut(u32, &[u8]) -> io::Result<()>,
) -> Result<Manifest, CopyError> {
    let manifest = manifest_of(&mut file, path)?;
    unpack_frame(file, path, &manifest, &mut Pages::of(&manifest, take), |_| {})?;
    Ok(manifest)
}

fn unpack_frame(
    mut file: File,
    path: &Path,
    manifest: &Manifest,
    out: &mut impl Write,
    mut progress: impl FnMut(u64),
) -> Result<(), CopyError> {
    let fail = |doing| move |source| CopyError::Io { doing, path: path.to_owned(), source };
    let damaged = |why: String| CopyError::Damaged { path: path.to_owned(), why };
    file.seek(SeekFrom::Start(0)).map_err(fail("read"))?;
    let hashed = Hashing { file, hasher: blake3::Hasher::new(), left: manifest.frame_bytes };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(CHUNK, hashed))
        .map_err(fail("unpack"))?
        .single_frame();
    decoder.window_log_max(WINDOW_LOG).map_err(fail("unpack"))?;
    let expected = manifest.content_bytes();
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0u64;
    loop {
        let count = match decoder.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            // zstd's own complaints have no code of the system's.
            Err(error) if error.raw_os_error().is_none() => return Err(damaged(error.to_string())),
            Err(error) => return Err(fail("read")(error)),
        };
        bytes += count as u64;
        if bytes > expected {
            return Err(damaged(format!("more than the {expected} bytes that it should hold")));
        }
        out.write_all(&chunk[..count]).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => damaged(error.to_string()),
            _ => fail("unpack")(error),
        })?;
        progress(bytes);
    }
    let mut rest = decoder.finish();
    let behind = io::copy(&mut rest, &mut io::sink()).map_err(fail("read"))?;
    let hash = rest.into_inner().hasher.finalize().to_hex();
    if hash.as_str() != manifest.blake3 {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    if bytes != expected || behind > 0 {
        return Err(damaged(format!(
            "{bytes} bytes in its frame and {behind} behind it, expected {expected} and 0"
        )));
    }
    out.flush().map_err(fail("unpack"))
}

/// Cuts what a frame holds into pages.
struct Pages<F> {
    page_size: usize,
    /// Bytes before a page's image that hold its number; 0: they come in order.
    number_bytes: usize,
    pages: u32,
    /// The last page in order.
    last: u32,
    record: Vec<u8>,
    take: F,
}

impl<F: FnMut(u32, &[u8]) -> io::Result<()>> Pages<F> {
    fn of(manifest: &Manifest, take: F) -> Pages<F> {
        let number_bytes = if manifest.after.is_some() { NUMBER_BYTES } else { 0 };
        let page_size = manifest.page_size as usize;
        Pages { page_size, number_bytes, pages: manifest.pages, last: 0, record: vec![], take }
    }

    fn take_record(&mut self) -> io::Result<()> {
        let (number, image) = self.record.split_at(self.number_bytes);
        let page = match number.first_chunk::<NUMBER_BYTES>() {
            None => self.last + 1,
            Some(number) => u32::from_le_bytes(*number),
        };
        // Ascending: no page is in it twice.
        if page <= self.last || page > self.pages {
            let (last, pages) = (self.last, self.pages);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("page: found {page} after {last}, expected a greater one up to {pages}"),
            ));
        }
        self.last = page;
        (self.take)(page, image)?;
        self.record.clear();
        Ok(())
    }
}

impl<F: FnMut(u32, &[u8]) -> io::Result<()>> Write for Pages<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let missing = self.number_bytes + self.page_size - self.record.len();
        let count = missing.min(bytes.len());
        self.record.extend_from_slice(&bytes[..count]);
        if count == missing {
            self.take_record()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first `left` bytes of a file, hashed on their way.
struct Hashing {
    file: File,
    hasher: blake3::Hasher,
    left: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::other("the file has become shorter"));
        }
        self.hasher.update(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}
