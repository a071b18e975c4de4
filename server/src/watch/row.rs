//! A changed row as watchers are told of it: values look as in the answer of a query (`sql/value.rs`).
//!
//! Triggers write what every SQLite can write (`tables.rs`); here blobs, reals and text that isn't UTF-8 get the form that all else
//! has. Works on the text, byte by byte, because column order and integers shall stay as they are.

use serde_json::Value;

use crate::sql::value::{blob_to_json, real_to_json, text_to_json};

/// Values stand in the objects `old` and `new` of the event's data.
const VALUES: usize = 2;

/// The data of an event of kind `row`, or `None` when no watching trigger has written it.
pub(super) fn told(data: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(data.len());
    let mut rest = data;
    let mut depth = 0_usize;
    let mut is_value = false;
    while let Some(&first) = rest.first() {
        let here = is_value && depth == VALUES;
        let length = match first {
            b'"' => string_length(rest)?,
            b'{' if here => rest.iter().position(|&byte| byte == b'}')? + 1,
            b'-' | b'0'..=b'9' => rest.iter().position(|byte| b",}]".contains(byte))?,
            _ => 1,
        };
        let (token, after) = rest.split_at_checked(length)?;
        rest = after;
        match first {
            b'"' if here && str::from_utf8(token).is_err() => {
                push(&mut out, &text_to_json(&unescaped(token)?))
            }
            b'{' if here => push(&mut out, &object(token)?),
            b'-' | b'0'..=b'9' if here && token.iter().any(|byte| b".eE".contains(byte)) => {
                push(&mut out, &real_to_json(str::from_utf8(token).ok()?.parse().ok()?));
            }
            _ => out.push_str(&String::from_utf8_lossy(token)),
        }
        match first {
            b'{' if !here => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        is_value = first == b':';
    }
    (depth == 0 && !out.is_empty()).then_some(out)
}

fn push(out: &mut String, value: &Value) {
    out.push_str(&value.to_string());
}

/// What a trigger has written for a value that is no word of JSON's.
fn object(token: &[u8]) -> Option<Value> {
    let inner = |name: &[u8]| token.strip_prefix(name)?.strip_suffix(b"\"}");
    if let Some(digits) = inner(b"{\"hex\":\"") {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pairs = digits.chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        return Some(blob_to_json(&pairs.collect::<Option<Vec<u8>>>()?));
    }
    match inner(b"{\"real\":\"")? {
        b"Infinity" => Some(real_to_json(f64::INFINITY)),
        b"-Infinity" => Some(real_to_json(f64::NEG_INFINITY)),
        _ => None,
    }
}

/// Bytes of the string that `text` begins with, quotes included.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map(|end| end + 2)
}

/// The bytes that a string in quotes stands for; escapes are JSON's own, what isn't UTF-8 stands as it is.
fn unescaped(token: &[u8]) -> Option<Vec<u8>> {
    let mut rest = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        bytes.extend_from_slice(rest.get(..at)?);
        // SQLite writes a pair of surrogates as UTF-8, and escapes only control characters by number.
        let length = if rest.get(at + 1) == Some(&b'u') { 6 } else { 2 };
        let escape = rest.get(at..at + length)?;
        let quoted = [b"\"", escape, b"\""].concat();
        bytes.extend_from_slice(serde_json::from_slice::<String>(&quoted).ok()?.as_bytes());
        rest = rest.get(at + length..)?;
    }
    bytes.extend_from_slice(rest);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_as_queries_tell_them() {
        let cases = [
            (
                r#"{"op":"insert","old":null,"new":{"hex":"abc","b":{"hex":"00FF"},"c":{"hex":""}}}"#,
                r#"{"op":"insert","old":null,"new":{"hex":"abc","b":{"base64":"AP8="},"c":{"base64":""}}}"#,
            ),
            (
                r#"{"op":"update","old":{"z":0.10000000000000001,"a":1.0e+300,"i":9223372036854775807,"n":-5},"new":{"z":-2.5,"a":null,"i":0.0,"n":{"real":"-Infinity"}}}"#,
                r#"{"op":"update","old":{"z":0.1,"a":1e+300,"i":9223372036854775807,"n":-5},"new":{"z":-2.5,"a":null,"i":0.0,"n":{"real":"-Infinity"}}}"#,
            ),
            (
                r#"{"op":"delete","old":{"a\"{:":"x\\\",{\"hex\":\"00\"}","{\"hex\":":"1.50"},"new":null,"truncated":true}"#,
                r#"{"op":"delete","old":{"a\"{:":"x\\\",{\"hex\":\"00\"}","{\"hex\":":"1.50"},"new":null,"truncated":true}"#,
            ),
        ];
        for (data, expected) in cases {
            assert_eq!(told(data.as_bytes()).as_deref(), Some(expected), "{data}");
            serde_json::from_str::<Value>(expected).unwrap();
        }
        let odd = b"{\"op\":\"insert\",\"old\":null,\"new\":{\"a\":\"f\xffo\\\"\\u0000\\n\",\"b\":\"f\"}}";
        let expected = r#"{"op":"insert","old":null,"new":{"a":{"text_base64":"Zv9vIgAK"},"b":"f"}}"#;
        assert_eq!(told(odd).as_deref(), Some(expected));
        for other in [
            r#"{"new":{"a":{"b":1}}}"#,
            r#"{"new":{"a":{"hex":"0"}}}"#,
            r#"{"new":{"a":{"real":"1"}}}"#,
            r#"{"new":{"a":"#,
            "}",
            "\"",
        ] {
            assert_eq!(told(other.as_bytes()), None, "{other}");
        }
    }
}
