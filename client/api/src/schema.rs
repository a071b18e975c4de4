//! Shapes of what is any JSON to Rust and isn't to users: values and parameters of SQL. For the schemas alone.
#![expect(dead_code, reason = "only their schemas are used")]

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

/// A value of SQL. A boolean is stored as 0 or 1. A number without a point and an exponent is an integer of 64 bits with sign,
/// any other a real of 64 bits; what doesn't fit is refused. The sign of a real zero isn't told.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum SqlValue {
    Null,
    Boolean(bool),
    Number(f64),
    Text(String),
    Blob(Blob),
    Infinite(Infinite),
    NotUtf8(NotUtf8),
}

/// Bytes.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blob {
    /// Padded, with `+` and `/`.
    #[schema(pattern = "^[A-Za-z0-9+/]*={0,2}$", example = "AAEC")]
    base64: String,
}

/// A real that JSON has no number for.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Infinite {
    /// `Infinity` or `-Infinity`.
    #[schema(pattern = "^-?Infinity$", example = "Infinity")]
    real: String,
}

/// Text whose bytes aren't UTF-8, as a CAST makes it of a blob.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotUtf8 {
    /// Padded, with `+` and `/`.
    #[schema(pattern = "^[A-Za-z0-9+/]*={0,2}$", example = "Zv9v")]
    text_base64: String,
}

/// An array for `?` and `?1`, or an object for `:name`, `@name`, `$name` (keys with or without the prefix).
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Params {
    Positional(Vec<SqlValue>),
    Named(HashMap<String, SqlValue>),
}
