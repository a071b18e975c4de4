//! Lists that clients append to and read in transactions over plain HTTP, and whether what they saw fits one order of all
//! transactions that agrees with time (strict serializability). A list shows in which order it was appended to, so each read
//! says after which transaction it came and before which: these edges and those of time must have no cycle.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use petgraph::{algo::kosaraju_scc, graph::DiGraph, graph::NodeIndex};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    nemesis::Dice,
    plain::{Plain, Told, rows},
};

/// A list is full after about so many elements; then the next ones are used.
const PER_GENERATION: usize = 120;
const LISTS_AT_ONCE: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Append {
        key: i64,
        element: i64,
    },
    /// What was seen; `None` where the answer is lost.
    Read {
        key: i64,
        seen: Option<Vec<i64>>,
    },
}

#[derive(Debug, Clone)]
struct Transaction {
    steps: Vec<Step>,
    began: Instant,
    /// `None`: nobody has answered; it may have happened, at any time since.
    ended: Option<Instant>,
}

/// Clients of the lists, until they are stopped.
pub struct Lists {
    history: Arc<Mutex<Vec<Transaction>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Lists {
    /// Four clients; each asks another machine first.
    pub async fn start(cluster: &Cluster, seed: u64) -> Lists {
        let hosts = cluster.hosts();
        let create = "CREATE TABLE list (key INTEGER PRIMARY KEY, elements TEXT NOT NULL)";
        let created = Plain::new(&hosts, 0).execute(&[(create.into(), json!([]))]).await;
        assert!(matches!(created, Told::Done(_)), "{created:?}");
        let (history, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let clients = (0..4)
            .map(|client| {
                let plain = Plain::new(&hosts, client);
                let dice = Dice(seed.wrapping_mul(31) ^ client as u64);
                tokio::spawn(run(plain, client, dice, Arc::clone(&history), Arc::clone(&stop)))
            })
            .collect();
        Lists { history, stop, clients }
    }

    /// Ends the clients, reads all lists once more and checks the history; how much it was, for people.
    pub async fn finish(self, cluster: &Cluster) -> String {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let began = Instant::now();
        let all = [("SELECT key, elements FROM list".to_owned(), json!([]))];
        let told = Plain::new(&cluster.hosts(), 0).query("strong", &all).await;
        let Told::Done(answer) = told else { panic!("the last read: {told:?}") };
        let steps = rows(&answer, 0)
            .iter()
            .map(|row| Step::Read { key: row[0].as_i64().unwrap(), seen: Some(elements(&row[1])) })
            .collect();
        let mut history = Arc::into_inner(self.history).unwrap().into_inner().unwrap();
        history.push(Transaction { steps, began, ended: Some(Instant::now()) });
        if let Err(why) = check(&history) {
            panic!("{why}\n{}", cluster.logs());
        }
        let unknown = history.iter().filter(|transaction| transaction.ended.is_none()).count();
        format!("{} transactions on lists, {unknown} unknown", history.len())
    }
}

fn elements(value: &Value) -> Vec<i64> {
    serde_json::from_str(value.as_str().unwrap()).unwrap()
}

async fn run(
    plain: Plain,
    client: usize,
    mut dice: Dice,
    history: Arc<Mutex<Vec<Transaction>>>,
    stop: Arc<AtomicBool>,
) {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let generation = history.lock().unwrap().len() / PER_GENERATION;
        let mut steps = vec![];
        for _ in 0..1 + dice.roll(4) {
            let key = i64::try_from(generation * LISTS_AT_ONCE + dice.roll(LISTS_AT_ONCE)).unwrap();
            if dice.roll(2) == 0 {
                next += 1;
                steps.push(Step::Append { key, element: next * 10 + i64::try_from(client).unwrap() });
            } else {
                steps.push(Step::Read { key, seen: None });
            }
        }
        let statements: Vec<_> = steps.iter().map(statement).collect();
        let reads_only = steps.iter().all(|step| matches!(step, Step::Read { .. }));
        let began = Instant::now();
        let told = if reads_only {
            plain.query("strong", &statements).await
        } else {
            plain.execute(&statements).await
        };
        let ended = match told {
            Told::Done(answer) => {
                let ended = Instant::now();
                for (i, step) in steps.iter_mut().enumerate() {
                    if let Step::Read { seen, .. } = step {
                        *seen = Some(rows(&answer, i).first().map_or_else(Vec::new, |row| elements(&row[0])));
                    }
                }
                Some(ended)
            }
            Told::Unknown => None,
            Told::Refused(status, answer) => panic!("lists: {status} {answer}"),
        };
        history.lock().unwrap().push(Transaction { steps, began, ended });
    }
}

fn statement(step: &Step) -> (String, Value) {
    match step {
        Step::Append { key, element } => (
            "INSERT INTO list VALUES (?1, json_array(?2)) \
             ON CONFLICT DO UPDATE SET elements = json_insert(elements, '$[#]', ?2)"
                .into(),
            json!([key, element]),
        ),
        Step::Read { key, .. } => ("SELECT elements FROM list WHERE key = ?".into(), json!([key])),
    }
}

/// Whether one order of all transactions explains what each has seen and agrees with time.
fn check(history: &[Transaction]) -> Result<(), String> {
    let mut writers = BTreeMap::new();
    for (i, transaction) in history.iter().enumerate() {
        for step in &transaction.steps {
            if let Step::Append { key, element } = step {
                writers.insert((*key, *element), i);
            }
        }
    }
    let orders = orders(history, &writers)?;
    let mut graph: DiGraph<Option<usize>, &str> = DiGraph::new();
    let nodes: Vec<_> = (0..history.len()).map(|i| graph.add_node(Some(i))).collect();
    let mut edge = |from: usize, to: usize, why| {
        if from != to {
            graph.update_edge(nodes[from], nodes[to], why);
        }
    };
    for (key, order) in &orders {
        for pair in order.windows(2) {
            edge(writers[&(*key, pair[0])], writers[&(*key, pair[1])], "appended before");
        }
    }
    for (i, transaction) in history.iter().enumerate() {
        for step in &transaction.steps {
            let Step::Read { key, seen: Some(seen) } = step else { continue };
            if let Some(last) = seen.last() {
                edge(writers[&(*key, *last)], i, "was read by");
            }
            // What it appended itself before it looked is no news to it.
            if let Some(next) = orders.get(key).and_then(|order| order.get(seen.len())) {
                edge(i, writers[&(*key, *next)], "didn't see");
            }
        }
    }
    add_time(&mut graph, &nodes, history);
    for component in kosaraju_scc(&graph) {
        let cycle: Vec<_> = component.iter().filter_map(|node| graph[*node]).collect();
        if cycle.len() > 1 {
            let shown: Vec<_> = cycle.iter().take(6).map(|i| &history[*i]).collect();
            return Err(format!("no order explains {} transactions, among them {shown:#?}", cycle.len()));
        }
    }
    Ok(())
}

/// The order in which each list was appended to: the longest read of it, of which every other is a beginning.
fn orders(
    history: &[Transaction],
    writers: &BTreeMap<(i64, i64), usize>,
) -> Result<BTreeMap<i64, Vec<i64>>, String> {
    let mut orders = BTreeMap::<i64, &Vec<i64>>::new();
    let reads = || {
        history.iter().flat_map(|transaction| &transaction.steps).filter_map(|step| match step {
            Step::Read { key, seen: Some(seen) } => Some((*key, seen)),
            _ => None,
        })
    };
    for (key, seen) in reads() {
        let longest = orders.entry(key).or_insert(seen);
        if seen.len() > longest.len() {
            *longest = seen;
        }
    }
    for (key, seen) in reads() {
        if !orders[&key].starts_with(seen) {
            return Err(format!("list {key} was seen as {seen:?} and as {:?}", orders[&key]));
        }
        if let Some(unknown) = seen.iter().find(|element| !writers.contains_key(&(key, **element))) {
            return Err(format!("list {key} has {unknown}, which nobody appended"));
        }
    }
    for (key, order) in &orders {
        let mut sorted = (*order).clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("list {key} has {} twice: the write was done again", twice[0]));
        }
    }
    // The last transaction has read every list after all others had ended.
    let last = history.last().map(|last| last.steps.as_slice()).unwrap_or_default();
    let finally: BTreeMap<_, _> = last
        .iter()
        .filter_map(|step| match step {
            Step::Read { key, seen } => Some((*key, seen.as_ref()?)),
            Step::Append { .. } => None,
        })
        .collect();
    for ((key, element), writer) in writers {
        let there = finally.get(key).is_some_and(|list| list.contains(element));
        if history[*writer].ended.is_some() && !there {
            return Err(format!("{element} was appended to list {key}, acknowledged, and is lost"));
        }
    }
    Ok(orders.into_iter().map(|(key, order)| (key, order.clone())).collect())
}

/// Edges of time, by a chain of moments: who had ended before another began comes before it.
fn add_time(graph: &mut DiGraph<Option<usize>, &str>, nodes: &[NodeIndex], history: &[Transaction]) {
    // At the same moment a beginning comes first, so that nothing is said of the two.
    let mut moments: Vec<(Instant, bool, usize)> = vec![];
    for (i, transaction) in history.iter().enumerate() {
        moments.push((transaction.began, false, i));
        moments.extend(transaction.ended.map(|ended| (ended, true, i)));
    }
    moments.sort_unstable();
    let mut chain = graph.add_node(None);
    for (_, ends, i) in moments {
        if ends {
            let next = graph.add_node(None);
            graph.add_edge(chain, next, "before");
            graph.add_edge(nodes[i], next, "had ended");
            chain = next;
        } else {
            graph.add_edge(chain, nodes[i], "began after");
        }
    }
}

/// A history by hand: steps, and from when to when, in arbitrary units.
type ByHand<'a> = (&'a [Step], u64, Option<u64>);

#[cfg(test)]
fn by_hand(told: &[ByHand<'_>]) -> Vec<Transaction> {
    let start = Instant::now();
    let at = |time: u64| start + std::time::Duration::from_secs(time);
    told.iter()
        .map(|(steps, began, ended)| Transaction {
            steps: steps.to_vec(),
            began: at(*began),
            ended: ended.map(at),
        })
        .collect()
}

#[cfg(test)]
fn append(key: i64, element: i64) -> Step {
    Step::Append { key, element }
}

#[cfg(test)]
fn sees(key: i64, seen: &[i64]) -> Step {
    Step::Read { key, seen: Some(seen.to_vec()) }
}

#[test]
fn the_checker_of_lists_knows_right_from_wrong() {
    let judged = |told: &[ByHand<'_>]| check(&by_hand(told));
    // Two at once, each of which may be first; one without an answer, which happened later, or never.
    judged(&[
        (&[append(1, 10), sees(2, &[])], 0, Some(3)),
        (&[append(2, 20), sees(1, &[10])], 1, Some(4)),
        (&[append(1, 30)], 0, None),
        (&[append(1, 40)], 0, None),
        (&[sees(1, &[10]), sees(2, &[20])], 5, Some(6)),
        (&[sees(1, &[10, 30]), sees(2, &[20])], 7, Some(8)),
    ])
    .unwrap();
    // As long as a story may be: what looks for cycles needs no deeper stack for it.
    let mut long = vec![];
    for i in 0..40_000 {
        let time = u64::try_from(i).unwrap() * 2;
        long.push((vec![append(i / 100, i)], time, Some(time + 1)));
    }
    let lists = (0..400).map(|key| sees(key, &(key * 100..(key + 1) * 100).collect::<Vec<_>>()));
    long.push((lists.collect(), 90_000, Some(90_001)));
    let long: Vec<ByHand<'_>> = long.iter().map(|(steps, from, to)| (&steps[..], *from, *to)).collect();
    judged(&long).unwrap();
    let wrong: &[(&str, &[ByHand<'_>])] = &[
        ("is lost", &[(&[append(1, 10)], 0, Some(1)), (&[sees(1, &[])], 2, Some(3))]),
        (
            "no order",
            &[
                // A stale read: it began after the append had ended.
                (&[append(1, 10)], 0, Some(1)),
                (&[sees(1, &[])], 2, Some(3)),
                (&[sees(1, &[10])], 4, Some(5)),
            ],
        ),
        (
            "no order",
            &[
                // Write skew: neither saw the other.
                (&[sees(1, &[]), append(2, 20)], 0, Some(5)),
                (&[sees(2, &[]), append(1, 10)], 0, Some(5)),
                (&[sees(1, &[10]), sees(2, &[20])], 6, Some(7)),
            ],
        ),
        (
            "no order",
            &[
                // A read that saw half of a transaction.
                (&[append(1, 10), append(2, 20)], 0, Some(9)),
                (&[sees(1, &[10]), sees(2, &[])], 0, Some(9)),
                (&[sees(1, &[10]), sees(2, &[20])], 10, Some(11)),
            ],
        ),
        (
            "was seen as",
            &[
                (&[append(1, 10), append(1, 11)], 0, Some(9)),
                (&[sees(1, &[11])], 0, Some(9)),
                (&[sees(1, &[10, 11])], 10, Some(11)),
            ],
        ),
        ("twice", &[(&[append(1, 10)], 0, Some(1)), (&[sees(1, &[10, 10])], 2, Some(3))]),
        ("nobody", &[(&[sees(1, &[10])], 2, Some(3))]),
    ];
    for (expected, told) in wrong {
        let why = judged(told).unwrap_err();
        assert!(why.contains(expected), "{expected}: {why}");
    }
}
