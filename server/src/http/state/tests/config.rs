//! Configuration, conditions, idempotency keys, and who may be asked.

use super::*;

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
    assert_eq!(same.header("tanist-position"), first.header("tanist-position"), "not even a transaction");
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
    assert_eq!(count(&machine, "SELECT count(*) FROM tanist_events WHERE kind = 'config'"), 4);
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
    for (prefix, expected) in [("", 75), ("b%2F", 50), ("b/y", 25), ("a07", 1), ("c", 0)] {
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
    outside
        .execute_batch("UPDATE tanist_config SET value = '[ 2 ]'; UPDATE tanist_config SET value = '[ 2 ]'")
        .unwrap();
    let read = get(&machine, "/v1/config/a?consistency=local").await;
    assert_eq!(read.body["value"], json!([2]));
    assert_ne!(read.tag(), first.tag());
    let same = put(&machine, "/v1/config/a", json!({ "value": [2] })).await;
    assert_eq!(same.tag(), read.tag(), "the same but for spaces");
    outside.execute_batch("DELETE FROM tanist_config").unwrap();
    let history = get(&machine, "/v1/config/a/history").await.body;
    let new: Vec<_> = history["entries"].as_array().unwrap().iter().map(|change| change.get("new")).collect();
    assert_eq!(new, [None, Some(&json!([2])), Some(&json!(1))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_has_no_tables_yet_sends_its_clients_elsewhere() {
    let machine = Machine::master("").await;
    machine
        .database()
        .execute_batch("DROP TABLE tanist_config_history; DROP TABLE tanist_command_outcomes")
        .unwrap();
    for path in ["/v1/config/a/history", "/v1/commands"] {
        let answer = get(&machine, &format!("{path}?consistency=local")).await;
        assert_problem(path, &(answer.status, answer.text), 503, &["not-fresh"]);
    }
}
