//! `tanist discover`: the clusters on the local network.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use serde::Serialize;
use tanist_client::{Client, Error, api::code};
use tanist_discovery::{Announcement, browse};

use super::{Usage, table};

/// What a cluster may take to say who is its master.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct DiscoverArgs {
    /// Only this cluster's machines.
    #[arg(long)]
    cluster: Option<String>,
    /// How long to listen, 1 to 60.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    cluster: String,
    member: String,
    urls: Vec<String>,
    /// As its cluster says, when asked without a token.
    role: String,
}

pub(super) async fn discover(args: &DiscoverArgs) -> anyhow::Result<()> {
    if !(1..=60).contains(&args.seconds) {
        return Err(Usage(format!("--seconds: found {}, expected 1 to 60", args.seconds)).into());
    }
    let time = Duration::from_secs(args.seconds);
    let heard = tokio::task::spawn_blocking(move || browse(time, &[])).await??;
    let wanted =
        |machine: &Announcement| args.cluster.as_deref().is_none_or(|name| machine.cluster() == name);
    let mut clusters: BTreeMap<String, Vec<Announcement>> = BTreeMap::new();
    for machine in heard.into_iter().filter(wanted) {
        clusters.entry(machine.cluster().to_owned()).or_default().push(machine);
    }
    let mut found = vec![];
    for (cluster, machines) in clusters {
        let roles = roles(&machines).await;
        found.extend(machines.into_iter().map(|machine| Found {
            role: match &roles {
                Ok(roles) => roles.get(machine.member()).map_or("no member", |role| role).to_owned(),
                Err(why) => why.clone(),
            },
            cluster: cluster.clone(),
            member: machine.member().to_owned(),
            urls: machine.urls().to_vec(),
        }));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else if found.is_empty() {
        println!(
            "Nobody was heard in {time:?}. Machines say that they are there with `announce = true` in [discovery]."
        );
    } else {
        let headings = ["cluster", "member", "role", "urls"].map(str::to_owned);
        let row = |found: &Found| {
            vec![found.cluster.clone(), found.member.clone(), found.role.clone(), found.urls.join(" ")]
        };
        print!("{}", table::layout(&headings, &found.iter().map(row).collect::<Vec<_>>()));
    }
    Ok(())
}

/// Each member's role as the cluster says, or why it doesn't.
async fn roles(machines: &[Announcement]) -> Result<BTreeMap<String, String>, String> {
    let urls: Vec<String> = machines.iter().flat_map(|machine| machine.urls().to_vec()).collect();
    if urls.iter().all(|url| url.starts_with("https://")) {
        return Err("not asked (TLS)".to_owned());
    }
    let plain: Vec<String> = urls.into_iter().filter(|url| url.starts_with("http://")).collect();
    let client = Client::builder().hosts(&plain.join(",")).deadline(PATIENCE).build();
    let cluster = match client {
        Ok(client) => client.cluster().await,
        Err(error) => Err(error),
    };
    match cluster {
        Ok(cluster) => {
            let master = cluster.master.filter(|_| cluster.writable);
            let role = |id: &str| if master.as_deref() == Some(id) { "master" } else { "member" };
            Ok(cluster
                .members
                .into_iter()
                .map(|member| (member.id.clone(), role(&member.id).to_owned()))
                .collect())
        }
        Err(Error::Problem(problem)) if problem.code == code::UNAUTHORIZED => {
            Err("not asked (token)".to_owned())
        }
        Err(_) => Err("no answer".to_owned()),
    }
}
