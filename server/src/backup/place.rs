//! On which disk scheduled copies are: when a mount is missing, they would fill the system's own disk.
//!
//! Owns one mark in the data directory: copies have gone to another disk than the system's and the data's. From then on they go
//! nowhere else. Nothing is known before the first copy, nor on Windows, where a drive that is missing has no directory either.

use std::{
    io,
    path::{Path, PathBuf},
};

use tanist_store::private;

use super::schedule::KeepError;

/// Its first line is the directory.
const MARK: &str = "backup.apart";

fn mark(data: &Path) -> PathBuf {
    data.join(MARK)
}

/// Whether the directory, or the nearest one above it that is there, is on another disk than the system and the data.
#[cfg(unix)]
fn is_apart(directory: &Path, data: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|file| file.dev());
    let found = directory.ancestors().map(|path| if path == Path::new("") { Path::new(".") } else { path });
    let found = found.filter_map(device).next()?;
    Some(Some(found) != device(data) && Some(found) != device(Path::new("/")))
}

#[cfg(not(unix))]
fn is_apart(_: &Path, _: &Path) -> Option<bool> {
    None
}

/// Whether copies of this very directory have gone to another disk before.
fn was_apart(directory: &Path, data: &Path) -> bool {
    std::fs::read_to_string(mark(data)).is_ok_and(|known| known.trim_end() == directory.display().to_string())
}

/// # Errors
/// When the directory's disk isn't the one that copies went to before; nothing was made then.
pub(super) fn check(directory: &Path, data: &Path) -> Result<(), KeepError> {
    if was_apart(directory, data) && is_apart(directory, data) == Some(false) {
        return Err(KeepError::Unmounted { path: directory.to_owned(), mark: mark(data) });
    }
    Ok(())
}

/// The directory is where copies should go.
///
/// # Errors
/// When the mark can't be written.
pub(super) fn remember(directory: &Path, data: &Path) -> io::Result<()> {
    if is_apart(directory, data) == Some(true) && !was_apart(directory, data) {
        private::write(&mark(data), format!("{}\n", directory.display()).as_bytes())?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directory_whose_disk_is_away_is_refused_and_left_empty() {
        let (data, system) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let Ok(disk) = tempfile::tempdir_in("/dev/shm") else { return };
        // What a mount does: the same name leads elsewhere.
        let name = data.path().join("copies");
        let mount = |to: &Path| {
            let _ = std::fs::remove_file(&name);
            symlink(to, &name).unwrap();
        };
        mount(disk.path());
        let directory = name.join("tanist");
        if is_apart(&directory, data.path()) != Some(true) {
            eprintln!("/dev/shm is no file system of its own here: left out");
            return;
        }
        check(&directory, data.path()).unwrap();
        std::fs::create_dir(&directory).unwrap();
        remember(&directory, data.path()).unwrap();
        check(&directory, data.path()).unwrap();
        mount(system.path());
        let error = check(&directory, data.path()).unwrap_err().to_string();
        assert!(error.contains("is it mounted?") && error.contains(MARK), "{error}");
        assert!(!directory.exists(), "nothing was made");
        // Another directory in the configuration is the administrator's word.
        check(&system.path().join("other"), data.path()).unwrap();
        mount(disk.path());
        check(&directory, data.path()).unwrap();
        mount(system.path());
        std::fs::remove_file(mark(data.path())).unwrap();
        check(&directory, data.path()).unwrap();
    }
}
