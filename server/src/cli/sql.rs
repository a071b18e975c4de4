//! `tanist execute` and `tanist query`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tanist_api::{ExecuteRequest, Params, QueryRequest, Statement, StatementResult};
use tanist_client::{Consistency, ExecuteOptions};

use super::{Connection, table};

#[derive(Debug, Args)]
pub(super) struct ExecuteArgs {
    #[command(flatten)]
    connection: Connection,
    /// SQL statements, each an argument of its own; all or nothing.
    #[arg(required = true)]
    sql: Vec<String>,
    /// A parameter for `?`, as JSON (or plain text); only with one statement. May be repeated.
    #[arg(long = "param", short)]
    params: Vec<String>,
    /// Key of an earlier try of the same write, to settle its outcome.
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    connection: Connection,
    /// SQL statements, each an argument of its own; all read one snapshot.
    #[arg(required = true)]
    sql: Vec<String>,
    /// A parameter for `?`, as JSON (or plain text); only with one statement. May be repeated.
    #[arg(long = "param", short)]
    params: Vec<String>,
    /// `strong`, `local`, or `bounded:500ms`.
    #[arg(long, default_value = "strong")]
    consistency: String,
}

fn statements(sql: &[String], params: &[String]) -> anyhow::Result<Vec<Statement>> {
    if !params.is_empty() && sql.len() != 1 {
        bail!("--param: found {} statements, expected one", sql.len());
    }
    let params: Vec<serde_json::Value> = params
        .iter()
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.clone())))
        .collect();
    Ok(sql
        .iter()
        .map(|sql| Statement { sql: sql.clone(), params: Params::Positional(params.clone()) })
        .collect())
}

pub(super) async fn execute(args: &ExecuteArgs) -> anyhow::Result<()> {
    let request = ExecuteRequest { statements: statements(&args.sql, &args.params)?, transaction: true };
    let options = ExecuteOptions { idempotency_key: args.key.clone(), deadline: None };
    let response = args.connection.client()?.execute_with(request, options).await?;
    if args.connection.json {
        println!("{}", serde_json::to_string_pretty(&response)?);
        return Ok(());
    }
    for result in &response.results {
        print!("{}", text(result));
    }
    println!("position {}", response.position);
    Ok(())
}

pub(super) async fn query(args: &QueryArgs) -> anyhow::Result<()> {
    let request = QueryRequest { statements: statements(&args.sql, &args.params)? };
    let consistency = consistency(&args.consistency)?;
    let response = args.connection.client()?.query(request, consistency, None).await?;
    if args.connection.json {
        println!("{}", serde_json::to_string_pretty(&response)?);
        return Ok(());
    }
    for result in &response.results {
        print!("{}", text(result));
    }
    Ok(())
}

fn consistency(text: &str) -> anyhow::Result<Consistency> {
    Ok(match text {
        "strong" => Consistency::Strong,
        "local" => Consistency::Local,
        other => {
            let limit = other.strip_prefix("bounded:").and_then(|limit| limit.strip_suffix("ms"));
            let limit = limit.and_then(|limit| limit.parse().ok()).with_context(|| {
                format!("--consistency: found {other:?}, expected strong, local or bounded:500ms")
            })?;
            Consistency::Bounded { max_staleness: Duration::from_millis(limit) }
        }
    })
}

fn text(result: &StatementResult) -> String {
    let mut text = String::new();
    if !result.columns.is_empty() {
        let cell = |value: &serde_json::Value| match value {
            serde_json::Value::Null => "NULL".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows: Vec<Vec<String>> = result.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        text += &table::layout(&result.columns, &rows);
    }
    if let Some(rows) = result.rows_affected {
        text += &format!("{rows} row{} changed", if rows == 1 { "" } else { "s" });
        if let Some(id) = result.last_insert_id {
            text += &format!(", last id {id}");
        }
        text += "\n";
    }
    text
}
