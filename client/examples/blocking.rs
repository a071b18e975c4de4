//! The client in a program without an async runtime: threads that count, whoever is the master.
//!
//!     cargo run -p tanist-client --example blocking -- 127.0.0.1:8080,127.0.0.1:8081
//!
//! Kill the master meanwhile: the count goes on and is right at the end.

use tanist_client::{
    Consistency, Error, ExecuteOptions,
    api::{ExecuteRequest, QueryRequest, Statement},
    blocking::Client,
};

fn execute(sql: &str) -> ExecuteRequest {
    ExecuteRequest { statements: vec![Statement::new(sql)], transaction: true }
}

/// Counts to `threads * each`, and gives what the cluster has counted.
pub fn story(hosts: &str, threads: usize, each: usize) -> Result<String, Error> {
    let client = Client::new(hosts)?;
    client.execute(execute("CREATE TABLE IF NOT EXISTS counter(n INTEGER NOT NULL)"))?;
    client.execute(execute("DELETE FROM counter"))?;
    client.execute(execute("INSERT INTO counter VALUES (0)"))?;
    std::thread::scope(|scope| {
        let counting: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| (0..each).try_for_each(|_| count(&client)))).collect();
        counting.into_iter().try_for_each(|thread| match thread.join() {
            Ok(counted) => counted,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let select = QueryRequest { statements: vec![Statement::new("SELECT n FROM counter")] };
    let rows = client.query(select, Consistency::Strong, None)?.results.remove(0).rows;
    Ok(serde_json::json!(rows).to_string())
}

/// One more, exactly once: `n + 1` must not be done twice, and the client's key per write sees to it.
fn count(client: &Client) -> Result<(), Error> {
    let request = execute("UPDATE counter SET n = n + 1");
    let mut options = ExecuteOptions::default();
    loop {
        match client.execute_with(request.clone(), options) {
            // No machine has answered for the whole deadline (30 s): the same key settles it, however long it takes.
            Err(Error::OutcomeUnknown { key, .. }) => {
                options = ExecuteOptions { idempotency_key: Some(key), ..ExecuteOptions::default() };
            }
            done => return done.map(drop),
        }
    }
}

#[allow(dead_code, reason = "the tests call the story")]
fn main() -> Result<(), Error> {
    let hosts = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    println!("counted to 4 * 500: {}", story(&hosts, 4, 500)?);
    Ok(())
}
