//! The Rust client in both its forms, and its examples: an application that polls and writes notices nothing of failovers but
//! a pause, and can say at any time on which machine it is.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use tanist_api::{QueryRequest, Statement};
use tanist_client::{ChangeOptions, Client, Consistency, ExecuteOptions, Link, LinkStatus, Need, blocking};

use crate::{
    cluster::Cluster,
    failover::{moment, rounds},
    workload::{Workload, create_ledger, execute},
};

#[path = "../../client/examples/blocking.rs"]
mod blocking_example;
#[path = "../../client/examples/observer.rs"]
mod observer_example;
#[path = "../../client/examples/typed.rs"]
mod typed_example;
#[path = "../../client/examples/watch.rs"]
mod watch_example;

fn count() -> QueryRequest {
    QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] }
}

/// Threads that write and poll by the blocking client; each error ends the test.
struct Threads {
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    acknowledged: BTreeSet<String>,
    /// Of writes and of strong reads: when the last one was served, and the longest time between two.
    last: [Option<Instant>; 2],
    longest: Duration,
}

impl Seen {
    fn served(&mut self, kind: usize) {
        let now = Instant::now();
        if let Some(last) = self.last[kind].replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }
}

impl Threads {
    fn start(client: &blocking::Client, writers: usize) -> Threads {
        let (stop, shared) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let mut threads: Vec<JoinHandle<()>> = (0..writers)
            .map(|worker| {
                let (client, stop, shared) = (client.clone(), Arc::clone(&stop), Arc::clone(&shared));
                std::thread::spawn(move || {
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let entry = format!("blocking/{worker}/{n}");
                        let insert = Statement::with("INSERT INTO ledger VALUES (?)", vec![json!(entry)]);
                        client
                            .execute_with(execute(vec![insert]), ExecuteOptions::default())
                            .unwrap_or_else(|error| panic!("write {entry}: {error}"));
                        let mut shared = shared.lock().unwrap();
                        shared.served(0);
                        shared.acknowledged.insert(entry);
                    }
                })
            })
            .collect();
        let (client, stopped, seen) = (client.clone(), Arc::clone(&stop), Arc::clone(&shared));
        threads.push(std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                client
                    .query(count(), Consistency::Strong, None)
                    .unwrap_or_else(|error| panic!("poll: {error}"));
                seen.lock().unwrap().served(1);
                std::thread::sleep(Duration::from_millis(5));
            }
        }));
        Threads { stop, shared, threads }
    }

    fn count(&self) -> usize {
        assert!(!self.threads.iter().any(JoinHandle::is_finished), "a thread ended early");
        self.shared.lock().unwrap().acknowledged.len()
    }

    /// The longest pause of writes or polls since the last call.
    fn take_longest(&self) -> Duration {
        std::mem::take(&mut self.shared.lock().unwrap().longest)
    }

    async fn wait_for(&self, more: usize) {
        let (target, until) = (self.count() + more, Instant::now() + Duration::from_secs(60));
        while self.count() < target {
            assert!(Instant::now() < until, "no {more} further writes in 60 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::into_inner(self.shared).unwrap().into_inner().unwrap().acknowledged
    }
}

/// Polls all the time, strongly and from the nearest; the longest pause of the strong reads.
async fn poll(client: &Client, stop: &Arc<AtomicBool>) -> [tokio::task::JoinHandle<Duration>; 2] {
    // The nearest may not have the table yet.
    let first = client.query(count(), Consistency::Strong, None).await.unwrap().position;
    [Consistency::Strong, Consistency::Local].map(|consistency| {
        let (client, stop, first) = (client.clone(), Arc::clone(stop), first.clone());
        tokio::spawn(async move {
            let (mut last, mut longest, mut seen) = (Instant::now(), Duration::ZERO, Some(first));
            while !stop.load(Ordering::Relaxed) {
                let answer = client.query(count(), consistency, seen.as_deref()).await;
                seen = Some(answer.unwrap_or_else(|error| panic!("{consistency:?} poll: {error}")).position);
                longest = longest.max(last.elapsed());
                last = Instant::now();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            longest
        })
    })
}

/// What the observer of a client was told.
fn story(client: &Client) -> Arc<Mutex<Vec<Link>>> {
    let told = Arc::new(Mutex::new(vec![]));
    let (mut observer, telling) = (client.observe(Need::Master), Arc::clone(&told));
    tokio::spawn(async move {
        while let Some(link) = observer.changed().await {
            telling.lock().unwrap().push(link);
        }
    });
    told
}

fn lost(link: &Link) -> bool {
    link.status() == LinkStatus::Reconnecting && link.reason().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn application_sees_no_error_when_masters_are_killed_and_can_say_where_it_is() {
    let mut cluster = Cluster::of(3).await;
    // One host is given, the others are learned.
    let client = cluster.builder().hosts(&cluster.url(2)).build().unwrap();
    let blocking = cluster.builder().hosts(&cluster.url(2)).build_blocking().unwrap();
    create_ledger(&client).await;
    let (told, stop) = (story(&client), Arc::new(AtomicBool::new(false)));
    let polls = poll(&client, &stop).await;
    let (workload, threads) = (Workload::start(&client, 4, "async"), Threads::start(&blocking, 4));
    let (mut pauses, mut blocking_pauses, mut losses) = (vec![], vec![], 0);
    for _ in 0..rounds().max(5) {
        workload.wait_for(50).await;
        threads.wait_for(50).await;
        tokio::time::sleep(moment(300)).await;
        let master = cluster.wait_master().await;
        workload.take_longest_gap();
        threads.take_longest();
        told.lock().unwrap().clear();
        cluster.kill(master);
        workload.wait_for(50).await;
        threads.wait_for(50).await;
        pauses.push(workload.take_longest_gap());
        blocking_pauses.push(threads.take_longest());
        let heir = cluster.wait_master().await;
        let url = cluster.url(heir);
        // It is on the new one, whose name it has learned. That it had lost the old one it may have been told too late to see.
        let (old, id) = (cluster.url(master), cluster.machines[heir].id.clone());
        cluster
            .wait("the observer tells of the heir by name", || async {
                let link = told.lock().unwrap().last().cloned()?;
                let there = link.status() == LinkStatus::Connected && link.host() == Some(&url);
                (there && link.member() == Some(&id)).then_some(())
            })
            .await;
        let told = told.lock().unwrap().clone();
        losses += told.iter().filter(|link| link.host() == Some(&old) && lost(link)).count();
        assert!(told.windows(2).all(|pair| pair[0].since() <= pair[1].since()), "{told:?}");
        assert_eq!(blocking.link(Need::Master).host(), Some(url.as_str()));
        cluster.start_machine(master);
        cluster.wait_back(master).await;
    }
    assert!(losses > 0, "an outage of some 50 ms is told of, unless the observer slept through it each time");
    stop.store(true, Ordering::Relaxed);
    let mut poll_pauses = vec![];
    for poll in polls {
        poll_pauses.push(poll.await.unwrap());
    }
    let mut outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty(), "{:?}", outcome.unknown);
    let (writes, threads) = (outcome.acknowledged.len(), threads.finish());
    println!("{writes} and {} writes over {} kills", threads.len(), pauses.len());
    outcome.acknowledged.extend(threads);
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
    pauses.sort();
    blocking_pauses.sort();
    println!("longest pauses: {pauses:?}; blocking {blocking_pauses:?}; of polls in all {poll_pauses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn application_leaves_a_master_that_stands_still() {
    let cluster = Cluster::of(3).await;
    let builder = || cluster.builder().hosts(&cluster.hosts()).attempt_timeout(Duration::from_secs(25));
    let (client, blocking) = (builder().build().unwrap(), builder().build_blocking().unwrap());
    create_ledger(&client).await;
    let (workload, threads) = (Workload::start(&client, 4, "async"), Threads::start(&blocking, 4));
    workload.wait_for(50).await;
    threads.wait_for(50).await;
    let master = cluster.wait_master().await;
    let told = story(&client);
    workload.take_longest_gap();
    threads.take_longest();
    cluster.signal(master, Signal::STOP);
    workload.wait_for(50).await;
    threads.wait_for(50).await;
    let (pause, blocking_pause) = (workload.take_longest_gap(), threads.take_longest());
    cluster.signal(master, Signal::CONT);
    println!("pause {pause:?}, blocking {blocking_pause:?}");
    // One attempt alone may last for 25 s: the client looks around earlier.
    assert!(pause.max(blocking_pause) < Duration::from_secs(20), "{pause:?}, {blocking_pause:?}");
    let old = cluster.url(master);
    let silent = told.lock().unwrap().iter().any(|link| link.host() == Some(&old) && lost(link));
    assert!(silent, "{:?}", told.lock().unwrap());
    let mut outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty(), "{:?}", outcome.unknown);
    outcome.acknowledged.extend(threads.finish());
    cluster.assert_identical().await;
    for i in 0..3 {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_of_the_client_do_what_they_say_while_a_master_dies() {
    let mut cluster = Cluster::of(3).await;
    let hosts = cluster.hosts();
    for _ in 0..2 {
        let found = typed_example::story(&hosts).await.unwrap();
        assert_eq!(found[..2], ["parts: [[12]]", "press/speed: somebody else was first"], "{found:?}");
    }

    let client = cluster.client();
    let mut copy = watch_example::Copy::begin(client.clone(), "press/").await.unwrap();
    assert_eq!(copy.values["press/speed"], json!(50));

    let (watched, lines) = (cluster.client(), Arc::new(Mutex::new(vec![])));
    let polling = tokio::spawn(observer_example::poll(watched.clone(), Duration::from_millis(20)));
    let telling = Arc::clone(&lines);
    let following = tokio::spawn(async move {
        observer_example::follow(&watched, |line| telling.lock().unwrap().push(line)).await;
    });
    let said = |wanted: String| {
        let lines = Arc::clone(&lines);
        move || {
            let found = lines.lock().unwrap().last().is_some_and(|line: &String| line.contains(&wanted));
            async move { found.then_some(()) }
        }
    };
    cluster.wait("the observer tells where it is", said("on pc-".to_owned())).await;

    let counting = std::thread::spawn(move || blocking_example::story(&hosts, 4, 100));
    let counted = QueryRequest { statements: vec![Statement::new("SELECT n FROM counter")] };
    cluster
        .wait("it counts", || async {
            let read = client.query(counted.clone(), Consistency::Strong, None).await.ok()?;
            (read.results[0].rows.first()?[0].as_i64()? > 20).then_some(())
        })
        .await;
    let master = cluster.wait_master().await;
    cluster.kill(master);
    client.set_config("press/speed", &json!(70), &ChangeOptions::default()).await.unwrap();
    client.set_config("press/empty", &json!(null), &ChangeOptions::default()).await.unwrap();
    client.remove_config("press/speed", &ChangeOptions::default()).await.unwrap();
    for wanted in [Some(json!(70)), Some(json!(70)), None] {
        copy.next().await.unwrap().unwrap();
        assert_eq!(copy.values.get("press/speed"), wanted.as_ref());
    }
    assert_eq!(copy.values["press/empty"], json!(null));
    assert_ne!(copy.host(), Some(cluster.url(master).as_str()));
    assert_eq!(counting.join().unwrap().unwrap(), "[[400]]");
    let heir = cluster.machines[cluster.wait_master().await].id.clone();
    cluster.wait("the observer tells of the heir", said(format!("on {heir}"))).await;
    polling.abort();
    following.abort();
    cluster.assert_no_panic();
}
