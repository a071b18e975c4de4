//! The command line: arguments, output for people and for programs, exit codes.
//!
//! Owns no logic of a machine or a cluster: `run` and `dev` are in `commands/`, the others talk through the client crate.

mod adopt;
mod agent;
mod audit;
mod backup;
mod bench;
mod command;
mod config;
#[cfg(feature = "discovery")]
mod discover;
mod divergence;
mod doctor;
mod handover;
mod init;
mod key;
mod members;
mod node;
mod options;
mod recover;
mod restore;
mod service;
mod sql;
mod status;
mod table;
mod token;
mod upgrade;
mod verify;
mod watch;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tanist_client::{Builder, Client};
use tanist_windows::one_line::one_line;

use crate::{
    causes::in_words,
    commands::{self, DevOptions, Host},
    config::Config,
    end_notice,
    hooks::guard::{self, ChildOptions, GuardOptions},
};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no machine could serve the request; 4 what was asked for may have been done.";

/// What a shell makes of a program that SIGPIPE has ended.
const EXIT_NOBODY_READS: i32 = 141;

/// A primary-backup replicated SQLite master for small groups of machines.
#[derive(Debug, Parser)]
#[command(name = "tanist", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this machine, as its configuration file says.
    Run {
        /// The configuration file.
        #[arg(long, default_value = "tanist.toml")]
        config: PathBuf,
    },
    /// Run a whole cluster on this computer, for trying out.
    Dev(DevArgs),
    /// Write a commented tanist.toml and a new cluster key.
    Init(init::InitArgs),
    /// Check this machine and its way to the others, and say what to do: ports, disk, clock, peers, versions, programs.
    Doctor(doctor::DoctorArgs),
    /// Show who reigns, who follows, and who lags.
    Status(status::StatusArgs),
    /// List the clusters on the local network, as far as their machines say that they are there.
    #[cfg(feature = "discovery")]
    Discover(discover::DiscoverArgs),
    /// Run SQL that writes, as one transaction.
    Execute(sql::ExecuteArgs),
    /// Run SQL that reads.
    Query(sql::QueryArgs),
    /// Print what changes as it happens, and go on at another machine when one fails.
    Watch(watch::WatchArgs),
    /// List, add or remove tables whose rows are told to watchers.
    WatchedTables(watch::TablesArgs),
    /// Read and change the configuration that the cluster keeps.
    Config(config::ConfigArgs),
    /// Show, add, change or remove managed machines, what they shall have and what they say they have.
    Node(node::NodeArgs),
    /// Send commands to managed machines and see what becomes of them.
    #[command(name = "command")]
    Commands(command::CommandArgs),
    /// Hand the throne to a machine, without a failed request.
    Promote(handover::PromoteArgs),
    /// Take the throne from the master, without a failed request: its heir follows.
    Demote(handover::DemoteArgs),
    /// Show, add, change or remove machines, while the cluster serves.
    Members(members::MembersArgs),
    /// Show how far an upgrade of the machines is, and hold back its last step.
    Upgrade(upgrade::UpgradeArgs),
    /// Make, show and revoke the tokens by which clients are known.
    Token(token::TokenArgs),
    /// Change the cluster's key while the cluster serves.
    Key(key::KeyArgs),
    /// Write out who has changed what by SQL.
    Audit(audit::AuditArgs),
    /// Keep a managed node at its desired state: runs on the node, calls your program, reports what came of it.
    Agent(agent::AgentArgs),
    /// Let this computer's data directory keep its machine's name, where it was moved, copied or set back.
    Adopt(adopt::AdoptArgs),
    /// Go on without a majority that is gone for good: on a stopped machine, by an operator's word.
    Recover(recover::RecoverArgs),
    /// Fetch a copy of the whole database from a running cluster.
    Backup(backup::BackupArgs),
    /// Check a copy, or the database of a stopped machine, and show what it holds.
    Verify(verify::VerifyArgs),
    /// Make a copy the first database of a new cluster.
    Restore(restore::RestoreArgs),
    /// Show or print what this machine held that the cluster didn't, saved before it was replaced.
    Divergence(divergence::DivergenceArgs),
    /// Let the operating system start this machine at boot: systemd, or the service manager of Windows.
    Service(service::ServiceArgs),
    /// Print a script that completes these commands in a shell: bash, zsh, fish, elvish or powershell.
    Completions {
        /// For which.
        shell: clap_complete::Shell,
    },
    /// Load a running cluster and measure it.
    Bench(bench::BenchArgs),
    /// Watch over the service of a machine; started by `run` alone.
    #[command(hide = true)]
    ServiceGuard(GuardOptions),
    /// Tell the other machines when the process that started this one has ended; started by `run` alone.
    #[command(hide = true)]
    EndNotice,
    /// Become the service, and end with its guard; started by the guard alone.
    #[command(hide = true)]
    ServiceChild(ChildOptions),
}

#[derive(Debug, Args)]
struct DevArgs {
    /// How many machines, 1 to 9.
    #[arg(long, default_value_t = 3)]
    machines: usize,
    /// Where their data goes; kept. Default: a temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the temporary directory.
    #[arg(long)]
    keep: bool,
    /// Start a machine again 2 s after it ended.
    #[arg(long)]
    restart: bool,
    /// Log filter of the machines.
    #[arg(long, default_value = "info")]
    log: String,
}

/// A combination of arguments that makes no sense; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// By which certificates machines are known, and this client to them.
#[derive(Debug, Args)]
struct Certificates {
    /// Certificates (PEM) of the authority that has signed the machines', for https:// hosts.
    #[arg(long, env = "TANIST_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// This client's certificate (PEM), where the machines ask for one.
    #[arg(long, env = "TANIST_CLIENT_CERT", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "TANIST_CLIENT_KEY", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl Certificates {
    fn give(&self, mut builder: Builder) -> anyhow::Result<Builder> {
        let read = |name: &str, path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("{name}: read {}", path.display()))
        };
        if let Some(path) = &self.ca_file {
            builder = builder.ca_pem(&read("--ca-file", path)?)?;
        }
        if let (Some(cert), Some(key)) = (&self.client_cert, &self.client_key) {
            builder = builder.identity_pem(&read("--client-cert", cert)?, &read("--client-key", key)?)?;
        }
        Ok(builder)
    }
}

/// How to reach a cluster.
#[derive(Debug, Args)]
struct Connection {
    /// Some of its machines: `a:8080,b:8080`. Default: those of --config, or else 127.0.0.1:8080.
    #[arg(long, env = "TANIST_HOSTS")]
    hosts: Option<String>,
    /// A token, where the cluster wants one.
    #[arg(long, env = "TANIST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The configuration file of a machine of the cluster: it says where the machines are and by which authority they are known, and
    /// its cluster key, which is proved and never sent, allows everything.
    #[arg(long, conflicts_with = "token")]
    config: Option<PathBuf>,
    #[command(flatten)]
    certificates: Certificates,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Seconds to keep trying.
    #[arg(long, default_value_t = 10)]
    deadline: u64,
}

impl Connection {
    /// A client of one cluster: hosts of two are refused by name.
    async fn client(&self) -> anyhow::Result<Client> {
        let client = self.builder()?.build()?;
        if client.known_hosts().len() > 1 {
            client.check_hosts(CHECK_TIME).await?;
        }
        Ok(client)
    }

    /// Where the machines are.
    fn hosts(&self) -> anyhow::Result<String> {
        match &self.config {
            Some(path) => hosts_of(&Config::load(path)?, path, self.hosts.as_deref()),
            None => Ok(self.hosts.clone().unwrap_or_else(|| "127.0.0.1:8080".to_owned())),
        }
    }

    fn builder(&self) -> anyhow::Result<Builder> {
        let deadline = std::time::Duration::from_secs(self.deadline);
        let mut builder = Client::builder().hosts(&self.hosts()?).deadline(deadline);
        let config = self.config.as_ref().map(|path| Config::load(path)).transpose()?;
        if let (None, Some(config)) = (&self.certificates.ca_file, &config) {
            builder = believing(builder, config)?;
        }
        builder = self.certificates.give(builder)?;
        Ok(match (&config, &self.token) {
            (Some(config), _) => builder.cluster(config.cluster.as_str()).operator(config.operator_key()),
            (None, Some(token)) => builder.token(token.trim())?,
            (None, None) => builder,
        })
    }
}

/// So long is waited for hosts that are asked to which cluster they belong.
const CHECK_TIME: std::time::Duration = std::time::Duration::from_millis(300);

/// The machines that a configuration names, or those of them that are asked for: what proves the cluster key goes nowhere else, and not
/// without TLS where there is TLS.
fn hosts_of(config: &Config, path: &std::path::Path, asked: Option<&str>) -> anyhow::Result<String> {
    let known = config.client_urls();
    let Some(asked) = asked else {
        if known.is_empty() {
            let why = "no https:// URL in a [[member]], expected one: there is [tls]";
            return Err(Usage(format!("--config {}: found {why}", path.display())).into());
        }
        return Ok(known.join(","));
    };
    let scheme = if config.tls.is_some() { "https://" } else { "http://" };
    let host =
        |text: &str| text.rsplit("://").next().unwrap_or(text).trim_end_matches('/').to_ascii_lowercase();
    let mut hosts = vec![];
    for one in asked.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        let found = known.iter().find(|url| host(url) == host(one));
        let fits = !one.contains("://")
            || found.is_some_and(|url| url.trim_end_matches('/') == one.trim_end_matches('/'));
        match found {
            Some(url) if fits => hosts.push(url.clone()),
            _ => {
                let why = format!(
                    "--hosts: found {one:?}, expected machines of {} ({}), whose cluster key is proved to no others; speaking {scheme}",
                    path.display(),
                    known.join(", ")
                );
                return Err(Usage(why).into());
            }
        }
    }
    Ok(hosts.join(","))
}

/// By which authority the machines of a configuration are known.
fn believing(builder: Builder, config: &Config) -> anyhow::Result<Builder> {
    let Some(tls) = &config.tls else { return Ok(builder) };
    let (field, path) = match &tls.ca_file {
        Some(path) => ("tls.ca_file", path),
        None => ("tls.cert_file", &tls.cert_file),
    };
    let pem = std::fs::read(path).with_context(|| format!("{field}: read {}", path.display()))?;
    Ok(builder.ca_pem(&pem)?)
}

/// Ends quietly when nobody reads on, as with `tanist status --watch | head`: there is nobody to tell. `print!` has no other way
/// of saying so than a panic.
fn end_when_nobody_reads() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("pipe") {
            std::process::exit(EXIT_NOBODY_READS);
        }
        others(panic);
    }));
}

/// Parses the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    end_when_nobody_reads();
    if let Command::ServiceChild(options) = &cli.command {
        eprintln!("tanist: {}", guard::become_service(options));
        return ExitCode::FAILURE;
    }
    if let Command::EndNotice = &cli.command {
        return end(end_notice::run());
    }
    if let Command::Service(args) = &cli.command
        && service::is_run(args)
    {
        return end(service::service(args));
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(error)),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run { config } => commands::run(&config, Host::process()).await,
            Command::Dev(args) => {
                let DevArgs { machines, dir, keep, restart, log } = args;
                commands::dev(DevOptions { machines, dir, keep, restart, log }).await
            }
            Command::Init(args) => init::init(&args).await,
            Command::Doctor(args) => doctor::doctor(&args).await,
            Command::Status(args) => status::status(&args).await,
            #[cfg(feature = "discovery")]
            Command::Discover(args) => discover::discover(&args).await,
            Command::Execute(args) => sql::execute(&args).await,
            Command::Query(args) => sql::query(&args).await,
            Command::Watch(args) => watch::watch(&args).await,
            Command::WatchedTables(args) => watch::tables(&args).await,
            Command::Config(args) => config::config(&args).await,
            Command::Node(args) => node::node(&args).await,
            Command::Commands(args) => command::command(&args).await,
            Command::Promote(args) => handover::promote(&args).await,
            Command::Demote(args) => handover::demote(&args).await,
            Command::Members(args) => members::members(&args).await,
            Command::Upgrade(args) => upgrade::upgrade(&args).await,
            Command::Agent(args) => agent::agent(&args).await,
            Command::Token(args) => token::token(&args).await,
            Command::Key(args) => key::key(&args).await,
            Command::Audit(args) => audit::audit(&args).await,
            Command::Adopt(args) => adopt::adopt(&args),
            Command::Recover(args) => recover::recover(&args),
            Command::Backup(args) => backup::backup(&args).await,
            Command::Verify(args) => verify::verify(&args),
            Command::Restore(args) => restore::restore(&args),
            Command::Divergence(args) => divergence::divergence(&args),
            Command::Service(args) => service::service(&args),
            Command::Completions { shell } => {
                let mut script = vec![];
                clap_complete::generate(shell, &mut Cli::command(), "tanist", &mut script);
                std::io::stdout().write_all(&script).context("write the script")
            }
            Command::Bench(args) => bench::bench(&args).await,
            Command::ServiceGuard(options) => guard::run(options).await,
            Command::ServiceChild(_) | Command::EndNotice => Ok(()),
        }
    });
    // What waits for a disk that doesn't answer isn't waited for.
    runtime.shutdown_background();
    end(result)
}

/// What HTTP and the commands run on.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("start the runtime")
}

/// The exit code, and what is said about it.
fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It may quote what others have written, and a service's goes to its log.
            eprintln!("tanist: {}", one_line(&in_words(&error)));
            let (code, advice) = verdict(&error);
            if let Some(advice) = advice {
                eprintln!("{advice}");
            }
            ExitCode::from(code)
        }
    }
}

/// Exit code, and what to do about it.
fn verdict(error: &anyhow::Error) -> (u8, Option<String>) {
    use tanist_client::{Error, api::code};
    if error.is::<Usage>() {
        return (2, Some("See `tanist help` and `tanist help <command>`.".to_owned()));
    }
    match error.downcast_ref::<Error>() {
        Some(
            Error::Hosts(_)
            | Error::Key(_)
            | Error::Token { .. }
            | Error::Certificate(_)
            | Error::OtherCluster { .. },
        ) => (2, None),
        Some(Error::Problem(problem)) if problem.code == code::UNAUTHORIZED => {
            let advice = "The cluster wants a token: --token or TANIST_TOKEN, or on one of its machines --config tanist.toml.";
            (1, Some(advice.to_owned()))
        }
        Some(Error::Unavailable { .. }) => {
            let advice = "Nothing was done. Do the machines run, and are these their addresses (--hosts or TANIST_HOSTS)? `tanist status` asks any of them.";
            (3, Some(advice.to_owned()))
        }
        Some(Error::OutcomeUnknown { key, .. }) => {
            let advice = format!(
                "The write may or may not have been done. The same command with `--key {key}` settles it and never does it twice."
            );
            (4, Some(advice))
        }
        Some(Error::Unconfirmed { .. }) => {
            let advice = "`tanist status` shows what has become of it; --deadline waits longer.";
            (4, Some(advice.to_owned()))
        }
        Some(Error::Problem(problem)) if problem.code == tanist_client::api::code::PRECONDITION_FAILED => {
            let advice = "Somebody else was first. Look at what is so now, and decide again.";
            (1, Some(advice.to_owned()))
        }
        _ => (1, None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tanist_client::Error;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn failures_have_the_documented_exit_codes() {
        let deadline = Duration::from_secs(1);
        let (key, last) = ("k-1".to_owned(), String::new());
        let unknown = anyhow::Error::from(Error::OutcomeUnknown { key, deadline, last: last.clone() });
        let (code, advice) = verdict(&unknown);
        assert!(code == 4 && advice.unwrap().contains("--key k-1"));
        let unconfirmed = anyhow::Error::from(Error::Unconfirmed { deadline, last: last.clone() });
        let (code, advice) = verdict(&unconfirmed);
        assert!(code == 4 && advice.unwrap().contains("tanist status"));
        let nobody: Result<(), _> = Err(Error::Unavailable { deadline, tried: String::new(), last });
        assert_eq!(verdict(&nobody.context("while filling").unwrap_err()).0, 3);
        assert_eq!(verdict(&Usage("x".into()).into()).0, 2);
        assert_eq!(verdict(&Error::Hosts("x".into()).into()).0, 2);
        assert_eq!(verdict(&anyhow::anyhow!("x")).0, 1);
    }
}
