//! JSON values as parameters: what goes into SQLite and comes out again is the same value.

use std::cell::OnceCell;

use rusqlite::Connection;
use serde_json::Value;
use tanist_api::{Params, Statement};
use tanist_server::sql::{self, SqlErrorKind, SqlLimits};

#[rustfmt::skip]
pub(crate) const WORDS: &[&[u8]] = &[
    b"null", b"true", b"1e400", b"-0", b"-0.0", b"1e-400", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1e308",
    b"2.2250738585072011e-308", b"31.245270191439438", b"0.1", b"\"\\u0000\"", b"\"\\ud83d\\ude00\"", b"{\"base64\":\"AAEC\"}", b"{\"base64\":\"A\"}", b"{\"real\":\"-Infinity\"}", b"{\"text_base64\":\"Zv9v\"}", b"[", b"]", b",", b"\"",
];

pub(crate) fn run(input: &[u8]) {
    thread_local! {
        static CONNECTION: OnceCell<Connection> = const { OnceCell::new() };
    }
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    let read = std::str::from_utf8(input).map(|text| {
        // As a request brings it: a number that SQLite can't hold as it is written is refused here.
        serde_json::from_str::<Statement>(&format!("{{\"sql\":\"S\",\"params\":[{text}]}}"))
    });
    let Ok(Ok(Statement { params: Params::Positional(values), .. })) = read else {
        assert!(matches!(&value, Value::Number(_)), "{value} is refused");
        return;
    };
    if let (Value::Number(number), Ok(text)) = (&values[0], std::str::from_utf8(input)) {
        let integer = !text.contains(['.', 'e', 'E']);
        assert_eq!(number.is_i64(), integer, "{text} is read as {number}");
    }
    if let (Value::Number(number), Ok(text)) = (&value, std::str::from_utf8(input))
        && let (Some(read), Ok(right)) = (number.as_f64(), text.trim().parse::<f64>())
    {
        assert_eq!(read.to_bits() << 1, right.to_bits() << 1, "{text} is read as {read}");
    }
    let limits = SqlLimits { rows: 1, bytes: 1 << 20 };
    let statement = Statement::with("SELECT ?1, typeof(?1)", vec![value.clone()]);
    let named = Statement {
        sql: "SELECT :a".to_owned(),
        params: Params::Named([("a".to_owned(), value.clone())].into_iter().collect()),
    };
    let found = CONNECTION.with(|cell| {
        let connection = cell.get_or_init(|| match Connection::open_in_memory() {
            Ok(connection) => connection,
            Err(error) => panic!("set up: {error}"),
        });
        (
            sql::run(connection, &[statement], &limits).map(|mut results| results.remove(0)),
            sql::run(connection, &[named], &limits).map(|mut results| results.remove(0)),
        )
    });
    match found {
        (Ok(by_place), Ok(by_name)) => {
            let [row] = &by_place.rows[..] else { panic!("{by_place:?}") };
            assert_eq!(by_name.rows, [vec![row[0].clone()]], "by place and by name");
            match value {
                Value::Bool(flag) => assert_eq!(row[0], Value::from(i64::from(flag))),
                // Another text may stand for the same bytes.
                Value::Object(object) => {
                    let told =
                        ["base64", "real", "text_base64"].into_iter().find(|name| row[0].get(name).is_some());
                    let text = row[0].is_string().then_some("text_base64");
                    assert!(told.or(text).is_some_and(|name| object.contains_key(name)), "{row:?}");
                }
                value => assert_eq!(row[0], value, "{row:?}"),
            }
        }
        (Err(by_place), Err(by_name)) => {
            assert_eq!(by_place.kind, SqlErrorKind::BadParameter, "{by_place}");
            assert_eq!(by_name.kind, SqlErrorKind::BadParameter, "{by_name}");
        }
        (by_place, by_name) => panic!("{value}: {by_place:?} by place, {by_name:?} by name"),
    }
}
