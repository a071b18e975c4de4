//! Copies of the whole database: taken while the cluster serves, restored into another one.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tanist_api::Statement;
use tanist_client::{Client, Error, api::code};
use tanist_replication::Position;

use crate::{
    cluster::{Cluster, HTTP_PORT, KEY, Layout, binary, read, tanist},
    workload::{Workload, create_ledger, execute},
};

const OTHER_KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

/// A cluster that isn't started, with another key.
fn with_other_key(layout: &Layout) -> Cluster {
    let cluster = Cluster::lay_out(layout);
    for machine in &cluster.machines {
        let text = std::fs::read_to_string(&machine.config).unwrap();
        std::fs::write(&machine.config, text.replace(KEY, OTHER_KEY)).unwrap();
    }
    cluster
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the command line without standing in the way of the writers.
fn run(args: &[&str]) -> (Option<i32>, String) {
    tokio::task::block_in_place(|| tanist(args))
}

fn backup(cluster: &Cluster, out: &Path, more: &[&str]) -> Value {
    let hosts = cluster.hosts();
    let mut args = vec!["backup", "--hosts", &hosts, "--json", "--out", text(out)];
    args.extend(more);
    let (code, said) = run(&args);
    assert_eq!(code, Some(0), "{said}\n{}", cluster.logs());
    serde_json::from_str(&said).unwrap()
}

fn position(value: &Value) -> Position {
    value["position"].as_str().unwrap().parse().unwrap()
}

/// Writers that remember the position of each entry.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<BTreeMap<String, Position>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn start(client: &Client, tag: &'static str) -> Writers {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<BTreeMap<_, _>>>::default());
        let task = |writer| {
            let (client, stop, written) = (client.clone(), Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let entry = format!("{tag}/{writer}/{n}");
                    let insert = Statement::with("INSERT INTO ledger(entry) VALUES (?)", vec![json!(entry)]);
                    let done = client.execute(execute(vec![insert])).await.unwrap();
                    written.lock().unwrap().insert(entry, done.position.parse().unwrap());
                }
            })
        };
        let tasks = (0..3).map(task).collect();
        Writers { stop, written, tasks }
    }

    async fn wait_for(&self, more: usize) {
        let count = || self.written.lock().unwrap().len();
        let (target, until) = (count() + more, Instant::now() + Duration::from_secs(60));
        while count() < target {
            assert!(Instant::now() < until, "no {more} further writes in 60 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn finish(self) -> BTreeMap<String, Position> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        Arc::into_inner(self.written).unwrap().into_inner().unwrap()
    }
}

/// The entries of the ledger in a data directory.
fn ledger(directory: &Path) -> Vec<String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(directory.join("state.db"), flags).unwrap();
    let mut statement = connection.prepare("SELECT entry FROM ledger ORDER BY entry").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_taken_under_load_hold_exactly_what_their_position_says_and_found_a_new_cluster() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let dir = tempfile::tempdir().unwrap();
    let writers = Writers::start(&client, "w");
    writers.wait_for(50).await;
    let master = cluster.machines[cluster.wait_master().await].id.clone();
    let from_backup = dir.path().join("from-backup.db.zst");
    let by_default = backup(&cluster, &from_backup, &[]);
    assert_ne!(by_default["member"], json!(master), "a backup has less to do");
    writers.wait_for(50).await;
    let by_name = backup(&cluster, dir.path(), &["--from", &master, "--level", "1"]);
    assert_eq!(by_name["member"], json!(master));
    writers.wait_for(20).await;
    let written = writers.finish().await;
    let from_master = PathBuf::from(by_name["file"].as_str().unwrap());
    for (copy, facts) in [(&from_backup, &by_default), (&from_master, &by_name)] {
        let (code, said) = run(&["verify", text(copy), "--json"]);
        assert_eq!(code, Some(0), "{said}");
        let verified: Value = serde_json::from_str(&said).unwrap();
        assert!(verified["sound"] == json!(true) && verified["position"] == facts["position"], "{said}");
        assert_eq!(verified["terms"][0]["reason"], json!("founded"), "{said}");
        // Anybody's zstd gives a database that anybody's SQLite reads.
        let plain = dir.path().join("plain");
        std::fs::create_dir_all(&plain).unwrap();
        let database = plain.join("state.db");
        zstd::stream::copy_decode(
            std::fs::File::open(copy).unwrap(),
            std::fs::File::create(&database).unwrap(),
        )
        .unwrap();
        let until = position(facts);
        let expected: Vec<_> =
            written.iter().filter(|(_, at)| **at <= until).map(|(entry, _)| entry.clone()).collect();
        assert!(expected.len() >= 50 && expected.len() < written.len(), "taken in the middle");
        assert_eq!(ledger(&plain), expected, "all up to its position, and nothing after");
        let (code, said) = run(&["verify", text(&database)]);
        assert!(code == Some(0) && said.contains("founded"), "{said}");
    }

    // The same name with the same key would be the same cluster.
    let same = Cluster::lay_out(&Layout::of(3));
    let config = same.machines[1].config.display().to_string();
    let (code, said) = run(&["restore", text(&from_backup), "--config", &config]);
    assert!(code == Some(2) && said.contains("expected another name or another key"), "{said}");
    assert!(!same.data_dir(1).exists());

    let mut restored = with_other_key(&Layout::of(3));
    let config = restored.machines[1].config.display().to_string();
    let (code, said) = run(&["restore", text(&from_backup), "--config", &config]);
    assert!(code == Some(0) && said.contains("pc-2 holds the database of test"), "{said}");
    let (code, said) = run(&["restore", text(&from_backup), "--config", &config]);
    assert!(code == Some(1) && said.contains("expected an empty directory"), "{said}");
    restored.start_all();
    let master = restored.wait_master().await;
    assert_eq!(master, 1, "who holds the data founds");
    let reason: String = read(
        &restored.data_dir(1),
        "SELECT group_concat(reason, '; ') FROM (SELECT reason FROM tanist_terms ORDER BY term)",
    );
    let expected = format!("restored from a copy of test at {}", by_default["position"].as_str().unwrap());
    assert!(reason.starts_with("founded") && reason.contains(&expected), "{reason}");
    let workload = Workload::start(&restored.client(), 2, "new");
    workload.wait_for(20).await;
    restored
        .wait("a backup holds everything again", || async {
            (restored.view(1).await.ok()?.sync_set.len() == 2).then_some(())
        })
        .await;
    restored.kill(master);
    workload.wait_for(20).await;
    restored.start_machine(master);
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    restored.assert_identical().await;
    let until = position(&by_default);
    let old: Vec<_> =
        written.iter().filter(|(_, at)| **at <= until).map(|(entry, _)| entry.clone()).collect();
    let found = ledger(&restored.data_dir(0));
    assert!(old.iter().all(|entry| found.contains(entry)));
    assert_eq!(found.len(), old.len() + outcome.acknowledged.len());
    assert!(outcome.acknowledged.iter().all(|entry| found.contains(entry)));
    cluster.assert_identical().await;
    cluster.assert_no_panic();
    restored.assert_no_panic();
}

/// A copy of a cluster that is gone, with an empty ledger; the directory is removed when it is dropped.
async fn copy_of_another_cluster() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("old.db.zst");
    let old = Cluster::of(1).await;
    create_ledger(&old.client()).await;
    backup(&old, &copy, &[]);
    (dir, copy)
}

/// Waits until the process of a machine ends by itself.
async fn ended(cluster: &mut Cluster, machine: usize) -> std::process::ExitStatus {
    let mut child = cluster.machines[machine].child.take().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it runs on\n{}", cluster.logs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_machine_in_a_cluster_that_lives_ends_before_it_has_done_any_harm() {
    let (_dir, copy) = copy_of_another_cluster().await;
    // Another cluster of the same name, with machines of the same names.
    let mut cluster = with_other_key(&Layout::of(3));
    cluster.start_all();
    let master = cluster.wait_master().await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    // One that the record counts on.
    let view = cluster.view(master).await.unwrap();
    let backup =
        cluster.index_of(view.sync_set.iter().find(|id| **id != cluster.machines[master].id).unwrap());
    cluster.kill(backup);
    let config = cluster.machines[backup].config.display().to_string();
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert!(code == Some(1) && said.contains("expected an empty directory"), "{said}");
    std::fs::remove_dir_all(cluster.data_dir(backup)).unwrap();
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert_eq!(code, Some(0), "{said}");
    let term = cluster.view(master).await.unwrap().term;
    // The master dies just now: only the restored machine and the third are there.
    cluster.kill(master);
    cluster.start_machine(backup);
    let status = ended(&mut cluster, backup).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.log_of(backup);
    assert!(log.contains("belongs to one that has begun"), "{log}");
    assert!(log.contains("restored from a copy of test"), "{log}");
    // Emptied, it is a machine like any other.
    std::fs::remove_dir_all(cluster.data_dir(backup)).unwrap();
    cluster.start_machine(backup);
    cluster.start_machine(master);
    let outcome = workload.finish().await;
    cluster.wait_master().await;
    assert!(cluster.view(master).await.unwrap().term < term + 1000, "the restored term has reached nobody");
    cluster.assert_identical().await;
    for machine in 0..3 {
        outcome.assert_in(&cluster.data_dir(machine));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_restored_on_two_machines_founds_one_cluster() {
    let (_dir, copy) = copy_of_another_cluster().await;
    // With the third, whoever founds has a majority whatever becomes of the other.
    let mut cluster = with_other_key(&Layout::of(3));
    for machine in 0..2 {
        let config = cluster.machines[machine].config.display().to_string();
        let (code, said) = run(&["restore", text(&copy), "--config", &config, "--forget-tokens"]);
        assert_eq!(code, Some(0), "{said}");
    }
    cluster.start_all();
    let loser = cluster
        .wait("one of them gives up", || async {
            (0..2).find(|machine| cluster.log_of(*machine).contains("belongs to one that has begun"))
        })
        .await;
    assert_eq!(ended(&mut cluster, loser).await.code(), Some(1));
    std::fs::remove_dir_all(cluster.data_dir(loser)).unwrap();
    cluster.start_machine(loser);
    cluster.wait_master().await;
    let client = cluster.client();
    client
        .execute(execute(vec![Statement::with("INSERT INTO ledger VALUES (?)", vec![json!("x")])]))
        .await
        .unwrap();
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_that_broke_off_is_not_taken_for_a_machine() {
    let (dir, copy) = copy_of_another_cluster().await;
    let mut cluster = with_other_key(&Layout::of(1));
    let config = cluster.machines[0].config.display().to_string();
    let data = cluster.data_dir(0);
    // Killed while it unpacked: nothing of it counts.
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("restore.partial"), vec![7; 10_000]).unwrap();
    // A damaged copy leaves nothing behind.
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[1000] ^= 1;
    let damaged = dir.path().join("damaged.db.zst");
    std::fs::write(&damaged, bytes).unwrap();
    let (code, said) = run(&["restore", text(&damaged), "--config", &config]);
    assert!(code == Some(1) && said.contains("this copy is damaged"), "{said}");
    assert!(!data.join("restore.partial").exists());
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert_eq!(code, Some(0), "{said}");
    // Killed before the database got its name.
    std::fs::rename(data.join("state.db"), data.join("restore.partial")).unwrap();
    cluster.start_machine(0);
    assert_eq!(ended(&mut cluster, 0).await.code(), Some(1));
    assert!(cluster.log_of(0).contains("holds the beginning of a restore"), "{}", cluster.log_of(0));
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert!(code == Some(1) && said.contains("found node.db"), "{said}");
    std::fs::remove_dir_all(&data).unwrap();
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert_eq!(code, Some(0), "{said}");
    cluster.start_machine(0);
    cluster.wait_master().await;
    let config = cluster.machines[0].config.display().to_string();
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert!(code == Some(1) && said.contains("in use by another tanist process"), "{said}");
    let database = data.join("state.db");
    let (code, said) = run(&["verify", text(&database)]);
    assert!(code == Some(1) && said.contains("the machine must be stopped"), "{said}");
    cluster.terminate(0);
    let (code, said) = run(&["verify", text(&database)]);
    assert!(code == Some(0) && said.contains("restored from a copy of test"), "{said}");
}

/// Writes `count` MiB that don't get smaller by compression.
async fn fill(client: &Client, count: usize) {
    for _ in 0..count {
        let insert = Statement::new("INSERT INTO blob(content) VALUES (randomblob(1048576))");
        client.execute(execute(vec![insert])).await.unwrap();
    }
}

async fn with_blobs(extra: &str, count: usize) -> (Cluster, Client) {
    let layout = Layout { extra: extra.to_owned(), ..Layout::of(1) };
    let cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE blob(content BLOB NOT NULL)")])).await.unwrap();
    fill(&client, count).await;
    (cluster, client)
}

/// Asks for a copy and reads no more than the answer's head.
fn ask_and_wait(cluster: &Cluster) -> (TcpStream, String) {
    // The system would take some ten MiB for a client that doesn't.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let address: SocketAddr = format!("{}:{HTTP_PORT}", cluster.machines[0].ip).parse().unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /v1/backup HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_takes_nothing_is_cut_off_and_the_wal_comes_down_again() {
    let limits = "[limits]\nbackup_stall = \"4s\"\n[store]\nwal_limit = \"1MiB\"\n";
    let (cluster, client) = with_blobs(limits, 24).await;
    let wal = cluster.data_dir(0).join("state.db-wal");
    let wal_bytes = || std::fs::metadata(&wal).unwrap().len();
    let (mut first, head) = tokio::task::block_in_place(|| ask_and_wait(&cluster));
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("tanist-position: 1."), "{head}");
    let (second, _) = tokio::task::block_in_place(|| ask_and_wait(&cluster));
    let refused = client.backup_of(&cluster.url(0), None, None).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { last, .. } if last.contains("2 copies")), "{refused}");
    let cut_off = || cluster.log_of(0).matches("a copy was cut off").count();
    let (mut longest, until) = (0, Instant::now() + Duration::from_secs(60));
    while cut_off() < 2 {
        assert!(Instant::now() < until, "{}", cluster.logs());
        if longest < 30 << 20 {
            fill(&client, 1).await;
        }
        longest = longest.max(wal_bytes());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(longest > 20 << 20, "the WAL grew to {longest} bytes only: the snapshots held nothing");
    assert!(cluster.log_of(0).contains("took nothing for 4s (limits.backup_stall)"), "{}", cluster.logs());
    // The next checkpoint lets it start over, and then the file is cut.
    cluster
        .wait("the WAL is small again", || async {
            fill(&client, 1).await;
            (wal_bytes() <= 17 << 20).then_some(())
        })
        .await;
    let mut rest = Vec::new();
    let broken = tokio::task::block_in_place(|| first.read_to_end(&mut rest));
    assert!(broken.is_err() || !rest.ends_with(b"0\r\n\r\n"), "what was cut off doesn't look whole");
    drop(second);
    let dir = tempfile::tempdir().unwrap();
    backup(&cluster, &dir.path().join("whole.db.zst"), &[]);
    cluster.assert_no_panic();
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn server_killed_in_the_middle_leaves_no_file_that_looks_whole() {
    let (mut cluster, _) = with_blobs("", 24).await;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("half.db.zst");
    let partial = dir.path().join("half.db.zst.partial");
    let mut child = Command::new(binary())
        .args(["backup", "--level", "9", "--hosts", &cluster.hosts(), "--out", text(&out)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !std::fs::metadata(&partial).is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "it has begun");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    signal(&child, Signal::STOP);
    assert!(!out.exists(), "stopped in the middle");
    cluster.kill(0);
    signal(&child, Signal::CONT);
    let output = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("the copy broke off"), "{said}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left");
    // Begun again, it is whole; and isn't replaced by accident.
    cluster.start_machine(0);
    cluster.wait_master().await;
    backup(&cluster, &out, &[]);
    let hosts = cluster.hosts();
    let (code, said) = run(&["backup", "--hosts", &hosts, "--out", text(&out)]);
    assert!(code == Some(2) && said.contains("exists already"), "{said}");
    backup(&cluster, &out, &["--force"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_is_for_admins_alone_and_travels_over_tls() {
    let cluster = Cluster::start(&Layout { tokens: true, tls: true, ..Layout::of(1) }).await;
    let operator = cluster.client();
    create_ledger(&operator).await;
    for role in tanist_api::Access::ALL {
        let node = (role == tanist_api::Access::Agent).then(|| "n1".to_owned());
        let new = tanist_api::NewToken { node, ..tanist_api::NewToken::new(&format!("a-{role}"), role) };
        let made = operator.make_token_as(&new).await.unwrap();
        let builder = cluster.builder().hosts(&cluster.url(0)).token(&made.token).unwrap();
        let answer = builder.build().unwrap().backup_of(&cluster.url(0), None, None).await;
        match (role, answer) {
            (tanist_api::Access::Admin, answer) => {
                let mut download = answer.unwrap();
                let mut bytes = vec![];
                while let Some(chunk) = download.chunk().await.unwrap() {
                    bytes.extend_from_slice(&chunk);
                }
                let plain = zstd::stream::decode_all(&bytes[..]).unwrap();
                assert!(plain.starts_with(b"SQLite format 3\0"));
                assert_eq!(Some(plain.len() as u64), download.database_bytes());
                cluster
                    .wait("it is on record who has got it", || async {
                        let log = cluster.log_of(0);
                        let mut lines = log.lines().filter(|line| line.contains("a copy was taken"));
                        lines.any(|line| line.contains("a-admin")).then_some(())
                    })
                    .await;
            }
            (_, Err(Error::Problem(problem))) => assert_eq!(problem.code, code::FORBIDDEN),
            (role, answer) => panic!("{role}: {answer:?}"),
        }
    }
}

fn copies(cluster: &Cluster, machine: usize) -> Vec<PathBuf> {
    let directory = cluster.machines[machine].config.with_file_name("copies");
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut copies: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    copies.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    copies.sort();
    copies
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_take_copies_by_schedule_and_keep_the_newest() {
    let extra = "[backup]\ndirectory = \"copies\"\nevery = \"1s\"\nkeep = 2\n".to_owned();
    let mut cluster = Cluster::start(&Layout { ranks: vec![1, 2, 0], extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 1, "w");
    for machine in 0..2 {
        cluster
            .wait("four copies were taken", || async {
                let taken = cluster.log_of(machine).matches("a scheduled copy was taken").count();
                (taken >= 4).then_some(())
            })
            .await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    // One that was begun after the last write.
    let tip: Position = cluster.view(0).await.unwrap().position.parse().unwrap();
    for machine in 0..2 {
        cluster
            .wait("a copy holds the last write", || async {
                let shown = cluster.view(machine).await.ok()?.copies?;
                (shown.position?.parse::<Position>().ok()? >= tip).then_some(())
            })
            .await;
    }
    assert!(cluster.view(2).await.unwrap().copies.is_none(), "a witness has nothing to copy");
    let (code, said) = run(&["status", "--hosts", &cluster.hosts()]);
    assert!(code == Some(0) && said.contains("Copies on pc-") && said.contains("newest at"), "{said}");
    for machine in 0..2 {
        cluster.terminate(machine);
        let kept = copies(&cluster, machine);
        assert_eq!(kept.len(), 2, "{kept:?}");
        let (code, said) = run(&["verify", text(kept.last().unwrap())]);
        assert_eq!(code, Some(0), "{said}");
    }
    assert!(copies(&cluster, 2).is_empty());
    cluster.assert_no_panic();
}

/// Somebody deletes what shouldn't be: it comes back by the increments of before, machine and process killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn state_of_a_moment_before_a_mistake_is_restored_from_increments() {
    let extra = "[backup]\ndirectory = \"copies\"\nevery = \"1h\"\nincrements = \"1s\"\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let directory = cluster.machines[1].config.with_file_name("copies");
    let shown = async |cluster: &Cluster, machine: usize, at_least: Position| {
        cluster
            .wait("the increments hold the last write", || async {
                let shown = cluster.view(machine).await.ok()?.copies?;
                assert_eq!(shown.failed, None);
                (shown.position?.parse::<Position>().ok()? >= at_least).then_some(())
            })
            .await;
    };
    let workload = Workload::start(&client, 1, "w");
    for _ in 0..3 {
        workload.wait_for(20).await;
        let reached: Position = cluster.view(1).await.unwrap().position.parse().unwrap();
        shown(&cluster, 1, reached).await;
        cluster.kill(1);
        workload.wait_for(5).await;
        cluster.start_machine(1);
        cluster.wait_back(1).await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    let last = outcome.acknowledged.len();
    let reached: Position = cluster.view(1).await.unwrap().position.parse().unwrap();
    shown(&cluster, 1, reached).await;
    let mistake = client.execute(execute(vec![Statement::new("DELETE FROM ledger")])).await.unwrap();
    let mistake: Position = mistake.position.parse().unwrap();
    shown(&cluster, 1, mistake).await;
    assert_eq!(ledger(&cluster.data_dir(1)), Vec::<String>::new());

    let (code, said) = run(&["verify", text(&directory), "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let points: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(points["points"].as_array().unwrap().len(), 1, "restarts made no new copy: {said}");
    assert!(points["points"][0]["increments"].as_u64().unwrap() >= 3, "{said}");

    let before = Position { txid: tanist_replication::Txid(mistake.txid.0 - 1), ..mistake };
    for (until, expected) in [(before.to_string(), last), ("newest".to_owned(), 0)] {
        let mut restored = with_other_key(&Layout::of(3));
        let config = restored.machines[0].config.display().to_string();
        let (code, said) = run(&["restore", text(&directory), "--config", &config, "--until", &until]);
        assert!(code == Some(0) && said.contains("pc-1 holds the database of test at"), "{said}");
        assert_eq!(ledger(&restored.data_dir(0)).len(), expected, "until {until}");
        if expected > 0 {
            restored.start_all();
            restored.wait_master().await;
            restored.assert_identical().await;
            restored.assert_no_panic();
        }
    }
    let (code, said) = run(&["restore", text(&directory), "--until", "yesterday"]);
    assert!(code == Some(2) && said.contains("expected \"newest\", a position"), "{said}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn witness_has_no_copy_to_give() {
    let layout = Layout { ranks: vec![1, 0], ..Layout::of(2) };
    let cluster = Cluster::start(&layout).await;
    let error = cluster.client().backup_of(&cluster.url(1), None, None).await.unwrap_err();
    assert!(error.to_string().contains("is a witness"), "{error}");
    let config = cluster.machines[1].config.display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db.zst");
    backup(&cluster, &copy, &[]);
    let text_of = std::fs::read_to_string(&config).unwrap().replace(KEY, OTHER_KEY);
    std::fs::write(&config, text_of).unwrap();
    let (code, said) = run(&["restore", text(&copy), "--config", &config]);
    assert!(code == Some(2) && said.contains("is a witness"), "{said}");
}
