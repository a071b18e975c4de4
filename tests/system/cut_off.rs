//! Machines cut off from the others: a minority answers nothing, and coming back disturbs nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::Consistency;

use crate::{
    cluster::{Cluster, Layout, PEER_PORT},
    proxy::Proxy,
    workload::{Workload, create_ledger, execute},
};

pub type Proxies = Arc<BTreeMap<(usize, usize), Proxy>>;

/// Three machines whose peer links all run through relays.
pub async fn cuttable(extra: &str) -> (Cluster, Proxies) {
    // The addresses are drawn when the cluster is laid out; the relays learn their targets from the first layout.
    let mut cluster = Cluster::lay_out(&Layout::of(3));
    let mut proxies = BTreeMap::new();
    for from in 0..3 {
        for to in 0..3 {
            if from != to {
                let target = format!("{}:{PEER_PORT}", cluster.machines[to].ip);
                proxies.insert((from, to), Proxy::start(target));
            }
        }
    }
    for (from, machine) in cluster.machines.iter().enumerate() {
        let mut text = std::fs::read_to_string(&machine.config).unwrap();
        for (to, other) in cluster.machines.iter().enumerate() {
            if from != to {
                let direct = format!("peer = [\"{}:{PEER_PORT}\"]", other.ip);
                let through = format!("peer = [\"{}\"]", proxies[&(from, to)].address);
                assert!(text.contains(&direct));
                text = text.replace(&direct, &through);
            }
        }
        text = text.replacen("[listen]", &format!("{extra}\n[listen]"), 1);
        std::fs::write(&machine.config, text).unwrap();
    }
    cluster.start_all();
    cluster.wait_master().await;
    (cluster, Arc::new(proxies))
}

pub fn isolate(proxies: &Proxies, machine: usize) {
    for ((from, to), proxy) in proxies.iter() {
        if *from == machine || *to == machine {
            proxy.cut();
        }
    }
}

pub fn mend(proxies: &Proxies) {
    for proxy in proxies.values() {
        proxy.mend();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_master_answers_nothing_once_another_reigns() {
    let (cluster, proxies) = cuttable("").await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.execute(execute(vec![Statement::new("INSERT INTO ledger VALUES ('before')")])).await.unwrap();
    let old = cluster.wait_master().await;
    isolate(&proxies, old);
    let others = (0..3).filter(|i| *i != old).map(|i| cluster.url(i)).collect::<Vec<_>>().join(",");
    let others = tanist_client::Client::new(&others).unwrap();
    others.execute(execute(vec![Statement::new("INSERT INTO ledger VALUES ('after')")])).await.unwrap();
    // The others have acknowledged: from now on the old master must not answer.
    let old_alone = tanist_client::Client::builder()
        .hosts(&cluster.url(old))
        .deadline(Duration::from_millis(700))
        .build()
        .unwrap();
    let query = QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] };
    for _ in 0..3 {
        let read = old_alone.query(query.clone(), Consistency::Strong, None).await;
        assert!(read.is_err(), "a master without majority answered a strong read: {read:?}");
    }
    let write = old_alone
        .execute(execute(vec![Statement::with("INSERT INTO ledger VALUES (?)", vec![json!("lost")])]))
        .await;
    assert!(write.is_err(), "a master without majority acknowledged a write: {write:?}");
    let view = cluster.view(old).await.unwrap();
    assert!(!view.writable, "{view:?}");
    assert!(view.notice.is_some(), "it says why: {view:?}");
    // Its own replica can still be read, and says how old it is.
    old_alone.query(query.clone(), Consistency::Local, None).await.unwrap();

    mend(&proxies);
    cluster.assert_identical().await;
    let answer = client.query(query, Consistency::Strong, None).await.unwrap();
    assert_eq!(answer.results[0].rows, vec![vec![json!(2)]]);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_cut_off_and_back_disturbs_nobody() {
    let (cluster, proxies) = cuttable("").await;
    let client = cluster.client();
    create_ledger(&client).await;
    let master = cluster.wait_master().await;
    let term = cluster.view(master).await.unwrap().term;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let away = (master + 1) % 3;
    isolate(&proxies, away);
    let id = cluster.machines[away].id.clone();
    cluster
        .wait("it has noticed that it is alone", || async {
            cluster.view(away).await.ok().filter(|view| view.master.is_none()).map(drop)
        })
        .await;
    workload.wait_for(100).await;
    mend(&proxies);
    cluster
        .wait("it streams again", || async {
            let view = cluster.view(master).await.ok()?;
            let back = view.members.iter().find(|member| member.id == id)?;
            (back.progress.as_deref() == Some("stream")).then_some(())
        })
        .await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    let view = cluster.view(master).await.unwrap();
    assert_eq!(view.term, term, "nobody had to be elected:\n{}", cluster.logs());
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_alone_when_a_backup_is_demanded() {
    let (cluster, proxies) = cuttable("[replication]\nmin_sync_backups = 1\n").await;
    let client = cluster.client();
    create_ledger(&client).await;
    let master = cluster.wait_master().await;
    // Both backups still vote through nobody: cut only what carries data to the master's backups would be finer; here
    // one stays reachable, so writes go on with it.
    isolate(&proxies, (master + 1) % 3);
    client.execute(execute(vec![Statement::new("INSERT INTO ledger VALUES ('one backup')")])).await.unwrap();
    mend(&proxies);
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}
