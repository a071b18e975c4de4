//! `tanist watch` and `tanist watched-tables`.

use std::io::Write as _;

use clap::{Args, Subcommand};
use tanist_api::WatchEvent;
use tanist_client::WatchOptions;

use super::Connection;

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    connection: Connection,
    /// Begin after this event; otherwise with what happens from now on. 0: from the oldest kept, if none was removed.
    #[arg(long)]
    after: Option<u64>,
    /// Only these kinds: config, node, desired, reported, command, token, cluster, row.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Only subjects (keys, nodes, members, tables) that begin so.
    #[arg(long, default_value = "")]
    subject_prefix: String,
    /// Rows of these tables, and nothing else unless --kinds says so; see `tanist watched-tables`.
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
}

pub(super) async fn watch(args: &WatchArgs) -> anyhow::Result<()> {
    let mut watch = args.connection.client().await?.watch(WatchOptions {
        after: args.after,
        kinds: args.kinds.clone(),
        subject_prefix: args.subject_prefix.clone(),
        tables: args.tables.clone(),
    });
    let after = watch.begin().await?;
    eprintln!("watching {} after event {after}; Ctrl-C ends", watch.host().unwrap_or("the cluster"));
    loop {
        let event = watch.next().await?;
        let line = if args.connection.json { serde_json::to_string(&event)? } else { line(&event) };
        let mut out = std::io::stdout().lock();
        // Whoever reads may have gone, as `head` does.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
}

/// An event in one line; what would move the cursor or color the screen is shown, not done.
fn line(event: &WatchEvent) -> String {
    let WatchEvent { id, kind, at, subject, actor, data } = event;
    let actor = actor.as_deref().map(|actor| format!(" by {actor}")).unwrap_or_default();
    let line = format!("{id} {at} {kind} {subject}{actor} {data}");
    line.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

#[derive(Debug, Args)]
pub(super) struct TablesArgs {
    #[command(subcommand)]
    action: TablesAction,
}

#[derive(Debug, Subcommand)]
enum TablesAction {
    /// Show them.
    List(Connection),
    /// From now on each change of this table's rows is an event.
    Add(TableArgs),
    /// Changes of this table's rows are no events any more.
    Remove(TableArgs),
}

#[derive(Debug, Args)]
struct TableArgs {
    /// The table.
    table: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn tables(args: &TablesArgs) -> anyhow::Result<()> {
    let (connection, changed) = match &args.action {
        TablesAction::List(connection) => {
            let answer = connection.client().await?.watched_tables().await?;
            if connection.json {
                println!("{}", serde_json::to_string_pretty(&answer)?);
            } else {
                answer.tables.iter().for_each(|table| println!("{table}"));
            }
            return Ok(());
        }
        TablesAction::Add(TableArgs { table, connection }) => {
            (connection, connection.client().await?.watch_table(table).await?)
        }
        TablesAction::Remove(TableArgs { table, connection }) => {
            (connection, connection.client().await?.unwatch_table(table).await?)
        }
    };
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&changed)?);
    } else {
        println!("{} is {}watched", changed.table, if changed.watched { "" } else { "not " });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_one_line_whatever_stands_in_it() {
        let event = WatchEvent {
            id: 7,
            kind: "row".to_owned(),
            at: "t".to_owned(),
            subject: "a\nb\u{1b}[31m".to_owned(),
            actor: Some("me".to_owned()),
            data: serde_json::json!({ "op": "delete" }),
        };
        assert_eq!(line(&event), "7 t row a\\nb\\u{1b}[31m by me {\"op\":\"delete\"}");
    }
}
