//! Which row a statement has inserted: `last_insert_rowid()` alone doesn't say, for it stays when nothing was.
//!
//! Before an INSERT the number is replaced by a mark that no row has; if the mark is still there afterwards, no row with a row id
//! came in. Owns the SQL function of that name, which goes on telling users what it would without the mark. Read `sql` in the
//! server for what is answered.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
};

use rusqlite::{Connection, functions::FunctionFlags};

use crate::sqlite_file;

thread_local! {
    /// The mark, and what it stands for, while a statement runs on this thread.
    static HIDDEN: Cell<Option<(i64, i64)>> = const { Cell::new(None) };
    /// Marks can't be foreseen, so nobody can have a row with one.
    static MARKS: (RandomState, Cell<u64>) = (RandomState::new(), const { Cell::new(0) });
}

/// Installs the function on a connection whose statements are to be watched; the store's own writer has it.
///
/// # Errors
/// SQLite's, when a statement is running on it.
pub fn watch_inserts(connection: &Connection) -> Result<(), rusqlite::Error> {
    // As harmless as SQLite's own, so that triggers, views and defaults may go on using it.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("last_insert_rowid", 0, flags, |context| {
        let last = sqlite_file::last_insert_rowid_within(context)?;
        Ok(match HIDDEN.get() {
            Some((mark, before)) if mark == last => before,
            _ => last,
        })
    })
}

/// Forgets what the connection has inserted, so that one user isn't told of another's rows.
pub fn forget_inserts(connection: &Connection) {
    sqlite_file::set_last_insert_rowid(connection, 0);
}

/// Watches one statement on a connection for which [`watch_inserts`] was called.
#[derive(Debug)]
#[must_use = "ends when it is dropped"]
pub struct InsertWatch<'c> {
    connection: &'c Connection,
    mark: i64,
    before: i64,
}

impl<'c> InsertWatch<'c> {
    /// Begins before the statement's first step.
    pub fn begin(connection: &'c Connection) -> InsertWatch<'c> {
        let before = connection.last_insert_rowid();
        let mark = MARKS.with(|(state, count)| {
            count.set(count.get().wrapping_add(1));
            state.hash_one(count.get()).cast_signed()
        });
        HIDDEN.set(Some((mark, before)));
        sqlite_file::set_last_insert_rowid(connection, mark);
        InsertWatch { connection, mark, before }
    }

    /// The row id of the last row that the statement itself has inserted; rows of triggers, of virtual tables' own tables, of
    /// tables WITHOUT ROWID and updated ones don't count.
    #[must_use]
    pub fn finish(self) -> Option<i64> {
        let last = self.connection.last_insert_rowid();
        (last != self.mark).then_some(last)
    }
}

impl Drop for InsertWatch<'_> {
    fn drop(&mut self) {
        HIDDEN.set(None);
        if self.connection.last_insert_rowid() == self.mark {
            sqlite_file::set_last_insert_rowid(self.connection, self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(connection: &Connection, sql: &str) -> Option<i64> {
        let watch = InsertWatch::begin(connection);
        connection.execute(sql, []).unwrap();
        watch.finish()
    }

    #[test]
    fn only_the_statements_own_rows_with_row_ids_are_told() {
        let connection = Connection::open_in_memory().unwrap();
        watch_inserts(&connection).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE, last DEFAULT (last_insert_rowid()));
                 CREATE TABLE w (k PRIMARY KEY) WITHOUT ROWID;
                 CREATE TABLE log (id INTEGER PRIMARY KEY, last);
                 CREATE TRIGGER first BEFORE INSERT ON t BEGIN INSERT INTO log VALUES (NULL, last_insert_rowid()); END;
                 CREATE VIEW v AS SELECT v FROM t;
                 CREATE TRIGGER instead INSTEAD OF INSERT ON v BEGIN INSERT INTO t (v) VALUES (NEW.v); END;",
            )
            .unwrap();
        let cases = [
            ("INSERT INTO t (id, v) VALUES (7, 'a')", Some(7)),
            ("INSERT INTO t (v) VALUES ('a') ON CONFLICT DO UPDATE SET v = 'b'", None),
            ("INSERT OR IGNORE INTO t (v) VALUES ('b')", None),
            ("INSERT INTO t (v) SELECT 1 WHERE 0", None),
            ("INSERT INTO w VALUES (1)", None),
            ("INSERT INTO v VALUES ('c')", None),
            ("REPLACE INTO t (id, v) VALUES (7, 'b')", Some(7)),
            ("INSERT INTO t (id, v) VALUES (20, 'x'), (10, 'y')", Some(10)),
        ];
        for (sql, expected) in cases {
            assert_eq!(inserted(&connection, sql), expected, "{sql}");
        }
        // What users are told by SQL is what SQLite would tell them, in triggers and defaults, too; also twice the same.
        let lasts = |sql: &str| {
            let mut statement = connection.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
            rows.collect::<Result<Vec<_>, _>>().unwrap()
        };
        // Within a BEFORE trigger, the number before the statement.
        assert_eq!(lasts("SELECT last FROM log WHERE id > 1 ORDER BY id"), [7, 7, 7, 7, 7, 20]);
        assert_eq!(lasts("SELECT last FROM t WHERE id IN (7, 20, 10) ORDER BY id"), [7, 20, 7]);
        assert_eq!(lasts("SELECT last_insert_rowid()"), [10]);
        assert_eq!(inserted(&connection, "UPDATE t SET v = 'z' WHERE id = 10"), None);
        assert_eq!(lasts("SELECT last_insert_rowid()"), [10]);
        // One that fails leaves what was before.
        let watch = InsertWatch::begin(&connection);
        connection.execute("INSERT INTO t (id) VALUES (7)", []).unwrap_err();
        drop(watch);
        assert_eq!(lasts("SELECT last_insert_rowid()"), [10]);
        forget_inserts(&connection);
        assert_eq!(lasts("SELECT last_insert_rowid()"), [0]);
    }
}
