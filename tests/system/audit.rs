//! Who has changed what by SQL is on record, on every machine.

use serde_json::{Value, json};
use tanist_api::{Access, ExecuteRequest, QueryRequest, Statement};
use tanist_client::{Client, Consistency, ExecuteOptions};

use crate::cluster::{Cluster, Layout};

async fn records(client: &Client, consistency: Consistency) -> Vec<(String, u64, String)> {
    let sql = Statement::new("SELECT actor, statements, sql FROM tanist_v_audit ORDER BY id");
    let request = QueryRequest { statements: vec![sql] };
    let rows = client.query(request, consistency, None).await.unwrap().results.remove(0).rows;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(&row[0]), row[1].as_u64().unwrap(), text(&row[2]))).collect()
}

fn request(statements: &[Statement]) -> ExecuteRequest {
    ExecuteRequest { statements: statements.to_vec(), transaction: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_sql_are_recorded_under_their_authors_without_values_and_survive_the_master() {
    let mut cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(3) }).await;
    let operator = cluster.client();
    let anna = operator.make_token("anna", Access::Write).await.unwrap().token;
    let anna = cluster.builder().hosts(&cluster.hosts()).token(&anna).unwrap().build().unwrap();
    operator.execute(request(&[Statement::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")])).await.unwrap();
    let insert = Statement::with("INSERT INTO t(v) VALUES (?)", vec![json!("s3cret")]);
    let update = Statement::with("UPDATE t SET v = ? WHERE v = ?", vec![json!("t0p"), json!("s3cret")]);
    let keyed = || ExecuteOptions { idempotency_key: Some("once".to_owned()), ..ExecuteOptions::default() };
    let both = request(&[insert.clone(), update.clone()]);
    let done = anna.execute_with(both.clone(), keyed()).await.unwrap();
    assert_eq!(done.results[0].last_insert_id, Some(1));
    // The first answer again, a refusal, what changes nothing and what only reads leave no record.
    assert!(anna.execute_with(both, keyed()).await.unwrap().position == done.position);
    anna.execute(request(&[insert.clone(), Statement::new("INSERT INTO nowhere VALUES (1)")]))
        .await
        .unwrap_err();
    anna.execute(request(&[update, Statement::new("SELECT * FROM t")])).await.unwrap();
    // The record's row is not the user's.
    let last = Statement::new("SELECT last_insert_rowid() AS id");
    let mut answer = anna.execute(request(&[insert, last.clone()])).await.unwrap();
    assert_eq!(answer.results[0].last_insert_id, Some(2));
    assert_eq!(answer.results.remove(1).rows, [[json!(2)]]);
    // Nor is it the next one's: it belongs to a request.
    let seen = anna.execute(request(&[last])).await.unwrap().results.remove(0).rows;
    assert_eq!(seen, [[json!(0)]]);
    for sql in ["DELETE FROM tanist_audit", "UPDATE tanist_audit SET actor = 'x'", "DROP VIEW tanist_v_audit"]
    {
        operator.execute(request(&[Statement::new(sql)])).await.unwrap_err();
    }
    let records = async |client: &Client, consistency| {
        let all = records(client, consistency).await;
        all.into_iter().filter(|(.., sql)| !sql.contains("tanist_")).collect::<Vec<_>>()
    };
    let expected = [
        ("cluster-key", 1, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"),
        ("anna", 2, "INSERT INTO t(v) VALUES (?);\nUPDATE t SET v = ? WHERE v = ?"),
        ("anna", 2, "INSERT INTO t(v) VALUES (?);\nSELECT last_insert_rowid() AS id"),
    ]
    .map(|(actor, count, sql)| (actor.to_owned(), count, sql.to_owned()));
    assert_eq!(records(&operator, Consistency::Strong).await, expected);

    let position =
        Statement::new("SELECT position FROM tanist_v_audit WHERE actor = 'anna' AND sql LIKE '%UPDATE%'");
    let found =
        operator.query(QueryRequest { statements: vec![position] }, Consistency::Strong, None).await.unwrap();
    assert_eq!(found.results[0].rows, [[json!(done.position)]], "the transaction that the answer named");
    let master = cluster.wait_master().await;
    cluster.kill(master);
    cluster.wait_master().await;
    assert_eq!(records(&operator, Consistency::Strong).await, expected);
    cluster.start_machine(master);
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_where_nobody_is_known_or_the_configuration_says_so() {
    let off = "\n[audit]\nsql = false\n".to_owned();
    let on = "\n[audit]\nsql = true\n".to_owned();
    for (tokens, extra, count) in [(false, String::new(), 0), (true, off, 0), (false, on, 1)] {
        let cluster = Cluster::start(&Layout { tokens, extra, ..Layout::of(1) }).await;
        let client = cluster.client();
        client.execute(request(&[Statement::new("CREATE TABLE t(v)")])).await.unwrap();
        let found = records(&client, Consistency::Strong).await;
        assert_eq!(found.len(), count, "tokens {tokens}: {found:?}");
        assert!(found.iter().all(|(actor, ..)| actor == "(nobody known)"), "{found:?}");
    }
}
