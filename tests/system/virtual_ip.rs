//! The example `examples/virtual-ip`, run by a real machine in a network of its own.

use std::{path::Path, process::Command};

use crate::cluster::{Cluster, Layout, binary};

/// Two network cards joined by a cable.
const NETWORK: &str = r#"
set -eu
ip link set lo up
ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
pid=
trap 'kill $pid 2> "$DIR/no" || true' EXIT
has() { ip -o address show dev v0 | grep -qF " $VIP "; }
settled() { n=0; until "$@"; do n=$((n+1)); [ $n -lt 600 ] || { echo "waited for: $*"; exit 1; }; sleep 0.05; done; }
has_not() { ! has; }
"$TANIST" run --config "$CONFIG" >> "$DIR/log" 2>&1 & pid=$!
settled has
kill -KILL $pid; wait $pid || true
has
"$TANIST" run --config "$CONFIG" >> "$DIR/log" 2>&1 & pid=$!
settled grep -q 'process-ended' "$DIR/log"
settled grep -q 're-elected' "$DIR/log"
twice() { [ "$(wc -l < "$DIR/announced")" -eq 2 ]; }
settled twice
has
kill -TERM $pid; wait $pid
has_not
"#;

#[test]
fn address_goes_with_the_reign() {
    let probe = ["-rn", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"];
    if !Command::new("unshare").args(probe).output().is_ok_and(|output| output.status.success()) {
        eprintln!("this computer lets nobody make a network of his own: left out");
        return;
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/virtual-ip");
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().display().to_string();
    // What is announced is seen by what the script asks for: the other end of the cable hears no more than that.
    let arping = dir.path().join("arping");
    std::fs::write(&arping, format!("#!/bin/sh\necho \"$*\" >> {path}/announced\n")).unwrap();
    let script = |name: &str| examples.join(name).display().to_string();
    let extra = format!(
        "[hooks]\non_promote = [\"sh\", {:?}]\non_demote = [\"sh\", {:?}]\nrequired = true\n",
        script("up.sh"),
        script("down.sh")
    );
    let cluster = Cluster::lay_out(&Layout { extra, ..Layout::of(1) });
    assert!(Command::new("chmod").arg("+x").arg(&arping).status().unwrap().success());
    let path_of_programs = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("unshare")
        .args(["-rn", "sh", "-c", NETWORK])
        .env("PATH", path_of_programs)
        .env("TANIST", binary())
        .env("DIR", &path)
        .env("TANIST_LOG", "info")
        .env("NO_COLOR", "1")
        .env("CONFIG", &cluster.machines[0].config)
        .envs([("VIP", "10.9.8.7/24"), ("VIP_DEVICE", "v0")])
        .output()
        .unwrap();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{output:?}\n{log}");
    let announced = std::fs::read_to_string(dir.path().join("announced")).unwrap();
    assert_eq!(announced, "-q -U -c 3 -w 3 -I v0 10.9.8.7\n".repeat(2), "{log}");
}
