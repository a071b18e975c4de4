//! The story of the office ends as it says.
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command};

#[test]
fn every_order_has_its_invoice_whoever_goes_home_or_crashes() {
    let probe = ["-rn", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"];
    if !Command::new("unshare").args(probe).output().is_ok_and(|output| output.status.success()) {
        eprintln!("this computer lets nobody make a network of his own: left out");
        return;
    }
    let output = Command::new("timeout")
        .args(["--kill-after=10", "150", "bash"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh"))
        .env("OFFICE", env!("CARGO_BIN_EXE_office"))
        .env_remove("TANIST")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("ben: welcome! the master is anna") && text.contains("cleo: welcome!"), "{text}");
    assert!(
        text.contains("anna: goodbye; ben carries on") || text.contains("anna: goodbye; cleo carries on"),
        "{text}"
    );
    let last = text.trim_end().lines().last().unwrap();
    let numbers: Vec<u64> =
        last.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    let [told, invoices, desktops] = numbers[..] else { panic!("{last}") };
    assert!(told >= 81 && invoices >= told && (2..=3).contains(&desktops), "{last}");
}
