//! SQL, events, copies.

use serde_json::json;
use tanist_api::{
    ExecuteRequest, ExecuteResponse, QueryRequest, QueryResponse, WatchedTable, WatchedTables, code,
};
use utoipa::openapi::ObjectBuilder;

use super::{DATA, EVENTS, delete, get, post, put};
use crate::{
    backup::{LEVEL, LEVELS},
    http::openapi::{
        operation::{Operation, SQL},
        parameters::{number, text},
    },
};

pub(in crate::http) fn execute() -> Operation {
    post("/v1/execute", "execute", DATA, "Write with SQL")
        .describe(
            "Runs the statements in order, all or nothing. ATTACH, transaction control, changes of Tanist's own tables and \
             whatever touches files or durability is refused (`sql-denied`).",
        )
        .body::<ExecuteRequest>(json!({ "statements": [
            { "sql": "INSERT INTO parts (name, stock) VALUES (?, ?)", "params": ["bolt", 12] },
            { "sql": "UPDATE parts SET stock = stock - :n WHERE name = :name RETURNING stock",
              "params": { "n": 2, "name": "nut" } },
        ] }))
        .takes(&["Idempotency-Key"])
        .problems(SQL)
        .problems(&[
            (409, code::CONSTRAINT),
            (413, code::RESULT_TOO_LARGE),
            (422, code::IDEMPOTENCY_MISMATCH),
            (507, code::AUDIT_FULL),
        ])
        .writes()
        .json_with::<ExecuteResponse>(
            200,
            "Every machine that must hold it has it on disk.",
            &["Idempotency-Replayed"],
        )
}

pub(in crate::http) fn query() -> Operation {
    post("/v1/query", "query", DATA, "Read with SQL")
        .describe("Runs read-only statements on one snapshot, as current as asked for.")
        .body::<QueryRequest>(
            json!({ "statements": [{ "sql": "SELECT name, stock FROM parts ORDER BY name" }] }),
        )
        .problems(SQL)
        .reads()
        .json::<QueryResponse>(200, "What the snapshot holds.")
}

pub(in crate::http) fn backup() -> Operation {
    get("/v1/backup", "backup", DATA, "A copy of the whole database")
        .describe(
            "A consistent copy of this machine's replica as a stream: the SQLite file, compressed with zstd. Two at once; a \
             client that takes nothing for `limits.backup_stall` or not all within `limits.backup_time` is cut off.",
        )
        .takes(&["Tanist-Min-Position"])
        .query(
            "level",
            &format!("How hard zstd works; default {LEVEL}."),
            number((*LEVELS.start()).into(), Some((*LEVELS.end()).into())),
        )
        .problems(&[
            (400, code::BAD_REQUEST),
            (500, code::STORAGE),
            (503, code::NOT_FRESH),
            (503, code::OVERLOADED),
        ])
        .media("application/zstd", None, "The copy.", &["Content-Disposition", "Tanist-Database-Bytes"])
}

pub(in crate::http) fn events() -> Operation {
    get("/v1/events", "events", EVENTS, "Watch what changes")
        .describe(
            "Server-sent events, each acknowledged change once and in order, resumable on any machine. `id` is the event's \
             number, `event` its kind, `data` a JSON object with the rest of `WatchEvent`. A comment comes every 5 s when \
             nothing else does. The last event of a stream that ends is `end`, with `code` and `detail`: `stopping`, \
             `not-fresh`, `events-pruned`, `events-lost`, `unauthorized` or `storage`.",
        )
        .query("after", "Events after this one; default: from now on.", text("^[0-9]{1,18}$"))
        .query(
            "kinds",
            "Only these, with commas between: config, node, desired, reported, command, token, cluster, row.",
            text("^(config|node|desired|reported|command|token|cluster|row)(,(config|node|desired|reported|command|token|cluster|row))*$"),
        )
        .query("subject_prefix", "Only those whose subject begins so.", text(""))
        .query(
            "tables",
            "Only the rows of these tables, with commas between; 100 at most.",
            text("^[A-Za-z_][A-Za-z0-9_]*(,[A-Za-z_][A-Za-z0-9_]*){0,99}$"),
        )
        .takes(&["Last-Event-ID"])
        .problems(&[
            (400, code::BAD_REQUEST),
            (410, code::EVENTS_PRUNED),
            (503, code::NOT_FRESH),
            (503, code::OVERLOADED),
        ])
        .media(
            "text/event-stream",
            Some(ObjectBuilder::new().schema_type(utoipa::openapi::Type::String).build().into()),
            "The stream; it doesn't end by itself.",
            &["Cache-Control"],
        )
}

pub(in crate::http) fn watched_tables() -> Operation {
    get("/v1/watched-tables", "listWatchedTables", EVENTS, "Tables whose rows are watched")
        .problems(&[
            (503, code::NOT_FRESH),
            (503, code::STORAGE),
            (500, code::STORAGE),
            (503, code::OVERLOADED),
        ])
        .json::<WatchedTables>(200, "As this machine's replica has it.")
}

pub(in crate::http) fn watched_table() -> Operation {
    get("/v1/watched-tables/{table}", "getWatchedTable", EVENTS, "Whether a table's rows are watched")
        .problems(&[
            (400, code::BAD_REQUEST),
            (404, code::NOT_FOUND),
            (500, code::STORAGE),
            (503, code::NOT_FRESH),
            (503, code::OVERLOADED),
            (503, code::STORAGE),
        ])
        .json::<WatchedTable>(200, "As this machine's replica has it.")
}

pub(in crate::http) fn watch_table() -> Operation {
    put("/v1/watched-tables/{table}", "watchTable", EVENTS, "Watch a table's rows")
        .writes()
        .problems(&[(404, code::NOT_FOUND)])
        .json::<WatchedTable>(200, "Each change of its rows is an event from now on.")
}

pub(in crate::http) fn unwatch_table() -> Operation {
    delete("/v1/watched-tables/{table}", "unwatchTable", EVENTS, "Watch a table's rows no longer")
        .writes()
        .problems(&[(404, code::NOT_FOUND)])
        .json::<WatchedTable>(200, "Changes of its rows are no events any more.")
}
