//! A full disk. The test runs itself again where a small file system is mounted that nobody else sees.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Pair, TERM, exchange::rejoin, new_master, transaction};
use tanist_replication::Term;
use tanist_store::{Captured, Database, Options, StoreError, database_checksum, divergence_reports};

/// Set in the process that has the small disk.
const SMALL_DISK: &str = "TANIST_SMALL_DISK";

#[test]
fn full_disk_is_reported_as_such_and_nothing_is_half_done() {
    match std::env::var_os(SMALL_DISK) {
        Some(disk) => fill(&std::path::PathBuf::from(disk)),
        None => on_small_disk("full_disk_is_reported_as_such_and_nothing_is_half_done"),
    }
}

#[test]
fn rejoin_waits_for_room_before_it_replaces_what_only_this_replica_holds() {
    match std::env::var_os(SMALL_DISK) {
        Some(disk) => rejoin_without_room(&std::path::PathBuf::from(disk)),
        None => on_small_disk("rejoin_waits_for_room_before_it_replaces_what_only_this_replica_holds"),
    }
}

fn on_small_disk(name: &str) {
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
    let script = format!("{mounting} && exec \"{}\" --exact {name} --nocapture", program.display());
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

fn rejoin_without_room(small: &std::path::Path) {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t (a)");
    for _ in 0..4 {
        pair.step("INSERT INTO t VALUES (randomblob(1000000))");
    }
    let replica_dir = small.join("replica");
    std::fs::create_dir(&replica_dir).unwrap();
    let mut replica = Database::open(&replica_dir, Options::default()).unwrap();
    rejoin(pair.master_dir.path(), &mut replica).unwrap();
    replica.become_master().unwrap();
    replica.start_reign(Term(9), "pc-2", "alone").unwrap();
    replica.become_backup().unwrap();
    pair.commit("INSERT INTO t VALUES ('cluster')");
    let before = database_checksum(&replica_dir).unwrap();
    // Room for the pages that come, none for the comparison of rows.
    let ballast = small.join("ballast");
    std::fs::write(&ballast, vec![1; 20 << 20]).unwrap_err();
    let length = std::fs::metadata(&ballast).unwrap().len();
    std::fs::File::options().write(true).open(&ballast).unwrap().set_len(length - (1 << 20)).unwrap();
    for _ in 0..2 {
        let error = rejoin(pair.master_dir.path(), &mut replica).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        assert_eq!(database_checksum(&replica_dir).unwrap(), before);
        assert!(divergence_reports(&replica_dir).unwrap().is_empty());
        assert_eq!(
            std::fs::read_dir(replica_dir.join("divergence")).unwrap().count(),
            0,
            "nothing half-done stays"
        );
    }
    std::fs::remove_file(&ballast).unwrap();
    let (rejoined, traffic) = rejoin(pair.master_dir.path(), &mut replica).unwrap();
    assert_eq!(traffic.counts.received, 0, "what had come was kept");
    assert!(rejoined.report.is_some());
    assert_eq!(database_checksum(&replica_dir).unwrap(), database_checksum(pair.master_dir.path()).unwrap());
}
