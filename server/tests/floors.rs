//! The floors of the house, as `ARCHITECTURE.md` describes them: which crate may import which, what the protocol core and
//! its neighbours must never reach, and where `unsafe` may stand. Each rule is also shown to fail on a made-up house.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The floor of each member outside `tests/`, and of what the tests of others import. A new member needs a line here.
const FLOORS: &[(&str, u8)] = &[
    ("tanist-replication", 0),
    ("tanist-api", 0),
    ("tanist-discovery", 0),
    ("tanist-sql-generator", 0),
    ("tanist-store", 1),
    ("tanist-transport", 1),
    ("tanist-client", 1),
    ("tanist-windows", 1),
    ("tanist", 2),
    ("tanist-office", 3),
];

/// Other members under `tests/` stand on top: they may import all, and none may import them.
const TESTS_FLOOR: u8 = 3;

/// What a member must not reach, be it through other crates. Development dependencies are free.
#[rustfmt::skip]
const OUT_OF_REACH: &[(&str, &[&str], &str)] = &[
    (
        "tanist-replication",
        &[
            "tokio", "mio", "socket2", "rustix", "rusqlite", "libsqlite3-sys", "hyper", "axum", "rand", "rand_core",
            "getrandom", "uuid", "tempfile", "notify", "parking_lot",
        ],
        "the protocol core has no clock, socket, disk, thread or randomness",
    ),
    ("tanist-discovery", &["tokio", "hyper", "axum", "rusqlite"], "discovery says and hears, and knows nothing else"),
    ("tanist-api", &["tokio", "hyper", "axum", "rusqlite"], "the contract is types only"),
    (
        "tanist-store",
        &["tokio", "mio", "socket2", "snow", "hyper", "axum", "tanist-transport"],
        "the store knows no network",
    ),
    (
        "tanist-transport",
        &["rusqlite", "libsqlite3-sys", "hyper", "axum", "tanist-store"],
        "the transport carries bytes and knows no database",
    ),
    (
        "tanist-client",
        &["tanist", "tanist-replication", "tanist-store", "tanist-transport", "rusqlite", "axum", "snow"],
        "the client knows the contract only",
    ),
    (
        "tanist-windows",
        &["tanist", "tanist-replication", "tanist-store", "tanist-transport", "rusqlite", "tokio", "axum", "hyper"],
        "what is particular to a system knows nothing of the machine that it runs",
    ),
];

/// Members that may name `rusqlite` themselves: the store, and the server for `node.db`, the types of SQL values and
/// the table of request keys. Tests may look into database files.
const MAY_NAME_RUSQLITE: &[&str] = &["tanist-store", "tanist"];

/// Crates that must not be in the tree at all, on any platform.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls"];

/// The only module that may hold `unsafe`: this file,
const UNSAFE_FILE: &str = "replication/store/src/sqlite_file.rs";
/// and those below it.
const UNSAFE_BELOW: &str = "replication/store/src/sqlite_file/";

/// Standard library modules that the protocol core's sources must not name: no crate edge would tell.
const OUTSIDE_WORLD: &[&str] = &["std::net", "std::fs", "std::thread", "std::process", "std::env", "std::io"];

#[derive(Default)]
struct House {
    members: BTreeMap<String, Member>,
    /// Ordinary dependencies of every package in the tree, by name, for all platforms.
    edges: BTreeMap<String, BTreeSet<String>>,
}

struct Member {
    under_tests: bool,
    /// All direct dependencies, also for tests and build scripts.
    direct: BTreeSet<String>,
}

impl House {
    fn from_metadata(metadata: &serde_json::Value) -> House {
        let root = Path::new(text(&metadata["workspace_root"]));
        let member_ids: BTreeSet<&str> = list(&metadata["workspace_members"]).iter().map(text).collect();
        let mut names = BTreeMap::new();
        let mut house = House::default();
        for package in list(&metadata["packages"]) {
            let (id, name) = (text(&package["id"]), text(&package["name"]));
            names.insert(id, name);
            if member_ids.contains(id) {
                let direct =
                    list(&package["dependencies"]).iter().map(|d| text(&d["name"]).to_owned()).collect();
                let under_tests = Path::new(text(&package["manifest_path"])).starts_with(root.join("tests"));
                house.members.insert(name.to_owned(), Member { under_tests, direct });
            }
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let edges = house.edges.entry(names[text(&node["id"])].to_owned()).or_default();
            for edge in list(&node["deps"]) {
                if list(&edge["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    edges.insert(names[text(&edge["pkg"])].to_owned());
                }
            }
        }
        house
    }

    fn floor(&self, member: &str) -> Option<u8> {
        let listed = FLOORS.iter().find(|(name, _)| *name == member).map(|(_, floor)| *floor);
        listed.or_else(|| self.members[member].under_tests.then_some(TESTS_FLOOR))
    }

    fn reach(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            for next in self.edges.get(name).into_iter().flatten() {
                if reached.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        reached
    }

    /// All that stands against the rules, in words; empty when the house is in order.
    fn breaches(&self) -> Vec<String> {
        let mut breaches = Vec::new();
        for (name, member) in &self.members {
            let Some(floor) = self.floor(name) else {
                breaches.push(format!("{name} has no floor: give it one in server/tests/floors.rs"));
                continue;
            };
            for target in member.direct.iter().filter(|target| self.members.contains_key(*target)) {
                if self.floor(target).is_some_and(|below| below >= floor) {
                    breaches.push(format!("{name} imports {target}, which isn't on a lower floor"));
                }
            }
            let may = member.under_tests || MAY_NAME_RUSQLITE.contains(&name.as_str());
            if member.direct.contains("rusqlite") && !may {
                breaches.push(format!("{name} names rusqlite, which is the store's"));
            }
        }
        for (member, far, why) in OUT_OF_REACH {
            let reached = self.reach(member);
            for target in far.iter().filter(|target| reached.contains(*target)) {
                breaches.push(format!("{member} reaches {target}: {why}"));
            }
        }
        for name in BANNED.iter().filter(|name| self.edges.contains_key(**name)) {
            breaches.push(format!("{name} is in the tree"));
        }
        breaches
    }
}

/// What the text of one source file breaks. `path` is relative to the workspace, with `/`.
fn source_breaches(path: &str, source: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    for (index, line) in source.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        let may = path == UNSAFE_FILE || path.starts_with(UNSAFE_BELOW);
        if !may && (names_lint(line) || opens_unsafe(line)) {
            breaches.push(format!("{path}:{}: only {UNSAFE_FILE} may hold unsafe", index + 1));
        }
        if path.starts_with("replication/src/")
            && let Some(found) = OUTSIDE_WORLD.iter().find(|module| line.contains(**module))
        {
            breaches.push(format!("{path}:{}: {found} in the protocol core", index + 1));
        }
    }
    breaches
}

/// Whether the line lowers (or otherwise names) the lint that keeps `unsafe` out.
fn names_lint(line: &str) -> bool {
    line.contains(concat!("unsafe", "_code"))
}

/// Whether the line holds the keyword, and not just the word in a text.
fn opens_unsafe(line: &str) -> bool {
    line.match_indices("unsafe").any(|(at, word)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].trim_start();
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'' || c == '"');
        let follows = ["fn ", "impl", "extern ", "trait "].iter().any(|next| after.starts_with(next));
        starts && (follows || after.is_empty() || after.starts_with(['{', '(']))
    })
}

/// What a member's manifest breaks: without the workspace's lints `unsafe` would pass unseen.
fn manifest_breaches(path: &str, manifest: &toml::Table) -> Vec<String> {
    let inherits =
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    if inherits == Some(true) {
        Vec::new()
    } else {
        vec![format!("{path}: [lints] workspace = true is missing")]
    }
}

/// What the workspace's manifest breaks.
fn workspace_breaches(manifest: &toml::Table) -> Vec<String> {
    let lint = concat!("unsafe", "_code");
    let level = (|| manifest.get("workspace")?.get("lints")?.get("rust")?.get(lint)?.as_str())();
    if matches!(level, Some("deny" | "forbid")) {
        Vec::new()
    } else {
        vec![format!("the workspace's level for unsafe code is {level:?}, expected \"deny\"")]
    }
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("cargo metadata: a string")
}

fn list(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().expect("cargo metadata: an array")
}

fn metadata() -> serde_json::Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("parse cargo metadata")
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the server lies in the workspace").to_owned()
}

fn manifest(path: &Path) -> toml::Table {
    std::fs::read_to_string(path).expect("read manifest").parse().expect("parse manifest")
}

/// Every Rust source below `folder`, except build output and hidden folders.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("read folder") {
        let entry = entry.expect("read folder entry");
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().expect("read file type");
        if kind.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&path, found);
        } else if kind.is_file() && name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn crates_keep_their_floors() {
    let house = House::from_metadata(&metadata());
    for (name, _) in FLOORS {
        assert!(house.members.contains_key(*name), "{name} has a floor but is no member");
    }
    assert!(house.reach("tanist").contains("libsqlite3-sys"), "the tree was not read");
    let breaches = house.breaches();
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn unsafe_stands_in_one_file() {
    let root = workspace_root();
    let mut breaches = workspace_breaches(&manifest(&root.join("Cargo.toml")));
    for package in list(&metadata()["packages"]).iter().filter(|package| package["source"].is_null()) {
        let path = text(&package["manifest_path"]);
        breaches.extend(manifest_breaches(path, &manifest(Path::new(path))));
    }
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.contains(&root.join(UNSAFE_FILE)), "the sources were not walked");
    for file in files {
        let path = file.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
        breaches.extend(source_breaches(&path, &std::fs::read_to_string(&file).expect("read source")));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// A made-up house of `(crate, ordinary dependencies)`. Those named `tanist…` are members, and so are `tests/…`.
/// Crates and what they import.
type MadeUp<'a> = &'a [(&'a str, &'a [&'a str])];

fn made_up(crates: MadeUp<'_>) -> House {
    let mut house = House::default();
    for (name, dependencies) in crates {
        let direct: BTreeSet<String> = dependencies.iter().map(|&d| d.to_owned()).collect();
        let under_tests = name.starts_with("tests/");
        let name = name.trim_start_matches("tests/").to_owned();
        if under_tests || name.starts_with("tanist") {
            house.members.insert(name.clone(), Member { under_tests, direct: direct.clone() });
        }
        house.edges.insert(name, direct);
    }
    house
}

#[test]
fn made_up_house_in_order_has_no_breach() {
    let house = made_up(&[
        ("tanist-replication", &["bytes"]),
        ("tanist-store", &["tanist-replication", "rusqlite"]),
        ("tanist-transport", &["tanist-replication", "tokio"]),
        ("tanist", &["tanist-store", "tanist-transport", "rusqlite"]),
        ("tests/fuzz", &["tanist", "rusqlite"]),
        ("rusqlite", &["libsqlite3-sys"]),
    ]);
    assert_eq!(house.breaches(), Vec::<String>::new());
}

#[test]
fn each_rule_between_crates_can_fail() {
    let cases: &[(MadeUp<'_>, &str)] = &[
        (&[("tanist-new", &[])], "tanist-new has no floor"),
        (&[("tanist-store", &["tanist"]), ("tanist", &[])], "tanist-store imports tanist,"),
        (
            &[("tanist-store", &["tanist-client"]), ("tanist-client", &[])],
            "tanist-store imports tanist-client",
        ),
        (&[("tanist", &["fuzz"]), ("tests/fuzz", &[])], "tanist imports fuzz"),
        (&[("tanist-windows", &["fuzz"]), ("tests/fuzz", &[])], "tanist-windows imports fuzz"),
        (&[("tanist-windows", &["rusqlite"])], "tanist-windows names rusqlite"),
    ];
    for (crates, expected) in cases {
        let breaches = made_up(crates).breaches();
        assert!(breaches.iter().any(|breach| breach.starts_with(expected)), "{expected}: {breaches:?}");
    }
    for (member, far, _) in OUT_OF_REACH {
        for target in *far {
            let breaches = made_up(&[(member, &["between"]), ("between", &[target])]).breaches();
            let expected = format!("{member} reaches {target}:");
            assert!(breaches.iter().any(|breach| breach.starts_with(&expected)), "{expected}: {breaches:?}");
        }
    }
    for name in BANNED {
        assert_eq!(made_up(&[(name, &[])]).breaches(), [format!("{name} is in the tree")]);
    }
}

#[test]
fn each_rule_on_sources_can_fail() {
    let held = concat!("    let x = un", "safe { read() };");
    let allowed = concat!("#![allow(un", "safe_code)]");
    for line in [held, allowed, concat!("un", "safe impl Send for X {}"), concat!("#[un", "safe(no_mangle)]")]
    {
        assert_eq!(source_breaches("server/src/lib.rs", line).len(), 1, "{line}");
        assert_eq!(source_breaches(UNSAFE_FILE, line), Vec::<String>::new(), "{line}");
    }
    for line in ["// nothing unsafe", "let policy = \"style-src 'unsafe-inline'\";", "fn opens_unsafe(line)"]
    {
        assert_eq!(source_breaches("server/src/lib.rs", line), Vec::<String>::new(), "{line}");
    }
    for module in OUTSIDE_WORLD {
        let line = format!("use {module}::something;");
        assert_eq!(source_breaches("replication/src/node.rs", &line).len(), 1, "{line}");
        assert_eq!(source_breaches("replication/store/src/wal.rs", &line), Vec::<String>::new(), "{line}");
    }
    let table = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(manifest_breaches("m", &table("[lints]\nworkspace = true")), Vec::<String>::new());
    assert_eq!(manifest_breaches("m", &table("[lints]\nworkspace = false")).len(), 1);
    assert_eq!(manifest_breaches("m", &table("[package]")).len(), 1);
    for (level, breaches) in [("deny", 0), ("forbid", 0), ("warn", 1)] {
        let text = format!("[workspace.lints.rust]\n{} = \"{level}\"", concat!("unsafe", "_code"));
        assert_eq!(workspace_breaches(&table(&text)).len(), breaches, "{level}");
    }
}
