//! Directories for the files that targets damage.

use std::path::Path;

use tempfile::{Builder, TempDir};

/// A directory that is gone when dropped; in memory where that can be had, since nothing here tests a disk.
pub(crate) fn directory() -> std::io::Result<TempDir> {
    let mut builder = Builder::new();
    builder.prefix("tanist-fuzz-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())
}

/// Another directory with the same files.
pub(crate) fn copy(from: &Path) -> std::io::Result<TempDir> {
    let to = directory()?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.path().join(entry.file_name()))?;
    }
    Ok(to)
}
