//! What the program is made of has licences that `deny.toml` lets in. A daily look without any tool; `cargo deny` has more of them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

/// The licences that are let in: in `deny.toml`, and in `about.toml`, which prints their texts.
fn allowed() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| -> toml::Table {
        std::fs::read_to_string(root.join(file))
            .unwrap()
            .parse()
            .unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let names = |list: &toml::Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let deny = names(&read("deny.toml")["licenses"]["allow"]);
    assert_eq!(deny, names(&read("about.toml")["accepted"]), "deny.toml and about.toml differ");
    deny
}

fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    // Some still write a stroke for "or".
    let read = spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX)
        .unwrap_or_else(|error| panic!("{expression}: {error}"));
    read.evaluate(|requirement| allowed.contains(&requirement.to_string()))
}

#[test]
fn every_dependency_has_a_licence_that_is_let_in() {
    let allowed = allowed();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--all-features"])
        // Those of other systems need not be on this computer.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "found {}", packages.len());
    let wrong: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("none is named");
            let fine = package["license"].is_string() && is_allowed(licence, &allowed);
            (!fine).then(|| format!("{} {}: {licence}", package["name"], package["version"]))
        })
        .collect();
    assert_eq!(wrong, [""; 0], "not in deny.toml");
}

#[test]
fn licence_that_is_not_let_in_is_found() {
    let allowed = allowed();
    for good in [
        "MIT",
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0-only", "AGPL-3.0-or-later", "MIT AND GPL-2.0-only", "SSPL-1.0"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
