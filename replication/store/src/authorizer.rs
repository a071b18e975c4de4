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
    Connection, ErrorCode,
    hooks::{AuthAction, AuthContext, Authorization},
};

/// Tables besides `tanist_*` that only the API changes.
const RESERVED: [&str; 14] = [
    "config",
    "config_history",
    "nodes",
    "desired_state",
    "reported_state",
    "commands",
    "command_outcomes",
    "node_presence",
    "events",
    "requests",
    "v_audit",
    "v_cluster",
    "v_nodes",
    "sqlite_dbpage",
];

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
const PRAGMAS_WITHOUT_ARGUMENT: [&str; 15] = [
    "page_count",
    "page_size",
    "freelist_count",
    "user_version",
    "schema_version",
    "application_id",
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

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    /// Users' SQL has altered a table, perhaps its name.
    altered: AtomicBool,
    /// Users' SQL has written the numbers that AUTOINCREMENT gives, as DROP TABLE and ALTER TABLE do, too.
    renumbered: AtomicBool,
    denied: Mutex<Option<String>>,
}

/// The switch between users' SQL and the server's own on one connection.
#[derive(Debug, Clone)]
pub(crate) struct UserMode(Arc<Shared>);

/// Users' SQL until dropped.
pub(crate) struct UserModeOn<'m>(&'m UserMode);

impl Drop for UserModeOn<'_> {
    fn drop(&mut self) {
        self.0.0.on.store(false, Relaxed);
    }
}

impl UserMode {
    /// Installs the authorizer, switched to the server's own SQL.
    pub(crate) fn install(connection: &Connection) -> Result<UserMode, rusqlite::Error> {
        let mode = UserMode(Arc::new(Shared::default()));
        let shared = Arc::clone(&mode.0);
        connection.authorizer(Some(move |context: AuthContext<'_>| shared.decide(&context)))?;
        Ok(mode)
    }

    /// Switches to users' SQL and forgets an earlier denial.
    pub(crate) fn enter(&self) -> UserModeOn<'_> {
        *self.0.denied.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.altered.store(false, Relaxed);
        self.0.renumbered.store(false, Relaxed);
        self.0.on.store(true, Relaxed);
        UserModeOn(self)
    }

    /// Whether a table may have got another name since users' SQL began; which one, the authorizer isn't told.
    pub(crate) fn altered(&self) -> bool {
        self.0.altered.load(Relaxed)
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
        let denied = if self.on.load(Relaxed) {
            if matches!(context.action, AuthAction::AlterTable { .. }) {
                self.altered.store(true, Relaxed);
            }
            if let AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } = context.action
                && table_name.eq_ignore_ascii_case("sqlite_sequence")
            {
                self.renumbered.store(true, Relaxed);
            }
            if is_watched_row(context) { None } else { denied_to_users(&context.action) }
        } else {
            // A user's trigger must not reach reserved tables when the server's own SQL fires it.
            context.accessor.filter(|name| !reserved(name)).and_then(|_| reserved_write(&context.action))
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
        && matches!(context.action, AuthAction::Insert { table_name } if table_name.eq_ignore_ascii_case("events"))
}

/// The tables and views of `connection` with reserved names.
pub(crate) fn reserved_names(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.filter(|name| name.as_ref().map_or(true, |name| reserved(name))).collect()
}

/// Whether the next event gets the number after the newest one's, or the one it would have got `before`: users mustn't make
/// numbers come again, or run out.
pub(crate) fn events_in_sequence(
    connection: &Connection,
    before: &Connection,
) -> Result<bool, rusqlite::Error> {
    let exists = "SELECT count(*) FROM sqlite_schema WHERE name = 'events' AND type = 'table'";
    if connection.query_row(exists, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(true);
    }
    let sequence = |connection: &Connection| {
        connection.query_row(
            "SELECT group_concat(seq) FROM sqlite_sequence WHERE name = 'events'",
            [],
            |row| row.get::<_, Option<String>>(0),
        )
    };
    if sequence(connection)? == sequence(before)? {
        return Ok(true);
    }
    connection.query_row(
        "SELECT (SELECT group_concat(seq) FROM sqlite_sequence WHERE name = 'events') IS (SELECT CAST(max(id) AS TEXT) FROM events)",
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
    prefix || listed(&RESERVED, name)
}

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| entry.eq_ignore_ascii_case(name))
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
