//! Clients that speak HTTPS.

use std::time::Duration;

use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::{Client, Consistency, Error};

use crate::{
    cluster::{Cluster, Layout, tanist},
    workload::{Workload, create_ledger, execute},
};

async fn secured() -> Cluster {
    Cluster::start(&Layout { tls: true, ..Layout::of(3) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_write_over_tls_through_a_failover() {
    let mut cluster = secured().await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let master = cluster.wait_master().await;
    cluster.kill(master);
    workload.wait_for(50).await;
    cluster.start_machine(master);
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for machine in 0..3 {
        outcome.assert_in(&cluster.data_dir(machine));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_known_by_the_authority_is_talked_to() {
    let (cluster, other) = (secured().await, secured().await);
    let client = cluster.client();
    create_ledger(&client).await;
    client
        .execute(execute(vec![Statement::with("INSERT INTO ledger VALUES (?)", vec![json!("x")])]))
        .await
        .unwrap();
    let short = Duration::from_secs(2);
    let query = QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] };

    let stranger = other.builder().hosts(&cluster.hosts()).deadline(short).build().unwrap();
    let error = stranger.query(query.clone(), Consistency::Strong, None).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("certificate")), "{error}");
    let plain =
        Client::builder().hosts(&cluster.hosts().replace("https", "http")).deadline(short).build().unwrap();
    plain.query(query.clone(), Consistency::Strong, None).await.unwrap_err();
    let nobody = Client::new(&cluster.hosts()).unwrap_err();
    assert!(matches!(&nobody, Error::Certificate(_)), "{nobody}");

    let (code, text) = tanist(&["query", "--hosts", &cluster.hosts(), "SELECT count(*) FROM ledger"]);
    assert!(code == Some(2) && text.contains("certificates:"), "{code:?} {text}");
    let answer = client.query(query, Consistency::Strong, None).await.unwrap();
    assert_eq!(answer.results[0].rows, vec![vec![json!(1)]]);
    cluster.assert_no_panic();
}

#[test]
fn certificate_that_cannot_be_used_is_named() {
    let layout = Layout { tls: true, ..Layout::of(1) };
    let files = |cluster: &Cluster| {
        let dir = cluster.machines[0].config.parent().unwrap().parent().unwrap().to_owned();
        (dir.join("tls.crt"), dir.join("tls.key"))
    };
    let refused = |cluster: &Cluster, expected: &[&str]| {
        let (code, text) = tanist(&["run", "--config", &cluster.machines[0].config.display().to_string()]);
        assert_eq!(code, Some(1), "{text}");
        for expected in expected {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    };
    let cluster = Cluster::lay_out(&layout);
    let (cert, key) = files(&cluster);
    let good = std::fs::read(&cert).unwrap();
    std::fs::remove_file(&cert).unwrap();
    refused(&cluster, &["tls.cert_file", &cert.display().to_string()]);
    std::fs::write(&cert, "no certificate").unwrap();
    refused(&cluster, &["tls.cert_file", "no certificate", "as PEM"]);
    std::fs::write(&cert, good).unwrap();
    // Another cluster's key.
    std::fs::copy(files(&Cluster::lay_out(&layout)).1, &key).unwrap();
    refused(&cluster, &["tls: the certificate and key can't be used"]);
}
