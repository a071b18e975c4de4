//! The clients of one file each, for Python and TypeScript, against real machines that are killed and stopped.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tanist_api::Access;
use tempfile::TempDir;

use crate::{
    cluster::{Cluster, Layout, is_long_run},
    failover::rounds,
    ledger::Ledger,
};

fn client_of(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client").join(language)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it to its end, which must be a good one; what it said.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

/// The quick start of a README, for this cluster.
fn quick_start(readme: &str, language: &str, hosts: &str) -> String {
    let (_, after) = readme.split_once(&format!("```{language}\n")).unwrap();
    let (program, _) = after.split_once("\n```").unwrap();
    assert!(program.contains("pc-1:8080,pc-2:8080,pc-3:8080"), "{program}");
    program.replace("pc-1:8080,pc-2:8080,pc-3:8080", hosts)
}

/// A program that writes, reads and watches while masters are killed, and at last one is stopped.
async fn survive(program: impl Fn(&str, &str, &str) -> Command) {
    let mut cluster = Cluster::of(3).await;
    let mut ledger = Ledger::start(&mut program(&cluster.hosts(), "4", "20"));
    let pauses = ledger.kill_masters(&mut cluster, rounds().min(20), 30).await;
    let (stopped, told) = stop_master(&cluster, &mut ledger).await;
    let writes = ledger.finish_on(&cluster).await;
    println!("{writes} writes; killed: {pauses:?}; stopped: {stopped:?}, told again after {told:?}");
}

/// The first host, on which the watch is, is made the master and stopped: how long nothing is written, and nothing is told.
async fn stop_master(cluster: &Cluster, ledger: &mut Ledger) -> (Duration, Duration) {
    cluster.client().promote(&cluster.machines[0].id).await.unwrap();
    ledger.wait_for(30).await;
    ledger.state();
    cluster.signal(0, Signal::STOP);
    let begin = Instant::now();
    let stopped = ledger.wait_for(30).await;
    let written = ledger.state().0;
    while ledger.ask("told", "told ")[0] < written {
        assert!(begin.elapsed() < Duration::from_secs(60), "the watch doesn't go on elsewhere");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = begin.elapsed();
    cluster.signal(0, Signal::CONT);
    // One attempt alone may last for 20 s, and a machine says something every 5 s only: both are noticed earlier.
    assert!(stopped < Duration::from_secs(10) && told < Duration::from_secs(10), "{stopped:?}, {told:?}");
    (stopped, told)
}

/// All routes over TLS with a token; then with every machine off, and on again.
async fn tell_story(program: impl Fn(&[&str]) -> Command) {
    let mut cluster = Cluster::start(&Layout { tls: true, tokens: true, ..Layout::of(3) }).await;
    let token = cluster.client().make_token("story", Access::Admin).await.unwrap().token;
    let dir = tempfile::tempdir().unwrap();
    let (ca, cache) = (dir.path().join("ca.crt"), dir.path().join("cache.json"));
    std::fs::write(&ca, cluster.authority()).unwrap();
    let args = [&cluster.hosts(), cache.to_str().unwrap(), &token, ca.to_str().unwrap()];
    let mut story = Ledger::start(&mut program(&args));
    story.hear("ready");
    for i in 0..3 {
        cluster.kill(i);
    }
    story.ask("off", "cached");
    cluster.start_all();
    cluster.wait_master().await;
    story.ask("on", "done");
    cluster.assert_no_panic();
}

fn python() -> Option<Command> {
    let check = "import sys, ssl; sys.exit(sys.version_info < (3, 8))";
    let found = Command::new("python3").args(["-c", check]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("no Python 3.8 or later here (python3): the Python client's tests are left out");
        return None;
    }
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", client_of("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(python)
}

fn python_program(name: &str, args: &[&str]) -> Command {
    let mut command = python().unwrap();
    command.arg(client_of("python").join("tests").join(name)).args(args);
    command
}

#[test]
fn python_client_passes_its_own_tests() {
    let Some(mut python) = python() else { return };
    print!(
        "{}",
        run(python.args(["-m", "unittest", "discover", "-s"]).arg(client_of("python").join("tests")))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn python_program_notices_nothing_but_a_pause_when_masters_die_or_stand_still() {
    if python().is_none() {
        return;
    }
    survive(|hosts, workers, attempt| python_program("ledger.py", &[hosts, workers, attempt])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_client_keeps_values_conditions_and_the_last_known_configuration() {
    if python().is_none() {
        return;
    }
    tell_story(|args| python_program("story.py", args)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_quick_start_works_as_printed() {
    let Some(mut python) = python() else { return };
    let cluster = Cluster::of(3).await;
    let readme = std::fs::read_to_string(client_of("python").join("README.md")).unwrap();
    let said = run(python.args(["-c", &quick_start(&readme, "python", &cluster.hosts())]));
    assert_eq!(said, "1 hello b'\\x00\\xff'\nwall/title Hall 2\n");
}

/// Types are checked and the package is built by tools that are fetched into a folder of their own.
#[test]
fn python_client_is_typed_and_a_package() {
    if !is_long_run() || python().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let venv = dir.path().join("venv");
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output().unwrap();
    let tools = ["install", "--quiet", "--disable-pip-version-check", "mypy", "build", "flit_core>=3.11,<4"];
    let bin = |name: &str| Command::new(venv.join("bin").join(name));
    if !made.status.success() || !bin("pip").args(tools).output().is_ok_and(|output| output.status.success())
    {
        eprintln!("no python3-venv or no network here: types and package of the Python client are left out");
        return;
    }
    let client = dir.path().join("client");
    run(Command::new("cp").arg("-r").arg(client_of("python")).arg(&client));
    run(bin("mypy")
        .args(["--strict", "-p", "tanist", "-p", "examples", "-p", "tests"])
        .current_dir(&client)
        .env("MYPYPATH", &client));
    run(bin("python").args(["-m", "build", "--no-isolation"]).current_dir(&client));
    let wheel = client.join("dist/tanist_client-0.1.0-py3-none-any.whl");
    run(bin("pip").args(["install", "--quiet", "--no-index", "--no-deps"]).arg(wheel));
    run(bin("python").args(["-c", "import tanist; tanist.Client('a:1')"]).current_dir(dir.path()));
}

/// The client and its tests, compiled by tools that are fetched into a folder of its own; shared by the tests that need it at the same time.
fn typescript() -> Option<Arc<TempDir>> {
    static BUILT: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dir) = built.upgrade() {
        return Some(dir);
    }
    let check = "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)";
    let found = Command::new("node").args(["-e", check]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("no Node 18 or later here (nodejs, npm): the TypeScript client's tests are left out");
        return None;
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    for part in ["src", "tests", "examples", "package.json", "tsconfig.json", "README.md", "LICENSE"] {
        run(Command::new("cp").arg("-r").arg(client_of("typescript").join(part)).arg(dir.path()));
    }
    let install = ["install", "--silent", "--no-audit", "--no-fund"];
    let installed = Command::new("npm").args(install).current_dir(dir.path()).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        eprintln!("no npm or no network here: the TypeScript client's tests are left out");
        return None;
    }
    run(Command::new(dir.path().join("node_modules/.bin/tsc")).current_dir(dir.path()));
    *built = Arc::downgrade(&dir);
    Some(dir)
}

fn typescript_program(dir: &TempDir, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.arg(dir.path().join("dist/tests").join(name)).args(args);
    command
}

#[test]
fn typescript_client_passes_its_own_tests() {
    let Some(dir) = typescript() else { return };
    print!(
        "{}",
        run(Command::new("node").args(["--test", "dist/tests/tanist.test.js"]).current_dir(dir.path()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_program_notices_nothing_but_a_pause_when_masters_die_or_stand_still() {
    let Some(dir) = typescript() else { return };
    survive(|hosts, workers, attempt| typescript_program(&dir, "ledger.js", &[hosts, workers, attempt]))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_client_keeps_values_conditions_and_the_last_known_configuration() {
    let Some(dir) = typescript() else { return };
    tell_story(|args| {
        let mut command = typescript_program(&dir, "story.js", &args[..3]);
        command.env("NODE_EXTRA_CA_CERTS", args[3]);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_client_is_a_package_whose_quick_start_works_as_printed() {
    if !is_long_run() {
        return;
    }
    let Some(dir) = typescript() else { return };
    let cluster = Cluster::of(3).await;
    let program = tempfile::tempdir().unwrap();
    let pack = ["pack", "--silent", "--ignore-scripts", "--pack-destination"];
    run(Command::new("npm").args(pack).arg(program.path()).current_dir(dir.path()));
    std::fs::write(program.path().join("package.json"), r#"{"type":"module"}"#).unwrap();
    let install = ["install", "--silent", "--offline", "--no-audit", "--no-fund", "tanist-client-0.1.0.tgz"];
    run(Command::new("npm").args(install).current_dir(program.path()));
    let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    let start = quick_start(&readme, "ts", &cluster.hosts());
    std::fs::write(program.path().join("start.ts"), start).unwrap();
    // By the types that the package brings, without those of Node.
    let strict =
        ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable"];
    let mut tsc = Command::new(dir.path().join("node_modules/.bin/tsc"));
    run(tsc.args(strict).arg("start.ts").current_dir(program.path()));
    let said = run(Command::new("node").arg("start.js").current_dir(program.path()));
    assert_eq!(said, "1 hello Uint8Array(2) [ 0, 255 ]\nwall/title { value: 'Hall 2' }\n");
}
