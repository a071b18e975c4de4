//! Who may do what: bearer tokens and their roles.

use serde::{Deserialize, Serialize};

/// What a token's holder may do. `agent` is for one node alone; each of the others includes those before it, but not `agent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Speak for one node: give signs of life, read what it shall have, its commands and its events, say what it has and what
    /// became of its commands. Nothing else.
    Agent,
    /// Read everything but tokens, the record of changes by SQL, and others' answers.
    Read,
    /// Write data: SQL, configuration, nodes, states, commands.
    Write,
    /// Hand the throne over, choose the tables that are watched.
    Operate,
    /// Change members and tokens, accept the loss of data.
    Admin,
}

impl Access {
    /// All, least first.
    pub const ALL: [Access; 5] = [Access::Agent, Access::Read, Access::Write, Access::Operate, Access::Admin];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Agent => "agent",
            Access::Read => "read",
            Access::Write => "write",
            Access::Operate => "operate",
            Access::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError(String);

impl std::fmt::Display for AccessError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "found {:?}, expected agent, read, write, operate or admin", self.0)
    }
}

impl std::error::Error for AccessError {}

impl std::str::FromStr for Access {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Access, AccessError> {
        Access::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| AccessError(text.to_owned()))
    }
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Stands in the history beside what its holder changes: 1 to 63 letters, digits, `-`, `_` or `.`.
    pub name: String,
    /// What it allows.
    pub role: Access,
    /// The node that an `agent` speaks for; of no other role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// It is good for so many seconds; without this, until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

impl NewToken {
    /// A token that doesn't expire, of a role other than `agent`.
    #[must_use]
    pub fn new(name: &str, role: Access) -> NewToken {
        NewToken { name: name.to_owned(), role, node: None, expires_in_seconds: None }
    }
}

/// Answer to it: the only time that the token is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MadeToken {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Access,
    /// The node that an `agent` speaks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Until when it is good; without this, until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// For `Authorization: Bearer …`. Kept nowhere.
    pub token: String,
}

impl std::fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeToken")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// A request by SQL that has changed something, or was refused because nobody may do that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditRecord {
    /// Grows from request to request.
    pub id: i64,
    /// The transaction; requests that came together share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// When, by the master's clock.
    pub at: String,
    /// The token's name; none where there are no tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// How many statements the request had.
    pub statements: u64,
    /// Why nothing was done; without this, it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Their text, one after the other; of a long one its beginning and its end. Never the values of parameters.
    pub sql: String,
    /// Bytes of the whole text.
    pub sql_bytes: u64,
    /// BLAKE3 of the whole text, in hexadecimal.
    pub sql_hash: String,
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Access,
    /// The node that an `agent` speaks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Until when it is good; without this, until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When the machine that answers last took it, by its clock and since it was started; each machine knows its own alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
    /// When it was made, by the master's clock.
    pub made_at: String,
    /// The token that made it; `cluster-key`: whoever has the cluster's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}
