//! Files and directories for this account alone: how they are made, and how older ones are closed.
//!
//! Everything that is written below the data directory goes through here, for all of it shows the users' data. On Windows
//! files have the rights of their folder, which `tanist service install` closes.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// Deeper than this nothing of ours lies in a data directory.
const DEPTH: usize = 6;

/// Options to which a file that is made is its owner's alone.
#[must_use]
pub fn options() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a directory, and those above it that are missing, for this account alone. One that is there is left as it is.
///
/// # Errors
/// When the system refuses.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

/// Makes an empty file if there is none. SQLite takes it for a new database, and gives what it makes beside a database the
/// same rights.
///
/// # Errors
/// When the system refuses.
pub fn touch(path: &Path) -> io::Result<()> {
    match options().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Writes a file anew.
///
/// # Errors
/// When the system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut options().write(true).create(true).truncate(true).open(path)?, bytes)
}

/// Gives a file to whoever owns `directory`, where root has made it in another account's directory. Otherwise nothing is done.
///
/// # Errors
/// When the system refuses.
#[cfg(unix)]
pub fn give_to_owner_of(directory: &Path, file: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, lchown};
    let (owner, now) = (fs::metadata(directory)?, fs::symlink_metadata(file)?);
    if now.uid() != 0 || owner.uid() == 0 {
        return Ok(());
    }
    lchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Files have the rights of their folder there.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn give_to_owner_of(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Gives all files directly in `directory` to whoever owns it, as [`give_to_owner_of`] does.
///
/// # Errors
/// When the system refuses.
pub fn give_all_to_owner(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        give_to_owner_of(directory, &entry?.path())?;
    }
    Ok(())
}

/// What [`mend`] has closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mended {
    /// How many files and directories.
    pub count: usize,
    /// The first of them.
    pub first: Option<PathBuf>,
    /// The first that could not be closed, and why.
    pub failed: Option<(PathBuf, String)>,
}

/// Takes the rights of all others from a directory and all in it. Links are left alone, and what they lead to.
#[must_use]
pub fn mend(directory: &Path) -> Mended {
    closed(directory, DEPTH)
}

/// Takes the rights of all others from one file.
#[must_use]
pub fn mend_file(path: &Path) -> Mended {
    closed(path, 0)
}

#[cfg(unix)]
fn closed(path: &Path, depth: usize) -> Mended {
    let mut mended = Mended::default();
    close(path, depth, &mut mended);
    mended
}

#[cfg(not(unix))]
fn closed(_: &Path, _: usize) -> Mended {
    Mended::default()
}

/// The directory first: then nobody else can change what is in it meanwhile.
#[cfg(unix)]
fn close(path: &Path, depth: usize, mended: &mut Mended) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let is_dir = metadata.is_dir();
    if !is_dir && !metadata.is_file() {
        return;
    }
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        match fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7700)) {
            Ok(()) => {
                mended.count += 1;
                mended.first.get_or_insert_with(|| path.to_owned());
            }
            // What SQLite or another thread has just removed is no matter.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => drop(mended.failed.get_or_insert_with(|| (path.to_owned(), error.to_string()))),
        }
    }
    if is_dir && depth > 0 {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            close(&entry.path(), depth - 1, mended);
        }
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_made_is_its_owners_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let inner = dir.path().join("a/b");
        create_dir_all(&inner).unwrap();
        create_dir_all(&inner).unwrap();
        let (file, empty) = (inner.join("file"), inner.join("empty"));
        write(&file, b"x").unwrap();
        touch(&empty).unwrap();
        touch(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"x", "what is there stays");
        for (path, expected) in [(&inner, 0o700), (&file, 0o600), (&empty, 0o600)] {
            assert_eq!(mode(path), expected, "{}", path.display());
        }
        assert_eq!(mode(&dir.path().join("a")), 0o700);
    }

    #[test]
    fn older_files_are_closed_and_links_are_not_followed() {
        let (dir, other) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
        let elsewhere = other.path().join("elsewhere");
        fs::create_dir(dir.path().join("sub")).unwrap();
        let (file, run) = (dir.path().join("sub/file"), dir.path().join("run"));
        for path in [&file, &run, &elsewhere] {
            fs::write(path, "x").unwrap();
            chmod(path, 0o644);
        }
        chmod(&run, 0o755);
        symlink(&elsewhere, dir.path().join("link")).unwrap();
        symlink(other.path(), dir.path().join("dir-link")).unwrap();
        chmod(dir.path(), 0o755);
        let mended = mend(dir.path());
        assert_eq!((mended.count, mended.first.as_deref()), (4, Some(dir.path())));
        assert_eq!(mended.failed, None);
        assert_eq!((mode(dir.path()), mode(&file), mode(&run)), (0o700, 0o600, 0o700));
        assert_eq!(mode(&elsewhere), 0o644);
        assert_eq!(mend(dir.path()), Mended::default(), "nothing is left to do");
    }
}
