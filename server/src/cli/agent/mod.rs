//! `tanist agent`: runs on a managed node, brings it to its desired state by the user's program, and reports.
//!
//! Owns the loop: signs of life go on while a program runs. The program is run at the start, whenever the desired state
//! has changed, and again with growing pauses after it failed. Read `program.rs` for how it is called.

mod program;

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};
use tanist_api::{Command, NewOutcome, OutcomeStatus, Report, Seen};
use tanist_client::{ChangeOptions, Client, CommandFilter, Part, ReadOptions};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Connection, Usage};
use crate::commands::Lines;
use program::Program;

/// Pauses after a failure: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Commands fetched at once.
const COMMANDS: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    connection: Connection,
    /// The node's name, as `tanist node list` shows it.
    #[arg(long)]
    node: String,
    /// Milliseconds between two signs of life. The master calls a node silent after `nodes.silent_after` (5 s).
    #[arg(long, default_value_t = 1000)]
    every: u64,
    /// Seconds that a program may run.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Run the program again after so many seconds without a change, to find what has drifted; 0: never.
    #[arg(long, default_value_t = 0)]
    recheck: u64,
    /// A program for commands: gets `{"id", "name", "arguments"}` on its standard input; exit code 0 is done, what it prints
    /// (JSON or text) becomes the outcome's detail. Without one, commands are left alone.
    #[arg(long)]
    on_command: Option<String>,
    /// Your program and its arguments: gets the desired state (a JSON object) on its standard input, prints the reported
    /// state (a JSON object; nothing: the same as desired). Exit code 0 is success, else its first line on standard
    /// error says why not. TANIST_NODE and TANIST_REVISION are in its environment.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

pub(super) async fn agent(args: &AgentArgs) -> anyhow::Result<()> {
    if args.every < 10 || args.timeout == 0 {
        return Err(Usage(format!(
            "--every, --timeout: found {} ms and {} s, expected at least 10 ms and 1 s",
            args.every, args.timeout
        ))
        .into());
    }
    let subscriber =
        tracing_subscriber::fmt().with_writer(Lines::to(std::io::stderr, false)).with_target(false);
    drop(subscriber.with_ansi(false).try_init());
    let client = args.connection.client().await?;
    let limit = Duration::from_secs(args.timeout);
    let (node, timeout) = (args.node.clone(), limit);
    let program =
        |arguments: &[String]| Program { arguments: arguments.to_vec(), node: node.clone(), timeout };
    let on_command = args.on_command.as_ref().map(|name| program(std::slice::from_ref(name)));
    let mut agent = Agent {
        program: program(&args.program),
        on_command,
        recheck: (args.recheck > 0).then(|| Duration::from_secs(args.recheck)),
        client: client.clone(),
        node: node.clone(),
        done: None,
        last: Map::new(),
        failed: None,
        pause: RETRY.0,
    };
    let (tell, mut seen) = watch::channel(None);
    let every = Duration::from_millis(args.every);
    let signs = tokio::spawn(give_signs(client, node, every, tell));
    tracing::info!(node = agent.node, "agent runs");
    tokio::select! {
        () = agent.run(&mut seen, every) => {}
        signal = crate::stop::stop_signal_or_hangup() => tracing::info!(signal, "agent stops"),
    }
    signs.abort();
    Ok(())
}

/// Signs of life, whatever else goes on.
async fn give_signs(client: Client, node: String, every: Duration, tell: watch::Sender<Option<Seen>>) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble: Option<String> = None;
    loop {
        ticks.tick().await;
        match client.seen(&node).await {
            Ok(seen) => {
                if trouble.take().is_some() {
                    tracing::info!("the cluster is reached again");
                }
                tell.send_replace(Some(seen));
            }
            Err(error) => {
                // Once, not with each try.
                if trouble.is_none() {
                    tracing::warn!(%error, "no sign of life could be given");
                }
                trouble = Some(error.to_string());
            }
        }
    }
}

/// What was reached.
struct Reached {
    revision: i64,
    at: Instant,
}

struct Agent {
    client: Client,
    node: String,
    program: Program,
    on_command: Option<Program>,
    recheck: Option<Duration>,
    done: Option<Reached>,
    /// What was reported last.
    last: Map<String, Value>,
    /// The revision that could not be reached, and when that is tried again; another is tried at once.
    failed: Option<(i64, Instant)>,
    /// Between the last failure and the next try.
    pause: Duration,
}

impl Agent {
    async fn run(&mut self, seen: &mut watch::Receiver<Option<Seen>>, every: Duration) {
        loop {
            let now = seen.borrow_and_update().clone();
            if let Some(now) = now {
                self.step(&now).await;
            }
            // A pause or a recheck ends without news.
            let _ = timeout(every, seen.changed()).await;
        }
    }

    async fn step(&mut self, seen: &Seen) {
        if let Some(revision) = seen.desired_revision.filter(|revision| self.is_due(*revision, seen)) {
            match self.reconcile().await {
                Ok(reached) => {
                    self.done = Some(Reached { revision: reached, at: Instant::now() });
                    self.failed = None;
                    tracing::info!(revision = reached, "in step");
                }
                Err(error) => {
                    let pause = if self.failed.is_some_and(|(failed, _)| failed == revision) {
                        self.pause
                    } else {
                        RETRY.0
                    };
                    tracing::warn!(revision, %error, retry_in = ?pause, "not in step");
                    self.failed = Some((revision, Instant::now() + pause));
                    self.pause = (pause * 2).min(RETRY.1);
                }
            }
        }
        if seen.pending_commands > 0
            && self.on_command.is_some()
            && let Err(error) = self.commands().await
        {
            tracing::warn!(%error, "commands");
        }
    }

    /// At the start, when something else is desired, when the report isn't known (any more), and for a recheck.
    fn is_due(&self, revision: i64, seen: &Seen) -> bool {
        if self.failed.is_some_and(|(failed, until)| failed == revision && Instant::now() < until) {
            return false;
        }
        let Some(done) = &self.done else { return true };
        done.revision != revision
            || seen.reported_for != Some(revision)
            || self.recheck.is_some_and(|recheck| done.at.elapsed() >= recheck)
    }

    /// Runs the program and reports; gives the revision that was reached.
    async fn reconcile(&mut self) -> anyhow::Result<i64> {
        let desired = self.client.desired(&self.node, &ReadOptions::default()).await?.value;
        let input = Value::Object(desired.state.clone());
        let ended = self.program.run(&input, Some(desired.revision)).await;
        let reported = ended.and_then(|output| match output.trim() {
            "" => Ok(desired.state),
            text => match serde_json::from_str(text) {
                Ok(Value::Object(state)) => Ok(state),
                Ok(_) | Err(_) => {
                    let start: String = text.chars().take(60).collect();
                    Err(format!("the program printed {start:?}, expected a JSON object"))
                }
            },
        });
        let error = match reported {
            Ok(state) => {
                self.last = state;
                None
            }
            Err(error) => Some(error),
        };
        let report = Report {
            state: self.last.clone(),
            desired_revision: Some(desired.revision),
            error: error.clone(),
        };
        self.client.report(&self.node, &report, &ChangeOptions::default()).await?;
        match error {
            None => Ok(desired.revision),
            Some(error) => Err(anyhow::anyhow!(error)),
        }
    }

    /// All that wait, the oldest first. One that was under way when the agent died is run again.
    async fn commands(&mut self) -> anyhow::Result<()> {
        let filter = CommandFilter { node: Some(self.node.clone()), status: Some(OutcomeStatus::Pending) };
        let part = Part { limit: Some(COMMANDS), ..Part::default() };
        let mut page = self.client.commands(&filter, &part, &ReadOptions::default()).await?.value;
        page.entries.reverse();
        for command in page.entries {
            self.command(command).await?;
        }
        Ok(())
    }

    async fn command(&self, command: Command) -> anyhow::Result<()> {
        let Some(program) = &self.on_command else { return Ok(()) };
        let input = json!({ "id": command.id, "name": command.name, "arguments": command.arguments });
        let (status, output) = match program.run(&input, None).await {
            Ok(output) => (OutcomeStatus::Done, output),
            Err(error) => (OutcomeStatus::Failed, error),
        };
        let text = output.trim();
        let detail = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(text).unwrap_or_else(|_| text.into())
        };
        tracing::info!(id = command.id, name = command.name, status = status.as_str(), "command");
        let outcome = NewOutcome { status, detail };
        self.client.report_outcome(command.id, &self.node, &outcome, &ChangeOptions::default()).await?;
        Ok(())
    }
}
