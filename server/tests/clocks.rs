//! Every place in the source that reads a wall clock is one that `docs/clocks.md` speaks of: nothing that is promised may hang on it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

/// Where the wall clock is read, and the words of `docs/clocks.md` that say why that is harmless. A new place needs a row there, and
/// a line here.
#[rustfmt::skip]
const PLACES: &[(&str, &str)] = &[
    ("client/src/link.rs", "since when a client has its link"),
    ("migrations/0001_cluster.sql", "`began_at`"),
    ("migrations/0002_events.sql", "`at`"),
    ("migrations/0006_audit.sql", "the record's `at`"),
    ("migrations/0007_upgrade.sql", "`held_at`"),
    ("replication/store/src/memory.rs", "the time of `state.db`"),
    ("server/src/audit.rs", "files of records"),
    ("server/src/auth.rs", "expiry of tokens"),
    ("server/src/backup/increments.rs", "names of copies, increments"),
    ("server/src/backup/schedule.rs", "scheduled copies"),
    ("server/src/backup/take.rs", "names of copies"),
    ("server/src/cli/doctor/machine.rs", "`tanist doctor`"),
    ("server/src/cli/doctor/peers.rs", "clock differences"),
    ("server/src/clock.rs", "server/src/clock.rs"),
    ("server/src/http/cluster.rs", "`tanist status`"),
    ("server/src/http/tls.rs", "expiry of certificates"),
    ("server/src/stall.rs", "`tanist status`"),
    ("server/src/state/change.rs", "expiry of tokens"),
    ("server/src/watch/prune.rs", "age of events"),
    ("server/src/writer.rs", "divergence reports"),
];

/// What reads it, in Rust and in SQL.
const READS: [&str; 8] = [
    "SystemTime::now",
    "now_utc",
    "now_local",
    "clock::wall",
    "'now'",
    "CURRENT_TIME",
    "CURRENT_DATE",
    ".modified()",
];

fn sources(at: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "tests" | "examples" | "dotnet") && !name.starts_with('.')
            {
                sources(&path, found);
            }
        } else if (name.ends_with(".rs") && !name.ends_with("tests.rs")) || name.ends_with(".sql") {
            found.push(path);
        }
    }
}

/// The program's own lines: neither remarks nor tests.
fn reads_the_wall_clock(text: &str) -> bool {
    let program = text.split("#[cfg(test)]").next().unwrap_or_default();
    program
        .lines()
        .map(|line| line.split(" // ").next().unwrap_or_default().trim_start())
        .filter(|line| !line.starts_with("//") && !line.starts_with("--"))
        .any(|line| READS.iter().any(|read| line.contains(read)))
}

#[test]
fn every_use_of_a_wall_clock_is_in_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let list = std::fs::read_to_string(root.join("docs/clocks.md")).unwrap();
    let mut files = vec![];
    for part in ["client", "migrations", "replication", "server", "windows"] {
        sources(&root.join(part), &mut files);
    }
    let mut found: Vec<_> = files
        .iter()
        .filter(|file| reads_the_wall_clock(&std::fs::read_to_string(file).unwrap()))
        .map(|file| file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"))
        .collect();
    found.sort_unstable();
    let known: Vec<_> = PLACES.iter().map(|(place, _)| *place).collect();
    assert_eq!(found, known, "say in docs/clocks.md why the new use is harmless, then name it here");
    for (place, words) in PLACES {
        assert!(list.contains(words), "docs/clocks.md doesn't speak of {words:?} ({place})");
    }
}

#[test]
fn remarks_and_tests_are_no_uses() {
    assert!(reads_the_wall_clock("let now = SystemTime::now();"));
    assert!(reads_the_wall_clock("at TEXT DEFAULT (strftime('%Y', 'now')), -- by the clock"));
    assert!(!reads_the_wall_clock(
        "// SystemTime::now()\n/// 'now'\n-- 'now'\nlet a = 1; // SystemTime::now"
    ));
    assert!(!reads_the_wall_clock("fn a() {}\n#[cfg(test)]\nmod tests { SystemTime::now() }"));
}
