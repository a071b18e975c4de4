//! Watchers on real machines: every acknowledged event, once, in order, whoever dies; and nobody holds up the others.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tanist_api::{QueryRequest, Statement, WatchEvent, code};
use tanist_client::{Client, Consistency, Error, WatchOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout, binary, read},
    cut_off::{cuttable, isolate, mend},
    workload::{Workload, create_ledger, execute},
};

const END: &str = "the end";

fn ledger() -> WatchOptions {
    WatchOptions { tables: vec!["ledger".into()], ..WatchOptions::default() }
}

/// Watches the ledger until its last entry comes.
async fn watcher(hosts: &str) -> (u64, JoinHandle<Vec<WatchEvent>>) {
    let mut watch = Client::new(hosts).unwrap().watch(ledger());
    let after = watch.begin().await.unwrap();
    let events = tokio::spawn(async move {
        let mut events = vec![];
        loop {
            match watch.next().await {
                Ok(event) => {
                    let last = event.data["new"]["entry"] == END;
                    events.push(event);
                    if last {
                        return events;
                    }
                }
                // No machine for long, on a busy computer: it goes on where it was.
                Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("the watch ended: {error}"),
            }
        }
    });
    (after, events)
}

async fn insert(client: &Client, entry: &str) {
    let insert = Statement::with("INSERT INTO ledger(entry) VALUES (?)", vec![json!(entry)]);
    client.execute(execute(vec![insert])).await.unwrap();
}

/// Id and entry of each event of the ledger after `after`, as the database has them.
async fn told(client: &Client, after: u64) -> Vec<(u64, String)> {
    let mut all = vec![];
    let mut after = after;
    loop {
        let sql = "SELECT id, data ->> '$.new.entry' FROM tanist_events WHERE kind = 'row' AND id > ? ORDER BY id LIMIT 5000";
        let query = QueryRequest { statements: vec![Statement::with(sql, vec![json!(after)])] };
        let answer = client.query(query, Consistency::Strong, None).await.unwrap();
        let rows = &answer.results[0].rows;
        if rows.is_empty() {
            return all;
        }
        all.extend(rows.iter().map(|row| (row[0].as_u64().unwrap(), row[1].as_str().unwrap().to_owned())));
        after = all.last().unwrap().0;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_miss_nothing_and_see_nothing_twice_while_masters_are_killed() {
    let rounds = std::env::var("TANIST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    assert!(client.watch_table("ledger").await.unwrap().watched);
    // Each watches another machine first: the master, and backups, and each dies once.
    let mut watchers = vec![];
    for i in 0..3 {
        let hosts: Vec<_> = (0..3).map(|j| cluster.url((i + j) % 3)).collect();
        watchers.push(watcher(&hosts.join(",")).await);
    }
    let workload = Workload::start(&client, 4, "w");
    for _ in 0..rounds {
        workload.wait_for(100).await;
        let master = cluster.wait_master().await;
        cluster.kill(master);
        workload.wait_for(100).await;
        cluster.start_machine(master);
        cluster.wait_back(master).await;
    }
    let outcome = workload.finish().await;
    insert(&client, END).await;
    for (after, events) in watchers {
        let seen = tokio::time::timeout(Duration::from_secs(60), events).await;
        let seen = seen
            .unwrap_or_else(|_| panic!("a watcher waits for the last event\n{}", cluster.logs()))
            .unwrap();
        let seen: Vec<_> = seen
            .into_iter()
            .map(|event| (event.id, event.data["new"]["entry"].as_str().unwrap().to_owned()))
            .collect();
        let expected = told(&client, after).await;
        assert_eq!(seen.len(), expected.len());
        assert_eq!(seen, expected);
        let entries: std::collections::BTreeSet<_> = seen.into_iter().map(|(_, entry)| entry).collect();
        assert!(outcome.acknowledged.is_subset(&entries), "each acknowledged write was told");
    }
    // So was each reign, and who takes part.
    let master = cluster.wait_master().await;
    let told = |what: &str| {
        let sql = format!(
            "SELECT count(*) FROM tanist_events WHERE kind = 'cluster' AND data ->> 'what' = '{what}'"
        );
        read::<i64>(&cluster.data_dir(master), &sql)
    };
    assert_eq!(told("reign"), read::<i64>(&cluster.data_dir(master), "SELECT count(*) FROM tanist_terms"));
    assert!(told("member") >= 3);
    println!(
        "{} acknowledged events over {rounds} kills, to each of three watchers",
        outcome.acknowledged.len()
    );
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_tail_of_a_cut_off_master_is_told_to_nobody_though_its_numbers_come_again() {
    let (cluster, links) = cuttable("[timing]\nlease = \"3s\"\n").await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.watch_table("ledger").await.unwrap();
    let old = cluster.wait_master().await;
    let (after, events) = watcher(&cluster.url(old)).await;
    insert(&client, "before").await;
    cluster.assert_identical().await;
    isolate(&links, old);
    // Its lease lasts a little; nobody else gets to know what it takes now.
    let alone =
        Client::builder().hosts(&cluster.url(old)).deadline(Duration::from_millis(500)).build().unwrap();
    for n in 0..5 {
        let lost = Statement::with("INSERT INTO ledger(entry) VALUES (?)", vec![json!(format!("lost {n}"))]);
        let tail = alone.execute(execute(vec![lost])).await;
        assert!(tail.is_err(), "nobody else has stored it: {tail:?}");
    }
    let entry_of = |i: usize, id: i64| {
        read::<Option<String>>(
            &cluster.data_dir(i),
            &format!("SELECT max(coalesce(data ->> '$.new.entry', kind)) FROM tanist_events WHERE id = {id}"),
        )
    };
    let lost =
        read::<i64>(&cluster.data_dir(old), "SELECT min(id) FROM tanist_events WHERE data LIKE '%lost%'");
    assert_eq!(entry_of(old, lost).as_deref(), Some("lost 0"), "{}", cluster.logs());
    let others = (0..3).filter(|i| *i != old).map(|i| cluster.url(i)).collect::<Vec<_>>().join(",");
    let others = Client::new(&others).unwrap();
    for n in 0..8 {
        insert(&others, &format!("after {n}")).await;
    }
    mend(&links);
    insert(&others, END).await;
    let seen = tokio::time::timeout(Duration::from_secs(60), events).await;
    let seen = seen.unwrap_or_else(|_| panic!("the watcher waits\n{}", cluster.logs())).unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|event| (event.id, event.data["new"]["entry"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(seen, told(&client, after).await);
    assert_eq!(seen.len(), 10, "{seen:?}");
    cluster.assert_identical().await;
    assert_ne!(entry_of(old, lost).unwrap(), "lost 0", "the number was given again");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_that_is_not_current_for_long_sends_its_watchers_away() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.watch_table("ledger").await.unwrap();
    let master = cluster.wait_master().await;
    let left = (master + 1) % 3;
    let mut stream = TcpStream::connect(format!("{}:{HTTP_PORT}", cluster.machines[left].ip)).await.unwrap();
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let hosts: Vec<_> = (0..3).map(|j| cluster.url((left + j) % 3)).collect();
    let (_, events) = watcher(&hosts.join(",")).await;
    // In this order: between the two the other one could become master, and the data be on it alone.
    cluster.kill((master + 2) % 3);
    cluster.kill(master);
    let mut heard = String::new();
    let ended = tokio::time::timeout(Duration::from_secs(40), stream.read_to_string(&mut heard)).await;
    ended.expect("the stream ends by itself").unwrap();
    assert!(heard.contains("event: end\ndata: {\"code\":\"not-fresh\""), "{heard}");
    let alone = Client::builder().hosts(&cluster.url(left)).deadline(Duration::from_secs(2)).build().unwrap();
    let refused = alone.watch(WatchOptions::default());
    let mut refused = Box::pin(refused.into_stream());
    let refused = tokio::time::timeout(Duration::from_secs(60), async {
        std::future::poll_fn(|cx| futures_util::Stream::poll_next(refused.as_mut(), cx)).await
    });
    assert!(matches!(refused.await.unwrap(), Some(Err(Error::Unavailable { .. }))));
    cluster.start_machine(master);
    cluster.wait_master().await;
    insert(&client, END).await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), events).await.unwrap().unwrap().len(), 1);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_soon_on_master_and_backup_and_old_ones_are_removed() {
    let layout = Layout { extra: "[limits]\nevents = 200".to_owned(), ..Layout::of(3) };
    let mut cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.watch_table("ledger").await.unwrap();
    let master = cluster.wait_master().await;
    let mut tasks = vec![];
    for i in 0..3 {
        let mut watch = cluster.client_of(i).watch(ledger());
        watch.begin().await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut came = vec![];
            for _ in 0..150 {
                let event = watch.next().await.unwrap();
                came.push((event.data["new"]["entry"].as_str().unwrap().to_owned(), Instant::now()));
            }
            came
        }));
    }
    let mut acknowledged = vec![];
    for n in 0..150 {
        let entry = format!("{n}");
        insert(&client, &entry).await;
        acknowledged.push((entry, Instant::now()));
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    for (i, task) in tasks.into_iter().enumerate() {
        let came = tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
        let mut late: Vec<_> = acknowledged
            .iter()
            .zip(&came)
            .map(|((wanted, done), (entry, at))| {
                assert_eq!(wanted, entry);
                at.saturating_duration_since(*done)
            })
            .collect();
        late.sort();
        let role = if i == master { "master" } else { "backup" };
        println!("{role}: acknowledged to told p50 {:?} p99 {:?}", late[75], late[148]);
        assert!(late[75] < Duration::from_secs(2), "{late:?}");
    }

    // The next master removes what is too much with its first write.
    for n in 0..200 {
        insert(&client, &format!("more {n}")).await;
    }
    cluster.kill(master);
    insert(&client, "after").await;
    cluster.start_machine(master);
    cluster.assert_identical().await;
    for i in 0..3 {
        let kept = read::<i64>(&cluster.data_dir(i), "SELECT count(*) FROM tanist_events");
        assert!((200..230).contains(&kept), "{kept} events are kept");
        let mut watch = cluster.client_of(i).watch(WatchOptions { after: Some(1), ..ledger() });
        match watch.next().await {
            Err(Error::Problem(problem)) => {
                assert_eq!(problem.code, code::EVENTS_PRUNED, "{}", problem.detail)
            }
            other => panic!("{other:?}"),
        }
    }
    cluster.assert_no_panic();
}

/// A client that asks for all events and reads nothing.
async fn silent(ip: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut stream = socket.connect(format!("{ip}:{HTTP_PORT}").parse().unwrap()).await.unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_that_takes_nothing_is_cut_off_while_others_go_on_and_can_resume() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.watch_table("ledger").await.unwrap();
    let quiet = silent(&cluster.machines[0].ip).await;
    let (_, others) = watcher(&cluster.hosts()).await;
    let out = cluster.machines[0].config.with_file_name("watch.out");
    let mut stopped = Command::new(binary())
        .args(["watch", "--json", "--tables", "ledger", "--hosts", &cluster.hosts()])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(stopped.id()).unwrap()).unwrap();
    let printed = || std::fs::read_to_string(&out).unwrap_or_default();
    let mut n = 0;
    while printed().lines().count() < 3 {
        insert(&client, &format!("early {n}")).await;
        n += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill_process(pid, Signal::STOP).unwrap();
    let big = "x".repeat(16_000);
    let until = Instant::now() + Duration::from_secs(90);
    let mut count = 0;
    while cluster.log_of(0).matches("a watcher was cut off: it took nothing for 10s").count() < 2 {
        assert!(Instant::now() < until, "{count} large events, and nobody is cut off\n{}", cluster.logs());
        insert(&client, &format!("{count} {big}")).await;
        count += 1;
    }
    insert(&client, END).await;
    let seen = tokio::time::timeout(Duration::from_secs(20), others).await.unwrap().unwrap();
    assert!(seen.len() > count, "the others have seen all");
    kill_process(pid, Signal::CONT).unwrap();
    cluster.wait("the stopped watcher has resumed", || async { printed().contains(END).then_some(()) }).await;
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    let ids: Vec<u64> =
        printed().lines().map(|line| serde_json::from_str::<WatchEvent>(line).unwrap().id).collect();
    let first = ids[0];
    let expected: Vec<u64> = seen.iter().map(|event| event.id).filter(|id| *id >= first).collect();
    assert_eq!(ids, expected, "none missed, none twice");
    drop(quiet);
    cluster.assert_no_panic();
}

/// Resident memory of a machine's process, in KiB.
fn memory(cluster: &Cluster, i: usize) -> u64 {
    let pid = cluster.machines[i].child.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_watchers_of_one_machine_take_little_memory() {
    const WATCHERS: usize = 1000;
    const EVENTS: usize = 200;
    let extra = "[limits]\nwatchers_per_client = 1000".to_owned();
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(1) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.watch_table("ledger").await.unwrap();
    insert(&client, "warm").await;
    let before = memory(&cluster, 0);
    let mut sockets = vec![];
    for _ in 0..WATCHERS {
        let address = format!("{}:{HTTP_PORT}", cluster.machines[0].ip);
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /v1/events?tables=ledger HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        sockets.push(socket);
    }
    let idle = memory(&cluster, 0);
    // Requests still find their place, and one watcher more is told so.
    let mut more = TcpStream::connect(format!("{}:{HTTP_PORT}", cluster.machines[0].ip)).await.unwrap();
    more.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    more.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("limits.watchers"), "{answer}");
    let started = Instant::now();
    let readers: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            tokio::spawn(async move {
                let (mut found, mut tail, mut buffer) = (0, String::new(), vec![0; 4096]);
                while found < EVENTS {
                    let count = socket.read(&mut buffer).await.unwrap();
                    assert!(count > 0, "a watcher was cut off after {found} events");
                    tail.push_str(&String::from_utf8_lossy(&buffer[..count]));
                    found += tail.matches("event: row\n").count();
                    let keep = tail.rfind("event: row\n").map_or(0, |at| at + 11);
                    tail.drain(..keep);
                }
                socket
            })
        })
        .collect();
    for n in 0..EVENTS {
        insert(&client, &format!("{n}")).await;
    }
    let mut sockets = vec![];
    for reader in readers {
        sockets.push(tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap());
    }
    let busy = memory(&cluster, 0);
    println!(
        "{WATCHERS} watchers: {} KiB before, {idle} KiB with them, {busy} KiB after {EVENTS} events to each in {:?}",
        before,
        started.elapsed()
    );
    assert!(busy.saturating_sub(before) < 64 << 10, "{before} KiB before, {busy} KiB after");
    drop(sockets);
    cluster.assert_no_panic();
}
