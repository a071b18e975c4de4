//! Values and names as SQL text, each on one line, so that a statement can stand in a comment.

use rusqlite::types::ValueRef;

/// A name in double quotes.
pub(super) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len() + 3);
    text.push_str("x'");
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\'');
    text
}

/// A value that SQLite reads back exactly as it was.
pub(super) fn value(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) if number.is_infinite() => {
            if number > 0.0 {
                "9e999".to_owned()
            } else {
                "-9e999".to_owned()
            }
        }
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains(|c: char| c.is_control()) => {
                format!("'{}'", text.replace('\'', "''"))
            }
            _ => format!("CAST({} AS TEXT)", hex(bytes)),
        },
        ValueRef::Blob(bytes) => hex(bytes),
    }
}

/// Bytes that the value takes as SQL, at most.
pub(super) fn bound(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => 2 * bytes.len() as u64 + 32,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, types::Value};

    use super::*;

    #[test]
    fn values_read_back_as_they_were() {
        let connection = Connection::open_in_memory().unwrap();
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(0.1),
            Value::Real(5.0),
            Value::Real(-1e300),
            Value::Real(f64::INFINITY),
            Value::Text("it's\n\"two\" lines\0".to_owned()),
            Value::Text("plain 'text'".to_owned()),
            Value::Blob(vec![0, 255]),
            Value::Blob(vec![]),
        ];
        for original in values {
            let text = value(ValueRef::from(&original));
            assert!(!text.contains('\n'), "{text}");
            let read: Value = connection.query_row(&format!("SELECT {text}"), [], |row| row.get(0)).unwrap();
            assert_eq!(read, original, "{text}");
        }
        assert_eq!(name("a\"b"), "\"a\"\"b\"");
    }
}
