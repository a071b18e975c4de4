//! `tanist service`: a machine that the operating system starts at boot and ends at shutdown.
//!
//! Owns the arguments and what is shown; `linux.rs` speaks with systemd, `windows.rs` with the service manager of Windows.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod unit;
#[cfg(windows)]
mod windows;

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use tanist_windows::firewall::{self, Firewall};

use super::Usage;
use crate::config::Config;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

#[cfg(windows)]
const DEFAULT_NAME: &str = "Tanist";
#[cfg(not(windows))]
const DEFAULT_NAME: &str = "tanist";

#[cfg(windows)]
const DEFAULT_CONFIG: &str = r"C:\ProgramData\Tanist\tanist.toml";
#[cfg(not(windows))]
const DEFAULT_CONFIG: &str = "/etc/tanist/tanist.toml";

/// On Linux the user, on Windows the account.
#[cfg(windows)]
const ACCOUNT_HELP: &str = "As whom it runs: a built-in account such as \"LocalSystem\", or by default a virtual one, \"NT SERVICE\\\\\" and its name";
#[cfg(not(windows))]
const ACCOUNT_HELP: &str = "As whom it runs; made if there is none of that name [default: tanist]";

#[derive(Debug, Args)]
pub(super) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Args)]
struct Name {
    /// The service's name; several machines of different clusters may run on one computer.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
}

#[derive(Debug, Args)]
struct Setup {
    #[command(flatten)]
    name: Name,
    /// The machine's configuration file.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    #[arg(long, help = ACCOUNT_HELP)]
    account: Option<String>,
    /// Windows: believe what stands in a folder below ProgramData although it isn't administrators', or nobody can say whose it is.
    #[arg(long)]
    trust_folder: bool,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Let the system start this machine at every boot, and again when it fails. May be repeated, to change something.
    Install {
        #[command(flatten)]
        install: Setup,
        /// Start it now, too.
        #[arg(long)]
        start: bool,
        /// Print what would be written, and change nothing.
        #[arg(long)]
        print: bool,
    },
    /// Print what `install` would write: the unit of systemd, or the settings of the service on Windows.
    Unit(Setup),
    /// Windows: let the firewall pass the other machines, by their addresses, and clients. To be repeated when machines come or move.
    Firewall {
        /// The machine's configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// In which kinds of networks: private, domain, public, with commas between, or any.
        #[arg(long, default_value = "private", value_parser = firewall::profile)]
        profile: String,
    },
    /// Start it, and wait until it takes part.
    Start(Name),
    /// Stop it, and wait until it has handed over and ended.
    Stop(Name),
    /// Stop it, and don't start it at boot any more. Configuration and data stay.
    Uninstall(Name),
    /// Show whether it is installed and runs.
    Status {
        #[command(flatten)]
        name: Name,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Be the service; started by the service manager of Windows alone.
    #[command(hide = true)]
    Run {
        #[command(flatten)]
        name: Name,
        /// The machine's configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

/// How a service is, as `status --json` prints it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ServiceStatus {
    /// Its name.
    name: String,
    /// Whether the system knows it.
    installed: bool,
    /// `running`, `starting`, `stopping`, `stopped`, `failed`, or what else the system says; `none` if not installed.
    state: String,
    /// Whether it is started at boot.
    at_boot: bool,
    /// The process, while there is one.
    pid: Option<u32>,
}

/// Whether the command must have the process to itself, before there is a runtime.
pub(super) fn is_run(args: &ServiceArgs) -> bool {
    matches!(args.command, ServiceCommand::Run { .. })
}

/// Does what the arguments say. Blocks.
pub(super) fn service(args: &ServiceArgs) -> anyhow::Result<()> {
    match &args.command {
        ServiceCommand::Install { install, start, print } => {
            let plan = plan(install)?;
            if *print {
                return system::print(&plan);
            }
            system::install(&plan)?;
            println!("Service {} is installed: it starts at boot.", plan.name);
            let argument = name_argument(&plan.name);
            if system::status(&plan.name)?.pid.is_some() {
                println!(
                    "It runs already; what has changed it takes over when it is started again: `tanist service stop{argument}`, \
                     `tanist service start{argument}`."
                );
            } else if *start {
                system::start(&plan.name)?;
                println!("It runs.");
            } else {
                println!("`tanist service start{argument}` starts it now.");
            }
            Ok(())
        }
        ServiceCommand::Unit(install) => system::print(&plan(install)?),
        ServiceCommand::Firewall { config, profile } => {
            system::firewall(&opened(&Config::load(config)?, profile)?)
        }
        ServiceCommand::Start(name) => {
            system::start(checked(&name.name)?)?;
            println!("{} runs.", name.name);
            Ok(())
        }
        ServiceCommand::Stop(name) => {
            system::stop(checked(&name.name)?)?;
            println!("{} has stopped.", name.name);
            Ok(())
        }
        ServiceCommand::Uninstall(name) => {
            system::uninstall(checked(&name.name)?)?;
            println!("Service {} is removed. Configuration and data are left as they are.", name.name);
            Ok(())
        }
        ServiceCommand::Status { name, json } => {
            let status = system::status(checked(&name.name)?)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                print!("{}", text(&status));
            }
            Ok(())
        }
        ServiceCommand::Run { name, config } => system::run(checked(&name.name)?, config),
    }
}

/// What is to be installed, checked.
struct Plan {
    name: String,
    /// Absolute.
    file: PathBuf,
    config: Config,
    /// This program.
    program: PathBuf,
    account: Option<String>,
    /// See [`Setup::trust_folder`].
    #[cfg_attr(not(windows), expect(dead_code))]
    trust_folder: bool,
}

fn plan(install: &Setup) -> anyhow::Result<Plan> {
    let name = checked(&install.name.name)?.to_owned();
    let file = std::path::absolute(&install.config)
        .with_context(|| format!("--config: {}", install.config.display()))?;
    // A service that can't start is found here, and not at the next boot.
    let config = Config::load(&file)?;
    let program = std::env::current_exe().context("find this program")?;
    let (account, trust_folder) = (install.account.clone(), install.trust_folder);
    Ok(Plan { name, file, config, program, account, trust_folder })
}

/// What the firewall has to let in for this machine.
fn opened(config: &Config, profile: &str) -> anyhow::Result<Firewall> {
    let resolve = |address: &str| -> anyhow::Result<Vec<SocketAddr>> {
        Ok(address.to_socket_addrs().with_context(|| format!("resolve {address}"))?.collect())
    };
    let peer_port = resolve(&config.listen.peer)?.first().map_or(0, SocketAddr::port);
    let http = resolve(&config.listen.http)?;
    let http_port = http.iter().find(|address| !address.ip().is_loopback()).map(SocketAddr::port);
    let mut peers = vec![];
    for member in config.members.iter().filter(|member| member.id != config.id) {
        for address in &member.peer_addresses {
            peers.extend(resolve(address)?.iter().map(SocketAddr::ip));
        }
    }
    let program = std::env::current_exe().context("find this program")?.display().to_string();
    Ok(Firewall { program, peer_port, http_port, peers, profile: profile.to_owned() })
}

/// A stop hands over, lets requests end and closes the database: limits of a few seconds each, see `Server::stop`.
const STOP: Duration = Duration::from_secs(30);

/// How long a stop may take, with the user's own programs.
fn stop_time(config: &Config) -> Duration {
    STOP + config.hooks.timeout + config.service.as_ref().map_or(Duration::ZERO, |service| service.stop_time)
}

/// Directories that the machine writes to.
fn writable(config: &Config) -> Vec<&Path> {
    let mut paths = vec![config.data_dir.as_path()];
    paths.extend(config.backup.as_ref().map(|backup| backup.directory.as_path()));
    paths.extend(config.log.files.as_ref().map(|files| files.directory.as_path()));
    paths
}

/// Names end up in file names and command lines.
fn checked(name: &str) -> Result<&str, Usage> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(good) && !name.starts_with('-') {
        return Ok(name);
    }
    Err(Usage(format!("--name: found {name:?}, expected 1 to 64 letters, digits, '-' or '_'")))
}

fn name_argument(name: &str) -> String {
    if name == DEFAULT_NAME { String::new() } else { format!(" --name {name}") }
}

fn text(status: &ServiceStatus) -> String {
    if !status.installed {
        return format!("{}: not installed\n", status.name);
    }
    let process = status.pid.map_or(String::new(), |pid| format!(" (process {pid})"));
    let boot = if status.at_boot { "starts at boot" } else { "isn't started at boot" };
    format!("{}: {}{process}, {boot}\n", status.name, status.state)
}

/// Systems that have neither.
#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    use std::path::Path;

    use super::{Firewall, Plan, ServiceStatus};

    fn none<T>() -> anyhow::Result<T> {
        anyhow::bail!(
            "services are known here on Linux with systemd and on Windows; run `tanist run` by what this system has"
        )
    }
    pub(super) fn print(_: &Plan) -> anyhow::Result<()> {
        none()
    }
    pub(super) fn install(_: &Plan) -> anyhow::Result<()> {
        none()
    }
    pub(super) fn firewall(_: &Firewall) -> anyhow::Result<()> {
        none()
    }
    pub(super) fn start(_: &str) -> anyhow::Result<()> {
        none()
    }
    pub(super) fn stop(_: &str) -> anyhow::Result<()> {
        none()
    }
    pub(super) fn uninstall(_: &str) -> anyhow::Result<()> {
        none()
    }
    pub(super) fn status(_: &str) -> anyhow::Result<ServiceStatus> {
        none()
    }
    pub(super) fn run(_: &str, _: &Path) -> anyhow::Result<()> {
        none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else_to_a_system_are_refused() {
        assert!(checked("tanist-2").is_ok());
        for bad in ["", "-x", "a b", "a/b", "a\\b", "a@b", "ä", "a\n", "a.service", &"x".repeat(65)] {
            assert!(checked(bad).unwrap_err().0.contains("--name"), "{bad:?}");
        }
    }

    #[test]
    fn status_is_told_in_a_line() {
        let mut status = ServiceStatus {
            name: "tanist".into(),
            installed: true,
            state: "running".into(),
            at_boot: true,
            pid: Some(7),
        };
        assert_eq!(text(&status), "tanist: running (process 7), starts at boot\n");
        status.installed = false;
        assert_eq!(text(&status), "tanist: not installed\n");
    }
}
