//! A copy's file while it is written: under another name, until it is whole, proven and on the disk.

use std::{
    fs::{File, TryLockError},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{
    format::Manifest,
    read::{CopyError, unpack_file, unpack_pages_of},
};
use tanist_store::private;

use crate::durable;

/// How copies are named at their end.
pub(crate) const COPY_SUFFIX: &str = ".db.zst";
/// How increments are named at their end.
pub(super) const INCREMENT_SUFFIX: &str = ".pages.zst";

/// Where the increments that follow a copy are kept.
pub(super) fn increments_of(copy: &Path) -> PathBuf {
    let name = copy.file_name().unwrap_or_default().to_string_lossy();
    copy.with_file_name(format!("{}.increments", name.strip_suffix(COPY_SUFFIX).unwrap_or(&name)))
}

/// A copy that is being written. Dropped before [`CopyFile::finish`], it leaves nothing; killed, a `.partial` file, which
/// the next one with this name replaces.
#[derive(Debug)]
pub(crate) struct CopyFile {
    writer: Option<BufWriter<File>>,
    partial: PathBuf,
    path: PathBuf,
}

impl CopyFile {
    /// Begins the copy that will be `path`.
    ///
    /// # Errors
    /// When the file can't be made, or another process writes it.
    pub(crate) fn begin(path: &Path) -> Result<CopyFile, CopyError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let fail = |source| CopyError::Io { doing: "write", path: partial.clone(), source };
        let file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(fail(io::Error::other("another process is writing it")));
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        file.set_len(0).map_err(fail)?;
        let writer = Some(BufWriter::with_capacity(128 << 10, file));
        Ok(CopyFile { writer, partial, path: path.to_owned() })
    }

    /// Syncs it, reads it again in full, and gives it its name.
    ///
    /// # Errors
    /// When the disk refuses, or what was written isn't a whole copy: nothing has its name then.
    pub(crate) fn finish(self, progress: impl FnMut(u64)) -> Result<Manifest, CopyError> {
        self.name(|file, path| unpack_file(file, path, &mut io::sink(), progress))
    }

    /// The same for an increment too; `page` is shown each page that is read.
    ///
    /// # Errors
    /// As [`CopyFile::finish`].
    pub(super) fn finish_pages(self, mut page: impl FnMut(u32, &[u8])) -> Result<Manifest, CopyError> {
        self.name(|file, path| {
            unpack_pages_of(file, path, |number, image| {
                page(number, image);
                Ok(())
            })
        })
    }

    fn name(
        mut self,
        prove: impl FnOnce(File, &Path) -> Result<Manifest, CopyError>,
    ) -> Result<Manifest, CopyError> {
        let fail = |doing, path: &Path, source| CopyError::Io { doing, path: path.to_owned(), source };
        let Some(mut writer) = self.writer.take() else {
            return Err(CopyError::BrokenOff { path: self.partial.clone() });
        };
        let synced = writer.flush().and_then(|()| writer.get_ref().sync_all());
        synced.map_err(|source| fail("write", &self.partial, source))?;
        // By the same handle: the lock keeps all others out.
        let file = writer.get_ref().try_clone().map_err(|source| fail("read", &self.partial, source))?;
        let manifest = prove(file, &self.partial)?;
        // Closed before it gets another name: some systems want that.
        drop(writer);
        std::fs::rename(&self.partial, &self.path).map_err(|source| fail("rename", &self.partial, source))?;
        durable::sync_entry(&self.path).map_err(|source| fail("sync the name of", &self.path, source))?;
        Ok(manifest)
    }
}

impl Write for CopyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_mut().map_or(Ok(0), |writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), |writer| writer.flush())
    }
}

impl Drop for CopyFile {
    fn drop(&mut self) {
        self.writer = None;
        // Gone already when it has got its name.
        let _ = std::fs::remove_file(&self.partial);
    }
}
