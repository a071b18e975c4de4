//! The list of what goes to the Event Log of Windows, against what the machines really log.

use std::{collections::BTreeMap, path::Path};

use tanist_windows::events::{LIST, Listed, find};

use crate::cluster::{Cluster, Layout};

/// The entries that a machine's log would have made, by number.
fn entries(cluster: &Cluster, machine: usize) -> BTreeMap<u16, usize> {
    let mut found = BTreeMap::new();
    for line in cluster.log_of(machine).lines() {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let (target, message) = (line["target"].as_str(), line["fields"]["message"].as_str());
        if let Some(listed) = find(target.unwrap_or_default(), message.unwrap_or_default()) {
            *found.entry(listed.id).or_default() += 1;
        }
    }
    found
}

/// Waits until the machine says something that is on the list.
async fn wait(cluster: &Cluster, machine: usize, what: &str) {
    let id = LIST.iter().find(|listed| listed.message == what).unwrap().id;
    cluster.wait(what, || async { entries(cluster, machine).contains_key(&id).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn life_and_reign_of_real_machines_are_on_the_list() {
    let extra = "[log]\nformat = \"json\"\n[limits]\nstatements = 5\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let first = cluster.wait_master().await;
    cluster.wait_both_keep_up().await;
    let text = std::fs::read_to_string(&cluster.machines[first].config).unwrap();
    std::fs::write(&cluster.machines[first].config, text.replace("= 5", "= 0")).unwrap();
    wait(&cluster, first, "refused, the old configuration stays in force").await;
    std::fs::write(&cluster.machines[first].config, text.replace("= 5", "= 6")).unwrap();
    wait(&cluster, first, "the configuration has changed").await;

    assert!(cluster.terminate(first).success());
    let stopped = entries(&cluster, first);
    for id in [1, 2, 20, 22] {
        assert_eq!(stopped.get(&id), Some(&1), "entry {id} of {stopped:?}");
    }
    let second = cluster.wait_master().await;
    assert_eq!(entries(&cluster, second).get(&20), Some(&1));

    // One alone has no majority: told once, when it lasts, and when it is over.
    let last = 3 - first - second;
    cluster.kill(second);
    wait(&cluster, last, "no master: the cluster waits").await;
    cluster.start_machine(first);
    wait(&cluster, last, "there is a master again").await;
    assert_eq!(entries(&cluster, last).get(&40), Some(&1));
}

/// A line that is reworded must not drop out of the list unseen.
#[test]
fn each_line_on_the_list_is_in_the_source_that_logs_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let core = sources(&root.join("replication/src"));
    for Listed { target, message, id, .. } in LIST {
        let module = target.strip_prefix("tanist_server::").unwrap().replace("::", "/");
        let own = std::fs::read_to_string(root.join(format!("server/src/{module}.rs"))).unwrap();
        let quoted = format!("{message:?}");
        // The core says what happens in words of its own, which the driver logs.
        let is_said = own.contains(&quoted) || (module == "driver" && core.contains(&quoted));
        assert!(is_said, "entry {id}: nobody says {quoted} in {target}");
    }
}

fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}
