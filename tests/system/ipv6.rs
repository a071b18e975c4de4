//! A cluster whose machines are reached at IPv6 addresses alone: written by `tanist init`, used by every command.

use std::{
    net::{Ipv6Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tanist_api::Statement;
use tanist_client::Client;

use crate::{
    cluster::{binary, tanist},
    workload::execute,
};

struct Machine {
    config: PathBuf,
    url: String,
    child: Option<Child>,
}

impl Machine {
    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.config.with_file_name("tanist.log"))
            .unwrap();
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(&self.config).env("NO_COLOR", "1").stdin(Stdio::null());
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_file_name("tanist.log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports of `[::1]` that nobody has now; `None` without IPv6.
fn ports(count: usize) -> Option<Vec<u16>> {
    let listeners: Result<Vec<_>, _> =
        (0..count).map(|_| TcpListener::bind((Ipv6Addr::LOCALHOST, 0))).collect();
    let Ok(listeners) = listeners else {
        eprintln!("this computer has no IPv6: left out");
        return None;
    };
    Some(listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect())
}

/// Three machines, each by its own `tanist init`.
fn init(dir: &Path) -> Option<Vec<Machine>> {
    let ports = ports(6)?;
    let member = |i: usize| format!("pc-{}=[::1]:{},{}", i + 1, ports[2 * i], ports[2 * i + 1]);
    let members: Vec<_> = (0..3).map(member).collect();
    let key = dir.join("pc-1").join("cluster.key");
    let mut machines = vec![];
    for i in 0..3 {
        let (id, folder) = (format!("pc-{}", i + 1), dir.join(format!("pc-{}", i + 1)));
        let mut args = vec!["init", "--dir", folder.to_str().unwrap(), "--cluster", "six", "--id", &id];
        members.iter().for_each(|member| args.extend(["--member", member]));
        if i > 0 {
            args.extend(["--key-file", key.to_str().unwrap()]);
        }
        let (code, text) = tanist(&args);
        assert_eq!(code, Some(0), "{text}");
        let url = format!("http://[::1]:{}", ports[2 * i + 1]);
        machines.push(Machine { config: folder.join("tanist.toml"), url, child: None });
    }
    Some(machines)
}

/// `tanist status --config … --json` once it shows what is wanted.
async fn wait_for_status(
    machines: &[Machine],
    from: usize,
    what: &str,
    fits: impl Fn(&Value) -> bool,
) -> Value {
    let config = machines[from].config.to_str().unwrap().to_owned();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (code, text) = tanist(&["status", "--json", "--config", &config, "--deadline", "2"]);
        if code == Some(0)
            && let Ok(status) = serde_json::from_str::<Value>(&text)
            && fits(&status)
        {
            return status;
        }
        let logs: Vec<_> = machines.iter().map(Machine::log).collect();
        assert!(Instant::now() < until, "waited 60 s until {what}: {text}\n{}", logs.join("\n---\n"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_on_ipv6_is_made_run_looked_at_and_survives_its_master() {
    let dir = tempfile::TempDir::new().unwrap();
    let Some(mut machines) = init(dir.path()) else { return };
    machines.iter_mut().for_each(Machine::start);
    let served = |status: &Value| {
        status["writable"] == true && status["sync_set"].as_array().is_some_and(|set| set.len() == 2)
    };
    let status = wait_for_status(&machines, 0, "a master serves", served).await;
    let hosts = machines.iter().map(|machine| machine.url.clone()).collect::<Vec<_>>().join(",");
    let client = Client::new(&hosts).unwrap();
    client.execute(execute(vec![Statement::new("CREATE TABLE t(x)")])).await.unwrap();
    // Without a scheme, as people write it.
    let bare = hosts.replace("http://", "");
    let (code, text) = tanist(&["execute", "--hosts", &bare, "INSERT INTO t VALUES (6)"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = tanist(&["doctor", "--config", machines[1].config.to_str().unwrap()]);
    for good in ["3 of 3 are reached", "[::1]:"] {
        assert!(text.contains(good), "{code:?} {text}");
    }
    // What the cluster says of where it is leads there.
    for url in status["members"].as_array().unwrap().iter().map(|member| member["urls"][0].as_str().unwrap())
    {
        assert!(Client::new(url).unwrap().cluster_of(url).await.is_ok(), "{url}");
    }
    let master = status["master"].as_str().unwrap().to_owned();
    let dead =
        machines.iter().position(|machine| machine.config.parent().unwrap().ends_with(&master)).unwrap();
    machines[dead].kill();
    client.execute(execute(vec![Statement::new("INSERT INTO t VALUES (7)")])).await.unwrap();
    let next = wait_for_status(&machines, (dead + 1) % 3, "another serves", |status| {
        status["writable"] == true && status["master"] != Value::String(master.clone())
    })
    .await;
    assert_ne!(next["master"], status["master"]);
    machines[dead].start();
    wait_for_status(&machines, (dead + 1) % 3, "it is back", |status| {
        let members = status["members"].as_array().unwrap();
        let back = members.iter().find(|member| member["id"] == Value::String(master.clone())).unwrap();
        back["reachable"] == true && back["progress"] == "stream"
    })
    .await;
}
