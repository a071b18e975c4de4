//! Values of SQL as JSON, in and out: one representation for parameters, answers and the events of watched tables.
//!
//! What JSON has no word for is an object of one field: `base64`, `real` or `text_base64`. docs/sql.md lists them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::{ToSql, ToSqlOutput, Value as SqlValue, ValueRef};
use serde_json::{Map, Value, json};

const OBJECTS: &str =
    r#"{"base64": "..."}, {"real": "Infinity"}, {"real": "-Infinity"} or {"text_base64": "..."}"#;

/// A parameter, ready to be bound.
pub(super) enum Parameter<'v> {
    Value(ToSqlOutput<'v>),
    /// Text of any bytes.
    Text(Vec<u8>),
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>, rusqlite::Error> {
        match self {
            Parameter::Value(value) => value.to_sql(),
            Parameter::Text(bytes) => Ok(ToSqlOutput::Borrowed(ValueRef::Text(bytes))),
        }
    }
}

/// A parameter as somebody has written it. Its numbers were checked when the request was read.
pub(super) fn parameter(value: &Value) -> Result<Parameter<'_>, String> {
    Ok(Parameter::Value(match value {
        Value::Null => ToSqlOutput::Owned(SqlValue::Null),
        Value::Bool(flag) => ToSqlOutput::Owned(SqlValue::Integer(i64::from(*flag))),
        Value::String(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => ToSqlOutput::Owned(SqlValue::Integer(integer)),
            (None, Some(real)) if !number.is_u64() => ToSqlOutput::Owned(SqlValue::Real(real)),
            _ => return Err(format!("found {number}, expected an integer of 64 bits with sign")),
        },
        Value::Object(object) => return of_object(object),
        Value::Array(_) => {
            return Err(format!("found an array, expected null, a boolean, a number, a string, {OBJECTS}"));
        }
    }))
}

fn of_object(object: &Map<String, Value>) -> Result<Parameter<'static>, String> {
    let mut fields = object.iter();
    let (Some((name, Value::String(text))), None) = (fields.next(), fields.next()) else {
        return Err(format!("found an object, expected {OBJECTS}"));
    };
    let bytes = || STANDARD.decode(text).map_err(|error| format!("{name}: {error}"));
    let value = match (name.as_str(), text.as_str()) {
        ("base64", _) => SqlValue::Blob(bytes()?),
        ("real", "Infinity") => SqlValue::Real(f64::INFINITY),
        ("real", "-Infinity") => SqlValue::Real(f64::NEG_INFINITY),
        ("text_base64", _) => return Ok(Parameter::Text(bytes()?)),
        _ => return Err(format!("found an object, expected {OBJECTS}")),
    };
    Ok(Parameter::Value(ToSqlOutput::Owned(value)))
}

/// A result.
pub(crate) fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => json!(integer),
        ValueRef::Real(real) => real_to_json(real),
        ValueRef::Text(text) => text_to_json(text),
        ValueRef::Blob(blob) => blob_to_json(blob),
    }
}

/// Neither SQLite's text nor its JSON knows the sign of a zero, so it isn't told.
pub(crate) fn real_to_json(real: f64) -> Value {
    match real {
        0.0 => json!(0.0),
        f64::INFINITY => json!({ "real": "Infinity" }),
        f64::NEG_INFINITY => json!({ "real": "-Infinity" }),
        real => json!(real),
    }
}

/// Text may be any bytes: a CAST makes it of a blob.
pub(crate) fn text_to_json(text: &[u8]) -> Value {
    match str::from_utf8(text) {
        Ok(text) => json!(text),
        Err(_) => json!({ "text_base64": STANDARD.encode(text) }),
    }
}

pub(crate) fn blob_to_json(blob: &[u8]) -> Value {
    json!({ "base64": STANDARD.encode(blob) })
}
