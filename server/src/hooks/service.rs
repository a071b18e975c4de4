//! The server's side of the service: when it is started, and what its guard is told.
//!
//! Owns the back-off. The child itself belongs to the guard, a process of its own that outlives this one if it must: read
//! `guard.rs`.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use super::{Environment, Wanted, guard, order::BackOff};
use crate::{clock, config::Service, gate::Gate};

/// A guard that has been told to stop, or whose lease is over, has ended long before.
const GUARD_PATIENCE: Duration = Duration::from_secs(5);

/// What it needs.
pub(super) struct Parts {
    pub(super) config: Service,
    pub(super) gate: Arc<Gate>,
    /// The reign for which the service shall run.
    pub(super) wanted: watch::Receiver<Option<Wanted>>,
    /// Whether a guard runs.
    pub(super) running: watch::Sender<bool>,
}

/// Runs the service whenever it is wanted; ends with whoever wants it.
pub(super) async fn run(mut parts: Parts) {
    loop {
        let wanted = parts.wanted.wait_for(Option::is_some).await.map(|wanted| wanted.clone());
        let Wanted { environment, since, earlier_leases } = match wanted {
            Ok(Some(wanted)) => wanted,
            Ok(None) => continue,
            Err(_) => return,
        };
        // The gate was opened before: from then on no earlier lease can still hold (R11).
        let start = since + parts.config.start_delay.max(earlier_leases);
        if parts.while_wanted(&environment, sleep_until(start.into())).await.is_none() {
            continue;
        }
        let mut back_off = BackOff::default();
        while parts.wants(&environment) {
            parts.running.send_replace(true);
            let began = Instant::now();
            if let Err(why) = parts.guarded(&environment).await {
                tracing::warn!(term = %environment.term, why, "service");
            }
            parts.running.send_replace(false);
            let wait = back_off.ended(began.elapsed());
            if parts.wants(&environment) {
                tracing::info!(again_in = ?wait, "the service is started again");
                parts.while_wanted(&environment, sleep(wait)).await;
            }
        }
    }
}

impl Parts {
    fn wants(&self, environment: &Environment) -> bool {
        self.wanted.has_changed().is_ok()
            && self.wanted.borrow().as_ref().is_some_and(|wanted| wanted.environment.term == environment.term)
    }

    /// Does it as long as the service is wanted.
    async fn while_wanted<T>(&self, environment: &Environment, what: impl Future<Output = T>) -> Option<T> {
        let mut wanted = self.wanted.clone();
        let other = wanted.wait_for(|wanted| {
            wanted.as_ref().is_none_or(|wanted| wanted.environment.term != environment.term)
        });
        tokio::select! {
            done = what => Some(done),
            _ = other => None,
        }
    }

    /// One run of the service under its guard.
    async fn guarded(&mut self, environment: &Environment) -> Result<(), String> {
        let mut command = Command::new(guard::program());
        #[cfg(unix)]
        command.arg0("tanist").process_group(0);
        // A Ctrl-C for the server isn't one for the guard (CREATE_NEW_PROCESS_GROUP).
        #[cfg(windows)]
        command.creation_flags(0x200);
        command.arg("service-guard");
        let times = [
            ("--stop-ms", self.config.stop_time),
            ("--kill-ms", self.config.kill_time),
            ("--every-ms", self.config.every),
        ];
        for (name, time) in times {
            command.arg(name).arg(time.as_millis().to_string());
        }
        command.arg("--").args(&self.config.command);
        environment.put_into(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("its guard can't be started: {error}"))?;
        tracing::info!(term = %environment.term, command = self.config.command[0], "service is started");
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its guard has no pipes".to_owned());
        };
        let ended = self.answer(environment, to, BufReader::new(from).lines()).await;
        reap(&mut child).await;
        tracing::info!(term = %environment.term, "service {}", ended?);
        Ok(())
    }

    /// Answers the guard's questions until it says how the service has ended.
    async fn answer(
        &mut self,
        environment: &Environment,
        mut to: ChildStdin,
        mut from: Lines<BufReader<ChildStdout>>,
    ) -> Result<String, String> {
        loop {
            let line = match self.while_wanted(environment, from.next_line()).await {
                Some(line) => line,
                None => {
                    tell(&mut to, "stop\n".to_owned()).await?;
                    // It ends by itself when the lease does.
                    loop {
                        let next = timeout(GUARD_PATIENCE.max(self.config.start_delay * 2), from.next_line());
                        match next.await.map_err(|_| "its guard doesn't end".to_owned())? {
                            Ok(Some(line)) if !line.starts_with("ended ") => {}
                            line => break line,
                        }
                    }
                }
            };
            let line = line.map_err(|error| format!("its guard's answer: {error}"))?;
            let Some(line) = line else { return Err("its guard has ended".to_owned()) };
            match line.split_once(' ') {
                Some(("ended", how)) => return Ok(how.to_owned()),
                Some(("ask", number)) => {
                    let left = self.gate.lease_left(environment.term, clock::now_ns());
                    let answer = left.map_or("stop\n".to_owned(), |left| format!("left {number} {left}\n"));
                    tell(&mut to, answer).await?;
                }
                _ => return Err(format!("its guard says {line:?}")),
            }
        }
    }
}

async fn tell(to: &mut ChildStdin, line: String) -> Result<(), String> {
    to.write_all(line.as_bytes()).await.map_err(|error| format!("its guard doesn't listen: {error}"))
}

async fn reap(child: &mut Child) {
    if timeout(GUARD_PATIENCE, child.wait()).await.is_err() {
        tracing::error!("the service's guard doesn't end and is killed");
        let _ = child.kill().await;
    }
}
