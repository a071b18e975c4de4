//! The blocking client against machines that play real situations.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::time::{Duration, Instant};

use common::{Played, Reply, cluster, problem, stored, write};
use tanist_api::code;
use tanist_client::{Error, LinkStatus, Need, WatchOptions, blocking::Client};

const MS: Duration = Duration::from_millis(1);

/// The played machines run in a runtime of their own, as other computers would.
fn played<T>(start: impl Future<Output = T>) -> (tokio::runtime::Runtime, T) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let machines = runtime.block_on(start);
    (runtime, machines)
}

#[test]
fn blocking_write_is_repeated_elsewhere_with_its_key_from_many_threads() {
    let (_runtime, (dying, heir)) = played(async {
        let dying = Played::start(|_, _| Reply::Close).await;
        (dying, Played::start(|_, _| stored()).await)
    });
    let client = Client::new(&[dying.url.as_str(), &heir.url].join(",")).unwrap();
    let mut observer = client.observe(Need::Master);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| assert_eq!(client.clone().execute(write()).unwrap().position, "3.7"));
        }
    });
    let keys = heir.keys();
    assert_eq!(keys.len(), 8);
    assert!(dying.keys().iter().all(|key| keys.contains(key)));
    assert_eq!(client.link(Need::Master).host(), Some(heir.url.as_str()));
    let link = observer.changed_within(1000 * MS).unwrap().unwrap();
    assert_eq!(link.status(), LinkStatus::Connected, "only the newest is kept");
    assert!(observer.changed_within(20 * MS).unwrap().is_none());
}

#[test]
fn members_are_learned_between_two_blocking_calls() {
    let (runtime, (heir, first)) = played(async {
        let heir = Played::start(|_, _| stored()).await;
        let url = heir.url.clone();
        let first = Played::start(move |seen, _| match seen.line.as_str() {
            "GET /v1/cluster" => Reply::Late(100 * MS, Box::new(cluster("pc-1", "pc-1", &[&url]))),
            _ => stored(),
        });
        (heir, first.await)
    });
    let client = Client::new(&first.url).unwrap();
    client.execute(write()).unwrap();
    let until = Instant::now() + 3000 * MS;
    while client.known_hosts().len() < 2 {
        assert!(Instant::now() < until, "{:?}", client.known_hosts());
        std::thread::sleep(5 * MS);
    }
    runtime.block_on(first.crash());
    client.execute(write()).unwrap();
    assert_eq!(heir.work().len(), 1);
}

#[test]
fn blocking_watch_waits_as_long_as_it_may_and_says_why_it_cannot_go_on() {
    let (_runtime, machine) = played(Played::start(|seen, before| match (seen.line.as_str(), before) {
        ("GET /v1/events", 0) => Reply::Silence,
        _ => problem(410, code::EVENTS_PRUNED, &[]),
    }));
    let client = Client::new(&machine.url).unwrap();
    let mut watch = client.watch(WatchOptions::default());
    let began = Instant::now();
    assert!(watch.next_within(100 * MS).unwrap().is_none());
    assert!((100 * MS..2000 * MS).contains(&began.elapsed()), "{:?}", began.elapsed());
    let error = watch.next().unwrap().unwrap_err();
    assert!(matches!(&error, Error::Problem(problem) if problem.code == code::EVENTS_PRUNED), "{error}");
}

#[test]
fn copy_is_fetched_to_its_end_or_the_break_is_told() {
    let (_runtime, machine) = played(Played::start(|_, before| match before {
        0 => Reply::Answer {
            status: 200,
            headers: vec![("tanist-position", "3.7".to_owned())],
            body: serde_json::json!("the copy"),
        },
        _ => problem(503, code::OVERLOADED, &[]),
    }));
    let client = Client::new(&machine.url).unwrap();
    let mut copy = client.backup_of(&machine.url, None, None).unwrap();
    assert_eq!((copy.position(), copy.host(), copy.database_bytes()), ("3.7", machine.url.as_str(), None));
    let mut bytes = vec![];
    while let Some(chunk) = copy.chunk().unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, b"\"the copy\"");
    let error = client.backup_of(&machine.url, None, None).unwrap_err();
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("overloaded")), "{error}");
}

#[test]
fn blocking_client_in_an_async_task_is_an_error_and_no_panic() {
    let (runtime, machine) = played(Played::start(|_, _| stored()));
    let client = Client::new(&machine.url).unwrap();
    runtime.block_on(async move {
        let error = client.execute(write()).unwrap_err();
        assert!(matches!(error, Error::Runtime(_)), "{error}");
        client.inner().execute(write()).await.unwrap();
        drop(client);
    });
    assert_eq!(machine.work().len(), 1);
}
