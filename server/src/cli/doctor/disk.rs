//! What `tanist doctor` asks of disks, in a process of its own: the kernel keeps a process that waits for a disk that doesn't
//! answer, and the one that an operator has started must end.
//!
//! Owns how the two talk: a line of JSON for each finding, as soon as it is there. Read `machine.rs` for what is asked.

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use super::{Finding, machine};
use crate::config::Config;

/// So long a disk may take for anything that it is asked.
const DISK_TIME: Duration = Duration::from_secs(10);

/// What was found of disks.
pub(super) struct Disks {
    /// Whether a machine runs on the data directory, or may.
    pub(super) runs: bool,
    pub(super) findings: Vec<Finding>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Known to the first one alone.
    runs: Option<bool>,
    finding: Option<Finding>,
}

/// The other process: looks at one thing after the other.
pub(super) fn tell(config: &Config) -> anyhow::Result<()> {
    let say = |runs, finding| -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(&Line { runs, finding })?);
        Ok(())
    };
    let (runs, finding) = machine::process(config);
    say(Some(runs), Some(finding))?;
    say(None, Some(machine::room(config)))?;
    say(None, Some(machine::sync(config)))?;
    say(None, machine::copies(config))
}

/// What is asked, one after the other, and of which directory.
fn questions(config: &Config) -> [(&'static str, &Path, &'static str); 4] {
    let data = config.data_dir.as_path();
    let copies = config.backup.as_ref().map_or(data, |backup| &backup.directory);
    [
        ("data directory", data, "whether a machine runs on it"),
        ("room", data, "how much is free"),
        ("sync", data, "a sync"),
        ("copies", copies, "whether copies can be written"),
    ]
}

/// Asks the other process, and waits for none of its answers longer than a disk may take.
pub(super) async fn ask(file: &Path, config: &Config) -> Disks {
    let mut disks = Disks { runs: true, findings: vec![] };
    let program = std::env::current_exe().unwrap_or_else(|_| "tanist".into());
    let mut command = Command::new(program);
    command.args(["doctor", "--disks", "--config"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let advice = "This program must be able to start itself.";
            disks.findings.push(Finding::bad("data directory", error.to_string(), advice));
            return disks;
        }
    };
    let Some(output) = child.stdout.take() else { return disks };
    let mut lines = BufReader::new(output).lines();
    for (check, directory, asked) in questions(config) {
        let finding = match timeout(DISK_TIME, lines.next_line()).await {
            Ok(Ok(Some(line))) => match serde_json::from_str::<Line>(&line) {
                Ok(line) => {
                    disks.runs = line.runs.unwrap_or(disks.runs);
                    line.finding
                }
                Err(error) => Some(Finding::bad(check, format!("{line:?}: {error}"), "Try again.")),
            },
            Ok(_) => Some(Finding::bad(check, "the process that looks at disks has ended", "Try again.")),
            Err(_) => {
                disks.findings.push(unanswered(check, directory, asked));
                // It ends when the disk answers.
                let _ = child.start_kill();
                return disks;
            }
        };
        disks.findings.extend(finding);
    }
    disks
}

fn unanswered(check: &'static str, directory: &Path, asked: &str) -> Finding {
    let found =
        format!("the disk of {} hasn't answered {asked} for {} s", directory.display(), DISK_TIME.as_secs());
    let advice = "Look at that disk, its cable and the system's log: a machine whose disk doesn't answer leaves its role to another.";
    Finding::bad(check, found, advice)
}
