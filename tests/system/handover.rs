//! The throne is handed over, by command and by a stop, under load from the client library and from plain curl.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use serde_json::json;
use tanist_api::code;
use tanist_client::Error;

use crate::{
    cluster::{Cluster, Layout, read, tanist},
    workload::{Workload, create_ledger},
};

/// Plain curl, which follows redirects and repeats nothing: writes one row after the other through one machine.
struct Curl {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Curl {
    /// `None` when there is no curl on this computer.
    fn start(url: &str, tag: &str) -> Option<Curl> {
        if Command::new("curl").arg("--version").output().is_err() {
            eprintln!("no curl here: left out");
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url, tag) = (Arc::clone(&stop), format!("{url}/v1/execute"), tag.to_owned());
        let thread = std::thread::spawn(move || {
            let mut written = 0;
            while !stopped.load(Ordering::Relaxed) {
                let entry = format!("{tag}/{written}");
                let body =
                    json!({"statements": [{"sql": "INSERT INTO curled VALUES (?)", "params": [entry]}]});
                let answer = Command::new("curl")
                    .args(["-sS", "-L", "--max-time", "20", "-w", "\n%{http_code}", "-d", &body.to_string()])
                    .args(["-H", "content-type: application/json", &url])
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&answer.stdout);
                let told = String::from_utf8_lossy(&answer.stderr);
                assert!(text.ends_with("\n200"), "write {written} through {url}: {text} {told}");
                written += 1;
            }
            written
        });
        Some(Curl { stop, thread })
    }

    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn rounds() -> usize {
    std::env::var("TANIST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

fn tell(cluster: &Cluster, args: &[&str]) -> (bool, String) {
    let (code, text) = tanist(&[args, &["--hosts", &cluster.hosts()]].concat());
    (code == Some(0), text)
}

async fn create_tables(cluster: &Cluster) {
    let client = cluster.client();
    create_ledger(&client).await;
    let create = tanist_api::Statement::new("CREATE TABLE curled(entry TEXT UNIQUE)");
    client.execute(crate::workload::execute(vec![create])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn throne_is_handed_around_and_no_request_fails() {
    let cluster = Cluster::of(3).await;
    create_tables(&cluster).await;
    let workload = Workload::start(&cluster.client(), 3, "w");
    let curls: Vec<_> = (0..3).filter_map(|i| Curl::start(&cluster.url(i), &format!("c{i}"))).collect();
    workload.wait_for(30).await;
    let mut gaps = vec![];
    for round in 0..rounds() {
        let master = cluster.wait_master().await;
        workload.take_longest_gap();
        let next = (master + 1 + round % 2) % 3;
        let (done, text) = if round % 3 == 2 {
            tell(&cluster, &["demote"])
        } else {
            tell(&cluster, &["promote", &format!("pc-{}", next + 1)])
        };
        assert!(done, "{text}\n{}", cluster.logs());
        assert!(text.contains(" reigns in term "), "{text}");
        let now = cluster.wait_master().await;
        assert!(now != master && (now == next || round % 3 == 2), "pc-{} reigns: {text}", now + 1);
        workload.wait_for(30).await;
        gaps.push(workload.take_longest_gap());
    }
    let curled: usize = curls.into_iter().map(Curl::finish).sum();
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
        let found = read::<i64>(&cluster.data_dir(i), "SELECT count(*) FROM curled");
        assert_eq!(found, i64::try_from(curled).unwrap());
    }
    cluster.assert_no_panic();
    println!(
        "{} and {curled} writes over {} handovers; longest gaps {gaps:?}",
        outcome.acknowledged.len(),
        gaps.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn master_is_restarted_by_sigterm_and_no_request_fails() {
    let mut cluster = Cluster::of(3).await;
    create_tables(&cluster).await;
    let workload = Workload::start(&cluster.client(), 3, "w");
    // pc-3 is never the one that stops: who asks it must not notice.
    let curl = Curl::start(&cluster.url(2), "c");
    for _ in 0..rounds() {
        workload.wait_for(30).await;
        let master = cluster.wait_master().await;
        let stopped = if master == 2 { 0 } else { master };
        let status = cluster.terminate(stopped);
        assert!(status.success(), "{status}\n{}", cluster.log_of(stopped));
        workload.wait_for(30).await;
        cluster.start_machine(stopped);
        cluster.wait_back(stopped).await;
    }
    let curled = curl.map_or(0, Curl::finish);
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(2));
    let found = read::<i64>(&cluster.data_dir(2), "SELECT count(*) FROM curled");
    assert_eq!(found, i64::try_from(curled).unwrap());
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn handover_that_cannot_be_is_refused_with_the_reason_and_the_reign_goes_on() {
    let layout = Layout { ranks: vec![1, 2, 0], ..Layout::of(0) };
    let mut cluster = Cluster::start(&layout).await;
    cluster.crown(0).await;
    let term = cluster.view(0).await.unwrap().term;
    create_tables(&cluster).await;
    let client = cluster.client();
    let refused = |result: Result<_, Error>| match result {
        Err(Error::Problem(problem)) => (problem.status, problem.code.clone(), problem.detail),
        other => panic!("{other:?}"),
    };
    let (status, _, detail) = refused(client.promote("pc-9").await);
    assert_eq!((status, detail.as_str()), (400, "member: found \"pc-9\", expected one of pc-1, pc-2, pc-3"));
    let (status, problem, detail) = refused(client.promote("pc-3").await);
    assert_eq!((status, problem.as_str()), (409, code::HANDOVER_FAILED));
    assert!(detail.contains("witness"), "{detail}");
    assert_eq!(client.promote("pc-1").await.unwrap().master, "pc-1", "it is so already");
    assert_eq!(client.demote("pc-2").await.unwrap().master, "pc-1", "it is so already");
    cluster.kill(1);
    cluster
        .wait("pc-1 is alone", || async { (cluster.view(0).await.ok()?.sync_set.len() == 1).then_some(()) })
        .await;
    let (status, _, detail) = refused(client.demote("pc-1").await);
    assert!(status == 409 && detail.contains("no backup"), "{status} {detail}");
    let (done, text) = tell(&cluster, &["promote", "pc-2"]);
    assert!(!done && text.contains("pc-2 doesn't answer"), "{text}");
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    workload.finish().await;
    assert_eq!(cluster.view(0).await.unwrap().term, term);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn throne_goes_back_to_the_better_rank_after_the_quiet_period_if_so_configured() {
    let layout = Layout { extra: "[timing]\nfailback = \"2s\"".to_owned(), ..Layout::of(3) };
    let mut cluster = Cluster::start(&layout).await;
    create_tables(&cluster).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    cluster.crown(0).await;
    cluster.kill(0);
    workload.wait_for(20).await;
    assert_eq!(cluster.wait_master().await, 1);
    cluster.start_machine(0);
    cluster
        .wait("pc-1 reigns again", || async { cluster.master().await.filter(|master| *master == 0) })
        .await;
    workload.wait_for(20).await;
    assert!(cluster.log_of(1).contains("failback"), "{}", cluster.logs());
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(0));
    cluster.assert_no_panic();
}
