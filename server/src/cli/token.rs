//! `tanist token`: who may ask.

use clap::{Args, Subcommand};
use tanist_api::{Access, TokenInfo};

use super::{Connection, table};

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, once: it is kept nowhere. The first one with `--config tanist.toml`, on a machine of the cluster.
    Make {
        #[command(flatten)]
        connection: Connection,
        /// Stands in the history beside what its holder changes.
        name: String,
        /// read, write, operate or admin; each includes those before it.
        #[arg(long)]
        role: Access,
    },
    /// Show the tokens there are; never the secrets.
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Make a token worthless, on all machines within a second or so.
    Revoke {
        #[command(flatten)]
        connection: Connection,
        /// Its name.
        name: String,
    },
}

pub(super) async fn token(args: &TokenArgs) -> anyhow::Result<()> {
    match &args.command {
        TokenCommand::Make { connection, name, role } => {
            let made = connection.client()?.make_token(name, *role).await?;
            if connection.json {
                println!("{}", serde_json::to_string_pretty(&made)?);
            } else {
                println!("{}", made.token);
                eprintln!(
                    "Keep it: it isn't shown again. Clients send it as `Authorization: Bearer …`, commands take it from TANIST_TOKEN."
                );
            }
        }
        TokenCommand::List { connection } => {
            let tokens = connection.client()?.tokens().await?;
            if connection.json {
                println!("{}", serde_json::to_string_pretty(&tokens)?);
            } else {
                print!("{}", text(&tokens));
            }
        }
        TokenCommand::Revoke { connection, name } => {
            connection.client()?.revoke_token(name).await?;
            if !connection.json {
                println!("{name} is revoked.");
            }
        }
    }
    Ok(())
}

fn text(tokens: &[TokenInfo]) -> String {
    let headings = ["token", "role", "made", "by"].map(str::to_owned);
    let row = |token: &TokenInfo| {
        let by = token.made_by.clone().unwrap_or_default();
        vec![token.name.clone(), token.role.to_string(), token.made_at.clone(), by]
    };
    table::layout(&headings, &tokens.iter().map(row).collect::<Vec<_>>())
}
