//! `tanist key`: another cluster key while the cluster serves. `docs/key.md` has the steps and their reasons.
//!
//! Owns the order: no step is taken before all machines that are reached are ready for it. Which keys a machine accepts is tried
//! by showing it one, not asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use tanist_client::Client;
use tanist_replication::MemberId;
use tanist_transport::{ClusterKey, HandshakeError, OpenError, try_key};

use super::{Certificates, table};
use crate::{
    config::{
        Config,
        secrets::{NEXT, OLD, beside},
    },
    secret,
};

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Args)]
struct Machine {
    /// This machine's configuration file.
    #[arg(long, default_value = "tanist.toml")]
    config: PathBuf,
    #[command(flatten)]
    certificates: Certificates,
}

/// The others are asked for so long who the members are.
const PATIENCE: Duration = Duration::from_secs(2);

/// Another member, and where it is reached.
type Other = (MemberId, Vec<String>);

impl Machine {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config)?)
    }

    /// All other members: those that the cluster has agreed on, or those of the file when nobody can be asked.
    async fn others(&self, config: &Config) -> anyhow::Result<Vec<Other>> {
        let others = match self.ask(config).await {
            Ok(members) => members,
            Err(error) => {
                eprintln!(
                    "Nobody could be asked who the members are: those of {} count ({error:#}).",
                    self.config.display()
                );
                config
                    .members
                    .iter()
                    .map(|member| (member.id.clone(), member.peer_addresses.clone()))
                    .collect()
            }
        };
        Ok(others.into_iter().filter(|(id, _)| *id != config.id).collect())
    }

    async fn ask(&self, config: &Config) -> anyhow::Result<Vec<Other>> {
        let urls: Vec<_> = config.members.iter().flat_map(|member| &member.urls).cloned().collect();
        let builder = Client::builder().hosts(&urls.join(",")).deadline(PATIENCE);
        let builder = self.certificates.give(builder.operator(config.operator_key()))?;
        let cluster = builder.build()?.cluster().await?;
        let members = cluster.members.into_iter();
        members.map(|member| Ok((member.id.parse()?, member.peer_addresses))).collect()
    }
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Show which keys this machine has and which of them each of the others accepts.
    Status {
        #[command(flatten)]
        machine: Machine,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// First step, on each machine: put the next key beside the present one. From then on both are accepted.
    Next {
        #[command(flatten)]
        machine: Machine,
        /// The next key as another machine has made it (its cluster.key.next); without it a new one is made.
        #[arg(long)]
        from: Option<PathBuf>,
    },
    /// Second step, on each machine, when all have the next key: use it from now on. The old one is still accepted.
    Rotate {
        #[command(flatten)]
        machine: Machine,
        /// Also when a machine isn't reached. It must be given the new key by hand before it runs again.
        #[arg(long)]
        without_unreached: bool,
    },
    /// Last step, on each machine, when all use the new key: the old one opens nothing here any more.
    Drop {
        #[command(flatten)]
        machine: Machine,
        /// Also when a machine isn't reached, or knows the old key alone.
        #[arg(long)]
        now: bool,
    },
}

/// How a machine took a key that it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Accepted,
    Refused,
    /// And why.
    Unreached(String),
}

/// One of this machine's keys, and who accepts it.
struct Row {
    what: &'static str,
    fingerprint: String,
    others: Vec<(MemberId, Shown)>,
}

#[derive(Serialize)]
struct RowOut<'a> {
    key: &'a str,
    fingerprint: &'a str,
    accepted_by: Vec<&'a str>,
    refused_by: Vec<&'a str>,
    not_reached: Vec<&'a str>,
}

pub(super) async fn key(args: &KeyArgs) -> anyhow::Result<()> {
    match &args.command {
        KeyCommand::Status { machine, json } => status(machine, *json).await,
        KeyCommand::Next { machine, from } => next(&machine.load()?, from.as_deref()),
        KeyCommand::Rotate { machine, without_unreached } => rotate(machine, *without_unreached).await,
        KeyCommand::Drop { machine, now } => drop_old(machine, *now).await,
    }
}

/// The file with the present key.
fn file_of(config: &Config) -> anyhow::Result<&Path> {
    config.key_file.as_deref().context(
        "key: found the key in the configuration itself, expected key_file: put it into a file of its own and start the machine again",
    )
}

fn read(path: &Path) -> anyhow::Result<ClusterKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("read {}", path.display()))
}

/// Shows a key to all other members.
async fn show(config: &Config, others: &[Other], key: &ClusterKey) -> Vec<(MemberId, Shown)> {
    let transport = config.transport([0; 16]);
    let mut showing = tokio::task::JoinSet::new();
    for (place, (id, addresses)) in others.iter().cloned().enumerate() {
        let (transport, key) = (transport.clone(), key.clone());
        showing.spawn(async move {
            let shown = match try_key(&transport, &key, &addresses).await {
                Ok(()) => Shown::Accepted,
                Err(OpenError::Handshake { source: HandshakeError::Key, .. }) => Shown::Refused,
                Err(error) => Shown::Unreached(error.to_string()),
            };
            (place, id, shown)
        });
    }
    let mut all = showing.join_all().await;
    all.sort_by_key(|(place, ..)| *place);
    all.into_iter().map(|(_, id, shown)| (id, shown)).collect()
}

async fn status(machine: &Machine, json: bool) -> anyhow::Result<()> {
    let config = &machine.load()?;
    let others = machine.others(config).await?;
    let mut rows = vec![];
    let mut add = async |what, key: &ClusterKey| {
        rows.push(Row { what, fingerprint: key.fingerprint(), others: show(config, &others, key).await });
    };
    add("in use", &config.key).await;
    if let Some(other) = &config.other_key {
        let old = config.key_file.as_deref().is_some_and(|file| beside(file, OLD).exists());
        add(if old { "old" } else { "next" }, other).await;
    }
    if json {
        let rows: Vec<_> = rows.iter().map(Row::out).collect();
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "keys": rows }))?);
        return Ok(());
    }
    let mut headings = vec!["KEY".to_owned(), "FINGERPRINT".to_owned()];
    headings.extend(rows.first().into_iter().flat_map(|row| &row.others).map(|(id, _)| id.to_string()));
    let lines: Vec<Vec<String>> = rows.iter().map(Row::line).collect();
    print!("{}", table::layout(&headings, &lines));
    Ok(())
}

impl Row {
    fn out(&self) -> RowOut<'_> {
        let ids = |wanted: fn(&Shown) -> bool| {
            let found = self.others.iter().filter(|(_, shown)| wanted(shown));
            found.map(|(id, _)| id.as_str()).collect()
        };
        RowOut {
            key: self.what,
            fingerprint: &self.fingerprint,
            accepted_by: ids(|shown| *shown == Shown::Accepted),
            refused_by: ids(|shown| *shown == Shown::Refused),
            not_reached: ids(|shown| matches!(shown, Shown::Unreached(_))),
        }
    }

    fn line(&self) -> Vec<String> {
        let word = |shown: &Shown| match shown {
            Shown::Accepted => "accepts it".to_owned(),
            Shown::Refused => "refuses it".to_owned(),
            Shown::Unreached(_) => "isn't reached".to_owned(),
        };
        let others = self.others.iter().map(|(_, shown)| word(shown));
        [self.what.to_owned(), self.fingerprint.clone()].into_iter().chain(others).collect()
    }
}

fn next(config: &Config, from: Option<&Path>) -> anyhow::Result<()> {
    let file = file_of(config)?;
    let (place, old) = (beside(file, NEXT), beside(file, OLD));
    if old.exists() {
        bail!("{} is there: the change before isn't over, `tanist key drop` ends it", old.display());
    }
    let key = match from {
        Some(path) => read(path)?,
        None => ClusterKey::generate(),
    };
    if place.exists() {
        if read(&place)? == key {
            println!("{} holds this key already ({}).", place.display(), key.fingerprint());
            return Ok(());
        }
        bail!("{} is there and holds another key: remove it to begin anew", place.display());
    }
    if key == config.key {
        bail!("--from: found the key that is in use already, expected the next one");
    }
    secret::replace(&place, &format!("{}\n", key.to_text()))
        .with_context(|| format!("write {}", place.display()))?;
    println!("Wrote {} ({}): this machine accepts both keys now.", place.display(), key.fingerprint());
    if from.is_none() {
        println!("Carry it to each other machine, as secretly as the first: `tanist key next --from FILE`.");
    }
    println!("`tanist key status` shows who accepts it; when all do: `tanist key rotate`, on each machine.");
    Ok(())
}

/// Why a step can't be taken yet, if it can't.
fn not_yet(others: &[(MemberId, Shown)], without_unreached: bool) -> Option<String> {
    let reasons: Vec<_> = others
        .iter()
        .filter_map(|(id, shown)| match shown {
            Shown::Accepted => None,
            Shown::Refused => Some(format!("{id} refuses it")),
            Shown::Unreached(_) if without_unreached => None,
            Shown::Unreached(why) => Some(format!("{id} isn't reached ({why})")),
        })
        .collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

async fn rotate(machine: &Machine, without_unreached: bool) -> anyhow::Result<()> {
    let config = &machine.load()?;
    let file = file_of(config)?;
    let (place, old) = (beside(file, NEXT), beside(file, OLD));
    if !place.exists() {
        let hint = if old.exists() { "it is done here" } else { "`tanist key next` is the first step" };
        bail!("{}: found nothing: {hint}", place.display());
    }
    let next = read(&place)?;
    if let Some(why) = not_yet(&show(config, &machine.others(config).await?, &next).await, without_unreached)
    {
        bail!(
            "the next key ({}) isn't accepted everywhere: {why}. Nothing was changed. On those machines: `tanist key next --from FILE`; \
             --without-unreached leaves out who isn't reached",
            next.fingerprint()
        );
    }
    // A kill between the two leaves the same two keys, and the same step to be taken.
    secret::replace(&old, &format!("{}\n", read(file)?.to_text()))
        .with_context(|| format!("write {}", old.display()))?;
    std::fs::rename(&place, file).with_context(|| format!("rename {}", place.display()))?;
    crate::durable::sync_entry(file).with_context(|| format!("sync {}", file.display()))?;
    println!("This machine uses the new key now ({}); the old one is still accepted.", next.fingerprint());
    println!("When this is done on all machines: `tanist key drop`, on each.");
    Ok(())
}

async fn drop_old(machine: &Machine, now: bool) -> anyhow::Result<()> {
    let config = &machine.load()?;
    let file = file_of(config)?;
    let old = beside(file, OLD);
    if !old.exists() {
        bail!("{}: found nothing: there is no old key to drop", old.display());
    }
    if beside(file, NEXT).exists() {
        bail!("the step before was broken off: `tanist key rotate` finishes it");
    }
    if !now
        && let Some(why) = not_yet(&show(config, &machine.others(config).await?, &config.key).await, false)
    {
        bail!(
            "the key in use ({}) isn't accepted everywhere: {why}. Nothing was changed; --now drops the old one nevertheless, and those \
             machines are out until they have the new one",
            config.key.fingerprint()
        );
    }
    std::fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
    crate::durable::sync_entry(&old).with_context(|| format!("sync the removal of {}", old.display()))?;
    println!("The old key opens nothing on this machine any more.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_is_taken_only_when_all_are_ready_for_it() {
        let member = |id: &str| id.parse::<MemberId>().unwrap();
        let accepted = (member("pc-2"), Shown::Accepted);
        let refused = (member("pc-3"), Shown::Refused);
        let away = (member("pc-4"), Shown::Unreached("refused".to_owned()));
        assert_eq!(not_yet(&[], false), None);
        assert_eq!(not_yet(std::slice::from_ref(&accepted), false), None);
        assert!(not_yet(&[accepted.clone(), refused.clone()], true).unwrap().contains("pc-3 refuses"));
        assert!(not_yet(&[accepted.clone(), away.clone()], false).unwrap().contains("pc-4 isn't reached"));
        assert_eq!(not_yet(&[accepted, away], true), None);
    }
}
