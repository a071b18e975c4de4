//! What names and values may look like. The tables check names once more, for whoever writes with `sqlite3`.
//!
//! An error names the field, what was found and what was expected.

use serde_json::{Map, Value};
use tanist_api::{NewCommand, NewOutcome, NodeSpec, Report};

/// Longest value, state, arguments or detail, in bytes of JSON.
const VALUE_BYTES: usize = 256 << 10;
/// Deepest nesting of arrays and objects in one.
const DEPTH: usize = 64;
const KEY_BYTES: usize = 255;
const NAME_BYTES: usize = 63;
const ADDRESS_CHARS: usize = 255;
const LARGEST_PLACE: u32 = 1_000_000;
const LABELS: usize = 64;
const LABEL_NAME_BYTES: usize = 63;
const LABEL_BYTES: usize = 255;
const NODES: usize = 1000;
const ERROR_BYTES: usize = 4096;

/// What a key of the configuration looks like.
pub(crate) const KEY_EXPECTED: &str =
    "1 to 255 letters, digits, '-', '_', '.', ':' or '/', the first a letter or digit";
/// What a node's or command's name looks like.
pub(crate) const NAME_EXPECTED: &str =
    "1 to 63 letters, digits, '-', '_' or '.', the first a letter or digit";

/// Whether it can be a key of the configuration.
pub(crate) fn is_key(text: &str) -> bool {
    is_made_of(text, KEY_BYTES, b"-_.:/")
}

/// Whether it can be the name of a node or command.
pub(crate) fn is_name(text: &str) -> bool {
    is_made_of(text, NAME_BYTES, b"-_.")
}

fn is_made_of(text: &str, limit: usize, others: &[u8]) -> bool {
    text.len() <= limit
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

/// A value, state, arguments or detail.
pub(crate) fn check_value(field: &str, value: &Value) -> Result<(), String> {
    let found = depth(value);
    if found > DEPTH {
        return Err(format!("{field}: found {found} levels of arrays and objects, expected at most {DEPTH}"));
    }
    check_size(field, value.to_string().len())
}

/// The same for an object.
fn check_object(field: &str, object: &Map<String, Value>) -> Result<(), String> {
    let found = 1 + object.values().map(depth).max().unwrap_or(0);
    if found > DEPTH {
        return Err(format!("{field}: found {found} levels of arrays and objects, expected at most {DEPTH}"));
    }
    check_size(field, super::change::text(object).len())
}

fn check_size(field: &str, found: usize) -> Result<(), String> {
    if found > VALUE_BYTES {
        return Err(format!("{field}: found {found} bytes of JSON, expected at most {VALUE_BYTES}"));
    }
    Ok(())
}

/// The parser has bounded it already.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What a desired state must be.
pub(crate) fn check_state(state: &Map<String, Value>) -> Result<(), String> {
    check_object("state", state)
}

/// Where a node belongs.
pub(crate) fn check_node(spec: &NodeSpec) -> Result<(), String> {
    if let Some(address) = &spec.address {
        let length = address.chars().count();
        if !(1..=ADDRESS_CHARS).contains(&length) || address.chars().any(char::is_control) {
            return Err(format!(
                "address: found {length} characters, expected 1 to {ADDRESS_CHARS} and no control characters"
            ));
        }
    }
    for (field, place) in [("row", spec.row), ("column", spec.column)] {
        if let Some(place) = place.filter(|place| *place > LARGEST_PLACE) {
            return Err(format!("{field}: found {place}, expected at most {LARGEST_PLACE}"));
        }
    }
    if spec.labels.len() > LABELS {
        return Err(format!("labels: found {}, expected at most {LABELS}", spec.labels.len()));
    }
    for (name, label) in &spec.labels {
        if !is_made_of(name, LABEL_NAME_BYTES, b"-_./") {
            return Err(format!(
                "labels: found the name {:?}, expected {NAME_EXPECTED} (or '/')",
                shown(name)
            ));
        }
        if label.as_str().is_none_or(|label| label.len() > LABEL_BYTES) {
            let found = shown(&label.to_string());
            return Err(format!(
                "labels.{name}: found {found}, expected a string of at most {LABEL_BYTES} bytes"
            ));
        }
    }
    Ok(())
}

/// What a node says it has.
pub(crate) fn check_report(report: &Report) -> Result<(), String> {
    check_object("state", &report.state)?;
    match &report.error {
        Some(error) if error.is_empty() || error.len() > ERROR_BYTES || error.contains('\0') => Err(format!(
            "error: found {} bytes, expected 1 to {ERROR_BYTES} and no NUL character",
            error.len()
        )),
        _ => Ok(()),
    }
}

/// A command to nodes.
pub(crate) fn check_command(command: &NewCommand) -> Result<(), String> {
    if !is_name(&command.name) {
        return Err(format!("name: found {:?}, expected {NAME_EXPECTED}", shown(&command.name)));
    }
    check_value("arguments", &command.arguments)?;
    if !(1..=NODES).contains(&command.nodes.len()) {
        return Err(format!("nodes: found {}, expected 1 to {NODES}", command.nodes.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, node) in command.nodes.iter().enumerate() {
        if !is_name(node) {
            return Err(format!("nodes[{index}]: found {:?}, expected {NAME_EXPECTED}", shown(node)));
        }
        if !seen.insert(node) {
            return Err(format!("nodes[{index}]: found {node:?} twice, expected each node once"));
        }
    }
    Ok(())
}

/// What became of a command.
pub(crate) fn check_outcome(outcome: &NewOutcome) -> Result<(), String> {
    check_value("detail", &outcome.detail)
}

/// The beginning of what may be long.
fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(80).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}
