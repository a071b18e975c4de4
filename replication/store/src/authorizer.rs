//! What users' SQL may do: the authorizer that every connection carries.
//!
//! Owns the list of tables that only the API changes. Never installed twice on a connection, because a change of the
//! authorizer expires every prepared statement: a flag switches between users' SQL and the server's own. Read
//! `batch.rs` next.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _,
    hooks::{AuthAction, AuthContext, Authorization},
};

use crate::{account, tables};

/// Triggers that tell the rows of users' tables begin so.
const WATCH_TRIGGER: &str = "tanist_watch_";

const MODULES: [&str; 5] = ["fts5", "fts5vocab", "rtree", "rtree_i32", "geopoly"];

/// Read-only whatever their argument.
const PRAGMAS: [&str; 10] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "integrity_check",
    "quick_check",
];

/// Read-only without an argument.
const PRAGMAS_WITHOUT_ARGUMENT: [&str; 13] = [
    "page_count",
    "page_size",
    "freelist_count",
    "schema_version",
    "database_list",
    "collation_list",
    "function_list",
    "module_list",
    "compile_options",
    "data_version",
    "encoding",
    "foreign_keys",
    "auto_vacuum",
];

/// Numbers in the database's header that are the users' to set.
const USERS_NUMBERS: [&str; 2] = ["user_version", "application_id"];

const FUNCTIONS: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// Whether SQLite refused `error`'s statement because users may not do that.
#[must_use]
pub fn is_denied(error: &rusqlite::Error) -> bool {
    let function = match error {
        // SQLite has no code of its own for a denied function.
        rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg)) => {
            msg.starts_with("not authorized to use function")
        }
        _ => false,
    };
    function || error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied)
}

/// What isn't everybody's to read: others' answers, and who has changed what by SQL.
const SECRET_TABLES: [&str; 3] = ["tanist_requests", "tanist_audit", "tanist_v_audit"];

/// Quote what indexes hold, the hashes of tokens, too. ANALYZE reads them itself, so they look empty rather than closed: a plan
/// goes by `sqlite_stat1` then.
const STATISTICS: [&str; 2] = ["sqlite_stat4", "sqlite_stat3"];

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    /// Users' SQL reads everything.
    sees_all: AtomicBool,
    /// Users' SQL has altered a table, perhaps its name.
    altered: AtomicBool,
    /// Users' SQL has made or altered a table, perhaps with a foreign key.
    declared: AtomicBool,
    /// Users' SQL has written the numbers that AUTOINCREMENT gives, as DROP TABLE and ALTER TABLE do, too.
    renumbered: AtomicBool,
    denied: Mutex<Option<String>>,
}

/// The switch between users' SQL and the server's own on one connection.
#[derive(Debug, Clone)]
pub(crate) struct UserMode(Arc<Shared>, u64);

/// Users' SQL until dropped.
pub(crate) struct UserModeOn<'m>(&'m UserMode);

impl Drop for UserModeOn<'_> {
    fn drop(&mut self) {
        self.0.0.on.store(false, Relaxed);
        account::run_own();
    }
}

impl UserMode {
    /// Installs the authorizer, switched to the server's own SQL.
    pub(crate) fn install(connection: &mut Connection) -> Result<UserMode, rusqlite::Error> {
        // In KiB when it is below zero, as everywhere here.
        let cache: i64 = connection.pragma_query_value(None, "cache_size", |row| row.get(0))?;
        let mode = UserMode(Arc::new(Shared::default()), cache.min(0).unsigned_abs() << 10);
        let shared = Arc::clone(&mode.0);
        connection.authorizer(Some(move |context: AuthContext<'_>| shared.decide(&context)))?;
        Ok(mode)
    }

    /// Switches to users' SQL and forgets an earlier denial.
    pub(crate) fn enter(&self) -> UserModeOn<'_> {
        *self.0.denied.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.altered.store(false, Relaxed);
        self.0.declared.store(false, Relaxed);
        self.0.renumbered.store(false, Relaxed);
        self.0.on.store(true, Relaxed);
        account::run_users(self.1);
        UserModeOn(self)
    }

    /// Users' SQL on this connection reads secrets, too. To be said before any is prepared: a prepared statement isn't judged again.
    pub(crate) fn see_all(&self) {
        self.0.sees_all.store(true, Relaxed);
    }

    /// Whether a table may have got another name since users' SQL began; which one, the authorizer isn't told.
    pub(crate) fn altered(&self) -> bool {
        self.0.altered.load(Relaxed)
    }

    /// Whether a table may have got a foreign key; to which table, the authorizer isn't told.
    pub(crate) fn declared(&self) -> bool {
        self.0.declared.load(Relaxed)
    }

    /// Whether the numbers of reserved tables may have been changed; of which table, the authorizer isn't told.
    pub(crate) fn renumbered(&self) -> bool {
        self.0.renumbered.load(Relaxed)
    }

    /// What was denied last since users' SQL began, such as `PRAGMA journal_mode`.
    pub(crate) fn denied(&self) -> Option<String> {
        self.0.denied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn decide(&self, context: &AuthContext<'_>) -> Authorization {
        if self.on.load(Relaxed)
            && !self.sees_all.load(Relaxed)
            && let AuthAction::Read { table_name, .. } = context.action
            && listed(&STATISTICS, table_name)
        {
            return Authorization::Ignore;
        }
        let denied = if self.on.load(Relaxed) {
            if matches!(context.action, AuthAction::AlterTable { .. }) {
                self.altered.store(true, Relaxed);
            }
            if matches!(context.action, AuthAction::AlterTable { .. } | AuthAction::CreateTable { .. }) {
                self.declared.store(true, Relaxed);
            }
            if let AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } = context.action
                && table_name.eq_ignore_ascii_case("sqlite_sequence")
            {
                self.renumbered.store(true, Relaxed);
            }
            if is_watched_row(context) {
                None
            } else if names_temp_schema(context) {
                Some("temporary objects".into())
            } else {
                let secret = || if self.sees_all.load(Relaxed) { None } else { secret_read(&context.action) };
                denied_to_users(&context.action).or_else(secret)
            }
        } else {
            // A user's trigger must not reach reserved tables when the server's own SQL fires it.
            let by_users = context.accessor.filter(|name| !reserved(name));
            by_users.and_then(|_| reserved_write(&context.action).or_else(|| secret_read(&context.action)))
        };
        match denied {
            Some(what) => {
                *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
                Authorization::Deny
            }
            None => Authorization::Allow,
        }
    }
}

/// The one way by which users' SQL adds an event: it changes a row of a watched table, whose trigger does. Users can't make,
/// drop or rename a trigger of such a name, nor anything else by which the accessor of a write gets one.
fn is_watched_row(context: &AuthContext<'_>) -> bool {
    let prefix = WATCH_TRIGGER.as_bytes();
    let by_trigger = context.accessor.and_then(|name| name.as_bytes().get(..prefix.len()));
    by_trigger.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        && matches!(context.action, AuthAction::Insert { table_name } if table_name.eq_ignore_ascii_case("tanist_events"))
}

/// Whether it is about something in the schema `temp`, which belongs to the connection: what is written there is on no other
/// machine, and hides what the others see. Only ALTER TABLE looks there by itself, for whatever refers to the table.
fn names_temp_schema(context: &AuthContext<'_>) -> bool {
    let of_sqlite = match context.action {
        AuthAction::Read { table_name, .. } | AuthAction::Update { table_name, .. } => {
            listed(&["sqlite_temp_schema", "sqlite_temp_master"], table_name)
        }
        _ => false,
    };
    context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp")) && !of_sqlite
}

/// A foreign key of another table to one with a reserved name, as (its table, the reserved one). It would let that table's
/// rows have a say in what the server writes.
pub(crate) fn foreign_key_to_reserved(
    connection: &Connection,
) -> Result<Option<(String, String)>, rusqlite::Error> {
    let sql = "SELECT m.name, f.\"table\" FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name) AS f \
               WHERE m.type = 'table' AND f.\"table\" LIKE 'tanist\\_%' ESCAPE '\\' LIMIT 1";
    connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// The tables and views of `connection` with reserved names.
pub(crate) fn reserved_names(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.filter(|name| name.as_ref().map_or(true, |name| reserved(name))).collect()
}

/// Whether what Tanist numbers goes on from where it stood `before`; the next event's number may follow the newest event's.
/// Users mustn't make numbers come again, or run out.
pub(crate) fn reserved_in_sequence(
    connection: &Connection,
    before: &Connection,
) -> Result<bool, rusqlite::Error> {
    let sequences = |connection: &Connection, which: &str| {
        let sql = format!(
            "SELECT json_group_array(json_array(name, seq)) FROM \
             (SELECT name, seq FROM sqlite_sequence WHERE name LIKE 'tanist\\_%' ESCAPE '\\' AND name {which} 'tanist_events' ORDER BY name, seq)"
        );
        connection.query_row(&sql, [], |row| row.get::<_, String>(0))
    };
    // On a database that holds no schema yet there is nothing to guard.
    if !tables::table_exists(connection, "tanist_events")? {
        return Ok(true);
    }
    if sequences(connection, "<>")? != sequences(before, "<>")? {
        return Ok(false);
    }
    if sequences(connection, "=")? == sequences(before, "=")? {
        return Ok(true);
    }
    connection.query_row(
        "SELECT (SELECT group_concat(seq) FROM sqlite_sequence WHERE name = 'tanist_events') IS (SELECT CAST(max(id) AS TEXT) FROM tanist_events)",
        [],
        |row| row.get(0),
    )
}

/// Whether only the API changes the table or view of this name.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    reserved(name)
}

fn reserved(name: &str) -> bool {
    let prefix = name.as_bytes().get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"tanist_"));
    prefix || name.eq_ignore_ascii_case("sqlite_dbpage")
}

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| entry.eq_ignore_ascii_case(name))
}

/// A view of Tanist's, or one of a user's, doesn't hide what is read through it: each column comes here by its own table.
fn secret_read(action: &AuthAction<'_>) -> Option<String> {
    let AuthAction::Read { table_name, column_name } = action else { return None };
    let hash = table_name.eq_ignore_ascii_case("tanist_tokens") && column_name.eq_ignore_ascii_case("hash");
    if hash {
        return Some("read of tanist_tokens.hash".into());
    }
    listed(&SECRET_TABLES, table_name).then(|| format!("read of {table_name}"))
}

fn reserved_write(action: &AuthAction<'_>) -> Option<String> {
    match action {
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
            if reserved(table_name) =>
        {
            Some(format!("write to table {table_name}"))
        }
        _ => None,
    }
}

fn denied_to_users(action: &AuthAction<'_>) -> Option<String> {
    if let Some(what) = reserved_write(action) {
        return Some(what);
    }
    match action {
        AuthAction::Attach { .. } => Some("ATTACH or VACUUM".into()),
        AuthAction::Detach { .. } => Some("DETACH".into()),
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => Some("transaction control".into()),
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let allowed = listed(&PRAGMAS, pragma_name)
                || listed(&USERS_NUMBERS, pragma_name)
                || (pragma_value.is_none() && listed(&PRAGMAS_WITHOUT_ARGUMENT, pragma_name));
            (!allowed).then(|| format!("PRAGMA {pragma_name}"))
        }
        AuthAction::Function { function_name } if listed(&FUNCTIONS, function_name) => {
            Some(format!("function {function_name}"))
        }
        AuthAction::Read { table_name, .. } if table_name.eq_ignore_ascii_case("sqlite_dbpage") => {
            Some("table sqlite_dbpage".into())
        }
        AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. } => Some("temporary objects".into()),
        AuthAction::DropTrigger { trigger_name, table_name }
            if !reserved(table_name) && trigger_name.starts_with(WATCH_TRIGGER) =>
        {
            Some(format!("drop of table {table_name} or its trigger while its rows are watched"))
        }
        AuthAction::CreateIndex { index_name: name, table_name }
        | AuthAction::DropIndex { index_name: name, table_name }
        | AuthAction::CreateTrigger { trigger_name: name, table_name }
        | AuthAction::DropTrigger { trigger_name: name, table_name } => (reserved(name)
            || reserved(table_name))
        .then(|| format!("index or trigger {name} on {table_name}")),
        AuthAction::CreateTable { table_name: name }
        | AuthAction::DropTable { table_name: name }
        | AuthAction::AlterTable { table_name: name, .. }
        | AuthAction::CreateView { view_name: name }
        | AuthAction::DropView { view_name: name }
        | AuthAction::DropVtable { table_name: name, .. } => {
            reserved(name).then(|| format!("change of table or view {name}"))
        }
        AuthAction::CreateVtable { table_name, module_name } => (reserved(table_name)
            || !listed(&MODULES, module_name))
        .then(|| format!("virtual table {table_name} using {module_name}")),
        AuthAction::Unknown { code, .. } => Some(format!("action {code}")),
        _ => None,
    }
}
