//! A process that may open few files: idle clients leave room for peers, files and operators.
#![cfg(unix)]

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout},
    workload::{Workload, create_ledger},
};

/// Opens a connection from a client that has many, and says nothing on it.
fn idle(to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = "127.0.0.77:0".parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).ok()?;
    Some(socket.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_leave_room_for_peers_and_clients() {
    let mut cluster = Cluster::lay_out(&Layout::of(3));
    for machine in &mut cluster.machines {
        machine.most_files = Some(1024);
    }
    cluster.start_all();
    create_ledger(&cluster.client()).await;
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    assert!(
        cluster.log_of(master).contains("doesn't fit into the limit of open files"),
        "{}",
        cluster.log_of(master)
    );
    let address: SocketAddr = format!("{}:{HTTP_PORT}", cluster.machines[master].ip).parse().unwrap();
    // Who is cut off comes again, as browsers do.
    let mut hogs: Vec<TcpStream> = (0..1000).filter_map(|_| idle(address)).collect();
    assert!(hogs.len() > 900, "{}", hogs.len());
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let hogging = tokio::task::spawn_blocking(move || {
        while stopped.try_recv().is_err() {
            hogs.retain(|hog| {
                hog.set_nonblocking(true).unwrap();
                let there = hog.peek(&mut [0]);
                there.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
            });
            while hogs.len() < 1000
                && let Some(hog) = idle(address)
            {
                hogs.push(hog);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    // Clients from elsewhere are served.
    let workload = Workload::start(&cluster.client_of(master), 2, "w");
    workload.wait_for(20).await;
    // A peer that was away links again, with everything that its resync takes.
    for i in (0..3).filter(|i| *i != master) {
        cluster.kill(i);
        cluster.start_machine(i);
        cluster.wait_back(i).await;
    }
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    assert_eq!(cluster.wait_master().await, master, "nobody was relieved");
    let _ = stop.send(());
    hogging.await.unwrap();
    cluster.assert_identical().await;
    (0..3).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
    for i in 0..3 {
        assert!(!cluster.log_of(i).contains("Too many open files"), "{}", cluster.log_of(i));
    }
    cluster.assert_no_panic();
}

/// The soft limit is an old default; what an administrator allows is the hard one.
#[tokio::test(flavor = "multi_thread")]
async fn soft_limit_of_open_files_is_raised() {
    let mut cluster = Cluster::lay_out(&Layout::of(1));
    cluster.start_machine(0);
    cluster.wait_master().await;
    let Ok(limits) = std::fs::read_to_string(format!("/proc/{}/limits", cluster.pid_of(0))) else { return };
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [soft, hard] = numbers[..] else { return };
    assert!(soft >= hard.min(2048), "{line}");
}
