//! The application's own logic: orders from every desktop, and invoices that only the master's desktop numbers.

use std::time::Duration;

use anyhow::Context as _;
use tanist_api::{ExecuteRequest, Statement};
use tanist_client::{Client, Error};
use tanist_server::ReignObserver;

use crate::say;

/// How often the master looks for orders without an invoice.
const LOOK: Duration = Duration::from_millis(50);
/// Invoices made in one transaction.
const AT_ONCE: u32 = 100;

fn execute(statements: Vec<Statement>) -> ExecuteRequest {
    ExecuteRequest { statements, transaction: true }
}

/// The tables, if this is the first desktop that needs them.
pub(crate) async fn prepare(client: &Client) -> Result<(), Error> {
    let tables = [
        "CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, desk TEXT NOT NULL, what TEXT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS invoices(number INTEGER PRIMARY KEY, order_id INTEGER NOT NULL UNIQUE, numbered_by TEXT NOT NULL)",
    ];
    client.execute(execute(tables.map(Statement::new).to_vec())).await.map(drop)
}

/// Takes an order; its id. Returns when two desktops have it on disk.
pub(crate) async fn take(client: &Client, desk: &str, what: &str) -> anyhow::Result<i64> {
    let insert =
        Statement::with("INSERT INTO orders(desk, what) VALUES (?, ?)", vec![desk.into(), what.into()]);
    let done = client.execute(execute(vec![insert])).await?;
    done.results[0].last_insert_id.context("the cluster told no id")
}

/// Numbers the invoices without a gap while this desktop's machine reigns. Should two desktops ever both think so for a moment, the
/// numbers are still right: each write takes the next one inside the cluster's one order of writes, and none is made for
/// an order that has one.
pub(crate) async fn number(name: String, client: Client, reign: ReignObserver) {
    let next = "INSERT INTO invoices(number, order_id, numbered_by)
        SELECT (SELECT coalesce(max(number), 0) FROM invoices) + row_number() OVER (ORDER BY id), id, ?1
        FROM orders WHERE id NOT IN (SELECT order_id FROM invoices) ORDER BY id LIMIT ?2";
    loop {
        tokio::time::sleep(LOOK).await;
        if reign.term().is_none() {
            continue;
        }
        let statement = Statement::with(next, vec![name.as_str().into(), AT_ONCE.into()]);
        match client.execute(execute(vec![statement])).await {
            Ok(done) => {
                let made = done.results[0].rows_affected.unwrap_or_default();
                if made > 0 {
                    say(&name, &format!("numbers {made} invoices"));
                }
            }
            // The tables are still to come.
            Err(Error::Problem(_)) => {}
            Err(error) => say(&name, &format!("could not number invoices: {error}")),
        }
    }
}
