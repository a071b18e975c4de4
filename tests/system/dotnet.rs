//! The .NET client on Mono, against real machines that are killed: nothing of that reaches the application.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    failover::{moment, rounds},
};

/// The longest time that the program may take to say something.
const PATIENCE: Duration = Duration::from_secs(90);

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/dotnet")
}

/// Compiles the client and its test program; `None`, and says so, where Mono is missing.
fn build() -> Option<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("tanist-dotnet-").tempdir().unwrap();
    let probe = dir.path().join("probe.cs");
    std::fs::write(&probe, "class P { static void Main() { new System.Net.Http.HttpClient().Dispose(); } }")
        .unwrap();
    let program = probe.with_extension("exe");
    let compiled = Command::new("mcs").arg("-r:System.Net.Http").arg(&probe).output();
    let runs = || Command::new("mono").arg(&program).output().is_ok_and(|output| output.status.success());
    if !compiled.is_ok_and(|output| output.status.success()) || !runs() {
        eprintln!(
            "no Mono here (mono-mcs, libmono-system-net-http4.0-cil): the .NET client's tests are left out"
        );
        return None;
    }
    let output = Command::new("sh")
        .arg(sources().join("build.sh"))
        .arg(dir.path())
        .env("NO_SAMPLE", "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    Some(dir)
}

fn program(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new("mono");
    command.arg("--debug").arg(dir.path().join("Tanist.Client.Tests.exe")).args(args);
    command
}

/// The program that writes and reads, see `client/dotnet/tests/Ledger.cs`.
struct Ledger {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Ledger {
    fn start(dir: &tempfile::TempDir, hosts: &str, workers: usize, attempt: Duration) -> Ledger {
        let attempt = attempt.as_secs();
        let mut child = program(dir, &["ledger", hosts, &workers.to_string(), &attempt.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ledger { input: child.stdin.take().unwrap(), child, lines }
    }

    fn ask(&mut self, command: &str, answer: &str) -> Vec<u64> {
        writeln!(self.input, "{command}").expect("the program runs: no exception has ended it");
        let line = self.lines.recv_timeout(PATIENCE).expect("the program answers: no exception has ended it");
        let numbers =
            line.strip_prefix(answer).unwrap_or_else(|| panic!("found {line:?}, expected {answer:?}"));
        numbers.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// Writes so far, and the longest pause since this was asked last.
    fn state(&mut self) -> (u64, Duration) {
        let numbers = self.ask("state", "state ");
        (numbers[0], Duration::from_millis(numbers[1]))
    }

    /// Waits until so many further writes are acknowledged; the longest pause meanwhile.
    async fn wait_for(&mut self, more: u64) -> Duration {
        let (mut count, mut longest) = self.state();
        let target = count + more;
        let until = std::time::Instant::now() + PATIENCE;
        while count < target {
            assert!(std::time::Instant::now() < until, "no {more} further writes in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let (now, pause) = self.state();
            (count, longest) = (now, longest.max(pause));
        }
        longest
    }

    /// How many entries each worker has written.
    fn stop(mut self) -> Vec<u64> {
        let counts = self.ask("stop", "done ");
        assert!(self.child.wait().unwrap().success(), "the program ends well");
        counts
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Worker `w` has written `w/0`, `w/1`, ... and each stands there exactly once, and nothing else.
fn assert_exactly_once(dir: &Path, counts: &[u64]) {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(dir.join("state.db"), flags).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut statement = connection.prepare("SELECT entry, count(*) FROM ledger GROUP BY entry").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let found: BTreeMap<String, i64> = rows.collect::<Result<_, _>>().unwrap();
    let expected: BTreeMap<String, i64> = counts
        .iter()
        .enumerate()
        .flat_map(|(worker, count)| (0..*count).map(move |n| (format!("{worker}/{n}"), 1)))
        .collect();
    let wrong: Vec<_> = expected
        .keys()
        .chain(found.keys())
        .filter(|entry| expected.get(*entry) != found.get(*entry))
        .take(5)
        .collect();
    assert!(wrong.is_empty(), "lost, twice or invented in {}: {wrong:?} ...", dir.display());
}

#[test]
fn dotnet_client_passes_its_own_tests() {
    let Some(dir) = build() else { return };
    let output = program(&dir, &["unit"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    print!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dotnet_application_sees_no_exception_when_masters_are_killed() {
    let Some(dir) = build() else { return };
    let mut cluster = Cluster::of(3).await;
    // One host is given, the others are learned.
    let given = cluster.url(2);
    let mut ledger = Ledger::start(&dir, &given, 4, Duration::from_secs(5));
    let mut pauses = vec![];
    for _ in 0..rounds() {
        ledger.wait_for(50).await;
        tokio::time::sleep(moment(300)).await;
        let master = cluster.wait_master().await;
        ledger.state();
        cluster.kill(master);
        pauses.push(ledger.wait_for(50).await);
        cluster.start_machine(master);
        cluster.wait_back(master).await;
    }
    let counts = ledger.stop();
    cluster.assert_identical().await;
    for i in 0..3 {
        assert_exactly_once(&cluster.data_dir(i), &counts);
    }
    cluster.assert_no_panic();
    pauses.sort();
    println!("{} writes over {} kills; longest pauses {pauses:?}", counts.iter().sum::<u64>(), pauses.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn dotnet_application_leaves_a_master_that_stands_still() {
    let Some(dir) = build() else { return };
    let cluster = Cluster::of(3).await;
    let mut ledger = Ledger::start(&dir, &cluster.hosts(), 4, Duration::from_secs(25));
    ledger.wait_for(50).await;
    let master = cluster.wait_master().await;
    ledger.state();
    cluster.signal(master, Signal::STOP);
    let pause = ledger.wait_for(50).await;
    cluster.signal(master, Signal::CONT);
    // One attempt alone may last for 25 s: the client looks around earlier.
    assert!(pause < Duration::from_secs(20), "a pause of {pause:?}");
    let counts = ledger.stop();
    cluster.assert_identical().await;
    for i in 0..3 {
        assert_exactly_once(&cluster.data_dir(i), &counts);
    }
    println!("{} writes; pause {pause:?}", counts.iter().sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn dotnet_client_keeps_the_state_of_the_control_room() {
    let Some(dir) = build() else { return };
    let cluster = Cluster::of(3).await;
    let output = program(&dir, &["state", &cluster.hosts()]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    // 3: this server has no such routes yet.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}\n{}", cluster.logs());
    print!("{text}");
    cluster.assert_no_panic();
}
