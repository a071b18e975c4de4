//! Machines cut off from the others: a minority answers nothing, and coming back disturbs nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::Consistency;

use crate::{
    cluster::{Cluster, Layout, PEER_PORT},
    proxy::{Link, Proxy},
    workload::{Workload, create_ledger, execute},
};

/// The links between all machines, by who opens them and to whom.
pub struct Links {
    links: BTreeMap<(usize, usize), Arc<Link>>,
    /// By the machine that they are in front of.
    proxies: Vec<Option<Proxy>>,
}

impl Links {
    /// What forwards to this machine's peer port is gone: its connections are closed at both ends, and new ones refused.
    pub fn forwarder_dies(&mut self, machine: usize) {
        self.proxies[machine] = None;
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, &Link)> {
        self.links.iter().map(|((from, to), link)| (*from, *to, &**link))
    }
}

/// Three machines that know each other only by the addresses of relays.
pub async fn cuttable(extra: &str) -> (Cluster, Links) {
    cuttable_of(&[1, 2, 3], extra).await
}

/// Machines of these ranks, likewise.
pub async fn cuttable_of(ranks: &[u32], extra: &str) -> (Cluster, Links) {
    let (mut cluster, links) = laid_out(ranks, &|_| extra.to_owned());
    cluster.start_all();
    cluster.wait_master().await;
    (cluster, links)
}

/// The same, not started, each with a text of its own in its file.
pub fn laid_out(ranks: &[u32], extra: &dyn Fn(usize) -> String) -> (Cluster, Links) {
    let count = u32::try_from(ranks.len()).unwrap();
    let cluster = Cluster::lay_out(&Layout { ranks: ranks.to_vec(), ..Layout::of(count) });
    let mut links = BTreeMap::new();
    let mut proxies = vec![];
    let mut relayed = vec![];
    for (to, machine) in cluster.machines.iter().enumerate() {
        let direct = format!("{}:{PEER_PORT}", machine.ip);
        let (listener, address) = Proxy::listen();
        let mut to_it = BTreeMap::new();
        for (from, other) in cluster.machines.iter().enumerate().filter(|(from, _)| *from != to) {
            let link = links.entry((from, to)).or_insert_with(|| Arc::new(Link::default()));
            to_it.insert(other.id.clone(), Arc::clone(link));
        }
        proxies.push(Some(Proxy::start(listener, direct.clone(), to_it)));
        relayed.push((format!("peer = [\"{direct}\"]"), format!("peer = [\"{address}\"]")));
    }
    for (i, machine) in cluster.machines.iter().enumerate() {
        let mut text = std::fs::read_to_string(&machine.config).unwrap();
        for (direct, through) in &relayed {
            assert!(text.contains(direct));
            text = text.replace(direct, through);
        }
        text = text.replacen("[listen]", &format!("{}\n[listen]", extra(i)), 1);
        std::fs::write(&machine.config, text).unwrap();
    }
    (cluster, Links { links, proxies })
}

pub fn isolate(links: &Links, machine: usize) {
    for (_, _, link) in links.iter().filter(|(from, to, _)| *from == machine || *to == machine) {
        link.cut();
    }
}

pub fn mend(links: &Links) {
    for (_, _, link) in links.iter() {
        link.mend();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_master_answers_nothing_once_another_reigns() {
    let (cluster, links) = cuttable("").await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.execute(execute(vec![Statement::new("INSERT INTO ledger VALUES ('before')")])).await.unwrap();
    let old = cluster.wait_master().await;
    isolate(&links, old);
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

    mend(&links);
    cluster.assert_identical().await;
    let answer = client.query(query, Consistency::Strong, None).await.unwrap();
    assert_eq!(answer.results[0].rows, vec![vec![json!(2)]]);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_cut_off_and_back_disturbs_nobody() {
    // Long enough that a busy computer or disk alone costs no lease.
    let (cluster, links) = cuttable("[timing]\nlease = \"10s\"\nsync_timeout = \"4s\"\n").await;
    let client = cluster.client();
    create_ledger(&client).await;
    let master = cluster.wait_master().await;
    let term = cluster.view(master).await.unwrap().term;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let away = (master + 1) % 3;
    isolate(&links, away);
    let id = cluster.machines[away].id.clone();
    cluster
        .wait("it has noticed that it is alone", || async {
            cluster.view(away).await.ok().filter(|view| view.master.is_none()).map(drop)
        })
        .await;
    workload.wait_for(100).await;
    mend(&links);
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
    let (cluster, links) = cuttable("[replication]\nmin_sync_backups = 1\n").await;
    let client = cluster.client();
    create_ledger(&client).await;
    let master = cluster.wait_master().await;
    // Both backups still vote through nobody: cut only what carries data to the master's backups would be finer; here
    // one stays reachable, so writes go on with it.
    isolate(&links, (master + 1) % 3);
    client.execute(execute(vec![Statement::new("INSERT INTO ledger VALUES ('one backup')")])).await.unwrap();
    mend(&links);
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}
