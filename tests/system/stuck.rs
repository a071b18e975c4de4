//! Threads that are busy or stuck with users' SQL: whoever operates the cluster is answered, and somebody serves.

use std::time::{Duration, Instant};

use tanist_api::{Access, QueryRequest, Statement, code};
use tanist_client::{Client, Consistency, Error};

use crate::{
    cluster::{Cluster, Layout},
    expensive::metrics,
    workload::{create_ledger, execute},
};

/// Runs until it is stopped.
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0";

/// A document with so many hits, and the search whose snippet compares each hit with each other: SQLite looks at no limit
/// meanwhile. 20,000 take 2 s, twice as many four times as long.
async fn document(client: &Client, hits: usize) -> String {
    let table = Statement::new("CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5(text)");
    let text = format!("INSERT INTO documents SELECT replace(printf('%.{hits}c', 'a'), 'a', 'a ')");
    client.execute(execute(vec![table, Statement::new(text)])).await.unwrap();
    "SELECT snippet(documents, 0, '', '', '', 10) FROM documents WHERE documents MATCH 'a'".to_owned()
}

async fn query(client: &Client, sql: &str) -> Result<(), Error> {
    let query = QueryRequest { statements: vec![Statement::new(sql)] };
    client.query(query, Consistency::Local, None).await.map(drop)
}

fn code_of(answer: Result<(), Error>) -> String {
    match answer {
        Err(Error::Problem(problem)) => problem.code.clone(),
        other => panic!("expected a problem, found {other:?}"),
    }
}

fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("no such metric");
    line.trim().parse().unwrap()
}

async fn ready(cluster: &Cluster, i: usize) -> u16 {
    let request = crate::http_input::request("GET", "/readyz", b"");
    crate::http_input::raw(&cluster.machines[i].ip, request).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn all_readers_and_the_writer_are_busy_and_operators_are_answered() {
    let extra = "[limits]\nstatement_time = \"8s\"\n".to_owned();
    let cluster = Cluster::start(&Layout { extra, tokens: true, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    let reading = client.make_token("reading", Access::Read).await.unwrap();
    let late = client.make_token("late", Access::Operate).await.unwrap();
    let with = |token: &str| {
        let builder = cluster.builder().hosts(&cluster.url(master));
        builder.token(token).unwrap().build().unwrap()
    };
    let busy: Vec<_> = (0..6)
        .map(|_| {
            let client = with(&reading.token);
            tokio::spawn(async move { query(&client, ENDLESS).await })
        })
        .collect();
    let writer = client.clone();
    let writing = tokio::spawn(async move { writer.execute(execute(vec![Statement::new(ENDLESS)])).await });
    tokio::time::sleep(Duration::from_millis(500)).await; // they have begun; nothing here hangs on it

    // This token was never seen before, so the table of tokens is read for it.
    let began = Instant::now();
    let operator = with(&late.token);
    operator.cluster_of(&cluster.url(master)).await.unwrap();
    assert_eq!(ready(&cluster, master).await, 200);
    let unknown = with("tanist_nobody").cluster_of(&cluster.url(master)).await;
    assert!(
        matches!(&unknown, Err(Error::Problem(problem)) if problem.code == code::UNAUTHORIZED),
        "{unknown:?}"
    );
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    // A handover needs the store thread: it is answered in time, and done when that is free.
    let heir = operator.cluster_of(&cluster.url(master)).await.unwrap().chain[1].clone();
    let asked = Instant::now();
    let answer = operator.promote(&heir).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{answer:?} after {:?}", asked.elapsed());
    if let Err(error) = answer {
        assert!(
            matches!(&error, Error::Problem(problem) if problem.code == code::HANDOVER_FAILED),
            "{error:?}"
        );
    }
    for reader in busy {
        reader.abort();
    }
    let _ = writing.await; // its client may have given up before
    cluster.crown(cluster.index_of(&heir)).await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_readers_are_replaced_and_then_reads_are_refused_by_name() {
    let extra = "[limits]\nstatement_time = \"500ms\"\n".to_owned();
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(1) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let search = document(&client, 50_000).await;
    let send = || {
        let (hostile, search) = (cluster.client(), search.clone());
        tokio::spawn(async move { query(&hostile, &search).await })
    };
    // Two readers: both get stuck.
    let stuck = [send(), send()];
    let began = Instant::now();
    for hostile in stuck {
        assert_eq!(code_of(hostile.await.unwrap()), code::STATEMENT_TIMEOUT, "answered although it goes on");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    query(&client, "SELECT count(*) FROM ledger").await.unwrap();
    let text = metrics(&cluster, 0).await;
    assert!(value(&text, "tanist_readers_replaced_total") >= 1, "{text}");
    // They end, sooner or later, and are gone.
    cluster
        .wait("no reader is stuck any more", || async {
            (value(&metrics(&cluster, 0).await, "tanist_readers_stuck") == 0).then_some(())
        })
        .await;
    query(&client, "SELECT count(*) FROM ledger").await.unwrap();
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn store_thread_that_is_stuck_costs_the_throne_and_in_the_end_the_process() {
    let extra = "[limits]\nstatement_time = \"500ms\"\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    let hostile = cluster.client_of(master);
    // Minutes of it.
    let search = document(&client, 150_000).await;
    let sent = tokio::spawn(async move { hostile.execute(execute(vec![Statement::new(search)])).await });
    cluster
        .wait("it says that it isn't ready", || async {
            (ready(&cluster, master).await == 503).then_some(())
        })
        .await;
    let text = metrics(&cluster, master).await;
    assert_eq!(value(&text, "tanist_store_stuck"), 1, "{text}");
    // The handover can't be finished by it; its process ends, and another reigns.
    let child = cluster.machines[master].child.as_mut().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "its process goes on\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    cluster.machines[master].child = None;
    assert!(!status.success(), "{status}");
    assert!(cluster.log_of(master).contains("the store thread is stuck"), "{}", cluster.log_of(master));
    let next = cluster.wait_master().await;
    assert_ne!(next, master);
    client.execute(execute(vec![Statement::new("INSERT INTO ledger VALUES ('after')")])).await.unwrap();
    assert!(sent.await.unwrap().is_err());
    cluster.start_machine(master);
    cluster.wait_back(master).await;
    cluster.assert_no_panic();
    cluster.assert_identical().await;
}
