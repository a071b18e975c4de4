//! Replicas that can't be streamed to are brought in line by page hashes, whatever is killed meanwhile; what a diverged one
//! held is saved first.

use std::time::Duration;

use serde_json::json;
use tanist_api::{QueryRequest, RejoinProgress, Statement};
use tanist_client::{Client, Consistency};

use crate::{
    cluster::{Cluster, Layout, can_mount, read, tanist},
    cut_off::{Links, cuttable, isolate, mend},
    workload::{Workload, create_ledger, execute},
};

/// A table of random bytes, which no compression makes smaller.
async fn fill(client: &Client, megabytes: u32) {
    client.execute(execute(vec![Statement::new("CREATE TABLE big(data BLOB)")])).await.unwrap();
    for _ in 0..megabytes {
        let insert = Statement::with("INSERT INTO big VALUES (randomblob(?))", vec![json!(1_000_000)]);
        client.execute(execute(vec![insert])).await.unwrap();
    }
}

/// `name=value` in the newest of machine `i`'s log lines with `what`.
fn logged(cluster: &Cluster, i: usize, what: &str, name: &str) -> f64 {
    let log = cluster.log_of(i);
    let line =
        log.lines().rfind(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what:?} in {log}"));
    number(line, name)
}

/// Pages staged before, received, and of how many, of the rejoin that went on where another had broken off. Others may
/// follow it on a busy computer.
fn resumed(cluster: &Cluster, i: usize) -> (f64, f64, f64) {
    let log = cluster.log_of(i);
    let mut lines = log.lines();
    let begun = |line: &&str| {
        line.contains("rejoin: comparing with the master") && number(line, "staged_before") > 0.0
    };
    let begun = lines.find(begun).unwrap_or_else(|| panic!("no rejoin went on in {log}"));
    let ended = lines.find(|line| line.contains("rejoin: in line with the master"));
    let ended = ended.unwrap_or_else(|| panic!("no end of it in {log}"));
    (number(begun, "staged_before"), number(ended, "received_pages"), number(ended, "pages"))
}

fn number(line: &str, name: &str) -> f64 {
    let value = line.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("no {name} in {line}"));
    let value = value.split_whitespace().next().unwrap().trim_matches('"');
    value.parse().unwrap_or_else(|_| panic!("{name} in {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn diverged_master_gets_only_what_differs_and_saves_its_tail() {
    let (cluster, links) = cuttable("[timing]\nlease = \"3s\"\n").await;
    let client = cluster.client();
    let items = "CREATE TABLE item(id INTEGER PRIMARY KEY, note TEXT)";
    client.execute(execute(vec![Statement::new(items)])).await.unwrap();
    client.execute(execute(vec![Statement::new("INSERT INTO item VALUES (1, 'old')")])).await.unwrap();
    fill(&client, 8).await;
    cluster.assert_identical().await;
    let old = cluster.wait_master().await;
    isolate(&links, old);
    // Its lease lasts a little; nobody else gets to know what it takes now.
    let alone =
        Client::builder().hosts(&cluster.url(old)).deadline(Duration::from_millis(500)).build().unwrap();
    let tail = alone
        .execute(execute(vec![
            Statement::new("INSERT INTO item VALUES (100, 'only here')"),
            Statement::new("UPDATE item SET note = 'changed here' WHERE id = 1"),
        ]))
        .await;
    assert!(tail.is_err(), "nobody else has stored it: {tail:?}");
    assert_eq!(read::<i64>(&cluster.data_dir(old), "SELECT count(*) FROM item"), 2, "{}", cluster.logs());
    let others = (0..3).filter(|i| *i != old).map(|i| cluster.url(i)).collect::<Vec<_>>().join(",");
    let others = Client::new(&others).unwrap();
    others.execute(execute(vec![Statement::new("INSERT INTO item VALUES (200, 'after')")])).await.unwrap();
    mend(&links);
    cluster.assert_identical().await;

    let in_line = "rejoin: in line with the master";
    let (pages, received) =
        (logged(&cluster, old, in_line, "pages"), logged(&cluster, old, in_line, "received_pages"));
    assert!(pages > 1900.0 && (1.0..30.0).contains(&received), "{received} of {pages} pages came");
    let percent = logged(&cluster, old, in_line, "percent_of_copy");
    assert!(percent < 2.0, "{percent} % of a full copy travelled");

    let dir = cluster.data_dir(old);
    let dir = dir.to_str().unwrap();
    let (_, list) = tanist(&["divergence", "list", "--dir", dir]);
    assert!(list.contains(&cluster.machines[old].id), "{list}");
    let (_, sql) = tanist(&["divergence", "export", "latest", "--dir", dir]);
    assert!(sql.contains("INSERT INTO \"item\"(\"id\", \"note\") VALUES (100, 'only here')"), "{sql}");
    assert!(sql.contains("-- UPDATE \"item\" SET \"note\" = 'changed here' WHERE \"id\" IS 1"), "{sql}");
    assert!(!sql.contains("tanist_terms\""), "Tanist's own tables aren't put back: {sql}");
    // An operator puts it back.
    for line in sql.lines().filter(|line| line.starts_with("INSERT")) {
        client.execute(execute(vec![Statement::new(line)])).await.unwrap();
    }
    let query = QueryRequest { statements: vec![Statement::new("SELECT id, note FROM item ORDER BY id")] };
    let answer = client.query(query, Consistency::Strong, None).await.unwrap();
    let expected = [(1, "old"), (100, "only here"), (200, "after")];
    assert_eq!(answer.results[0].rows, expected.map(|(id, note)| vec![json!(id), json!(note)]));
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

/// How far machine `i` is with its rejoin, as machine `seen_from` says.
async fn progress(cluster: &Cluster, i: usize, seen_from: usize) -> Option<RejoinProgress> {
    let view = cluster.view(seen_from).await.ok()?;
    view.members.into_iter().find(|member| member.id == cluster.machines[i].id)?.rejoin
}

/// A cluster with a few megabytes and a machine that has lost its database, which comes back over slow links.
async fn slow_rejoin() -> (Cluster, Links, usize, usize) {
    let (mut cluster, links) = cuttable("[replication]\nbuffer = \"1MiB\"\n").await;
    let client = cluster.client();
    create_ledger(&client).await;
    fill(&client, 12).await;
    cluster.assert_identical().await;
    let master = cluster.wait_master().await;
    // The heir stays: it reigns if the master is killed.
    let heir = cluster.view(master).await.unwrap().chain[1].clone();
    let lost = (0..3).find(|i| *i != master && cluster.machines[*i].id != heir).unwrap();
    cluster.kill(lost);
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(cluster.data_dir(lost).join(file));
    }
    for (_, _, link) in links.iter().filter(|(from, ..)| *from == lost) {
        link.slow_down(20);
    }
    cluster.start_machine(lost);
    (cluster, links, master, lost)
}

async fn wait_half_way(cluster: &Cluster, lost: usize, seen_from: usize) {
    cluster
        .wait("a part of the pages has come", || async {
            let progress = progress(cluster, lost, seen_from).await?;
            assert!(progress.compared < progress.pages || progress.pages == 0, "too fast: {progress:?}");
            (progress.moved > 700).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_killed_in_the_middle_goes_on_where_it_was_while_the_cluster_serves() {
    let (mut cluster, links, master, lost) = slow_rejoin().await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    wait_half_way(&cluster, lost, master).await;
    wait_half_way(&cluster, lost, lost).await;
    let (_, status) = tanist(&["status", "--hosts", &cluster.hosts()]);
    assert!(status.contains("rejoin ") && status.contains(" pages, "), "{status}");
    cluster.kill(lost);
    // Nothing of it can be seen before all is there.
    assert_eq!(read::<i64>(&cluster.data_dir(lost), "SELECT count(*) FROM sqlite_schema"), 0);
    workload.wait_for(50).await;
    for (_, _, link) in links.iter() {
        link.slow_down(0);
    }
    cluster.start_machine(lost);
    workload.wait_for(50).await;
    cluster
        .wait("it is in line", || async {
            cluster.log_of(lost).contains("rejoin: in line with the master").then_some(())
        })
        .await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(lost));
    let (before, received, pages) = resumed(&cluster, lost);
    assert!(before > 500.0 && before + received < pages + 200.0, "{before} + {received} of {pages}");
    assert!(!cluster.data_dir(lost).join("divergence").exists(), "it had nothing to lose");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn master_killed_in_the_middle_is_replaced_and_the_next_one_sends_the_rest() {
    let (mut cluster, _links, master, lost) = slow_rejoin().await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    wait_half_way(&cluster, lost, lost).await;
    cluster.kill(master);
    workload.wait_for(50).await;
    cluster.start_machine(master);
    workload.wait_for(50).await;
    cluster
        .wait("it is in line", || async {
            cluster.log_of(lost).contains("rejoin: in line with the master").then_some(())
        })
        .await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    let (before, received, pages) = resumed(&cluster, lost);
    assert!(before > 500.0 && before + received < pages + 200.0, "{before} + {received} of {pages}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_without_room_waits_and_says_so_while_the_cluster_serves() {
    if !can_mount() {
        return;
    }
    let extra = "[replication]\nbuffer = \"1MiB\"".to_owned();
    let mut cluster = Cluster::lay_out(&Layout { extra, ..Layout::of(3) });
    // Its disk ends with it, so it comes back with an empty one.
    cluster.machines[2].small_disk = Some(8 << 20);
    cluster.start_all();
    cluster.wait_master().await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.kill(2);
    fill(&client, 12).await;
    cluster.start_machine(2);
    let workload = Workload::start(&client, 2, "w");
    let master = cluster.wait_master().await;
    for seen_from in [2, master] {
        cluster
            .wait("the reason is told", || async {
                let progress = progress(&cluster, 2, seen_from).await?;
                progress.waits_for.filter(|why| why.contains("full"))
            })
            .await;
    }
    assert!(cluster.log_of(2).contains("waits until the disk has room"), "{}", cluster.log_of(2));
    workload.wait_for(50).await;
    assert!(workload.finish().await.unknown.is_empty());
    // It stops as readily as any other.
    assert!(cluster.terminate(2).success());
    assert!(!cluster.log_of(2).contains("stops without it"), "{}", cluster.log_of(2));
    cluster.assert_no_panic();
}
