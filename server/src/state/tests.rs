//! Changes on a database in memory, with the real migrations: who signs, and what writes nothing.

use rusqlite::Connection;
use serde_json::json;
use tanist_api::{NewCommand, NewOutcome, NodeSpec, OutcomeStatus, Report};

use super::*;

fn database() -> Connection {
    let db = Connection::open_in_memory().unwrap();
    for migration in [
        include_str!("../../../migrations/0001_cluster.sql"),
        include_str!("../../../migrations/0002_events.sql"),
        include_str!("../../../migrations/0003_state.sql"),
    ] {
        db.execute_batch(migration).unwrap();
    }
    db
}

fn change(db: &Connection, actor: Option<&str>, action: Action) -> Done {
    let change = Change { action, condition: Condition::default(), actor: actor.map(str::to_owned) };
    run(db, &change).unwrap_or_else(|error| panic!("{change:?}: {error:?}"))
}

fn set(value: i64) -> Action {
    Action::SetConfig { key: "a".to_owned(), value: json!(value) }
}

fn rows(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn each_change_is_signed_by_whoever_made_it_a_removal_too() {
    let db = database();
    change(&db, Some("anna"), set(1));
    change(&db, None, set(2));
    db.execute("UPDATE tanist_config SET value = '3'", []).unwrap();
    change(&db, Some("bert"), set(4));
    change(&db, Some("carl"), Action::RemoveConfig { key: "a".to_owned() });
    change(&db, Some("dora"), set(5));
    db.execute("DELETE FROM tanist_config", []).unwrap();
    let expected = ["anna", "-", "-", "bert", "carl", "dora", "-"];
    assert_eq!(
        rows(&db, "SELECT coalesce(changed_by, '-') FROM tanist_config_history ORDER BY revision"),
        expected
    );
    assert_eq!(rows(&db, "SELECT coalesce(actor, '-') FROM tanist_events ORDER BY id"), expected);
    assert!(rows(&db, "SELECT name FROM tanist_actor").is_empty());
}

#[test]
fn name_that_a_person_left_behind_signs_nothing_of_others() {
    let db = database();
    db.execute("INSERT INTO tanist_actor (id, name) VALUES (1, 'forgotten')", []).unwrap();
    change(&db, None, set(1));
    assert_eq!(rows(&db, "SELECT coalesce(changed_by, '-') FROM tanist_config"), ["-"]);
}

#[test]
fn same_again_writes_no_row() {
    let db = database();
    let node = || "n1".to_owned();
    let state = || json!({ "a": [1, 2.5, null] }).as_object().unwrap().clone();
    let spec = || NodeSpec { address: Some("10.0.0.1".to_owned()), row: Some(1), ..NodeSpec::default() };
    let report = || Report { state: state(), desired_revision: Some(3), error: None };
    let command = NewCommand { name: "stop".to_owned(), arguments: json!(null), nodes: vec![node()] };
    let outcome = || NewOutcome { status: OutcomeStatus::Done, detail: json!({ "b": 1, "a": 2 }) };
    let all = || {
        [
            set(1),
            Action::SetNode { name: node(), spec: spec() },
            Action::PatchNode { name: node(), patch: json!({ "row": 1, "column": null }) },
            Action::SetDesired { node: node(), state: state() },
            Action::PatchDesired { node: node(), patch: json!({ "state": { "b": null } }) },
            Action::Report { node: node(), report: report() },
        ]
    };
    let mut first: Vec<_> = all().into_iter().map(|action| change(&db, Some("anna"), action)).collect();
    change(&db, None, Action::SendCommand(command));
    let report_outcome = || Action::ReportOutcome { command: 1, node: node(), outcome: outcome() };
    first.push(change(&db, Some("n1"), report_outcome()));
    let before = db.total_changes();
    for (action, first) in all().into_iter().chain([report_outcome()]).zip(first) {
        let again = change(&db, Some("bert"), action);
        assert_eq!((again.revision, again.body, again.created), (first.revision, first.body, false));
    }
    assert_eq!(db.total_changes(), before);
}

#[test]
fn what_the_limits_let_pass_the_tables_take() {
    let db = database();
    let edges = ["a", "0", "Z9-_.", &"k".repeat(63)];
    for name in edges {
        assert!(is_name(name) && is_key(name));
        let spec = NodeSpec {
            address: Some("ä".repeat(255)),
            row: Some(1_000_000),
            column: Some(0),
            labels: [("a/b".to_owned(), json!(""))].into_iter().collect(),
        };
        check_node(&spec).unwrap();
        change(&db, None, Action::SetNode { name: name.to_owned(), spec });
        let command =
            NewCommand { name: name.to_owned(), arguments: json!([]), nodes: vec![name.to_owned()] };
        check_command(&command).unwrap();
        change(&db, None, Action::SendCommand(command));
    }
    let longest = format!("a{}", ":/".repeat(127));
    for key in [longest.as_str(), "a/b:c_d-e.f"] {
        assert!(is_key(key));
        let mut value = json!("x".repeat((256 << 10) - 66));
        for _ in 0..32 {
            value = json!([value]);
        }
        check_value("value", &value).unwrap();
        change(&db, None, Action::SetConfig { key: key.to_owned(), value });
    }
    // And what they refuse, the tables refuse too.
    for name in ["", "-a", ".", "a b", "aä", "a/b", "a:b", &"k".repeat(64)] {
        assert!(!is_name(name), "{name}");
        assert!(db.execute("INSERT INTO tanist_nodes (name) VALUES (?1)", [name]).is_err(), "{name}");
    }
    for key in ["", "/a", "a b", "aä", "a\n", &"k".repeat(256)] {
        assert!(!is_key(key), "{key}");
        assert!(
            db.execute("INSERT INTO tanist_config (key, value) VALUES (?1, '1')", [key]).is_err(),
            "{key}"
        );
    }
}

#[test]
fn person_may_sign_a_transaction_of_his_own() {
    let db = database();
    db.execute_batch(
        "BEGIN; INSERT INTO tanist_actor VALUES (1, 'anna'); INSERT INTO tanist_config (key, value) VALUES ('a', '1'); \
         DELETE FROM tanist_actor; COMMIT",
    )
    .unwrap();
    assert_eq!(rows(&db, "SELECT changed_by FROM tanist_config_history"), ["anna"]);
}

#[test]
fn outcome_of_a_change_is_read_as_it_was_kept() {
    for created in [true, false] {
        let done = Done { created, revision: 812, body: "{\"value\":\"two\\nlines\n\"}".to_owned() };
        assert_eq!(Done::decode(&done.encode()), Some(done));
    }
    for odd in [&b""[..], b"created 5", b"created\n{}", b"created x\n{}", b"\xff 5\n{}"] {
        assert_eq!(Done::decode(odd), None);
    }
}

#[test]
fn odd_json_of_a_person_is_replaced_and_never_in_the_way() {
    let db = database();
    // SQLite takes both; Rust's parser doesn't.
    for odd in ["1e999", "\"\\ud800\""] {
        db.execute("REPLACE INTO tanist_config (key, value) VALUES ('a', ?1)", [odd]).unwrap();
        let shown = entry(&db, select::CONFIG, "a").unwrap().unwrap().1;
        assert!(shown.contains(odd), "{shown}");
        assert!(change(&db, None, set(1)).body.contains("\"value\":1"));
    }
    assert_eq!(rows(&db, "SELECT new_value FROM tanist_config_history ORDER BY revision").len(), 4);
}

#[test]
fn hold_of_the_level_is_signed_told_once_and_let_go() {
    let db = database();
    db.execute_batch("CREATE TABLE tanist_schema (version INTEGER); INSERT INTO tanist_schema VALUES (6)")
        .unwrap();
    let shown = |done: Done| serde_json::from_str::<tanist_api::Upgrade>(&done.body).unwrap();
    let released = shown(change(&db, Some("bert"), Action::ReleaseUpgrade));
    assert!(!released.held && released.level == 6, "{released:?}");
    for actor in ["anna", "bert"] {
        let held = shown(change(&db, Some(actor), Action::HoldUpgrade));
        assert_eq!((held.held, held.held_by.as_deref()), (true, Some("anna")), "who was first");
    }
    let released = shown(change(&db, Some("carl"), Action::ReleaseUpgrade));
    assert_eq!((released.held, released.held_by), (false, None));
    let told = "SELECT subject || ' ' || json_extract(data, '$.what') || ' ' || actor FROM tanist_events ORDER BY id";
    assert_eq!(rows(&db, told), ["level hold anna", "level go carl"]);
}
