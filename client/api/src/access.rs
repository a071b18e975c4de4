//! Who may do what: bearer tokens and their roles.

use serde::{Deserialize, Serialize};

/// What a token's holder may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read everything but tokens.
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
    pub const ALL: [Access; 4] = [Access::Read, Access::Write, Access::Operate, Access::Admin];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
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
        write!(f, "found {:?}, expected read, write, operate or admin", self.0)
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
}

/// Answer to it: the only time that the token is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MadeToken {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Access,
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

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Access,
    /// When it was made, by the master's clock.
    pub made_at: String,
    /// The token that made it; `cluster-key`: whoever has the cluster's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}
