//! What a person with the stock `sqlite3` does to the file of a living machine: he writes at any rate, holds locks, breaks
//! things. Nothing that was acknowledged is lost, no process ends, and replicas are the same at the end.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use tanist_api::{QueryRequest, Statement, code};
use tanist_client::{Consistency, Error};

use crate::{
    cluster::{Cluster, Layout, read},
    files::shell,
    http_input::{raw, request},
    workload::{Workload, create_ledger, execute},
};

/// A shell that stays open, to hold a transaction.
pub struct Shell {
    child: Child,
    stdin: ChildStdin,
}

impl Shell {
    /// On the database in `dir`; `None` where it isn't installed.
    pub fn open(dir: &Path) -> Option<Shell> {
        let mut child = Command::new("sqlite3")
            .args(["-cmd", ".timeout 5000"])
            .arg(dir.join("state.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let stdin = child.stdin.take().unwrap();
        Some(Shell { child, stdin })
    }

    pub fn say(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql}").unwrap();
        self.stdin.flush().unwrap();
    }

    /// Ends it with `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it, waits until it has, and tells what it has said.
    pub fn close(self) -> String {
        drop(self.stdin);
        let output = self.child.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

pub fn write_to(dir: &Path, sql: &str) -> Option<(bool, String)> {
    shell(&["-cmd", ".timeout 5000", dir.join("state.db").to_str().unwrap(), sql])
}

fn file(cluster: &Cluster, i: usize) -> String {
    cluster.data_dir(i).join("state.db").to_str().unwrap().to_owned()
}

/// Waits until every machine has as many rows.
pub async fn wait_for_rows(cluster: &Cluster, sql: &str, rows: i64) {
    let count = |dir: &Path| {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(dir.join("state.db"), flags).ok()?;
        // The table itself may not have come yet.
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).ok()
    };
    cluster
        .wait(&format!("{rows} by {sql} on all machines"), || async {
            (0..cluster.machines.len()).all(|i| count(&cluster.data_dir(i)) == Some(rows)).then_some(())
        })
        .await;
}

/// Waits until another machine serves, and the one whose database is locked says why it isn't fit.
async fn wait_relieved_of_lock(cluster: &Cluster, master: usize, workload: &Workload) {
    cluster.wait_other_master(master).await;
    workload.wait_for(20).await;
    let id = cluster.machines[master].id.clone();
    let status = cluster.view(cluster.wait_master().await).await.unwrap();
    let shown = status.members.iter().find(|member| member.id == id).unwrap();
    assert!(shown.unhealthy.as_ref().is_some_and(|why| why.contains("write lock")), "{shown:?}");
}

/// The master leaves: in even rounds its throne to the next machine, in odd ones it is restarted.
pub async fn leave(cluster: &mut Cluster, master: usize, round: i64) {
    if round % 2 == 0 {
        let next = cluster.machines[(master + 1) % 3].id.clone();
        cluster.client().promote(&next).await.unwrap();
    } else {
        assert!(cluster.terminate(master).success());
        cluster.start_machine(master);
    }
}

pub fn reports(cluster: &Cluster, i: usize) -> usize {
    std::fs::read_dir(cluster.data_dir(i).join("divergence")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn loop_of_single_updates_beside_clients_ends_with_all_of_them_everywhere() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let create = "CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER); ";
    let first = "INSERT INTO counter VALUES (1, 0)";
    client.execute(execute(vec![Statement::new(create), Statement::new(first)])).await.unwrap();
    let master = cluster.wait_master().await;
    let workload = Workload::start(&client, 2, "w");
    let mut done = 0;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let update = "UPDATE counter SET n = n + 1 WHERE id = 1";
        let Some((ok, text)) = write_to(&cluster.data_dir(master), update) else { return };
        assert!(ok, "{text}");
        done += 1;
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    wait_for_rows(&cluster, "SELECT n FROM counter", done).await;
    let outcome = workload.finish().await;
    assert_eq!(cluster.wait_master().await, master, "nobody was relieved");
    cluster.assert_identical().await;
    (0..3).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
    cluster.assert_no_panic();
    for i in 0..3 {
        assert!(!cluster.log_of(i).contains("scrub: the page is not"), "{}", cluster.log_of(i));
        assert_eq!(reports(&cluster, i), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn script_of_many_single_inserts_ends_with_all_that_the_shell_got_in() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let create = "CREATE TABLE item(id INTEGER PRIMARY KEY, text TEXT)";
    client.execute(execute(vec![Statement::new(create)])).await.unwrap();
    let master = cluster.wait_master().await;
    let workload = Workload::start(&client, 2, "w");
    let count = if std::env::var("TANIST_ROUNDS").is_ok() { 30_000 } else { 3_000 };
    let script = cluster.machines[master].config.with_file_name("inserts.sql");
    let inserts: String = (0..count)
        .map(|n| format!("INSERT INTO item(text) VALUES ('item {n} {}');\n", "x".repeat(n % 90)))
        .collect();
    std::fs::write(&script, inserts).unwrap();
    let mut got_in = 0;
    // As a person types it, who is refused when he meets the lock, and with patience.
    for timeout in ["0", "10000"] {
        let read_script = format!(".read {}", script.display());
        let before = read::<i64>(&cluster.data_dir(master), "SELECT count(*) FROM item");
        let Some((_, text)) =
            shell(&["-cmd", &format!(".timeout {timeout}"), &file(&cluster, master), &read_script])
        else {
            return;
        };
        let refused = text.matches("database is locked").count();
        got_in += i64::try_from(count - refused).unwrap();
        assert_eq!(
            read::<i64>(&cluster.data_dir(master), "SELECT count(*) FROM item") - before,
            i64::try_from(count - refused).unwrap()
        );
        println!("timeout {timeout}: {count} inserts, {refused} refused by the lock");
    }
    wait_for_rows(&cluster, "SELECT count(*) FROM item", got_in).await;
    let outcome = workload.finish().await;
    assert_eq!(cluster.wait_master().await, master, "nobody was relieved");
    cluster.assert_identical().await;
    (0..3).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_held_for_a_while_is_answered_by_name_and_ends_nothing() {
    // However slow the computer is, nobody is relieved meanwhile.
    let layout = Layout { extra: "[store]\nlock_patience = \"10m\"".to_owned(), ..Layout::of(3) };
    let cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let master = cluster.wait_master().await;
    let Some(mut dba) = Shell::open(&cluster.data_dir(master)) else { return };
    dba.say("CREATE TABLE fix(a); BEGIN IMMEDIATE; INSERT INTO fix VALUES ('by hand');");
    let insert = || execute(vec![Statement::new("INSERT INTO ledger VALUES ('waited')")]);
    // Refused by name, once it has lasted.
    let builder = cluster.builder().hosts(&cluster.url(master)).deadline(Duration::from_secs(3));
    let impatient = builder.build().unwrap();
    cluster
        .wait("a write is refused for the lock", || async {
            let error = impatient.execute(insert()).await.err()?.to_string();
            let named = error.contains("sqlite3 (process") && error.contains("write lock");
            named.then_some(())
        })
        .await;
    let url = format!("{}/v1/execute", cluster.url(master));
    let body = json!({ "statements": [{ "sql": "INSERT INTO ledger VALUES ('x')" }] }).to_string();
    let answer = Command::new("curl")
        .args(["-s", "-i", "-m", "20", "-H", "content-type: application/json", "-d", &body, &url])
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout).to_lowercase();
    assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: "), "{answer}");
    assert!(answer.contains(code::DATABASE_LOCKED), "{answer}");
    // Reads go on.
    let count = QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] };
    client.query(count, Consistency::Strong, None).await.unwrap();
    dba.say("COMMIT;");
    dba.close();
    client.execute(insert()).await.unwrap();
    assert_eq!(cluster.wait_master().await, master);
    wait_for_rows(&cluster, "SELECT count(*) FROM fix", 1).await;
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_held_too_long_hands_over_and_what_its_holder_commits_then_is_saved() {
    let layout = Layout { extra: "[store]\nlock_patience = \"2s\"".to_owned(), ..Layout::of(3) };
    let mut cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let create = "CREATE TABLE fix(a)";
    client.execute(execute(vec![Statement::new(create)])).await.unwrap();
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    let Some(mut dba) = Shell::open(&cluster.data_dir(master)) else { return };
    dba.say("BEGIN IMMEDIATE; INSERT INTO fix VALUES ('too late');");
    let workload = Workload::start(&client, 2, "w");
    wait_relieved_of_lock(&cluster, master, &workload).await;
    dba.say("COMMIT;");
    dba.close();
    cluster.wait("it is brought in line", || async { (reports(&cluster, master) == 1).then_some(()) }).await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    (0..3).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
    wait_for_rows(&cluster, "SELECT count(*) FROM fix", 0).await;
    let (ok, sql) = crate::cluster::tanist(&[
        "divergence",
        "export",
        "latest",
        "--dir",
        cluster.data_dir(master).to_str().unwrap(),
    ]);
    assert!(ok == Some(0) && sql.contains("too late"), "{sql}");
    cluster.assert_no_panic();
    assert!(cluster.machines[master].child.as_mut().unwrap().try_wait().unwrap().is_none(), "it still runs");
}

/// A program that locks files for reading while it copies them, say: it lets nobody write as one that holds the write lock.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn read_lock_on_the_shared_memory_takes_the_way_of_a_held_write_lock() {
    let layout = Layout { extra: "[store]\nlock_patience = \"3s\"".to_owned(), ..Layout::of(3) };
    let mut cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.wait_both_keep_up().await;
    let master = cluster.wait_master().await;
    // Another process's file as far as the master is concerned; nothing here opens the database while it is locked.
    let file = std::fs::File::open(cluster.data_dir(master).join("state.db-shm")).unwrap();
    cluster
        .wait("the lock is had", || async {
            rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).ok()
        })
        .await;
    // One request, which nobody repeats: a client's own deadline could end in the middle of a try.
    let insert = json!({"statements": [{"sql": "INSERT INTO ledger(entry) VALUES ('locked')"}]}).to_string();
    let (status, refused) =
        raw(&cluster.machines[master].ip, request("POST", "/v1/execute", insert.as_bytes())).await;
    assert!(status == 503 && refused.contains("holds the write lock of state.db"), "{refused}");
    let workload = Workload::start(&client, 2, "w");
    wait_relieved_of_lock(&cluster, master, &workload).await;
    drop(file);
    workload.wait_for(20).await;
    cluster.wait_both_keep_up().await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    (0..3).for_each(|i| outcome.assert_in(&cluster.data_dir(i)));
    assert_eq!(reports(&cluster, master), 0, "nobody has written");
    cluster.assert_no_panic();
    assert!(cluster.machines[master].child.as_mut().unwrap().try_wait().unwrap().is_none(), "it still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn write_to_tanists_own_tables_is_not_replicated_and_its_machine_hands_over() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.wait_both_keep_up().await;
    for sql in [
        "DROP TABLE IF EXISTS tanist_events; CREATE TABLE tanist_events(id)",
        "DELETE FROM tanist_members",
        "UPDATE tanist_position SET txid = txid + 1000",
    ] {
        let master = cluster.wait_master().await;
        let before = reports(&cluster, master);
        let workload = Workload::start(&client, 2, &format!("w{before}{}", sql.len()));
        workload.wait_for(5).await;
        let Some((ok, text)) = write_to(&cluster.data_dir(master), sql) else { return };
        assert!(ok, "{text}");
        cluster
            .wait("its machine hands over, and saves it", || async {
                let now = cluster.master().await?;
                (now != master && reports(&cluster, master) > before).then_some(())
            })
            .await;
        let outcome = workload.finish().await;
        cluster.wait_both_keep_up().await;
        cluster.assert_identical().await;
        // Later rounds write under other names, which the first don't know.
        for i in 0..3 {
            let entries = outcome.acknowledged.len();
            let sql = format!(
                "SELECT count(DISTINCT entry) FROM ledger WHERE entry LIKE '{}/%'",
                outcome.acknowledged.first().unwrap().split('/').next().unwrap()
            );
            assert!(read::<i64>(&cluster.data_dir(i), &sql) >= i64::try_from(entries).unwrap());
        }
        let log = cluster.log_of(master);
        assert!(log.contains("can't be taken over") || log.contains("can\\'t be taken over"), "{log}");
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn write_just_before_a_handover_or_a_stop_goes_along() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE fix(a)")])).await.unwrap();
    for round in 0..4 {
        cluster.wait_both_keep_up().await;
        let master = cluster.wait_master().await;
        let Some((ok, text)) = write_to(&cluster.data_dir(master), "INSERT INTO fix VALUES (1)") else {
            return;
        };
        assert!(ok, "{text}");
        leave(&mut cluster, master, round).await;
        wait_for_rows(&cluster, "SELECT count(*) FROM fix", round + 1).await;
    }
    cluster.assert_identical().await;
    cluster.assert_no_panic();
    (0..3).for_each(|i| assert_eq!(reports(&cluster, i), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn write_just_before_a_kill_is_everywhere_or_in_a_report() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE fix(a)")])).await.unwrap();
    for round in 0..4 {
        cluster.wait_both_keep_up().await;
        let master = cluster.wait_master().await;
        let before = reports(&cluster, master);
        // The others are too slow to take over when they stand still.
        let insert = format!("INSERT INTO fix VALUES ({round})");
        let Some((ok, text)) = write_to(&cluster.data_dir(master), &insert) else { return };
        assert!(ok, "{text}");
        cluster.kill(master);
        if round % 2 == 0 {
            cluster.wait_master().await;
        }
        cluster.start_machine(master);
        cluster.wait_both_keep_up().await;
        cluster.assert_identical().await;
        let everywhere =
            read::<i64>(&cluster.data_dir(master), &format!("SELECT count(*) FROM fix WHERE a = {round}"))
                == 1;
        assert!(everywhere || reports(&cluster, master) > before, "round {round}\n{}", cluster.logs());
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_users_sql_does_to_its_transaction_dethrones_nobody() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    let master = cluster.wait_master().await;
    let term = cluster.view(master).await.unwrap().term;
    let setup = [
        "CREATE TABLE u(a UNIQUE ON CONFLICT ROLLBACK)",
        "INSERT INTO u VALUES (1)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER t BEFORE INSERT ON p WHEN new.id = 13 BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END",
        "CREATE TABLE full(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO full VALUES (9223372036854775807)",
        "CREATE VIRTUAL TABLE ft USING fts5(x, content='')",
    ];
    client.execute(execute(setup.iter().map(|sql| Statement::new(*sql)).collect())).await.unwrap();
    create_ledger(&client).await;
    let beside = Workload::start(&client, 2, "beside");
    for (sql, status) in [
        ("INSERT INTO u VALUES (1)", 409),
        ("INSERT OR ROLLBACK INTO u SELECT 1", 409),
        ("INSERT INTO p VALUES (13)", 409),
        ("INSERT INTO c VALUES (99)", 409),
        ("INSERT INTO full DEFAULT VALUES", 400),
        ("INSERT INTO ft(ft, rowid, x) VALUES ('delete', 5, 'never there')", 0),
        ("INSERT INTO ft(ft) VALUES ('integrity-check')", 0),
    ] {
        for _ in 0..3 {
            match client.execute(execute(vec![Statement::new(sql)])).await {
                Ok(_) => assert_eq!(status, 0, "{sql}"),
                Err(Error::Problem(problem)) => {
                    assert!(status == problem.status || status == 0, "{sql}: {problem:?}");
                    assert!(problem.status < 500, "{sql}: {problem:?}");
                }
                Err(error) => panic!("{sql}: {error}"),
            }
        }
    }
    beside.wait_for(5).await;
    beside.finish().await;
    let view = cluster.view(master).await.unwrap();
    assert_eq!((view.term, view.master.as_deref()), (term, Some(cluster.machines[master].id.as_str())));
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_whose_program_is_older_than_the_schema_says_so_and_does_not_stand() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    cluster.assert_identical().await;
    for i in 0..3 {
        cluster.terminate(i);
    }
    // A newer program has been here, for all that can be seen.
    for i in 0..3 {
        let newer =
            "INSERT INTO tanist_schema (version, name, applied_on, checksum) VALUES (99, 'later', '', '0')";
        let Some((ok, text)) = write_to(&cluster.data_dir(i), newer) else { return };
        assert!(ok, "{text}");
    }
    cluster.start_all();
    cluster
        .wait("each machine says why it can begin no term", || async {
            for i in 0..3 {
                let notice = cluster.view(i).await.ok()?.notice.unwrap_or_default();
                if !notice.contains("it can begin no term: schema version 99") {
                    return None;
                }
            }
            Some(())
        })
        .await;
    let stood = |cluster: &Cluster| {
        (0..3).map(|i| cluster.log_of(i).matches("stands for election").count()).sum::<usize>()
    };
    let before = stood(&cluster);
    // Longer than a lease, after which somebody would stand.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stood(&cluster), before, "{}", cluster.logs());
    for i in 0..3 {
        let child = cluster.machines[i].child.as_mut().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it still runs");
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_is_no_replica_is_refused_by_name_and_left_as_it_is() {
    for (pragma, table, why) in [
        ("", "CREATE TABLE orders(a)", "orders"),
        ("PRAGMA page_size = 1024; ", "CREATE TABLE orders(a)", "1024 bytes"),
        ("PRAGMA page_size = 16384; ", "CREATE TABLE orders(a)", "16384 bytes"),
        ("PRAGMA encoding = 'UTF-16le'; ", "CREATE TABLE orders(a)", "UTF-16le"),
        (
            "PRAGMA journal_mode = WAL; ",
            "CREATE TABLE orders(a); INSERT INTO orders VALUES (zeroblob(5000000))",
            "orders",
        ),
    ] {
        let mut cluster = Cluster::lay_out(&Layout::of(3));
        let dir = cluster.data_dir(1);
        std::fs::create_dir_all(&dir).unwrap();
        let Some((ok, text)) = write_to(&dir, &format!("{pragma}{table}")) else { return };
        assert!(ok, "{text}");
        let before = std::fs::read(dir.join("state.db")).unwrap();
        cluster.start_all();
        let status = cluster.machines[1].child.as_mut().unwrap().wait().unwrap();
        cluster.machines[1].child = None;
        let log = cluster.log_of(1);
        assert!(!status.success() && log.contains(why) && log.contains(".dump"), "{log}");
        assert!(before == std::fs::read(dir.join("state.db")).unwrap(), "it is as it was");
        // Moved away, it hinders nobody.
        std::fs::rename(dir.join("state.db"), dir.join("orders.db")).unwrap();
        for left in ["state.db-wal", "state.db-shm"] {
            let _ = std::fs::remove_file(dir.join(left));
        }
        cluster.start_machine(1);
        cluster.wait_master().await;
        cluster.assert_identical().await;
    }
}
