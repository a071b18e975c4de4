//! Who holds the write lock of `state.db`, when it isn't this process: for messages, nothing is decided by it.
//!
//! Owns nothing. Never opens the database or its shared memory, since closing them would drop this process's own locks. Read
//! `obstacle.rs` for who asks.

use std::path::Path;

/// Where SQLite's write lock is in the `-shm` file.
#[cfg(target_os = "linux")]
const WRITE_LOCK_BYTE: u64 = 120;
/// So much of a program's name is told.
#[cfg(target_os = "linux")]
const NAME_CHARACTERS: usize = 32;

/// The program that holds the write lock, in words, such as `sqlite3 (process 4711)`.
pub(crate) fn describe(directory: &Path) -> String {
    find(directory).unwrap_or_else(|| "another program".to_owned())
}

#[cfg(target_os = "linux")]
fn find(directory: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;

    let inode = std::fs::metadata(directory.join("state.db-shm")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let own = std::process::id();
    let process = locks.lines().find_map(|line| holder(line, inode).filter(|process| *process != own))?;
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    // It is whatever the program calls itself.
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(NAME_CHARACTERS).collect();
    let name = if name.is_empty() { "another program" } else { &name };
    Some(format!("{name} (process {process})"))
}

/// The process of a line of `/proc/locks` that locks the byte in the file with this number.
#[cfg(target_os = "linux")]
fn holder(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "POSIX").skip(3);
    let process = words.next()?.parse().ok()?;
    let file = words.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
    let first = words.next()?.parse::<u64>().ok()?;
    let last = words.next()?.parse::<u64>().unwrap_or(u64::MAX);
    (file == inode && (first..=last).contains(&WRITE_LOCK_BYTE)).then_some(process)
}

#[cfg(not(target_os = "linux"))]
fn find(_: &Path) -> Option<String> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn line_of_locks_names_its_process_if_it_is_about_the_byte() {
        assert_eq!(holder("4: POSIX  ADVISORY  WRITE 31 fe:00:1804 120 120", 1804), Some(31));
        assert_eq!(holder("4: POSIX  ADVISORY  READ 31 fe:00:1804 0 EOF", 1804), Some(31));
        assert_eq!(holder("4: POSIX  ADVISORY  WRITE 31 fe:00:1804 121 127", 1804), None, "another byte");
        assert_eq!(holder("4: POSIX  ADVISORY  WRITE 31 fe:00:1805 120 120", 1804), None, "another file");
        assert_eq!(holder("4: -> POSIX  ADVISORY  WRITE 31 fe:00:1804 120 120", 1804), Some(31));
        assert_eq!(holder("4: FLOCK  ADVISORY  WRITE 31 fe:00:1804 0 EOF", 1804), None);
        assert_eq!(holder("", 1804), None);
    }
}
