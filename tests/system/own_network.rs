//! Tests that run in a network of their own, where they may do to it what they like.

use std::process::Command;

/// Set in the process that runs in one.
const INSIDE: &str = "TANIST_INSIDE_NETWORK";

/// Runs this test once more in a network of its own, unless it is there; whether it is there now.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = ["-rn", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"];
    if !Command::new("unshare").args(probe).output().is_ok_and(|output| output.status.success()) {
        eprintln!("this computer lets nobody make a network of his own: left out");
        return false;
    }
    let output = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// Runs commands of the shell there.
pub fn shell(script: &str) -> bool {
    Command::new("sh").args(["-ec", script]).status().unwrap().success()
}
