//! Expensive SQL, made at random: time and memory hold, others are served meanwhile, nobody loses the throne or ends.
//!
//! `TANIST_SEED=n` repeats a run; `TANIST_EXPENSIVE_MINUTES=30` runs for longer, in a control group of 1 GiB where root
//! may make one.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tanist_api::{QueryRequest, Statement, code};
use tanist_client::{Client, Consistency, Error};

use crate::{
    cluster::{Cluster, Layout},
    workload::{create_ledger, execute},
};

const STATEMENT_TIME: Duration = Duration::from_secs(1);
/// A statement's answer, behind those of the other two clients that send such.
const LATEST: Duration = Duration::from_secs(15);
/// What everybody else waits at the longest for an ordinary write or read: two expensive ones are before it, and the computer
/// is busy.
const OTHERS_LATEST: Duration = Duration::from_secs(15);
const SQL_MEMORY_MIB: u64 = 128;
const SQL_TEMP_MIB: u64 = 256;
/// The process as a whole: what SQL may have, each thread's own part (5 of 8 MiB and a page cache), answers (64 MiB), and what
/// it has when it is idle.
const MOST_MIB: u64 = SQL_MEMORY_MIB + 5 * 16 + 64 + 128;

/// Small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % sides.max(1) as u64).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// Values that are large, or that make others large.
fn value(dice: &mut Dice) -> String {
    let size = *dice.of(&[10, 1000, 50_000, 1_000_000, 4_000_000, 20_000_000, 60_000_000]);
    match dice.roll(16) {
        0 => format!("zeroblob({size})"),
        1 => format!("zeroblob({size}) || x'01'"),
        2 => format!("printf('%.{size}c', 'a')"),
        3 => format!("printf('%.{size}c', 'a') || 'b'"),
        4 => format!("randomblob({size})"),
        5 => format!("'%' || printf('%.{}c', 'a') || 'b%'", size.min(49_000)),
        6 => format!("replace(printf('%.{}c', 'a'), 'a', 'äb')", size.min(20_000_000)),
        7 => format!("hex(zeroblob({size}))"),
        8 => format!("'[' || replace(printf('%.{}c', '1'), '1', '1,') || '1]'", size.min(4_000_000)),
        9 => {
            "replace(printf('%.900c', 'x'), 'x', '[') || replace(printf('%.900c', 'x'), 'x', ']')".to_owned()
        }
        10 => format!("'%' || replace(printf('%.{}c', 'x'), 'x', '_a%') || 'b'", size.min(15_000)),
        11 => format!("'*' || replace(printf('%.{}c', 'x'), 'x', '[^b]') || 'c'", size.min(10_000)),
        12 => size.to_string(),
        13 => format!("-{size}"),
        14 => "NULL".to_owned(),
        _ => format!("'%.{size}d %*.*f %s'"),
    }
}

/// A call of one of SQLite's functions.
fn call(dice: &mut Dice, functions: &[(String, i64)]) -> String {
    let (name, count) = dice.of(functions).clone();
    let count = usize::try_from(count).unwrap_or_else(|_| *dice.of(&[1, 2, 3, 4, 40]));
    let arguments: Vec<_> = (0..count).map(|_| value(dice)).collect();
    match name.as_str() {
        "like" if count == 2 && dice.roll(2) == 0 => format!("({} LIKE {})", arguments[1], arguments[0]),
        "glob" if count == 2 && dice.roll(2) == 0 => format!("({} GLOB {})", arguments[1], arguments[0]),
        _ => format!("\"{name}\"({})", arguments.join(", ")),
    }
}

/// What is looked for is nearly everywhere: functions that compare at each place take longest over that.
fn nearly(dice: &mut Dice) -> String {
    let size = *dice.of(&[1_000_000, 20_000_000, 40_000_000]);
    let part = *dice.of(&[10_000, 40_000, 2_000_000]).min(&(size / 2));
    let pattern = part.min(40_000);
    let call = match dice.roll(6) {
        0 => format!("instr(a, substr(a, 1, {part}) || 'b')"),
        1 => format!("replace(a, substr(a, 1, {part}) || 'b', 'c')"),
        2 => format!("a LIKE '%' || substr(a, 1, {pattern}) || 'b%'"),
        3 => format!("a GLOB '*' || substr(a, 1, {pattern}) || 'b*'"),
        4 => format!("trim(a, printf('%.{part}c', 'b') || 'a')"),
        _ => format!(
            "(SELECT json_patch(o, replace(o, 'k', 'j')) FROM (SELECT json_group_object('k' || i, 1) AS o FROM \
             (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {pattern}) SELECT i FROM n)))"
        ),
    };
    format!("octet_length({call})")
}

const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000000)";

/// A statement, and whether it writes.
fn statement(dice: &mut Dice, functions: &[(String, i64)]) -> (String, bool) {
    let count = *dice.of(&[10, 1000, 100_000, 1_000_000_000]);
    let number = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count})");
    let size = *dice.of(&[100, 10_000, 1_000_000]);
    match dice.roll(24) {
        20..=22 => {
            let call = nearly(dice);
            (format!("SELECT {call} FROM (SELECT printf('%.40000000c', 'a') AS a)"), false)
        }
        23 => {
            let call = nearly(dice);
            (format!("INSERT INTO heap SELECT {call} FROM (SELECT printf('%.40000000c', 'a') AS a)"), true)
        }
        0..=5 => (format!("SELECT octet_length({})", call(dice, functions)), false),
        6 => {
            let all: Vec<_> = (0..5).map(|_| format!("octet_length({})", call(dice, functions))).collect();
            (format!("SELECT {}", all.join(", ")), false)
        }
        7 => (format!("{number} SELECT count(*) FROM n WHERE {} IS i", call(dice, functions)), false),
        8 => (format!("SELECT octet_length(max({}))", vec![value(dice); 20].join(", ")), false),
        9 => (
            format!(
                "{number} SELECT count(*) FROM (SELECT randomblob({size}) AS b FROM n ORDER BY b LIMIT -1 OFFSET 1)"
            ),
            false,
        ),
        10 => (format!("{number} SELECT count(DISTINCT randomblob({size})) FROM n"), false),
        11 => (format!("{number} SELECT octet_length(group_concat(hex(randomblob({size})))) FROM n"), false),
        12 => (
            format!(
                "{number} SELECT max(t) FROM (SELECT octet_length(group_concat(i) OVER (ORDER BY i ROWS {size} PRECEDING)) AS t \
                 FROM n)"
            ),
            false,
        ),
        13 => (format!("{NUMBERS} SELECT count(*) FROM n AS a, n AS b"), false),
        14 => (
            format!(
                "SELECT octet_length(json_group_array(value)), octet_length(json_patch({0}, {0})) FROM json_each({0})",
                value(dice)
            ),
            false,
        ),
        15 => (format!("SELECT {}1{}", "(".repeat(dice.roll(1200)), ")".repeat(600)), false),
        16 => (vec!["SELECT 1"; 1 + dice.roll(800)].join(" UNION ALL "), false),
        17 => (format!("INSERT INTO heap SELECT {}", call(dice, functions)), true),
        18 => (format!("{number} INSERT INTO heap SELECT randomblob({size}) FROM n"), true),
        _ => (
            format!(
                "UPDATE heap SET v = {} WHERE {} IS NOT NULL",
                call(dice, functions),
                call(dice, functions)
            ),
            true,
        ),
    }
}

/// What an expensive statement may be told.
const TOLD: [&str; 9] = [
    code::SQL_ERROR,
    code::CONSTRAINT,
    code::SQL_DENIED,
    code::STATEMENT_TIMEOUT,
    code::TRANSACTION_TOO_LARGE,
    code::SQL_MEMORY,
    code::RESULT_TOO_LARGE,
    code::OVERLOADED,
    code::BAD_REQUEST,
];

/// What has gone wrong.
#[derive(Default, Clone)]
struct Faults(Arc<Mutex<Vec<String>>>);

impl Faults {
    fn add(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

fn shortened(sql: &str) -> String {
    sql.chars().take(400).collect()
}

/// Sends one statement; how it was answered.
async fn send(client: &Client, sql: &str, writes: bool, faults: &Faults) -> String {
    let began = Instant::now();
    let statement = Statement::new(sql);
    let answered = if writes {
        client.execute(execute(vec![statement])).await.map(drop)
    } else {
        let query = QueryRequest { statements: vec![statement] };
        client.query(query, Consistency::Local, None).await.map(drop)
    };
    let took = began.elapsed();
    if took > LATEST {
        faults.add(format!("answered after {took:.1?}: {}", shortened(sql)));
    }
    match answered {
        Ok(()) => "ok".to_owned(),
        Err(Error::Problem(problem)) if TOLD.contains(&problem.code.as_str()) => problem.code.clone(),
        Err(error) => {
            faults.add(format!("answered {error} after {took:.1?}: {}", shortened(sql)));
            "fault".to_owned()
        }
    }
}

/// Ordinary clients meanwhile: the longest that one has waited.
async fn ordinary(client: Client, stop: Arc<AtomicBool>, faults: Faults) -> (Duration, usize) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !stop.load(Relaxed) {
        let began = Instant::now();
        let insert = Statement::with("INSERT INTO ledger VALUES (?)", vec![json!(format!("entry {count}"))]);
        if let Err(error) = client.execute(execute(vec![insert])).await {
            faults.add(format!("an ordinary write: {error}"));
        }
        let read = QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] };
        if let Err(error) = client.query(read, Consistency::Local, None).await {
            faults.add(format!("an ordinary read: {error}"));
        }
        longest = longest.max(began.elapsed());
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (longest, count)
}

/// What the machine says that SQL takes, looked at again and again: no more than it may.
async fn room(ip: String, stop: Arc<AtomicBool>, faults: Faults) {
    let limits =
        [("tanist_sql_memory_bytes", SQL_MEMORY_MIB << 20), ("tanist_sql_temp_bytes", SQL_TEMP_MIB << 20)];
    while !stop.load(Relaxed) {
        let text = crate::http_input::raw(&ip, crate::http_input::request("GET", "/metrics", b"")).await.1;
        for (name, limit) in limits {
            if metric(&text, name) > limit {
                faults.add(format!("{name}: {} of {limit}", metric(&text, name)));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `VmHWM`: the most memory that a process ever had, in MiB.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A control group that ends with the test.
struct Group(PathBuf);

impl Group {
    /// Puts the process into a group of its own with so much memory, if this computer lets it.
    fn of(pid: u32, bytes: u64) -> Option<Group> {
        let (v2, v1) = (PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/sys/fs/cgroup/memory"));
        let (root, limit) = match v1.join("memory.limit_in_bytes").exists() {
            true => (v1, "memory.limit_in_bytes"),
            false => (v2, "memory.max"),
        };
        let group = Group(root.join(format!("tanist-test-{pid}")));
        std::fs::create_dir(&group.0).ok()?;
        std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        std::fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may just be ending.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

async fn functions(client: &Client) -> Vec<(String, i64)> {
    let list = Statement::new("SELECT DISTINCT name, narg FROM pragma_function_list");
    let answer =
        client.query(QueryRequest { statements: vec![list] }, Consistency::Local, None).await.unwrap();
    let rows = &answer.results[0].rows;
    let functions: Vec<_> = rows
        .iter()
        .map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_i64().unwrap()))
        // What looks like nothing to call.
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    assert!(functions.len() > 100, "{functions:?}");
    functions
}

fn metric(text: &str, name: &str) -> u64 {
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().unwrap()
}

pub async fn metrics(cluster: &Cluster, i: usize) -> String {
    crate::http_input::raw(&cluster.machines[i].ip, crate::http_input::request("GET", "/metrics", b""))
        .await
        .1
}

#[tokio::test(flavor = "multi_thread")]
async fn expensive_sql_holds_its_limits_and_hurts_nobody_else() {
    let minutes: Option<u64> =
        std::env::var("TANIST_EXPENSIVE_MINUTES").ok().map(|text| text.parse().unwrap());
    let time = minutes.map_or(Duration::from_secs(15), |minutes| Duration::from_secs(60 * minutes));
    let seed: u64 = match std::env::var("TANIST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => u64::from(std::process::id()),
    };
    println!("TANIST_SEED={seed}");
    let extra = format!(
        "[limits]\nstatement_time = \"{}ms\"\nsql_memory = \"{SQL_MEMORY_MIB}MiB\"\nsql_temp = \"{SQL_TEMP_MIB}MiB\"\n",
        STATEMENT_TIME.as_millis()
    );
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client.execute(execute(vec![Statement::new("CREATE TABLE heap(v)")])).await.unwrap();
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    let term = cluster.view(master).await.unwrap().term;
    let functions = Arc::new(functions(&client).await);
    let groups: Vec<_> = match minutes {
        Some(_) => (0..3).map(|i| Group::of(cluster.pid_of(i), 1 << 30)).collect(),
        None => vec![],
    };
    if groups.iter().any(Option::is_none) {
        eprintln!("this computer lets nobody make control groups: memory is only measured");
    }

    let (faults, stop) = (Faults::default(), Arc::new(AtomicBool::new(false)));
    let others = tokio::spawn(ordinary(client.clone(), Arc::clone(&stop), faults.clone()));
    let ip = cluster.machines[master].ip.clone();
    let sampler = tokio::spawn(room(ip, Arc::clone(&stop), faults.clone()));
    let until = Instant::now() + time;
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            let (faults, functions) = (faults.clone(), Arc::clone(&functions));
            // Two read from the master, whose readers others need as well; one writes.
            let (client, to_master) = (client.clone(), cluster.client_of(master));
            let mut dice = Dice(((seed + 1) * 64 + sender).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            tokio::spawn(async move {
                let mut answers: BTreeMap<String, usize> = BTreeMap::new();
                while Instant::now() < until {
                    let (sql, writes) = statement(&mut dice, &functions);
                    if writes != (sender == 2) {
                        continue;
                    }
                    let client = if writes { &client } else { &to_master };
                    *answers.entry(send(client, &sql, writes, &faults).await).or_default() += 1;
                }
                answers
            })
        })
        .collect();
    for sender in senders {
        println!("{:?}", sender.await.unwrap());
    }
    stop.store(true, Relaxed);
    let (longest, count) = others.await.unwrap();
    sampler.await.unwrap();
    println!("{count} ordinary writes and reads, the longest took {longest:.1?}");
    for i in 0..3 {
        let most = most_memory(cluster.pid_of(i));
        println!("{}: {most} MiB at most", cluster.machines[i].id);
        if most > MOST_MIB {
            faults.add(format!("{} had {most} MiB, {MOST_MIB} are stated", cluster.machines[i].id));
        }
        let child = cluster.machines[i].child.as_mut().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            faults.add(format!("{} has ended: {status}", cluster.machines[i].id));
            continue;
        }
        let metrics = metrics(&cluster, i).await;
        for name in ["tanist_readers_replaced_total", "tanist_readers_stuck", "tanist_store_stuck"] {
            if metric(&metrics, name) != 0 {
                faults.add(format!("{}: {name} is {}", cluster.machines[i].id, metric(&metrics, name)));
            }
        }
    }
    if longest > OTHERS_LATEST {
        faults.add(format!("an ordinary client waited for {longest:.1?}"));
    }
    let view = cluster.view(master).await.unwrap();
    if (view.term, view.master.as_ref()) != (term, Some(&cluster.machines[master].id)) {
        faults.add(format!("the master has changed: term {} after {term}, {:?}", view.term, view.master));
    }
    let found = faults.0.lock().unwrap().join("\n");
    assert!(found.is_empty(), "TANIST_SEED={seed}\n{found}\n{}", cluster.logs());
    cluster.assert_no_panic();
    cluster.assert_identical().await;
    drop(cluster);
    drop(groups);
}
