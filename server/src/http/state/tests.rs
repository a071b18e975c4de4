//! The routes of the control room on a real socket, read pool and database.

use serde_json::{Value, json};

use crate::http::tests::{Machine, assert_problem};

const JSON: &str = "content-type: application/json\r\n";
const PATCH: &str = "content-type: application/merge-patch+json\r\n";

/// An answer, taken apart.
struct Answer {
    status: u16,
    text: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.text.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn tag(&self) -> String {
        self.header("etag").unwrap_or_else(|| panic!("no etag in {}", self.text)).to_owned()
    }
}

async fn ask(machine: &Machine, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let (status, text) = machine.send(request.as_bytes()).await;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    Answer { status, text, body }
}

async fn get(machine: &Machine, path: &str) -> Answer {
    ask(machine, "GET", path, "", "").await
}

async fn put(machine: &Machine, path: &str, body: Value) -> Answer {
    ask(machine, "PUT", path, JSON, &body.to_string()).await
}

async fn wall() -> Machine {
    let machine = Machine::master("").await;
    for name in ["n1", "n2"] {
        assert_eq!(put(&machine, &format!("/v1/nodes/{name}"), json!({ "row": 1 })).await.status, 201);
    }
    machine
}

fn count(machine: &Machine, sql: &str) -> i64 {
    machine.database().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn value_is_set_changed_removed_and_all_of_it_stays_in_its_history() {
    let machine = Machine::master("").await;
    let path = "/v1/config/wall%2Fbrightness";
    assert_eq!(get(&machine, path).await.status, 404);
    let first = put(&machine, path, json!({ "value": { "level": 5, "odd": [null, "ä"] } })).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(first.body["key"], "wall/brightness");
    assert!(first.header("tanist-position").unwrap().starts_with("1."), "{}", first.text);
    // Written otherwise, but the same.
    let same = ask(&machine, "PUT", path, JSON, r#"{"value":{"odd":[null,"\u00e4"], "level":5}}"#).await;
    assert_eq!((same.status, same.tag(), same.body.clone()), (200, first.tag(), first.body.clone()));
    let read = get(&machine, path).await;
    assert_eq!((read.status, read.tag(), read.body), (200, first.tag(), first.body.clone()));
    let second = put(&machine, path, json!({ "value": null })).await;
    assert!(second.status == 200 && second.tag() != first.tag(), "{}", second.text);
    let removed = ask(&machine, "DELETE", path, "", "").await;
    assert_eq!((removed.status, get(&machine, path).await.status), (200, 404), "{}", removed.text);
    assert_eq!(ask(&machine, "DELETE", path, "", "").await.status, 404);
    let again = put(&machine, path, json!({ "value": { "level": 5, "odd": [null, "ä"] } })).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.tag(), first.tag(), "a revision never comes back");

    let history = get(&machine, &format!("{path}/history")).await.body;
    let changes: Vec<_> = history["entries"].as_array().unwrap().iter().rev().collect();
    let value = json!({ "level": 5, "odd": [null, "ä"] });
    let expected = [
        (None, Some(&value)),
        (Some(&value), Some(&Value::Null)),
        (Some(&Value::Null), None),
        (None, Some(&value)),
    ];
    assert_eq!(
        changes.iter().map(|change| (change.get("old"), change.get("new"))).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(changes[2]["revision"], removed.body["revision"]);
    let page = get(&machine, &format!("{path}/history?limit=3")).await.body;
    let rest = get(&machine, &format!("{path}/history?before={}", page["next"].as_str().unwrap())).await.body;
    assert_eq!((rest["entries"][0].clone(), rest.get("next")), (changes[0].clone(), None));
    assert_eq!(count(&machine, "SELECT count(*) FROM events WHERE kind = 'config'"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_decide_about_bodies_and_changes() {
    let machine = wall().await;
    for (path, body, other) in [
        ("/v1/config/a", json!({ "value": 1 }), json!({ "value": 2 })),
        ("/v1/nodes/n3", json!({ "address": "10.0.0.3" }), json!({ "address": "10.0.0.4" })),
        ("/v1/nodes/n1/desired", json!({ "state": { "a": 1 } }), json!({ "state": {} })),
        ("/v1/nodes/n1/reported", json!({ "state": { "a": 1 } }), json!({ "state": {}, "error": "too hot" })),
    ] {
        let write = async |headers: &str, body: &Value| {
            ask(&machine, "PUT", path, &format!("{JSON}{headers}"), &body.to_string()).await
        };
        let refused = write("if-match: *\r\n", &body).await;
        assert_problem(path, &(refused.status, refused.text), 412, &["precondition-failed", "there is none"]);
        let first = write("if-none-match: *\r\n", &body).await;
        assert_eq!(first.status, 201, "{path}: {}", first.text);
        let tag = first.tag();
        assert_eq!(write("if-none-match: *\r\n", &other).await.status, 412, "{path}");
        assert_eq!(write("if-match: \"0\", \"nothing\"\r\n", &other).await.status, 412, "{path}");
        let read = ask(&machine, "GET", path, &format!("if-none-match: \"x\", {tag}\r\n"), "").await;
        assert_eq!((read.status, read.tag()), (304, tag.clone()), "{path}");
        assert!(read.text.ends_with("\r\n\r\n") && read.header("tanist-position").is_some(), "{}", read.text);
        let changed = write(&format!("if-match: \"0\", {tag}\r\n"), &other).await;
        assert_eq!(changed.status, 200, "{path}: {}", changed.text);
        assert_eq!(write(&format!("if-match: {tag}\r\n"), &body).await.status, 412, "{path}");
        let read = ask(&machine, "GET", path, &format!("if-none-match: {tag}\r\n"), "").await;
        assert_eq!((read.status, read.tag(), read.body), (200, changed.tag(), changed.body), "{path}");
        let unread = write("if-match: 5\r\n", &body).await;
        assert_problem(path, &(unread.status, unread.text), 400, &["if-match"]);
    }
    let kept = ask(&machine, "DELETE", "/v1/config/a", "if-match: \"0\"\r\n", "").await;
    assert_eq!((kept.status, get(&machine, "/v1/config/a").await.status), (412, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_without_gap_or_repetition() {
    let machine = Machine::master("[limits]\nresult = \"64KiB\"\n").await;
    for i in 0..25 {
        for prefix in ["a", "b/x", "b/y"] {
            let path = format!("/v1/config/{}{i:02}", prefix.replace('/', "%2F"));
            // Some fill a page alone.
            let value = "v".repeat(if i % 10 == 0 { 30_000 } else { 10 });
            assert_eq!(put(&machine, &path, json!({ "value": value })).await.status, 201);
        }
    }
    for (prefix, expected) in [("", 75), ("b%2F", 50), ("b/y", 25), ("c", 0)] {
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = get(&machine, &format!("/v1/config?prefix={prefix}&limit=7{after}")).await;
            assert_eq!(page.status, 200, "{}", page.text);
            let keys = page.body["entries"].as_array().unwrap();
            assert!(keys.len() <= 7);
            found.extend(keys.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()));
            pages += 1;
            match page.body["next"].as_str() {
                Some(next) => after = format!("&after={}", next.replace('/', "%2F")),
                None => break,
            }
        }
        assert_eq!(found.len(), expected, "{prefix}: {found:?}");
        assert!(found.is_sorted() && found.windows(2).all(|two| two[0] != two[1]), "{found:?}");
        assert!(pages >= expected / 7, "{pages}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_is_in_step_once_its_report_answers_the_newest_desired_state() {
    let machine = wall().await;
    assert_eq!(get(&machine, "/v1/nodes/n1/desired").await.status, 404);
    let in_step = async || {
        let list = get(&machine, "/v1/nodes").await.body;
        let found: Vec<_> =
            list["entries"].as_array().unwrap().iter().map(|node| node["in_step"].clone()).collect();
        found
    };
    assert_eq!(in_step().await, [Value::Null, Value::Null]);
    let desired = ask(
        &machine,
        "PATCH",
        "/v1/nodes/n1/desired",
        PATCH,
        r#"{"state":{"input":{"port":2,"none":null},"on":true}}"#,
    )
    .await;
    assert_eq!(
        (desired.status, &desired.body["state"]),
        (201, &json!({ "input": { "port": 2 }, "on": true }))
    );
    let desired =
        ask(&machine, "PATCH", "/v1/nodes/n1/desired", PATCH, r#"{"state":{"input":{"port":3},"on":null}}"#)
            .await;
    assert_eq!(desired.body["state"], json!({ "input": { "port": 3 } }), "{}", desired.text);
    assert_eq!(in_step().await, [json!(false), Value::Null]);
    let report = json!({ "state": { "input": 3 }, "desired_revision": desired.body["revision"] });
    let mut failed = report.clone();
    failed["error"] = json!("no signal");
    assert_eq!(put(&machine, "/v1/nodes/n1/reported", failed.clone()).await.status, 201);
    assert_eq!(in_step().await, [json!(false), Value::Null]);
    let reported = put(&machine, "/v1/nodes/n1/reported", report.clone()).await;
    assert_eq!(in_step().await, [json!(true), Value::Null]);
    let events = "SELECT count(*) FROM events";
    let before = (count(&machine, events), reported.tag());
    let again = put(&machine, "/v1/nodes/n1/reported", report).await;
    let still =
        ask(&machine, "PATCH", "/v1/nodes/n1/desired", PATCH, r#"{"state":{"input":{"port":3}}}"#).await;
    assert_eq!((count(&machine, events), again.tag()), before, "the same again makes no event");
    assert_eq!((still.status, still.tag()), (200, desired.tag()));

    let node =
        ask(&machine, "PATCH", "/v1/nodes/n1", PATCH, r#"{"row":null,"labels":{"side":"left"}}"#).await;
    assert_eq!((&node.body["row"], &node.body["labels"]), (&Value::Null, &json!({ "side": "left" })));
    assert_eq!(ask(&machine, "DELETE", "/v1/nodes/n1", "", "").await.status, 200);
    for path in ["/v1/nodes/n1", "/v1/nodes/n1/desired", "/v1/nodes/n1/reported"] {
        assert_eq!(get(&machine, path).await.status, 404, "{path}");
    }
    assert_eq!(count(&machine, "SELECT count(*) FROM desired_state, reported_state"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_waits_for_each_node_and_an_outcome_is_final() {
    let machine = wall().await;
    let command = json!({ "name": "restart", "arguments": { "hard": true }, "nodes": ["n2", "n1"] });
    let sent = ask(&machine, "POST", "/v1/commands", JSON, &command.to_string()).await;
    assert_eq!(sent.status, 201, "{}", sent.text);
    let path = format!("/v1/commands/{}", sent.body["id"]);
    let pending = json!({ "node": "n1", "status": "pending", "detail": null, "changed_at": null });
    assert_eq!(sent.body["outcomes"][0], pending);
    let report =
        async |node: &str, body: Value| put(&machine, &format!("{path}/outcomes/{node}"), body).await;
    assert_eq!(report("n1", json!({ "status": "pending", "detail": "50 %" })).await.status, 200);
    let done = report("n1", json!({ "status": "done" })).await;
    assert_eq!((done.status, &done.body["outcomes"][0]["status"]), (200, &json!("done")));
    assert_eq!(report("n1", json!({ "status": "done" })).await.tag(), done.tag());
    let late = report("n1", json!({ "status": "failed" })).await;
    assert_problem("final", &(late.status, late.text), 409, &["conflict", "final"]);
    assert_eq!(report("n3", json!({ "status": "done" })).await.status, 404);
    let waiting = get(&machine, "/v1/commands?node=n2&status=pending").await.body;
    assert_eq!(waiting["entries"].as_array().unwrap().len(), 1);
    assert_eq!(get(&machine, "/v1/commands?node=n1&status=pending").await.body, json!({ "entries": [] }));
    ask(&machine, "DELETE", "/v1/nodes/n2", "", "").await;
    let read = get(&machine, &path).await;
    assert_eq!(read.body["outcomes"][1]["status"], "failed", "nobody waits for a node that is gone");
    assert_eq!(read.body["nodes"], json!(["n2", "n1"]));
    let unknown = json!({ "name": "restart", "nodes": ["n1", "n2"] }).to_string();
    let unknown = ask(&machine, "POST", "/v1/commands", JSON, &unknown).await;
    assert_problem("unknown node", &(unknown.status, unknown.text), 400, &["nodes[1]", "n2"]);
    let events = "SELECT group_concat(coalesce(data ->> 'status', 'sent')) FROM (SELECT data FROM events \
        WHERE kind = 'command' ORDER BY id)";
    let events: String = machine.database().query_row(events, [], |row| row.get(0)).unwrap();
    assert_eq!(events, "sent,pending,done,failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_key_gives_the_first_answer_even_where_the_condition_no_longer_holds() {
    let machine = Machine::master("").await;
    let write = async |headers: &str, value: i64| {
        let headers = format!("{JSON}idempotency-key: k-1\r\n{headers}");
        ask(&machine, "PUT", "/v1/config/a", &headers, &json!({ "value": value }).to_string()).await
    };
    let first = write("if-none-match: *\r\n", 1).await;
    let again = write("if-none-match: *\r\n", 1).await;
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text);
    assert_eq!((again.header("idempotency-replayed"), again.tag()), (Some("true"), first.tag()));
    assert_eq!(again.body, first.body);
    assert_eq!((write("", 1).await.status, write("if-none-match: *\r\n", 2).await.status), (422, 422));
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_reads_locally_and_sends_the_rest_to_the_master() {
    let machine = wall().await;
    put(&machine, "/v1/config/a%2Fb", json!({ "value": 1 })).await;
    machine.gate.close();
    machine.follow("http://10.0.0.2:8080");
    let redirect = put(&machine, "/v1/config/a%2Fb", json!({ "value": 2 })).await;
    assert_problem(
        "write",
        &(redirect.status, redirect.text),
        307,
        &["location: http://10.0.0.2:8080/v1/config/a%2Fb", "tanist-master: pc-2"],
    );
    for path in [
        "/v1/config",
        "/v1/config/a%2Fb",
        "/v1/config/a%2Fb/history",
        "/v1/nodes",
        "/v1/nodes/n1",
        "/v1/commands",
    ] {
        assert_eq!(get(&machine, path).await.status, 307, "{path}");
        assert_eq!(get(&machine, &format!("{path}?consistency=local")).await.status, 200, "{path}");
        let bounded = get(&machine, &format!("{path}?consistency=bounded&max_staleness=10s")).await;
        assert_eq!(bounded.status, 200, "{path}");
    }
    assert_problem("bad", &machine.get("/v1/config/-?consistency=local").await, 400, &["key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn person_who_writes_with_another_program_is_recorded_as_unknown() {
    let machine = wall().await;
    let first = put(&machine, "/v1/config/a", json!({ "value": 1 })).await;
    let outside = machine.database();
    outside.execute_batch("UPDATE config SET value = '[ 2 ]'; UPDATE config SET value = '[ 2 ]'").unwrap();
    let read = get(&machine, "/v1/config/a?consistency=local").await;
    assert_eq!(read.body["value"], json!([2]));
    assert_ne!(read.tag(), first.tag());
    let same = put(&machine, "/v1/config/a", json!({ "value": [2] })).await;
    assert_eq!(same.tag(), read.tag(), "the same but for spaces");
    outside.execute_batch("DELETE FROM config").unwrap();
    let history = get(&machine, "/v1/config/a/history").await.body;
    let new: Vec<_> = history["entries"].as_array().unwrap().iter().map(|change| change.get("new")).collect();
    assert_eq!(new, [None, Some(&json!([2])), Some(&json!(1))]);
}

/// Names, methods and bodies that must be refused, each with what the answer names.
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_the_field_and_change_nothing() {
    let machine = wall().await;
    put(&machine, "/v1/config/a", json!({ "value": 1 })).await;
    put(&machine, "/v1/nodes/n1/desired", json!({ "state": {} })).await;
    let command = json!({ "name": "x", "nodes": ["n1"] }).to_string();
    assert_eq!(ask(&machine, "POST", "/v1/commands", JSON, &command).await.status, 201);
    let dump = || -> (i64, i64) {
        (count(&machine, "SELECT max(id) FROM events"), count(&machine, "SELECT txid FROM tanist_position"))
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
