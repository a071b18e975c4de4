//! The examples end as they say.

use std::{path::Path, process::Command};

use crate::cluster::binary;

#[test]
fn wall_shows_what_is_wanted_whoever_dies() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/wall/run.sh");
    let output = Command::new("bash").arg(script).env("TANIST", binary()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{said}");
    assert!(text.trim_end().ends_with("== All nine panels show the alarm."), "{text}");
    assert!(text.contains("pc-2 reigns in term 2") || text.contains("pc-3 reigns in term 2"), "{text}");
}
