//! Whether this machine is fit to reign: room and speed of its disk, and what the user's own program says.
//!
//! Owns the hysteresis: a few bad results in a row make it unhealthy, a while of good ones healthy again. Decides nothing
//! about succession; the driver is told. Read `tanist_replication::Event::Health` for what follows.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tanist_replication::Complaint;
use tanist_store::WalSync;
use tokio::{
    process::Command,
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    config::Health,
    driver::Control,
    family::Scope,
    gate::Gate,
    program::{self, Call, Kept},
    within::within,
};

/// So much of what the program prints is kept, for its first line.
const OUTPUT_BYTES: usize = 1024;

/// What is looked at.
pub(crate) struct Parts {
    pub(crate) directory: PathBuf,
    pub(crate) wal: WalSync,
    pub(crate) config: watch::Receiver<Health>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) control: mpsc::Sender<Control>,
    /// The file system is being asked for its free room.
    pub(crate) asks: Arc<AtomicBool>,
}

/// Looks again and again until the driver ends.
pub(crate) async fn watch(parts: Parts) {
    let mut verdict = Verdict::default();
    let mut config = parts.config.clone();
    loop {
        let now = config.borrow_and_update().clone();
        let found = parts.look(&now).await;
        if let Some(unhealthy) = verdict.on_result(found, &now, Instant::now()) {
            let control = Control::Health(unhealthy.as_deref().map(Complaint::new));
            if parts.control.send(control).await.is_err() {
                return;
            }
        }
        // Another configuration is used at once.
        let _ = timeout(now.every, config.changed()).await;
    }
}

impl Parts {
    /// What is wrong now, if anything is.
    async fn look(&self, config: &Health) -> Option<String> {
        let mut found = vec![];
        if let Some(least) = config.min_free {
            found.extend(self.room(least).await);
        }
        let longest = self.wal.take_longest();
        if config.slow_sync.is_some_and(|slow| longest >= slow) {
            found.push(format!("the disk is slow: a sync took {longest:.1?}"));
        }
        if let Some((program, arguments)) = config.program.split_first() {
            let mut command = Command::new(program);
            let view = self.gate.view();
            command.args(arguments).env("TANIST_MEMBER", &view.cluster.member);
            command.env("TANIST_MASTER", view.cluster.master.as_deref().unwrap_or_default());
            found.extend(run(command, program, config.timeout).await.err());
        }
        (!found.is_empty()).then(|| found.join("; "))
    }
}

/// How long the file system may take to say how much is free.
const ROOM_TIME: Duration = Duration::from_secs(2);

impl Parts {
    /// Whether there is little room. One question at a time: it may never be answered.
    async fn room(&self, least: u64) -> Option<String> {
        let unanswered = || Some("the disk doesn't say how much room is free".to_owned());
        if self.asks.swap(true, Relaxed) {
            return unanswered();
        }
        let (asks, directory) = (Arc::clone(&self.asks), self.directory.clone());
        let ask = move || {
            let found = little_room(&directory, least);
            asks.store(false, Relaxed);
            found
        };
        within(ROOM_TIME, ask).await.unwrap_or_else(unanswered)
    }
}

fn little_room(directory: &Path, least: u64) -> Option<String> {
    match fs4::available_space(directory) {
        Ok(free) if free < least => {
            Some(format!("the disk is nearly full: {} MiB free, {} wanted", free >> 20, least >> 20))
        }
        Ok(_) => None,
        Err(error) => Some(format!("the disk can't be asked for its free space: {error}")),
    }
}

/// Runs the program; why it says, or shows, that the machine isn't fit.
async fn run(command: Command, name: &str, limit: Duration) -> Result<(), String> {
    let what = format!("health.program {name}");
    let (output, errors) = (Kept::default(), Kept::default());
    let call = Call { what: &what, input: None, limit, scope: Scope::Program };
    let status = program::run(command, call, output.up_to(OUTPUT_BYTES), errors.up_to(OUTPUT_BYTES)).await?;
    if status.success() {
        return Ok(());
    }
    let says = [output, errors].map(|kept| String::from_utf8_lossy(&kept.take()).into_owned());
    let says = says.into_iter().find(|text| !text.trim().is_empty());
    Err(says.unwrap_or_else(|| format!("{what}: {status}")))
}

/// Healthy until shown otherwise.
#[derive(Debug, Default)]
struct Verdict {
    unhealthy: Option<String>,
    bad: u32,
    good_since: Option<Instant>,
}

impl Verdict {
    /// Takes a result (what is wrong, if anything); tells what the machine is when that has changed.
    #[expect(clippy::option_option, reason = "the outer one: nothing new; the inner one: healthy")]
    fn on_result(&mut self, found: Option<String>, config: &Health, now: Instant) -> Option<Option<String>> {
        let Some(why) = found else {
            self.bad = 0;
            let since = *self.good_since.get_or_insert(now);
            self.unhealthy.as_ref()?;
            let recovered = now.saturating_duration_since(since) >= config.recovery;
            return recovered.then(|| {
                self.unhealthy = None;
                None
            });
        };
        self.good_since = None;
        self.bad = self.bad.saturating_add(1);
        let changed = self.unhealthy.as_ref() != Some(&why);
        if !changed || (self.unhealthy.is_none() && self.bad < config.failures) {
            return None;
        }
        self.unhealthy = Some(why.clone());
        Some(Some(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Health {
        Health {
            program: vec![],
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            failures: 3,
            recovery: Duration::from_secs(60),
            min_free: None,
            slow_sync: None,
            stall: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_few_bad_results_in_a_row_count_and_a_while_of_good_ones() {
        let (config, start) = (config(), Instant::now());
        let mut verdict = Verdict::default();
        let mut second = 0;
        let mut result = |why: Option<&str>| {
            second += 1;
            verdict.on_result(why.map(str::to_owned), &config, start + Duration::from_secs(second))
        };
        assert_eq!(result(Some("slow")), None);
        assert_eq!(result(Some("slow")), None);
        assert_eq!(result(None), None, "the row is broken");
        assert_eq!(result(Some("slow")), None);
        assert_eq!(result(Some("slow")), None);
        assert_eq!(result(Some("slow")), Some(Some("slow".to_owned())));
        assert_eq!(result(Some("slow")), None, "nothing new");
        assert_eq!(result(Some("slower")), Some(Some("slower".to_owned())), "another reason");
        for _ in 0..50 {
            assert_eq!(result(None), None);
        }
        assert_eq!(result(Some("slow")), Some(Some("slow".to_owned())), "back at once: it never was healthy");
        for _ in 0..60 {
            assert_eq!(result(None), None);
        }
        assert_eq!(result(None), Some(None));
        assert_eq!(result(None), None);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn program_is_judged_by_its_exit_code_and_speaks_by_its_first_line() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let long = Duration::from_secs(30);
        assert_eq!(run(shell("echo fine; exit 0"), "check", long).await, Ok(()));
        // More than a pipe holds.
        assert_eq!(run(shell("head -c 300000 /dev/zero"), "check", long).await, Ok(()));
        let said = run(shell("echo; echo 'bus 3 down'; echo more; exit 1"), "check", long).await.unwrap_err();
        assert_eq!(Complaint::new(&said).as_str(), "bus 3 down");
        let said = run(shell("echo 'no device' >&2; exit 2"), "check", long).await.unwrap_err();
        assert_eq!(Complaint::new(&said).as_str(), "no device");
        let silent = run(shell("exit 7"), "check", long).await.unwrap_err();
        assert!(silent.starts_with("health.program check: ") && silent.contains('7'), "{silent}");
        // It ends when the test does.
        let here = tempfile::tempdir().unwrap();
        let left =
            format!("echo bad; while [ -e '{}' ]; do sleep 0.05; done & exit 1", here.path().display());
        let left = run(shell(&left), "check", long).await.unwrap_err();
        assert_eq!(Complaint::new(&left).as_str(), "bad", "what it has left running isn't waited for");
        let hung = run(shell("exec sleep 1000"), "check", Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(hung, "health.program check didn't end within 50ms");
        let missing = run(Command::new("/no/such/program"), "/no/such/program", long).await.unwrap_err();
        assert!(missing.contains("/no/such/program can't be run"), "{missing}");
    }

    #[test]
    fn room_is_measured_where_the_data_is() {
        let dir = tempfile::TempDir::new().unwrap();
        assert_eq!(little_room(dir.path(), 1), None);
        assert!(little_room(dir.path(), u64::MAX).unwrap().starts_with("the disk is nearly full"));
        assert!(little_room(&dir.path().join("gone"), 1).is_some());
    }
}
