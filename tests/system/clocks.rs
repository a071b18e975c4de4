//! Wall clocks that are wrong, or jump: nothing is done twice.

use std::path::PathBuf;

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout},
    http_input::raw,
    power::shim,
    workload::create_ledger,
};

/// Writes `entry` once for the key of that name, and says whether the answer is an earlier one.
async fn keep(cluster: &Cluster, master: usize, entry: &str) -> bool {
    let body = format!(r#"{{"statements":[{{"sql":"INSERT INTO ledger VALUES ('{entry}')"}}]}}"#);
    let request = format!(
        "POST /v1/execute HTTP/1.1\r\nhost: localhost:{HTTP_PORT}\r\nconnection: close\r\nidempotency-key: {entry}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, answer) = raw(&cluster.machines[master].ip, request.into_bytes()).await;
    assert_eq!(status, 200, "{answer}");
    answer.to_ascii_lowercase().contains("idempotency-replayed: true")
}

#[tokio::test(flavor = "multi_thread")]
async fn master_with_a_wall_clock_hours_ahead_forgets_no_key() {
    let Some(library) = shim("clock") else { return };
    // Whatever is older than an hour goes, as far as the new master's first transaction sees.
    let extra = "[limits]\nrequest_retention = \"1h\"\n".to_owned();
    let mut cluster = Cluster::lay_out(&Layout { extra, ..Layout::of(3) });
    let clock = |cluster: &Cluster, i: usize| cluster.machines[i].config.with_file_name("clock");
    for i in 0..3 {
        let file: PathBuf = clock(&cluster, i);
        std::fs::write(&file, if i == 1 { "7200" } else { "0" }).unwrap();
        cluster.machines[i].environment =
            vec![("LD_PRELOAD", library.clone()), ("TANIST_CLOCK", file.clone())];
    }
    cluster.start_all();
    cluster.crown(0).await;
    cluster.wait_both_keep_up().await;
    create_ledger(&cluster.client()).await;
    assert!(!keep(&cluster, 0, "once").await);

    // It was two hours ahead from its start.
    cluster.kill(0);
    let second = cluster.wait_master().await;
    assert_eq!(second, 1);
    assert!(!keep(&cluster, 1, "first-write-of-the-second").await);
    assert!(keep(&cluster, 1, "once").await, "done twice\n{}", cluster.logs());

    // This one jumps while it runs.
    std::fs::write(clock(&cluster, 2), "14400").unwrap();
    cluster.crown(2).await;
    assert!(!keep(&cluster, 2, "first-write-of-the-third").await);
    assert!(keep(&cluster, 2, "once").await, "done twice\n{}", cluster.logs());

    let of = |sql: &str| crate::cluster::read::<i64>(&cluster.data_dir(2), sql);
    assert_eq!(of("SELECT count(*) FROM ledger WHERE entry = 'once'"), 1);
    let spread = "SELECT unixepoch(max(began_at)) - unixepoch(min(began_at)) FROM tanist_terms";
    assert!(of(spread) >= 14_000, "the clocks were not moved: {} s", of(spread));
    cluster.assert_no_panic();
}
