//! Nodes, their states, and commands.

use super::*;

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
    let events = "SELECT count(*) FROM tanist_events";
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
    assert_eq!(count(&machine, "SELECT count(*) FROM tanist_desired_state, tanist_reported_state"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_waits_for_each_node_and_an_outcome_is_final() {
    let machine = wall().await;
    let command = json!({ "name": "restart", "arguments": { "hard": true }, "nodes": ["n2", "n1"] });
    let sent = ask(&machine, "POST", "/v1/commands", JSON, &command.to_string()).await;
    assert_eq!(sent.status, 201, "{}", sent.text);
    let headers = format!("{JSON}if-match: *\r\n");
    let nothing = ask(&machine, "POST", "/v1/commands", &headers, &command.to_string()).await;
    assert_eq!(nothing.status, 412, "a new command matches nothing that there is");
    let path = format!("/v1/commands/{}", sent.body["id"]);
    let pending = json!({ "node": "n1", "status": "pending", "detail": null, "changed_at": null });
    assert_eq!(sent.body["outcomes"][0], pending, "{}", sent.text);
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
    for (query, found) in
        [("node=n1", 1), ("node=n1&status=done", 1), ("status=done", 1), ("status=failed", 0)]
    {
        let list = get(&machine, &format!("/v1/commands?{query}")).await.body;
        assert_eq!(list["entries"].as_array().unwrap().len(), found, "{query}");
    }
    ask(&machine, "DELETE", "/v1/nodes/n2", "", "").await;
    let read = get(&machine, &path).await;
    assert_eq!(read.body["outcomes"][1]["status"], "failed", "nobody waits for a node that is gone");
    assert_eq!(read.body["nodes"], json!(["n2", "n1"]));
    let unknown = json!({ "name": "restart", "nodes": ["n1", "n2"] }).to_string();
    let unknown = ask(&machine, "POST", "/v1/commands", JSON, &unknown).await;
    assert_problem("unknown node", &(unknown.status, unknown.text), 400, &["nodes[1]", "n2"]);
    let events = "SELECT group_concat(coalesce(data ->> 'status', 'sent')) FROM (SELECT data FROM tanist_events \
        WHERE kind = 'command' ORDER BY id)";
    let events: String = machine.database().query_row(events, [], |row| row.get(0)).unwrap();
    assert_eq!(events, "sent,pending,done,failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_to_a_node_come_in_pages_newest_first() {
    let machine = wall().await;
    for i in 0..30 {
        let nodes = if i % 3 == 0 { json!(["n2"]) } else { json!(["n1", "n2"]) };
        let command = json!({ "name": "step", "arguments": i, "nodes": nodes }).to_string();
        let sent = ask(&machine, "POST", "/v1/commands", JSON, &command).await;
        if i % 3 == 1 {
            let path = format!("/v1/commands/{}/outcomes/n1", sent.body["id"]);
            assert_eq!(put(&machine, &path, json!({ "status": "done" })).await.status, 200);
        }
    }
    for (query, expected) in
        [("", 30), ("&node=n1", 20), ("&node=n1&status=pending", 10), ("&status=done", 10)]
    {
        let (mut found, mut before) = (Vec::new(), String::new());
        loop {
            let page = get(&machine, &format!("/v1/commands?limit=4{query}{before}")).await.body;
            let entries = page["entries"].as_array().unwrap();
            found.extend(entries.iter().map(|command| -command["id"].as_i64().unwrap()));
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        assert!(found.len() == expected && found.is_sorted(), "{query}: {found:?}");
    }
}
