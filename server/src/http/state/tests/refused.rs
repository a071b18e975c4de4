//! What is refused: bad input, users' SQL, too much at once.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn users_sql_reads_these_tables_and_changes_none() {
    let machine = wall().await;
    put(&machine, "/v1/config/a", json!({ "value": 1 })).await;
    let execute = async |sql: &str| {
        let body = json!({ "statements": [{ "sql": sql }] }).to_string();
        ask(&machine, "POST", "/v1/execute", JSON, &body).await
    };
    assert_eq!(execute("CREATE TABLE mine(a)").await.status, 200);
    let trigger =
        "CREATE TRIGGER mine_in AFTER INSERT ON mine BEGIN UPDATE tanist_config SET value = '2'; END";
    assert_eq!(execute(trigger).await.status, 200, "it is the firing that is denied");
    for sql in [
        "UPDATE tanist_config SET value = '2'",
        "DELETE FROM tanist_config_history",
        "INSERT INTO tanist_nodes (name) VALUES ('n9')",
        "REPLACE INTO tanist_desired_state (node, state) VALUES ('n1', '{}')",
        "DELETE FROM tanist_reported_state",
        "INSERT INTO tanist_commands (name, nodes) VALUES ('x', '[]')",
        "UPDATE tanist_command_outcomes SET status = 'done'",
        "INSERT INTO tanist_actor VALUES (1, 'me')",
        "DELETE FROM tanist_events",
        "DROP TABLE tanist_command_outcomes",
        "DROP VIEW tanist_v_nodes",
        "DROP TRIGGER tanist_config_changed",
        "CREATE TRIGGER mine_too AFTER UPDATE ON tanist_config BEGIN DELETE FROM mine; END",
        "INSERT INTO mine VALUES (1)",
    ] {
        let answer = execute(sql).await;
        assert_problem(sql, &(answer.status, answer.text), 403, &["sql-denied"]);
    }
    let read = execute("SELECT value FROM tanist_config UNION ALL SELECT name FROM tanist_v_nodes").await;
    assert_eq!(read.body["results"][0]["rows"], json!([["1"], ["n1"], ["n2"]]), "{}", read.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn table_that_refers_to_a_node_is_refused_and_has_no_say_in_its_removal() {
    let machine = wall().await;
    for table in [
        "CREATE TABLE mine(node TEXT REFERENCES tanist_nodes(name))",
        "CREATE TABLE mine(node TEXT REFERENCES tanist_nodes(id) ON DELETE CASCADE)",
    ] {
        let body = json!({ "statements": [{ "sql": table }] }).to_string();
        let made = ask(&machine, "POST", "/v1/execute", JSON, &body).await;
        assert_problem(table, &(made.status, made.text), 403, &["mine", "foreign key", "tanist_nodes"]);
    }
    put(&machine, "/v1/nodes/n1", json!({})).await;
    assert_eq!(ask(&machine, "DELETE", "/v1/nodes/n1", "", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_that_writes_more_or_takes_longer_than_a_request_may_is_refused() {
    for (limits, status, word) in [
        ("", 413, "transaction-too-large"),
        ("[limits]\nstatement_time = \"50ms\"\n", 408, "limits.statement_time"),
    ] {
        let machine = Machine::master(limits).await;
        put(&machine, "/v1/nodes/n1", json!({})).await;
        // Each command's row is written again when its last outcome is lost with the node.
        let commands = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 60000) \
             INSERT INTO tanist_commands (name, nodes) SELECT 'x', '[\"n1\"]' FROM n";
        machine.database().execute_batch(commands).unwrap();
        let refused = ask(&machine, "DELETE", "/v1/nodes/n1", "", "").await;
        assert_problem(word, &(refused.status, refused.text), status, &[word]);
        assert_eq!(get(&machine, "/v1/nodes/n1?consistency=local").await.status, 200);
        assert_eq!(
            count(&machine, "SELECT count(*) FROM tanist_command_outcomes WHERE status = 'failed'"),
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_the_field_and_change_nothing() {
    let machine = wall().await;
    put(&machine, "/v1/config/a", json!({ "value": 1 })).await;
    put(&machine, "/v1/nodes/n1/desired", json!({ "state": {} })).await;
    let command = json!({ "name": "x", "nodes": ["n1"] }).to_string();
    assert_eq!(ask(&machine, "POST", "/v1/commands", JSON, &command).await.status, 201);
    let dump = || -> (i64, i64) {
        (
            count(&machine, "SELECT max(id) FROM tanist_events"),
            count(&machine, "SELECT txid FROM tanist_position"),
        )
    };
    let before = dump();
    let deep = format!(r#"{{"value":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
    let deeper = format!(r#"{{"value":{}1{}}}"#, "[".repeat(900), "]".repeat(900));
    let big = json!({ "value": "x".repeat(257 << 10) }).to_string();
    let huge = json!({ "value": "x".repeat(2 << 20) }).to_string();
    let long = "k".repeat(256);
    let many: Vec<_> = (0..1001).map(|i| format!("n{i}")).collect();
    let many = json!({ "name": "x", "nodes": many }).to_string();
    let labels: serde_json::Map<_, _> = (0..65).map(|i| (format!("l{i}"), json!("x"))).collect();
    let labels = json!({ "labels": labels }).to_string();
    type Case<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str); // method, path, headers, body; status, word
    let long_path = format!("/v1/config/{long}");
    let cases: Vec<Case<'_>> = vec![
        // Paths.
        ("GET", "/v1/config/%2Fa", "", "", 400, "key"),
        ("GET", "/v1/config/a%00", "", "", 400, "key"),
        ("GET", "/v1/config/a%20b", "", "", 400, "key"),
        ("GET", "/v1/config/%FF", "", "", 400, "path"),
        ("GET", "/v1/config/..", "", "", 400, "key"),
        ("PUT", &long_path, JSON, r#"{"value":1}"#, 400, "255"),
        ("GET", "/v1/config/a/b", "", "", 404, "no resource"),
        ("GET", "/v1/nodes/a%2Fb", "", "", 400, "name"),
        ("PUT", "/v1/nodes/-a", JSON, "{}", 400, "name"),
        ("GET", "/v1/nodes/nobody", "", "", 404, "nobody"),
        ("GET", "/v1/nodes/nobody/desired", "", "", 404, "nobody"),
        ("GET", "/v1/nodes/n2/desired", "", "", 404, "none yet"),
        ("GET", "/v1/commands/x", "", "", 400, "id"),
        ("GET", "/v1/commands/-1", "", "", 400, "id"),
        ("GET", "/v1/commands/99999999999999999999", "", "", 400, "id"),
        ("GET", "/v1/commands/99", "", "", 404, "99"),
        // Queries.
        ("GET", "/v1/config?limit=0", "", "", 400, "limit"),
        ("GET", "/v1/config?limit=1001", "", "", 400, "1000"),
        ("GET", "/v1/config?limit=1&limit=2", "", "", 400, "once"),
        ("GET", "/v1/config?prefix=%2F", "", "", 400, "prefix"),
        ("GET", "/v1/config?after=%FF", "", "", 400, "after"),
        ("GET", "/v1/config?colour=red", "", "", 400, "colour"),
        ("GET", "/v1/config/a?prefix=a", "", "", 400, "prefix"),
        ("GET", "/v1/config/a?consistency=maybe", "", "", 400, "maybe"),
        ("GET", "/v1/config/a?max_staleness=5", "", "", 400, "max_staleness"),
        ("GET", "/v1/config/a/history?before=x", "", "", 400, "before"),
        ("GET", "/v1/nodes?after=%2F", "", "", 400, "after"),
        ("GET", "/v1/commands?status=new", "", "", 400, "status"),
        ("GET", "/v1/commands?node=%00", "", "", 400, "node"),
        ("PUT", "/v1/config/a?value=2", JSON, r#"{"value":2}"#, 400, "value"),
        ("DELETE", "/v1/config/a?force=1", "", "", 400, "force"),
        // Headers.
        ("PUT", "/v1/config/a", "", r#"{"value":2}"#, 415, "application/json"),
        ("PATCH", "/v1/nodes/n1", JSON, "{}", 415, "application/merge-patch+json"),
        ("PATCH", "/v1/nodes/n1/desired", JSON, "{}", 415, "application/merge-patch+json"),
        ("GET", "/v1/config/a", "if-none-match: x\r\n", "", 400, "if-none-match"),
        ("GET", "/v1/config/a", "tanist-min-position: x\r\n", "", 400, "tanist-min-position"),
        ("DELETE", "/v1/config/a", "idempotency-key: a b\r\n", "", 400, "idempotency-key"),
        // Methods.
        ("POST", "/v1/config/a", JSON, "{}", 405, "method-not-allowed"),
        ("PATCH", "/v1/config/a", JSON, "{}", 405, "method-not-allowed"),
        ("DELETE", "/v1/nodes/n1/desired", "", "", 405, "method-not-allowed"),
        ("DELETE", "/v1/commands/1", "", "", 405, "method-not-allowed"),
        // Bodies.
        ("PUT", "/v1/config/a", JSON, "", 400, "body"),
        ("PUT", "/v1/config/a", JSON, "{}", 400, "value"),
        ("PUT", "/v1/config/a", JSON, "2", 400, "NewConfig"),
        ("PUT", "/v1/config/a", JSON, r#"{"value":2,"by":"me"}"#, 400, "`by`"),
        ("PUT", "/v1/config/a", JSON, r#"{"value":2} {}"#, 400, "end"),
        ("PUT", "/v1/config/a", JSON, r#"{"value":1e999}"#, 400, "value"),
        ("PUT", "/v1/config/a", JSON, "{\"value\":\"\\ud800\"}", 400, "value"),
        ("PUT", "/v1/config/a", JSON, &deep, 400, "65 levels"),
        ("PUT", "/v1/config/a", JSON, &deeper, 400, "recursion"),
        ("PUT", "/v1/config/a", JSON, &big, 400, "262144"),
        ("PUT", "/v1/config/a", JSON, &huge, 413, "limits.body"),
        ("DELETE", "/v1/config/a", JSON, "{}", 400, "body"),
        ("DELETE", "/v1/nodes/nobody", "", "", 404, "nobody"),
        ("PUT", "/v1/nodes/n1", JSON, "[]", 400, "body"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"address":""}"#, 400, "address"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"address":"a\u0000b"}"#, 400, "address"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"row":-1}"#, 400, "row"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"column":1000001}"#, 400, "column"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"row":"1"}"#, 400, "row"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"name":"n2"}"#, 400, "`name`"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"labels":{"a":5}}"#, 400, "labels.a"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"labels":{"":"x"}}"#, 400, "labels"),
        ("PUT", "/v1/nodes/n1", JSON, r#"{"labels":[]}"#, 400, "labels"),
        ("PUT", "/v1/nodes/n1", JSON, &labels, 400, "labels"),
        ("PATCH", "/v1/nodes/n1", PATCH, "5", 400, "body"),
        ("PATCH", "/v1/nodes/n1", PATCH, r#"{"row":"x"}"#, 400, "row"),
        ("PATCH", "/v1/nodes/n1", PATCH, r#"{"rows":1}"#, 400, "`rows`"),
        ("PATCH", "/v1/nodes/n1", PATCH, r#"{"labels":{"a":{"b":1}}}"#, 400, "labels.a"),
        ("PATCH", "/v1/nodes/nobody", PATCH, "{}", 404, "nobody"),
        ("PUT", "/v1/nodes/n1/desired", JSON, r#"{"state":[]}"#, 400, "state"),
        ("PUT", "/v1/nodes/n1/desired", JSON, r#"{"state":{},"revision":1}"#, 400, "`revision`"),
        ("PUT", "/v1/nodes/nobody/desired", JSON, r#"{"state":{}}"#, 404, "nobody"),
        ("PATCH", "/v1/nodes/n1/desired", PATCH, r#"{"state":null}"#, 400, "state"),
        ("PATCH", "/v1/nodes/n1/desired", PATCH, r#"{"state":[1]}"#, 400, "state"),
        ("PATCH", "/v1/nodes/nobody/desired", PATCH, "{}", 404, "nobody"),
        ("PUT", "/v1/nodes/n1/reported", JSON, r#"{"state":{},"error":""}"#, 400, "error"),
        ("PUT", "/v1/nodes/n1/reported", JSON, r#"{"state":{},"ok":true}"#, 400, "`ok`"),
        (
            "PUT",
            "/v1/nodes/n1/reported",
            JSON,
            r#"{"state":{},"desired_revision":1.5}"#,
            400,
            "desired_revision",
        ),
        ("PUT", "/v1/nodes/nobody/reported", JSON, r#"{"state":{}}"#, 404, "nobody"),
        ("POST", "/v1/commands", JSON, r#"{"name":"x","nodes":[]}"#, 400, "nodes"),
        ("POST", "/v1/commands", JSON, r#"{"name":"","nodes":["n1"]}"#, 400, "name"),
        ("POST", "/v1/commands", JSON, r#"{"name":"x","nodes":["n1","n1"]}"#, 400, "nodes[1]"),
        ("POST", "/v1/commands", JSON, r#"{"name":"x","nodes":["n1","n9"]}"#, 400, "nodes[1]"),
        ("POST", "/v1/commands", JSON, r#"{"name":"x","nodes":[5]}"#, 400, "nodes[0]"),
        ("POST", "/v1/commands", JSON, r#"{"name":"x"}"#, 400, "nodes"),
        ("POST", "/v1/commands", JSON, &many, 400, "1000"),
        ("PUT", "/v1/commands/1/outcomes/n1", JSON, r#"{"status":"maybe"}"#, 400, "status"),
        ("PUT", "/v1/commands/1/outcomes/n2", JSON, r#"{"status":"done"}"#, 404, "n2"),
        ("PUT", "/v1/commands/9/outcomes/n1", JSON, r#"{"status":"done"}"#, 404, "9"),
    ];
    for (method, path, headers, body, status, word) in &cases {
        let answer = ask(&machine, method, path, headers, body).await;
        let start: String = body.chars().take(60).collect();
        assert_problem(&format!("{method} {path} {start}"), &(answer.status, answer.text), *status, &[word]);
    }
    assert_eq!(dump(), before, "nothing was changed");
    println!("{} bad requests", cases.len());
}
