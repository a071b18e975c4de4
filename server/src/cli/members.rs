//! `tanist members`: who takes part.

use clap::{Args, Subcommand};
use tanist_api::{ClusterMember, MemberPatch, MembersResponse, NewMember};

use super::{Connection, Usage, table};

#[derive(Debug, Args)]
pub(super) struct MembersArgs {
    #[command(subcommand)]
    command: MembersCommand,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Show them.
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Let a new machine take part. On it, `tanist init --join` does this and writes its configuration.
    Add {
        #[command(flatten)]
        connection: Connection,
        /// Its name.
        member: String,
        /// 1 is nearest to the throne; 0 is a witness, which votes and holds no data.
        #[arg(long)]
        rank: u32,
        /// `host:port` for the other machines; repeat for a second network.
        #[arg(long, required = true)]
        peer: Vec<String>,
        /// `http://host:port` for clients.
        #[arg(long)]
        url: Vec<String>,
    },
    /// Change a machine's rank or addresses. What isn't given stays.
    Set {
        #[command(flatten)]
        connection: Connection,
        /// Its name.
        member: String,
        /// 1 is nearest to the throne; 0 makes it a witness. Another that has this rank gets this machine's.
        #[arg(long)]
        rank: Option<u32>,
        /// `host:port` for the other machines. A machine that runs announces those of its own file, which win.
        #[arg(long)]
        peer: Vec<String>,
        /// `http://host:port` for clients; likewise.
        #[arg(long)]
        url: Vec<String>,
    },
    /// Remove a machine for good; it may be gone already.
    Remove {
        #[command(flatten)]
        connection: Connection,
        /// Its name.
        member: String,
    },
}

pub(super) async fn members(args: &MembersArgs) -> anyhow::Result<()> {
    let (connection, now) = match &args.command {
        MembersCommand::List { connection } => (connection, connection.client().await?.members().await?),
        MembersCommand::Add { connection, member, rank, peer, url } => {
            let new = NewMember {
                id: member.clone(),
                rank: *rank,
                peer_addresses: peer.clone(),
                urls: url.clone(),
            };
            (connection, connection.client().await?.add_member(&new).await?)
        }
        MembersCommand::Set { connection, member, rank, peer, url } => {
            let given = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
            let patch = MemberPatch { rank: *rank, peer_addresses: given(peer), urls: given(url) };
            if patch == MemberPatch::default() {
                return Err(Usage("expected --rank, --peer or --url".to_owned()).into());
            }
            (connection, connection.client().await?.change_member(member, &patch).await?)
        }
        MembersCommand::Remove { connection, member } => {
            (connection, connection.client().await?.remove_member(member).await?)
        }
    };
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&now)?);
    } else {
        print!("{}", text(&now));
    }
    Ok(())
}

fn text(now: &MembersResponse) -> String {
    let headings = ["member", "rank", "counts", "peer addresses", "urls"].map(str::to_owned);
    let row = |member: &ClusterMember| {
        vec![
            member.id.clone(),
            if member.rank == 0 { "witness".to_owned() } else { member.rank.to_string() },
            if member.absent { "when it answers" } else { "yes" }.to_owned(),
            member.peer_addresses.join(" "),
            member.urls.join(" "),
        ]
    };
    table::layout(&headings, &now.members.iter().map(row).collect::<Vec<_>>())
}
