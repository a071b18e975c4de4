//! What strangers try at the HTTP side: foreign pages, forged lines, replayed proofs, roles that reach for more.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tanist_api::{
    Access, AuditRecord, ExecuteRequest, NewCommand, NewToken, NodeSpec, QueryRequest, Statement, code,
    key::{OperatorKey, Proven, body_hash, challenge},
};
use tanist_client::{ChangeOptions, Client, Consistency, Error, ExecuteOptions, WatchOptions};
use tanist_server::config::Config;

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout, binary, tanist},
    http_input::raw,
    tokens::{code_of, with},
};

/// A request with these fields of its head, each ending its line.
fn asked(method: &str, path: &str, head: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\n{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

const JSON: &str = "content-type: application/json\r\n";
const WRITE: &str = r#"{"statements":[{"sql":"CREATE TABLE stolen(x)"}]}"#;

fn sql(text: &str) -> ExecuteRequest {
    ExecuteRequest { statements: vec![Statement::new(text)], transaction: true }
}

fn question(text: &str) -> QueryRequest {
    QueryRequest { statements: vec![Statement::new(text)] }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_neither_read_nor_write_where_there_are_no_tokens() {
    let extra = "names = [\"wall.example\"]\n".to_owned();
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(1) }).await;
    let ip = cluster.machines[0].ip.clone();
    let ask = async |method: &str, path: &str, head: &str, body: &str| {
        raw(&ip, asked(method, path, head, body)).await
    };
    let own = format!("host: {ip}:{HTTP_PORT}\r\n");
    let evil = "host: evil.example:8080\r\n";

    // DNS rebinding: the page's own name, pointed here.
    for (method, path, head, body) in [
        ("GET", "/v1/cluster", String::new(), ""),
        ("GET", "/", String::new(), ""),
        ("GET", "/metrics", String::new(), ""),
        ("POST", "/v1/execute", JSON.to_owned(), WRITE),
        ("POST", "/v1/query", JSON.to_owned(), r#"{"statements":[{"sql":"SELECT 1"}]}"#),
        ("POST", "/v1/nodes/x/seen", JSON.to_owned(), ""),
    ] {
        let (status, text) = ask(method, path, &format!("{evil}{head}"), body).await;
        assert!(status == 421 && text.contains(code::FOREIGN_HOST), "{method} {path}: {text}");
    }
    let (status, _) = ask("GET", "http://evil.example/v1/cluster", &own, "").await;
    assert_eq!(status, 421, "the form for proxies");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            ask("GET", path, evil, "").await.0,
            200,
            "who looks whether it lives knows it by any name"
        );
    }
    for host in [
        own.as_str(),
        "host: localhost\r\n",
        "host: [::1]:8080\r\n",
        "host: wall.example\r\n",
        "Host: WALL.example:80\r\n",
        "host: 10.1.2.3\r\n",
    ] {
        let (status, text) = ask("GET", "/v1/cluster", host, "").await;
        assert_eq!(status, 200, "{host}: {text}");
    }
    let (status, text) = ask("GET", "/v1/cluster", &format!("{own}host: evil.example\r\n"), "").await;
    assert!(status == 400 && text.contains("more than once"), "{text}");

    // A form or a script of another page, addressed to the machine itself.
    for origin in ["http://evil.example", "null", "http://localhost:3000", &format!("http://{ip}:81")] {
        let head = format!("{own}{JSON}origin: {origin}\r\n");
        let (status, text) = ask("POST", "/v1/execute", &head, WRITE).await;
        assert!(status == 403 && text.contains(code::FOREIGN_ORIGIN), "{origin}: {text}");
        let (status, _) = ask("DELETE", "/v1/config/a", &head, "").await;
        assert_eq!(status, 403, "{origin}");
    }
    let (status, text) = ask("POST", "/v1/nodes/x/seen", &own, "").await;
    assert!(status == 415 && text.contains("application/json"), "{text}");
    let plain = format!("{own}content-type: text/plain\r\n");
    assert_eq!(ask("POST", "/v1/execute", &plain, WRITE).await.0, 415);
    let head = format!("{own}{JSON}origin: http://{ip}:{HTTP_PORT}\r\n");
    let (status, text) = ask("POST", "/v1/execute", &head, WRITE).await;
    assert_eq!(status, 200, "the machine's own page: {text}");

    // What a browser is told.
    let (_, text) = ask("GET", "/", &own, "").await;
    let text = text.to_ascii_lowercase();
    for expected in
        ["frame-ancestors 'none'", "base-uri 'none'", "connect-src 'self'", "x-content-type-options: nosniff"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let (_, text) = ask("GET", "/v1/cluster", &own, "").await;
    assert!(text.contains("cache-control: no-store") && text.contains("tanist-cluster: test"), "{text}");

    // A parameter that no route takes is named, on every route.
    for path in [
        "/v1/execute?consistency=local",
        "/v1/cluster?x=1",
        "/metrics?x",
        "/v1/events?consistncy=local",
        "/v1/query?Consistency=local",
        "/v1/nodes?limit=5&limt=4",
        "/v1/watched-tables?consistency=local",
    ] {
        let method = if path.contains("execute") || path.contains("query") { "POST" } else { "GET" };
        let (status, text) = ask(method, path, &format!("{own}{JSON}"), WRITE).await;
        assert!(status == 400 && text.contains("query parameter: found"), "{path}: {text}");
    }
    let log = cluster.log_of(0);
    assert!(log.contains("a request was refused") && log.contains("route=\"/v1/execute\""), "{log}");
    assert!(log.contains(&format!("peer=\"{}", "127.")), "{log}");
    cluster.assert_no_panic();
}

#[test]
fn any_origin_without_tokens_is_refused_at_the_start() {
    let cluster = Cluster::lay_out(&Layout { extra: "cors = [\"*\"]\n".to_owned(), ..Layout::of(1) });
    let (code, text) = tanist(&["run", "--config", &cluster.machines[0].config.display().to_string()]);
    assert!(code == Some(1) && text.contains("listen.cors"), "{text}");
}

/// The nonce of a refusal.
fn nonce(answer: &str) -> String {
    let lines = answer.lines().filter_map(|line| line.split_once(": "));
    let of = |(name, value): (&str, &str)| {
        name.eq_ignore_ascii_case("www-authenticate").then(|| challenge(value).map(str::to_owned))?
    };
    lines.into_iter().find_map(of).unwrap_or_else(|| panic!("no challenge in {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_of_the_key_is_good_for_one_request_at_one_machine_once() {
    let cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(2) }).await;
    let key: OperatorKey = Config::load(&cluster.machines[0].config).unwrap().operator_key();
    let master = cluster.wait_master().await;
    let ip = cluster.machines[master].ip.clone();
    let other = cluster.machines[1 - master].ip.clone();
    let host = |ip: &str| format!("{ip}:{HTTP_PORT}");
    let send = async |ip: &str, host: &str, path: &str, authorization: &str, body: &str| {
        let head = format!("host: {host}\r\n{JSON}authorization: {authorization}\r\n");
        raw(ip, asked("POST", path, &head, body)).await
    };
    let fresh = async |ip: &str| {
        nonce(&raw(ip, asked("POST", "/v1/execute", &format!("host: {}\r\n{JSON}", host(ip)), "")).await.1)
    };
    let proof = |nonce: &str, authority: &str, path: &str, body: &str| {
        let body = body_hash(body.as_bytes());
        key.authorization(&Proven { nonce, authority, method: "POST", path, body: &body })
    };
    let (mine, path) = (host(&ip), "/v1/execute");
    let good = proof(&fresh(&ip).await, &mine, path, WRITE);
    let (status, text) = send(&ip, &mine, path, &good, WRITE).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("tanist-nonce: "), "{text}");
    let (status, text) = send(&ip, &mine, path, &good, WRITE).await;
    assert!(status == 401 && text.contains("has been used"), "a replay: {text}");
    // Each of these would have been good but for one thing.
    let drop = r#"{"statements":[{"sql":"DROP TABLE stolen"}]}"#;
    let n = fresh(&ip).await;
    for (what, to, named, path, authorization, body) in [
        ("another body", &ip, &mine, path, proof(&n, &mine, path, WRITE), drop),
        ("another path", &ip, &mine, "/v1/query", proof(&fresh(&ip).await, &mine, path, drop), drop),
        ("another machine", &other, &host(&other), path, proof(&fresh(&ip).await, &mine, path, drop), drop),
        ("another machine's nonce", &ip, &mine, path, proof(&fresh(&other).await, &mine, path, drop), drop),
        (
            "relayed by another host",
            &ip,
            &"evil.example:8080".to_owned(),
            path,
            proof(&fresh(&ip).await, "evil.example:8080", path, drop),
            drop,
        ),
        (
            "another key",
            &ip,
            &mine,
            path,
            OperatorKey::from_bytes([3; 32]).authorization(&Proven {
                nonce: &fresh(&ip).await,
                authority: &mine,
                method: "POST",
                path,
                body: &body_hash(drop.as_bytes()),
            }),
            drop,
        ),
    ] {
        let (status, text) = send(to, named, path, &authorization, body).await;
        assert_eq!(status, 401, "{what}: {text}");
    }
    let (status, text) = send(&ip, &mine, path, &proof(&fresh(&ip).await, &mine, path, drop), drop).await;
    assert_eq!(status, 200, "{text}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_with_the_configuration_go_where_it_says_and_nowhere_else() {
    let cluster = Cluster::start(&Layout { tokens: true, tls: true, ..Layout::of(2) }).await;
    let config = cluster.machines[1].config.display().to_string();
    let (code, text) = tanist(&["status", "--config", &config]);
    assert_eq!(code, Some(0), "hosts, scheme and authority are the file's: {text}");
    let (code, text) = tanist(&["execute", "--config", &config, "CREATE TABLE t(x)"]);
    assert_eq!(code, Some(0), "{text}");
    let clear = cluster.url(0).replace("https://", "http://");
    for hosts in ["127.0.0.1:1", clear.as_str()] {
        let (code, text) = tanist(&["status", "--config", &config, "--hosts", hosts]);
        assert!(code == Some(2) && text.contains("--hosts"), "{hosts}: {text}");
    }
    let bare = cluster.url(0).replace("https://", "");
    let (code, text) = tanist(&["status", "--config", &config, "--hosts", &bare]);
    assert_eq!(code, Some(0), "one of them, by the file's scheme: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_of_users_sees_no_hashes_no_answers_of_others_and_no_record() {
    let cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(1) }).await;
    let operator = cluster.client();
    let make = async |name: &str, role| with(&cluster, &operator.make_token(name, role).await.unwrap().token);
    let (reader, writer, admin) =
        (make("r", Access::Read).await, make("w", Access::Write).await, make("a", Access::Admin).await);
    let keyed = || ExecuteOptions { idempotency_key: Some("k".to_owned()), ..ExecuteOptions::default() };
    writer.execute_with(sql("CREATE TABLE t(v)"), keyed()).await.unwrap();
    // Two tokens with the same key don't meet.
    let mine = operator.execute_with(sql("CREATE TABLE u(v)"), keyed()).await.unwrap();
    assert_eq!(
        operator.execute_with(sql("CREATE TABLE u(v)"), keyed()).await.unwrap().position,
        mine.position
    );
    assert_eq!(code_of(writer.execute_with(sql("DELETE FROM t"), keyed()).await), code::IDEMPOTENCY_MISMATCH);

    for view in [
        "CREATE VIEW v1 AS SELECT hash FROM tanist_tokens",
        "CREATE VIEW v2 AS SELECT * FROM tanist_requests",
        "CREATE VIEW v3 AS SELECT sql FROM tanist_v_audit",
        "ANALYZE",
    ] {
        writer.execute(sql(view)).await.unwrap();
    }
    let secrets = [
        "SELECT hash FROM tanist_tokens",
        "SELECT count(*) FROM tanist_tokens WHERE hash > x'80'",
        "SELECT * FROM tanist_tokens",
        "SELECT answer FROM tanist_requests",
        "SELECT count(*) FROM tanist_requests",
        "SELECT sql FROM tanist_audit",
        "SELECT actor FROM tanist_v_audit",
        "SELECT * FROM v1",
        "SELECT * FROM v2",
        "SELECT * FROM v3",
        "WITH x AS (SELECT HASH AS h FROM main.Tanist_Tokens) SELECT h FROM x",
    ];
    for text in secrets {
        // An admin first: what was prepared for him must not serve others.
        for consistency in [Consistency::Strong, Consistency::Local] {
            admin.query(question(text), consistency, None).await.unwrap();
            for (name, client) in [("read", &reader), ("write", &writer)] {
                let found = client.query(question(text), consistency, None).await;
                assert_eq!(code_of(found), code::SQL_DENIED, "{name}: {text}");
            }
        }
        let copied = writer.execute(sql(&format!("CREATE TABLE copied AS {text}"))).await;
        assert_eq!(code_of(copied), code::SQL_DENIED, "{text}");
    }
    let quoted =
        question("SELECT count(*) FROM sqlite_stat4 WHERE coalesce(sample, tbl, idx, neq) IS NOT NULL");
    for (client, expected) in [(&admin, true), (&reader, false)] {
        let found = client.query(quoted.clone(), Consistency::Strong, None).await.unwrap();
        assert_eq!(found.results[0].rows[0][0].as_i64().unwrap() > 0, expected, "what ANALYZE quotes");
    }
    let trigger =
        "CREATE TRIGGER spy AFTER INSERT ON t BEGIN INSERT INTO u SELECT hash FROM tanist_tokens; END";
    let _ = writer.execute(sql(trigger)).await;
    let spied = operator.execute(sql("INSERT INTO t VALUES (1)")).await;
    assert_eq!(code_of(spied), code::SQL_DENIED);
    for text in ["SELECT name, role FROM tanist_tokens", "SELECT count(*) FROM tanist_events"] {
        reader.query(question(text), Consistency::Strong, None).await.unwrap();
    }
    assert_eq!(code_of(writer.audit(&Default::default()).await), code::FORBIDDEN);
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_expire_say_when_they_were_used_and_are_not_called_like_the_operator() {
    let cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(2) }).await;
    let operator = cluster.client();
    for name in ["cluster-key", "Cluster-Key"] {
        assert_eq!(code_of(operator.make_token(name, Access::Read).await), code::BAD_REQUEST);
    }
    let short = NewToken { expires_in_seconds: Some(2), ..NewToken::new("short", Access::Read) };
    let short = operator.make_token_as(&short).await.unwrap();
    assert!(short.expires_at.is_some());
    let lasting = operator.make_token("lasting", Access::Read).await.unwrap().token;
    for machine in 0..2 {
        let token = short.token.clone();
        let here = cluster.builder().hosts(&cluster.url(machine)).token(&token).unwrap().build().unwrap();
        cluster
            .wait("the token has expired on this machine", || async {
                let answer = here.query(question("SELECT 1"), Consistency::Local, None).await;
                matches!(answer, Err(Error::Problem(problem)) if problem.detail.contains("has expired"))
                    .then_some(())
            })
            .await;
    }
    // On a backup alone: whoever lists the tokens asks all machines.
    let backup = 1 - cluster.wait_master().await;
    let there = cluster.builder().hosts(&cluster.url(backup)).token(&lasting).unwrap().build().unwrap();
    there.query(question("SELECT 1"), Consistency::Local, None).await.unwrap();
    let config = cluster.machines[0].config.display().to_string();
    let (code, text) = tanist(&["token", "list", "--config", &config, "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let listed: Vec<Value> = serde_json::from_str(&text).unwrap();
    let lasting = listed.iter().find(|token| token["name"] == "lasting").unwrap();
    assert!(lasting["last_used"].as_str().is_some_and(|at| at.starts_with("20")), "{text}");
    let (code, text) =
        tanist(&["token", "make", "x", "--role", "read", "--expires", "30d", "--config", &config]);
    assert_eq!(code, Some(0), "{text}");
    for bad in [["--expires", "30"], ["--expires", "0d"], ["--node", "n1"]] {
        let args = ["token", "make", "y", "--role", "read", "--config", &config, bad[0], bad[1]];
        assert_ne!(tanist(&args).0, Some(0), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_serves_its_node_with_its_own_token_and_gets_nothing_else() {
    let cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(2) }).await;
    let operator = cluster.client();
    for node in ["n1", "n2"] {
        operator.set_node(node, &NodeSpec::default(), &ChangeOptions::default()).await.unwrap();
    }
    let config = cluster.machines[0].config.display().to_string();
    let make = ["token", "make", "agent-1", "--role", "agent", "--node", "n1", "--config", &config, "--json"];
    let (code, text) = tanist(&make);
    assert_eq!(code, Some(0), "{text}");
    let made: Value = serde_json::from_str(&text).unwrap();
    let token = made["token"].as_str().unwrap().to_owned();

    // The real agent: what it runs finds no token, and what it prints forges no line.
    let dir = tempfile::TempDir::new().unwrap();
    let (seen, log) = (dir.path().join("seen"), dir.path().join("log"));
    let script = format!(
        "cat > /dev/null; env > '{0}.new' && mv '{0}.new' '{0}'; printf 'boom\\rFORGED\\033[2J' >&2; exit 1",
        seen.display()
    );
    let mut agent = std::process::Command::new(binary())
        .args([
            "agent",
            "--hosts",
            &cluster.hosts(),
            "--node",
            "n1",
            "--every",
            "100",
            "--on-command",
            "/bin/cat",
        ])
        .args(["--", "sh", "-c", &script])
        .env("TANIST_TOKEN", &token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let state = json!({ "channel": 3 }).as_object().unwrap().clone();
    operator.set_desired("n1", &state, &ChangeOptions::default()).await.unwrap();
    let command = |nodes: &[&str]| NewCommand {
        name: "blink".to_owned(),
        arguments: json!({}),
        nodes: nodes.iter().map(ToString::to_string).collect(),
    };
    let both = operator.send_command(&command(&["n1", "n2"]), &ChangeOptions::default()).await.unwrap().value;
    let others = operator.send_command(&command(&["n2"]), &ChangeOptions::default()).await.unwrap().value;
    cluster
        .wait("the agent has run its program and the command", || async {
            let told = std::fs::read_to_string(&log).unwrap_or_default().contains("FORGED");
            let now = operator.command(both.id, &Default::default()).await.ok()?.value;
            let done = now.outcomes.iter().any(|one| one.node == "n1" && one.status.as_str() == "done");
            (told && done && seen.exists()).then_some(())
        })
        .await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let environment = std::fs::read_to_string(&seen).unwrap();
    assert!(environment.contains("TANIST_NODE=n1") && !environment.contains(&token), "{environment}");
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(!log.contains(['\r', '\u{1b}']) && log.contains("boom\\rFORGED\\u001b"), "{log}");

    // And by hand, what it may not.
    let agent = with(&cluster, &token);
    assert_eq!(code_of(agent.query(question("SELECT 1"), Consistency::Local, None).await), code::FORBIDDEN);
    assert_eq!(code_of(agent.execute(sql("SELECT 1")).await), code::FORBIDDEN);
    assert_eq!(code_of(agent.seen("n2").await), code::FORBIDDEN);
    assert_eq!(code_of(agent.desired("n2", &Default::default()).await), code::FORBIDDEN);
    assert_eq!(code_of(agent.set_desired("n1", &state, &Default::default()).await), code::FORBIDDEN);
    assert_eq!(code_of(agent.cluster().await), code::FORBIDDEN);
    assert_eq!(code_of(agent.tokens().await), code::FORBIDDEN);
    assert_eq!(code_of(agent.command(others.id, &Default::default()).await), code::NOT_FOUND);
    let own = agent.command(both.id, &Default::default()).await.unwrap().value;
    let nodes: BTreeSet<_> = own.nodes.iter().chain(own.outcomes.iter().map(|one| &one.node)).collect();
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["n1"], "what became of it elsewhere is left out");

    // Of the events, those of its node.
    let mut watch = agent.watch(WatchOptions { after: Some(0), ..WatchOptions::default() });
    let last = operator.set_desired("n2", &state, &ChangeOptions::default()).await.unwrap().value.revision;
    let mine = operator.set_desired("n1", &serde_json::Map::new(), &ChangeOptions::default()).await.unwrap();
    assert!(mine.value.revision > last);
    loop {
        let event = watch.next().await.unwrap();
        assert!(["node", "desired", "reported", "command"].contains(&event.kind.as_str()), "{event:?}");
        let concerns =
            event.subject == "n1" || event.kind == "command" && event.data.to_string().contains("n1");
        assert!(concerns, "{event:?}");
        if event.id == u64::try_from(mine.value.revision).unwrap() {
            break;
        }
    }
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn record_tells_of_schema_and_refusals_and_gives_nothing_young_away() {
    let extra = "\n[audit]\nrecords = 5\nwhen_full = \"refuse\"\n".to_owned();
    let cluster = Cluster::start(&Layout { tokens: true, extra, ..Layout::of(1) }).await;
    let operator = cluster.client();
    let writer = with(&cluster, &operator.make_token("w", Access::Write).await.unwrap().token);
    writer.execute(sql("CREATE TABLE t(v)")).await.unwrap();
    assert_eq!(code_of(writer.execute(sql("DELETE FROM tanist_terms")).await), code::SQL_DENIED);
    let long = format!("INSERT INTO t VALUES ('{}'); ", "x".repeat(5000));
    let long = ExecuteRequest {
        statements: vec![Statement::new(long.trim_end_matches("; ")), Statement::new("DROP TABLE t")],
        transaction: true,
    };
    writer.execute(long).await.unwrap();
    writer.execute(sql("CREATE TABLE u(v)")).await.unwrap();
    writer.execute(sql("INSERT INTO u VALUES (1)")).await.unwrap();
    let full = writer.execute(sql("INSERT INTO u VALUES (2)")).await;
    assert_eq!(code_of(full), code::AUDIT_FULL);
    writer.execute(sql("DELETE FROM u WHERE v = 77")).await.unwrap();
    let rows = operator.query(question("SELECT v FROM u"), Consistency::Strong, None).await.unwrap();
    assert_eq!(rows.results[0].rows, [[json!(1)]], "what can't be recorded isn't done");

    let config = cluster.machines[0].config.display().to_string();
    let file = cluster.machines[0].config.with_file_name("export.jsonl");
    let (code, text) = tanist(&["audit", "export", "--config", &config, "--out", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let text = std::fs::read_to_string(&file).unwrap();
    let records: Vec<AuditRecord> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(records.iter().all(|record| record.actor.as_deref() == Some("w") && record.position.is_some()));
    assert!(
        records[1].refused.as_deref().is_some_and(|why| why.contains("tanist_terms")),
        "{:?}",
        records[1]
    );
    assert!(records[2].sql.ends_with("DROP TABLE t") && records[2].sql.len() < 2000, "{:?}", records[2]);
    assert!(records[2].sql_bytes > 5000 && records[2].sql_hash.len() == 64);
    let (code, text) = tanist(&["audit", "export", "--config", &config, "--after", "4"]);
    assert!(code == Some(0) && text.lines().count() == 1, "{text}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_logs_get_no_text_of_others() {
    let dir = tempfile::TempDir::new().unwrap();
    let told = dir.path().join("reason");
    let script = format!(
        "printf 'x\\r2026-01-01T00:00:00Z  INFO FORGED\\033[2J\\n'; echo \"$TANIST_REASON\" >> '{}'",
        told.display()
    );
    let file = dir.path().join("promote");
    std::fs::write(&file, script).unwrap();
    let extra = format!("[hooks]\non_promote = [\"sh\", {file:?}]\n");
    let cluster = Cluster::start(&Layout { extra, ..Layout::of(1) }).await;
    cluster
        .wait("the hook has run", || async {
            (told.exists() && cluster.log_of(0).contains("FORGED")).then_some(())
        })
        .await;
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "founded\n");
    let name = "t\n2026-01-01T00:00:00.000000Z  INFO FORGED token=admin";
    let client = cluster.client();
    client.execute(sql(&format!("CREATE TABLE \"{name}\"(v)"))).await.unwrap();
    client.watch_table(name).await.unwrap();
    let log = cluster.log_of(0);
    assert!(!log.contains(['\r', '\u{1b}']), "{log:?}");
    assert!(log.lines().filter(|line| line.contains("FORGED")).all(|line| line.contains("hook")), "{log}");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_two_clusters_are_refused_by_name_before_anything_is_done() {
    let one = Cluster::of(1).await;
    let mut two = Cluster::lay_out(&Layout::of(1));
    let file = &two.machines[0].config;
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, text.replace("cluster = \"test\"", "cluster = \"other\"")).unwrap();
    two.start_all();
    two.wait_master().await;
    let both = format!("{},{}", one.url(0), two.url(0));
    let (code, text) = tanist(&["execute", "--hosts", &both, "CREATE TABLE t(x)"]);
    assert!(code == Some(2) && text.contains("\"other\"") && text.contains("\"test\""), "{code:?} {text}");
    // A program's client goes on with the cluster that answered first, and never writes to the other.
    let short = Duration::from_secs(2);
    let client = Client::builder().hosts(&both).cluster("other").deadline(short).build().unwrap();
    client.execute(sql("CREATE TABLE t(x)")).await.unwrap();
    let client = Client::builder().hosts(&one.url(0)).cluster("other").deadline(short).build().unwrap();
    let error = client.execute(sql("CREATE TABLE t(x)")).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("\"test\"")), "{error}");
    let blocking = std::thread::spawn(move || {
        let client = Client::builder().hosts(&both).deadline(short).build_blocking().unwrap();
        client.check_hosts(short)
    });
    let found = blocking.join().unwrap();
    assert!(matches!(found, Err(Error::OtherCluster { .. })), "{found:?}");
    let tables = question("SELECT count(*) FROM sqlite_schema WHERE name = 't'");
    let left = one.client().query(tables, Consistency::Strong, None).await.unwrap();
    assert_eq!(left.results[0].rows, [[json!(0)]]);
}
