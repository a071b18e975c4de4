//! `tanist upgrade`: what stands in the way of the next level, and holding it back.

use clap::{Args, Subcommand};
use tanist_api::Cluster;

use super::{Connection, status::seen_by_the_master, table};

#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    #[command(subcommand)]
    action: UpgradeAction,
}

#[derive(Debug, Subcommand)]
enum UpgradeAction {
    /// Show the cluster's level, what each machine runs and what stands in the way of the next level.
    Status(Connection),
    /// Keep the level where it is, so that every program can still be taken back.
    Hold(Connection),
    /// Let the level be raised once all machines run a program that knows the next one.
    Go(Connection),
}

pub(super) async fn upgrade(args: &UpgradeArgs) -> anyhow::Result<()> {
    let (connection, now) = match &args.action {
        UpgradeAction::Status(connection) => return status(connection).await,
        UpgradeAction::Hold(connection) => (connection, connection.client().await?.hold_upgrade().await?),
        UpgradeAction::Go(connection) => (connection, connection.client().await?.release_upgrade().await?),
    };
    if connection.json {
        println!("{}", serde_json::to_string(&now)?);
    } else if now.held {
        println!("level {} is held: programs can be taken back until `tanist upgrade go`", now.level);
    } else {
        println!("level {} isn't held: the next one comes once all machines know it", now.level);
    }
    Ok(())
}

async fn status(connection: &Connection) -> anyhow::Result<()> {
    let cluster = seen_by_the_master(&connection.client().await?).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&cluster.upgrade)?);
    } else {
        print!("{}", text(&cluster));
    }
    Ok(())
}

/// The level in one or two lines; empty where it isn't known.
pub(super) fn lines(cluster: &Cluster) -> String {
    let Some(upgrade) = &cluster.upgrade else { return String::new() };
    let held = if upgrade.held { ", held" } else { "" };
    let blocked = upgrade.blocked.as_ref().map(|why| format!("Next level: {why}\n")).unwrap_or_default();
    format!("Level {}{held}.\n{blocked}", upgrade.level)
}

fn text(cluster: &Cluster) -> String {
    let headings = ["member", "version", "knows levels", "peer protocol", "link"].map(str::to_owned);
    let rows: Vec<_> = cluster
        .members
        .iter()
        .map(|member| {
            let program = member.program.as_ref();
            let of = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
            vec![
                member.id.clone(),
                of(program.map(|program| program.version.clone())),
                of(program.map(|program| program.levels.to_string())),
                of(program.map(|program| program.protocol.to_string())),
                match (&member.problem, member.reachable) {
                    (Some(problem), _) => problem.clone(),
                    (None, Some(false)) => "not reached".to_owned(),
                    (None, _) => "up".to_owned(),
                },
            ]
        })
        .collect();
    let level = lines(cluster);
    let level = if level.is_empty() { "Level unknown: no master has told it.\n".to_owned() } else { level };
    format!("{level}\n{}", table::layout(&headings, &rows))
}
