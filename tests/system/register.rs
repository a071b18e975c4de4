//! A register of the configuration that several clients change and read at once, and what must be so of its history.
//!
//! Every change makes a revision of its own, greater than those before. So the history is linearizable exactly when no operation
//! that began after another had ended sees an older revision than that did, changes come after all that ended before they
//! began, and all who see a revision see the same value, which somebody wrote and nobody was refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tanist_api::code;
use tanist_client::{ChangeOptions, Client, Consistency, Error, OnlyIf, ReadOptions};

const KEY: &str = "register";

/// An operation that has ended, or never will.
#[derive(Debug, Clone)]
struct Operation {
    began: Instant,
    ended: Instant,
    kind: Kind,
    /// Seen or made; 0: there was nothing.
    revision: i64,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Strong,
    Change,
}

#[derive(Debug, Default)]
struct History {
    operations: Mutex<Vec<Operation>>,
    /// Values of changes whose outcome nobody knows.
    unknown: Mutex<BTreeSet<String>>,
}

/// Clients of the register, until they are stopped.
pub struct Register {
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    onwards: tokio::task::JoinHandle<usize>,
}

impl Register {
    /// Two that change it, two that read it.
    pub fn start(client: impl Fn() -> Client) -> Register {
        let (history, stop) = (Arc::<History>::default(), Arc::<AtomicBool>::default());
        let mut clients = vec![];
        for number in 0..2 {
            let (history, stop) = (Arc::clone(&history), Arc::clone(&stop));
            clients.push(tokio::spawn(change(client(), number, history, Arc::clone(&stop))));
        }
        clients.push(tokio::spawn(read_strong(client(), Arc::clone(&history), Arc::clone(&stop))));
        let onwards = tokio::spawn(read_onwards(client(), Arc::clone(&stop)));
        Register { history, stop, clients, onwards }
    }

    /// Ends the clients and checks all that they saw; how much that was, for people.
    pub async fn finish(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let operations = self.history.operations.lock().unwrap().clone();
        let unknown = self.history.unknown.lock().unwrap().clone();
        if let Err(why) = check(&operations, &unknown) {
            panic!("{why}");
        }
        let count = |kind| operations.iter().filter(|operation| operation.kind == kind).count();
        let (changes, reads) = (count(Kind::Change), count(Kind::Strong));
        let onwards = self.onwards.await.unwrap();
        format!("{changes} changes, {} unknown, {reads} strong and {onwards} other reads", unknown.len())
    }
}

async fn get(client: &Client, options: &ReadOptions) -> Option<(String, i64, Value)> {
    match client.config(KEY, options).await {
        Ok(found) => Some((found.position, found.value.revision, found.value.value)),
        Err(Error::Problem(problem)) if problem.code == code::NOT_FOUND => {
            Some((String::new(), 0, Value::Null))
        }
        Err(Error::Unavailable { .. }) => None,
        Err(error) => panic!("read the register: {error}"),
    }
}

/// Reads, and writes what stands there only if nobody else has meanwhile.
async fn change(client: Client, number: u32, history: Arc<History>, stop: Arc<AtomicBool>) {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let Some((_, revision, value)) = get(&client, &ReadOptions::default()).await else { continue };
        history.push(began, Kind::Strong, revision, value);
        turn += 1;
        let text = format!("{number}-{turn}");
        let only_if = if revision == 0 { OnlyIf::New } else { OnlyIf::Revision(revision) };
        let options = ChangeOptions { only_if, ..ChangeOptions::default() };
        let began = Instant::now();
        match client.set_config(KEY, &json!(text), &options).await {
            Ok(done) => {
                assert!(
                    done.value.revision > revision,
                    "a change made {} of {revision}",
                    done.value.revision
                );
                history.push(began, Kind::Change, done.value.revision, json!(text));
            }
            Err(Error::OutcomeUnknown { .. }) => {
                history.unknown.lock().unwrap().insert(text);
            }
            Err(Error::Problem(problem)) if problem.code == code::PRECONDITION_FAILED => {}
            Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("change the register: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_strong(client: Client, history: Arc<History>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        if let Some((_, revision, value)) = get(&client, &ReadOptions::default()).await {
            history.push(began, Kind::Strong, revision, value);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads any replica, but never goes back in time: `Tanist-Min-Position`.
async fn read_onwards(client: Client, stop: Arc<AtomicBool>) -> usize {
    let (mut seen, mut last, mut reads) = (None::<String>, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let options = ReadOptions { consistency: Consistency::Local, min_position: seen.clone() };
        if let Some((position, revision, _)) = get(&client, &options).await
            && !position.is_empty()
        {
            assert!(revision >= last, "a read at {position} sees revision {revision}, one before saw {last}");
            (seen, last) = (Some(position), revision);
            reads += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    reads
}

impl History {
    fn push(&self, began: Instant, kind: Kind, revision: i64, value: Value) {
        let ended = Instant::now();
        self.operations.lock().unwrap().push(Operation { began, ended, kind, revision, value });
    }
}

fn check(operations: &[Operation], unknown: &BTreeSet<String>) -> Result<(), String> {
    let mut values: BTreeMap<i64, &Value> = BTreeMap::from([(0, &Value::Null)]);
    let mut made = BTreeSet::new();
    for operation in operations {
        let value = values.entry(operation.revision).or_insert(&operation.value);
        if *value != &operation.value {
            return Err(format!("{operation:?}: another saw {value}"));
        }
        if operation.kind == Kind::Change && !made.insert(operation.revision) {
            return Err(format!("{operation:?}: another made this revision too"));
        }
    }
    for (revision, value) in values.iter().filter(|(revision, _)| **revision != 0) {
        if !made.contains(revision) && !value.as_str().is_some_and(|text| unknown.contains(text)) {
            return Err(format!("revision {revision} is {value}, which nobody has written"));
        }
    }
    let mut by_end: Vec<_> = operations.iter().collect();
    by_end.sort_by_key(|operation| operation.ended);
    let mut by_begin = by_end.clone();
    by_begin.sort_by_key(|operation| operation.began);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in by_begin {
        while let Some(before) = ended.next_if(|before| before.ended < operation.began) {
            newest = newest.filter(|newest| newest.revision >= before.revision).or(Some(before));
        }
        let Some(before) = newest else { continue };
        let behind = match operation.kind {
            Kind::Strong => operation.revision < before.revision,
            Kind::Change => operation.revision <= before.revision,
        };
        if behind {
            return Err(format!("{operation:?} began after this had ended: {before:?}"));
        }
    }
    Ok(())
}

#[test]
fn histories_that_are_wrong_are_found() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let operation = |kind, began, ended, revision: i64, value: &str| Operation {
        began: at(began),
        ended: at(ended),
        kind,
        revision,
        value: json!(value),
    };
    let (change, read) = (Kind::Change, Kind::Strong);
    let none = BTreeSet::new();
    let good = vec![
        operation(change, 0, 10, 1, "a"),
        operation(change, 5, 30, 2, "b"),
        // Begun before the second change had ended: may see either.
        operation(read, 12, 20, 1, "a"),
        operation(read, 12, 20, 2, "b"),
        operation(read, 31, 32, 2, "b"),
    ];
    assert_eq!(check(&good, &none), Ok(()));
    let with = |more: Operation| check(&[good.clone(), vec![more]].concat(), &none).unwrap_err();
    assert!(with(operation(read, 31, 32, 1, "a")).contains("began after"), "a read that is late");
    assert!(
        with(operation(read, 21, 22, 1, "a")).contains("began after"),
        "another read has seen the second"
    );
    assert!(with(operation(change, 40, 41, 2, "c")).contains("another"), "two changes in one");
    assert!(with(operation(read, 40, 41, 2, "c")).contains("another saw"), "two values");
    assert!(with(operation(read, 40, 41, 3, "c")).contains("nobody has written"), "out of nowhere");
    let known = BTreeSet::from(["c".to_owned()]);
    assert_eq!(check(&[good, vec![operation(read, 40, 41, 3, "c")]].concat(), &known), Ok(()));
}
