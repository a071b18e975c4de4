//! The user's programs that go with the reign: `on_promote`, `on_demote`, and the service that only the master runs.
//!
//! Owns a thread with a runtime of its own, which the driver tells about the reign and never waits for. Decides nothing
//! about succession but that a failed required hook makes this machine unfit. Read `order.rs` for the order, `guard.rs` for
//! what keeps two machines' services apart.

pub mod guard;
mod order;
mod program;
mod reason;
mod service;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tanist_replication::{Complaint, Term};
use tanist_store::private;
use tokio::{
    process::Command,
    sync::{mpsc, watch},
    time::sleep_until,
};

use crate::{
    config::{Hooks, Service},
    driver::Control,
    gate::Gate,
};
use order::{Order, Step};

/// Names the reign whose end hasn't been told yet, so that a process that was killed is made up for by the next one.
const UNFINISHED: &str = "hooks.reign";

#[derive(Debug, Clone)]
struct Reign {
    term: Term,
    /// Why it began.
    reason: String,
    /// Not before the gate was opened.
    since: Instant,
    /// For how long after that an earlier master's lease may have lasted.
    earlier_leases: Duration,
}

/// This machine's reign, for those who act on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Throne {
    /// The reign that serves.
    reign: Option<Reign>,
    /// The last one that has ended, and why.
    ended: Option<(Term, String)>,
}

impl Throne {
    /// This reign serves.
    /// An earlier master's lease may last for so long yet.
    pub(crate) fn begin(&mut self, term: Term, reason: &str, earlier_leases: Duration) {
        let since = Instant::now();
        self.reign = Some(Reign { term, reason: reason.to_owned(), since, earlier_leases });
    }

    /// The reign is over.
    pub(crate) fn end(&mut self, why: String) {
        if let Some(reign) = self.reign.take() {
            self.ended = Some((reign.term, why));
        }
    }

    /// The term of the reign that serves.
    pub(crate) fn term(&self) -> Option<Term> {
        self.reign.as_ref().map(|reign| reign.term)
    }

    /// Why this reign ended, as far as it is known.
    fn why_ended(&self, term: Term) -> Option<&str> {
        self.ended.as_ref().filter(|(ended, _)| *ended == term).map(|(_, why)| why.as_str())
    }
}

/// What the thread needs.
pub(crate) struct Parts {
    pub(crate) directory: PathBuf,
    pub(crate) hooks: watch::Receiver<Hooks>,
    pub(crate) service: Option<Service>,
    pub(crate) throne: watch::Receiver<Throne>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) control: mpsc::Sender<Control>,
}

/// Starts the thread. It ends when the driver has, and what is to be run then has run.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub(crate) fn start(parts: Parts) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        runtime.block_on(parts.run());
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("hooks".into()).spawn(run)
}

/// What a program of a reign finds in its environment.
#[derive(Debug, Clone)]
struct Environment {
    member: String,
    term: Term,
    reason: &'static str,
    master: String,
}

impl Environment {
    fn of(gate: &Gate, term: Term, reason: &str) -> Environment {
        let view = gate.view();
        Environment {
            member: view.cluster.member.clone(),
            term,
            reason: reason::code(reason),
            master: view.cluster.master.clone().unwrap_or_default(),
        }
    }

    fn put_into(&self, command: &mut Command) {
        command.env("TANIST_MEMBER", &self.member).env("TANIST_TERM", self.term.0.to_string());
        command.env("TANIST_REASON", self.reason).env("TANIST_MASTER", &self.master);
    }
}

/// A reign for which the service shall run.
#[derive(Debug, Clone)]
struct Wanted {
    environment: Environment,
    /// Since when the gate has been open at the least.
    since: Instant,
    /// For how long after that an earlier master's lease may have lasted.
    earlier_leases: Duration,
}

impl Parts {
    async fn run(mut self) {
        let (want_service, wanted) = watch::channel(None);
        let (tell_running, mut running) = watch::channel(false);
        let service = self.service.clone().map(|config| {
            let gate = Arc::clone(&self.gate);
            tokio::spawn(service::run(service::Parts { config, gate, wanted, running: tell_running }))
        });
        let unfinished = self.unfinished();
        let mut order = Order::new(unfinished);
        let mut refusal = Refusal::default();
        let mut gone = false;
        loop {
            let throne = self.throne.borrow_and_update().clone();
            gone |= self.throne.has_changed().is_err();
            let reign = throne.term().filter(|_| !gone);
            order.set_reign(reign);
            want_service.send_if_modified(|wanted: &mut Option<Wanted>| {
                let over = wanted.as_ref().is_some_and(|wanted| Some(wanted.environment.term) != reign);
                if over {
                    *wanted = None;
                }
                over
            });
            let now = Instant::now();
            if reign.is_none() && refusal.is_over(now) {
                self.refuse(None).await;
                refusal = Refusal::default();
            }
            match order.next(now) {
                Step::Promote(term) => {
                    order.begin(term);
                    self.mark(Some(term));
                    let reign = throne.reign.as_ref().filter(|reign| reign.term == term);
                    let reason = reign.map_or("", |reign| &reign.reason);
                    let environment = Environment::of(&self.gate, term, reason);
                    let hooks = self.hooks.borrow().clone();
                    let result = tokio::select! {
                        result = self.hook("on_promote", &hooks.on_promote, &environment) => result,
                        () = over(self.throne.clone(), term) => continue,
                    };
                    let failed = result.err();
                    if let Some(why) = &failed {
                        tracing::warn!(%term, %why, required = hooks.required, "a hook failed");
                    }
                    match failed.filter(|_| hooks.required) {
                        Some(why) => {
                            refusal.since = Some(Instant::now());
                            refusal.recovery = hooks.recovery;
                            self.refuse(Some(&why)).await;
                            order.promoted(Some(Instant::now() + hooks.retry));
                        }
                        None => {
                            if refusal.since.take().is_some() {
                                self.refuse(None).await;
                            }
                            order.promoted(None);
                            let since = reign.map_or_else(Instant::now, |reign| reign.since);
                            let earlier_leases = reign.map_or(Duration::ZERO, |reign| reign.earlier_leases);
                            want_service.send_replace(Some(Wanted { environment, since, earlier_leases }));
                        }
                    }
                }
                Step::Demote(term) => {
                    if refusal.since.is_some() {
                        refusal.since = Some(now);
                    }
                    // First what runs on what `on_promote` has set up. The lease bounds it.
                    let _ = running.wait_for(|running| !running).await;
                    let unknown = match gone {
                        _ if unfinished == Some(term) => reason::PROCESS_ENDED,
                        true => reason::PROCESS_ENDS,
                        false => reason::LATER_REIGN,
                    };
                    let reason = throne.why_ended(term).unwrap_or(unknown);
                    let environment = Environment::of(&self.gate, term, reason);
                    let hooks = self.hooks.borrow().clone();
                    if let Err(why) = self.hook("on_demote", &hooks.on_demote, &environment).await {
                        tracing::warn!(%term, %why, "a hook failed");
                    }
                    order.demoted();
                    self.mark(None);
                }
                Step::Wait(_) if gone => break,
                Step::Wait(until) => {
                    let until = if reign.is_none() { refusal.over() } else { until };
                    tokio::select! {
                        _ = self.throne.changed() => {}
                        () = sleep_until(until.unwrap_or(now).into()), if until.is_some() => {}
                    }
                }
            }
        }
        drop(want_service);
        if let Some(service) = service {
            let _ = service.await;
        }
    }

    async fn hook(
        &self,
        name: &'static str,
        program: &[String],
        environment: &Environment,
    ) -> Result<(), String> {
        let Some((program, arguments)) = program.split_first() else { return Ok(()) };
        let (began, term) = (Instant::now(), environment.term);
        tracing::info!(hook = name, %term, reason = environment.reason, "hook runs");
        let mut command = Command::new(program);
        command.args(arguments);
        environment.put_into(&mut command);
        let limit = self.hooks.borrow().timeout;
        program::run(command, name, limit).await?;
        tracing::info!(hook = name, %term, took = ?began.elapsed(), "hook done");
        Ok(())
    }

    async fn refuse(&self, why: Option<&str>) {
        let _ = self.control.send(Control::Refuse(why.map(Complaint::new))).await;
    }

    fn unfinished(&self) -> Option<Term> {
        let text = std::fs::read_to_string(self.mark_file()).ok()?;
        text.trim().parse().ok().map(Term)
    }

    fn mark(&self, term: Option<Term>) {
        let file = self.mark_file();
        let hooks = self.hooks.borrow();
        if hooks.on_promote.is_empty() && hooks.on_demote.is_empty() && !file.exists() {
            return;
        }
        let done = match term {
            Some(term) => private::write(&file, format!("{}\n", term.0).as_bytes()),
            None => std::fs::remove_file(&file),
        };
        if let Err(error) = done {
            tracing::warn!(file = %file.display(), %error, "a kill of this process would leave on_demote out");
        }
    }

    fn mark_file(&self) -> PathBuf {
        Path::new(&self.directory).join(UNFINISHED)
    }
}

/// Returns when this isn't the serving reign any more.
async fn over(mut throne: watch::Receiver<Throne>, term: Term) {
    // An error says that the driver has ended, and so has the reign.
    let _ = throne.wait_for(|throne| throne.term() != Some(term)).await;
}

/// A required hook has failed: this machine isn't fit to reign for a while.
#[derive(Debug, Default)]
struct Refusal {
    /// The failure, or the end of the reign.
    since: Option<Instant>,
    recovery: Duration,
}

impl Refusal {
    fn over(&self) -> Option<Instant> {
        self.since.map(|since| since + self.recovery)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.over().is_some_and(|over| now >= over)
    }
}
