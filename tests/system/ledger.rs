//! A workload in another language: a program that writes without pause and is asked what it has seen.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use crate::{cluster::Cluster, failover::moment};

/// The longest time that the program may take to say something.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program of another language that writes and reads, and answers when it is asked.
pub struct Ledger {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Ledger {
    pub fn start(command: &mut Command) -> Ledger {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ledger { input: child.stdin.take().unwrap(), child, lines }
    }

    /// The numbers behind the answer to a command.
    pub fn ask(&mut self, command: &str, answer: &str) -> Vec<u64> {
        writeln!(self.input, "{command}").expect("the program runs: no exception has ended it");
        self.hear(answer)
    }

    /// The numbers behind what it says next.
    pub fn hear(&mut self, answer: &str) -> Vec<u64> {
        let line = self.lines.recv_timeout(PATIENCE).expect("the program answers: no exception has ended it");
        let numbers =
            line.strip_prefix(answer).unwrap_or_else(|| panic!("found {line:?}, expected {answer:?}"));
        numbers.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// Writes so far, and the longest pause since this was asked last.
    pub fn state(&mut self) -> (u64, Duration) {
        let numbers = self.ask("state", "state ");
        (numbers[0], Duration::from_millis(numbers[1]))
    }

    /// Waits until so many further writes are acknowledged; the longest pause meanwhile.
    pub async fn wait_for(&mut self, more: u64) -> Duration {
        let (mut count, mut longest) = self.state();
        let target = count + more;
        let until = std::time::Instant::now() + PATIENCE;
        while count < target {
            assert!(std::time::Instant::now() < until, "no {more} further writes in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let (now, pause) = self.state();
            (count, longest) = (now, longest.max(pause));
        }
        longest
    }

    /// Kills masters under it, so many, each after so many writes; the longest pause at each, the shortest first.
    pub async fn kill_masters(&mut self, cluster: &mut Cluster, kills: usize, writes: u64) -> Vec<Duration> {
        let mut pauses = vec![];
        for _ in 0..kills {
            self.wait_for(writes).await;
            tokio::time::sleep(moment(300)).await;
            let master = cluster.wait_master().await;
            self.state();
            cluster.kill(master);
            pauses.push(self.wait_for(writes).await);
            cluster.start_machine(master);
            cluster.wait_back(master).await;
        }
        pauses.sort();
        pauses
    }

    /// Ends it: the replicas are identical and each has what was acknowledged once. How much that was.
    pub async fn finish_on(self, cluster: &Cluster) -> u64 {
        let counts = self.stop();
        cluster.assert_identical().await;
        (0..cluster.machines.len()).for_each(|i| assert_exactly_once(&cluster.data_dir(i), &counts));
        cluster.assert_no_panic();
        counts.iter().sum()
    }

    /// How many entries each worker has written.
    fn stop(mut self) -> Vec<u64> {
        let counts = self.ask("stop", "done");
        assert!(self.child.wait().unwrap().success(), "the program ends well");
        counts
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Worker `w` has written `w/0`, `w/1`, ... and each stands there exactly once, and nothing else.
fn assert_exactly_once(dir: &Path, counts: &[u64]) {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(dir.join("state.db"), flags).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut statement = connection.prepare("SELECT entry, count(*) FROM ledger GROUP BY entry").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let found: BTreeMap<String, i64> = rows.collect::<Result<_, _>>().unwrap();
    let expected: BTreeMap<String, i64> = counts
        .iter()
        .enumerate()
        .flat_map(|(worker, count)| (0..*count).map(move |n| (format!("{worker}/{n}"), 1)))
        .collect();
    let wrong: Vec<_> = expected
        .keys()
        .chain(found.keys())
        .filter(|entry| expected.get(*entry) != found.get(*entry))
        .take(5)
        .collect();
    assert!(wrong.is_empty(), "lost, twice or invented in {}: {wrong:?} ...", dir.display());
}
