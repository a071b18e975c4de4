//! SQL, configuration and desired states, with types.
//!
//!     tanist dev                                                # in another window; prints the hosts
//!     cargo run -p tanist-client --example typed -- 127.0.0.1:8080,127.0.0.1:8081

use serde_json::{Map, json};
use tanist_client::{
    ChangeOptions, Client, Consistency, Error, OnlyIf, ReadOptions,
    api::{ExecuteRequest, NodeSpec, QueryRequest, Statement, code},
};

/// What it found, for who runs it.
pub async fn story(hosts: &str) -> Result<Vec<String>, Error> {
    let client = Client::new(hosts)?;
    let mut found = vec![];

    // SQL: all or nothing, and stored by two machines when this returns.
    let statements = vec![
        Statement::new("CREATE TABLE IF NOT EXISTS parts(name TEXT PRIMARY KEY, count INTEGER NOT NULL)"),
        Statement::with(
            "INSERT INTO parts VALUES (?, ?) ON CONFLICT DO UPDATE SET count = excluded.count",
            vec!["bolt".into(), 12.into()],
        ),
    ];
    let done = client.execute(ExecuteRequest { statements, transaction: true }).await?;

    // A read from the nearest machine, but never from before the write.
    let select = Statement::with("SELECT count FROM parts WHERE name = ?", vec!["bolt".into()]);
    let request = QueryRequest { statements: vec![select] };
    let read = client.query(request, Consistency::Local, Some(&done.position)).await?;
    found.push(format!("parts: {}", json!(read.results[0].rows)));

    // Configuration: a change only if nobody else was first.
    client.set_config("press/speed", &json!(40), &ChangeOptions::default()).await?;
    let now = client.config("press/speed", &ReadOptions::default()).await?.value;
    let unchanged = ChangeOptions { only_if: OnlyIf::Revision(now.revision), ..ChangeOptions::default() };
    client.set_config("press/speed", &json!(50), &unchanged).await?;
    match client.set_config("press/speed", &json!(60), &unchanged).await {
        Err(Error::Problem(problem)) if problem.code == code::PRECONDITION_FAILED => {
            found.push("press/speed: somebody else was first".to_owned());
        }
        other => drop(other?),
    }

    // What a managed machine shall have; its agent (`tanist agent`) sees to it.
    client.set_node("press-1", &NodeSpec::default(), &ChangeOptions::default()).await?;
    let state = Map::from_iter([("program".to_owned(), json!("stamp"))]);
    let desired = client.set_desired("press-1", &state, &ChangeOptions::default()).await?.value;
    found.push(format!("press-1 shall have revision {}", desired.revision));
    Ok(found)
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, reason = "the tests call the story")]
async fn main() -> Result<(), Error> {
    let hosts = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    for line in story(&hosts).await? {
        println!("{line}");
    }
    Ok(())
}
