//! The routes of the control room on a real socket, read pool and database.

mod config;
mod nodes;
mod refused;

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
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
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
