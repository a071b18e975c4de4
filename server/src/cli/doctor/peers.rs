//! What is looked at over the network: whether the other members are reached, and whether they are the same cluster.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tanist_api::{Cluster, MemberTiming};
use tanist_client::{Client, Error};
use tanist_replication::{Member, Times, quorum};
use tokio::{net::TcpStream, time::timeout};

use super::{Certificates, Finding, machine::resolve};
use crate::{clock, config::Config, view};

/// A machine that doesn't answer for so long isn't reached.
const PATIENCE: Duration = Duration::from_secs(2);
/// Wall clocks that differ by more make logs hard to read.
const SKEW_MS: u64 = 2_000;
/// A private network of machines in one place is faster.
const FAR: Duration = Duration::from_millis(20);

/// What one machine says of itself.
struct Said {
    member: String,
    view: Cluster,
    /// How far its clock is from ours, in milliseconds; positive: ahead.
    skew_ms: Option<i64>,
}

/// Looks at all other members.
pub(super) async fn look(config: &Config, certificates: &Certificates) -> anyhow::Result<Vec<Finding>> {
    let others: Vec<&Member> = config.members.iter().filter(|member| member.id != config.id).collect();
    if others.is_empty() {
        return Ok(vec![Finding::good("peers", "none: a cluster of one machine")]);
    }
    let builder = Client::builder().deadline(PATIENCE).operator(config.operator_key());
    let builder = certificates.give(builder)?;
    let urls: Vec<_> = config.members.iter().flat_map(|member| &member.urls).cloned().collect();
    let client = match urls.is_empty() {
        true => None,
        false => Some(builder.hosts(&urls.join(",")).build()?),
    };
    let mut findings = vec![];
    let mut reached = 1;
    let mut said = vec![];
    for member in others {
        let found = peer(member).await;
        reached += usize::from(found.verdict == super::Verdict::Good);
        findings.push(found);
        if let Some(client) = &client {
            for url in &member.urls {
                match ask(client, member, url).await {
                    Ok(answer) => {
                        findings.push(same_cluster(config, &answer, url));
                        said.push(answer);
                    }
                    Err(finding) => findings.push(finding),
                }
            }
        }
    }
    findings.push(majority(reached, config.members.len()));
    findings.extend(versions(&said));
    findings.extend(clocks(&said));
    findings.extend(timing(view::timing(&Times::from(&config.timing)), &said));
    findings.extend(one_master(&said));
    Ok(findings)
}

/// Whether its peer port takes a connection.
async fn peer(member: &Member) -> Finding {
    let check = format!("peer {}", member.id);
    let mut problems = vec![];
    for address in &member.peer_addresses {
        match connect(address).await {
            Ok((to, time)) if time > FAR => {
                let found = format!("{to} takes connections, {time:.1?} away");
                let advice = "Each write waits for a backup: a nearer one should have a better rank, or timing.heartbeat be raised.";
                return Finding { verdict: super::Verdict::Good, ..Finding::warning(check, found, advice) };
            }
            Ok((to, time)) => {
                return Finding::good(check, format!("{to} takes connections, {time:.1?} away"));
            }
            Err(why) => problems.push(format!("{address}: {why}")),
        }
    }
    let advice = if problems.iter().any(|problem| problem.contains("no answer")) {
        "Is it switched on? Then a firewall, on it or between, keeps the port shut, or the address is another's."
    } else {
        "Nothing listens there: start tanist on it, or correct its [[member]] address."
    };
    Finding::warning(check, problems.join("; "), advice)
}

async fn connect(address: &str) -> Result<(SocketAddr, Duration), String> {
    let addresses = resolve(address).await.map_err(|error| format!("the name can't be resolved: {error}"))?;
    let mut last = "the name has no address".to_owned();
    for to in addresses {
        let began = Instant::now();
        last = match timeout(PATIENCE, TcpStream::connect(to)).await {
            Ok(Ok(_)) => return Ok((to, began.elapsed())),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => "refused".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
    }
    Err(last)
}

async fn ask(client: &Client, member: &Member, url: &str) -> Result<Said, Finding> {
    let before = clock::wall_ms();
    let answer = client.cluster_of(url).await;
    let after = clock::wall_ms();
    let view = answer.map_err(|error| {
        let check = format!("http {}", member.id);
        let advice = "Does tanist run there, and is the port open? For https:// addresses --ca-file names who signed their certificates.";
        let why = match &error {
            Error::Unavailable { last, .. } => last.clone(),
            error => error.to_string(),
        };
        Finding::warning(check, format!("{url}: {why}"), advice)
    })?;
    let skew_ms = (|| {
        // It looked at its clock in between.
        let here = i64::try_from(before?.midpoint(after?)).ok()?;
        Some(i64::try_from(view.clock_ms?).ok()? - here)
    })();
    Ok(Said { member: member.id.to_string(), view, skew_ms })
}

fn same_cluster(config: &Config, said: &Said, url: &str) -> Finding {
    let check = format!("http {}", said.member);
    let (member, cluster) = (&said.view.member, &said.view.cluster);
    if *cluster != config.cluster.as_str() || *member != said.member {
        let found = format!(
            "{url} is answered by {member} of {cluster}, expected {} of {}",
            said.member, config.cluster
        );
        return Finding::bad(check, found, "Correct the url of this [[member]], or the id of that machine.");
    }
    Finding::good(check, format!("{url} is answered"))
}

fn majority(reached: usize, members: usize) -> Finding {
    let needed = quorum::majority(members);
    let found = format!("{reached} of {members} are reached, this one included; {needed} are needed");
    if reached >= needed {
        return Finding::good("majority", found);
    }
    Finding::bad(
        "majority",
        found,
        "Without a majority nobody reigns: start the others, or see to the network.",
    )
}

fn versions(said: &[Said]) -> Option<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let others: Vec<_> = said
        .iter()
        .map(|said| (said.member.as_str(), said.view.version.as_deref().unwrap_or("unknown")))
        .filter(|(_, version)| *version != own)
        .map(|(member, version)| format!("{member} has {version}"))
        .collect();
    match (said.is_empty(), others.is_empty()) {
        (true, _) => None,
        (_, true) => Some(Finding::good("versions", format!("{own} on all that answered"))),
        (_, false) => Some(Finding::warning(
            "versions",
            format!("this is {own}; {}", others.join(", ")),
            "Bring all to the newest, the master last.",
        )),
    }
}

fn clocks(said: &[Said]) -> Option<Finding> {
    let known: Vec<_> = said.iter().filter_map(|said| Some((&said.member, said.skew_ms?))).collect();
    let (member, skew) = *known.iter().max_by_key(|(_, skew)| skew.unsigned_abs())?;
    let found = format!("furthest from this one is {member}, by {:+.1} s", skew as f64 / 1000.0);
    if skew.unsigned_abs() <= SKEW_MS {
        return Some(Finding::good("clocks", found));
    }
    let advice = "Nothing that keeps data safe depends on it, but times in logs, events and history won't fit together: set the clocks \
                  (NTP, w32time).";
    Some(Finding::warning("clocks", found, advice))
}

/// Whether all machines have the same times as this one's file.
fn timing(own: MemberTiming, said: &[Said]) -> Option<Finding> {
    let known: Vec<_> = said.iter().filter_map(|said| Some((&said.member, said.view.timing?))).collect();
    if known.is_empty() {
        return None;
    }
    let differences = |theirs: &MemberTiming| -> Vec<String> {
        [
            ("timing.heartbeat", theirs.heartbeat_ms, own.heartbeat_ms),
            ("timing.lease", theirs.lease_ms, own.lease_ms),
            ("timing.drift_margin", theirs.drift_margin_ms, own.drift_margin_ms),
            ("timing.sync_timeout", theirs.sync_timeout_ms, own.sync_timeout_ms),
        ]
        .into_iter()
        .filter(|(_, theirs, own)| theirs != own)
        .map(|(name, theirs, own)| format!("{name} {theirs} ms, {own} ms in this file"))
        .collect()
    };
    let differing: Vec<_> = known
        .iter()
        .map(|(member, theirs)| (member, differences(theirs)))
        .filter(|(_, differences)| !differences.is_empty())
        .map(|(member, differences)| format!("{member} runs with {}", differences.join(", ")))
        .collect();
    if differing.is_empty() {
        return Some(Finding::good("timing", "the same on all that answered"));
    }
    let advice = "Nothing is lost or read stale by it, but leases are as short as the voters promise and failover is slower than it need be: \
                  give all machines the same [timing] and restart them one after the other.";
    Some(Finding::warning("timing", differing.join("; "), advice))
}

fn one_master(said: &[Said]) -> Option<Finding> {
    let mut masters: Vec<_> = said.iter().filter_map(|said| said.view.master.clone()).collect();
    masters.sort();
    masters.dedup();
    let first = said.first()?;
    Some(match masters.as_slice() {
        [] => Finding::warning("master", "none now", "See `tanist status` for whom the cluster waits."),
        [master] => {
            let notice = first.view.notice.as_ref();
            let found = format!("{master}, term {}", first.view.term);
            match notice {
                None => Finding::good("master", found),
                Some(notice) => {
                    Finding::warning("master", format!("{found}; {notice}"), "See `tanist status`.")
                }
            }
        }
        several => Finding::warning(
            "master",
            format!("machines name several: {}", several.join(", ")),
            "That is so for a moment after a change; if it stays, machines don't hear each other: see the peers above.",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    fn said(member: &str, change: impl FnOnce(&mut Cluster)) -> Said {
        let mut view = crate::view::View::default().cluster;
        view.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        change(&mut view);
        Said { member: member.to_owned(), view, skew_ms: Some(0) }
    }

    #[test]
    fn answers_that_do_not_fit_together_are_told() {
        let good = said("pc-2", |view| view.master = Some("pc-1".to_owned()));
        let other =
            Said { skew_ms: Some(-90_000), ..said("pc-3", |view| view.version = Some("0.0.9".to_owned())) };
        let all = [good, other];
        assert_eq!(versions(&all[..1]).unwrap().verdict, Verdict::Good);
        assert!(versions(&all).unwrap().found.contains("pc-3 has 0.0.9"));
        assert_eq!(clocks(&all[..1]).unwrap().verdict, Verdict::Good);
        assert!(clocks(&all).unwrap().found.contains("pc-3, by -90.0 s"));
        assert_eq!(one_master(&all).unwrap().verdict, Verdict::Good, "who doesn't know names none");
        let torn = [
            said("a", |view| view.master = Some("a".into())),
            said("b", |view| view.master = Some("b".into())),
        ];
        assert!(one_master(&torn).unwrap().found.contains("several: a, b"));
        assert_eq!(one_master(&[said("a", |_| {})]).unwrap().verdict, Verdict::Warning);
        let own =
            MemberTiming { heartbeat_ms: 100, lease_ms: 1000, drift_margin_ms: 50, sync_timeout_ms: 1000 };
        let same = said("a", |view| view.timing = Some(own));
        let longer = said("b", |view| view.timing = Some(MemberTiming { lease_ms: 5000, ..own }));
        assert_eq!(timing(own, &[same]).unwrap().verdict, Verdict::Good);
        let finding = timing(own, &[longer]).unwrap();
        assert!(
            finding.found.contains("b runs with timing.lease 5000 ms, 1000 ms in this file"),
            "{finding:?}"
        );
        assert_eq!(timing(own, &[said("c", |_| {})]), None, "an earlier program doesn't say");
        assert_eq!((versions(&[]), clocks(&[]), one_master(&[])), (None, None, None));
    }

    #[test]
    fn majority_counts_this_machine() {
        assert_eq!(majority(2, 3).verdict, Verdict::Good);
        assert_eq!(majority(1, 3).verdict, Verdict::Bad);
        assert_eq!(majority(2, 4).verdict, Verdict::Bad);
    }
}
