//! What is done to the files of a machine that stands still, or under one that runs: WALs that are cleared away, a person's
//! `sqlite3`, destroyed pages, directories that are removed. Nothing that was acknowledged is lost, and no write of a person's
//! without a word.

use std::path::Path;

use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout, read},
    outside::{Shell, leave, reports, wait_for_rows, write_to},
    workload::{Workload, create_ledger, execute},
};

const COUNT: &str = "SELECT count(*) FROM ledger";

async fn with_entries(count: u32) -> Cluster {
    let cluster = Cluster::of(count).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    workload.finish().await;
    cluster.settle().await;
    cluster
}

async fn insert(cluster: &Cluster, entry: &str) {
    let sql = format!("INSERT INTO ledger VALUES ('{entry}')");
    cluster.client().execute(execute(vec![Statement::new(sql)])).await.unwrap();
}

/// Clears away what lies beside the database file.
fn remove_beside(dir: &Path) {
    for name in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

fn new_log(cluster: &Cluster, i: usize, before: usize) -> String {
    cluster.log_of(i)[before..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn database_file_of_a_cleanly_stopped_machine_holds_everything() {
    let mut cluster = with_entries(3).await;
    insert(&cluster, "the last").await;
    cluster.settle().await;
    let mut logs = vec![];
    for i in 0..3 {
        let stopped = cluster.terminate(i);
        assert!(stopped.success());
        let (dir, copy) = (cluster.data_dir(i), tempfile::TempDir::new().unwrap());
        assert_eq!(std::fs::metadata(dir.join("state.db-wal")).map_or(0, |wal| wal.len()), 0);
        std::fs::copy(dir.join("state.db"), copy.path().join("state.db")).unwrap();
        assert_eq!(read::<i64>(copy.path(), &format!("{COUNT} WHERE entry = 'the last'")), 1);
        remove_beside(&dir);
        // A look changes nothing.
        let Some((ok, _)) = write_to(&dir, COUNT) else { return };
        assert!(ok);
        logs.push(cluster.log_of(i).len());
    }
    cluster.start_all();
    cluster.assert_identical().await;
    for (i, log) in logs.into_iter().enumerate() {
        let log = new_log(&cluster, i, log);
        assert!(!log.contains("isn't what this machine has left"), "{log}");
        assert_eq!(reports(&cluster, i), 0);
    }
    assert_eq!(read::<i64>(&cluster.data_dir(0), &format!("{COUNT} WHERE entry = 'the last'")), 1);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_behind_its_own_word_begins_no_term() {
    let mut cluster = with_entries(3).await;
    // From here on its file is whole, and an older state without its WAL.
    for i in 0..3 {
        assert!(cluster.terminate(i).success());
    }
    cluster.start_all();
    cluster.wait_both_keep_up().await;
    let last = cluster.wait_master().await;
    let others = [(last + 1) % 3, (last + 2) % 3];
    // A reader keeps the WAL from going into the file.
    let dir = cluster.data_dir(last);
    let Some(mut reader) = Shell::open(&dir) else { return };
    reader.say("BEGIN; SELECT 'reads' FROM ledger LIMIT 1;");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    for n in 0..6 {
        insert(&cluster, &format!("later {n}")).await;
    }
    cluster.settle().await;
    for other in others {
        assert!(cluster.terminate(other).success());
    }
    assert!(cluster.terminate(last).success());
    assert!(cluster.log_of(last).contains("Keep state.db-wal with it"), "{}", cluster.log_of(last));
    reader.kill();
    let kept = tempfile::TempDir::new().unwrap();
    std::fs::copy(dir.join("state.db-wal"), kept.path().join("state.db-wal")).unwrap();
    remove_beside(&dir);
    cluster.start_machine(last);
    cluster
        .wait("it says that it holds less than it had stored", || async {
            let notice = cluster.view(last).await.ok()?.notice?;
            (notice.contains("it can begin no term") && notice.contains("had stored")).then_some(())
        })
        .await;
    for other in others {
        cluster.start_machine(other);
    }
    // Whoever becomes the master, it isn't the one that has lost something; and where nobody can, its WAL brings all back.
    let mut waited = 0;
    let master = loop {
        if let Some(master) = cluster.master().await {
            break Some(master);
        }
        waited += 1;
        if waited > 50 {
            break None;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_ne!(master, Some(last), "{}", cluster.logs());
    if master.is_none() {
        cluster.kill(last);
        remove_beside(&dir);
        std::fs::copy(kept.path().join("state.db-wal"), dir.join("state.db-wal")).unwrap();
        cluster.start_machine(last);
    }
    cluster.wait_master().await;
    cluster.assert_identical().await;
    for i in 0..3 {
        assert_eq!(read::<i64>(&cluster.data_dir(i), &format!("{COUNT} WHERE entry LIKE 'later %'")), 6);
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_of_a_killed_machine_that_is_cleared_away_is_missed() {
    let mut cluster = with_entries(3).await;
    let backup = (cluster.wait_master().await + 1) % 3;
    // So that what is stored is in mind.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    cluster.kill(backup);
    remove_beside(&cluster.data_dir(backup));
    let before = cluster.log_of(backup).len();
    cluster.start_machine(backup);
    cluster
        .wait("it is brought in line", || async {
            new_log(&cluster, backup, before).contains("rejoin finished").then_some(())
        })
        .await;
    assert!(new_log(&cluster, backup, before).contains("this replica counts for nothing"));
    cluster.wait_both_keep_up().await;
    cluster.assert_identical().await;
    assert_eq!(reports(&cluster, backup), 0, "there is nothing that only it held");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_a_stopped_backup_are_noticed_and_saved() {
    let mut cluster = with_entries(3).await;
    let all = read::<i64>(&cluster.data_dir(0), COUNT);
    for (round, (sql, killed)) in [
        ("DELETE FROM ledger", false),
        ("VACUUM", false),
        ("INSERT INTO ledger VALUES ('by hand')", true),
        ("CREATE TABLE fix(a); INSERT INTO fix VALUES (1)", false),
    ]
    .into_iter()
    .enumerate()
    {
        cluster.wait_both_keep_up().await;
        let backup = (cluster.wait_master().await + 1) % 3;
        let seen = reports(&cluster, backup);
        if killed {
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            cluster.kill(backup);
        } else {
            assert!(cluster.terminate(backup).success());
        }
        let before = cluster.log_of(backup).len();
        let Some((ok, text)) = write_to(&cluster.data_dir(backup), sql) else { return };
        assert!(ok, "{text}");
        insert(&cluster, &format!("round {round}")).await;
        cluster.start_machine(backup);
        cluster
            .wait("it is brought in line", || async {
                new_log(&cluster, backup, before).contains("rejoin finished").then_some(())
            })
            .await;
        let log = new_log(&cluster, backup, before);
        assert!(log.contains("isn't what this machine has left"), "{sql}: {log}");
        assert!(reports(&cluster, backup) > seen || sql == "VACUUM", "{sql}: {log}");
        cluster.assert_identical().await;
        assert_eq!(read::<i64>(&cluster.data_dir(backup), COUNT), all + 1 + i64::try_from(round).unwrap());
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn edit_of_one_machine_while_all_stood_is_everywhere_or_in_a_report() {
    let mut cluster = with_entries(3).await;
    let fix = execute(vec![Statement::new("CREATE TABLE fix(a)")]);
    cluster.client().execute(fix).await.unwrap();
    for round in 0..3 {
        cluster.wait_both_keep_up().await;
        cluster.settle().await;
        for i in 0..3 {
            assert!(cluster.terminate(i).success());
        }
        let seen = reports(&cluster, round);
        let sql = format!("INSERT INTO fix VALUES ({round})");
        let Some((ok, text)) = write_to(&cluster.data_dir(round), &sql) else { return };
        assert!(ok, "{text}");
        cluster.start_all();
        cluster.wait_both_keep_up().await;
        cluster.assert_identical().await;
        let everywhere =
            read::<i64>(&cluster.data_dir(0), &format!("SELECT count(*) FROM fix WHERE a = {round}")) == 1;
        assert!(everywhere || reports(&cluster, round) > seen, "round {round}\n{}", cluster.logs());
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn edit_of_the_only_machine_while_it_stood_counts() {
    let mut cluster = with_entries(1).await;
    for round in 0..2 {
        if round == 0 {
            assert!(cluster.terminate(0).success());
        } else {
            cluster.kill(0);
        }
        let sql = format!("INSERT INTO ledger VALUES ('by hand {round}')");
        let Some((ok, text)) = write_to(&cluster.data_dir(0), &sql) else { return };
        assert!(ok, "{text}");
        cluster.start_machine(0);
        cluster.wait_master().await;
        wait_for_rows(&cluster, &format!("{COUNT} WHERE entry LIKE 'by hand %'"), round + 1).await;
    }
    // Numbered, it is like any other write.
    assert!(cluster.terminate(0).success());
    let before = cluster.log_of(0).len();
    cluster.start_machine(0);
    cluster.wait_master().await;
    let log = new_log(&cluster, 0, before);
    assert!(!log.contains("isn't what this machine has left"), "{log}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_sqlite_cannot_read_is_put_aside_and_replaced() {
    let mut cluster = with_entries(3).await;
    for destroyed in [vec![7u8; 8192], vec![0; 4096]] {
        cluster.wait_both_keep_up().await;
        let backup = (cluster.wait_master().await + 1) % 3;
        assert!(cluster.terminate(backup).success());
        let file = cluster.data_dir(backup).join("state.db");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[..destroyed.len()].copy_from_slice(&destroyed);
        std::fs::write(&file, &bytes).unwrap();
        cluster.start_machine(backup);
        cluster.wait_back(backup).await;
        cluster.assert_identical().await;
        assert!(std::fs::read(cluster.data_dir(backup).join("unreadable/state.db")).unwrap() == bytes);
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_lost_their_databases_found_no_cluster_anew() {
    let mut cluster = with_entries(3).await;
    for i in 0..3 {
        assert!(cluster.terminate(i).success());
        std::fs::remove_file(cluster.data_dir(i).join("state.db")).unwrap();
        remove_beside(&cluster.data_dir(i));
    }
    cluster.start_all();
    cluster
        .wait("each machine says what it has lost", || async {
            for i in 0..3 {
                let notice = cluster.view(i).await.ok()?.notice?;
                if !notice.contains("had stored") {
                    return None;
                }
            }
            Some(())
        })
        .await;
    // Longer than a lease, after which somebody would stand.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(cluster.master().await, None, "{}", cluster.logs());
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_whose_files_are_removed_while_it_runs_leaves_and_comes_back() {
    let cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    for round in 0..2 {
        cluster.wait_both_keep_up().await;
        let master = cluster.wait_master().await;
        let gone = if round == 0 { master } else { (master + 1) % 3 };
        let before = cluster.log_of(gone).len();
        // As often as it takes: something may be made in it meanwhile.
        while std::fs::remove_dir_all(cluster.data_dir(gone)).is_err() {}
        cluster
            .wait("it starts anew", || async {
                new_log(&cluster, gone, before).contains("starting anew").then_some(())
            })
            .await;
        cluster.wait_other_master(gone).await;
        let log = new_log(&cluster, gone, before);
        assert!(log.contains("was removed") && log.contains("while this machine runs"), "{log}");
        cluster.wait_back(gone).await;
        workload.wait_for(20).await;
    }
    workload.finish_on(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_machine_whose_database_is_replaced_under_it_stops_to_serve() {
    let mut cluster = with_entries(1).await;
    let dir = cluster.data_dir(0);
    std::fs::rename(dir.join("state.db"), dir.join("kept.db")).unwrap();
    std::fs::write(dir.join("state.db"), "").unwrap();
    cluster
        .wait("it says why it serves nobody", || async {
            let view = cluster.view(0).await.ok()?;
            (!view.writable && view.notice?.contains("another file than the one in use")).then_some(())
        })
        .await;
    let alive = cluster.machines[0].child.as_mut().unwrap().try_wait().unwrap();
    assert!(alive.is_none(), "its open files hold everything: it runs");
    std::fs::rename(dir.join("kept.db"), dir.join("state.db")).unwrap();
    assert!(cluster.terminate(0).success());
    cluster.start_machine(0);
    cluster.wait_master().await;
    assert!(read::<i64>(&dir, COUNT) >= 20);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn write_by_hand_right_before_a_restart_or_a_promotion_under_load_goes_along() {
    let layout = Layout { extra: String::new(), ..Layout::of(3) };
    let mut cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.execute(execute(vec![Statement::new("CREATE TABLE fix(a)")])).await.unwrap();
    let workload = Workload::start(&client, 4, "w");
    for round in 0..12 {
        cluster.wait_both_keep_up().await;
        let master = cluster.wait_master().await;
        let seen: Vec<_> = (0..3).map(|i| reports(&cluster, i)).collect();
        let sql = format!("INSERT INTO fix VALUES ({round})");
        let Some((ok, text)) = write_to(&cluster.data_dir(master), &sql) else { return };
        assert!(ok, "{text}");
        leave(&mut cluster, master, round).await;
        wait_for_rows(&cluster, &format!("SELECT count(*) FROM fix WHERE a = {round}"), 1).await;
        assert_eq!(seen, (0..3).map(|i| reports(&cluster, i)).collect::<Vec<_>>(), "round {round}");
    }
    workload.finish_on(&cluster).await;
}
