//! One event as watchers see it, and which of them a watcher has asked for.

use bytes::Bytes;
use rusqlite::{Connection, types::ValueRef};
use serde::Deserialize;
use serde_json::json;

use super::row;

/// All kinds of events.
pub(crate) const KINDS: [&str; 8] =
    ["config", "node", "desired", "reported", "command", "token", "cluster", "row"];

/// An event, ready to be sent to any number of watchers.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Its number in the table.
    pub(crate) id: u64,
    pub(crate) kind: Box<str>,
    pub(crate) subject: Box<str>,
    /// The nodes that it concerns, of a kind that agents may see.
    pub(crate) nodes: Box<[Box<str>]>,
    /// As a server-sent event.
    pub(crate) frame: Bytes,
}

/// Events after `after` up to `until`, in order: as many as fit `count` and about `bytes`, and at least one.
pub(crate) fn read(
    connection: &Connection,
    after: u64,
    until: u64,
    filter: &Filter,
    (count, bytes): (usize, usize),
) -> Result<Read, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, subject, at, actor, json(data) FROM tanist_events WHERE id > ?1 AND id <= ?2 ORDER BY id",
    )?;
    let mut rows = statement.query([clamp(after), clamp(until)])?;
    let mut read = Read { events: vec![], until };
    let (mut size, mut looked) = (0, 0);
    while let Some(row) = rows.next()? {
        let id = u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default();
        let (kind, subject) = (text(row.get_ref(1)?), text(row.get_ref(2)?));
        let nodes = nodes(&kind, &subject, &text(row.get_ref(5)?));
        if filter.wants(&kind, &subject, &nodes) {
            let frame = frame(
                id,
                &kind,
                &json!({ "at": text(row.get_ref(3)?), "subject": subject, "actor": optional(row.get_ref(4)?) }),
                &data(&kind, row.get_ref(5)?),
            );
            size += frame.len();
            read.events.push(Shown { id, kind: kind.into(), subject: subject.into(), nodes, frame });
        }
        looked += 1;
        if read.events.len() >= count || size >= bytes || looked >= LOOKED {
            read.until = id;
            break;
        }
    }
    Ok(read)
}

/// Which nodes an event concerns, if it is of a kind that their agents may see.
fn nodes(kind: &str, subject: &str, data: &str) -> Box<[Box<str>]> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Sent {
        node: Option<Box<str>>,
        nodes: Vec<Box<str>>,
    }
    match kind {
        "node" | "desired" | "reported" => [subject.into()].into(),
        // Whatever somebody has written there: what can't be read concerns nobody.
        "command" => {
            let sent: Sent = serde_json::from_str(data).unwrap_or_default();
            sent.node.into_iter().chain(sent.nodes).collect()
        }
        _ => [].into(),
    }
}

/// Rows read at once, wanted or not.
const LOOKED: usize = 10_000;

/// What one look into the table has brought.
#[derive(Debug)]
pub(crate) struct Read {
    /// The wanted events.
    pub(crate) events: Vec<Shown>,
    /// All wanted events up to here are among them.
    pub(crate) until: u64,
}

fn clamp(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// Whatever somebody has written into the table, watchers get text.
fn text(value: ValueRef<'_>) -> String {
    optional(value).unwrap_or_default()
}

/// A row's values look as a query would tell them.
fn data(kind: &str, value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) if kind == "row" => row::told(bytes),
        _ => None,
    }
    .unwrap_or_else(|| text(value))
}

fn optional(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
    }
}

/// `data` is JSON in one line, as SQLite's `json()` gives it.
fn frame(id: u64, kind: &str, head: &serde_json::Value, data: &str) -> Bytes {
    let head = head.to_string();
    let head = head.trim_end_matches('}');
    // A kind is a plain word; should it ever not be, it must not end the line.
    let kind: String = kind.chars().filter(|c| !c.is_control()).collect();
    let data = if data.is_empty() { "null" } else { data };
    Bytes::from(format!("id: {id}\nevent: {kind}\ndata: {head},\"data\":{data}}}\n\n"))
}

/// What a watcher wants; empty lists want everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Only these kinds.
    pub(crate) kinds: Vec<String>,
    /// Only subjects that begin so.
    pub(crate) subject_prefix: String,
    /// Of rows only those of these tables.
    pub(crate) tables: Vec<String>,
    /// Only what concerns this node: an agent's.
    pub(crate) node: Option<Box<str>>,
}

impl Filter {
    /// Whether the watcher wants such an event.
    pub(crate) fn wants(&self, kind: &str, subject: &str, nodes: &[Box<str>]) -> bool {
        self.node.as_ref().is_none_or(|node| nodes.contains(node))
            && (self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind))
            && subject.starts_with(&self.subject_prefix)
            && (kind != "row"
                || self.tables.is_empty()
                || self.tables.iter().any(|table| table.eq_ignore_ascii_case(subject)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../../../migrations/0001_cluster.sql")).unwrap();
        connection.execute_batch(include_str!("../../../migrations/0002_events.sql")).unwrap();
        connection
    }

    fn all(connection: &Connection, filter: &Filter) -> Vec<u64> {
        read(connection, 0, 100, filter, (100, 1 << 20))
            .unwrap()
            .events
            .iter()
            .map(|event| event.id)
            .collect()
    }

    #[test]
    fn event_is_one_server_sent_event_whatever_stands_in_it() {
        let connection = table();
        connection
            .execute_batch(
                "INSERT INTO tanist_events (at, kind, subject, actor, data) VALUES
                 ('t', 'config', 'a\nb\"', NULL, '{ \"x\" :\n [1,\n 2] }'), ('t', 'bad' || char(10) || 'data: x', CAST(x'ff' AS TEXT), 'me', '\"a\\nb\"')",
            )
            .unwrap();
        let read = read(&connection, 0, 9, &Filter::default(), (100, 1 << 20)).unwrap();
        let frames: Vec<_> =
            read.events.iter().map(|event| String::from_utf8(event.frame.to_vec()).unwrap()).collect();
        assert_eq!(
            frames,
            [
                "id: 1\nevent: config\ndata: {\"actor\":null,\"at\":\"t\",\"subject\":\"a\\nb\\\"\",\"data\":{\"x\":[1,2]}}\n\n",
                "id: 2\nevent: baddata: x\ndata: {\"actor\":\"me\",\"at\":\"t\",\"subject\":\"\u{fffd}\",\"data\":\"a\\nb\"}\n\n"
            ]
        );
        assert_eq!(read.until, 9);
    }

    #[test]
    fn filter_is_by_kind_subject_and_table() {
        let connection = table();
        connection
            .execute_batch(
                "INSERT INTO tanist_events (kind, subject) VALUES ('config', 'a/1'), ('node', 'a/2'), ('row', 'Orders'), ('row', 'a/3')",
            )
            .unwrap();
        let filter = |kinds: &[&str], prefix: &str, tables: &[&str]| Filter {
            kinds: kinds.iter().map(ToString::to_string).collect(),
            subject_prefix: prefix.to_owned(),
            tables: tables.iter().map(ToString::to_string).collect(),
            node: None,
        };
        let cases = [
            (filter(&[], "", &[]), vec![1, 2, 3, 4]),
            (filter(&["node", "row"], "", &[]), vec![2, 3, 4]),
            (filter(&[], "a/", &[]), vec![1, 2, 4]),
            (filter(&["row"], "", &["orders"]), vec![3]),
            (filter(&[], "a/", &["orders"]), vec![1, 2]),
        ];
        for (filter, expected) in cases {
            assert_eq!(all(&connection, &filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn reading_is_bounded_in_number_and_bytes_and_goes_on_where_it_stopped() {
        let connection = table();
        for _ in 0..5 {
            connection
                .execute("INSERT INTO tanist_events (kind, subject, data) VALUES ('row', 't', json_quote(printf('%2000d', 1)))", [])
                .unwrap();
        }
        let read = |after, limit| read(&connection, after, 5, &Filter::default(), limit).unwrap();
        assert_eq!((read(0, (2, 1 << 20)).events.len(), read(0, (2, 1 << 20)).until), (2, 2));
        assert_eq!((read(2, (9, 3000)).events.len(), read(2, (9, 3000)).until), (2, 4));
        assert_eq!((read(4, (9, 10)).events.len(), read(4, (9, 10)).until), (1, 5));
        assert_eq!((read(5, (9, 10)).events.len(), read(5, (9, 10)).until), (0, 5));
    }
}
