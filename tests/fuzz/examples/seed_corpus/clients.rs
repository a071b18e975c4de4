//! What clients send.

use crate::{Input, chunk, named};

/// Route, query, content type, the other header, body.
fn request(route: u8, query: &str, other: &str, body: &str) -> Vec<u8> {
    let json = chunk(b"application/json");
    [&[route][..], &chunk(query.as_bytes()), &json, &chunk(other.as_bytes()), body.as_bytes()].concat()
}

pub(crate) fn http() -> Vec<Input> {
    let one = r#"{"statements":[{"sql":"SELECT 1"}]}"#;
    let values = r#"{"statements":[{"sql":"INSERT INTO t VALUES (?,?)","params":[1.5,{"base64":"AAEC"}]}],"transaction":true}"#;
    let named_values =
        r#"{"statements":[{"sql":"SELECT :a","params":{"a":null,":b":"x"}},{"sql":"SELECT 2"}]}"#;
    let member =
        r#"{"id":"pc-4","rank":4,"peer_addresses":["10.0.0.4:7450"],"urls":["http://10.0.0.4:8080/"]}"#;
    named([
        ("execute", request(0, "", "", one)),
        ("execute_values", request(0, "", "a-key-0001", values)),
        ("execute_named", request(0, "", "", named_values)),
        ("execute_no_statements", request(0, "", "", r#"{"statements":[]}"#)),
        ("execute_unknown_field", request(0, "", "", r#"{"statements":[],"more":1}"#)),
        ("query_strong", request(1, "", "", one)),
        ("query_local", request(1, "consistency=local", "3.1042", one)),
        ("query_bounded", request(1, "consistency=bounded&max_staleness=500ms", "", one)),
        ("query_longest_staleness", request(1, "max_staleness=18446744073709551615s", "", one)),
        ("query_bad_position", request(1, "", "3", one)),
        ("new_member", request(2, "", "", member)),
        ("new_member_bad_address", request(2, "", "", r#"{"id":"x","rank":1,"peer_addresses":["x:99999"]}"#)),
        ("member_patch", request(3, "", "", r#"{"rank":2,"urls":[]}"#)),
        ("handover", request(4, "", "", r#"{"member":"pc-2"}"#)),
        ("change_config", request(5, "", "0", r#"{"value":{"a":[1.5,null]}}"#)),
        ("change_node", request(5, "", "1", r#"{"address":"10.0.0.1","row":1,"labels":{"side":"left"}}"#)),
        ("change_desired", request(5, "", "2", r#"{"state":{"on":true}}"#)),
        ("change_reported", request(5, "", "3", r#"{"state":{},"desired_revision":7,"error":"hot"}"#)),
        ("change_command", request(5, "", "4", r#"{"name":"restart","arguments":5,"nodes":["n1","n2"]}"#)),
        ("change_outcome", request(5, "", "5", r#"{"status":"failed","detail":"no"}"#)),
        ("conditions", request(6, "", "\"811\", W/\"812\"", "")),
        ("conditions_any", request(6, "", "*", "")),
        ("list", request(7, "prefix=wall%2F&limit=10&before=5", "", "")),
        ("deep", request(1, "", "", &format!("{{\"statements\":{}", "[".repeat(1500)))),
        ("no_content_type", [&[0, 0, 0, 0, 0, 0, 0][..], one.as_bytes()].concat()),
    ])
}

pub(crate) fn params() -> Vec<Input> {
    let values = [
        ("null", "null"),
        ("boolean", "true"),
        ("integer", "-9223372036854775808"),
        ("large_integer", "18446744073709551615"),
        ("real", "1.5e-7"),
        // Read with less care, its last bit is wrong.
        ("real_of_17_digits", "31.245270191439438"),
        ("huge_integer", "123456789012345678901234567890"),
        ("text", "\"a \\u00e4 \\ud83d\\ude00 \\u0000 b\""),
        ("blob", "{\"base64\":\"AAECAw==\"}"),
        ("blob_unpadded", "{\"base64\":\"AAECAw\"}"),
        ("object", "{\"base64\":1}"),
        ("array", "[1,[2]]"),
    ];
    named(values.map(|(name, value)| (name, value.as_bytes().to_vec())))
}

pub(crate) fn sql() -> Vec<Input> {
    let text = |sql: &str| [&[1][..], sql.as_bytes()].concat();
    let body = |json: &str| [&[0][..], json.as_bytes()].concat();
    named([
        ("select", text("SELECT id, v FROM t WHERE id > 1 ORDER BY v LIMIT 3")),
        ("insert", text("INSERT INTO t(v) VALUES (1), ('x'), (x'00') RETURNING id, v")),
        ("update", text("-- why\nUPDATE t SET v = v || 'x' WHERE id IN (SELECT a FROM u)")),
        ("conflict", text("INSERT OR ROLLBACK INTO t(id) VALUES (1)")),
        ("foreign_key", text("INSERT INTO u VALUES (1, 99)")),
        (
            "endless",
            text("WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM c) SELECT count(*) FROM c"),
        ),
        ("trigger", text("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM tanist_terms; END")),
        ("view", text("CREATE VIEW v AS SELECT * FROM tanist_position")),
        ("temporary", text("CREATE TEMP TABLE t(x)")),
        ("virtual", text("CREATE VIRTUAL TABLE f USING fts5(a)")),
        ("rename", text("ALTER TABLE t RENAME TO tanist_t")),
        ("reserved", text("UPDATE tanist_position SET txid = 99")),
        ("savepoint", text("ROLLBACK TO tanist_request")),
        ("pragma", text("PRAGMA foreign_keys = 0")),
        ("pragma_function", text("SELECT * FROM pragma_journal_mode('delete')")),
        ("attach", text("ATTACH 'other.db' AS o")),
        ("vacuum", text("/* a */ VACUUM INTO 'x'")),
        ("large", text("INSERT INTO t(v) SELECT zeroblob(70000000)")),
        ("two_statements", body(r#"{"statements":[{"sql":"DELETE FROM t"},{"sql":"SELEC"}]}"#)),
        ("named", body(r#"{"statements":[{"sql":"SELECT :a, @b, $c","params":{"a":1,"@b":"x","c":null}}]}"#)),
        ("places", body(r#"{"statements":[{"sql":"SELECT ?3, ?1","params":[1,2,{"base64":"AA=="}]}]}"#)),
    ])
}
