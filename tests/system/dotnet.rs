//! The .NET client on Mono, against real machines that are killed: nothing of that reaches the application.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::{cluster::Cluster, failover::rounds, ledger::Ledger};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/dotnet")
}

/// Compiles the client and its test program; `None`, and says so, where Mono is missing.
fn build() -> Option<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("tanist-dotnet-").tempdir().unwrap();
    let probe = dir.path().join("probe.cs");
    std::fs::write(&probe, "class P { static void Main() { new System.Net.Http.HttpClient().Dispose(); } }")
        .unwrap();
    let program = probe.with_extension("exe");
    let compiled = Command::new("mcs").arg("-r:System.Net.Http").arg(&probe).output();
    let runs = || Command::new("mono").arg(&program).output().is_ok_and(|output| output.status.success());
    if !compiled.is_ok_and(|output| output.status.success()) || !runs() {
        eprintln!(
            "no Mono here (mono-mcs, libmono-system-net-http4.0-cil): the .NET client's tests are left out"
        );
        return None;
    }
    let output = Command::new("sh")
        .arg(sources().join("build.sh"))
        .arg(dir.path())
        .env("NO_SAMPLE", "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    Some(dir)
}

fn program(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new("mono");
    command.arg("--debug").arg(dir.path().join("Tanist.Client.Tests.exe")).args(args);
    command
}

/// See `client/dotnet/tests/Ledger.cs`.
fn ledger(dir: &tempfile::TempDir, hosts: &str, workers: usize, attempt: Duration) -> Ledger {
    let attempt = attempt.as_secs();
    Ledger::start(&mut program(dir, &["ledger", hosts, &workers.to_string(), &attempt.to_string()]))
}

#[test]
fn dotnet_client_passes_its_own_tests() {
    let Some(dir) = build() else { return };
    let output = program(&dir, &["unit"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    print!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dotnet_application_sees_no_exception_when_masters_are_killed() {
    let Some(dir) = build() else { return };
    let mut cluster = Cluster::of(3).await;
    // One host is given, the others are learned.
    let given = cluster.url(2);
    let mut ledger = ledger(&dir, &given, 4, Duration::from_secs(5));
    let pauses = ledger.kill_masters(&mut cluster, rounds(), 50).await;
    let writes = ledger.finish_on(&cluster).await;
    println!("{writes} writes over {} kills; longest pauses {pauses:?}", pauses.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn dotnet_application_leaves_a_master_that_stands_still() {
    let Some(dir) = build() else { return };
    let cluster = Cluster::of(3).await;
    let mut ledger = ledger(&dir, &cluster.hosts(), 4, Duration::from_secs(25));
    ledger.wait_for(50).await;
    let master = cluster.wait_master().await;
    ledger.state();
    cluster.signal(master, Signal::STOP);
    let pause = ledger.wait_for(50).await;
    cluster.signal(master, Signal::CONT);
    // One attempt alone may last for 25 s: the client looks around earlier.
    assert!(pause < Duration::from_secs(20), "a pause of {pause:?}");
    let writes = ledger.finish_on(&cluster).await;
    println!("{writes} writes; pause {pause:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dotnet_client_keeps_the_state_of_the_control_room() {
    let Some(dir) = build() else { return };
    let cluster = Cluster::of(3).await;
    let output = program(&dir, &["state", &cluster.hosts()]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    // 3: this server has no such routes yet.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}\n{}", cluster.logs());
    print!("{text}");
    cluster.assert_no_panic();
}
