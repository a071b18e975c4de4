//! `tanist token`: who may ask.

use clap::{Args, Subcommand};
use tanist_api::{Access, NewToken, TokenInfo};
use tanist_client::Client;

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
        /// agent (of one node: --node), or read, write, operate or admin, of which each includes those before it.
        #[arg(long)]
        role: Access,
        /// The node that an agent speaks for.
        #[arg(long)]
        node: Option<String>,
        /// It is good for so long, such as 12h or 30d; without this, until it is revoked.
        #[arg(long, value_parser = seconds)]
        expires: Option<u64>,
    },
    /// Show the tokens there are and when each was last used; never the secrets.
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
        TokenCommand::Make { connection, name, role, node, expires } => {
            let new = NewToken {
                name: name.clone(),
                role: *role,
                node: node.clone(),
                expires_in_seconds: *expires,
            };
            let made = connection.client().await?.make_token_as(&new).await?;
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
            let client = connection.client().await?;
            let mut tokens = client.tokens().await?;
            let silent = last_used(&client, &mut tokens).await;
            if connection.json {
                println!("{}", serde_json::to_string_pretty(&tokens)?);
            } else {
                print!("{}", text(&tokens));
                println!("Last used: since each machine was started, by its clock.");
                if !silent.is_empty() {
                    println!("Not asked, because they don't answer: {}.", silent.join(", "));
                }
            }
        }
        TokenCommand::Revoke { connection, name } => {
            connection.client().await?.revoke_token(name).await?;
            if !connection.json {
                println!("{name} is revoked.");
            }
        }
    }
    Ok(())
}

/// `30d`, `12h`, `90m`, `45s`.
fn seconds(text: &str) -> Result<u64, String> {
    let expected = || format!("found {text:?}, expected such as 30d, 12h, 90m or 45s");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let factor = match unit {
        "d" => 24 * 3600,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(factor).filter(|seconds| *seconds > 0).ok_or_else(expected)
}

/// Each machine knows when it has taken a token itself; the latest counts. Gives those that don't answer.
async fn last_used(client: &Client, tokens: &mut [TokenInfo]) -> Vec<String> {
    let mut silent = vec![];
    // What the list has learned of the members, too.
    let _ = client.cluster().await;
    let hosts = client.known_hosts();
    let ask = |host: String| async move { (client.tokens_of(&host).await, host) };
    for (found, host) in futures_util::future::join_all(hosts.into_iter().map(ask)).await {
        let Ok(found) = found else {
            silent.push(host);
            continue;
        };
        for token in &mut *tokens {
            let there = found.iter().find(|there| there.name == token.name);
            let used = there.and_then(|there| there.last_used.clone());
            // Times of this shape sort as text.
            token.last_used = token.last_used.take().max(used);
        }
    }
    silent
}

fn text(tokens: &[TokenInfo]) -> String {
    let headings = ["token", "role", "node", "expires", "last used", "made", "by"].map(str::to_owned);
    let row = |token: &TokenInfo| {
        let by = token.made_by.clone().unwrap_or_default();
        let or = |value: &Option<String>, other: &str| value.clone().unwrap_or_else(|| other.to_owned());
        vec![
            token.name.clone(),
            token.role.to_string(),
            or(&token.node, ""),
            or(&token.expires_at, "never"),
            or(&token.last_used, "not since"),
            token.made_at.clone(),
            by,
        ]
    };
    table::layout(&headings, &tokens.iter().map(row).collect::<Vec<_>>())
}
