//! `tanist doctor`: whether this machine can do its work, and reaches the others; and what to do where not.
//!
//! Owns the list of findings. Changes no data: it writes files of its own to measure the disk and to try directories, and deletes
//! them; for a moment it takes the data directory's lock, with its process id, as a machine would. Read `machine.rs` for what is
//! looked at here, `disk.rs` for how disks are asked, `peers.rs` for the others.

mod disk;
mod machine;
mod peers;

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Certificates, table};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// This machine's configuration file.
    #[arg(long, default_value = "tanist.toml")]
    config: PathBuf,
    #[command(flatten)]
    certificates: Certificates,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Only what concerns disks, a line each; started by `doctor` alone.
    #[arg(long, hide = true)]
    disks: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Good,
    /// It works, or may work soon.
    Warning,
    /// This machine, or the cluster, can't work so.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Finding {
    /// What.
    check: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn good(check: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding { check: check.into(), verdict: Verdict::Good, found: found.into(), advice: None }
    }

    fn warning(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        let advice = Some(advice.into());
        Finding { check: check.into(), verdict: Verdict::Warning, found: found.into(), advice }
    }

    fn bad(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Bad, ..Finding::warning(check, found, advice) }
    }
}

pub(super) async fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    if args.disks {
        return disk::tell(&Config::parse(&args.config, &Config::read(&args.config)?)?);
    }
    let mut findings = vec![];
    // What others may read is a finding of its own below.
    match Config::read(&args.config).and_then(|text| Config::parse(&args.config, &text)) {
        Err(error) => {
            findings.push(Finding::bad(
                "configuration",
                error.to_string(),
                "Put it right, or let `tanist init` write a new one.",
            ));
        }
        Ok(config) => {
            let found = format!("{} is {} of {}", args.config.display(), config.id, config.cluster);
            findings.push(Finding::good("configuration", found));
            findings.extend(machine::look(&args.config, &config).await?);
            findings.extend(peers::look(&config, &args.certificates).await?);
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (bad, warnings) = (count(Verdict::Bad), count(Verdict::Warning));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "findings": findings }))?);
    } else {
        print!("{}", text(&findings));
        println!();
        match (bad, warnings) {
            (0, 0) => println!("All is well."),
            (0, _) => println!("It works; {warnings} to look at."),
            _ => {}
        }
    }
    if bad > 0 {
        bail!("{bad} of {} checks failed, {warnings} more to look at", findings.len());
    }
    Ok(())
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "look",
            Verdict::Bad => "FAIL",
        };
        let (check, found) = (&finding.check, table::safe(&finding.found));
        text += &format!("{word:4}  {check:width$}  {found}\n");
        if let Some(advice) = &finding.advice {
            text += &format!("{:4}  {:width$}  -> {}\n", "", "", table::safe(advice));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_aligned_and_advice_stands_below() {
        let findings = [
            Finding::good("disk", "fast"),
            Finding::bad("peer pc-2", "10.0.0.2:7450: refused\u{1b}[2J", "Start it."),
        ];
        assert_eq!(
            text(&findings),
            "ok    disk       fast\n\
             FAIL  peer pc-2  10.0.0.2:7450: refused\\u{1b}[2J\n                 -> Start it.\n"
        );
        assert!(Verdict::Good < Verdict::Warning && Verdict::Warning < Verdict::Bad);
    }
}
