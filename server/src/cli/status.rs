//! `tanist status`.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use clap::Args;
use tanist_api::{Cluster, ClusterMember, RejoinProgress, Role, ScheduledCopies};
use tanist_client::{Client, Error};

use super::{Connection, table, upgrade};

/// Between two looks of `--watch`.
const RENEW: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    connection: Connection,
    /// Renew it every second until Ctrl-C; also while nobody answers.
    #[arg(long)]
    watch: bool,
}

/// Shows the cluster as the master sees it, or, without one, as the first machine that answers.
pub(super) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let connection = &args.connection;
    let client = connection.client().await?;
    if !args.watch {
        return show(connection, &seen_by_the_master(&client).await?);
    }
    let terminal = std::io::stdout().is_terminal() && !connection.json;
    loop {
        let found = tokio::select! {
            found = seen_by_the_master(&client) => found,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        if terminal {
            // By the way that the terminal understands: before Windows 10 they know no escape sequences.
            console::Term::stdout().clear_screen()?;
        }
        match found {
            Ok(cluster) => show(connection, &cluster)?,
            Err(error) => eprintln!("tanist: {error}"),
        }
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// The cluster as the master sees it, who knows positions and lag of all; without one, as the first machine that answers.
pub(super) async fn seen_by_the_master(client: &Client) -> Result<Cluster, Error> {
    let cluster = client.cluster().await?;
    if let Some(master) = cluster.master_urls.first()
        && let Ok(view) = client.cluster_of(master).await
    {
        return Ok(view);
    }
    Ok(cluster)
}

fn show(connection: &Connection, cluster: &Cluster) -> anyhow::Result<()> {
    if connection.json {
        println!("{}", serde_json::to_string_pretty(cluster)?);
    } else {
        print!("{}", text(cluster));
    }
    std::io::stdout().flush()?;
    Ok(())
}

/// How the member gets its data, and how far that is.
fn data_by(member: &ClusterMember) -> String {
    let by = member.progress.clone().unwrap_or_default();
    match &member.rejoin {
        None => by,
        Some(RejoinProgress { waits_for: Some(why), .. }) => format!("rejoin waits: {why}"),
        Some(RejoinProgress { pages, compared, moved, bytes, only_changed, placing, .. }) => {
            let percent = u64::from(*compared) * 100 / u64::from(*pages).max(1);
            let done = if *placing { "all".to_owned() } else { format!("{percent} %") };
            let changed = if *only_changed { " changed" } else { "" };
            let placing = if *placing { ", being put in place" } else { "" };
            format!("rejoin {done} of {pages}{changed} pages, {moved} sent, {} KiB{placing}", bytes >> 10)
        }
    }
}

/// How the scheduled copies of the answering machine stand.
fn copies_text(member: &str, copies: &ScheduledCopies) -> String {
    let newest = match (&copies.made_at, &copies.position) {
        (Some(made_at), Some(position)) => format!("newest at {position}, made {made_at}"),
        _ => "none yet".to_owned(),
    };
    let failed = copies.failed.as_ref().map(|why| format!("; the last try failed: {why}"));
    format!("Copies on {member}: {newest}{}\n", failed.unwrap_or_default())
}

fn holds_all(member: &ClusterMember) -> &'static str {
    match member.in_sync {
        _ if member.rank == 0 => "",
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

fn text(cluster: &Cluster) -> String {
    let reign = match &cluster.master {
        Some(master) => format!("{master} reigns in term {}", cluster.term),
        None => format!("no master (term {})", cluster.term),
    };
    let writes = if cluster.writable { "writes are taken" } else { "writes are not taken" };
    let mut text = format!("Cluster {}: {reign}, {writes}. Seen from {}.\n", cluster.cluster, cluster.member);
    if let Some(notice) = &cluster.notice {
        text += &format!("Notice: {notice}\n");
    }
    text += &upgrade::lines(cluster);
    let headings =
        ["member", "rank", "role", "position", "behind", "holds all", "data by", "url"].map(str::to_owned);
    let rows: Vec<Vec<String>> = cluster
        .members
        .iter()
        .map(|member| {
            let role = match (member.role, member.reachable) {
                _ if member.differs_at.is_some() => "differs from the master",
                (Role::Master, _) if member.unhealthy.is_some() => "master, not healthy",
                (_, Some(false)) if member.absent => "not reached, doesn't count",
                (_, Some(false)) => "not reached",
                (Role::Master, _) => "master",
                (Role::Backup, _) if member.unhealthy.is_some() => "not healthy",
                (Role::Backup, _) if cluster.chain.get(1) == Some(&member.id) => "heir",
                (Role::Backup, _) => "backup",
                (Role::Candidate, _) => "candidate",
                (Role::Witness, _) => "witness",
                (Role::Unknown, _) => "unknown",
            };
            vec![
                member.id.clone(),
                member.rank.to_string(),
                role.to_owned(),
                member.position.clone().unwrap_or_default(),
                member.lag.map(|lag| lag.to_string()).unwrap_or_default(),
                holds_all(member).to_owned(),
                data_by(member),
                member.urls.first().cloned().unwrap_or_default(),
            ]
        })
        .collect();
    text += "\n";
    text += &table::layout(&headings, &rows);
    if let Some(copies) = &cluster.copies {
        text += &copies_text(&cluster.member, copies);
    }
    for member in &cluster.members {
        if let Some(what) = &member.timing_differs {
            text += &format!("{}'s times differ from {}'s: {what}\n", member.id, cluster.member);
        }
        if let Some(problem) = &member.problem {
            text += &format!("{} isn't reached: {problem}\n", member.id);
        }
    }
    for (member, why) in
        cluster.members.iter().filter_map(|member| Some((&member.id, member.unhealthy.as_ref()?)))
    {
        text += &format!("{member} isn't healthy: {why}\n");
    }
    for (member, why) in cluster.members.iter().filter_map(|member| Some((&member.id, member.slow.as_ref()?)))
    {
        text += &format!("{member} is slow: {why}\n");
    }
    text
}
