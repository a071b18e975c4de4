//! Syncs that hang or fail, and then a power cut: what a machine said it has stored is on its disk.

use tanist_api::Statement;

use crate::{
    cluster::Cluster,
    nemesis::Dice,
    power::{check_vote, log_dir, powered, read_copy, vote},
    power_log::{Kept, cut_keeping},
    workload::execute,
};

/// From now on a sync of the files of machine `i` whose names end so does not come back (`stuck`), or it fails (`fails`).
fn disturb(cluster: &Cluster, i: usize, how: &str, end: &str) {
    let log = log_dir(cluster, i);
    std::fs::write(log.join("new"), end).unwrap();
    std::fs::rename(log.join("new"), log.join(how)).unwrap();
}

fn kill_all(cluster: &mut Cluster) {
    for i in 0..cluster.machines.len() {
        if cluster.machines[i].child.is_some() {
            cluster.kill(i);
        }
    }
}

/// Starts machine `i` alone, with a disk that does its work, and cuts its power when it has said where it stands. Gives its
/// position and vote as they were before the cut. Nobody but the start itself can have synced them.
async fn start_and_cut(cluster: &mut Cluster, i: usize) -> (String, (i64, Option<String>)) {
    let log = log_dir(cluster, i);
    std::fs::remove_file(log.join("stuck")).unwrap();
    cluster.start_machine(i);
    let said = cluster
        .wait("it says where it stands", || async { Some(cluster.view(i).await.ok()?.position) })
        .await;
    let voted = vote(cluster, i);
    cluster.kill(i);
    cut_keeping(Kept::Nothing, &cluster.data_dir(i), &log, &mut Dice(1));
    (said, voted)
}

fn position(cluster: &Cluster, i: usize) -> String {
    let sql = "SELECT term || '.' || txid FROM tanist_position";
    read_copy(cluster, i, "state.db", |connection| connection.query_row(sql, [], |row| row.get(0)))
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_never_synced_is_synced_before_it_is_said_to_be_stored() {
    let Some(mut cluster) = powered(None).await else { return };
    cluster.settle().await;
    let backup = (cluster.wait_master().await + 1) % 3;
    let before = position(&cluster, backup);
    disturb(&cluster, backup, "stuck", "state.db-wal");
    let insert = Statement::new("INSERT INTO ledger(entry) VALUES ('unsynced')");
    let client = cluster.client();
    let write = tokio::spawn(async move { client.execute(execute(vec![insert])).await });
    cluster
        .wait("the backup has written what it can't sync", || async {
            (position(&cluster, backup) != before).then_some(())
        })
        .await;
    write.abort();
    kill_all(&mut cluster);
    let (said, _) = start_and_cut(&mut cluster, backup).await;
    assert_ne!(said, before);
    assert_eq!(position(&cluster, backup), said, "said to be stored, and lost\n{}", cluster.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_a_killed_process_never_synced_is_synced_before_it_counts() {
    let Some(mut cluster) = powered(None).await else { return };
    cluster.settle().await;
    let master = cluster.wait_master().await;
    let voter = (master + 1) % 3;
    let before = vote(&cluster, voter);
    disturb(&cluster, voter, "stuck", "node.db-wal");
    cluster.kill(master);
    cluster
        .wait("a vote is written that can't be synced", || async {
            (vote(&cluster, voter) != before).then_some(())
        })
        .await;
    kill_all(&mut cluster);
    let (_, voted) = start_and_cut(&mut cluster, voter).await;
    assert_ne!(voted, before);
    let kept = check_vote(&voted, &vote(&cluster, voter));
    kept.unwrap_or_else(|error| panic!("{error}\n{}", cluster.logs()));
}

async fn insert(cluster: &Cluster, entry: &str) {
    let insert = Statement::new(format!("INSERT INTO ledger(entry) VALUES ('{entry}')"));
    cluster.client().execute(execute(vec![insert])).await.unwrap();
}

fn is_marked(cluster: &Cluster, i: usize) -> bool {
    cluster.data_dir(i).join("state.db-doubt").exists()
}

/// The machine is in the sync set again, or streams, at the master's position; more is written, and it stores that, too. Then
/// its power fails, and everything is there.
async fn comes_back_whole(cluster: &mut Cluster, i: usize) {
    cluster.wait("its replica was written anew", || async { (!is_marked(cluster, i)).then_some(()) }).await;
    cluster.settle().await;
    insert(cluster, "later").await;
    cluster.settle().await;
    let said = cluster.view(i).await.unwrap().position;
    cluster.kill(i);
    let (data, log) = (cluster.data_dir(i), log_dir(cluster, i));
    cut_keeping(Kept::Nothing, &data, &log, &mut Dice(1));
    let later = read_copy(cluster, i, "state.db", |connection| {
        connection.query_row("SELECT count(*) FROM ledger WHERE entry = 'later'", [], |row| row.get(0))
    });
    let logs = cluster.logs();
    assert_eq!(later.ok(), Some(1), "stored at {said}, and now at {}\n{logs}", position(cluster, i));
    cluster.start_machine(i);
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

/// The system says once that a sync failed, and takes what it didn't write for written.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_sync_failed_once_is_written_anew_before_it_counts() {
    let Some(mut cluster) = powered(None).await else { return };
    cluster.settle().await;
    let backup = (cluster.wait_master().await + 1) % 3;
    disturb(&cluster, backup, "fails", "state.db-wal");
    insert(&cluster, "first").await;
    cluster
        .wait("the failure is known", || async {
            cluster.log_of(backup).contains("a sync of state.db or its WAL failed").then_some(())
        })
        .await;
    std::fs::remove_file(log_dir(&cluster, backup).join("fails")).unwrap();
    comes_back_whole(&mut cluster, backup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_sync_failed_once_ends_and_is_written_anew_before_it_counts() {
    let Some(mut cluster) = powered(None).await else { return };
    cluster.settle().await;
    let master = cluster.wait_master().await;
    disturb(&cluster, master, "fails", "state.db-wal");
    // Another machine takes it.
    insert(&cluster, "first").await;
    let child = cluster.machines[master].child.take().unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.unwrap().unwrap();
    assert!(is_marked(&cluster, master), "{}", cluster.logs());
    std::fs::remove_file(log_dir(&cluster, master).join("fails")).unwrap();
    cluster.start_machine(master);
    comes_back_whole(&mut cluster, master).await;
}
