//! A machine that the operating system starts: what systemd is told, and what it is given.

use std::{os::unix::net::UnixDatagram, time::Duration};

use tanist_api::Role;
use tanist_server::commands::{Host, Phase, Wish};

use crate::{
    cluster::{Cluster, Layout, tanist},
    workload::create_ledger,
};

/// What the machine tells, as systemd would hear it.
struct Notified(UnixDatagram);

impl Notified {
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("the machine tells something within a minute");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    }

    fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let silent = self.0.recv(&mut [0; 16]).is_err();
        self.0.set_nonblocking(false).unwrap();
        silent
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_the_machine_listens_and_when_it_stops() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let notified = Notified(UnixDatagram::bind(&path).unwrap());
    notified.0.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut cluster = Cluster::lay_out(&Layout::of(1));
    cluster.machines[0].environment.push(("NOTIFY_SOCKET", path));
    cluster.start_all();
    assert_eq!(notified.next(), "READY=1");
    // Whoever comes now finds it listening.
    assert!(std::net::TcpStream::connect((cluster.machines[0].ip.as_str(), 8080)).is_ok());
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    assert!(notified.is_silent(), "once is enough");
    assert!(cluster.terminate(0).success());
    assert_eq!(notified.next(), "STOPPING=1");
    assert!(notified.is_silent());
}

/// As the service of Windows runs it, which hears of shutdowns and of sleep.
#[tokio::test(flavor = "multi_thread")]
async fn host_is_told_and_its_wishes_are_granted() {
    let mut cluster = Cluster::lay_out(&Layout::of(3));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (wishes, host) = Host::new(move |phase| tell.send(phase).unwrap());
    let config = cluster.machines[0].config.clone();
    let machine = tokio::spawn(async move { tanist_server::commands::run(&config, host).await });
    cluster.start_machine(1);
    cluster.start_machine(2);
    assert_eq!(told.recv().await, Some(Phase::Ready));
    // The cluster's own helpers look at processes.
    let reigns = || async {
        let view = cluster.view(0).await.ok()?;
        (view.role == Role::Master && view.writable).then_some(())
    };
    cluster
        .wait("the machine here reigns", || async {
            if reigns().await.is_none() {
                let _ = cluster.client().promote("pc-1").await;
            }
            reigns().await
        })
        .await;

    // The computer goes to sleep: another one reigns, and this one goes on.
    let (done, is_done) = tokio::sync::oneshot::channel();
    wishes.send(Wish::GiveUpThrone(done)).await.unwrap();
    is_done.await.unwrap();
    assert_ne!(cluster.view(0).await.unwrap().role, Role::Master);
    cluster.wait_master().await;
    // A second time, without a throne, it is answered all the same.
    let (done, is_done) = tokio::sync::oneshot::channel();
    wishes.send(Wish::GiveUpThrone(done)).await.unwrap();
    is_done.await.unwrap();
    assert!(told.try_recv().is_err(), "it goes on");

    wishes.send(Wish::Stop("the test is over")).await.unwrap();
    machine.await.unwrap().unwrap();
    assert_eq!(told.recv().await, Some(Phase::Stopping));
    assert_eq!(told.recv().await, None, "and that is all");
}

#[test]
fn machine_that_cannot_start_is_never_ready() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let notified = Notified(UnixDatagram::bind(&path).unwrap());
    let cluster = Cluster::lay_out(&Layout::of(1));
    let taken = std::net::TcpListener::bind((cluster.machines[0].ip.as_str(), 8080)).unwrap();
    let mut run = std::process::Command::new(crate::cluster::binary());
    run.arg("run").arg("--config").arg(&cluster.machines[0].config).env("NOTIFY_SOCKET", &path);
    assert!(!run.output().unwrap().status.success());
    assert!(notified.is_silent());
    drop(taken);
}

#[test]
fn unit_is_shown_and_where_systemd_is_missing_the_rest_says_so() {
    let cluster = Cluster::lay_out(&Layout::of(1));
    let config = cluster.machines[0].config.display().to_string();
    let (code, unit) = tanist(&["service", "unit", "--config", &config, "--name", "wall"]);
    assert_eq!(code, Some(0), "{unit}");
    for line in ["Type=notify", "StateDirectory=wall", &format!(" run --config \"{config}\"")] {
        assert!(unit.contains(line), "{line:?} in {unit}");
    }
    assert_eq!(
        tanist(&["service", "install", "--print", "--config", &config, "--name", "wall"]),
        (code, unit)
    );
    let (code, said) = tanist(&["service", "unit", "--config", "/nowhere/tanist.toml"]);
    assert!(code == Some(1) && said.contains("/nowhere/tanist.toml"), "{said}");
    let (code, said) = tanist(&["service", "status", "--name", "../x"]);
    assert!(code == Some(2) && said.contains("--name"), "{said}");
    if std::path::Path::new("/run/systemd/system").exists() {
        eprintln!("this computer is run by systemd: what is said without it is left out");
        return;
    }
    for command in ["start", "stop", "uninstall", "status"] {
        let (code, said) = tanist(&["service", command]);
        assert!(code == Some(1) && said.contains("isn't run by systemd"), "{command}: {said}");
    }
    let (code, said) = tanist(&["service", "install", "--config", &config]);
    assert!(code == Some(1) && said.contains("isn't run by systemd"), "{said}");
}
