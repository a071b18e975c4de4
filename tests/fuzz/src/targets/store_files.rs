//! `state.db` and its WAL damaged on disk: the first byte says which, the rest where.

use std::{cell::RefCell, error::Error};

use tanist_replication::{Stamp, Term};
use tanist_store::{Database, Options, database_checksum, open_reader};
use tempfile::TempDir;

use crate::{edit, scratch, script::Script};

struct Fixture {
    template: TempDir,
    /// What the database was after each commit whose frames may still be in the WAL.
    states: Vec<([u8; 32], Stamp)>,
}

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(match Fixture::new() {
        Ok(fixture) => fixture,
        Err(error) => panic!("set up: {error}"),
    });
}

fn options() -> Options {
    Options { busy_timeout_ms: 200, ..Options::default() }
}

impl Fixture {
    fn new() -> Result<Fixture, Box<dyn Error>> {
        let template = scratch::directory()?;
        let mut master = Database::open(template.path(), options())?;
        master.become_master()?;
        master.start_reign(Term(1), "pc-1", "test")?;
        write(
            &mut master,
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES (zeroblob(9000))",
        )?;
        // The database file holds all of this; what follows is in the WAL alone.
        while !master.checkpoint_step()?.is_complete() {}
        let mut states = vec![database_checksum(template.path())?];
        for sql in ["INSERT INTO t(v) VALUES (1)", "CREATE INDEX i ON t(v)", "DELETE FROM t WHERE id = 1"] {
            write(&mut master, sql)?;
            states.push(database_checksum(template.path())?);
        }
        drop(master);
        Ok(Fixture { template, states })
    }

    fn run(&self, input: &[u8]) -> Result<(), Box<dyn Error>> {
        let mut script = Script::new(input);
        let which = script.byte();
        let file = if which & 1 == 0 { "state.db-wal" } else { "state.db" };
        let dir = scratch::copy(self.template.path())?;
        // As after a power cut: the index is made again from the WAL.
        let _ = std::fs::remove_file(dir.path().join("state.db-shm"));
        let path = dir.path().join(file);
        let mut bytes = std::fs::read(&path)?;
        edit::apply(&mut script, &mut bytes);
        std::fs::write(&path, bytes)?;

        let opened = Database::open(dir.path(), options());
        let Ok(mut database) = opened else {
            assert!(file == "state.db", "a damaged WAL can't keep the database shut: {:?}", opened.err());
            return Ok(());
        };
        if file == "state.db-wal" {
            let state = database_checksum(dir.path())?;
            assert!(self.states.contains(&state), "the WAL's end has become something else: {:?}", state.1);
            assert_eq!(database.stamp(), state.1);
        }
        if let Ok(mut reader) = open_reader(dir.path(), 1 << 18, None) {
            let _ = reader.snapshot(|db, _| {
                db.query_row("SELECT count(*), max(v) FROM t", [], |row| row.get::<_, i64>(0))
            });
        }
        let written = database.become_master().map_err(Into::into).and_then(|()| {
            write(&mut database, "INSERT INTO t(v) SELECT v FROM t; DELETE FROM t WHERE id % 2")
        });
        if file == "state.db-wal" {
            written?;
        }
        let _ = database.checkpoint_step();
        Ok(())
    }
}

fn write(master: &mut Database, sql: &str) -> Result<(), Box<dyn Error>> {
    let mut batch = master.begin(Term(1))?;
    batch.request(|db| db.execute_batch(sql))??;
    batch.commit()?;
    Ok(())
}

pub(crate) fn run(input: &[u8]) {
    FIXTURE.with_borrow(|fixture| {
        if let Err(error) = fixture.run(input) {
            panic!("around a damaged file: {error}");
        }
    });
}
