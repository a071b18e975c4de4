//! `tanist divergence`: what replicas held that the cluster didn't, saved before it was replaced (R12).

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use tanist_store::{DivergenceReport, PAGES_FILE, ROWS_FILE, divergence_directory, divergence_reports};

use super::table;

#[derive(Debug, Args)]
pub(super) struct DivergenceArgs {
    #[command(subcommand)]
    command: DivergenceCommand,
}

#[derive(Debug, Subcommand)]
enum DivergenceCommand {
    /// Show the reports in this machine's data directory, oldest first.
    List {
        /// The data directory.
        #[arg(long, default_value = "data")]
        dir: PathBuf,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Print a report's rows as SQL: what only this machine held as INSERTs, what differs as comments.
    Export {
        /// The report's name, or `latest`.
        report: String,
        /// The data directory.
        #[arg(long, default_value = "data")]
        dir: PathBuf,
        /// The facts as JSON instead of the rows.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn divergence(args: &DivergenceArgs) -> anyhow::Result<()> {
    match &args.command {
        DivergenceCommand::List { dir, json } => {
            let reports = reports(dir)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&reports)?);
            } else {
                print!("{}", text(dir, &reports));
            }
            Ok(())
        }
        DivergenceCommand::Export { report, dir, json } => {
            let reports = reports(dir)?;
            let found = match report.as_str() {
                "latest" => reports.last(),
                id => reports.iter().find(|report| report.id == id),
            };
            let Some(found) = found else {
                bail!(
                    "no report {report} in {}; `tanist divergence list` shows those there are",
                    dir.display()
                );
            };
            export(dir, found, *json)
        }
    }
}

fn reports(dir: &Path) -> anyhow::Result<Vec<DivergenceReport>> {
    if !dir.is_dir() {
        bail!("{} is no directory; --dir names the machine's data directory", dir.display());
    }
    Ok(divergence_reports(dir)?)
}

fn text(dir: &Path, reports: &[DivergenceReport]) -> String {
    if reports.is_empty() {
        return format!("No divergence reports in {}.\n", dir.display());
    }
    let headings =
        ["report", "member", "held", "in common", "replaced pages", "rows only here", "rows changed"]
            .map(str::to_owned);
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            let sum = |of: fn(&tanist_store::TableDifference) -> u64| {
                report.tables.iter().map(of).sum::<u64>().to_string()
            };
            vec![
                report.id.clone(),
                report.member.clone(),
                report.replica.position.clone(),
                report.common.clone(),
                report.replaced_pages.to_string(),
                sum(|table| table.only_here),
                sum(|table| table.changed),
            ]
        })
        .collect();
    table::layout(&headings, &rows)
}

fn export(dir: &Path, report: &DivergenceReport, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let directory = divergence_directory(dir, &report.id);
    let path = directory.join(ROWS_FILE);
    let mut rows = match File::open(&path) {
        Ok(rows) => rows,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "rows are {}; the replaced pages are in {}",
                report.rows,
                directory.join(PAGES_FILE).display()
            );
        }
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    let mut out = io::stdout().lock();
    io::copy(&mut rows, &mut out).and_then(|_| out.flush()).context(path.display().to_string())
}
