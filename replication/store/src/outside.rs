//! What others have written to the master's database file: whether it may be numbered and sent to the backups.
//!
//! Owns the judgement. A person may change the users' tables, and mend the state of the control room; what Tanist itself
//! stands on must be as it was, and pages must be pages. Never changes anything. Read `batch.rs` for when it is asked and
//! `btree.rs` for how pages are told apart.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, config::DbConfig, ffi, types::Value};
use tanist_replication::Stamp;

use crate::{
    authorizer::foreign_key_to_reserved,
    batch::Batch,
    btree::{self, TreePage, Trees},
    database::{Database, Mode},
    error::StoreError,
    migrate,
    sqlite_file::{self, WalIndex},
    tables,
    wal::{self, Frame, is_lock_page},
};

/// Tables whose rows a person may change on the master; their triggers number, date and record what he does.
const STATE: [&str; 9] = [
    "tanist_actor",
    "tanist_config",
    "tanist_config_history",
    "tanist_nodes",
    "tanist_desired_state",
    "tanist_reported_state",
    "tanist_node_presence",
    "tanist_commands",
    "tanist_command_outcomes",
];

/// Grows at its end by what the triggers of [`STATE`] and of watched tables tell.
const EVENTS: &str = "tanist_events";

/// Everything in the schema that is Tanist's, and hangs on its tables. The triggers on watched tables aren't: they come and go
/// with the users' tables, and are made anew after a change.
const OWN_SCHEMA: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema \
     WHERE tbl_name LIKE 'tanist\\_%' ESCAPE '\\' \
        OR (name LIKE 'tanist\\_%' ESCAPE '\\' AND NOT (type = 'trigger' AND name LIKE 'tanist\\_watch\\_%' ESCAPE '\\')) \
     ORDER BY type, name";

const OWN_TREES: &str = "SELECT tbl_name, rootpage FROM sqlite_schema \
     WHERE tbl_name LIKE 'tanist\\_%' ESCAPE '\\' AND rootpage > 0";

/// How often the earlier state is asked for while somebody's checkpoint is in the way, and how long between.
const TRIES: u32 = 50;
const BETWEEN_TRIES: std::time::Duration = std::time::Duration::from_millis(20);

/// Triggers of the users on Tanist's tables.
const FOREIGN_TRIGGERS: &str = "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger' \
     AND tbl_name LIKE 'tanist\\_%' ESCAPE '\\' AND name NOT LIKE 'tanist\\_%' ESCAPE '\\'";

/// Why a write from outside can't be numbered, or that it couldn't be found out.
enum Verdict {
    Refused(String),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Verdict {
    fn from(error: rusqlite::Error) -> Verdict {
        Verdict::Failed(error)
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::Refused(why.into()))
}

/// Where the numbered transactions end in a replica that was just opened, after its machine was the master.
pub(crate) enum NumberedEnd {
    /// At the end of the WAL: nobody else has committed.
    Newest,
    /// Before what others have committed on the master before it ended, and nobody has numbered.
    At(WalIndex),
    /// The newest numbered transaction isn't in the WAL, where it must be: somebody has put the WAL into the database file and
    /// begun another while no process of ours ran. What else he did can't be told.
    Lost(WalIndex),
}

impl NumberedEnd {
    pub(crate) fn lost(index: &WalIndex) -> NumberedEnd {
        NumberedEnd::Lost(unknown_base(index))
    }
}

/// A state of which nothing is known. Nothing that is found in the WAL can make up for so many commits, so that is never taken
/// for all that has changed.
pub(crate) fn unknown_base(index: &WalIndex) -> WalIndex {
    index.earlier(0, 0, [0; 2], u32::MAX / 2)
}

/// Looks for the end of the numbered transactions. Up to frame `floor` they are this machine's own.
pub(crate) fn numbered_end(
    connection: &Connection,
    index: &WalIndex,
    stamp: &Stamp,
    floor: u32,
) -> Result<NumberedEnd, rusqlite::Error> {
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'tanist_position'";
    let root: Option<u32> = connection.query_row(root, [], |row| row.get(0)).optional()?;
    let Some(root) = root else { return Ok(NumberedEnd::Newest) };
    let mut image = vec![0; index.page_size as usize];
    let txid = i64::try_from(stamp.position.txid.0).ok();
    let (mut end, mut commits, mut found) = (None, 0, false);
    let first = floor.min(index.frames).saturating_sub(1);
    for frame in first..index.frames {
        let Some(Frame { page, size, checksum }) = wal::frame_header(connection, frame, index)? else {
            break;
        };
        if page == root && end.is_none() {
            wal::frame_image(connection, frame, &mut image)?;
            found = btree::only_row(&image, 3).is_some_and(|row| row[2] == txid);
        }
        found |= frame + 1 == floor;
        if size == 0 {
            continue;
        }
        if end.is_some() {
            commits += 1;
        } else if found {
            end = Some((frame + 1, size, checksum));
        }
    }
    Ok(match end {
        Some(_) if commits == 0 => NumberedEnd::Newest,
        Some((frames, pages, checksum)) => NumberedEnd::At(index.earlier(frames, pages, checksum, commits)),
        None => NumberedEnd::lost(index),
    })
}

impl Batch<'_> {
    /// Takes away what would have users' code, or rows of theirs, take part in what Tanist writes: triggers on its tables are
    /// dropped, foreign keys to them aren't enforced. Neither can be made; a database from elsewhere may have them.
    pub(crate) fn part_from_users(&mut self) -> Result<(), StoreError> {
        let error =
            |error| StoreError::sqlite(&self.database.path, "look for triggers on Tanist's tables", error);
        let writer = &self.database.writer;
        let triggers = || -> Result<Vec<(String, String)>, rusqlite::Error> {
            writer.prepare(FOREIGN_TRIGGERS)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        for (name, table) in triggers().map_err(error)? {
            tracing::warn!(trigger = ?name, table, "a trigger on a table of Tanist's is dropped: only Tanist's own may stand there");
            writer
                .execute_batch(&format!("DROP TRIGGER \"{}\"", name.replace('"', "\"\"")))
                .map_err(error)?;
        }
        if let Some((table, parent)) = foreign_key_to_reserved(writer).map_err(error)? {
            tracing::warn!(
                ?table,
                parent,
                "a foreign key refers to a table of Tanist's and isn't enforced there: make the table anew without it"
            );
            self.database.foreign_keys_found = true;
            self.database.enforce_foreign_keys(false)?;
        }
        Ok(())
    }
}

impl Database {
    /// Whether foreign keys are enforced from the next statement on.
    pub(crate) fn enforce_foreign_keys(&self, on: bool) -> Result<(), StoreError> {
        self.sqlite("switch foreign keys", |db| {
            db.writer.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, on).map(drop)
        })
    }

    /// Whether what others have committed between the last capture and `now` may be numbered. The write lock is held.
    ///
    /// # Errors
    /// [`StoreError::OutsideWrite`] when not; others when it can't be found out now.
    pub(crate) fn judge_outside(&mut self, now: &WalIndex) -> Result<(), StoreError> {
        if let Some((change, what)) = &self.refused_outside
            && *change == now.change
        {
            return Err(StoreError::OutsideWrite { what: what.clone() });
        }
        self.refused_outside = None;
        let what = match self.compare_outside(now) {
            Ok(()) => return Ok(()),
            Err(Verdict::Refused(what)) => what,
            Err(Verdict::Failed(error)) => {
                let error = StoreError::sqlite(&self.path, "look at a write from outside", error);
                let StoreError::Corrupt { .. } = error else { return Err(error) };
                "it has damaged the database".to_owned()
            }
        };
        self.refused_outside = Some((now.change, what.clone()));
        Err(StoreError::OutsideWrite { what })
    }

    fn compare_outside(&self, now: &WalIndex) -> Result<(), Verdict> {
        if self.base_lost {
            return self.compare_with_nothing();
        }
        let Some(touched) = wal::touched(&self.writer, &self.captured, now)? else {
            return refused("parts of it have left the WAL");
        };
        let Some((before, _end)) = self.before(now)? else { return self.compare_with_nothing() };
        let after = &self.writer;
        let trees = self.trees(now)?;
        let suspects = self.look_at_pages(&trees, &touched)?;
        let own = own_schema(after)?;
        if own_schema(before)? != own {
            return refused("it changes tables, views or triggers that are Tanist's");
        }
        if cookie(before)? != cookie(after)?
            && let Some((table, parent)) = foreign_key_to_reserved(after)?
        {
            return refused(format!("a foreign key of table {table} refers to {parent}, which is Tanist's"));
        }
        compare_numbers(before, after)?;
        if !suspects.is_empty() {
            find_in_trees(&trees, &suspects)?;
        }
        own_tables(&trees, &touched)?.iter().try_for_each(|table| compare_table(before, after, table))
    }

    /// The state of the last capture can't be read any more, since others have written while no process of ours ran. What
    /// Tanist stands on is compared with what it must be; who has changed rows of its tables isn't found out.
    fn compare_with_nothing(&self) -> Result<(), Verdict> {
        let after = &self.writer;
        let wanted = match migrate::schema_like(after) {
            Ok(connection) => own_schema(&connection)?,
            Err(error) => return refused(format!("its schema can't be made: {error}")),
        };
        if own_schema(after)? != wanted {
            return refused("it changes tables, views or triggers that are Tanist's");
        }
        if let Some((table, parent)) = foreign_key_to_reserved(after)? {
            return refused(format!("a foreign key of table {table} refers to {parent}, which is Tanist's"));
        }
        if !matches!(tables::read_stamp(after, &self.path), Ok(stamp) if stamp == self.stamp) {
            return refused("it changes rows of tanist_position");
        }
        let problem: String = after.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if problem == "ok" { Ok(()) } else { refused("it has damaged the database") }
    }

    /// A connection that reads the state of the last capture, until the guard is dropped; `None` when that can't be read any
    /// more.
    fn before(&self, now: &WalIndex) -> Result<Option<(&Connection, Option<EndRead<'_>>)>, Verdict> {
        if now.salts != self.captured.salts {
            // The WAL starts over only where everything was captured, and the guard reads from before that.
            return match self.mode {
                Mode::Master { .. } if !self.observer.is_autocommit() => Ok(Some((&self.observer, None))),
                _ => Ok(None),
            };
        }
        let connection = &self.checkpoints;
        connection.execute_batch("BEGIN")?;
        let end = EndRead(connection);
        for attempt in 1.. {
            match sqlite_file::read_as_of(connection, &self.captured) {
                Ok(()) => break,
                // The WAL was checkpointed beyond it.
                Err(error) if extended_code(&error) == Some(ffi::SQLITE_ERROR_SNAPSHOT) => return Ok(None),
                Err(error) if is_busy(&error) && attempt < TRIES => std::thread::sleep(BETWEEN_TRIES),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some((connection, Some(end))))
    }

    fn trees(&self, now: &WalIndex) -> Result<Trees<'_>, Verdict> {
        let mut first = vec![0; self.page_size as usize];
        wal::read_page(&self.writer, 1, &mut first)?;
        let (size, reserved) = (u16::from_be_bytes([first[16], first[17]]), usize::from(first[20]));
        let size = if size == 1 { 65536 } else { u32::from(size) };
        if !first.starts_with(b"SQLite format 3\0") || size != self.page_size {
            return refused("it has damaged the database's header");
        }
        let usable = first.len() - reserved;
        Ok(Trees { connection: &self.writer, page_size: self.page_size, usable, pages: now.pages })
    }

    /// The written pages that aren't of a b-tree, by their looks: they may hold what doesn't fit into one, or be free.
    fn look_at_pages(&self, trees: &Trees<'_>, touched: &[u32]) -> Result<BTreeSet<u32>, Verdict> {
        let mut suspects = BTreeSet::new();
        let mut image = vec![0; trees.page_size as usize];
        for page in touched.iter().filter(|page| **page <= trees.pages) {
            if is_lock_page(*page, trees.page_size) {
                continue;
            }
            wal::read_page(trees.connection, *page, &mut image)?;
            if TreePage::parse(*page, &image, trees.usable, trees.pages).is_none() {
                suspects.insert(*page);
            }
        }
        Ok(suspects)
    }
}

/// Ends a read transaction.
struct EndRead<'c>(&'c Connection);

impl Drop for EndRead<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.execute_batch("ROLLBACK") {
            tracing::error!(%error, "end a look at an earlier state");
        }
    }
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

type SchemaRow = (String, String, String, Option<String>);

fn own_schema(connection: &Connection) -> Result<Vec<SchemaRow>, rusqlite::Error> {
    let mut statement = connection.prepare(OWN_SCHEMA)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}

fn cookie(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "schema_version", |row| row.get(0))
}

/// None of these pages may stand in a b-tree: they don't look so.
fn find_in_trees(trees: &Trees<'_>, suspects: &BTreeSet<u32>) -> Result<(), Verdict> {
    let mut statement =
        trees.connection.prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")?;
    let mut roots: Vec<(String, u32)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    roots.push(("sqlite_schema".to_owned(), 1));
    for (name, root) in roots {
        let damaged = match trees.pages_of(root)? {
            Ok(pages) => pages.intersection(suspects).next().copied(),
            Err(page) => Some(page),
        };
        if let Some(page) = damaged {
            return refused(format!("it has damaged page {page}, which belongs to {name}"));
        }
    }
    Ok(())
}

/// The tables of ours of which a page was written.
fn own_tables(trees: &Trees<'_>, touched: &[u32]) -> Result<BTreeSet<String>, Verdict> {
    let mut statement = trees.connection.prepare(OWN_TREES)?;
    let roots: Vec<(String, u32)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut tables = BTreeSet::new();
    for (table, root) in roots {
        match trees.pages_of(root)? {
            Ok(pages) if touched.iter().any(|page| pages.contains(page)) => {
                tables.insert(table);
            }
            Ok(_) => {}
            Err(page) => return refused(format!("it has damaged page {page}, which belongs to {table}")),
        }
    }
    Ok(tables)
}

/// Which events must be as they were: new ones come behind them, and a person may remove the oldest, as the server does.
fn told_events(before: &Connection, after: &Connection) -> Result<String, rusqlite::Error> {
    let end = |connection: &Connection, sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let newest = end(before, "SELECT coalesce(max(id), 0) FROM tanist_events")?;
    let oldest = end(after, "SELECT coalesce(min(id), 9223372036854775807) FROM tanist_events")?;
    Ok(format!(" WHERE id BETWEEN {oldest} AND {newest}"))
}

fn compare_table(before: &Connection, after: &Connection, table: &str) -> Result<(), Verdict> {
    if STATE.iter().any(|name| name.eq_ignore_ascii_case(table)) {
        return check_state(after, table);
    }
    let rows = if table.eq_ignore_ascii_case(EVENTS) { told_events(before, after)? } else { String::new() };
    let key: String = before
        .query_row(
            "SELECT group_concat('\"' || name || '\"') FROM (SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk)",
            [table],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or_else(|| "1".to_owned());
    let sql = format!("SELECT * FROM \"{table}\"{rows} ORDER BY {key}");
    if same_rows(before, after, &sql)? { Ok(()) } else { refused(format!("it changes rows of {table}")) }
}

/// What Tanist numbers goes on from where it stood: numbers neither come again nor run out.
fn compare_numbers(before: &Connection, after: &Connection) -> Result<(), Verdict> {
    let numbers = |connection: &Connection| {
        let mut statement = connection.prepare(
            "SELECT name, seq FROM sqlite_sequence WHERE name LIKE 'tanist\\_%' ESCAPE '\\' ORDER BY name, seq",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Value>(1)?)))?;
        rows.collect::<Result<Vec<_>, rusqlite::Error>>()
    };
    let (old, new) = (numbers(before)?, numbers(after)?);
    if old == new {
        return Ok(());
    }
    for (name, number) in &new {
        let newest = after.query_row(&format!("SELECT max(id) FROM \"{name}\""), [], |row| row.get(0))?;
        let known = old.iter().any(|(old, was)| old == name && was == number);
        if !known && *number != newest {
            return refused(format!("it changes the numbers of {name}"));
        }
    }
    let lost = old.iter().find(|(name, _)| new.iter().filter(|(other, _)| other == name).count() != 1);
    match lost {
        Some((name, _)) => refused(format!("it changes the numbers of {name}")),
        None => Ok(()),
    }
}

/// Whether both see the same rows, in order.
fn same_rows(before: &Connection, after: &Connection, sql: &str) -> Result<bool, rusqlite::Error> {
    let (mut before, mut after) = (before.prepare(sql)?, after.prepare(sql)?);
    let columns = before.column_count();
    if after.column_count() != columns {
        return Ok(false);
    }
    let (mut before, mut after) = (before.query([])?, after.query([])?);
    loop {
        let (old, new) = match (before.next()?, after.next()?) {
            (None, None) => return Ok(true),
            (Some(old), Some(new)) => (old, new),
            _ => return Ok(false),
        };
        for column in 0..columns {
            if old.get::<_, Value>(column)? != new.get::<_, Value>(column)? {
                return Ok(false);
            }
        }
    }
}

/// What a person has changed there must still be what the table's declaration allows.
fn check_state(connection: &Connection, table: &str) -> Result<(), Verdict> {
    let problem: String =
        connection.query_row(&format!("PRAGMA integrity_check(\"{table}\")"), [], |row| row.get(0))?;
    if problem == "ok" { Ok(()) } else { refused(format!("it breaks the rules of {table}")) }
}
