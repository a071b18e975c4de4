//! Configuration and states through the death of the master, changes by a person with `sqlite3`, and the command line.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tanist_api::{NodeSpec, Report, code};
use tanist_client::{ChangeOptions, Client, Consistency, Error, OnlyIf, Part, ReadOptions};

use crate::{
    cluster::{Cluster, read, tanist},
    files::shell,
};

fn local() -> ReadOptions {
    ReadOptions { consistency: Consistency::Local, ..ReadOptions::default() }
}

/// Counts in a key, each step only from the revision of the step before; gives the last number and its revision.
async fn count(client: Client, key: String, stop: Arc<AtomicBool>) -> (i64, i64) {
    let mut only_if = OnlyIf::New;
    let mut n = 0;
    loop {
        let options = ChangeOptions { only_if, ..ChangeOptions::default() };
        let now = client.set_config(&key, &json!(n), &options).await;
        let now = now.unwrap_or_else(|error| panic!("{key}: {n}: {error}")).value;
        if stop.load(Ordering::Relaxed) {
            return (n, now.revision);
        }
        only_if = OnlyIf::Revision(now.revision);
        n += 1;
    }
}

/// Reports one state after the other; gives the last one.
async fn report(client: Client, node: String, stop: Arc<AtomicBool>) -> Value {
    for n in 0.. {
        let state = json!({ "n": n }).as_object().unwrap().clone();
        let report = Report { state: state.clone(), desired_revision: None, error: None };
        client.report(&node, &report, &ChangeOptions::default()).await.unwrap();
        if stop.load(Ordering::Relaxed) {
            return state.into();
        }
    }
    unreachable!()
}

/// Waits until a counter has come so far.
async fn at_least(cluster: &Cluster, n: i64) {
    let client = cluster.client();
    cluster
        .wait("the keys are counted up", || async {
            let found = client.config("load/0", &ReadOptions::default()).await.ok()?;
            (found.value.value.as_i64()? >= n).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_and_states_outlive_the_killed_master_with_their_whole_history() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    let options = ChangeOptions::default();
    let spec = NodeSpec { row: Some(1), ..NodeSpec::default() };
    client.set_node("n1", &spec, &options).await.unwrap();
    let wanted = json!({ "input": 2 }).as_object().unwrap().clone();
    let desired = client.set_desired("n1", &wanted, &options).await.unwrap().value;
    client.set_config("wall/title", &json!("before"), &options).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<_> =
        (0..4).map(|i| tokio::spawn(count(client.clone(), format!("load/{i}"), Arc::clone(&stop)))).collect();
    let reports = tokio::spawn(report(client.clone(), "n1".to_owned(), Arc::clone(&stop)));
    at_least(&cluster, 40).await;
    let killed = cluster.wait_master().await;
    let before = client.config("load/0", &ReadOptions::default()).await.unwrap().value.value;
    cluster.kill(killed);
    at_least(&cluster, before.as_i64().unwrap() + 40).await;
    stop.store(true, Ordering::Relaxed);
    let mut last = vec![];
    for count in counts {
        last.push(count.await.unwrap());
    }
    let said = reports.await.unwrap();
    cluster.start_machine(killed);
    cluster.assert_identical().await;

    let mut changes = 0;
    for machine in 0..3 {
        let client = cluster.client_of(machine);
        for (i, (n, revision)) in last.iter().enumerate() {
            let key = format!("load/{i}");
            let entry = client.config(&key, &local()).await.unwrap().value;
            assert_eq!((&entry.value, entry.revision), (&json!(n), *revision), "machine {machine}, {key}");
            let unless = client.config_unless(&key, *revision, &local()).await.unwrap();
            assert!(unless.is_none(), "the tag of one machine is that of every machine");
            let mut part = Part { limit: Some(300), ..Part::default() };
            let mut history = vec![];
            loop {
                let page = client.config_history(&key, &part, &local()).await.unwrap().value;
                history.extend(page.entries);
                part.next = page.next;
                if part.next.is_none() {
                    break;
                }
            }
            history.reverse();
            let found: Vec<_> =
                history.iter().map(|change| (change.old.clone(), change.new.clone())).collect();
            let expected: Vec<_> =
                (0..=*n).map(|n| ((n > 0).then(|| json!(n - 1)), Some(json!(n)))).collect();
            assert_eq!(found, expected, "machine {machine}, {key}");
            changes += history.len();
        }
        assert_eq!(client.desired("n1", &local()).await.unwrap().value, desired);
        let reported = client.reported("n1", &local()).await.unwrap().value;
        assert_eq!(Value::from(reported.state), said);
        assert_eq!(client.config("wall/title", &local()).await.unwrap().value.value, "before");
        // Each change has told of itself once.
        let unannounced = "SELECT count(*) FROM tanist_config_history AS h LEFT JOIN tanist_events AS e \
            ON e.id = h.revision AND e.kind = 'config' AND e.subject = h.key WHERE e.id IS NULL";
        assert_eq!(read::<i64>(&cluster.data_dir(machine), unannounced), 0);
    }
    println!("{} changes by 4 writers through one kill, none lost or doubled", changes / 3);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_change_the_same_revision_at_once_one_succeeds() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    let mut revision =
        client.set_config("shared", &json!(0), &ChangeOptions::default()).await.unwrap().value.revision;
    for round in 1..=10 {
        let tries: Vec<_> = (0..40)
            .map(|i| {
                let client = client.clone();
                let only_if = OnlyIf::Revision(revision);
                let options = ChangeOptions { only_if, ..ChangeOptions::default() };
                tokio::spawn(async move { client.set_config("shared", &json!([round, i]), &options).await })
            })
            .collect();
        let mut won = vec![];
        for one in tries {
            match one.await.unwrap() {
                Ok(now) => won.push(now.value),
                Err(Error::Problem(problem)) => assert_eq!(problem.code, code::PRECONDITION_FAILED),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        let now = client.config("shared", &ReadOptions::default()).await.unwrap().value;
        assert_eq!(now, won[0]);
        revision = now.revision;
    }
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn change_by_a_person_with_the_stock_shell_is_in_the_history_of_every_machine() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    let options = ChangeOptions::default();
    let first = client.set_config("wall/title", &json!("before"), &options).await.unwrap().value;
    let spec = NodeSpec::default();
    client.set_node("n1", &spec, &options).await.unwrap();
    let master = cluster.wait_master().await;
    let file = cluster.data_dir(master).join("state.db");
    let fix = "UPDATE tanist_config SET value = '\"by hand\"' WHERE key = 'wall/title'; \
        INSERT INTO tanist_desired_state (node, state) VALUES ('n1', '{\"on\": true}'); \
        INSERT INTO tanist_commands (name, nodes) VALUES ('restart', '[\"n1\"]');";
    let Some((ok, text)) = shell(&["-cmd", ".timeout 5000", file.to_str().unwrap(), fix]) else { return };
    assert!(ok, "{text}");
    for machine in 0..3 {
        let client = cluster.client_of(machine);
        let changed = cluster
            .wait("the fix is there", || async {
                client.config_unless("wall/title", first.revision, &local()).await.ok()?
            })
            .await
            .value;
        assert_eq!((&changed.value, &changed.changed_by), (&json!("by hand"), &None));
        let history = client.config_history("wall/title", &Part::default(), &local()).await.unwrap().value;
        let change = &history.entries[0];
        assert_eq!((change.revision, &change.changed_by), (changed.revision, &None));
        assert_eq!((&change.old, &change.new), (&Some(json!("before")), &Some(json!("by hand"))));
        // Three statements, three transactions: the last may come later.
        cluster
            .wait("the command is there", || async {
                let command = client.command(1, &local()).await.ok()?.value;
                (command.outcomes.len() == 1).then_some(())
            })
            .await;
        assert_eq!(client.desired("n1", &local()).await.unwrap().value.state["on"], true);
    }
    // Who knew only the value before doesn't overwrite the fix.
    let late = ChangeOptions { only_if: OnlyIf::Revision(first.revision), ..ChangeOptions::default() };
    match client.set_config("wall/title", &json!("late"), &late).await {
        Err(Error::Problem(problem)) => assert_eq!(problem.code, code::PRECONDITION_FAILED),
        other => panic!("{other:?}"),
    }
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn command_line_reads_and_changes_the_state() {
    let cluster = Cluster::of(3).await;
    let hosts = cluster.hosts();
    let run = |line: &str| {
        let arguments: Vec<_> = line.split('|').map(str::trim).chain(["--hosts", &hosts]).collect();
        tanist(&arguments)
    };
    // Revisions are numbers of events, which begin with those of the reign and the members.
    let members = || async {
        (read::<i64>(&cluster.data_dir(0), "SELECT count(*) FROM tanist_members") == 3).then_some(())
    };
    cluster.wait("the members are in their table", members).await;
    let before = read::<i64>(&cluster.data_dir(0), "SELECT max(id) FROM tanist_events");
    let numbered = |text: &str| {
        (1..=9).fold(text.to_owned(), |text, n| text.replace(&format!("{{{n}}}"), &format!("{}", before + n)))
    };
    // What is run, its exit code, and words of what it says; {1} is the first revision.
    let lines: [(&str, i32, &[&str]); 32] = [
        ("config | list", 0, &["key", "value"]),
        ("config | get | wall/title", 1, &["wall/title", "not-found"]),
        ("config | set | wall/title | {\"text\": \"hello\"}", 0, &["wall/title has revision {1}"]),
        (
            "config | set | wall/title | {\"text\": \"hello\"} | --if-new",
            1,
            &["precondition-failed", "Somebody else"],
        ),
        ("config | get | wall/title", 0, &["{\"text\":\"hello\"}"]),
        ("config | set | wall/size | -5", 0, &["revision {2}"]),
        ("config | set | wall/size | plain text | --if-revision | {2}", 0, &["revision {3}"]),
        ("config | set | wall/size | 6 | --if-revision | {2}", 1, &["precondition-failed"]),
        ("config | list | wall/", 0, &["wall/size", "\"plain text\"", "wall/title"]),
        ("config | list | --limit | 1", 0, &["wall/size", "--next wall/size"]),
        ("config | list | --limit | 1 | --next | wall/size", 0, &["wall/title"]),
        ("config | history | wall/size", 0, &["(none)", "-5", "\"plain text\""]),
        ("config | unset | wall/size", 0, &["removed, revision {4}"]),
        ("config | unset | wall/size", 1, &["not-found"]),
        ("config | history | wall/size | --json", 0, &["\"old\": \"plain text\""]),
        ("config | set | a b | 1", 1, &["bad-request", "letters, digits"]),
        (
            "node | set | n1 | --address | 10.0.0.1 | --row | 1 | --label | side=left",
            0,
            &["n1 has revision {5}"],
        ),
        ("node | set | n1 | --column | 2 | --label | side=", 0, &["n1 has revision {6}"]),
        ("node | set | n2", 0, &["n2 has revision {7}"]),
        ("node | desired | n1", 1, &["none yet"]),
        (
            "node | desired | n1 | {\"on\":true,\"port\":2}",
            0,
            &["n1 shall have {\"on\":true,\"port\":2} (revision {8}"],
        ),
        (
            "node | desired | n1 | {\"port\":null} | --patch",
            0,
            &["n1 shall have {\"on\":true} (revision {9}"],
        ),
        ("node | desired | n1 | 5", 2, &["STATE", "expected a JSON object"]),
        ("node | reported | n1 | {} | --for | {9} | --error | no signal", 0, &["n1 failed: no signal"]),
        ("node | list", 0, &["failed: no signal", "nothing desired"]),
        ("node | reported | n1 | {\"on\":true} | --for | {9}", 0, &["for desired revision {9}"]),
        ("node | show | n1", 0, &["at 10.0.0.1, row 1, column 2, changed", "shall have", "says it has"]),
        ("command | send | restart | --all | --arguments | now", 0, &["command 1 sent to 2 nodes"]),
        ("command | report | 1 | n1 | done", 0, &["done", "pending"]),
        ("command | list | --status | pending", 0, &["restart", "\"now\""]),
        ("node | remove | n2", 0, &["n2 removed"]),
        ("command | show | 1", 0, &["failed", "the node was removed"]),
    ];
    for (line, code, words) in lines {
        let (found, text) = run(&numbered(line));
        assert_eq!(found, Some(code), "{line}: {text}");
        for word in words.iter().map(|word| numbered(word)) {
            assert!(text.contains(&word), "{line}: expected {word:?} in\n{text}");
        }
    }
    cluster.assert_no_panic();
}
