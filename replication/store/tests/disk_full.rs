//! A full disk. The test runs itself again where a small file system is mounted that nobody else sees.
#![allow(clippy::unwrap_used)]

mod common;

use common::{TERM, new_master, transaction};
use tanist_store::{Captured, Database, Options, StoreError, database_checksum};

/// Set in the process that has the small disk.
const SMALL_DISK: &str = "TANIST_SMALL_DISK";
const NAME: &str = "full_disk_is_reported_as_such_and_nothing_is_half_done";

#[test]
fn full_disk_is_reported_as_such_and_nothing_is_half_done() {
    match std::env::var_os(SMALL_DISK) {
        Some(disk) => fill(&std::path::PathBuf::from(disk)),
        None => on_small_disk(),
    }
}

fn on_small_disk() {
    let mount = tempfile::TempDir::new().unwrap();
    let unshare = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script]).env(SMALL_DISK, mount.path());
        command
    };
    let mounting = "mount -t tmpfs -o size=20m small \"$TANIST_SMALL_DISK\"";
    if !unshare(mounting).output().is_ok_and(|output| output.status.success()) {
        eprintln!("this computer lets nobody mount a file system of his own: left out");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let script = format!("{mounting} && exec \"{}\" --exact {NAME} --nocapture", program.display());
    let output = unshare(&script).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn fill(small: &std::path::Path) {
    let (small, large) = (tempfile::TempDir::new_in(small).unwrap(), tempfile::TempDir::new().unwrap());
    for backup_is_small in [true, false] {
        let (master_dir, backup_dir) = if backup_is_small { (&large, &small) } else { (&small, &large) };
        let (master_dir, backup_dir) = (master_dir.path().join("m"), backup_dir.path().join("b"));
        std::fs::create_dir(&master_dir).unwrap();
        std::fs::create_dir(&backup_dir).unwrap();
        let (mut master, first) = new_master(&master_dir, Options::default());
        let mut backup = Database::open(&backup_dir, Options::default()).unwrap();
        backup.apply(&first).unwrap();
        let mut failed = None;
        for n in 0..100 {
            let mut batch = master.begin(TERM).unwrap();
            let write = batch.request(|c| {
                c.execute("CREATE TABLE IF NOT EXISTS t (a)", [])?;
                c.execute("INSERT INTO t VALUES (randomblob(1000000))", [])
            });
            let captured = match write {
                Ok(Ok(_)) => batch.commit(),
                Ok(Err(error)) => panic!("{error}"),
                Err(error) => Err(error),
            };
            match captured {
                Ok(Captured::Transaction(transaction)) => {
                    let before = backup.stamp();
                    match backup.apply(std::slice::from_ref(&transaction)) {
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(backup.stamp(), before);
                            failed = Some((n, error, Some(transaction)));
                            break;
                        }
                    }
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    failed = Some((n, error, None));
                    break;
                }
            }
        }
        let (n, error, missed) = failed.unwrap();
        println!("after {n}: {error}");
        let typed = matches!(error, StoreError::DiskFull { .. } | StoreError::BatchLost { .. });
        assert!(typed, "{error:?}");
        // With room again everything goes on.
        drop(std::fs::remove_file(small.path().join("ballast")));
        if let Some(transaction) = missed {
            assert!(matches!(backup.apply(&[transaction]), Err(StoreError::DiskFull { .. })));
        }
        let outcome = if backup_is_small { backup.checkpoint_step() } else { master.checkpoint_step() };
        println!("checkpoint: {outcome:?}");
        if !backup_is_small {
            assert_eq!(database_checksum(&master_dir).unwrap().1, master.stamp());
            let mut batch = master.begin(TERM).unwrap();
            if let Ok(Ok(_)) = batch.request(|c| c.execute("DELETE FROM t WHERE rowid = 1", []))
                && let Ok(captured) = batch.commit()
            {
                backup.apply(&[transaction(captured)]).unwrap();
                assert_eq!(database_checksum(&master_dir).unwrap(), database_checksum(&backup_dir).unwrap());
            }
        }
        drop((master, backup));
        std::fs::remove_dir_all(&master_dir).unwrap();
        std::fs::remove_dir_all(&backup_dir).unwrap();
    }
}
