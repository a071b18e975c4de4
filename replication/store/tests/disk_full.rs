//! A full disk: needs a small file system of its own, whose mount point `TANIST_SMALL_DISK` names (20 MB or so).
#![allow(clippy::unwrap_used)]

mod common;

use common::{TERM, new_master, transaction};
use tanist_store::{Captured, Database, Options, StoreError, database_checksum};

#[test]
#[ignore = "needs a small file system, named by TANIST_SMALL_DISK"]
fn full_disk_is_reported_as_such_and_nothing_is_half_done() {
    let small = std::path::PathBuf::from(std::env::var_os("TANIST_SMALL_DISK").unwrap());
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
