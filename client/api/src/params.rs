//! Reads parameters of SQL from JSON: what isn't stored as it is written is refused, never rounded in silence.
//!
//! A number is looked at as text, because a parsed one no longer tells whether it was an integer too long for 64 bits.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use crate::Params;

/// A number longer than this is shown by its beginning.
const SHOWN: usize = 40;

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Params, D::Error> {
        deserializer.deserialize_any(ParamsVisitor)
    }
}

struct ParamsVisitor;

impl<'de> Visitor<'de> for ParamsVisitor {
    type Value = Params;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object of parameters")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Params, A::Error> {
        let mut values = Vec::with_capacity(seq.size_hint().unwrap_or_default().min(64));
        while let Some(Param(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Params::Positional(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Params, A::Error> {
        let mut values = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if values.contains_key(&name) {
                return Err(Error::custom(format!("found {name:?} twice, expected each parameter once")));
            }
            let Param(value) = map.next_value()?;
            values.insert(name, value);
        }
        Ok(Params::Named(values))
    }
}

/// One value.
struct Param(Value);

impl<'de> Deserialize<'de> for Param {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Param, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        let value = match text.as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => number(text).map_err(Error::custom)?,
            _ => serde_json::from_str(text).map_err(Error::custom)?,
        };
        Ok(Param(value))
    }
}

/// The number that this JSON text is, if SQLite can hold it.
fn number(text: &str) -> Result<Value, String> {
    let shown = || match text.get(..SHOWN) {
        Some(start) if text.len() > SHOWN => format!("{start}… ({} digits and signs)", text.len()),
        _ => text.to_owned(),
    };
    if !text.contains(['.', 'e', 'E']) {
        // "-0" is the integer 0, as it is in SQL.
        return text.parse::<i64>().map(Value::from).map_err(|_| {
            format!(
                "found {}, expected an integer of 64 bits with sign ({} to {}); with a point or an exponent it is a real",
                shown(),
                i64::MIN,
                i64::MAX
            )
        });
    }
    let real: f64 = text.parse().map_err(|_| format!("found {}, expected a number", shown()))?;
    let digits = text.split(['e', 'E']).next().unwrap_or_default();
    if real.is_infinite() || (real == 0.0 && digits.contains(|digit| matches!(digit, '1'..='9'))) {
        return Err(format!(
            "found {}, expected a real of 64 bits, 0 or between about 4.9e-324 and 1.8e308; infinity is {{\"real\": \"Infinity\"}}",
            shown()
        ));
    }
    Ok(Value::from(real))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Statement;

    fn read(params: &str) -> Result<Params, String> {
        let text = format!(r#"{{"sql":"S","params":{params}}}"#);
        let from_text = serde_json::from_str::<Statement>(&text);
        from_text.map(|statement| statement.params).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_are_what_they_say_or_refused() {
        let kept = [
            ("9223372036854775807", json!(i64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("0", json!(0)),
            ("-0", json!(0)),
            ("1.0", json!(1.0)),
            ("1e2", json!(100.0)),
            ("9223372036854775808.0", json!(9_223_372_036_854_775_808.0)),
            ("18446744073709551616e0", json!(18_446_744_073_709_551_616.0)),
            ("0.1", json!(0.1)),
            ("0e-999", json!(0.0)),
            ("5e-324", json!(5e-324)),
        ];
        for (text, value) in kept {
            assert_eq!(read(&format!("[{text}]")), Ok(Params::Positional(vec![value.clone()])), "{text}");
            let named = Params::Named([("a".to_owned(), value)].into_iter().collect());
            assert_eq!(read(&format!("{{\"a\": {text} }}")), Ok(named), "{text}");
        }
        let nines = "9".repeat(5000);
        let refused = [
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
            &nines,
            "1e309",
            "-1e309",
            "1e-400",
            "-0.001e-400",
        ];
        for text in refused {
            for params in [format!("[0, {text}]"), format!("{{\"a\":{text}}}")] {
                let error = read(&params).expect_err(text);
                assert!(error.contains("found") && error.contains("64 bits"), "{text}: {error}");
                assert!(error.len() < 300, "{error}");
            }
        }
    }

    #[test]
    fn other_values_are_read_as_before() {
        let text = r#"[null, true, "a\u0000ä\"", {"base64": "AAEC"}, [1], {"a": {"b": 1e1}}]"#;
        let values = serde_json::from_str::<Vec<Value>>(text).unwrap();
        assert_eq!(read(text), Ok(Params::Positional(values.clone())));
        // From a value, and out again.
        let statement = Statement::with("S", values);
        let value = serde_json::to_value(&statement).unwrap();
        assert_eq!(serde_json::from_value::<Statement>(value).unwrap(), statement);
        let large = serde_json::from_value::<Statement>(json!({"sql": "S", "params": [u64::MAX]}));
        assert!(large.unwrap_err().to_string().contains("18446744073709551615"));
        for wrong in ["1", "null", "\"a\"", "true"] {
            assert!(read(wrong).unwrap_err().contains("expected an array or an object"), "{wrong}");
        }
        assert!(read(r#"{"a":1,"a":2}"#).unwrap_err().contains("twice"));
        for broken in ["[", "[1,]", "{\"a\"}", "[01]", "[+1]", "[1.]", "[-]", "[nul]"] {
            read(broken).expect_err(broken);
        }
    }
}
