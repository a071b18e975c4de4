//! Machines join, leave, change what they are and where they are, and die one after another, while the cluster serves.

use tanist_api::{ClusterMember, Role};

use crate::{
    cluster::{Cluster, HTTP_PORT, KEY, Layout, Machine, PEER_PORT, addresses, tanist},
    http_input::{raw, request},
    workload::{Workload, create_ledger},
};

fn members(cluster: &Cluster, args: &[&str]) -> (bool, String) {
    let (code, text) = tanist(&[&["members"], args, &["--hosts", &cluster.hosts()]].concat());
    (code == Some(0), text)
}

/// The member as the master sees it, when there is a master.
async fn member(cluster: &Cluster, id: &str) -> Option<ClusterMember> {
    let view = cluster.view(cluster.master().await?).await.ok()?;
    view.members.into_iter().find(|member| member.id == id)
}

async fn wait_current(cluster: &Cluster, id: &str) {
    cluster
        .wait(&format!("{id} counts and has caught up"), || async {
            let member = member(cluster, id).await?;
            (!member.absent && member.progress.as_deref() == Some("stream")).then_some(())
        })
        .await;
}

/// Makes a machine a member by `tanist init --join`; it doesn't run yet.
fn join(cluster: &mut Cluster, id: &str, ip: String) {
    let beside = cluster.machines[0].config.parent().unwrap().parent().unwrap().to_owned();
    let key = beside.join("shared.key");
    std::fs::write(&key, KEY).unwrap();
    let dir = beside.join(id);
    let (code, text) = tanist(&[
        "init",
        "--dir",
        dir.to_str().unwrap(),
        "--join",
        &cluster.hosts(),
        "--id",
        id,
        "--member",
        &format!("{id}={ip}:{PEER_PORT},{HTTP_PORT}"),
        "--key-file",
        key.to_str().unwrap(),
    ]);
    assert!(code == Some(0) && text.contains(&format!("{id} is a member of test now")), "{text}");
    let config = dir.join("tanist.toml");
    // The other clusters of these tests have the same ports on other addresses.
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("0.0.0.0:", &format!("{ip}:")).replace("insecure = true", "#");
    std::fs::write(&config, text).unwrap();
    cluster.machines.push(Machine {
        id: id.to_owned(),
        ip,
        config,
        child: None,
        small_disk: None,
        program: None,
        disk: None,
        most_files: None,
        names: None,
        environment: vec![],
        wine: None,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_joins_and_another_leaves_while_writes_go_on() {
    let mut cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 3, "w");
    let ip = cluster.machines[0].ip.clone();
    let free = format!("{}.4", ip.rsplit_once('.').unwrap().0);
    join(&mut cluster, "pc-4", free);
    workload.wait_for(20).await; // it doesn't run yet, and is not waited for
    cluster.start_machine(3);
    wait_current(&cluster, "pc-4").await;
    cluster.crown(3).await;
    workload.wait_for(20).await;

    let (done, text) = members(&cluster, &["remove", "pc-1"]);
    assert!(done && !text.contains("pc-1"), "{text}\n{}", cluster.logs());
    cluster
        .wait("pc-1 knows that it is no member", || async {
            cluster.view(0).await.ok()?.notice.filter(|notice| notice.contains("it was removed"))
        })
        .await;
    // Who only knows the old address is sent on.
    let through_the_old = Workload::start(&cluster.client_of(0), 1, "old");
    through_the_old.wait_for(20).await;
    // Stopped and started, it disturbs nobody.
    let term = cluster.view(3).await.unwrap().term;
    cluster.kill(0);
    cluster.start_machine(0);
    cluster
        .wait("pc-1 runs again", || async {
            cluster.view(0).await.ok()?.notice.filter(|n| n.contains("it was removed"))
        })
        .await;
    through_the_old.wait_for(20).await;
    let more = through_the_old.finish().await;
    assert!(more.unknown.is_empty());
    assert_eq!(cluster.view(3).await.unwrap().term, term);
    assert!(cluster.log_of(0).contains("this machine was removed from the cluster"));

    // The members are those of the record, whatever the files say.
    let (machines, mut outcome) = (1..4, workload.finish().await);
    outcome.acknowledged.extend(more.acknowledged);
    assert!(outcome.unknown.is_empty());
    for i in machines.clone() {
        cluster.kill(i);
    }
    for i in machines.clone() {
        cluster.start_machine(i);
    }
    let master = cluster.wait_master().await;
    let now: Vec<_> = cluster.view(master).await.unwrap().members.into_iter().map(|m| m.id).collect();
    assert_eq!(now, ["pc-2", "pc-3", "pc-4"]);
    cluster.terminate(0);
    cluster.machines.remove(0);
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn witness_becomes_a_data_member_reigns_and_becomes_a_witness_again() {
    let layout = Layout { ranks: vec![1, 2, 0], ..Layout::of(0) };
    let mut cluster = Cluster::start(&layout).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    let (done, text) = members(&cluster, &["set", "pc-3", "--rank", "3"]);
    assert!(done, "{text}\n{}", cluster.logs());
    wait_current(&cluster, "pc-3").await;
    // It starts anew to hold data, so the first word may come too early.
    cluster.crown(2).await;
    workload.wait_for(20).await;
    let (done, text) = members(&cluster, &["set", "pc-3", "--rank", "0"]);
    assert!(!done && text.contains("pc-3 is the master: hand the throne over first"), "{text}");
    cluster.crown(1).await;
    let (done, text) = members(&cluster, &["set", "pc-3", "--rank", "0"]);
    assert!(done, "{text}\n{}", cluster.logs());
    cluster
        .wait("pc-3 is a witness", || async {
            (cluster.view(2).await.ok()?.role == Role::Witness).then_some(())
        })
        .await;
    // Its vote still counts: with it, one of the two others is enough.
    wait_current(&cluster, "pc-1").await;
    cluster.kill(1);
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    outcome.assert_in(&cluster.data_dir(0));
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_all_got_new_addresses_find_each_other() {
    let mut cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    let new = addresses(3);
    for i in 0..3 {
        cluster.terminate(i);
    }
    let old: Vec<_> = cluster.machines.iter().map(|machine| machine.ip.clone()).collect();
    for machine in &mut cluster.machines {
        let mut text = std::fs::read_to_string(&machine.config).unwrap();
        for (old, new) in old.iter().zip(&new) {
            text = text.replace(&format!("{old}:"), &format!("{new}:"));
        }
        std::fs::write(&machine.config, text).unwrap();
    }
    for (machine, new) in cluster.machines.iter_mut().zip(&new) {
        machine.ip.clone_from(new);
    }
    cluster.start_all();
    cluster.wait_master().await;
    cluster
        .wait("all are recorded under their new addresses", || async {
            let view = cluster.view(cluster.master().await?).await.ok()?;
            let mut at = view.members.iter().zip(&new);
            at.all(|(member, ip)| {
                member.urls == [format!("http://{ip}:{HTTP_PORT}")]
                    && member.peer_addresses == [format!("{ip}:{PEER_PORT}")]
            })
            .then_some(())
        })
        .await;
    cluster.assert_identical().await;
    outcome.assert_in(&cluster.data_dir(1));
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_moves_while_the_others_have_only_its_old_address() {
    let mut cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(20).await;
    cluster.terminate(2);
    let (old, new) = (cluster.machines[2].ip.clone(), addresses(1).remove(0));
    let config = cluster.machines[2].config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&format!("{old}:"), &format!("{new}:"))).unwrap();
    cluster.machines[2].ip.clone_from(&new);
    cluster.start_machine(2);
    wait_current(&cluster, "pc-3").await;
    cluster
        .wait("pc-3 is recorded under its new address", || async {
            let member = member(&cluster, "pc-3").await?;
            (member.urls == [format!("http://{new}:{HTTP_PORT}")]).then_some(())
        })
        .await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_machines_lost_one_after_another_serve_down_to_the_last_pair() {
    let layout = Layout { extra: "[timing]\nvoter_timeout = \"2s\"".to_owned(), ..Layout::of(5) };
    let mut cluster = Cluster::start(&layout).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    for left in (2..5).rev() {
        let master = cluster.wait_master().await;
        let last = (0..5).rev().find(|i| cluster.machines[*i].child.is_some()).unwrap();
        // The master itself is among them.
        cluster.kill(if left == 3 { master } else { last });
        cluster
            .wait(&format!("{left} voters count"), || async {
                let view = cluster.view(cluster.master().await?).await.ok()?;
                let counted = view.members.iter().filter(|member| !member.absent).count();
                (counted == left && view.sync_set.len() == 2).then_some(())
            })
            .await;
        workload.wait_for(20).await;
    }
    for i in 0..5 {
        if cluster.machines[i].child.is_none() {
            cluster.start_machine(i);
        }
    }
    for id in ["pc-1", "pc-2", "pc-3", "pc-4", "pc-5"] {
        cluster
            .wait(&format!("{id} counts again"), || async {
                member(&cluster, id).await.filter(|member| !member.absent)
            })
            .await;
    }
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    for i in 0..5 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn change_that_makes_no_sense_is_refused_by_field_and_changes_nothing() {
    let cluster = Cluster::of(2).await;
    cluster.crown(0).await;
    let ip = &cluster.machines[0].ip;
    let good = r#""id":"pc-9","rank":9,"peer_addresses":["h:7450"]"#;
    let cases = [
        ("POST", "", format!(r#"{{{good},"x":1}}"#), 400, "unknown field `x`"),
        ("POST", "", good.replace("pc-9", "pc 9"), 400, r#"id: found \"pc 9\""#),
        ("POST", "", good.replace("9,", "-9,"), 400, "rank"),
        ("POST", "", good.replace("9,", "2,"), 409, "rank 2 is pc-2's"),
        ("POST", "", good.replace("pc-9", "pc-2"), 409, "pc-2 is a member already"),
        ("POST", "", good.replace(r#""h:7450""#, ""), 400, "peer_addresses: found 0"),
        ("POST", "", good.replace("h:7450", "h"), 400, r#"peer_addresses: found \"h\""#),
        ("POST", "", good.replace("h:7450", &format!("{ip}:7450")), 409, "is pc-1's"),
        ("POST", "", format!(r#"{good},"urls":["ftp://x"]"#), 400, "urls: found"),
        ("PATCH", "/pc-2", r#""rank":"first""#.into(), 400, "rank"),
        ("PATCH", "/pc-1", r#""rank":0"#.into(), 409, "hand the throne over first"),
        ("PATCH", "/pc-7", r#""rank":7"#.into(), 404, "expected one of pc-1, pc-2"),
        ("DELETE", "/pc-7", String::new(), 404, "expected one of pc-1, pc-2"),
        ("DELETE", "/pc-1", String::new(), 409, "hand the throne over first"),
        ("PUT", "/pc-1", String::new(), 405, "method-not-allowed"),
    ];
    for (method, id, body, status, contains) in cases {
        let body = if body.starts_with('{') { body } else { format!("{{{body}}}") };
        let (found, answer) =
            raw(ip, request(method, &format!("/v1/cluster/members{id}"), body.as_bytes())).await;
        assert_eq!(found, status, "{method} {id} {body}: {answer}");
        assert!(answer.contains(contains), "{method} {id} {body}: expected {contains:?} in {answer}");
    }
    let listed = cluster.client().members().await.unwrap().members;
    assert_eq!(
        listed.iter().map(|m| (m.id.as_str(), m.rank)).collect::<Vec<_>>(),
        [("pc-1", 1), ("pc-2", 2)]
    );
    let (done, text) = members(&cluster, &["set", "pc-2", "--rank", "1"]);
    assert!(done, "{text}");
    let listed = cluster.client().members().await.unwrap().members;
    assert_eq!(
        listed.iter().map(|m| (m.id.as_str(), m.rank)).collect::<Vec<_>>(),
        [("pc-2", 1), ("pc-1", 2)]
    );
    let (done, text) = members(&cluster, &["set", "pc-2"]);
    assert!(!done && text.contains("expected --rank, --peer or --url"), "{text}");
    cluster.assert_no_panic();
}
