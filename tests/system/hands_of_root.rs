//! What commands leave for the machine's own account when root runs them, and what they say of files that aren't all there.
#![cfg(unix)]

use std::os::unix::fs::{MetadataExt as _, chown};

use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout, tanist},
    workload::execute,
};

/// An account that is nobody's.
const OTHER: u32 = 65_534;

#[tokio::test(flavor = "multi_thread")]
async fn restore_by_root_leaves_the_data_directory_to_its_owner() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can give files away: left out");
        return;
    }
    let cluster = Cluster::of(1).await;
    cluster.client().execute(execute(vec![Statement::new("CREATE TABLE t(x)")])).await.unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let copy = dir.path().join("copy.db.zst");
    let config = cluster.machines[0].config.to_str().unwrap();
    let (code, text) = tanist(&["backup", "--config", config, "--out", copy.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let new = Cluster::lay_out(&Layout::of(1));
    let config = new.machines[0].config.clone();
    let text = std::fs::read_to_string(&config).unwrap().replace("cluster = \"test\"", "cluster = \"new\"");
    crate::cluster::write_secret(&config, &text);
    let data = new.data_dir(0);
    std::fs::create_dir(&data).unwrap();
    chown(&data, Some(OTHER), Some(OTHER)).unwrap();
    let (code, text) = tanist(&["restore", copy.to_str().unwrap(), "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let mut found = 0;
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        let owner = entry.metadata().unwrap();
        assert_eq!((owner.uid(), owner.gid()), (OTHER, OTHER), "{}", entry.path().display());
        found += 1;
    }
    assert!(found >= 2, "state.db and node.db at least");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_a_database_whose_wal_is_missing() {
    let mut cluster = Cluster::of(1).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE t(x)")])).await.unwrap();
    // The first process leaves all in state.db, the second its last transaction in the WAL.
    cluster.terminate(0);
    cluster.start_machine(0);
    client.execute(execute(vec![Statement::new("INSERT INTO t VALUES (1)")])).await.unwrap();
    cluster.kill(0);
    let file = cluster.data_dir(0).join("state.db");
    let (code, text) = tanist(&["verify", file.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("Sound"), "{text}");
    std::fs::remove_file(cluster.data_dir(0).join("state.db-wal")).unwrap();
    let _ = std::fs::remove_file(cluster.data_dir(0).join("state.db-shm"));
    let (code, text) = tanist(&["verify", file.to_str().unwrap()]);
    assert!(code == Some(1) && text.contains("state.db-wal is missing"), "{code:?} {text}");
    // Of a file that somebody has copied alone nobody knows.
    let dir = tempfile::TempDir::new().unwrap();
    let copied = dir.path().join("copied.db");
    std::fs::copy(&file, &copied).unwrap();
    let (_, text) = tanist(&["verify", copied.to_str().unwrap()]);
    assert!(!text.contains("Sound") || text.contains("No -wal file stands beside it"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_master_the_notice_names_the_holders_that_are_here() {
    let mut cluster = Cluster::of(3).await;
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    let set = cluster.view(master).await.unwrap().sync_set;
    let holder = cluster.index_of(set.iter().find(|id| **id != cluster.machines[master].id).unwrap());
    let other = (0..3).find(|i| *i != master && *i != holder).unwrap();
    for i in [other, master] {
        cluster.kill(i);
    }
    let notice = cluster
        .wait("it says that nobody is the master", || async {
            cluster.view(holder).await.ok()?.notice.filter(|notice| notice.contains("no master"))
        })
        .await;
    let here = format!("of these {} is here", cluster.machines[holder].id);
    assert!(notice.contains(&here) && !notice.contains("votes"), "{notice}");
    let tried = format!("tried {}: connection refused", cluster.machines[master.min(other)].id);
    cluster
        .wait("it says what was tried", || async {
            cluster.view(holder).await.ok()?.notice.filter(|notice| notice.contains(&tried)).map(drop)
        })
        .await;
    // The machine that holds nothing of it says so, and whom to start.
    cluster.kill(holder);
    cluster.start_machine(other);
    let notice = cluster
        .wait("it says that the data isn't here", || async {
            cluster.view(other).await.ok()?.notice.filter(|notice| notice.contains("no master"))
        })
        .await;
    assert!(notice.contains("none of these is reached from here"), "{notice}");
}
