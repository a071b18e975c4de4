//! Functions made anew give SQLite's own answers, use its indexes, and end in time.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::{
    Connection,
    types::{ToSqlOutput, Value, ValueRef},
};
use tanist_store::{Database, Interrupted, Options, Reader, open_reader, prepare_user};
use tempfile::TempDir;

fn reader() -> (TempDir, Reader) {
    let dir = TempDir::new().unwrap();
    drop(Database::open(dir.path(), Options::default()).unwrap());
    let reader = open_reader(dir.path(), 1 << 20, None).unwrap();
    (dir, reader)
}

/// Text may be anything but UTF-8.
#[derive(Debug, Clone)]
enum Given {
    Plain(Value),
    Text(Vec<u8>),
}

fn answer(connection: &Connection, sql: &str, given: &[Given]) -> Result<(Value, String), String> {
    let mut statement = connection.prepare_cached(sql).map_err(|error| error.to_string())?;
    for (index, given) in given.iter().enumerate() {
        let value = match given {
            Given::Plain(value) => ToSqlOutput::Borrowed(ValueRef::from(value)),
            Given::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text)),
        };
        statement.raw_bind_parameter(index + 1, value).map_err(|error| error.to_string())?;
    }
    let mut rows = statement.raw_query();
    let row = rows.next().map_err(|error| error.to_string())?.unwrap();
    let value = match row.get_ref(0).unwrap() {
        ValueRef::Text(text) => Value::Blob(text.to_vec()),
        other => Value::try_from(other).unwrap(),
    };
    Ok((value, row.get(1).unwrap()))
}

const PIECES: [&[u8]; 24] = [
    b"a",
    b"A",
    b"b",
    b"ab",
    b"%",
    b"_",
    b"*",
    b"?",
    b"[",
    b"]",
    b"^",
    b"-",
    b"!",
    b" ",
    b"\0",
    b"\x80",
    b"\xc3",
    b"\xff",
    b"\xed\xa0\x80",
    "ä".as_bytes(),
    "Ä".as_bytes(),
    "€".as_bytes(),
    "😀".as_bytes(),
    b"[a-c]",
];

fn given() -> impl Strategy<Value = Given> {
    let bytes = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..9).prop_map(|all| all.concat());
    prop_oneof![
        8 => bytes.clone().prop_map(Given::Text),
        3 => bytes.prop_map(|bytes| Given::Plain(Value::Blob(bytes))),
        1 => Just(Given::Plain(Value::Null)),
        1 => any::<i16>().prop_map(|number| Given::Plain(Value::Integer(number.into()))),
        1 => any::<f32>().prop_map(|number| Given::Plain(Value::Real(number.into()))),
    ]
}

#[test]
fn answers_are_sqlite_s_own() {
    let (_dir, reader) = reader();
    let own = Connection::open_in_memory().unwrap();
    let calls = [
        ("instr", 2),
        ("replace", 3),
        ("trim", 1),
        ("trim", 2),
        ("ltrim", 1),
        ("ltrim", 2),
        ("rtrim", 1),
        ("rtrim", 2),
        ("like", 2),
        ("like", 3),
        ("glob", 2),
    ];
    let config = ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(given in prop::collection::vec(given(), 3))| {
        for (name, count) in calls {
            let places = vec!["?"; count].join(", ");
            let sql = format!("SELECT r, typeof(r) FROM (SELECT {name}({places}) AS r)");
            let wanted = answer(&own, &sql, &given[..count]);
            prop_assert_eq!(answer(reader.connection(), &sql, &given[..count]), wanted, "{} {:?}", sql, given);
        }
    });
    for sql in [
        "SELECT json_patch('{\"a\":1,\"b\":[1,2]}', '{\"b\":null,\"c\":{\"d\":1.50}}'), ''",
        "SELECT json_object('x', json_patch('{}', '{\"a\":1}')), typeof(json_patch('{}', NULL))",
        "SELECT hex(jsonb_patch('{\"a\":1}', '{\"b\":2}')), ''",
        "SELECT json_patch('{', '{}'), ''",
        "SELECT json_patch(x'ff', '{}'), ''",
    ] {
        assert_eq!(answer(reader.connection(), sql, &[]), answer(&own, sql, &[]), "{sql}");
    }
    // What the function looked at is what it was before.
    let sql = "SELECT instr(x, 'a'), typeof(x) FROM (SELECT ?1 AS x)";
    let blob = [Given::Plain(Value::Blob(b"ba".to_vec()))];
    assert_eq!(answer(reader.connection(), sql, &blob), Ok((Value::Integer(2), "blob".to_owned())));
}

/// Texts longer than the stretches between two looks at the deadline.
#[test]
fn long_texts_have_sqlite_s_own_answers() {
    let (_dir, reader) = reader();
    let own = Connection::open_in_memory().unwrap();
    for at in [(1usize << 20) - 2, 1 << 20, (1 << 20) + 1, (1 << 21) + 1, (1 << 21) + 7] {
        for fill in ["a", "ä"] {
            let text = format!("{}needle{}", fill.repeat(at / fill.len()), fill.repeat(9));
            let given = [text.as_str(), "needle", "%needle_%", "*needle*", "x"]
                .map(|text| Given::Text(text.as_bytes().to_vec()));
            for sql in [
                "SELECT instr(?1, ?2), ''",
                "SELECT instr(CAST(?1 AS BLOB), CAST(?2 AS BLOB)), ''",
                "SELECT replace(?1, ?2, ?5), ''",
                "SELECT replace(?1, 'a', ?2), ''",
                "SELECT ?1 LIKE ?3, ''",
                "SELECT ?1 GLOB ?4, ''",
                "SELECT trim(?1, ?2), ''",
            ] {
                let count = (1..=5).filter(|n| sql.contains(&format!("?{n}"))).max().unwrap();
                let wanted = answer(&own, sql, &given[..count]);
                assert!(answer(reader.connection(), sql, &given[..count]) == wanted, "{sql} {at}");
            }
        }
    }
}

#[test]
fn patterns_use_an_index_as_with_sqlite_s_own() {
    let dir = TempDir::new().unwrap();
    let (mut master, _) = common::new_master(dir.path(), Options::default());
    let reader = open_reader(dir.path(), 1 << 20, None).unwrap();
    let own = Connection::open_in_memory().unwrap();
    let schema = "CREATE TABLE part(name TEXT COLLATE NOCASE, code TEXT); \
                  CREATE INDEX by_name ON part(name); CREATE INDEX by_code ON part(code)";
    own.execute_batch(schema).unwrap();
    common::commit(&mut master, schema);
    let plan = |connection: &Connection, filter: &str| -> String {
        let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM part WHERE {filter}");
        connection.query_row(&sql, [], |row| row.get(3)).unwrap()
    };
    for (filter, uses) in [
        ("name LIKE 'pump%'", true),
        ("name LIKE 'pu\\_mp%' ESCAPE '\\'", true),
        ("code GLOB 'P-*'", true),
        ("code LIKE 'P-%'", false),
        ("name GLOB 'pump*'", false),
    ] {
        let found = plan(reader.connection(), filter);
        assert_eq!(found, plan(&own, filter), "{filter}");
        assert_eq!(found.contains("SEARCH"), uses, "{filter}: {found}");
    }
}

/// Each ran for minutes to years without a look at the deadline.
#[test]
fn no_call_runs_past_the_deadline() {
    let (_dir, mut reader) = reader();
    for sql in [
        "SELECT instr(zeroblob(40000000), zeroblob(20000000) || x'01')",
        "SELECT replace(a, substr(a, 1, 2000000) || 'b', 'c') FROM (SELECT printf('%.40000000c', 'a') AS a)",
        "SELECT a LIKE '%' || substr(a, 1, 40000) || 'b%' FROM (SELECT printf('%.40000000c', 'a') AS a)",
        "SELECT a GLOB '*' || substr(a, 1, 40000) || 'b*' FROM (SELECT printf('%.40000000c', 'a') AS a)",
        "SELECT a GLOB '*[a]' || substr(a, 1, 40000) || 'b*' FROM (SELECT printf('%.40000000c', 'a') AS a)",
        "SELECT trim(a, printf('%.4000000c', 'b') || 'a') FROM (SELECT printf('%.40000000c', 'a') AS a)",
        "SELECT length(json_patch(o, replace(o, 'k', 'j'))) FROM (SELECT json_group_object('k' || value, 1) AS o \
         FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 100000) SELECT value FROM n))",
        "SELECT length(max(randomblob(60000000), randomblob(60000000), randomblob(60000000), randomblob(60000000), \
         randomblob(60000000), randomblob(60000000), randomblob(60000000), randomblob(60000000)))",
    ] {
        let began = Instant::now();
        reader.set_deadline(Some(began + Duration::from_millis(200)));
        let ended = reader
            .snapshot(|connection, _| {
                prepare_user(connection, sql)?.query_row([], |row| row.get::<_, Value>(0))
            })
            .unwrap();
        let (took, why) = (began.elapsed(), reader.interrupted());
        if ended.as_ref().is_err_and(|error| error.to_string().contains("json_patch: too large")) {
            continue;
        }
        if took > Duration::from_millis(200) || ended.is_err() {
            assert!(
                matches!(why, Some(Interrupted::Deadline | Interrupted::Memory { .. })),
                "{sql}: {why:?} {ended:?}"
            );
        }
        assert!(took < Duration::from_secs(3), "{sql}: took {took:?}");
    }
}
