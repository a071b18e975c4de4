//! Machines that are named, and that move: a name service that is away, and addresses that only others know.

use std::{net::UdpSocket, path::Path};

use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout, PEER_PORT, can_mount},
    workload::{Workload, create_ledger, execute},
};

/// Whether a process may see other files in /etc than this computer's.
fn can_hide_names(dir: &Path) -> bool {
    let script = format!("mount --bind '{}/hosts' /etc/hosts", dir.display());
    let tried = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("this computer lets nobody change what a process sees in /etc: left out");
    }
    can
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_of_names_starts_again_while_the_name_service_is_away() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    // A name server that hears every question and answers none.
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let deaf = UdpSocket::bind(("127.0.0.53", 53)).or_else(|_| UdpSocket::bind(("127.0.99.53", 53)));
    let at = match &deaf {
        Ok(deaf) => deaf.local_addr().unwrap().ip().to_string(),
        // Without the right to that port: nobody answers there, or the system's own says that there is no such name.
        Err(_) => "127.0.99.53".to_owned(),
    };
    drop(server);
    std::fs::write(
        dir.path().join("resolv.conf"),
        format!("nameserver {at}\noptions timeout:5 attempts:2\n"),
    )
    .unwrap();
    std::fs::write(dir.path().join("hosts"), "").unwrap();
    if !can_hide_names(dir.path()) {
        return;
    }
    let layout = Layout {
        peer_address: Some(Box::new(|_, to| format!("pc-{}.wall:{PEER_PORT}", to + 1))),
        ..Layout::of(3)
    };
    let mut cluster = Cluster::lay_out(&layout);
    let known: String =
        cluster.machines.iter().map(|machine| format!("{} {}.wall\n", machine.ip, machine.id)).collect();
    // In place: what is mounted is this very file.
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n{known}")).unwrap();
    for machine in &mut cluster.machines {
        machine.names = Some(dir.path().to_owned());
        // Its own entry: nobody's file has an address in figures.
        let text = std::fs::read_to_string(&machine.config).unwrap();
        let (own, name) = (
            format!("peer = [\"{}:{PEER_PORT}\"]", machine.ip),
            format!("peer = [\"{}.wall:{PEER_PORT}\"]", machine.id),
        );
        crate::cluster::write_secret(&machine.config, &text.replace(&own, &name));
    }
    cluster.start_all();
    create_ledger(&cluster.client()).await;
    cluster.wait_both_keep_up().await;
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    // One that was only cut off, and then all.
    let master = cluster.wait_master().await;
    cluster.kill(master);
    cluster.start_machine(master);
    cluster.wait_back(master).await;
    let workload = Workload::start(&cluster.client(), 2, "w");
    workload.wait_for(10).await;
    let outcome = workload.finish().await;
    for i in 0..3 {
        cluster.kill(i);
    }
    cluster.start_all();
    cluster.wait_both_keep_up().await;
    cluster.client().execute(execute(vec![Statement::new("CREATE TABLE after(x)")])).await.unwrap();
    cluster.assert_identical().await;
    (0..3).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
    cluster.assert_no_panic();
}

/// pc-1 and pc-3 don't know where the other one is, and a new cluster needs all: the witness, which both reach, tells them.
#[tokio::test(flavor = "multi_thread")]
async fn machines_tell_those_they_reach_where_others_are() {
    let layout = Layout {
        ranks: vec![1, 0, 2],
        peer_address: Some(Box::new(|from, to| match (from, to) {
            (0, 2) | (2, 0) => "127.0.0.1:9".to_owned(),
            // The block of addresses is the cluster's own: put in below.
            (_, to) => format!("MACHINE-{to}:{PEER_PORT}"),
        })),
        ..Layout::of(3)
    };
    let mut cluster = Cluster::lay_out(&layout);
    for machine in &cluster.machines {
        let mut text = std::fs::read_to_string(&machine.config).unwrap();
        for (i, other) in cluster.machines.iter().enumerate() {
            text = text.replace(&format!("MACHINE-{i}:"), &format!("{}:", other.ip));
        }
        crate::cluster::write_secret(&machine.config, &text);
    }
    cluster.start_all();
    create_ledger(&cluster.client()).await;
    cluster
        .wait("pc-1 and pc-3 hold every write", || async {
            let now = cluster.master().await?;
            (cluster.view(now).await.ok()?.sync_set.len() == 2).then_some(())
        })
        .await;
    cluster.assert_no_panic();
}
