//! `tanist promote` and `tanist demote`.

use anyhow::Context as _;
use clap::Args;
use tanist_api::HandoverResponse;

use super::Connection;

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    #[command(flatten)]
    connection: Connection,
    /// Who shall reign.
    member: String,
}

#[derive(Debug, Args)]
pub(super) struct DemoteArgs {
    #[command(flatten)]
    connection: Connection,
    /// Who shall reign no longer; by default whoever is the master now.
    member: Option<String>,
}

pub(super) async fn promote(args: &PromoteArgs) -> anyhow::Result<()> {
    let now = args.connection.client()?.promote(&args.member).await?;
    tell(&args.connection, &now)
}

pub(super) async fn demote(args: &DemoteArgs) -> anyhow::Result<()> {
    let client = args.connection.client()?;
    let member = match &args.member {
        Some(member) => member.clone(),
        None => client.cluster().await?.master.context("there is no master now")?,
    };
    let now = client.demote(&member).await?;
    tell(&args.connection, &now)
}

fn tell(connection: &Connection, now: &HandoverResponse) -> anyhow::Result<()> {
    if connection.json {
        println!("{}", serde_json::to_string(now)?);
    } else {
        println!("{} reigns in term {}", now.master, now.term);
    }
    Ok(())
}
