//! What a DBA with the stock sqlite3 shell sees and may do, on master and backup.

use std::process::Command;

use tanist_api::{QueryRequest, Statement};
use tanist_client::Consistency;

use crate::{
    cluster::{Cluster, Layout, read},
    workload::{Workload, create_ledger, execute},
};

/// Runs the stock shell; `None` where it isn't installed.
pub fn shell(arguments: &[&str]) -> Option<(bool, String)> {
    let output = match Command::new("sqlite3").args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("sqlite3 isn't installed: left out");
            return None;
        }
        Err(error) => panic!("sqlite3: {error}"),
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_shell_always_sees_whole_transactions_on_master_and_backup() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    client
        .execute(execute(vec![
            Statement::new("CREATE TABLE pair(side TEXT PRIMARY KEY, amount INTEGER)"),
            Statement::new("INSERT INTO pair VALUES ('left', 1000), ('right', 1000)"),
        ]))
        .await
        .unwrap();
    let moving = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..300 {
                let by = n % 7;
                client
                    .execute(execute(vec![
                        Statement::new(format!("UPDATE pair SET amount = amount - {by} WHERE side = 'left'")),
                        Statement::new(format!(
                            "UPDATE pair SET amount = amount + {by} WHERE side = 'right'"
                        )),
                    ]))
                    .await
                    .unwrap();
            }
        })
    };
    let mut reads = 0;
    while !moving.is_finished() {
        for i in 0..3 {
            let file = cluster.data_dir(i).join("state.db");
            let sum = "SELECT coalesce(sum(amount), 2000) FROM pair";
            let Some((ok, text)) =
                shell(&["-readonly", "-cmd", ".timeout 5000", file.to_str().unwrap(), sum])
            else {
                return;
            };
            // The table may not have reached a backup outside the sync set at the very first look.
            assert!((ok && text.trim() == "2000") || text.contains("no such table"), "{ok} {text}");
            reads += 1;
        }
    }
    moving.await.unwrap();
    println!("{reads} reads by the stock shell, none inconsistent");
    cluster.assert_identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_write_is_refused_on_a_backup_and_adopted_on_the_master() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let workload = Workload::start(&client, 2, "w");
    workload.wait_for(20).await;
    let master = cluster.wait_master().await;
    let insert = "CREATE TABLE dba(note TEXT); INSERT INTO dba VALUES ('fixed by hand')";
    let backup = cluster.data_dir((master + 1) % 3).join("state.db");
    let Some((ok, text)) = shell(&[backup.to_str().unwrap(), insert]) else { return };
    assert!(!ok && text.contains("locked"), "a backup takes no outside write: {text}");
    let file = cluster.data_dir(master).join("state.db");
    let (ok, text) = shell(&["-cmd", ".timeout 5000", file.to_str().unwrap(), insert]).unwrap();
    assert!(ok, "{text}");
    cluster
        .wait("the outside write is replicated", || async {
            let query = QueryRequest { statements: vec![Statement::new("SELECT note FROM dba")] };
            let backup = cluster.client_of((master + 1) % 3);
            backup.query(query, Consistency::Local, None).await.ok()
        })
        .await;
    let outcome = workload.finish().await;
    cluster.assert_identical().await;
    // It outlives the master like any other write.
    cluster.kill(master);
    cluster.wait_master().await;
    for i in (0..3).filter(|i| *i != master) {
        assert_eq!(read::<String>(&cluster.data_dir(i), "SELECT note FROM dba"), "fixed by hand");
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_stays_bounded_under_writes() {
    let cluster = Cluster::of(3).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE blobs(data BLOB)")])).await.unwrap();
    for _ in 0..120 {
        let insert = Statement::new("INSERT INTO blobs VALUES (randomblob(600000))");
        client.execute(execute(vec![insert])).await.unwrap();
    }
    cluster.assert_identical().await;
    for i in 0..3 {
        let wal = std::fs::metadata(cluster.data_dir(i).join("state.db-wal")).unwrap().len();
        assert!(wal < 48 << 20, "72 MB were written, the WAL of {} has {wal} bytes", cluster.machines[i].id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_keeps_its_snapshot_lets_the_wal_grow_says_so_and_stops_nobody() {
    let layout = Layout { extra: "[store]\nwal_limit = \"1MiB\"".to_owned(), ..Layout::of(3) };
    let cluster = Cluster::start(&layout).await;
    let client = cluster.client();
    client.execute(execute(vec![Statement::new("CREATE TABLE blobs(data BLOB)")])).await.unwrap();
    cluster.settle().await;
    let readers: Vec<_> = (0..3)
        .map(|i| {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let file = cluster.data_dir(i).join("state.db");
            let reader = rusqlite::Connection::open_with_flags(file, flags).unwrap();
            reader.execute_batch("BEGIN").unwrap();
            let count = |db: &rusqlite::Connection| {
                db.query_row("SELECT count(*) FROM blobs", [], |row| row.get::<_, i64>(0))
            };
            assert_eq!(count(&reader).unwrap(), 0);
            (reader, count)
        })
        .collect();
    let write = async || {
        for _ in 0..20 {
            let insert = Statement::new("INSERT INTO blobs VALUES (randomblob(1200000))");
            client.execute(execute(vec![insert])).await.unwrap();
        }
    };
    write().await;
    let wal = |i: usize| std::fs::metadata(cluster.data_dir(i).join("state.db-wal")).unwrap().len();
    cluster
        .wait("each machine says that its WAL can't be restarted", || async {
            let says = |i| cluster.log_of(i).contains("a reader keeps an old snapshot open");
            (0..3).all(says).then_some(())
        })
        .await;
    for (i, (reader, count)) in readers.into_iter().enumerate() {
        assert!(wal(i) > 20 << 20, "nothing of it may be lost: {}", wal(i));
        assert_eq!(count(&reader).unwrap(), 0, "it still sees its snapshot");
        reader.execute_batch("COMMIT").unwrap();
        assert!(count(&reader).unwrap() > 0);
    }
    // With the readers gone the WAL starts over, and its file is cut to its limit.
    cluster
        .wait("the WALs are short again", || async {
            write().await;
            (0..3).all(|i| wal(i) < 18 << 20).then_some(())
        })
        .await;
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}
