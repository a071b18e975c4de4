//! The command line against real machines: `doctor` on those that run, stand still, or can't be reached; output that nobody
//! reads.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::cluster::{Cluster, Layout, binary, tanist};

/// Exit code, and each finding as `check: verdict: found`.
fn doctor(cluster: &Cluster, machine: usize) -> (Option<i32>, Vec<String>) {
    let config = cluster.machines[machine].config.display().to_string();
    let (code, said) = tokio::task::block_in_place(|| tanist(&["doctor", "--json", "--config", &config]));
    let found: Value = serde_json::from_str(said.split("\ntanist: ").next().unwrap()).unwrap();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let findings = found["findings"].as_array().unwrap();
    let lines = findings.iter().map(|finding| {
        format!("{}: {}: {}", text(finding, "check"), text(finding, "verdict"), text(finding, "found"))
    });
    (code, lines.collect())
}

fn one<'f>(findings: &'f [String], check: &str) -> &'f str {
    let found = findings.iter().find(|finding| finding.starts_with(&format!("{check}: ")));
    found.unwrap_or_else(|| panic!("{check} isn't in {findings:#?}"))
}

/// `tanist dev` on one machine, until it says that a cluster runs; then it is asked to stop.
#[cfg(unix)]
fn dev_until_it_runs(directory: &std::path::Path) -> String {
    let mut child = Command::new(binary())
        .args(["dev", "--machines", "1", "--dir"])
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        said += &format!("{line}\n");
        if line.contains("runs on this computer") {
            break;
        }
    }
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    lines.for_each(drop);
    child.wait().unwrap();
    said
}

#[cfg(unix)]
#[test]
fn dev_goes_on_with_a_directory_in_which_tokens_were_turned_on() {
    let directory = tempfile::tempdir().unwrap();
    let said = dev_until_it_runs(directory.path());
    assert!(said.contains("runs on this computer"), "{said}");
    let config = directory.path().join("pc-1").join("tanist.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("\n\n[[member]]", "\n\n[auth]\ntokens = true\n\n[[member]]", 1))
        .unwrap();
    assert!(std::fs::read_to_string(&config).unwrap().contains("tokens = true"));
    let said = dev_until_it_runs(directory.path());
    assert!(said.contains("runs on this computer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_what_is_wrong_and_changes_nothing() {
    let mut cluster = Cluster::start(&Layout::of(3)).await;
    cluster.wait_master().await;
    let (code, all) = doctor(&cluster, 0);
    assert_eq!(code, Some(0), "{all:#?}");
    for check in [
        "configuration",
        "peer port",
        "room",
        "peer pc-2",
        "peer pc-3",
        "majority",
        "versions",
        "clocks",
        "master",
    ] {
        assert!(one(&all, check).contains(": good: "), "{all:#?}");
    }
    assert!(one(&all, "data directory").contains("its machine runs"));

    cluster.kill(1);
    let (code, all) = doctor(&cluster, 0);
    assert_eq!(code, Some(0), "two of three are enough: {all:#?}");
    assert!(
        one(&all, "peer pc-2").contains("warning") && one(&all, "peer pc-2").contains("refused"),
        "{all:#?}"
    );
    assert!(one(&all, "majority").contains(": good: 2 of 3"), "{all:#?}");
    // The one that stands still: its ports are free, and it takes none of its machine's files.
    let (code, all) = doctor(&cluster, 1);
    assert_eq!(code, Some(0), "{all:#?}");
    assert!(one(&all, "http port").contains("is free"), "{all:#?}");
    cluster.start_machine(1);
    cluster.wait_back(1).await;

    cluster.kill(1);
    cluster.kill(2);
    let (code, all) = doctor(&cluster, 0);
    assert!(code == Some(1) && one(&all, "majority").contains(": bad: 1 of 3"), "{all:#?}");
    let nowhere = cluster.machines[0].config.with_file_name("nowhere.toml");
    let (code, said) =
        tokio::task::block_in_place(|| tanist(&["doctor", "--config", nowhere.to_str().unwrap()]));
    assert!(
        code == Some(1) && said.contains("FAIL  configuration") && said.contains("nowhere.toml"),
        "{said}"
    );
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn command_ends_quietly_when_nobody_reads_on() {
    let cluster = Cluster::start(&Layout::of(1)).await;
    cluster.wait_master().await;
    let mut status = Command::new(binary());
    status.args(["status", "--watch", "--hosts", &cluster.hosts()]);
    let mut status = status.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    tokio::task::block_in_place(|| {
        // As `head -1` does.
        BufReader::new(status.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("Cluster test: "), "{line}");
        let mut said = String::new();
        status.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((status.wait().unwrap().code(), said.as_str()), (Some(141), ""));
    });
}
