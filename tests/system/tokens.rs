//! Who may do what.

use serde_json::json;
use tanist_api::{Access, QueryRequest, Statement, code};
use tanist_client::{Client, Consistency, Error, WatchOptions};

use crate::{
    cluster::{Cluster, Layout, read, tanist},
    workload::{Workload, create_ledger, execute},
};

fn insert() -> tanist_api::ExecuteRequest {
    execute(vec![Statement::with("INSERT INTO ledger VALUES (?)", vec![json!("x")])])
}

fn count() -> QueryRequest {
    QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM ledger")] }
}

/// The code of the problem that was answered.
pub fn code_of<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Problem(problem)) => problem.code.clone(),
        other => panic!("expected a problem, found {other:?}"),
    }
}

/// A client with this token.
pub fn with(cluster: &Cluster, token: &str) -> Client {
    cluster.builder().hosts(&cluster.hosts()).token(token).unwrap().build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_own_and_no_more_on_every_machine_and_after_a_failover() {
    let mut cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(3) }).await;
    let operator = cluster.client();
    create_ledger(&operator).await;
    let (mut clients, mut reading) = (vec![], String::new());
    for role in [Access::Read, Access::Write, Access::Operate, Access::Admin] {
        let made = operator.make_token(&format!("a-{role}"), role).await.unwrap();
        clients.push(with(&cluster, &made.token));
        if role == Access::Read {
            reading.clone_from(&made.token);
        }
        for machine in 0..3 {
            let file = cluster.data_dir(machine).join("state.db");
            for file in [file.clone(), file.with_extension("db-wal")] {
                let bytes = std::fs::read(file).unwrap_or_default();
                let secret = made.token.as_bytes();
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "kept in the open");
            }
        }
    }
    let [reader, writer, operating, admin] = &clients[..] else { panic!("four roles") };
    let heir = cluster.view(cluster.wait_master().await).await.unwrap().chain[1].clone();

    for client in &clients {
        client.query(count(), Consistency::Strong, None).await.unwrap();
        client.query(count(), Consistency::Local, None).await.unwrap();
    }
    assert_eq!(code_of(reader.execute(insert()).await), code::FORBIDDEN);
    writer.execute(insert()).await.unwrap();
    assert_eq!(code_of(writer.promote(&heir).await), code::FORBIDDEN);
    operating.promote(&heir).await.unwrap();
    assert_eq!(code_of(operating.force("pc-1").await), code::FORBIDDEN, "only an admin accepts a loss");
    assert_eq!(code_of(operating.tokens().await), code::FORBIDDEN);
    assert_eq!(code_of(operating.remove_member("pc-3").await), code::FORBIDDEN);
    let names: Vec<_> = admin.tokens().await.unwrap().into_iter().map(|token| token.name).collect();
    assert_eq!(names, ["a-admin", "a-operate", "a-read", "a-write"]);
    let nobody = Client::new(&cluster.hosts()).unwrap();
    assert_eq!(code_of(nobody.query(count(), Consistency::Strong, None).await), code::UNAUTHORIZED);
    assert_eq!(code_of(nobody.cluster().await), code::UNAUTHORIZED);
    assert_eq!(code_of(with(&cluster, "tanist_wrong").execute(insert()).await), code::UNAUTHORIZED);
    assert_eq!(code_of(admin.make_token("a-read", Access::Admin).await), code::CONFLICT);

    let workload = Workload::start(writer, 2, "w");
    workload.wait_for(20).await;
    let master = cluster.wait_master().await;
    cluster.kill(master);
    workload.wait_for(20).await;
    cluster.start_machine(master);

    // A stream of events ends with its token.
    assert_eq!(code_of(nobody.watch(WatchOptions::default()).next().await), code::UNAUTHORIZED);
    assert_eq!(code_of(writer.watch_table("ledger").await), code::FORBIDDEN);
    assert!(operating.watch_table("ledger").await.unwrap().watched);
    let mut watch = reader.watch(WatchOptions { kinds: vec!["token".into()], ..WatchOptions::default() });
    watch.begin().await.unwrap();
    admin.revoke_token("a-read").await.unwrap();
    let ended = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.unwrap();
    assert_eq!(code_of::<()>(Err(ended)), code::UNAUTHORIZED);
    for machine in 0..3 {
        let here = cluster.builder().hosts(&cluster.url(machine)).token(&reading).unwrap().build().unwrap();
        // A backup may look a second later.
        cluster
            .wait("a machine knows that the token is revoked", || async {
                let answer = here.query(count(), Consistency::Local, None).await;
                matches!(answer, Err(Error::Problem(problem)) if problem.code == code::UNAUTHORIZED)
                    .then_some(())
            })
            .await;
    }
    let outcome = workload.finish().await;
    assert!(outcome.unknown.is_empty());
    let by: String = read(
        &cluster.data_dir(0),
        "SELECT actor FROM tanist_events WHERE kind = 'token' AND subject = 'a-read' ORDER BY id DESC LIMIT 1",
    );
    assert_eq!(by, "a-admin", "who did it is on record");
    cluster.assert_identical().await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_machine_makes_the_first_token() {
    let cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(1) }).await;
    let (config, hosts) = (cluster.machines[0].config.display().to_string(), cluster.hosts());
    let (code, text) = tanist(&["status", "--hosts", &hosts]);
    assert!(code == Some(1) && text.contains("--config tanist.toml"), "{code:?} {text}");
    let (code, text) =
        tanist(&["token", "make", "ui", "--role", "write", "--config", &config, "--hosts", &hosts, "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let made: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = made["token"].as_str().unwrap();
    let (code, text) = tanist(&["execute", "--hosts", &hosts, "--token", token, "CREATE TABLE t(x)"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = tanist(&["token", "list", "--hosts", &hosts, "--token", token]);
    assert!(code == Some(1) && text.contains("has the role write, this needs admin"), "{text}");
    let (code, text) = tanist(&["token", "list", "--hosts", &hosts, "--config", &config]);
    assert!(code == Some(0) && text.contains("cluster-key"), "{text}");
    let (code, text) = tanist(&["token", "revoke", "ui", "--hosts", &hosts, "--config", &config]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = tanist(&["query", "--hosts", &hosts, "--token", token, "SELECT 1"]);
    assert!(code == Some(1) && text.contains("isn't known"), "{text}");
    assert!(!cluster.log_of(0).contains(token), "a secret in the log");
}
