//! Hands by chance on a living cluster: users' SQL over HTTP, a person's `sqlite3` beside a machine's file, locks held, masters
//! killed. After each step every operation of the server still works, replicas come to be the same, and what anybody was told is
//! done is everywhere, or in the report of the machine that had to give it up. Longer, and by another
//! seed each time: `TANIST_ROUNDS=500` steps; the same again: `TANIST_SEED=n`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use tanist_api::{Access, NewCommand, NodeSpec, Statement};
use tanist_client::{ChangeOptions, Client, Error};
use tanist_sql_generator::Generator;

use crate::{
    cluster::{Cluster, Layout, read},
    files::shell,
    nemesis::{Dice, number},
    outside::Shell,
    workload::{Workload, create_ledger, execute},
};

/// What a person may do to the master's file: it is everywhere afterwards. `@` stands for the step's number.
const HIS: &[&str] = &[
    "",
    "UPDATE hand SET text = text || '.' WHERE n % 3 = @ % 3",
    "CREATE TABLE made_@(a PRIMARY KEY, b); INSERT INTO made_@ VALUES (1, randomblob(20000))",
    "CREATE INDEX IF NOT EXISTS hand_text ON hand(text); REINDEX",
    "DROP INDEX IF EXISTS hand_text; ALTER TABLE hand ADD COLUMN more_@",
    "ANALYZE; PRAGMA user_version = @; PRAGMA application_id = @",
    "VACUUM",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "UPDATE tanist_config SET value = '@' WHERE key = 'hands'",
    "INSERT INTO tanist_nodes(name) VALUES ('hand-@'); DELETE FROM tanist_nodes WHERE name = 'hand-@'",
    "DELETE FROM tanist_config_history",
    "CREATE VIEW IF NOT EXISTS seen AS SELECT * FROM hand; CREATE TABLE IF NOT EXISTS events(a); CREATE TABLE IF NOT EXISTS config(a)",
    "CREATE TRIGGER IF NOT EXISTS echo AFTER INSERT ON hand BEGIN UPDATE hand SET text = new.text WHERE n = new.n; END",
];

/// What he may not: it is on no other machine, and his machine gives it up with a report.
const OURS: &[&str] = &[
    "DELETE FROM tanist_members",
    "UPDATE tanist_position SET txid = txid + 3",
    "DROP TABLE tanist_events; CREATE TABLE tanist_events(id)",
    "DROP TRIGGER tanist_config_changed",
    "CREATE TRIGGER sly AFTER INSERT ON tanist_terms BEGIN DELETE FROM hand; END",
    "CREATE TABLE seen_@(event REFERENCES tanist_events(nothing))",
    "DELETE FROM tanist_terms",
    "INSERT INTO tanist_tokens (name, role, hash) VALUES ('own-@', 'admin', randomblob(32))",
    "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'tanist_events'",
    "INSERT INTO tanist_schema (version) VALUES (400 + @)",
    "UPDATE sqlite_dbpage SET data = randomblob(4096) WHERE pgno = (SELECT rootpage FROM sqlite_schema WHERE name = 'hand')",
];

/// The seed of every day.
const EVERYDAY: u64 = 28_191_358;

struct Hands {
    cluster: Cluster,
    client: Client,
    dice: Dice,
    users: Generator,
    step: usize,
    /// What a shell was told is committed, and on which machine.
    done: BTreeMap<usize, usize>,
    said: Vec<String>,
}

fn database(cluster: &Cluster, i: usize) -> String {
    cluster.data_dir(i).join("state.db").to_str().unwrap().to_owned()
}

/// Whether a report of this machine holds the row of that step.
fn is_reported(dir: &Path, step: usize) -> bool {
    let marks = [format!("'hand-{step}'"), format!("'hand-{step}.")];
    std::fs::read_dir(dir.join("divergence")).is_ok_and(|reports| {
        reports.flatten().any(|report| {
            let rows = std::fs::read_to_string(report.path().join("rows.sql")).unwrap_or_default();
            marks.iter().any(|mark| rows.contains(mark))
        })
    })
}

fn reports(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("divergence")).map_or(0, Iterator::count)
}

impl Hands {
    fn say(&mut self, what: String) {
        self.said.push(format!("{}: {what}", self.step));
    }

    /// A row by hand, with `sql` before it, in the file of machine `i`; whether the shell got it in.
    fn write_by_hand(&mut self, i: usize, sql: &str, timeout_ms: u32) -> bool {
        let step = self.step;
        let sql = sql.replace('@', &step.to_string());
        let script = format!("{sql}; INSERT INTO hand(n, text) VALUES ({step}, 'hand-{step}')");
        let (ok, text) = shell(&[
            "-bail",
            "-cmd",
            &format!(".timeout {timeout_ms}"),
            &database(&self.cluster, i),
            &script,
        ])
        .unwrap();
        self.say(format!(
            "pc-{} by hand: {sql}: {} {}",
            i + 1,
            if ok { "done" } else { "refused" },
            text.trim()
        ));
        if ok {
            self.done.insert(step, i);
        }
        ok
    }

    async fn user(&mut self) {
        for _ in 0..4 {
            let statement = self.users.next_statement();
            let request = execute(vec![Statement::with(statement.sql.clone(), statement.params.clone())]);
            match self.client.execute(request).await {
                Ok(_) => self.users.accepted(true),
                Err(Error::Problem(problem)) => {
                    assert!(problem.status < 500, "{}: {problem:?}", statement.sql);
                    self.users.accepted(false);
                }
                Err(error) => panic!("{}: {error}", statement.sql),
            }
        }
    }

    /// Holds the write lock for a while, and commits or not.
    async fn hold(&mut self, i: usize, commit: bool, time: Duration) {
        let step = self.step;
        let Some(mut held) = Shell::open(&self.cluster.data_dir(i)) else { return };
        held.say(&format!(
            "BEGIN IMMEDIATE; INSERT INTO hand(n, text) VALUES ({step}, 'hand-{step}'); SELECT 'held';"
        ));
        tokio::time::sleep(time).await;
        held.say(if commit { "COMMIT;" } else { "ROLLBACK;" });
        let said = held.close();
        let got = said.contains("held") && !said.contains("Error") && commit;
        self.say(format!(
            "pc-{} held the lock for {time:?}: {}",
            i + 1,
            if got { "committed" } else { "nothing" }
        ));
        if got {
            self.done.insert(step, i);
        }
    }

    async fn take_step(&mut self) {
        let master = self.cluster.wait_master().await;
        let backup = (master + 1 + self.dice.roll(2)) % 3;
        match self.dice.roll(20) {
            0..6 => {
                let sql = HIS[self.dice.roll(HIS.len())];
                let timeout = [0, 5000][self.dice.roll(2)];
                self.write_by_hand(master, sql, timeout);
            }
            6..10 => self.user().await,
            10 | 11 => {
                let sql = HIS[self.dice.roll(HIS.len())];
                let got_in = self.write_by_hand(backup, sql, 100);
                // Unless it has become the master meanwhile.
                let now = self.cluster.wait_master().await;
                assert!(!got_in || now != master, "a backup takes no outside write\n{}", self.story());
            }
            12 => {
                let (commit, time) =
                    (self.dice.roll(2) == 0, Duration::from_millis(300 + 250 * self.dice.roll(4) as u64));
                self.hold(master, commit, time).await;
            }
            13 => {
                self.hold(master, true, Duration::from_millis(3500)).await;
            }
            14 | 15 => self.touch_ours(master).await,
            16 => {
                self.write_by_hand(master, "", 5000);
                let heir = self.cluster.machines[backup].id.clone();
                // It may have fallen behind just now.
                let handed = self.client.promote(&heir).await;
                self.say(format!("promote {heir}: {handed:?}"));
            }
            17 | 18 => {
                self.write_by_hand(master, HIS[self.step % 3], 5000);
                self.cluster.kill(master);
                self.say(format!("pc-{} killed", master + 1));
                if self.dice.roll(2) == 0 {
                    self.cluster.wait_master().await;
                }
                self.cluster.start_machine(master);
            }
            _ => {
                self.cluster.terminate(backup);
                self.say(format!("pc-{} stopped", backup + 1));
                self.cluster.start_machine(backup);
            }
        }
    }

    async fn touch_ours(&mut self, master: usize) {
        let (dir, sql) = (self.cluster.data_dir(master), OURS[self.dice.roll(OURS.len())]);
        // There is somebody to hand over to.
        self.cluster.wait_both_keep_up().await;
        let before = reports(&dir);
        if !self.write_by_hand(master, sql, 5000) {
            return; // it met a lock, or SQLite itself refuses
        }
        let story = self.story();
        self.cluster
            .wait(&format!("the machine hands over and reports\n{story}"), || async {
                let now = self.cluster.master().await?;
                (now != master && reports(&dir) > before).then_some(())
            })
            .await;
    }

    /// All that the server does for itself and for operators.
    async fn every_operation_works(&self) {
        let (client, step) = (&self.client, self.step);
        let fail =
            |what: &str, error: Error| panic!("{what}: {error}\n{}\n{}", self.story(), self.cluster.logs());
        let options = ChangeOptions::default();
        if let Err(error) = client.set_config("hands", &json!(step), &options).await {
            fail("set a key", error);
        }
        if let Err(error) = client.set_node("n1", &NodeSpec::default(), &options).await {
            fail("set a node", error);
        }
        let command =
            NewCommand { name: "step".to_owned(), arguments: json!(step), nodes: vec!["n1".to_owned()] };
        if let Err(error) = client.send_command(&command, &options).await {
            fail("send a command", error);
        }
        let name = format!("t{step}");
        if let Err(error) = client.make_token(&name, Access::Read).await {
            fail("make a token", error);
        }
        if let Err(error) = client.revoke_token(&name).await {
            fail("revoke a token", error);
        }
        if let Err(error) = client.remove_node("n1", &options).await {
            fail("remove a node", error);
        }
    }

    /// Replicas are the same, and what was told is somewhere.
    async fn check(&mut self) {
        self.cluster.wait_both_keep_up().await;
        self.cluster.assert_identical().await;
        for (step, machine) in &self.done {
            let sql = format!("SELECT count(*) FROM hand WHERE n = {step}");
            let here = read::<i64>(&self.cluster.data_dir(0), &sql) == 1;
            assert!(
                here || is_reported(&self.cluster.data_dir(*machine), *step),
                "the row of step {step}, by hand on pc-{}, is nowhere\n{}\n{}",
                machine + 1,
                self.story(),
                self.cluster.logs()
            );
        }
        self.cluster.assert_no_panic();
    }

    /// What clients were told is on every machine.
    fn has_all(&self, acknowledged: &BTreeSet<String>) {
        for i in 0..3 {
            let found: String = read(
                &self.cluster.data_dir(i),
                "SELECT coalesce(group_concat(entry, char(10)), '') FROM ledger",
            );
            let found: BTreeSet<_> = found.lines().collect();
            let lost: Vec<_> =
                acknowledged.iter().filter(|entry| !found.contains(entry.as_str())).take(5).collect();
            assert!(lost.is_empty(), "acknowledged, and not on pc-{}: {lost:?}\n{}", i + 1, self.story());
        }
    }

    fn story(&self) -> String {
        self.said[self.said.len().saturating_sub(30)..].join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_hands_do_to_a_living_cluster_nothing_told_is_lost_and_everything_works() {
    if Command::new("sqlite3").arg("-version").output().is_err() {
        println!("sqlite3 isn't installed: left out");
        return;
    }
    // Every day the same short story; another one each time in longer runs.
    let long = number("TANIST_ROUNDS");
    let steps = long.unwrap_or(14);
    let extra = "[store]\nlock_patience = \"2s\"\n[timing]\nlease = \"1s\"\n".to_owned();
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(3) }).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let create = "CREATE TABLE hand(n INTEGER PRIMARY KEY, text TEXT)";
    client.execute(execute(vec![Statement::new(create)])).await.unwrap();
    let everyday = long.is_none() && number("TANIST_SEED").is_none();
    let dice = if everyday { Dice(EVERYDAY) } else { Dice::thrown() };
    let users = Generator::new(dice.0);
    let mut hands = Hands { cluster, client, dice, users, step: 0, done: BTreeMap::new(), said: vec![] };
    let begun = Instant::now();
    let mut acknowledged = BTreeSet::new();
    let mut workload = Workload::start(&hands.client, 2, "w0");
    let steps = usize::try_from(steps).unwrap();
    for step in 1..=steps {
        hands.step = step;
        hands.take_step().await;
        hands.cluster.wait_master().await;
        hands.every_operation_works().await;
        if step % 3 == 0 || step == steps {
            acknowledged.extend(workload.finish().await.acknowledged);
            hands.check().await;
            hands.has_all(&acknowledged);
            workload = Workload::start(&hands.client, 2, &format!("w{step}"));
        }
    }
    workload.finish().await;
    println!(
        "{steps} steps in {:?}, {} writes by clients\n{}",
        begun.elapsed(),
        acknowledged.len(),
        hands.story()
    );
}
