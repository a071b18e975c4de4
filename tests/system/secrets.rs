//! Who may read what a machine writes, and how its keys are changed while it serves.

use std::{
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tanist_api::{QueryRequest, Statement};
use tanist_client::{Client, Consistency};
use tanist_transport::{ClusterKey, try_key};

use crate::{
    cluster::{Cluster, KEY, Layout, binary, tanist, write_secret},
    cut_off::{cuttable, isolate, mend},
    files::shell,
    workload::{Workload, create_ledger, execute},
};

/// A user without any right of his own.
const NOBODY: u32 = 65534;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// All that is in a directory, itself included. What goes meanwhile is left out.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let entries = std::fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let entries: Vec<_> = entries.map(|entry| entry.path()).collect();
        found.extend(entries);
        next += 1;
    }
    found
}

/// What others may read or enter.
fn open_to_others(directories: &[PathBuf]) -> Vec<String> {
    let all = directories.iter().flat_map(|directory| walk(directory));
    let open = all.filter_map(|path| {
        let mode = std::fs::symlink_metadata(&path).ok()?.mode() & 0o777;
        (mode & 0o077 != 0).then(|| format!("{mode:o} {}", path.display()))
    });
    open.collect()
}

fn names(directory: &Path) -> Vec<String> {
    walk(directory).iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_machine_writes_is_its_accounts_alone_also_what_was_open_before() {
    let extra = "[timing]\nlease = \"3s\"\n[hooks]\non_promote = [\"true\"]\non_demote = [\"true\"]\n[log]\ndirectory = \"logs\"\n\
                 [backup]\ndirectory = \"copies\"\nevery = \"1h\"\nincrements = \"1s\"\n";
    let (mut cluster, links) = cuttable(extra).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let directories = |cluster: &Cluster, i: usize| -> Vec<PathBuf> {
        let config = &cluster.machines[i].config;
        ["data", "logs", "copies"].map(|name| config.with_file_name(name)).into()
    };
    let master = cluster.wait_master().await;
    assert!(names(&cluster.data_dir(master)).contains(&"hooks.reign".to_owned()), "the hook's mark is there");

    // A master that nobody hears keeps what it alone holds, and a report of it when it is back.
    let write =
        |entry: &str| execute(vec![Statement::with("INSERT INTO ledger VALUES (?)", vec![entry.into()])]);
    isolate(&links, master);
    let alone =
        Client::builder().hosts(&cluster.url(master)).deadline(Duration::from_millis(500)).build().unwrap();
    alone.execute(write("only here")).await.unwrap_err();
    let others = (0..3).filter(|i| *i != master).map(|i| cluster.url(i)).collect::<Vec<_>>().join(",");
    Client::new(&others).unwrap().execute(write("after")).await.unwrap();
    mend(&links);
    for i in 0..3 {
        let wanted: &[&str] = if i == master { &["report.json", "pages.zst", "rows.sql"] } else { &[] };
        cluster
            .wait("copies, increments and the report are there", || async {
                // Something new for the next increment.
                client.execute(write("more")).await.ok()?;
                let names: Vec<_> =
                    directories(&cluster, i).iter().flat_map(|directory| names(directory)).collect();
                let is_there = |end: &str| names.iter().any(|name| name.ends_with(end));
                assert_eq!(open_to_others(&directories(&cluster, i)), [""; 0]);
                let all = [
                    ".db.zst",
                    ".pages.zst",
                    "tanist.log",
                    "state.db",
                    "state.db-wal",
                    "state.db-shm",
                    "node.db",
                    "tanist.lock",
                    "tanist.pid",
                ];
                all.iter().chain(wanted).all(|end| is_there(end)).then_some(())
            })
            .await;
    }

    // Copies that a person takes, and what is restored of them.
    let place = tempfile::TempDir::new().unwrap();
    let copy = place.path().join("wall.db.zst").display().to_string();
    let (code, text) = tanist(&["backup", "--hosts", &cluster.hosts(), "--out", &copy]);
    assert_eq!(code, Some(0), "{text}");
    let restored = place.path().join("new/tanist.toml");
    std::fs::create_dir(place.path().join("new")).unwrap();
    let text = std::fs::read_to_string(&cluster.machines[0].config).unwrap();
    write_secret(&restored, &text.replace("cluster = \"test\"", "cluster = \"other\""));
    let (code, text) = tanist(&["restore", &copy, "--config", &restored.display().to_string()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(open_to_others(&[restored.with_file_name("data"), copy.into()]), [""; 0]);

    // As an older version left them.
    let backup = master;
    cluster.terminate(backup);
    for directory in directories(&cluster, backup) {
        for path in walk(&directory) {
            chmod(&path, if path.is_dir() { 0o755 } else { 0o644 });
        }
    }
    cluster.start_machine(backup);
    // The directory of the copies may be for more than this.
    chmod(&directories(&cluster, backup)[1], 0o700);
    cluster
        .wait("all is closed", || async {
            let mut open = open_to_others(&directories(&cluster, backup));
            open.retain(|path| !path.ends_with("/copies"));
            open.is_empty().then_some(())
        })
        .await;
    let said = cluster.log_of(backup);
    let data = format!("directory={}", cluster.data_dir(backup).display());
    let lines = said.lines().filter(|line| line.contains("this account's alone now") && line.contains(&data));
    assert_eq!(lines.count(), 1, "said once: {said}");
    cluster.assert_no_panic();
}

#[test]
fn init_leaves_a_secret_for_its_owner_and_writes_through_no_link() {
    let (dir, other) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
    let theirs = other.path().join("theirs");
    std::fs::write(&theirs, "theirs").unwrap();
    for name in ["cluster.key", "tanist.toml"] {
        std::os::unix::fs::symlink(&theirs, dir.path().join(name)).unwrap();
    }
    let at = dir.path().display().to_string();
    let (code, text) = tanist(&["init", "--dir", &at]);
    assert!(code == Some(1) && text.contains("--force"), "{text}");
    let (code, text) = tanist(&["init", "--dir", &at, "--force"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "theirs");
    for name in ["cluster.key", "tanist.toml"] {
        let path = dir.path().join(name);
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file(), "{name}");
        assert_eq!(mode(&path), 0o600, "{name}");
        chmod(&path, 0o666);
    }
    let (code, text) = tanist(&["init", "--dir", &at, "--force"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        (mode(&dir.path().join("cluster.key")), mode(&dir.path().join("tanist.toml"))),
        (0o600, 0o600)
    );
}

#[test]
fn secret_that_others_may_read_is_refused_by_the_machine_and_by_commands() {
    let cluster = Cluster::lay_out(&Layout { tls: true, ..Layout::of(1) });
    let config = cluster.machines[0].config.clone();
    let tls_key = config.parent().unwrap().parent().unwrap().join("tls.key");
    for file in [&config, &tls_key] {
        chmod(file, 0o644);
        for command in [["run"].as_slice(), &["key", "status"], &["status"]] {
            let config = config.display().to_string();
            let (code, text) = tanist(&[command, &["--config", &config]].concat());
            assert_eq!(code, Some(1), "{command:?}: {text}");
            assert!(text.contains(&format!("chmod 600 {}", file.display())), "{command:?}: {text}");
        }
        chmod(file, 0o600);
    }
    assert!(!cluster.data_dir(0).exists(), "nothing was made");
}

/// Runs the machine as another user; whether this computer lets us.
fn start_as(cluster: &mut Cluster, user: u32) -> bool {
    let config = cluster.machines[0].config.clone();
    let folder = config.parent().unwrap().to_owned();
    // A temporary directory is its owner's alone.
    chmod(folder.parent().unwrap(), 0o755);
    for path in walk(&folder) {
        chown(&path, Some(user), Some(user)).unwrap();
    }
    let tried = Command::new(binary()).arg("--version").uid(user).gid(user).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        eprintln!("the program can't be run as user {user} here: left out");
        return false;
    }
    let log =
        std::fs::File::options().create(true).append(true).open(config.with_file_name("tanist.log")).unwrap();
    let child = Command::new(binary())
        .args(["run", "--config"])
        .arg(&config)
        .env("NO_COLOR", "1")
        .uid(user)
        .gid(user)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    cluster.machines[0].child = Some(child);
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn root_who_looks_into_the_file_locks_the_service_out_of_nothing() {
    if !rustix::process::geteuid().is_root() || shell(&["-version"]).is_none() {
        eprintln!("only root can run a machine as another user: left out");
        return;
    }
    let mut cluster = Cluster::lay_out(&Layout::of(1));
    if !start_as(&mut cluster, NOBODY) {
        return;
    }
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    let file = cluster.data_dir(0).join("state.db");
    let file = file.to_str().unwrap();
    let look = |options: &[&str], sql: &str| {
        let (good, said) = shell(&[options, &[file, sql]].concat()).unwrap();
        assert!(good, "{said}");
    };
    let count = "SELECT count(*) FROM ledger";
    look(&["-readonly"], count);
    for round in 0..2 {
        assert!(cluster.terminate(0).success());
        // With and without the files beside it, which whoever opens it makes.
        for end in ["-wal", "-shm"].iter().filter(|_| round == 1) {
            let _ = std::fs::remove_file(format!("{file}{end}"));
        }
        look(&["-readonly"], count);
        look(&[], count);
        for path in walk(&cluster.data_dir(0)) {
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!((metadata.uid(), mode(&path) & 0o077), (NOBODY, 0), "{}", path.display());
        }
        assert!(start_as(&mut cluster, NOBODY));
        cluster.wait_master().await;
        let write = vec![Statement::new("INSERT INTO ledger VALUES ('after root')")];
        cluster.client().execute(execute(write)).await.unwrap();
        look(&["-readonly"], count);
    }
    cluster.assert_no_panic();
}

/// Moves the key out of the configuration into a file of its own.
fn with_key_files(cluster: &Cluster) {
    for machine in &cluster.machines {
        let text = std::fs::read_to_string(&machine.config).unwrap();
        let text = text.replace(&format!("key = \"{KEY}\""), "key_file = \"cluster.key\"");
        write_secret(&machine.config, &text);
        write_secret(&machine.config.with_file_name("cluster.key"), KEY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_changed_under_load_without_a_failed_request() {
    let mut cluster = Cluster::lay_out(&Layout { tokens: true, ..Layout::of(3) });
    with_key_files(&cluster);
    cluster.start_all();
    cluster.wait_master().await;
    let configs: Vec<String> =
        cluster.machines.iter().map(|machine| machine.config.display().to_string()).collect();
    let key = |machine: usize, arguments: &[&str]| {
        tanist(&[&["key"], arguments, &["--config", &configs[machine]]].concat())
    };
    create_ledger(&cluster.client()).await;
    let hosts = cluster.hosts();
    let (code, token) =
        tanist(&["token", "make", "w", "--role", "write", "--hosts", &hosts, "--config", &configs[0]]);
    assert_eq!(code, Some(0), "{token}");
    let token =
        token.split_whitespace().find(|word| word.starts_with("tanist_")).expect("a token").to_owned();
    let client = cluster.builder().token(&token).unwrap().hosts(&hosts).build().unwrap();
    for i in 0..3 {
        let one = cluster.builder().token(&token).unwrap().hosts(&cluster.url(i)).build().unwrap();
        let known = "the token has come to each machine";
        cluster.wait(known, || async { one.cluster_of(&cluster.url(i)).await.ok() }).await;
    }
    let workload = Workload::start(&client, 3, "w");
    workload.wait_for(20).await;

    let (code, text) = key(0, &["rotate"]);
    assert!(code == Some(1) && text.contains("tanist key next"), "{text}");
    let (code, text) = key(0, &["next"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = key(0, &["rotate"]);
    assert!(code == Some(1) && text.contains("pc-2 refuses it, pc-3 refuses it"), "{text}");
    let next = cluster.machines[0].config.with_file_name("cluster.key.next");
    assert_eq!(mode(&next), 0o600);
    let next = next.display().to_string();
    for machine in [1, 2] {
        let (code, text) = key(machine, &["next", "--from", &next]);
        assert_eq!(code, Some(0), "{text}");
    }
    for step in ["rotate", "drop"] {
        for machine in 0..3 {
            cluster
                .wait(&format!("{step} on machine {machine}"), || async {
                    let (code, text) = key(machine, &[step]);
                    assert!(code == Some(0) || text.contains("refuses it"), "{text}");
                    (code == Some(0)).then_some(())
                })
                .await;
            workload.wait_for(20).await;
            println!("{step} on machine {machine}: longest gap {:?}", workload.take_longest_gap());
        }
    }
    // What was dropped opens nothing, for a machine or an operator.
    let config = tanist_server::config::Config::load(&cluster.machines[0].config).unwrap();
    assert!(config.other_key.is_none() && config.key.to_text() != KEY);
    let (old, transport) = (KEY.parse::<ClusterKey>().unwrap(), config.transport([1; 16]));
    for member in &config.members {
        cluster
            .wait("the old key is refused", || async {
                let tried = try_key(&transport, &old, &member.peer_addresses).await;
                tried.is_err_and(|error| error.to_string().contains("cluster key differs")).then_some(())
            })
            .await;
        try_key(&transport, &config.key, &member.peer_addresses).await.unwrap();
    }
    let query = QueryRequest { statements: vec![Statement::new("SELECT 1")] };
    let stale = cluster.client().query(query, Consistency::Local, None).await.unwrap_err();
    assert!(stale.to_string().contains("unauthorized") || stale.to_string().contains("401"), "{stale}");
    let (code, text) = tanist(&["status", "--hosts", &hosts, "--config", &configs[2]]);
    assert_eq!(code, Some(0), "{text}");

    // And the cluster goes on with the new one alone, through the death of its master.
    let status: serde_json::Value =
        serde_json::from_str(&tanist(&["status", "--json", "--hosts", &hosts, "--config", &configs[0]]).1)
            .unwrap();
    let master = cluster.index_of(status["master"].as_str().unwrap());
    cluster.kill(master);
    workload.wait_for(20).await;
    cluster.start_machine(master);
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty(), "{:?}", outcome.unknown);
    cluster.assert_no_panic();
}
