//! Clients that speak HTTPS.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::{Client, Consistency, Error};

use crate::{
    cluster::{Cluster, Layout, make_certificate, tanist, write_secret},
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

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.machines[0].config.parent().unwrap().parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_read_again_when_it_changes_and_a_bad_one_is_refused() {
    let cluster = Cluster::start(&Layout { tls: true, ..Layout::of(1) }).await;
    create_ledger(&cluster.client()).await;
    let says = async |what: &str| {
        cluster.wait(what, || async { cluster.log_of(0).contains(what).then_some(()) }).await;
    };
    let query = || QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] };
    let ask = async |client: &Client| client.query(query(), Consistency::Strong, None).await;
    // Each on a connection of its own.
    let before =
        || cluster.builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(2)).build().unwrap();

    std::fs::write(folder(&cluster).join("tls.crt"), "no certificate").unwrap();
    says("refused, the old configuration stays in force").await;
    ask(&before()).await.unwrap();

    let ips = [cluster.machines[0].ip.clone()];
    let authority = make_certificate(&folder(&cluster), &ips);
    let after = || {
        let builder = Client::builder().ca_pem(&authority).unwrap();
        builder.hosts(&cluster.hosts()).deadline(Duration::from_secs(2)).build().unwrap()
    };
    cluster.wait("the new one is shown", || async { ask(&after()).await.ok() }).await;
    says("the files of tls").await;
    let error = ask(&before()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    // One whose end is near.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ending = rcgen::CertificateParams::new(ips.to_vec()).unwrap();
    let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
        + Duration::from_secs(20 * 86_400 + 60);
    ending.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.as_secs());
    let made = ending.self_signed(&key).unwrap();
    std::fs::write(folder(&cluster).join("tls.crt"), made.pem()).unwrap();
    write_secret(&folder(&cluster).join("tls.key"), &key.serialize_pem());
    says("the certificate for clients ends soon").await;
    assert!(cluster.log_of(0).contains("days=20"), "{}", cluster.log_of(0));
    let url = format!("{}/metrics", cluster.url(0));
    let shown = std::process::Command::new("curl").args(["-sk", &url]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let expected = format!("tanist_tls_certificate_end_seconds {}", end.as_secs());
    assert!(shown.contains(&expected), "{expected}: {shown}");
    let (_, doctor) = tanist(&["doctor", "--config", &cluster.machines[0].config.display().to_string()]);
    assert!(doctor.contains("ends in 20 days"), "{doctor}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_where_one_is_asked_for() {
    let mut cluster = Cluster::lay_out(&Layout { tls: true, ..Layout::of(1) });
    // The authority of clients is another than that of machines.
    let theirs = tempfile::TempDir::new().unwrap();
    let ca = theirs.path().join("ca.crt");
    std::fs::write(&ca, make_certificate(theirs.path(), &["panel-1".to_owned()])).unwrap();
    let (cert, key) = (theirs.path().join("tls.crt"), theirs.path().join("tls.key"));
    let config = cluster.machines[0].config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    write_secret(&config, &text.replace("[tls]\n", &format!("[tls]\nclient_ca_file = {ca:?}\n")));
    cluster.start_all();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let builder = || cluster.builder().hosts(&cluster.hosts()).deadline(Duration::from_secs(2));
    let known = builder().identity_pem(&read(&cert), &read(&key)).unwrap().build().unwrap();
    cluster
        .wait("whoever shows one is let in", || async {
            let made = vec![Statement::new("CREATE TABLE IF NOT EXISTS ledger(entry TEXT NOT NULL)")];
            known.execute(execute(made)).await.ok()
        })
        .await;

    let query = || QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] };
    let nobody = builder().build().unwrap();
    nobody.query(query(), Consistency::Strong, None).await.unwrap_err();
    let strange = tempfile::TempDir::new().unwrap();
    make_certificate(strange.path(), &["panel-1".to_owned()]);
    let (other, its_key) = (read(&strange.path().join("tls.crt")), read(&strange.path().join("tls.key")));
    let stranger = builder().identity_pem(&other, &its_key).unwrap().build().unwrap();
    stranger.query(query(), Consistency::Strong, None).await.unwrap_err();
    let mixed = builder().identity_pem(&read(&cert), &its_key).unwrap().build().unwrap_err();
    assert!(matches!(&mixed, Error::Certificate(_)), "{mixed}");

    let machines = theirs.path().join("machines.crt");
    std::fs::write(&machines, cluster.authority()).unwrap();
    let of = |path: &Path| path.display().to_string();
    let hosts = cluster.hosts();
    let (ca, cert, key) = (of(&machines), of(&cert), of(&key));
    let ask = ["query", "--hosts", &hosts, "--ca-file", &ca, "SELECT count(*) FROM ledger"];
    let (code, text) = tanist(&[ask.as_slice(), &["--client-cert", &cert, "--client-key", &key]].concat());
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = tanist(&[ask.as_slice(), &["--deadline", "2"]].concat());
    assert_eq!(code, Some(3), "{text}");
    cluster.assert_no_panic();
}
