//! Names in paths and queries, checked before anything else is asked.

use std::collections::BTreeMap;

use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};

use crate::{
    http::{ApiError, AppState, path::path},
    state::{KEY_EXPECTED, NAME_EXPECTED, is_key, is_name},
};

/// A key of the configuration; '/' in it comes as `%2F`.
pub(super) struct Key(pub(super) String);
/// A node's name.
pub(super) struct Name(pub(super) String);
/// A command's number.
pub(super) struct CommandId(pub(super) i64);
/// A command's number and a node's name.
pub(super) struct OutcomeOf(pub(super) i64, pub(super) String);

impl FromRequestParts<AppState> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Key, ApiError> {
        key(path(parts, state).await?).map(Key)
    }
}

impl FromRequestParts<AppState> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Name, ApiError> {
        name("name", path(parts, state).await?).map(Name)
    }
}

impl FromRequestParts<AppState> for CommandId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<CommandId, ApiError> {
        number("id", &path::<String>(parts, state).await?).map(CommandId)
    }
}

impl FromRequestParts<AppState> for OutcomeOf {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<OutcomeOf, ApiError> {
        let (id, node) = path::<(String, String)>(parts, state).await?;
        Ok(OutcomeOf(number("id", &id)?, name("node", node)?))
    }
}

fn refuse(field: &str, found: &str, expected: &str) -> ApiError {
    let start: String = found.chars().take(80).collect();
    let more = if start.len() < found.len() { " …" } else { "" };
    ApiError::bad_request(format!("{field}: found {start:?}{more}, expected {expected}"))
}

fn key(found: String) -> Result<String, ApiError> {
    if is_key(&found) { Ok(found) } else { Err(refuse("key", &found, KEY_EXPECTED)) }
}

pub(super) fn name(field: &str, found: String) -> Result<String, ApiError> {
    if is_name(&found) { Ok(found) } else { Err(refuse(field, &found, NAME_EXPECTED)) }
}

/// What a revision or a command's number looks like.
fn number(field: &str, found: &str) -> Result<i64, ApiError> {
    let digits = !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_digit());
    found.parse().ok().filter(|_| digits).ok_or_else(|| refuse(field, found, "a number"))
}

/// A request's query, of which every parameter is known and given once.
pub(super) struct Query(BTreeMap<&'static str, String>);

impl Query {
    pub(super) fn parse(uri: &Uri, known: &[&'static str]) -> Result<Query, ApiError> {
        Query::read(uri.query().unwrap_or_default(), known)
    }

    pub(super) fn read(query: &str, known: &[&'static str]) -> Result<Query, ApiError> {
        let mut found = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(known) = known.iter().find(|known| **known == name) else {
                let expected = match known {
                    [] => "none".to_owned(),
                    known => format!("one of {}", known.join(", ")),
                };
                return Err(refuse("query parameter", &name, &expected));
            };
            if found.insert(*known, value.into_owned()).is_some() {
                return Err(refuse("query parameter", &name, "each one once"));
            }
        }
        Ok(Query(found))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A key's or name's beginning; may be empty.
    pub(super) fn prefix(&self) -> Result<&str, ApiError> {
        let prefix = self.get("prefix").unwrap_or_default();
        if prefix.is_empty() || is_key(prefix) {
            return Ok(prefix);
        }
        Err(refuse("prefix", prefix, KEY_EXPECTED))
    }

    pub(super) fn key(&self, field: &'static str) -> Result<Option<&str>, ApiError> {
        match self.get(field) {
            Some(found) if !is_key(found) => Err(refuse(field, found, KEY_EXPECTED)),
            found => Ok(found),
        }
    }

    pub(super) fn name(&self, field: &'static str) -> Result<Option<&str>, ApiError> {
        match self.get(field) {
            Some(found) if !is_name(found) => Err(refuse(field, found, NAME_EXPECTED)),
            found => Ok(found),
        }
    }

    pub(super) fn number(&self, field: &'static str) -> Result<Option<i64>, ApiError> {
        self.get(field).map(|found| number(field, found)).transpose()
    }

    pub(super) fn one_of(&self, field: &'static str, all: &[&str]) -> Result<Option<&str>, ApiError> {
        match self.get(field) {
            Some(found) if !all.contains(&found) => {
                Err(refuse(field, found, &format!("one of {}", all.join(", "))))
            }
            found => Ok(found),
        }
    }

    /// How many entries a page has at most.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(found) = self.get("limit") else { return Ok(100) };
        let expected = || refuse("limit", found, "a number from 1 to 1000");
        found.parse().ok().filter(|limit| (1..=1000).contains(limit)).ok_or_else(expected)
    }
}
