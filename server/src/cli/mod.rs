//! The command line: arguments, output for people and for programs, exit codes.
//!
//! Owns no logic of a machine or a cluster: `run` and `dev` are in `commands/`, the others talk through the client crate.

mod bench;
mod init;
mod sql;
mod status;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tanist_client::Client;

use crate::commands::{self, DevOptions};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no machine could serve the request; 4 the outcome of a write is unknown.";

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
    /// Show who reigns, who follows, and who lags.
    Status(Connection),
    /// Run SQL that writes, as one transaction.
    Execute(sql::ExecuteArgs),
    /// Run SQL that reads.
    Query(sql::QueryArgs),
    /// Load a running cluster and measure it.
    Bench(bench::BenchArgs),
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

/// How to reach a cluster.
#[derive(Debug, Args)]
struct Connection {
    /// Some of its machines: `a:8080,b:8080`.
    #[arg(long, env = "TANIST_HOSTS", default_value = "127.0.0.1:8080")]
    hosts: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Seconds to keep trying.
    #[arg(long, default_value_t = 10)]
    deadline: u64,
}

impl Connection {
    fn client(&self) -> Result<Client, tanist_client::Error> {
        let deadline = std::time::Duration::from_secs(self.deadline);
        Client::builder().hosts(&self.hosts).deadline(deadline).build()
    }
}

/// Parses the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tanist: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run { config } => commands::run(&config).await,
            Command::Dev(args) => {
                let DevArgs { machines, dir, keep, restart, log } = args;
                commands::dev(DevOptions { machines, dir, keep, restart, log }).await
            }
            Command::Init(args) => init::init(&args),
            Command::Status(connection) => status::status(&connection).await,
            Command::Execute(args) => sql::execute(&args).await,
            Command::Query(args) => sql::query(&args).await,
            Command::Bench(args) => bench::bench(&args).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tanist: {error:#}");
            let code = match error.downcast_ref::<tanist_client::Error>() {
                Some(tanist_client::Error::Hosts(_)) => 2,
                Some(tanist_client::Error::Unavailable { .. }) => 3,
                Some(tanist_client::Error::OutcomeUnknown { .. }) => 4,
                _ => 1,
            };
            ExitCode::from(code)
        }
    }
}
