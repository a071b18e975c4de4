//! How a desktop becomes part of the office: the first one founds it, every other one asks whom it hears.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tanist_api::{ClusterMember, NewMember, code};
use tanist_client::{Client, Error};

use crate::{Args, CLUSTER, say};

/// How long to listen for the others.
const LISTEN: Duration = Duration::from_secs(10);
/// How long the office may be busy with another change of its members.
const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration of an office with this desktop alone.
pub(crate) fn found(args: &Args) -> String {
    config(args, &[itself(args, 1)])
}

/// Becomes a member; the configuration for it.
pub(crate) async fn join(args: &Args) -> anyhow::Result<String> {
    let builder = match &args.hosts {
        Some(hosts) => Client::builder().hosts(hosts),
        None => Client::builder().discover(CLUSTER, LISTEN).await?,
    };
    let client = builder.build().context("nobody is heard; is this the first desktop (--found)?")?;
    let until = Instant::now() + PATIENCE;
    loop {
        let cluster = client.cluster().await?;
        if cluster.cluster != CLUSTER {
            bail!("these are desktops of {}, expected {CLUSTER}", cluster.cluster);
        }
        let last = cluster.members.iter().map(|member| member.rank).max().unwrap_or_default();
        match client.add_member(&itself(args, last + 1)).await {
            Ok(now) => {
                let master = cluster.master.as_deref().unwrap_or("still to be found");
                say(&args.name, &format!("welcome! the master is {master}"));
                return Ok(config(args, &now.members.into_iter().map(as_given).collect::<Vec<_>>()));
            }
            // Another desktop joins at this moment.
            Err(Error::Problem(why)) if why.code == code::MEMBERS_UNCHANGED && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error).context("join the office"),
        }
    }
}

fn itself(args: &Args, rank: u32) -> NewMember {
    let host = match args.address.is_ipv6() {
        true => format!("[{}]", args.address),
        false => args.address.to_string(),
    };
    NewMember {
        id: args.name.clone(),
        rank,
        peer_addresses: vec![format!("{host}:7450")],
        urls: vec![format!("http://{host}:8080")],
    }
}

fn as_given(member: ClusterMember) -> NewMember {
    NewMember { id: member.id, rank: member.rank, peer_addresses: member.peer_addresses, urls: member.urls }
}

/// `insecure`: everybody in this office may read and write. With tokens and TLS a stranger on the network may not.
fn config(args: &Args, members: &[NewMember]) -> String {
    let me = itself(args, 0);
    let mut text = format!(
        "cluster = {CLUSTER:?}\nid = {:?}\nkey_file = {:?}\n\n\
         [listen]\npeer = {:?}\nhttp = {:?}\ninsecure = true\n\n\
         [discovery]\nannounce = true\naddresses = [\"{}\"]\n",
        args.name,
        args.key_file.display().to_string(),
        me.peer_addresses[0],
        me.urls[0].trim_start_matches("http://"),
        args.address,
    );
    for member in members {
        text += &format!(
            "\n[[member]]\nid = {:?}\nrank = {}\npeer = {:?}\nurl = {:?}\n",
            member.id, member.rank, member.peer_addresses, member.urls
        );
    }
    text
}
