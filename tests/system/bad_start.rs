//! A machine that can't start says why, names the thing, and changes nothing.

use std::time::Duration;

use crate::{
    cluster::{Cluster, Layout, PEER_PORT, addresses, tanist},
    workload::create_ledger,
};

/// Runs `tanist run` until it ends by itself; gives its exit code and what it said.
fn run_to_end(config: &std::path::Path) -> (Option<i32>, String) {
    tanist(&["run", "--config", config.to_str().unwrap()])
}

fn assert_refused(config: &std::path::Path, names: &[&str]) {
    let (code, text) = run_to_end(config);
    assert!(code.is_some_and(|code| code != 0), "exit {code:?}: {text}");
    for name in names {
        assert!(text.contains(name), "expected {name:?} in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert!(text.matches("(os error").count() <= 1, "the system's word is told once: {text}");
}

#[test]
fn bad_configuration_is_refused_by_field() {
    let cluster = Cluster::lay_out(&Layout::of(1));
    let config = &cluster.machines[0].config;
    let good = std::fs::read_to_string(config).unwrap();
    let cases: Vec<(String, Vec<&str>)> = vec![
        (good.replace("id = \"pc-1\"\ndata", "id = \"pc-9\"\ndata"), vec!["pc-9"]),
        (good.replace("cluster = \"test\"", ""), vec!["cluster"]),
        (good.replace("[listen]", "wrong_field = 1\n[listen]"), vec!["wrong_field"]),
        (format!("{good}\n[timing]\nlease = \"10ms\"\n"), vec!["lease"]),
        (format!("{good}\n[timing]\nheartbeat = \"soon\"\n"), vec!["heartbeat", "soon"]),
        (good.replace("rank = 1", "rank = -1"), vec!["rank"]),
        (good.replace("key = \"", "key = \"short"), vec!["key"]),
        ("{".to_owned(), vec!["tanist.toml"]),
    ];
    for (text, names) in cases {
        std::fs::write(config, text).unwrap();
        assert_refused(config, &names);
    }
    std::fs::remove_file(config).unwrap();
    assert_refused(config, &["tanist.toml"]);
    assert!(!cluster.data_dir(0).exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn used_directory_and_used_port_are_named() {
    let cluster = Cluster::of(1).await;
    assert_refused(&cluster.machines[0].config, &["in use", "data"]);
    let other = Cluster::lay_out(&Layout::of(1));
    let text = std::fs::read_to_string(&other.machines[0].config).unwrap();
    std::fs::write(&other.machines[0].config, text.replace(&other.machines[0].ip, &cluster.machines[0].ip))
        .unwrap();
    assert_refused(&other.machines[0].config, &["listen.http", &cluster.machines[0].ip]);
}

#[test]
fn damaged_and_foreign_data_directories_are_named() {
    let cluster = Cluster::lay_out(&Layout::of(1));
    let data = cluster.data_dir(0);
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("state.db"), vec![7u8; 8192]).unwrap();
    assert_refused(&cluster.machines[0].config, &["state.db"]);
    assert_eq!(std::fs::read(data.join("state.db")).unwrap(), vec![7u8; 8192], "left as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_key_and_other_cluster_are_named_and_let_nobody_in() {
    let mut cluster = Cluster::of(3).await;
    let stranger = addresses(1).remove(0);
    for (change, expected) in
        [(("key = \"AAEC", "key = \"BBEC"), "key"), (("cluster = \"test\"", "cluster = \"other\""), "other")]
    {
        let i = (cluster.wait_master().await + 1) % 3;
        cluster.terminate(i);
        let config = cluster.machines[i].config.clone();
        let good = std::fs::read_to_string(&config).unwrap();
        let data = cluster.data_dir(i);
        let kept = data.with_file_name("kept");
        std::fs::rename(&data, &kept).unwrap();
        std::fs::write(&config, good.replace(change.0, change.1)).unwrap();
        cluster.start_machine(i);
        let id = cluster.machines[i].id.clone();
        cluster
            .wait(&format!("both sides name the {expected}"), || async {
                let own = cluster.log_of(i).contains(expected);
                let seen = (0..3).filter(|j| *j != i).any(|j| {
                    let log = cluster.log_of(j);
                    log.lines().any(|line| line.contains("WARN") && line.contains(expected))
                });
                (own && seen).then_some(())
            })
            .await;
        let master = cluster.wait_master().await;
        let view = cluster.view(master).await.unwrap();
        let member = view.members.iter().find(|member| member.id == id).unwrap();
        assert_ne!(member.progress.as_deref(), Some("stream"));
        cluster.kill(i);
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&kept, &data).unwrap();
        std::fs::write(&config, good).unwrap();
        cluster.start_machine(i);
        cluster.assert_identical().await;
    }
    // Bytes from a stranger close his connection and nothing else.
    let _ = stranger;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 70000], b"TNST"] {
        use std::io::Write as _;
        let address = format!("{}:{PEER_PORT}", cluster.machines[0].ip);
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(garbage);
    }
    cluster
        .client()
        .execute(crate::workload::execute(vec![tanist_api::Statement::new("CREATE TABLE t(x)")]))
        .await
        .unwrap();
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_replica_that_cannot_be_read_is_named_and_left_as_it_is() {
    let mut cluster = Cluster::of(1).await;
    create_ledger(&cluster.client()).await;
    assert!(cluster.terminate(0).success());
    let file = cluster.data_dir(0).join("state.db");
    std::fs::write(&file, vec![7u8; 8192]).unwrap();
    assert_refused(&cluster.machines[0].config, &["state.db", "not a SQLite database", "move state.db"]);
    assert_eq!(std::fs::read(&file).unwrap(), vec![7u8; 8192]);
}
