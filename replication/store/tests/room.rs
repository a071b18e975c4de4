//! Users' SQL gets so much memory and so much room for sorting, and no more; the server's own SQL always gets its own.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use rusqlite::{Connection, ErrorCode};
use tanist_store::{Interrupted, Options, StoreError, open_reader, prepare_user, set_sql_room, sql_usage};
use tempfile::TempDir;

/// A value of 60 MB, twenty times: 1.2 GB.
fn greedy() -> String {
    format!("SELECT length(max({}))", ["zeroblob(60000000) || x'00'"; 20].join(", "))
}

/// Sorts 400 MB.
const SORT: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
                    SELECT count(*) FROM (SELECT randomblob(100000) AS b FROM n ORDER BY b LIMIT -1 OFFSET 1)";

fn run(connection: &Connection, sql: &str) -> Result<i64, rusqlite::Error> {
    prepare_user(connection, sql)?.query_row([], |row| row.get(0))
}

fn temporary_files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("temp")).unwrap().count()
}

/// One test, for the room is the process's.
#[test]
fn users_sql_gets_its_room_and_no_more() {
    let dir = TempDir::new().unwrap();
    let left = dir.path().join("temp").join("etilqs_left");
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, "by a process that was killed").unwrap();
    let (mut master, _) = common::new_master(dir.path(), Options::default());
    assert!(!left.exists(), "what is left of sorting is cleared");
    set_sql_room(128 << 20, 100 << 20);
    let mut reader = open_reader(dir.path(), 2 << 20, None).unwrap();

    // Memory.
    reader.set_deadline(None);
    let refused = reader.snapshot(|connection, _| run(connection, &greedy())).unwrap().unwrap_err();
    assert_eq!(refused.sqlite_error_code(), Some(ErrorCode::OutOfMemory), "{refused}");
    assert_eq!(reader.interrupted(), Some(Interrupted::Memory { limit_bytes: 128 << 20 }));
    assert_eq!(sql_usage().memory, 0, "what it had is given back");
    // What fits goes on as before, and so does the server's own.
    reader.set_deadline(None);
    let fits = "SELECT octet_length(zeroblob(30000000) || x'00')";
    assert_eq!(reader.snapshot(|connection, _| run(connection, fits)).unwrap().unwrap(), 30_000_001);
    let large =
        "SELECT octet_length(zeroblob(60000000) || x'00') + octet_length(zeroblob(60000000) || x'01')";
    let own: i64 = reader.connection().query_row(large, [], |row| row.get(0)).unwrap();
    assert_eq!((own, reader.interrupted()), (120_000_002, None));

    // The same in a batch: the read alone fails, or it takes the batch along and says why.
    common::commit(&mut master, "CREATE TABLE part(name)");
    let mut batch = master.begin(common::TERM).unwrap();
    batch.set_deadline(None);
    let asked = batch.request(|connection| run(connection, &greedy()));
    match asked {
        Ok(Err(error)) => {
            assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OutOfMemory), "{error}");
            assert_eq!(batch.interrupted(), Some(Interrupted::Memory { limit_bytes: 128 << 20 }));
        }
        Err(StoreError::BatchLost { interrupted }) => {
            assert_eq!(interrupted, Some(Interrupted::Memory { limit_bytes: 128 << 20 }));
        }
        other => panic!("{other:?}"),
    }
    drop(batch);
    common::commit(&mut master, "INSERT INTO part VALUES ('pump')");

    // What was prepared of long SQL isn't kept where others lack its memory.
    let columns = |n: usize| (0..2000).map(|i| format!("{i} + {n} * 7")).collect::<Vec<_>>().join(", ");
    for n in 0..150 {
        reader.set_deadline(None);
        let long = format!("SELECT {}", columns(n));
        let ran = reader.snapshot(|connection, _| run(connection, &long)).unwrap();
        assert_eq!(ran.unwrap(), i64::try_from(n).unwrap() * 7);
        assert_eq!(sql_usage().memory, 0, "after {n}");
    }

    // Sorts go to the data directory, and stop at their limit.
    reader.set_deadline(None);
    let refused = reader.snapshot(|connection, _| run(connection, SORT)).unwrap().unwrap_err();
    assert_eq!(refused.sqlite_error_code(), Some(ErrorCode::DiskFull), "{refused}");
    assert_eq!(reader.interrupted(), Some(Interrupted::TempSpace { limit_bytes: 100 << 20 }));
    assert_eq!((sql_usage().temp, temporary_files(dir.path())), (0, 0));
    set_sql_room(128 << 20, 1 << 30);
    reader.set_deadline(None);
    assert_eq!(reader.snapshot(|connection, _| run(connection, SORT)).unwrap().unwrap(), 3999);
    assert_eq!((sql_usage().temp, temporary_files(dir.path())), (0, 0));
    common::commit(&mut master, "INSERT INTO part VALUES ('valve')");
}
