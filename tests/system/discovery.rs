//! Machines that say on a network that they are there, and those who hear them: in a network of the test's own.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tanist_api::Statement;
use tanist_client::{Client, Error};
use tanist_discovery::{Browser, Heard, find};

use crate::{
    cluster::{Cluster, Layout, tanist},
    own_network::inside,
    workload::execute,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A cable with both ends here, and three addresses at one of them.
fn connect() {
    let script = "ip link set lo up && ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && \
        for i in 1 2 3; do ip address add 10.9.8.$i/24 dev v0; done";
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success());
}

/// Listens until this is so.
fn hear(browser: &mut Browser, what: &str, mut so: impl FnMut(&Heard, &Browser) -> bool) {
    let until = Instant::now() + PATIENCE;
    while let Some(heard) = browser.next(until.saturating_duration_since(Instant::now())) {
        if so(&heard, browser) {
            return;
        }
    }
    panic!("waited {PATIENCE:?} to hear {what}; found {:?}, {:?}", browser.found(), browser.trouble());
}

#[test]
fn machines_are_found_on_the_network_and_missed_when_they_go() {
    if !inside("discovery::machines_are_found_on_the_network_and_missed_when_they_go") {
        return;
    }
    connect();
    tokio::runtime::Runtime::new().unwrap().block_on(story());
}

async fn story() {
    let extra = "insecure = true\n[discovery]\nannounce = true\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, network: Some("10.9.8"), ..Layout::of(3) }).await;
    let mut browser = Browser::start(&[]).unwrap();
    hear(&mut browser, "three machines", |_, browser| browser.found().len() == 3);
    for (i, found) in browser.found().iter().enumerate() {
        let url = format!("http://10.9.8.{}:8080", i + 1);
        assert_eq!((found.cluster(), found.member()), ("test", &*cluster.machines[i].id));
        assert_eq!(found.urls(), [url]);
    }

    let listed = |more: &[&str]| {
        let (code, text) = tanist(&[&["discover", "--seconds", "1", "--json"], more].concat());
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str::<Vec<Value>>(&text).unwrap()
    };
    cluster
        .wait("all three are listed, one of them as the master", || async {
            let found = listed(&[]);
            (found.len() == 3 && found.iter().filter(|machine| machine["role"] == "master").count() == 1)
                .then_some(())
        })
        .await;
    assert!(listed(&["--cluster", "other"]).is_empty());

    // A client that knows nothing but the cluster's name, in both forms.
    let builder = Client::builder().discover("test", Duration::from_secs(10)).await.unwrap();
    let client = builder.clone().build().unwrap();
    client.execute(execute(vec![Statement::new("CREATE TABLE note(text TEXT)")])).await.unwrap();
    let note = || execute(vec![Statement::new("INSERT INTO note VALUES ('x')")]);
    std::thread::spawn(move || {
        let builder = Client::builder().discover_blocking("test", Duration::from_secs(10)).unwrap();
        builder.build_blocking().unwrap().execute(note()).unwrap();
    })
    .join()
    .unwrap();
    let error = builder.clone().token("secret").unwrap().build().unwrap_err();
    assert!(matches!(&error, Error::Hosts(why) if why.contains("or no token")), "{error}");
    let nobody = Client::builder().discover("other", Duration::from_millis(300)).await.unwrap().build();
    assert!(matches!(&nobody, Err(Error::Hosts(_))), "{nobody:?}");

    // One that leaves says goodbye.
    let master = cluster.wait_master().await;
    let id = cluster.machines[master].id.clone();
    assert!(cluster.terminate(master).success());
    hear(&mut browser, "a goodbye", |heard, _| matches!(heard, Heard::Gone(gone) if gone.member() == id));
    client.execute(note()).await.unwrap();
    cluster.start_machine(master);
    hear(
        &mut browser,
        "that it is back",
        |heard, _| matches!(heard, Heard::Here(here) if here.member() == id),
    );
    cluster.wait_back(master).await;

    // One that dies says nothing, and who asks now hears the others alone.
    let master = cluster.wait_master().await;
    let id = cluster.machines[master].id.clone();
    cluster.signal(master, Signal::KILL);
    cluster.kill(master);
    client.execute(note()).await.unwrap();
    let found = find("test", Duration::from_secs(10), &[]).unwrap();
    assert!(!found.is_empty() && found.iter().all(|machine| machine.member() != id), "{found:?}");
    cluster.assert_no_panic();
}
