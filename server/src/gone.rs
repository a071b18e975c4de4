//! Sees that the files of a running machine are still there: removed, or replaced, they go on taking writes that end with the
//! process.
//!
//! Owns how files are known again: by device and number, where the system has that. In a thread of its own, since a disk that
//! hangs makes every look hang. Read `driver.rs` for what is done.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use tanist_replication::Complaint;
use tokio::sync::mpsc as channel;

use crate::driver::Control;

const EVERY: Duration = Duration::from_millis(500);
/// So many looks in a row must miss a file.
const LOOKS: u32 = 2;
const FILES: [&str; 5] = ["state.db", "state.db-wal", "state.db-shm", "node.db", "node.db-wal"];

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    let file = std::fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        Ok(Identity { device: file.dev(), number: file.ino() })
    }
    // There what is open can't be removed nor replaced.
    #[cfg(not(unix))]
    {
        drop(file);
        Ok(Identity { device: 0, number: 0 })
    }
}

/// The files as they were when all of them were open.
#[derive(Debug)]
struct Files(Vec<(PathBuf, Identity)>);

impl Files {
    fn of(directory: &Path) -> Files {
        let paths = FILES.iter().map(|name| directory.join(name));
        Files(paths.filter_map(|path| Some((path.clone(), identity(&path).ok()?))).collect())
    }

    /// What is missing, if anything is.
    fn missing(&self) -> Option<String> {
        self.0.iter().find_map(|(path, was)| match identity(path) {
            Ok(now) if now == *was => None,
            Ok(_) => Some(format!("{} is another file than the one in use", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some(format!("{} was removed", path.display()))
            }
            // That the disk can't be asked is another's matter.
            Err(_) => None,
        })
    }
}

/// The thread; dropped, it ends by itself.
#[derive(Debug)]
pub(crate) struct Gone {
    _stop: mpsc::Sender<()>,
}

impl Gone {
    /// Looks from now on; all files are open.
    pub(crate) fn watch(directory: &Path, control: channel::Sender<Control>) -> std::io::Result<Gone> {
        let files = Files::of(directory);
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            let mut looks = 0;
            while stopped.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                let Some(what) = files.missing() else {
                    looks = 0;
                    continue;
                };
                looks += 1;
                if looks < LOOKS {
                    continue;
                }
                let why = format!(
                    "{what} while this machine runs: what it stores is in open files alone, and ends with its process"
                );
                let _ = control.blocking_send(Control::Gone(Complaint::new(&why)));
                return;
            }
        };
        thread::Builder::new().name("files".into()).spawn(run)?;
        Ok(Gone { _stop: stop })
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_replaced_files_are_missed_and_rewritten_ones_are_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["state.db", "state.db-wal", "node.db"] {
            std::fs::write(path(name), name).unwrap();
        }
        let files = Files::of(dir.path());
        assert_eq!(files.missing(), None, "what wasn't there isn't missed");
        std::fs::write(path("state.db-wal"), "longer than before").unwrap();
        assert_eq!(files.missing(), None);
        std::fs::rename(path("node.db"), path("kept")).unwrap();
        assert!(files.missing().unwrap().ends_with("node.db was removed"));
        std::fs::write(path("node.db"), "new").unwrap();
        assert!(files.missing().unwrap().contains("another file"));
        std::fs::rename(path("kept"), path("node.db")).unwrap();
        assert_eq!(files.missing(), None);
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(files.missing().is_some());
    }
}
