//! `tanist dev`: several real server processes on loopback, each with its own data directory.
//!
//! Owns the processes it starts and ends them by id; writes `cluster.json` with what runs where. Never mocks anything:
//! each machine is `tanist run` on a configuration file of its own.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tanist_store::private;
use tanist_transport::ClusterKey;
use tokio::process::{Child, Command};

use crate::{config::Config, secret};

/// A new cluster has found its master long before.
const NO_MASTER: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// How many machines, 1 to 9.
    pub machines: usize,
    /// Where their data goes; a temporary directory when `None`.
    pub dir: Option<PathBuf>,
    /// Keep the data when the command ends.
    pub keep: bool,
    /// Start a machine again 2 s after it was killed.
    pub restart: bool,
    /// Log filter of the machines.
    pub log: String,
}

/// One machine in `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DevMachine {
    /// Its name.
    pub id: String,
    /// Process id; `None` while it is down.
    pub pid: Option<u32>,
    /// Base URL for clients.
    pub http: String,
    /// Peer address.
    pub peer: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Configuration file.
    pub config: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct DevCluster {
    machines: Vec<DevMachine>,
}

/// Names of dev machines: what they are on a real wall.
fn name(index: usize) -> String {
    format!("pc-{}", index + 1)
}

/// Runs the machines until Ctrl-C.
///
/// # Errors
/// When the directory can't be used or a machine can't be started.
pub async fn dev(options: DevOptions) -> anyhow::Result<()> {
    if !(1..=9).contains(&options.machines) {
        bail!("--machines {}: expected 1 to 9", options.machines);
    }
    let temporary = match &options.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new().prefix("tanist-dev-").tempdir().context("make a temporary directory")?,
        ),
    };
    let directory = match (&options.dir, &temporary) {
        (Some(dir), _) => {
            private::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            std::path::absolute(dir).with_context(|| format!("open {}", dir.display()))?
        }
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of the two is set"),
    };
    let mut machines = prepare(&directory, options.machines)?;
    let mut children = BTreeMap::new();
    for machine in &mut machines {
        let child = start(machine, &options.log)?;
        machine.pid = child.id();
        children.insert(machine.id.clone(), child);
    }
    write_cluster(&directory, &machines)?;
    let result = watch(&options, &directory, &mut machines, &mut children).await;
    stop_all(&mut children).await;
    if let Some(temporary) = temporary {
        if options.keep {
            println!("Data kept in {}", temporary.keep().display());
        }
    } else {
        println!("Data kept in {}", directory.display());
    }
    result
}

/// Reads the directory's earlier cluster, or lays out a new one.
fn prepare(directory: &Path, count: usize) -> anyhow::Result<Vec<DevMachine>> {
    let known = directory.join("cluster.json");
    if let Ok(text) = std::fs::read_to_string(&known) {
        let mut cluster: DevCluster =
            serde_json::from_str(&text).with_context(|| format!("read {}", known.display()))?;
        if cluster.machines.len() != count {
            bail!(
                "{} holds a cluster of {} machines; give --machines {} or another --dir",
                directory.display(),
                cluster.machines.len(),
                cluster.machines.len()
            );
        }
        for machine in &mut cluster.machines {
            machine.pid = None;
        }
        return Ok(cluster.machines);
    }
    // All are held at once, so that no two are the same.
    let listeners: Vec<TcpListener> = (0..count * 2)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("find free ports on 127.0.0.1")?;
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .context("find free ports on 127.0.0.1")?;
    let key = directory.join("cluster.key");
    secret::replace(&key, &format!("{}\n", ClusterKey::generate().to_text()))
        .with_context(|| format!("write {}", key.display()))?;
    let machines: Vec<DevMachine> = (0..count)
        .map(|index| {
            let id = name(index);
            DevMachine {
                pid: None,
                http: format!("http://127.0.0.1:{}", ports[index * 2]),
                peer: format!("127.0.0.1:{}", ports[index * 2 + 1]),
                data_dir: directory.join(&id).join("data"),
                config: directory.join(&id).join("tanist.toml"),
                id,
            }
        })
        .collect();
    for machine in &machines {
        write_config(machine, &machines)?;
    }
    Ok(machines)
}

fn write_config(machine: &DevMachine, machines: &[DevMachine]) -> anyhow::Result<()> {
    let folder = machine.config.parent().context("a configuration file without a folder")?;
    private::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let http = machine.http.trim_start_matches("http://");
    let mut text = format!(
        "cluster = \"dev\"\nid = \"{}\"\ndata_dir = \"data\"\nkey_file = \"../cluster.key\"\n\n\
         [listen]\npeer = \"{}\"\nhttp = \"{http}\"\n",
        machine.id, machine.peer
    );
    for (index, member) in machines.iter().enumerate() {
        text += &format!(
            "\n[[member]]\nid = \"{}\"\nrank = {}\npeer = [\"{}\"]\nurl = [\"{}\"]\n",
            member.id,
            index + 1,
            member.peer,
            member.http
        );
    }
    private::write(&machine.config, text.as_bytes())
        .with_context(|| format!("write {}", machine.config.display()))
}

fn start(machine: &DevMachine, log: &str) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("find the tanist program")?;
    let log_file = machine.config.with_file_name("tanist.log");
    let output = private::options()
        .create(true)
        .append(true)
        .open(&log_file)
        .with_context(|| format!("open {}", log_file.display()))?;
    Command::new(program)
        .arg("run")
        .arg("--config")
        .arg(&machine.config)
        .env("TANIST_LOG", log)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("open the log twice")?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", machine.id))
}

fn write_cluster(directory: &Path, machines: &[DevMachine]) -> anyhow::Result<()> {
    let path = directory.join("cluster.json");
    let text = serde_json::to_string_pretty(&DevCluster { machines: machines.to_vec() })?;
    // Readers (the benchmark) must never see half a file.
    let mut file = tempfile::NamedTempFile::new_in(directory).context("write cluster.json")?;
    file.write_all(text.as_bytes()).context("write cluster.json")?;
    file.persist(&path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// A client that is let in: somebody may have turned tokens on since.
fn client(machines: &[DevMachine]) -> anyhow::Result<tanist_client::Client> {
    let hosts = machines.iter().map(|machine| machine.http.clone()).collect::<Vec<_>>().join(",");
    let mut builder = tanist_client::Client::builder().hosts(&hosts);
    let first = machines.first().context("no machines")?;
    let config = Config::load(&first.config)?;
    if config.tokens {
        builder = builder.operator(config.operator_key());
    }
    Ok(builder.build()?)
}

async fn watch(
    options: &DevOptions,
    directory: &Path,
    machines: &mut [DevMachine],
    children: &mut BTreeMap<String, Child>,
) -> anyhow::Result<()> {
    let client = client(machines)?;
    let started = Instant::now();
    let mut stopped: BTreeMap<String, Instant> = BTreeMap::new();
    let (mut announced, mut warned) = (false, false);
    let mut interrupt = std::pin::pin!(crate::stop::stop_signal_or_hangup());
    loop {
        tokio::select! {
            _ = &mut interrupt => {
                println!("\nStopping {} machines.", children.len());
                return Ok(());
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        if !announced {
            match client.cluster().await {
                Ok(cluster) if cluster.writable && cluster.master.is_some() => {
                    announced = true;
                    announce(directory, machines, cluster.master.as_deref().unwrap_or_default(), options);
                }
                Ok(_) if started.elapsed() > NO_MASTER => {
                    bail!("no master after 60 s; see {}/*/tanist.log", directory.display());
                }
                // The machines may be well, for all that this program isn't let in (TLS, a firewall): they go on.
                Err(error) if started.elapsed() > NO_MASTER && !warned => {
                    warned = true;
                    println!("No machine can be asked who reigns: {error}");
                    println!("They go on; see {}/*/tanist.log. Ctrl-C ends all.", directory.display());
                }
                _ => {}
            }
        }
        let mut changed = false;
        for machine in machines.iter_mut() {
            let Some(child) = children.get_mut(&machine.id) else {
                let due = stopped.get(&machine.id).is_some_and(|at| at.elapsed() > Duration::from_secs(2));
                if options.restart && due {
                    let child = start(machine, &options.log)?;
                    machine.pid = child.id();
                    println!("{} started again (pid {})", machine.id, machine.pid.unwrap_or_default());
                    children.insert(machine.id.clone(), child);
                    stopped.remove(&machine.id);
                    changed = true;
                }
                continue;
            };
            if let Some(status) = child.try_wait().context("watch a machine")? {
                let log = machine.config.with_file_name("tanist.log");
                println!("{} ended ({status}); its log: {}", machine.id, log.display());
                if !options.restart && announced {
                    println!("  start it again: {}", start_command(machine));
                }
                children.remove(&machine.id);
                stopped.insert(machine.id.clone(), Instant::now());
                machine.pid = None;
                changed = true;
            }
        }
        if changed {
            write_cluster(directory, machines)?;
        }
        if children.is_empty() && !options.restart {
            bail!("all machines have ended; see {}/*/tanist.log", directory.display());
        }
    }
}

fn start_command(machine: &DevMachine) -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "tanist".to_owned(), |path| path.display().to_string());
    format!("{program} run --config {}", machine.config.display())
}

fn announce(directory: &Path, machines: &[DevMachine], master: &str, options: &DevOptions) {
    println!("\nA cluster of {} machines runs on this computer; {master} is the master.\n", machines.len());
    for machine in machines {
        let crown = if machine.id == master { "master" } else { "backup" };
        println!("  {:<5} {crown}  pid {:<7} {}", machine.id, machine.pid.unwrap_or_default(), machine.http);
        println!("        data {}", machine.data_dir.display());
    }
    let first = &machines[0];
    let any = machines.last().unwrap_or(first);
    let master_machine = machines.iter().find(|machine| machine.id == master).unwrap_or(first);
    println!("\nDashboard: {}/\n", first.http);
    println!("Try:");
    try_these(any, master_machine.pid.unwrap_or_default());
    if options.restart {
        println!("\nA machine that ends is started again after 2 s.");
    } else {
        println!("  {}    # and start it again", start_command(master_machine));
    }
    println!("\nLogs and data: {}\nCtrl-C ends all.\n", directory.display());
}

#[cfg(not(windows))]
fn try_these(machine: &DevMachine, master: u32) {
    println!(
        "  curl -s {}/v1/execute -H 'content-type: application/json' \\\n    -d '{{\"statements\":[{{\"sql\":\"CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text TEXT)\"}},{{\"sql\":\"INSERT INTO note(text) VALUES (?)\",\"params\":[\"hello\"]}}]}}'",
        machine.http
    );
    println!("  sqlite3 -readonly {} 'SELECT * FROM note'", machine.data_dir.join("state.db").display());
    println!("  kill -9 {master}    # the master; watch the dashboard");
}

/// As `cmd.exe` understands it, with what every Windows has.
#[cfg(windows)]
fn try_these(machine: &DevMachine, master: u32) {
    println!("  tanist execute --hosts {} \"CREATE TABLE IF NOT EXISTS note(text TEXT)\"", machine.http);
    println!("  tanist execute --hosts {} \"INSERT INTO note VALUES ('hello')\"", machine.http);
    println!("  tanist query --hosts {} \"SELECT * FROM note\"", machine.http);
    println!("  taskkill /F /PID {master}    (the master; watch the dashboard)");
}

async fn stop_all(children: &mut BTreeMap<String, Child>) {
    #[cfg(unix)]
    for child in children.values() {
        if let Some(pid) =
            child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    for child in children.values_mut() {
        if tokio::time::timeout_at(until, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}
