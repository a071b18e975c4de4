//! Bad input over HTTP gets a clear 4xx, changes nothing and hurts nobody.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    cluster::{Cluster, HTTP_PORT},
    workload::{create_ledger, execute},
};
use tanist_api::Statement;

/// Status and whole answer; 0: it takes no connection.
pub async fn raw(ip: &str, request: Vec<u8>) -> (u16, String) {
    let connected = tokio::net::TcpStream::connect(format!("{ip}:{HTTP_PORT}")).await;
    let Ok(mut stream) = connected else { return (0, String::new()) };
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(&request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    request("POST", path, body)
}

pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_a_clear_answer_and_changes_nothing() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let unique = Statement::new("CREATE TABLE uniq(id INTEGER PRIMARY KEY, n INTEGER NOT NULL)");
    let before = client.execute(execute(vec![unique])).await.unwrap().position;
    let ip = cluster.machines[0].ip.clone();
    let insert = r#"{"sql":"INSERT INTO ledger VALUES ('x')"}"#;
    let big = format!(r#"{{"statements":[{{"sql":"{}"}}]}}"#, "x".repeat(3 << 20));
    let deep = format!(r#"{{"statements":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("not JSON", "{".into(), 400, "bad-request"),
        ("empty", String::new(), 400, "bad-request"),
        ("wrong shape", r#"{"statements":"x"}"#.into(), 400, "bad-request"),
        ("no statements", r#"{"statements":[]}"#.into(), 400, "bad-request"),
        ("unknown field", format!(r#"{{"statements":[{insert}],"extra":1}}"#), 400, "extra"),
        (
            "unknown statement field",
            r#"{"statements":[{"sql":"SELECT 1","x":1}]}"#.into(),
            400,
            "bad-request",
        ),
        ("deep nesting", deep, 400, "bad-request"),
        ("too large", big, 413, "body-too-large"),
        (
            "bad SQL after a good statement",
            format!(r#"{{"statements":[{insert},{{"sql":"SELEC 1"}}]}}"#),
            400,
            "sql-error",
        ),
        (
            "two statements in one",
            r#"{"statements":[{"sql":"INSERT INTO ledger VALUES (1); DELETE FROM ledger"}]}"#.into(),
            400,
            "statement",
        ),
        (
            "wrong parameter count",
            r#"{"statements":[{"sql":"INSERT INTO ledger VALUES (?)","params":[1,2]}]}"#.into(),
            400,
            "parameter",
        ),
        (
            "bad parameter",
            r#"{"statements":[{"sql":"INSERT INTO ledger VALUES (?)","params":[[1]]}]}"#.into(),
            400,
            "param",
        ),
        (
            "constraint",
            format!(r#"{{"statements":[{insert},{{"sql":"INSERT INTO uniq VALUES (1, NULL)"}}]}}"#),
            409,
            "constraint",
        ),
        ("attach", r#"{"statements":[{"sql":"ATTACH '/tmp/x.db' AS x"}]}"#.into(), 403, "sql-denied"),
        ("pragma", r#"{"statements":[{"sql":"PRAGMA journal_mode=DELETE"}]}"#.into(), 403, "sql-denied"),
        ("transaction control", r#"{"statements":[{"sql":"COMMIT"}]}"#.into(), 403, "sql-denied"),
        (
            "own tables",
            r#"{"statements":[{"sql":"UPDATE tanist_position SET txid = 1"}]}"#.into(),
            403,
            "sql-denied",
        ),
        (
            "drop own table",
            r#"{"statements":[{"sql":"DROP TABLE tanist_requests"}]}"#.into(),
            403,
            "sql-denied",
        ),
        ("vacuum", r#"{"statements":[{"sql":"VACUUM"}]}"#.into(), 403, "sql-denied"),
        (
            "load_extension",
            r#"{"statements":[{"sql":"SELECT load_extension('x')"}]}"#.into(),
            403,
            "sql-denied",
        ),
    ];
    for (what, body, status, contains) in &cases {
        let (found, answer) = raw(&ip, post("/v1/execute", body.as_bytes())).await;
        assert_eq!(found, *status, "{what}: {answer}");
        assert!(answer.contains("application/problem+json"), "{what}: {answer}");
        assert!(answer.contains(contains), "{what}: expected {contains:?} in {answer}");
    }
    let endless = r#"{"statements":[{"sql":"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c"}]}"#;
    let (status, answer) = raw(&ip, post("/v1/execute", endless.as_bytes())).await;
    assert_eq!(status, 408, "{answer}");
    let (status, answer) = raw(&ip, post("/v1/query", endless.as_bytes())).await;
    assert_eq!(status, 408, "{answer}");
    let write = r#"{"statements":[{"sql":"INSERT INTO ledger VALUES ('by query')"}]}"#;
    let (status, answer) = raw(&ip, post("/v1/query", write.as_bytes())).await;
    assert!((400..500).contains(&status), "{answer}");
    let (status, _) = raw(&ip, post("/v1/nowhere", b"{}")).await;
    assert_eq!(status, 404);
    let (status, _) =
        raw(&ip, b"GET /v1/execute HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec()).await;
    assert_eq!(status, 405);
    let (status, _) = raw(&ip, post("/v1/query?consistency=maybe", insert.as_bytes())).await;
    assert_eq!(status, 400);
    assert_eq!(cluster.view(0).await.unwrap().position, before, "nothing was changed");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_idempotency_key_gives_the_first_answer_on_the_next_master_too() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    create_ledger(&client).await;
    let body = r#"{"statements":[{"sql":"INSERT INTO ledger VALUES ('once') RETURNING rowid"}]}"#;
    let request = |body: &str| {
        format!(
            "POST /v1/execute HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\nidempotency-key: k-1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let master = cluster.wait_master().await;
    let (status, first) = raw(&cluster.machines[master].ip, request(body)).await;
    assert_eq!(status, 200, "{first}");
    let (status, again) = raw(&cluster.machines[master].ip, request(body)).await;
    assert_eq!(status, 200, "{again}");
    assert!(again.contains("idempotency-replayed: true"), "{again}");
    let other = body.replace("once", "twice");
    let (status, refused) = raw(&cluster.machines[master].ip, request(&other)).await;
    assert_eq!(status, 422, "{refused}");
    cluster.kill(master);
    let heir = cluster.wait_master().await;
    let (status, again) = raw(&cluster.machines[heir].ip, request(body)).await;
    assert_eq!(status, 200, "{again}");
    assert!(again.contains("idempotency-replayed: true"), "{again}");
    assert_eq!(crate::cluster::read::<i64>(&cluster.data_dir(heir), "SELECT count(*) FROM ledger"), 1);
}
