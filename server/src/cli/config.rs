//! `tanist config`: the configuration that the cluster keeps.

use clap::{Args, Subcommand};
use tanist_api::{ConfigChange, ConfigEntry};

use super::options::{Changing, Listing, Reading, short, show, signed, value};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a key's value as JSON.
    Get {
        #[command(flatten)]
        reading: Reading,
        /// Such as `wall/brightness`.
        name: String,
    },
    /// Give a key a value. The same value again changes nothing.
    Set {
        #[command(flatten)]
        changing: Changing,
        /// Such as `wall/brightness`.
        name: String,
        /// JSON, or else plain text.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Remove a key; its history stays.
    Unset {
        #[command(flatten)]
        changing: Changing,
        /// Such as `wall/brightness`.
        name: String,
    },
    /// Show keys with their values.
    List {
        #[command(flatten)]
        listing: Listing,
        /// Only keys that begin so.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Show the changes of a key, the newest first: what, when, by whom.
    History {
        #[command(flatten)]
        listing: Listing,
        /// Such as `wall/brightness`.
        name: String,
    },
}

pub(super) async fn config(args: &ConfigArgs) -> anyhow::Result<()> {
    match &args.command {
        ConfigCommand::Get { reading, name } => {
            let found = reading.connection.client().await?.config(name, &reading.options()).await?.value;
            show(&reading.connection, &found, |found| format!("{}\n", found.value))
        }
        ConfigCommand::Set { changing, name, value: text } => {
            let client = changing.connection.client().await?;
            let now = client.set_config(name, &value(text), &changing.options()).await?.value;
            show(&changing.connection, &now, |now| format!("{} has revision {}\n", now.key, now.revision))
        }
        ConfigCommand::Unset { changing, name } => {
            let gone =
                changing.connection.client().await?.remove_config(name, &changing.options()).await?.value;
            show(&changing.connection, &gone, |gone| format!("{name} removed, revision {}\n", gone.revision))
        }
        ConfigCommand::List { listing, prefix } => {
            let (client, options) = (listing.reading.connection.client().await?, listing.reading.options());
            let found = listing.all(async |part| client.config_list(prefix, &part, &options).await).await?;
            let row = |entry: &ConfigEntry| {
                vec![
                    entry.key.clone(),
                    short(&entry.value),
                    entry.revision.to_string(),
                    signed(&entry.changed_at, entry.changed_by.as_ref()),
                ]
            };
            listing.show(&found, &["key", "value", "revision", "changed"], row)
        }
        ConfigCommand::History { listing, name } => {
            let (client, options) = (listing.reading.connection.client().await?, listing.reading.options());
            let found = listing.all(async |part| client.config_history(name, &part, &options).await).await?;
            let row = |change: &ConfigChange| {
                vec![
                    change.revision.to_string(),
                    change.old.as_ref().map_or_else(|| "(none)".to_owned(), short),
                    change.new.as_ref().map_or_else(|| "(removed)".to_owned(), short),
                    signed(&change.changed_at, change.changed_by.as_ref()),
                ]
            };
            listing.show(&found, &["revision", "old", "new", "changed"], row)
        }
    }
}
