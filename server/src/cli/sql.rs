//! `tanist execute` and `tanist query`.

use std::time::Duration;

use clap::Args;
use tanist_api::{ExecuteRequest, Params, QueryRequest, Statement, StatementResult};
use tanist_client::{Consistency, ExecuteOptions};

use super::{Connection, Usage, table};

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
    /// `strong` (the master, everything acknowledged), `local` (the first host's replica, now), or `bounded:500ms` (a
    /// replica that was current so recently).
    #[arg(long, default_value = "strong", value_parser = consistency)]
    consistency: Consistency,
    /// Wait until the replica has this position, as an earlier answer gave it.
    #[arg(long)]
    min_position: Option<String>,
}

fn statements(sql: &[String], params: &[String]) -> Result<Vec<Statement>, Usage> {
    if !params.is_empty() && sql.len() != 1 {
        return Err(Usage(format!("--param: found {} statements, expected one", sql.len())));
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
    let response = args.connection.client().await?.execute_with(request, options).await?;
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
    let client = args.connection.client().await?;
    let response = client.query(request, args.consistency, args.min_position.as_deref()).await?;
    if args.connection.json {
        println!("{}", serde_json::to_string_pretty(&response)?);
        return Ok(());
    }
    for result in &response.results {
        print!("{}", text(result));
    }
    Ok(())
}

pub(super) fn consistency(text: &str) -> Result<Consistency, String> {
    let limit = |text: &str| match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    };
    match text {
        "strong" => Ok(Consistency::Strong),
        "local" => Ok(Consistency::Local),
        other => match other.strip_prefix("bounded:").and_then(limit) {
            Some(max_staleness) => Ok(Consistency::Bounded { max_staleness }),
            None => Err("expected strong, local, or bounded:500ms (or bounded:2s)".to_owned()),
        },
    }
}

/// A value in one line.
fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::String(text) => table::safe(text),
        other => other.to_string(),
    }
}

fn text(result: &StatementResult) -> String {
    let mut text = String::new();
    if !result.columns.is_empty() {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn consistency_is_read_with_its_unit() {
        let bounded = |ms| Ok(Consistency::Bounded { max_staleness: Duration::from_millis(ms) });
        assert_eq!(consistency("local"), Ok(Consistency::Local));
        assert_eq!(consistency("bounded:500ms"), bounded(500));
        assert_eq!(consistency("bounded:2s"), bounded(2000));
        for bad in ["", "weak", "bounded", "bounded:", "bounded:5", "bounded:-1ms"] {
            assert!(consistency(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_json_or_else_text_and_need_one_statement() {
        let sql = ["SELECT ?, ?, ?".to_owned()];
        let params = ["1", "null", "plain text"].map(str::to_owned);
        let found = statements(&sql, &params).unwrap();
        assert_eq!(found[0].params, Params::Positional(vec![json!(1), json!(null), json!("plain text")]));
        assert!(statements(&["SELECT 1".into(), "SELECT 2".into()], &params).is_err());
    }

    #[test]
    fn rows_are_shown_with_null_and_without_control_characters() {
        let result = StatementResult {
            columns: vec!["a".into(), "b".into()],
            rows: vec![vec![json!(null), json!("x\u{1b}[2Jy\nz")], vec![json!(2), json!("é")]],
            ..StatementResult::default()
        };
        let text = text(&result);
        assert!(text.contains("NULL") && text.contains("\\u{1b}[2Jy\\nz"), "{text}");
        assert!(!text.contains('\u{1b}'));
        let changed =
            StatementResult { rows_affected: Some(1), last_insert_id: Some(9), ..Default::default() };
        assert_eq!(super::text(&changed), "1 row changed, last id 9\n");
    }
}
