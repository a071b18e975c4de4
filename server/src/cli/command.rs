//! `tanist command`: commands to nodes, and what became of them.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use tanist_api::{Command, NewCommand, NewOutcome, OutcomeStatus};
use tanist_client::{CommandFilter, Part, ReadOptions};

use super::{
    Connection, Usage,
    options::{Listing, Reading, short, show, signed, value},
    table,
};

#[derive(Debug, Args)]
pub(super) struct CommandArgs {
    #[command(subcommand)]
    command: CommandCommand,
}

/// How far a command is at a node.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Done,
    Failed,
}

impl From<Status> for OutcomeStatus {
    fn from(status: Status) -> OutcomeStatus {
        match status {
            Status::Pending => OutcomeStatus::Pending,
            Status::Done => OutcomeStatus::Done,
            Status::Failed => OutcomeStatus::Failed,
        }
    }
}

#[derive(Debug, Subcommand)]
enum CommandCommand {
    /// Send a command to nodes: it is recorded, each node fetches it and reports.
    Send {
        #[command(flatten)]
        connection: Connection,
        /// What to do, such as `restart`.
        name: String,
        /// To whom. May be repeated.
        #[arg(long = "node", required_unless_present = "all")]
        nodes: Vec<String>,
        /// To all nodes that there are.
        #[arg(long, conflicts_with = "nodes")]
        all: bool,
        /// With what: JSON, or else plain text.
        #[arg(long, default_value = "null", allow_hyphen_values = true)]
        arguments: String,
        /// Key of an earlier try of the same command, to settle its outcome.
        #[arg(long)]
        key: Option<String>,
    },
    /// Show commands, the newest first.
    List {
        #[command(flatten)]
        listing: Listing,
        /// Only those to this node.
        #[arg(long)]
        node: Option<String>,
        /// Only those that are so far (at that node, if one is given).
        #[arg(long, value_enum)]
        status: Option<Status>,
    },
    /// Show a command with each node's outcome.
    Show {
        #[command(flatten)]
        reading: Reading,
        /// Its number.
        id: i64,
    },
    /// Say what became of a command at a node, in the node's place. `done` and `failed` are final.
    Report {
        #[command(flatten)]
        connection: Connection,
        /// The command's number.
        id: i64,
        /// The node.
        node: String,
        /// How far it is.
        #[arg(value_enum)]
        status: Status,
        /// More about it: JSON, or else plain text.
        #[arg(long, default_value = "null", allow_hyphen_values = true)]
        detail: String,
    },
}

pub(super) async fn command(args: &CommandArgs) -> anyhow::Result<()> {
    match &args.command {
        CommandCommand::Send { connection, name, nodes, all, arguments, key } => {
            let client = connection.client().await?;
            let nodes = if *all { all_nodes(&client).await? } else { nodes.clone() };
            let new = NewCommand { name: name.clone(), arguments: value(arguments), nodes };
            let options = tanist_client::ChangeOptions { idempotency_key: key.clone(), ..Default::default() };
            let sent = client.send_command(&new, &options).await?.value;
            show(connection, &sent, |sent| {
                let nodes = sent.nodes.len();
                let plural = if nodes == 1 { "" } else { "s" };
                format!(
                    "command {} sent to {nodes} node{plural}; `tanist command show {}` tells what becomes of it\n",
                    sent.id, sent.id
                )
            })
        }
        CommandCommand::List { listing, node, status } => {
            let (client, options) = (listing.reading.connection.client().await?, listing.reading.options());
            let filter = CommandFilter { node: node.clone(), status: status.map(Into::into) };
            let found = listing.all(async |part| client.commands(&filter, &part, &options).await).await?;
            let headings = ["command", "name", "arguments", "pending", "done", "failed", "sent"];
            listing.show(&found, &headings, row)
        }
        CommandCommand::Show { reading, id } => {
            let found = reading.connection.client().await?.command(*id, &reading.options()).await?.value;
            show(&reading.connection, &found, text)
        }
        CommandCommand::Report { connection, id, node, status, detail } => {
            let outcome = NewOutcome { status: (*status).into(), detail: value(detail) };
            let client = connection.client().await?;
            let now = client.report_outcome(*id, node, &outcome, &Default::default()).await?.value;
            show(connection, &now, text)
        }
    }
}

async fn all_nodes(client: &tanist_client::Client) -> anyhow::Result<Vec<String>> {
    let mut part = Part { next: None, limit: Some(1000) };
    let mut names = Vec::new();
    loop {
        let page = client.nodes(&part, &ReadOptions::default()).await?.value;
        names.extend(page.entries.into_iter().map(|found| found.node.name));
        part.next = page.next;
        if part.next.is_none() {
            break;
        }
    }
    if names.is_empty() {
        return Err(Usage("--all: there are no nodes; `tanist node set` adds one".to_owned()).into());
    }
    Ok(names)
}

fn row(command: &Command) -> Vec<String> {
    let count = |status| {
        let found = command.outcomes.iter().filter(|outcome| outcome.status == status).count();
        if found == 0 { String::new() } else { found.to_string() }
    };
    vec![
        command.id.to_string(),
        command.name.clone(),
        if command.arguments.is_null() { String::new() } else { short(&command.arguments) },
        count(OutcomeStatus::Pending),
        count(OutcomeStatus::Done),
        count(OutcomeStatus::Failed),
        signed(&command.sent_at, command.sent_by.as_ref()),
    ]
}

fn text(command: &Command) -> String {
    let arguments = match &command.arguments {
        Value::Null => String::new(),
        arguments => format!(" with {}", table::safe(&arguments.to_string())),
    };
    let sent = signed(&command.sent_at, command.sent_by.as_ref());
    let headings = ["node", "status", "detail", "reported"].map(str::to_owned);
    let rows: Vec<_> = command
        .outcomes
        .iter()
        .map(|outcome| {
            vec![
                outcome.node.clone(),
                outcome.status.as_str().to_owned(),
                if outcome.detail.is_null() { String::new() } else { short(&outcome.detail) },
                outcome.changed_at.clone().unwrap_or_default(),
            ]
        })
        .collect();
    format!("command {}: {}{arguments}, sent {sent}\n\n", command.id, command.name)
        + &table::layout(&headings, &rows)
}
