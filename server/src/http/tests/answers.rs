//! Generated SQL of users, statement for statement, over HTTP and on a plain SQLite: what is answered must be what SQLite did.
//!
//! `TANIST_SQL_SEED=s` replays one seed, `TANIST_SQL_STATEMENTS=n` says how long, `TANIST_SQL_SECONDS=n` tries new seeds for so long.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rusqlite::{Connection, Error, params_from_iter, types::ValueRef};
use serde_json::{Map, Value, json};
use tanist_sql_generator::{Generated, Generator, Kind};

use super::*;

/// What the last insert is on the plain SQLite before each statement; no generated row has this number.
const NONE: i64 = -9_870_123_456_789;

/// The plain SQLite. Statements are never prepared before they are run, so that nothing of an older schema is left.
struct Plain(Connection);

impl Plain {
    fn new() -> Plain {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("PRAGMA foreign_keys = ON; CREATE TEMP TABLE last(id INTEGER PRIMARY KEY)")
            .unwrap();
        Plain(connection)
    }

    fn run(&self, generated: &Generated) -> Result<Value, Option<i32>> {
        let db = &self.0;
        db.execute_batch("SAVEPOINT one").unwrap();
        db.execute("INSERT INTO temp.last VALUES (?)", [NONE]).unwrap();
        db.execute("DELETE FROM temp.last", []).unwrap();
        let done = self.answer(generated);
        if done.is_err() {
            db.execute_batch("ROLLBACK TO one").unwrap();
        }
        db.execute_batch("RELEASE one").unwrap();
        done.map_err(|error| match error {
            Error::SqliteFailure(error, _) | Error::SqlInputError { error, .. } => Some(error.extended_code),
            _ => None,
        })
    }

    fn answer(&self, generated: &Generated) -> Result<Value, Error> {
        let mut statement = self.0.prepare(&generated.sql)?;
        let mut cursor = statement.query(params_from_iter(generated.params.iter().map(bound)))?;
        let mut rows = vec![];
        while let Some(row) = cursor.next()? {
            let count = row.as_ref().column_count();
            rows.push((0..count).map(|at| told(row.get_ref(at).unwrap())).collect::<Value>());
        }
        drop(cursor);
        let mut result = Map::new();
        let columns: Vec<_> = statement.column_names().map(str::to_owned).collect();
        if !columns.is_empty() {
            result.insert("columns".to_owned(), json!(columns));
            result.insert("rows".to_owned(), json!(rows));
        }
        drop(statement);
        if matches!(generated.kind, Kind::Insert | Kind::Change) {
            result.insert("rows_affected".to_owned(), json!(self.0.changes()));
        }
        let last = self.0.last_insert_rowid();
        if generated.kind == Kind::Insert && last != NONE {
            result.insert("last_insert_id".to_owned(), json!(last));
        }
        Ok(Value::Object(result))
    }
}

fn decoded(text: &Value) -> Vec<u8> {
    STANDARD.decode(text.as_str().unwrap()).unwrap()
}

enum Bound {
    Value(rusqlite::types::Value),
    Text(Vec<u8>),
}

impl rusqlite::ToSql for Bound {
    fn to_sql(&self) -> Result<rusqlite::types::ToSqlOutput<'_>, Error> {
        Ok(match self {
            Bound::Value(value) => value.into(),
            Bound::Text(bytes) => rusqlite::types::ToSqlOutput::Borrowed(ValueRef::Text(bytes)),
        })
    }
}

/// A parameter, as docs/sql.md says.
fn bound(value: &Value) -> Bound {
    use rusqlite::types::Value as Sql;
    Bound::Value(match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer(i64::from(*flag)),
        Value::Number(number) if number.is_i64() => Sql::Integer(number.as_i64().unwrap()),
        Value::Number(number) => Sql::Real(number.as_f64().unwrap()),
        Value::String(text) => Sql::Text(text.clone()),
        Value::Object(object) if object.contains_key("base64") => Sql::Blob(decoded(&object["base64"])),
        Value::Object(object) if object.contains_key("real") => Sql::Real(f64::INFINITY),
        Value::Object(object) => return Bound::Text(decoded(&object["text_base64"])),
        Value::Array(_) => unreachable!("no parameter is an array"),
    })
}

/// A value, as docs/sql.md says.
fn told(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) if number.is_infinite() => {
            json!({ "real": if number > 0.0 { "Infinity" } else { "-Infinity" } })
        }
        ValueRef::Real(number) => json!(number + 0.0), // the sign of a zero isn't told
        ValueRef::Text(bytes) => match String::from_utf8(bytes.to_vec()) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text_base64": STANDARD.encode(bytes) }),
        },
        ValueRef::Blob(bytes) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

impl Machine {
    /// The statement's result, or its problem.
    async fn generated(&self, generated: &Generated, by_reader: bool) -> (u16, Value) {
        let body =
            json!({ "statements": [{ "sql": generated.sql, "params": generated.params }] }).to_string();
        let (status, answer) = match by_reader {
            true => self.post("/v1/query", "content-type: application/json\r\n", body.as_bytes()).await,
            false => self.execute(&body).await,
        };
        let text = answer.split_once("\r\n\r\n").unwrap_or_default().1;
        let mut json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {answer}"));
        (status, if status == 200 { json["results"][0].take() } else { json })
    }
}

/// As text: 1 and 1.0 are not the same.
fn same(answer: &Value, expected: &Value) -> bool {
    let [answer, expected] = [answer, expected].map(Value::to_string);
    answer == expected
}

#[derive(Debug, Default)]
struct Counts {
    accepted: u32,
    refused: u32,
    denied: u32,
}

async fn compare(machine: &Machine, seed: u64, statements: usize) -> Counts {
    let mut generator = Generator::new(seed);
    let plain = Plain::new();
    let mut counts = Counts::default();
    let mut log = vec![];
    let fail = |log: &[String], what: String| -> ! {
        let log = log.join("\n  ");
        panic!("{what}\nTANIST_SQL_SEED={seed} replays it:\n  {log}");
    };
    for at in 0..statements {
        let generated = generator.next_statement();
        let by_reader = generated.kind == Kind::Read && at % 3 != 0;
        log.push(format!("{:?} {}", generated.sql, json!(generated.params)));
        log.drain(..log.len().saturating_sub(40));
        let (status, answer) = machine.generated(&generated, by_reader).await;
        if answer["code"] == "sql-denied" {
            counts.denied += 1;
            generator.accepted(false);
            continue;
        }
        match plain.run(&generated) {
            Ok(expected) if status == 200 => {
                counts.accepted += 1;
                if !same(&answer, &expected) {
                    fail(&log, format!("answered {answer}\nexpected {expected}"));
                }
                generator.accepted(true);
            }
            Err(code) if status != 200 => {
                counts.refused += 1;
                if answer["sqlite_code"].as_i64() != code.map(i64::from) {
                    fail(&log, format!("answered {answer}, expected SQLite's code {code:?}"));
                }
                let offset = answer["sql_offset"].as_u64().unwrap_or_default();
                let length = generated.sql.chars().count() as u64;
                let detail = answer["detail"].as_str().unwrap_or_default();
                if offset > length || detail.contains("/**/") || answer.to_string().len() > 2000 {
                    fail(&log, format!("answered {answer}"));
                }
                generator.accepted(false);
            }
            expected => fail(&log, format!("answered {status} {answer}\nexpected {expected:?}")),
        }
    }
    for table in generator.tables() {
        let all = Generated { sql: format!("SELECT * FROM {table}"), params: vec![], kind: Kind::Read };
        let (_, answer) = machine.generated(&all, true).await;
        if let Ok(expected) = plain.run(&all)
            && !same(&answer, &expected)
        {
            fail(&log, format!("{table} holds {answer}\nexpected {expected}"));
        }
    }
    counts
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_statements_are_answered_as_sqlite_answers_them() {
    let statements = number("TANIST_SQL_STATEMENTS").map_or(400, |count| usize::try_from(count).unwrap());
    if let Some(seconds) = number("TANIST_SQL_SECONDS") {
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut seed = clock::now_ns();
        while Instant::now() < until {
            let machine = Machine::start("").await;
            machine.reign();
            compare(&machine, seed, statements).await;
            seed += 1;
        }
        return;
    }
    let seeds = number("TANIST_SQL_SEED").map_or((1..=3).collect(), |seed| vec![seed]);
    let mut all = Counts::default();
    for seed in seeds {
        let machine = Machine::start("").await;
        machine.reign();
        let counts = compare(&machine, seed, statements).await;
        all.accepted += counts.accepted;
        all.refused += counts.refused;
        all.denied += counts.denied;
    }
    // A generator of nothing but errors would find nothing.
    assert!(all.accepted > 2 * all.refused && all.denied * 50 < all.accepted, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_values_are_told_alike_by_queries_and_by_events() {
    let machine = Machine::master("").await;
    let statement = |sql: String| Generated { sql, params: vec![], kind: Kind::Change };
    let (status, made) = machine.generated(&statement("CREATE TABLE told(hex, v)".to_owned()), false).await;
    assert_eq!(status, 200, "{made}");
    let put = "PUT /v1/watched-tables/told HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\ncontent-type: application/json\r\n\r\n";
    let (status, answer) = machine.send(put.as_bytes()).await;
    assert_eq!(status, 200, "{answer}");
    let mut generator = Generator::new(number("TANIST_SQL_SEED").unwrap_or(1));
    let mut stream = events::Stream::open(&machine, "?after=0&kinds=row", "").await;
    for _ in 0..150 {
        let literal = generator.literal();
        let insert = format!("INSERT INTO told VALUES ('a', {literal}) RETURNING hex, v");
        let (status, answer) = machine.generated(&statement(insert), false).await;
        assert_eq!(status, 200, "{answer}");
        stream.until("event: row\ndata: ").await;
        let event: Value = serde_json::from_str(&stream.until("\n\n").await).unwrap();
        let row = json!([event["data"]["new"]["hex"], event["data"]["new"]["v"]]);
        assert_eq!(row.to_string(), answer["rows"][0].to_string(), "{literal}");
    }
}
