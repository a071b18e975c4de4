//! Windows machines, alone and together with Linux ones: replication, deaths, handovers, programs, files.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tanist_api::Statement;

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout, read, tanist},
    failover::{end_where_no_connection_is_refused, kill_masters, rounds},
    files::shell,
    wine::Wine,
    workload::{Workload, create_ledger, execute},
};

/// A path of this computer as its Windows sees it, as a TOML string.
fn windows_path(path: &Path) -> String {
    format!("'Z:{}'", path.display().to_string().replace('/', "\\"))
}

/// A script for `cmd.exe`.
fn write_script(path: &Path, lines: &[&str]) {
    std::fs::write(path, lines.join("\r\n") + "\r\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_cluster_outlives_its_killed_masters_as_one_on_linux_does() {
    let Some(_wine) = Wine::get() else { return };
    let (_, windows) = kill_masters(&Layout { windows: |_| true, ..Layout::of(3) }).await;
    let (_, linux) = kill_masters(&Layout { windows: |_| false, ..Layout::of(3) }).await;
    println!("longest gaps at a killed master: Windows {windows:?}, Linux {linux:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_machines_tell_of_their_end_as_its_firewall_lets_nobody_see_it() {
    let Some(_wine) = Wine::get() else { return };
    let (gap, _) = end_where_no_connection_is_refused(Layout { windows: |_| true, ..Layout::of(3) }).await;
    println!("longest gap, by the end notice alone: {gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_throne_is_handed_around_and_left_by_ctrl_c_and_no_request_fails() {
    let Some(_wine) = Wine::get() else { return };
    let mut cluster = Cluster::start(&Layout { windows: |_| true, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 3, "w");
    for round in 0..rounds() {
        workload.wait_for(30).await;
        let master = cluster.wait_master().await;
        let heir = &cluster.machines[(master + 1) % 3].id.clone();
        if round % 2 == 0 {
            client.promote(heir).await.unwrap();
        } else {
            let status = cluster.terminate(master);
            let log = cluster.log_of(master);
            assert!(status.success() && log.contains("stopped"), "{status}\n{log}");
            cluster.start_machine(master);
        }
        workload.wait_for(30).await;
        cluster.wait_both_keep_up().await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn linux_and_windows_machines_replicate_both_ways_page_for_page() {
    let Some(_wine) = Wine::get() else { return };
    let mut cluster = Cluster::start(&Layout { windows: |i| i == 1, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    // Names, numbers and bytes that a system could see in its own way.
    client
        .execute(execute(vec![
            Statement::new("CREATE TABLE \"Größe\"(name TEXT, size REAL, bytes BLOB)"),
            Statement::new(
                "INSERT INTO \"Größe\" VALUES ('zwölf\r\nZeilen\n\u{1}', 0.1 + 0.2, randomblob(100000))",
            ),
        ]))
        .await
        .unwrap();
    let workload = Workload::start(&client, 3, "w");
    // Windows, Linux, Windows, Linux: by command, and by the death of the one that reigns.
    for (round, next) in [1, 0, 1, 2].into_iter().enumerate() {
        workload.wait_for(30).await;
        if round == 3 {
            cluster.kill(1);
            workload.wait_for(30).await;
            cluster.start_machine(1);
        } else {
            cluster.crown(next).await;
        }
        cluster.wait_both_keep_up().await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
        let kept = "SELECT hex(name) || size || hex(bytes) FROM \"Größe\"";
        assert_eq!(read::<String>(&cluster.data_dir(0), kept), read::<String>(&cluster.data_dir(i), kept));
    }

    // A copy made by the Windows machine, checked and unpacked on Linux.
    cluster.crown(1).await;
    let dir = tempfile::TempDir::new().unwrap();
    let copy = dir.path().join("copy.db.zst").display().to_string();
    let url = cluster.url(1);
    let (code, text) =
        tokio::task::block_in_place(|| tanist(&["backup", "--hosts", &url, "--out", &copy, "--json"]));
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = tokio::task::block_in_place(|| tanist(&["verify", &copy]));
    assert_eq!(code, Some(0), "{text}");

    // Stopped, the files are byte for byte one.
    for i in 0..3 {
        assert!(cluster.terminate(i).success());
    }
    for i in 0..3 {
        let file = cluster.data_dir(i).join("state.db").display().to_string();
        if let Some((good, text)) = shell(&[&file, "PRAGMA integrity_check"]) {
            assert!(good && text.trim() == "ok", "{text}");
        }
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_replica_that_was_away_too_long_gets_the_pages_that_differ() {
    let Some(_wine) = Wine::get() else { return };
    let extra = "[replication]\nbuffer = \"1MiB\"\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, windows: |i| i != 0, ..Layout::of(3) }).await;
    cluster.crown(0).await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.wait_both_keep_up().await;
    cluster.kill(2);
    for _ in 0..4 {
        let fill = "INSERT INTO ledger SELECT hex(randomblob(500)) FROM generate_series";
        let fill = fill.replace(
            "generate_series",
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n)",
        );
        client.execute(execute(vec![Statement::new(fill)])).await.unwrap();
    }
    cluster.start_machine(2);
    cluster.wait_both_keep_up().await;
    cluster.assert_identical().await;
    let log = cluster.log_of(2);
    assert!(log.contains("rejoin: in line with the master"), "{log}");
    assert!(!cluster.data_dir(2).join("rejoin.pages").exists(), "removed once all is in place");
    cluster.assert_no_panic();
}

#[test]
fn windows_machine_with_a_bad_file_says_what_is_wrong_and_one_from_notepad_is_read() {
    let Some(wine) = Wine::get() else { return };
    let cluster = Cluster::lay_out(&Layout { windows: |_| true, ..Layout::of(1) });
    let config = &cluster.machines[0].config;
    let good = std::fs::read_to_string(config).unwrap();
    let run = || {
        let mut command = wine.tanist();
        let output = command.arg("run").arg("--config").arg(config).env("NO_COLOR", "1").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let latin = [good.as_bytes(), b"# Gr\xf6\xdfe\r\n"].concat();
    let cases: [(Vec<u8>, &[&str]); 6] = [
        (good.replace("[listen]", "wrong_field = 1\n[listen]").into_bytes(), &["wrong_field"]),
        (good.replace("rank = 1", "rank = -1").replace('\n', "\r\n").into_bytes(), &["rank", "-1"]),
        // Backslashes in a quoted string are TOML's, not Windows'.
        (good.replace("\"data\"", r#""C:\tanist\data""#).into_bytes(), &["line 3, data_dir", "escape"]),
        (latin, &["tanist.toml", "UTF-8"]),
        (good.replace("peer = \"127.", "peer = \"192.").into_bytes(), &["listen.peer", "192."]),
        (b"{".to_vec(), &["tanist.toml", "line 1"]),
    ];
    for (bytes, names) in cases {
        std::fs::write(config, &bytes).unwrap();
        let (code, text) = run();
        assert!(code.is_some_and(|code| code != 0), "exit {code:?}: {text}");
        for name in names {
            assert!(text.contains(name), "expected {name:?} in: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
    // With the byte order mark and the line ends that Notepad writes.
    let notepad = format!("\u{feff}{}", good.replace('\n', "\r\n"));
    std::fs::write(config, notepad.replace("\"data\"", "'D:\\no such drive'")).unwrap();
    let (code, text) = run();
    assert!(code.is_some_and(|code| code != 0) && text.contains("no such drive"), "{code:?} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_machine_lives_in_a_long_folder_beyond_ascii_and_keeps_to_a_changed_file() {
    let Some(_wine) = Wine::get() else { return };
    let mut cluster = Cluster::lay_out(&Layout { windows: |_| true, ..Layout::of(1) });
    let config = cluster.machines[0].config.clone();
    let folder = format!("Räume/{}/{}", "ж".repeat(70), "ü x".repeat(25));
    let text = std::fs::read_to_string(&config).unwrap().replace("\"data\"", &format!("\"{folder}\""));
    // As Notepad writes it, again and again.
    let save =
        |text: &str| std::fs::write(&config, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    save(&text);
    cluster.start_all();
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    assert_eq!(read::<i64>(&config.with_file_name(&folder), "SELECT count(*) FROM ledger"), 0);
    save(&format!("{text}[log]\nfilter = 3\n"));
    cluster.wait("a bad file is refused", || async { cluster.view(0).await.ok()?.notice }).await;
    save(&format!("{text}[limits]\nstatements = 1\n"));
    cluster
        .wait("a good one is taken over", || async {
            let two = execute(vec![Statement::new("DELETE FROM ledger"); 2]);
            cluster
                .client()
                .execute(two)
                .await
                .err()
                .filter(|error| error.to_string().contains("limits.statements"))
        })
        .await;
    assert!(cluster.terminate(0).success());
    cluster.assert_no_panic();
}

/// What programs of a cluster start: a server of its own, which outlives whoever started it.
struct Inner(Cluster);

impl Inner {
    fn new() -> Inner {
        Inner(Cluster::lay_out(&Layout { windows: |_| true, ..Layout::of(1) }))
    }

    /// A script that runs it to its end.
    fn write_script(&self, path: &Path) {
        let quoted = |path: &Path| windows_path(path).replace('\'', "\"");
        let program = quoted(Path::new(&std::env::var("TANIST_EXE").unwrap()));
        let config = quoted(&self.0.machines[0].config);
        write_script(path, &["@echo off", &format!("{program} run --config {config}")]);
    }

    fn serves(&self) -> bool {
        let address: SocketAddr = format!("{}:{HTTP_PORT}", self.0.machines[0].ip).parse().unwrap();
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    }
}

/// The guard of the service whose command is in `dir`.
fn guard_of(dir: &Path) -> Pid {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut guards = processes.filter_map(|process| {
        let command = std::fs::read(process.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        let is = command.contains("service-guard") && command.contains(name);
        is.then(|| process.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)).flatten()
    });
    guards.next().expect("a guard")
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_hook_that_takes_too_long_is_killed_with_what_it_started() {
    let Some(_wine) = Wine::get() else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let inner = Inner::new();
    inner.write_script(&dir.path().join("hang.cmd"));
    let extra = format!(
        "[hooks]\ntimeout = \"10s\"\non_promote = [{}]\n",
        windows_path(&dir.path().join("hang.cmd"))
    );
    let cluster = Cluster::start(&Layout { extra, windows: |_| true, ..Layout::of(1) }).await;
    cluster.wait("what it starts runs", || async { inner.serves().then_some(()) }).await;
    cluster.wait("it is killed", || async { (!inner.serves()).then_some(()) }).await;
    cluster
        .wait("that is told", || async { cluster.log_of(0).contains("didn't end within 10s").then_some(()) })
        .await;
    create_ledger(&cluster.client()).await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_hooks_and_service_are_cmd_files_and_end_with_all_that_they_started() {
    let Some(_wine) = Wine::get() else { return };
    // With a space, as in "Program Files", and a letter beyond ASCII.
    let dir = tempfile::Builder::new().prefix("tanist zwölf ").tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let inner = Inner::new();
    inner.write_script(&at("service.cmd"));
    // `%~dp0` is where the script is.
    write_script(&at("up.cmd"), &["@echo off", r#"echo promote %TANIST_TERM% %1>> "%~dp0log""#]);
    write_script(&at("down.cmd"), &["@echo off", r#"echo demote %TANIST_TERM% %1>> "%~dp0log""#]);
    let extra = format!(
        "[hooks]\non_promote = [{}, 'a \"b\" & c']\non_demote = [{}]\n[service]\ncommand = [{}]\n",
        windows_path(&at("up.cmd")),
        windows_path(&at("down.cmd")),
        windows_path(&at("service.cmd"))
    );
    let mut cluster = Cluster::start(&Layout { extra, windows: |_| true, ..Layout::of(3) }).await;
    for round in 0..3 {
        cluster.wait("the service runs", || async { inner.serves().then_some(()) }).await;
        let master = cluster.wait_master().await;
        let term = cluster.view(master).await.unwrap().term;
        let told = std::fs::read_to_string(at("log")).unwrap();
        assert!(told.contains(&format!("promote {term} ")), "{told}");
        match round {
            // The system ends what the guard has started, and the server starts it again.
            0 => kill_process(guard_of(dir.path()), Signal::KILL).unwrap(),
            // The guard goes on by itself.
            1 => cluster.kill(master),
            _ => {
                assert!(cluster.terminate(master).success());
                let told = std::fs::read_to_string(at("log")).unwrap();
                assert!(told.contains(&format!("demote {term} ")), "{told}");
            }
        }
        cluster.wait("the service is gone", || async { (!inner.serves()).then_some(()) }).await;
        if cluster.machines[master].child.is_none() {
            cluster.start_machine(master);
        }
    }
    cluster.wait("the next one's service runs", || async { inner.serves().then_some(()) }).await;
    for i in 0..3 {
        cluster.kill(i);
    }
    cluster.wait("nothing is left", || async { (!inner.serves()).then_some(()) }).await;
    cluster.assert_no_panic();
}
