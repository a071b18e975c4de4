//! The guard of the service: a process of its own that starts it and ends it before the lease ends, whatever has become of
//! the server.
//!
//! It asks the server how long the lease still lasts and counts from when it asked, on its own clock, so that a server
//! that is stopped, hangs or was killed can't keep the service alive. When the lease isn't renewed, the service is asked to
//! end `--stop-ms` before it is killed, and killed with its process group `--kill-ms` before the lease ends.
//!
//! What holds and what doesn't: `docs/hooks.md`.

use std::{
    io::Write as _,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    causes::in_words,
    clock,
    family::{Family, Scope},
    stop::StopSignals,
};

/// So long is waited until all processes of a killed group are gone.
const GONE_TIME: Duration = Duration::from_secs(2);

/// So late the system may wake a process that waits: on Windows its clock ticks 64 times a second.
const TIMER_NS: u64 = if cfg!(windows) { 15_625_000 } else { 0 };

/// What the guard is told once.
#[derive(Debug, Args)]
pub struct GuardOptions {
    /// Time between the request to end and the end by force, in milliseconds.
    #[arg(long)]
    stop_ms: u64,
    /// The end by force is so long before the lease ends, in milliseconds.
    #[arg(long)]
    kill_ms: u64,
    /// Time between two questions, in milliseconds.
    #[arg(long)]
    every_ms: u64,
    /// The service.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What the service's process is told before it becomes the service.
#[derive(Debug, Args)]
pub struct ChildOptions {
    /// The guard.
    #[arg(long)]
    guard: u32,
    /// The service.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// This program, also when its file was replaced meanwhile.
pub(crate) fn program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tanist"))
}

/// What the guard knows of the lease, in nanoseconds of its own clock. Pure.
#[derive(Debug)]
struct Lease {
    stop_ns: u64,
    kill_ns: u64,
    until_ns: u64,
    /// The service was asked to end and is killed then.
    kill_at_ns: Option<u64>,
}

/// What is to be done with the service.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Run,
    /// Ask it to end.
    Stop,
    Kill,
}

impl Lease {
    /// The question was asked at `asked_ns`, and the answer was that so much was left.
    fn on_left(&mut self, asked_ns: u64, left_ns: u64) {
        self.until_ns = self.until_ns.max(asked_ns.saturating_add(left_ns));
    }

    /// The reign is over, or nobody answers any more: the service has the rest of the lease to end.
    fn on_stop(&mut self) {
        self.kill_at_ns.get_or_insert(self.until_ns.saturating_sub(self.kill_ns));
    }

    /// When the verdict changes next, if nothing else happens.
    fn due_ns(&self) -> u64 {
        let kill_at = self.until_ns.saturating_sub(self.kill_ns);
        self.kill_at_ns.unwrap_or(kill_at.saturating_sub(self.stop_ns))
    }

    fn verdict(&mut self, now_ns: u64) -> Verdict {
        if self.kill_at_ns.is_none() && now_ns >= self.due_ns() {
            self.on_stop();
        }
        match self.kill_at_ns {
            None => Verdict::Run,
            Some(kill_at) if now_ns >= kill_at => Verdict::Kill,
            Some(_) => Verdict::Stop,
        }
    }
}

/// Guards the service until it has ended, and says how on standard output.
///
/// # Errors
/// When the service can't be started.
pub async fn run(options: GuardOptions) -> anyhow::Result<()> {
    let ended = guard(options).await;
    // The thread that reads standard input would hold the process.
    match ended {
        Ok(how) => {
            say(&format!("ended {how}"));
            std::process::exit(0);
        }
        Err(error) => {
            say(&format!("ended before it began: {}", in_words(&error)));
            std::process::exit(1);
        }
    }
}

/// Nobody may listen any more; then standard input has ended, too.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn guard(options: GuardOptions) -> anyhow::Result<String> {
    let ns = |ms: u64| ms.saturating_mul(1_000_000);
    let mut lease = Lease {
        stop_ns: ns(options.stop_ms),
        kill_ns: ns(options.kill_ms).saturating_add(TIMER_NS),
        until_ns: 0,
        kill_at_ns: None,
    };
    let every = Duration::from_millis(options.every_ms.max(1));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    // Somebody ends the guard, such as a service manager that ends all processes of a unit.
    let mut told = StopSignals::new()?;
    let (mut number, mut asked): (u64, Option<u64>) = (0, None);
    let mut next_ask = Instant::now();
    let mut service: Option<Service> = None;
    let mut asked_to_end = false;
    loop {
        if asked.is_none() && Instant::now() >= next_ask {
            number += 1;
            asked = Some(clock::now_ns());
            say(&format!("ask {number}"));
            next_ask = Instant::now() + every;
        }
        let now = clock::now_ns();
        match (lease.kill_at_ns, &mut service) {
            // Not begun: it begins with the first answer that leaves it time.
            (None, None) if now < lease.due_ns() => service = Some(Service::start(&options.command)?),
            (None, None) => {}
            (Some(_), None) => return Ok("isn't started: the reign is over".to_owned()),
            (_, Some(service)) => match lease.verdict(now) {
                Verdict::Run => {}
                Verdict::Stop if asked_to_end => {}
                Verdict::Stop => {
                    asked_to_end = true;
                    service.ask_to_end();
                }
                Verdict::Kill => {
                    service.kill_all().await;
                    return Ok("was killed before the lease ended".to_owned());
                }
            },
        }
        let due = Duration::from_nanos(lease.due_ns().saturating_sub(clock::now_ns()));
        // Short waits: the system's timers may not count the time in which the computer slept.
        let wait = if service.is_some() { due.min(every) } else { every };
        tokio::select! {
            biased;
            line = lines.next_line(), if lease.kill_at_ns.is_none() => match line {
                Ok(Some(line)) => match answer(&line) {
                    Some((answered, left)) if answered == number => {
                        if let Some(asked) = asked.take() {
                            lease.on_left(asked, left);
                        }
                    }
                    _ => lease.on_stop(),
                },
                Ok(None) | Err(_) => lease.on_stop(),
            },
            _ = told.recv() => lease.on_stop(),
            status = Service::ended(&mut service) => {
                if let Some(service) = &mut service {
                    service.kill_all().await;
                }
                let after = if asked_to_end { ", asked to" } else { "" };
                return Ok(format!("ended{after}: {status}"));
            }
            () = sleep(wait) => {}
        }
    }
}

/// `left <number> <nanoseconds>`; anything else is the end.
fn answer(line: &str) -> Option<(u64, u64)> {
    let (number, left) = line.strip_prefix("left ")?.split_once(' ')?;
    Some((number.parse().ok()?, left.parse().ok()?))
}

/// The service's process and all that it started.
struct Service {
    family: Family,
    /// Where SIGTERM doesn't exist: the end of its standard input asks it to end.
    #[cfg(windows)]
    input: Option<tokio::process::ChildStdin>,
}

impl Service {
    fn start(command: &[String]) -> anyhow::Result<Service> {
        let (name, arguments) = command.split_first().context("service.command is empty")?;
        let mut child = if cfg!(target_os = "linux") {
            let mut child = Command::new(program());
            child.args(["service-child", "--guard", &std::process::id().to_string(), "--"]).args(command);
            child
        } else {
            let mut child = Command::new(name);
            child.args(arguments);
            child
        };
        child.stdin(if cfg!(windows) { Stdio::piped() } else { Stdio::null() });
        // What it prints goes where the server's log goes; standard output is for the server alone.
        child.stdout(Stdio::from(std::io::stderr()));
        #[cfg_attr(unix, expect(unused_mut, reason = "its input is taken elsewhere"))]
        let mut family = Family::spawn(child, Scope::Bound).with_context(|| format!("start {name:?}"))?;
        Ok(Service {
            #[cfg(windows)]
            input: family.take_streams().0,
            family,
        })
    }

    async fn ended(service: &mut Option<Service>) -> String {
        match service {
            None => std::future::pending().await,
            Some(service) => match service.family.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
        }
    }

    fn ask_to_end(&mut self) {
        #[cfg(unix)]
        self.family.terminate();
        #[cfg(windows)]
        drop(self.input.take());
    }

    /// Ends by force what still runs, and waits until it is gone.
    async fn kill_all(&mut self) {
        self.family.kill();
        if timeout(GONE_TIME, self.family.gone()).await.is_err() {
            eprintln!("tanist: the service was killed and is still there");
        }
    }
}

/// Becomes the service, in a process that the system ends when the guard's ends. Returns only why it can't.
#[must_use]
pub fn become_service(options: &ChildOptions) -> String {
    let Some((program, arguments)) = options.command.split_first() else {
        return "service.command is empty".to_owned();
    };
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::{CommandExt as _, parent_id};
        let kill = Some(rustix::process::Signal::KILL);
        if let Err(error) = rustix::process::set_parent_process_death_signal(kill) {
            return format!("end with the guard: {error}");
        }
        if parent_id() != options.guard {
            return "the guard has ended".to_owned();
        }
        let error = std::process::Command::new(program).args(arguments).exec();
        format!("service.command: {program} can't be run: {error}")
    }
    #[cfg(not(target_os = "linux"))]
    format!("{program} {arguments:?}: only the guard on Linux needs this")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease { stop_ns: 200, kill_ns: 50, until_ns: 0, kill_at_ns: None }
    }

    #[test]
    fn lease_counts_from_the_question_and_is_kept_by_answers() {
        let mut lease = lease();
        lease.on_left(1000, 900);
        assert_eq!(lease.verdict(1649), Verdict::Run);
        lease.on_left(1100, 900);
        assert_eq!(lease.verdict(1650), Verdict::Run);
        lease.on_left(1200, 700);
        assert_eq!((lease.verdict(1749), lease.due_ns()), (Verdict::Run, 1750));
    }

    #[test]
    fn without_answers_it_is_asked_to_end_and_killed_before_the_lease_ends() {
        let mut lease = lease();
        lease.on_left(1000, 900);
        assert_eq!(lease.verdict(1650), Verdict::Stop);
        lease.on_left(1600, 900);
        assert_eq!(lease.verdict(1849), Verdict::Stop, "too late: it is ending already");
        assert_eq!(lease.verdict(1850), Verdict::Kill, "50 before the lease that was known then");
    }

    #[test]
    fn planned_end_leaves_it_the_rest_of_the_lease() {
        let mut lease = lease();
        lease.on_left(1000, 900);
        lease.on_stop();
        assert_eq!((lease.verdict(1100), lease.due_ns()), (Verdict::Stop, 1850));
        assert_eq!(lease.verdict(1850), Verdict::Kill);
    }

    #[test]
    fn only_an_answer_to_the_question_keeps_it_running() {
        assert_eq!(answer("left 7 123"), Some((7, 123)));
        for other in ["stop", "", "left", "left 7", "left 7 -1", "left x 1", "right 7 1"] {
            assert_eq!(answer(other), None, "{other:?}");
        }
    }
}
