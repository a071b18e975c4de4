//! Managed nodes that are kept at their desired state by agents, through the death of nodes and masters.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Map, Value, json};
use tanist_api::{NewCommand, NodeSpec, NodeSummary, OutcomeStatus, PresenceStatus};
use tanist_client::{ChangeOptions, Client, Part, ReadOptions};

use crate::cluster::{Cluster, Layout, binary, read};

const NODES: usize = 9;

fn name(node: usize) -> String {
    format!("wall-{}", node + 1)
}

fn state(channel: usize) -> Map<String, Value> {
    json!({ "channel": channel }).as_object().unwrap().clone()
}

/// A managed node: what its program sets stands in a file, which dies with it.
struct Agents {
    dir: tempfile::TempDir,
    hosts: String,
    running: Vec<Option<Child>>,
}

impl Agents {
    fn file(&self, node: usize) -> PathBuf {
        self.dir.path().join(name(node))
    }

    fn start(&mut self, node: usize) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.file(node).with_extension("log"))
            .unwrap();
        // Takes its time to write, and reports what it has.
        let script = format!("cat > '{0}.new' && mv '{0}.new' '{0}' && cat '{0}'", self.file(node).display());
        let child = Command::new(binary())
            .args(["agent", "--hosts", &self.hosts, "--node", &name(node), "--every", "200"])
            .args(["--on-command", "/bin/cat", "--", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running[node] = Some(child);
    }

    /// The node loses power: its agent, and what it had.
    fn kill(&mut self, node: usize) {
        let mut child = self.running[node].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = std::fs::remove_file(self.file(node));
    }

    fn has(&self, node: usize) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.file(node)).ok()?).ok()
    }

    fn logs(&self, node: usize) -> String {
        std::fs::read_to_string(self.file(node).with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn nodes(client: &Client) -> Option<Vec<NodeSummary>> {
    let page = client.nodes(&Part::default(), &ReadOptions::default()).await.ok()?;
    Some(page.value.entries)
}

async fn desire(client: &Client, node: usize, channel: usize) {
    client.set_desired(&name(node), &state(channel), &ChangeOptions::default()).await.unwrap();
}

/// All that run are present, in step, and have this.
async fn wait_in_step(cluster: &Cluster, client: &Client, agents: &Agents, channel: usize) {
    cluster
        .wait("all nodes are in step", || async {
            let nodes = nodes(client).await?;
            let all = nodes.iter().enumerate().all(|(node, found)| {
                agents.running[node].is_none()
                    || (found.in_step == Some(true)
                        && found.presence == Some(PresenceStatus::Present)
                        && agents.has(node) == Some(state(channel).into()))
            });
            all.then_some(())
        })
        .await;
}

fn presence(dir: &Path, node: usize) -> String {
    read(dir, &format!("SELECT presence FROM tanist_v_nodes WHERE name = '{}'", name(node)))
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_nodes_are_kept_in_step_while_nodes_and_masters_die() {
    let extra = "[nodes]\nsilent_after = \"2s\"\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    let mut agents = Agents {
        dir: tempfile::tempdir().unwrap(),
        hosts: cluster.hosts(),
        running: (0..NODES).map(|_| None).collect(),
    };
    for node in 0..NODES {
        let place = |n: usize| Some(u32::try_from(n).unwrap());
        let spec = NodeSpec { row: place(node / 3), column: place(node % 3), ..NodeSpec::default() };
        client.set_node(&name(node), &spec, &ChangeOptions::default()).await.unwrap();
        desire(&client, node, 1).await;
        agents.start(node);
    }
    wait_in_step(&cluster, &client, &agents, 1).await;

    // The master dies; what is desired meanwhile reaches all by the next one.
    let master = cluster.wait_master().await;
    cluster.kill(master);
    for node in 0..NODES {
        desire(&client, node, 2).await;
    }
    wait_in_step(&cluster, &client, &agents, 2).await;
    cluster.start_machine(master);

    // A node dies, is missed, and returns to what is desired by then, without anyone asking.
    agents.kill(4);
    cluster
        .wait("the dead node is missed", || async {
            (nodes(&client).await?[4].presence == Some(PresenceStatus::Silent)).then_some(())
        })
        .await;
    for node in 0..NODES {
        desire(&client, node, 3).await;
    }
    wait_in_step(&cluster, &client, &agents, 3).await;
    assert_eq!(nodes(&client).await.unwrap()[4].in_step, Some(false));
    agents.start(4);
    wait_in_step(&cluster, &client, &agents, 3).await;

    // A node and the master at once; nobody who lives is called silent.
    let master = cluster.wait_master().await;
    agents.kill(7);
    cluster.kill(master);
    cluster
        .wait("the next master misses the node", || async {
            (nodes(&client).await?[7].presence == Some(PresenceStatus::Silent)).then_some(())
        })
        .await;
    agents.start(7);
    cluster.start_machine(master);
    wait_in_step(&cluster, &client, &agents, 3).await;

    let command = NewCommand {
        name: "blink".to_owned(),
        arguments: json!({ "times": 3 }),
        nodes: vec![name(0), name(8)],
    };
    let sent = client.send_command(&command, &ChangeOptions::default()).await.unwrap().value;
    cluster
        .wait("both nodes have done it", || async {
            let found = client.command(sent.id, &ReadOptions::default()).await.ok()?.value;
            let done = |outcome: &tanist_api::Outcome| {
                outcome.status == OutcomeStatus::Done && outcome.detail["arguments"] == json!({ "times": 3 })
            };
            found.outcomes.iter().all(done).then_some(())
        })
        .await;

    cluster.assert_identical().await;
    for node in [0, 4, 8] {
        let calls = "SELECT count(*) FROM tanist_events WHERE kind = 'node' AND json_extract(data, '$.presence') = 'silent' AND subject = ";
        let silent: i64 = read(&cluster.data_dir(0), &format!("{calls}'{}'", name(node)));
        assert_eq!(silent, i64::from(node == 4), "{}: {}", name(node), agents.logs(node));
        assert_eq!(presence(&cluster.data_dir(0), node), "present", "a person sees it with sqlite3");
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_fails_is_tried_again_and_its_words_are_shown() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client();
    client.set_node("n", &NodeSpec::default(), &ChangeOptions::default()).await.unwrap();
    client.set_desired("n", &state(5), &ChangeOptions::default()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let script = format!("test -e '{}' || {{ echo 'device is off' >&2; exit 1; }}", ready.display());
    let mut agent = Command::new(binary())
        .args([
            "agent",
            "--hosts",
            &cluster.hosts(),
            "--node",
            "n",
            "--every",
            "100",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let found = |in_step: bool, error: Option<&'static str>| {
        let client = client.clone();
        move || {
            let client = client.clone();
            async move {
                let node = nodes(&client).await?.remove(0);
                (node.in_step == Some(in_step) && node.error.as_deref() == error).then_some(())
            }
        }
    };
    cluster.wait("the failure is reported", found(false, Some("device is off"))).await;
    std::fs::write(&ready, "").unwrap();
    cluster.wait("it was tried again", found(true, None)).await;
    let reported = client.reported("n", &ReadOptions::default()).await.unwrap().value;
    assert_eq!(reported.state, state(5), "a program that prints nothing has what is desired");
    agent.kill().unwrap();
    agent.wait().unwrap();
}
