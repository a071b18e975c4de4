//! Copies of a machine's disk, disks that were set back in time, and replicas of other clusters: told apart, and refused by name.

use std::path::{Path, PathBuf};

use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout, tanist},
    workload::{Workload, create_ledger, execute},
};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The replica of a machine that stands still, and nothing else of it.
fn copy_replica(from: &Path, to: &Path) {
    for name in ["state.db", "state.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Ends when the process has ended by itself; its exit code.
async fn ended(cluster: &mut Cluster, i: usize) -> Option<i32> {
    let mut child = cluster.machines[i].child.take().unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if std::time::Instant::now() > until {
            let _ = child.kill();
            panic!("it doesn't end\n{}", cluster.log_of(i));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn config(cluster: &Cluster, i: usize) -> String {
    cluster.machines[i].config.to_str().unwrap().to_owned()
}

/// A backup of three, and where its machine's data is kept beside.
async fn three() -> (Cluster, usize, PathBuf) {
    let cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    cluster.wait_both_keep_up().await;
    let backup = (cluster.wait_master().await + 1) % 3;
    cluster
        .wait("node.db knows the cluster's founding", || async {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let node = rusqlite::Connection::open_with_flags(cluster.data_dir(backup).join("node.db"), flags)
                .ok()?;
            node.query_row("SELECT founding FROM identity", [], |row| row.get::<_, Option<Vec<u8>>>(0))
                .ok()?
        })
        .await;
    let aside = cluster.data_dir(backup).with_file_name("aside");
    (cluster, backup, aside)
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_disk_is_refused_by_those_who_saw_the_original_since_and_adopted_by_one_command() {
    let (mut cluster, backup, aside) = three().await;
    let data = cluster.data_dir(backup);
    assert!(cluster.terminate(backup).success());
    copy(&data, &aside);
    cluster.start_machine(backup);
    cluster.wait_back(backup).await;
    cluster.terminate(backup);
    // The copy takes the name: the same files, as they were before.
    std::fs::rename(&data, data.with_file_name("original")).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(10).await;
    cluster.start_machine(backup);
    cluster
        .wait("it is told that it is a copy", || async {
            cluster
                .log_of(backup)
                .contains("If this is the one that keeps the name, stop it and run `tanist adopt` here")
                .then_some(())
        })
        .await;
    workload.wait_for(10).await;
    let others = (0..3).filter(|i| *i != backup);
    assert!(
        others.clone().any(|i| cluster
            .log_of(i)
            .contains("has another data directory than the one that is known here"))
    );
    let master = cluster.wait_master().await;
    let view = cluster.view(master).await.unwrap();
    let member = view.members.iter().find(|member| member.id == cluster.machines[backup].id).unwrap();
    assert_ne!(member.progress.as_deref(), Some("stream"), "{member:?}");
    // It says so itself, to whoever looks at it.
    cluster
        .wait("its notice says so", || async {
            cluster.view(backup).await.ok()?.notice.filter(|notice| notice.contains("tanist adopt")).map(drop)
        })
        .await;
    cluster.terminate(backup);
    let (code, text) = tanist(&["adopt", "--config", &config(&cluster, backup)]);
    assert_eq!(code, Some(0), "{text}");
    cluster.start_machine(backup);
    cluster.wait_back(backup).await;
    // And now it is the original that isn't let in.
    cluster.terminate(backup);
    std::fs::rename(&data, &aside).unwrap();
    std::fs::rename(data.with_file_name("original"), &data).unwrap();
    let before = cluster.log_of(backup).matches("run `tanist adopt` here").count();
    cluster.start_machine(backup);
    cluster
        .wait("the original is told so", || async {
            (cluster.log_of(backup).matches("run `tanist adopt` here").count() > before).then_some(())
        })
        .await;
    cluster.kill(backup);
    // An empty disk takes the name, as ever: nothing of it can be old.
    std::fs::remove_dir_all(&data).unwrap();
    cluster.start_machine(backup);
    cluster.wait_back(backup).await;
    workload.finish_on(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_disk_on_another_computer_takes_part_in_nothing_until_it_is_adopted() {
    let mut cluster = Cluster::lay_out(&Layout::of(3));
    for (i, machine) in cluster.machines.iter_mut().enumerate() {
        machine.environment.push(("TANIST_MACHINE", format!("computer-{i}").into()));
    }
    cluster.start_all();
    create_ledger(&cluster.client()).await;
    cluster.wait_both_keep_up().await;
    let backup = (cluster.wait_master().await + 1) % 3;
    assert!(cluster.terminate(backup).success());
    let elsewhere = vec![("TANIST_MACHINE", PathBuf::from("another computer"))];
    cluster.machines[backup].environment.clone_from(&elsewhere);
    cluster.start_machine(backup);
    assert_eq!(ended(&mut cluster, backup).await, Some(1));
    let log = cluster.log_of(backup);
    assert!(log.contains("belongs to another computer") && log.contains("`tanist adopt`"), "{log}");
    // On its own computer it goes on as if nothing had been.
    cluster.machines[backup].environment = vec![("TANIST_MACHINE", format!("computer-{backup}").into())];
    cluster.start_machine(backup);
    cluster.wait_back(backup).await;
    cluster.terminate(backup);
    let adopted = std::process::Command::new(crate::cluster::binary())
        .args(["adopt", "--config", &config(&cluster, backup)])
        .env("TANIST_MACHINE", &elsewhere[0].1)
        .output()
        .unwrap();
    assert!(adopted.status.success(), "{adopted:?}");
    cluster.machines[backup].environment = elsewhere;
    cluster.start_machine(backup);
    cluster.wait_back(backup).await;
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_of_another_cluster_is_refused_by_name_with_and_without_node_db() {
    let (mut cluster, backup, aside) = three().await;
    let data = cluster.data_dir(backup);
    // A cluster of the same name, founded for itself.
    let mut other = Cluster::of(1).await;
    let sql = ["CREATE TABLE t(x)", "INSERT INTO t VALUES (1)"].map(Statement::new).to_vec();
    other.client().execute(execute(sql)).await.unwrap();
    assert!(other.terminate(0).success());
    assert!(cluster.terminate(backup).success());
    // Beside this machine's own node.db it can't be its replica.
    std::fs::rename(data.join("state.db"), &aside).unwrap();
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(data.join(format!("state.db{end}")));
    }
    copy_replica(&other.data_dir(0), &data);
    cluster.start_machine(backup);
    assert_eq!(ended(&mut cluster, backup).await, Some(1));
    let log = cluster.log_of(backup);
    assert!(log.contains("it holds the data of another cluster of this name"), "{log}");
    assert!(log.contains("Move state.db"), "{log}");
    // Without node.db the others know it.
    std::fs::remove_file(data.join("node.db")).unwrap();
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(data.join(format!("node.db{end}")));
    }
    cluster.start_machine(backup);
    cluster
        .wait("it is refused by name", || async {
            cluster
                .log_of(backup)
                .contains("hold data of two clusters, founded apart under one name")
                .then_some(())
        })
        .await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    assert!(cluster.data_dir(backup).join("state.db").exists(), "it was left as it is");
    assert!(!cluster.data_dir(backup).join("divergence").exists());
    cluster.kill(backup);
    // The way out that it names.
    for name in ["state.db", "state.db-wal", "state.db-shm", "node.db", "node.db-wal", "node.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    cluster.start_machine(backup);
    cluster.wait_back(backup).await;
    workload.finish_on(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_of_a_cluster_of_another_name_is_refused_at_the_start() {
    let mut cluster = Cluster::of(1).await;
    cluster.client().execute(execute(vec![Statement::new("CREATE TABLE t(x)")])).await.unwrap();
    assert!(cluster.terminate(0).success());
    let mut other = Cluster::lay_out(&Layout::of(1));
    let file = &other.machines[0].config;
    let text = std::fs::read_to_string(file).unwrap().replace("cluster = \"test\"", "cluster = \"other\"");
    crate::cluster::write_secret(file, &text);
    std::fs::create_dir_all(other.data_dir(0)).unwrap();
    copy_replica(&cluster.data_dir(0), &other.data_dir(0));
    other.start_machine(0);
    assert_eq!(ended(&mut other, 0).await, Some(1));
    let log = other.log_of(0);
    assert!(log.contains("it holds the data of cluster \"test\"") && log.contains("\"other\""), "{log}");
}
