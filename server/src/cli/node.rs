//! `tanist node`: the managed machines, what each shall have, and what it says it has.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tanist_api::{DesiredState, Node, NodeSpec, NodeSummary, PresenceStatus, Report, ReportedState, code};
use tanist_client::{Client, Error, OnlyIf, ReadOptions};

use super::{
    Usage,
    options::{Changing, Listing, Reading, object, short, show, signed},
    table,
};

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Show them, each with whether it has what it shall have.
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one with its desired and its reported state.
    Show {
        #[command(flatten)]
        reading: Reading,
        /// Its name.
        node: String,
    },
    /// Add a node, or change one. What isn't given stays.
    Set {
        #[command(flatten)]
        changing: Changing,
        /// Its name.
        node: String,
        /// Where it is reached; empty for nowhere.
        #[arg(long)]
        address: Option<String>,
        /// Its row in the arrangement.
        #[arg(long)]
        row: Option<u32>,
        /// Its column.
        #[arg(long)]
        column: Option<u32>,
        /// `name=text`; an empty text removes the label. May be repeated.
        #[arg(long = "label")]
        labels: Vec<String>,
    },
    /// Remove a node with its states. Commands that wait for it count as failed.
    Remove {
        #[command(flatten)]
        changing: Changing,
        /// Its name.
        node: String,
    },
    /// Print what a node shall have, or say it.
    Desired {
        #[command(flatten)]
        changing: Changing,
        /// Its name.
        node: String,
        /// A JSON object: all that it shall have. Without it, what is desired now is printed.
        state: Option<String>,
        /// STATE names only what is to change (JSON Merge Patch: null removes).
        #[arg(long, requires = "state")]
        patch: bool,
    },
    /// Print what a node says it has, or say it in its place.
    Reported {
        #[command(flatten)]
        changing: Changing,
        /// Its name.
        node: String,
        /// A JSON object: all that it has. Without it, what is reported now is printed.
        state: Option<String>,
        /// Revision of the desired state that this answers.
        #[arg(long = "for", requires = "state")]
        desired_revision: Option<i64>,
        /// Why that couldn't be reached.
        #[arg(long, requires = "state")]
        error: Option<String>,
    },
}

pub(super) async fn node(args: &NodeArgs) -> anyhow::Result<()> {
    match &args.command {
        NodeCommand::List { listing } => list(listing).await,
        NodeCommand::Show { reading, node } => one(reading, node).await,
        NodeCommand::Set { changing, node, address, row, column, labels } => {
            let patch = patch(address.as_deref(), *row, *column, labels)?;
            let now = set(&changing.connection.client().await?, changing, node, &patch).await?;
            show(&changing.connection, &now, |now| format!("{} has revision {}\n", now.name, now.revision))
        }
        NodeCommand::Remove { changing, node } => {
            let gone =
                changing.connection.client().await?.remove_node(node, &changing.options()).await?.value;
            show(&changing.connection, &gone, |gone| format!("{node} removed, revision {}\n", gone.revision))
        }
        NodeCommand::Desired { changing, node, state, patch } => {
            let (client, options) = (changing.connection.client().await?, changing.options());
            let now = match state.as_deref().map(|state| object("STATE", state)).transpose()? {
                None => client.desired(node, &unconditional(changing)?).await?,
                Some(state) if *patch => client.patch_desired(node, &state, &options).await?,
                Some(state) => client.set_desired(node, &state, &options).await?,
            };
            show(&changing.connection, &now.value, |now| desired_text(node, Some(now)))
        }
        NodeCommand::Reported { changing, node, state, desired_revision, error } => {
            let client = changing.connection.client().await?;
            let now = match state.as_deref().map(|state| object("STATE", state)).transpose()? {
                None => client.reported(node, &unconditional(changing)?).await?,
                Some(state) => {
                    let report = Report { state, desired_revision: *desired_revision, error: error.clone() };
                    client.report(node, &report, &changing.options()).await?
                }
            };
            show(&changing.connection, &now.value, |now| reported_text(node, Some(now)))
        }
    }
}

/// A read has no condition.
fn unconditional(changing: &Changing) -> Result<ReadOptions, Usage> {
    if changing.is_conditional() {
        return Err(Usage("--if-revision, --if-new: expected STATE too".to_owned()));
    }
    Ok(ReadOptions::default())
}

async fn list(listing: &Listing) -> anyhow::Result<()> {
    let (client, options) = (listing.reading.connection.client().await?, listing.reading.options());
    let found = listing.all(async |part| client.nodes(&part, &options).await).await?;
    let row = |found: &NodeSummary| {
        let place = |place: Option<u32>| place.map(|place| place.to_string()).unwrap_or_default();
        let step = match (found.in_step, &found.error) {
            (None, _) => "nothing desired".to_owned(),
            (Some(true), _) => "in step".to_owned(),
            (Some(false), Some(error)) => format!("failed: {}", table::safe(error)),
            (Some(false), None) => "not yet".to_owned(),
        };
        vec![
            found.node.name.clone(),
            table::safe(found.node.address.as_deref().unwrap_or_default()),
            place(found.node.row),
            place(found.node.column),
            if found.node.labels.is_empty() { String::new() } else { short(&found.node.labels) },
            found.presence.map(PresenceStatus::as_str).unwrap_or("no agent").to_owned(),
            step,
            found.reported_at.clone().unwrap_or_default(),
        ]
    };
    listing.show(&found, &["node", "address", "row", "column", "labels", "agent", "state", "reported"], row)
}

async fn one(reading: &Reading, node: &str) -> anyhow::Result<()> {
    let (client, options) = (reading.connection.client().await?, reading.options());
    let found = client.node(node, &options).await?.value;
    let desired = or_none(client.desired(node, &options).await)?;
    let reported = or_none(client.reported(node, &options).await)?;
    let all = json!({ "node": found, "desired": desired, "reported": reported });
    show(&reading.connection, &all, |_| {
        node_text(&found) + &desired_text(node, desired.as_ref()) + &reported_text(node, reported.as_ref())
    })
}

fn or_none<T>(found: Result<tanist_client::At<T>, Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found.value)),
        Err(Error::Problem(problem)) if problem.code == code::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// A JSON Merge Patch of what the arguments name.
fn patch(
    address: Option<&str>,
    row: Option<u32>,
    column: Option<u32>,
    labels: &[String],
) -> Result<Map<String, Value>, Usage> {
    let text = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    let mut patch = Map::new();
    patch.extend(address.map(|address| ("address".to_owned(), text(address))));
    patch.extend(row.map(|row| ("row".to_owned(), row.into())));
    patch.extend(column.map(|column| ("column".to_owned(), column.into())));
    let mut named = Map::new();
    for label in labels {
        let Some((name, value)) = label.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Usage(format!("--label: found {label:?}, expected name=text")));
        };
        named.insert(name.to_owned(), text(value));
    }
    if !named.is_empty() {
        patch.insert("labels".to_owned(), named.into());
    }
    Ok(patch)
}

/// Changes the node; makes it when there is none.
async fn set(
    client: &Client,
    changing: &Changing,
    node: &str,
    patch: &Map<String, Value>,
) -> anyhow::Result<Node> {
    let mut options = changing.options();
    if options.only_if != OnlyIf::New {
        match client.patch_node(node, &patch.clone().into(), &options).await {
            Err(Error::Problem(problem))
                if problem.code == code::NOT_FOUND && options.only_if == OnlyIf::Always => {}
            other => return Ok(other?.value),
        }
        // Another request, so with another key; who came first meanwhile isn't overwritten.
        options.only_if = OnlyIf::New;
        options.idempotency_key = None;
    }
    let mut whole = patch.clone();
    whole.retain(|_, value| !value.is_null());
    if let Some(Value::Object(labels)) = whole.get_mut("labels") {
        labels.retain(|_, label| !label.is_null());
    }
    let spec: NodeSpec = serde_json::from_value(whole.into())?;
    Ok(client.set_node(node, &spec, &options).await?.value)
}

fn node_text(node: &Node) -> String {
    let mut text = format!("node {}, revision {}", node.name, node.revision);
    if let Some(address) = &node.address {
        text += &format!(", at {}", table::safe(address));
    }
    for (name, place) in [("row", node.row), ("column", node.column)] {
        if let Some(place) = place {
            text += &format!(", {name} {place}");
        }
    }
    if !node.labels.is_empty() {
        text += &format!(", labels {}", short(&node.labels));
    }
    text + &format!(", changed {}\n", signed(&node.changed_at, node.changed_by.as_ref()))
}

fn state_text(state: &Map<String, Value>) -> String {
    table::safe(&Value::from(state.clone()).to_string())
}

fn desired_text(node: &str, desired: Option<&DesiredState>) -> String {
    match desired {
        None => format!("{node} shall have nothing in particular\n"),
        Some(desired) => format!(
            "{node} shall have {} (revision {}, {})\n",
            state_text(&desired.state),
            desired.revision,
            signed(&desired.changed_at, desired.changed_by.as_ref())
        ),
    }
}

fn reported_text(node: &str, reported: Option<&ReportedState>) -> String {
    let Some(reported) = reported else { return format!("{node} has said nothing yet\n") };
    let of = match reported.desired_revision {
        Some(revision) => format!("for desired revision {revision}, "),
        None => String::new(),
    };
    let error = match &reported.error {
        Some(error) => format!("{node} failed: {}\n", table::safe(error)),
        None => String::new(),
    };
    format!("{node} says it has {} ({of}{})\n{error}", state_text(&reported.state), reported.reported_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_not_in_the_patch() {
        let labels = ["a=1".to_owned(), "b=".to_owned(), "c=x=y".to_owned()];
        let found = patch(Some(""), None, Some(2), &labels).unwrap();
        let expected = json!({ "address": null, "column": 2, "labels": { "a": "1", "b": null, "c": "x=y" } });
        assert_eq!(Value::from(found), expected);
        assert!(patch(None, None, None, &[]).unwrap().is_empty());
        assert!(patch(None, None, None, &["=x".to_owned()]).is_err());
    }
}
