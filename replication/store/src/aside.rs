//! Puts a replica aside that SQLite can't read, so that another can take its place.
//!
//! Owns the directory `unreadable` in the data directory: the last one that was put aside, for whoever wants to look into it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    DATABASE_FILE,
    connection::sync_dir,
    error::StoreError,
    memory::{Mark, Memory},
    private,
};

/// Directory in the data directory.
const ASIDE: &str = "unreadable";

/// Moves the database and what belongs to it away. What this machine had stored stays remembered: until it was brought in
/// line its new, empty replica counts for nothing. Gives the place.
///
/// # Errors
/// When the system refuses.
pub fn put_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let place = dir.join(ASIDE);
    let error = |source| StoreError::io(&place, "put a replica aside that can't be read", source);
    match fs::remove_dir_all(&place) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    private::create_dir_all(&place).map_err(error)?;
    // Durable before there is an empty one in its place.
    let (memory, _) = Memory::open(dir)?;
    memory.set(|facts| (facts.mark, facts.clean) = (Mark::Lost, false))?;
    for end in ["-wal", "-shm", ""] {
        let name = format!("{DATABASE_FILE}{end}");
        match fs::rename(dir.join(&name), place.join(&name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
            _ => {}
        }
    }
    sync_dir(&place)?;
    sync_dir(dir)?;
    Ok(place)
}
