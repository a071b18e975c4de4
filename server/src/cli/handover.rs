//! `tanist promote` and `tanist demote`.

use anyhow::Context as _;
use clap::Args;
use tanist_api::HandoverResponse;

use super::{Connection, Usage};

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    #[command(flatten)]
    connection: Connection,
    /// Who shall reign.
    member: String,
    /// Nobody can reign by himself, since all that hold the newest acknowledged writes are lost: this machine shall. Needs
    /// a majority of the machines, and --accept-data-loss.
    #[arg(long)]
    force: bool,
    /// What only the lost machines hold is given up.
    #[arg(long, requires = "force")]
    accept_data_loss: bool,
}

#[derive(Debug, Args)]
pub(super) struct DemoteArgs {
    #[command(flatten)]
    connection: Connection,
    /// Who shall reign no longer; by default whoever is the master now.
    member: Option<String>,
}

pub(super) async fn promote(args: &PromoteArgs) -> anyhow::Result<()> {
    let client = args.connection.client().await?;
    let now = if args.force {
        let cluster = client.cluster().await?;
        if !args.accept_data_loss {
            let notice = cluster.notice.unwrap_or_else(|| "a master serves".to_owned());
            return Err(Usage(format!(
                "--force: {notice}. What {} lacks would be lost for good: expected --accept-data-loss too",
                args.member
            ))
            .into());
        }
        client.force(&args.member).await?
    } else {
        client.promote(&args.member).await?
    };
    tell(&args.connection, &now)
}

pub(super) async fn demote(args: &DemoteArgs) -> anyhow::Result<()> {
    let client = args.connection.client().await?;
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
