//! A cluster of real processes. Every cluster has loopback addresses of its own, so that tests run side by side.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tanist_client::{Builder, Client};

use crate::{small_disk::SmallDisk, wine::Wine};

pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const HTTP_PORT: u16 = 8080;
pub const PEER_PORT: u16 = 7450;

/// How a cluster is laid out.
pub struct Layout {
    /// Rank of each machine.
    pub ranks: Vec<u32>,
    /// Appended to every configuration file.
    pub extra: String,
    /// Clients speak HTTPS, by a certificate that an authority made for this cluster has signed.
    pub tls: bool,
    /// Clients need a token; the cluster's own client has the one of the cluster key.
    pub tokens: bool,
    /// The first three numbers of the machines' addresses, in a network of the test's own; loopback otherwise.
    pub network: Option<&'static str>,
    /// `from, to -> peer address`, where a machine must not connect directly.
    pub peer_address: Option<Box<dyn Fn(usize, usize) -> String>>,
    /// Which machines are Windows ones.
    pub windows: fn(usize) -> bool,
}

impl Layout {
    pub fn of(count: u32) -> Layout {
        Layout {
            ranks: (1..=count).collect(),
            extra: String::new(),
            tls: false,
            tokens: false,
            network: None,
            peer_address: None,
            windows: |_| all_windows(),
        }
    }
}

pub struct Machine {
    pub id: String,
    pub ip: String,
    pub config: PathBuf,
    pub child: Option<Child>,
    /// Its data directory is a file system of its own with so many bytes, which nobody else sees and which ends with it.
    pub small_disk: Option<u64>,
    /// It runs this program, another version of it.
    pub program: Option<PathBuf>,
    /// Its data directory is a file system of its own that outlives its process.
    pub disk: Option<SmallDisk>,
    /// The process may have so many files open, and can't raise that.
    pub most_files: Option<u32>,
    /// A directory with the `hosts` and the `resolv.conf` that the process sees instead of the computer's.
    pub names: Option<PathBuf>,
    /// Added to the process's environment.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// It is a Windows machine.
    pub wine: Option<Arc<Wine>>,
}

/// Whether this is a long run (`TANIST_LONG=1`), to which a test belongs that takes long for what it shows every day.
pub fn is_long_run() -> bool {
    let long = std::env::var("TANIST_LONG").is_ok_and(|value| value == "1");
    if !long {
        eprintln!("of the long runs (TANIST_LONG=1): left out");
    }
    long
}

/// Whether this computer lets a test mount file systems of its own.
pub fn can_mount() -> bool {
    let dir = tempfile::TempDir::new().unwrap();
    let tried = Command::new("unshare")
        .args(["--mount", "--map-root-user", "mount", "-t", "tmpfs", "small"])
        .arg(dir.path())
        .output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("this computer lets nobody mount a file system of his own: left out");
    }
    can
}

pub struct Cluster {
    /// Removed when the cluster is dropped.
    _dir: tempfile::TempDir,
    pub machines: Vec<Machine>,
    /// What clients need besides the hosts.
    builder: Builder,
    scheme: &'static str,
    /// The certificate of who has signed the machines'; empty without TLS.
    authority: Vec<u8>,
}

/// An address block of 127.0.0.0/8 that no other cluster of this or another test process uses.
pub fn addresses(count: usize) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let block = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let (b, c) = (1 + (pid >> 3) % 250, ((pid & 7) << 5) | (block & 31));
    (0..count).map(|i| format!("127.{b}.{c}.{}", i + 1)).collect()
}

/// Whether all machines of tests that don't care are Windows ones.
fn all_windows() -> bool {
    std::env::var("TANIST_WINE").is_ok_and(|value| value == "1")
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_tanist")
}

/// Writes a certificate for these addresses and its key; the certificate of the authority that has signed it.
pub fn make_certificate(dir: &Path, ips: &[String]) -> Vec<u8> {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // With the machines' own name OpenSSL would take theirs for self-signed.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let certificate = authority.self_signed(&authority_key).unwrap();
    let authority = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let signed = rcgen::CertificateParams::new(ips.to_vec()).unwrap().signed_by(&key, &authority).unwrap();
    std::fs::write(dir.join("tls.crt"), signed.pem()).unwrap();
    write_secret(&dir.join("tls.key"), &key.serialize_pem());
    certificate.pem().into_bytes()
}

/// Writes a file that holds a secret, as a person must: for its owner alone.
pub fn write_secret(path: &Path, text: &str) {
    tanist_store::private::write(path, text.as_bytes()).unwrap();
}

/// Runs the command line; its exit code, and all that it says.
pub fn tanist(args: &[&str]) -> (Option<i32>, String) {
    let wine = all_windows().then(|| Wine::get().expect("Wine and tanist.exe"));
    let mut command = wine.as_ref().map_or_else(|| Command::new(binary()), |wine| wine.tanist());
    let output = command.args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

impl Cluster {
    pub fn lay_out(layout: &Layout) -> Cluster {
        let dir = tempfile::Builder::new().prefix("tanist-test-").tempdir().unwrap();
        let ips = match layout.network {
            Some(network) => (1..=layout.ranks.len()).map(|i| format!("{network}.{i}")).collect(),
            None => addresses(layout.ranks.len()),
        };
        let machines: Vec<Machine> = ips
            .iter()
            .enumerate()
            .map(|(i, ip)| Machine {
                id: format!("pc-{}", i + 1),
                ip: ip.clone(),
                config: dir.path().join(format!("pc-{}", i + 1)).join("tanist.toml"),
                child: None,
                small_disk: None,
                program: None,
                disk: None,
                most_files: None,
                names: None,
                environment: vec![],
                wine: (layout.windows)(i).then(|| Wine::get().expect("Wine and tanist.exe")),
            })
            .collect();
        let mut builder = Client::builder();
        let (mut extra, mut authority) = (layout.extra.clone(), vec![]);
        let scheme = if layout.tls { "https" } else { "http" };
        if layout.tls {
            authority = make_certificate(dir.path(), &ips);
            builder = builder.ca_pem(&authority).unwrap();
            std::fs::write(dir.path().join("ca.crt"), &authority).unwrap();
            let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
            let ca = dir.path().join("ca.crt");
            extra += &format!("\n[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\nca_file = {ca:?}\n");
        }
        if layout.tokens {
            extra += "\n[auth]\ntokens = true\n";
        }
        for (i, machine) in machines.iter().enumerate() {
            let mut text = format!(
                "cluster = \"test\"\nid = \"{}\"\ndata_dir = \"data\"\nkey = \"{KEY}\"\n[listen]\npeer = \"{}:{PEER_PORT}\"\nhttp = \"{}:{HTTP_PORT}\"\n{}\n",
                machine.id, machine.ip, machine.ip, extra
            );
            for (j, member) in machines.iter().enumerate() {
                let peer = match &layout.peer_address {
                    Some(address) if i != j => address(i, j),
                    _ => format!("{}:{PEER_PORT}", member.ip),
                };
                text += &format!(
                    "[[member]]\nid = \"{}\"\nrank = {}\npeer = [\"{peer}\"]\nurl = [\"{scheme}://{}:{HTTP_PORT}\"]\n",
                    member.id, layout.ranks[j], member.ip
                );
            }
            std::fs::create_dir_all(machine.config.parent().unwrap()).unwrap();
            write_secret(&machine.config, &text);
        }
        if layout.tokens {
            // As a person on one of the machines would: what it prints is compared elsewhere.
            let config = tanist_server::config::Config::load(&machines[0].config).unwrap();
            builder = builder.operator(config.operator_key());
        }
        Cluster { _dir: dir, machines, builder, scheme, authority }
    }

    /// The certificate of who has signed the machines', as PEM.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// Starts all machines and waits until one serves writes.
    pub async fn start(layout: &Layout) -> Cluster {
        let mut cluster = Cluster::lay_out(layout);
        cluster.start_all();
        cluster.wait_master().await;
        cluster
    }

    pub async fn of(count: u32) -> Cluster {
        Cluster::start(&Layout::of(count)).await
    }

    pub fn start_all(&mut self) {
        for i in 0..self.machines.len() {
            self.start_machine(i);
        }
    }

    pub fn start_machine(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        assert!(machine.child.is_none(), "{} runs already", machine.id);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(machine.config.with_file_name("tanist.log"))
            .unwrap();
        let mut command = match (machine.small_disk, &machine.wine) {
            (None, None) if machine.names.is_some() => {
                let names = machine.names.clone().unwrap_or_default();
                let script = format!(
                    "mount --bind '{0}/hosts' /etc/hosts && mount --bind '{0}/resolv.conf' /etc/resolv.conf && exec '{1}' \"$@\"",
                    names.display(),
                    binary()
                );
                let mut command = Command::new("unshare");
                command.args(["--mount", "--map-root-user", "sh", "-c", &script, "tanist"]);
                command
            }
            (None, None) if machine.most_files.is_some() => {
                let most = machine.most_files.unwrap_or_default();
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit -n {most} && exec '{}' \"$@\"", binary()), "tanist"]);
                command
            }
            (None, None) if machine.disk.is_some() => {
                machine.disk.as_ref().map(|disk| disk.command(binary())).unwrap()
            }
            (None, None) => Command::new(machine.program.as_deref().unwrap_or(Path::new(binary()))),
            (None, Some(wine)) => wine.tanist(),
            (Some(bytes), _) => {
                let data = machine.config.with_file_name("data");
                let script = format!(
                    "mkdir -p '{0}' && mount -t tmpfs -o size={bytes} small '{0}' && exec '{1}' \"$@\"",
                    data.display(),
                    binary()
                );
                let mut command = Command::new("unshare");
                command.args(["--mount", "--map-root-user", "sh", "-c", &script, "tanist"]);
                command
            }
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(&machine.config)
            .env("TANIST_LOG", std::env::var("TANIST_LOG").unwrap_or_else(|_| "info".into()))
            .env("NO_COLOR", "1")
            .envs(machine.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        machine.child = Some(child);
    }

    pub fn url(&self, i: usize) -> String {
        format!("{}://{}:{HTTP_PORT}", self.scheme, self.machines[i].ip)
    }

    pub fn hosts(&self) -> String {
        (0..self.machines.len()).map(|i| self.url(i)).collect::<Vec<_>>().join(",")
    }

    pub fn client(&self) -> Client {
        self.builder().hosts(&self.hosts()).build().unwrap()
    }

    pub fn client_of(&self, i: usize) -> Client {
        self.builder().hosts(&self.url(i)).build().unwrap()
    }

    /// A client of this cluster, with all that it needs but the hosts.
    pub fn builder(&self) -> Builder {
        self.builder.clone()
    }

    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.machines[i].config.with_file_name("data")
    }

    pub fn log_of(&self, i: usize) -> String {
        std::fs::read_to_string(self.machines[i].config.with_file_name("tanist.log")).unwrap_or_default()
    }

    pub fn pid_of(&self, i: usize) -> u32 {
        self.machines[i].child.as_ref().expect("the machine runs").id()
    }

    fn pid(&self, i: usize) -> Pid {
        Pid::from_raw(i32::try_from(self.pid_of(i)).unwrap()).unwrap()
    }

    pub fn signal(&self, i: usize, signal: Signal) {
        kill_process(self.pid(i), signal).unwrap();
    }

    /// `kill -9`, and the process is gone when this returns.
    pub fn kill(&mut self, i: usize) {
        let mut child = self.machines[i].child.take().expect("the machine runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, on Windows Ctrl-C, and the process is gone when this returns.
    pub fn terminate(&mut self, i: usize) -> std::process::ExitStatus {
        // Wine makes one of the other.
        self.signal(i, if self.machines[i].wine.is_some() { Signal::INT } else { Signal::TERM });
        let mut child = self.machines[i].child.take().expect("the machine runs");
        child.wait().unwrap()
    }

    pub fn index_of(&self, id: &str) -> usize {
        self.machines.iter().position(|machine| machine.id == id).unwrap()
    }

    /// The machine that says of itself that it is a serving master.
    pub async fn master(&self) -> Option<usize> {
        for i in 0..self.machines.len() {
            if self.machines[i].child.is_none() {
                continue;
            }
            if let Ok(view) = self.view(i).await
                && view.master.as_deref() == Some(&self.machines[i].id)
                && view.writable
            {
                return Some(i);
            }
        }
        None
    }

    pub async fn view(&self, i: usize) -> Result<tanist_api::Cluster, String> {
        let client = self.client_of(i);
        let answer = tokio::time::timeout(Duration::from_secs(2), client.cluster_of(&self.url(i))).await;
        answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
    }

    /// Makes this machine the master: on a busy computer another may have founded the cluster.
    pub async fn crown(&self, i: usize) {
        let id = &self.machines[i].id;
        self.wait(&format!("{id} reigns"), || async {
            let master = self.master().await?;
            if master != i {
                let _ = self.client().promote(id).await;
                return None;
            }
            Some(())
        })
        .await;
    }

    pub async fn wait_master(&self) -> usize {
        self.wait("a master serves", || self.master()).await
    }

    /// Waits until another machine than this one serves; which.
    pub async fn wait_other_master(&self, old: usize) -> usize {
        let what = format!("another machine than {} serves", self.machines[old].id);
        self.wait(&what, || async { self.master().await.filter(|now| *now != old) }).await
    }

    /// Waits until a machine of three that was away is streamed to again, and the sync set is whole.
    pub async fn wait_back(&self, i: usize) {
        let id = &self.machines[i].id;
        self.wait(&format!("{id} is back"), || async {
            let now = self.master().await?;
            let view = self.view(now).await.ok()?;
            let back = view.members.iter().find(|member| member.id == *id)?;
            (back.progress.as_deref() == Some("stream") && view.sync_set.len() == 2).then_some(())
        })
        .await;
    }

    /// Waits until the master streams to both other machines of three.
    pub async fn wait_both_keep_up(&self) {
        self.wait("both backups keep up", || async {
            let now = self.master().await?;
            let view = self.view(now).await.ok()?;
            let streamed = view.members.iter().filter(|member| member.progress.as_deref() == Some("stream"));
            (streamed.count() == 2).then_some(())
        })
        .await;
    }

    /// Waits for a condition; on failure says which, with the machines' last log lines.
    pub async fn wait<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut condition: impl FnMut() -> F,
    ) -> T {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            if Instant::now() > until {
                panic!("waited 60 s until {what}\n{}", self.logs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (i, machine) in self.machines.iter().enumerate() {
            let log = self.log_of(i);
            let lines: Vec<_> = log.lines().collect();
            text += &format!("--- {}\n{}\n", machine.id, lines[lines.len().saturating_sub(25)..].join("\n"));
        }
        text
    }

    /// Waits until every data machine that runs stands where the master stands, and gives the checksums of all.
    pub async fn settle(&self) -> Vec<[u8; 32]> {
        self.wait("all replicas stand where the master stands", || async {
            let master = self.master().await?;
            let position = self.view(master).await.ok()?.position;
            for i in 0..self.machines.len() {
                let view = self.view(i).await.ok()?;
                if view.role != tanist_api::Role::Witness && view.position != position {
                    return None;
                }
            }
            Some(())
        })
        .await;
        (0..self.machines.len())
            .filter(|i| self.data_dir(*i).join("state.db").exists())
            .map(|i| tanist_store::database_checksum(&self.data_dir(i)).unwrap().0)
            .collect()
    }

    /// Asserts that all replicas are identical page for page (I3).
    pub async fn assert_identical(&self) {
        let sums = self.settle().await;
        if sums.windows(2).any(|pair| pair[0] != pair[1]) {
            panic!("replicas differ: {:?}\n{}", self.differences(), self.logs());
        }
    }

    /// Which pages differ between the first replica and each other, and at which byte first.
    fn differences(&self) -> Vec<String> {
        let pages = |i: usize| -> Vec<(i64, Vec<u8>)> {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let file = self.data_dir(i).join("state.db");
            let connection = rusqlite::Connection::open_with_flags(file, flags).unwrap();
            let mut statement = connection.prepare("SELECT pgno, data FROM sqlite_dbpage").unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        let first = pages(0);
        let mut differences = vec![];
        for i in 1..self.machines.len() {
            if !self.data_dir(i).join("state.db").exists() {
                continue;
            }
            let other = pages(i);
            if other.len() != first.len() {
                differences.push(format!(
                    "{}: {} pages, not {}",
                    self.machines[i].id,
                    other.len(),
                    first.len()
                ));
            }
            for ((page, a), (_, b)) in first.iter().zip(&other) {
                if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
                    differences.push(format!("{}: page {page} from byte {at}", self.machines[i].id));
                }
            }
        }
        differences
    }

    /// Asserts that no machine has met one of our own bugs.
    pub fn assert_no_panic(&self) {
        for i in 0..self.machines.len() {
            let log = self.log_of(i);
            assert!(!log.contains("panicked at"), "{} panicked:\n{log}", self.machines[i].id);
            assert!(!log.contains("protocol violation"), "{}:\n{log}", self.machines[i].id);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for machine in &mut self.machines {
            if let Some(mut child) = machine.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Reads a replica's file as a DBA would: read-only, beside the running server.
pub fn read<T: rusqlite::types::FromSql>(dir: &Path, sql: &str) -> T {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(dir.join("state.db"), flags).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}
