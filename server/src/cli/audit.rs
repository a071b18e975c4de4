//! `tanist audit export`: who has changed what by SQL, as lines of JSON.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tanist_client::{Client, Part};

use super::Connection;

/// Records asked for at once.
const PAGE: u32 = 500;

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Print the records, the oldest first, each a line of JSON. Needs the role admin.
    Export {
        #[command(flatten)]
        connection: Connection,
        /// Only those after this one: the id of the last that was exported before.
        #[arg(long)]
        after: Option<i64>,
        /// Into this file, which is made anew and readable for its owner alone; the standard output otherwise.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

pub(super) async fn audit(args: &AuditArgs) -> anyhow::Result<()> {
    let AuditCommand::Export { connection, after, out } = &args.command;
    let client = connection.client().await?;
    let Some(path) = out else { return write(&client, *after, std::io::stdout().lock()).await.map(drop) };
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("--out: make {}", path.display()))?;
    let count = write(&client, *after, BufWriter::new(&file)).await?;
    file.sync_all().with_context(|| format!("--out: write {}", path.display()))?;
    eprintln!("{count} records in {}.", path.display());
    Ok(())
}

async fn write(client: &Client, after: Option<i64>, mut into: impl Write) -> anyhow::Result<u64> {
    let mut part = Part { next: after.map(|after| after.to_string()), limit: Some(PAGE) };
    let mut count = 0;
    loop {
        let page = client.audit(&part).await?;
        for record in page.entries {
            serde_json::to_writer(&mut into, &record)?;
            into.write_all(b"\n")?;
            count += 1;
        }
        part.next = page.next;
        if part.next.is_none() {
            into.flush()?;
            return Ok(count);
        }
    }
}
