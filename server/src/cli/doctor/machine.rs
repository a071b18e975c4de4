//! What is looked at on this machine: its files, ports, disk, clocks and programs.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, lookup_host};

use super::{Finding, disk};
use crate::{
    causes::in_words,
    cli::bench::probe,
    clock,
    config::{
        Config,
        secrets::{self, Readers},
    },
    descriptors,
    durable::{DirectoryLock, DurableError},
    http::{Secured, tls::Ends},
};

/// Syncs faster than this don't reach anything that keeps data without power.
const TOO_FAST: Duration = Duration::from_micros(10);
/// A sync on every write is in every answer: with slower ones people notice.
const SLOW: Duration = Duration::from_millis(30);
/// A wall clock before this was never set: 2026-01-01.
const NEVER_SET_MS: u64 = 1_767_225_600_000;
/// How long and how often a timer is tried.
const TICK: Duration = Duration::from_millis(10);
const TICKS: u32 = 50;

/// Whether a machine runs on this data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Runs,
    Stands,
}

/// Looks at everything here.
pub(super) async fn look(file: &Path, config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![];
    findings.extend(secrecy(file, config));
    findings.extend(certificate(config));
    let mut disks = disk::ask(file, config).await;
    let rest = disks.findings.split_off(disks.findings.len().min(1));
    findings.append(&mut disks.findings);
    let process = if disks.runs { Process::Runs } else { Process::Stands };
    findings.push(port("peer port", &config.listen.peer, process).await);
    findings.push(port("http port", &config.listen.http, process).await);
    findings.extend(rest);
    findings.push(wall_clock(clock::wall_ms()));
    findings.push(timer(late_ticks().await, config.timing.heartbeat));
    #[cfg(unix)]
    findings.extend(open_files(config));
    let programs = [
        ("health.program", &config.health.program),
        ("hooks.on_promote", &config.hooks.on_promote),
        ("hooks.on_demote", &config.hooks.on_demote),
    ];
    let service = config.service.as_ref().map(|service| ("service.command", &service.command));
    for (field, command) in programs.into_iter().chain(service) {
        findings.extend(command.first().map(|program| runnable(field, program)));
    }
    Ok(findings)
}

/// Who else can read each file with a secret, by the rule that the machine itself goes by.
fn secrecy(file: &Path, config: &Config) -> Vec<Finding> {
    const CHECK: &str = "secrecy";
    let judge = |(_, path): (_, PathBuf)| {
        let shown = path.display();
        match secrets::readers(&path, &config.data_dir) {
            Ok(Readers::Nobody) => Finding::good(CHECK, format!("nobody else can read {shown}")),
            Ok(Readers::Group(group)) => {
                let found =
                    format!("besides root only group {group}, which root has given it to, can read {shown}");
                Finding::good(CHECK, found)
            }
            Err((mode, may)) => {
                let found = format!(
                    "{shown} is a secret, and others can read it (mode {mode:o}): the machine refuses it"
                );
                Finding::bad(CHECK, found, format!("chmod {may:o} {shown}"))
            }
        }
    };
    config.secret_files(file).into_iter().map(judge).collect()
}

/// How long the certificate for clients is good.
fn certificate(config: &Config) -> Option<Finding> {
    const CHECK: &str = "certificate";
    const RENEW: &str = "Put a new one in its place: it is read at once.";
    Some(match Secured::load(config.tls.as_ref()?) {
        Err(error) => {
            Finding::bad(CHECK, error.to_string(), "Put the file right: the machine doesn't start so.")
        }
        Ok(secured) => match Ends::now(secured.expires)? {
            Ends::Later(days) => Finding::good(CHECK, format!("good for {days} days")),
            Ends::Soon(days) => Finding::warning(CHECK, format!("ends in {days} days"), RENEW),
            Ends::Ended(days) => {
                Finding::bad(CHECK, format!("ended {days} days ago: clients refuse it"), RENEW)
            }
        },
    })
}

/// Whether a machine runs on the data directory, and what was found of it.
pub(super) fn process(config: &Config) -> (bool, Finding) {
    const CHECK: &str = "data directory";
    let directory = &config.data_dir;
    if !directory.exists() {
        let found = format!("{} isn't there yet: the first start makes it", directory.display());
        return (false, Finding::good(CHECK, found));
    }
    match DirectoryLock::take(directory) {
        Ok(_) => {
            let found = format!("{}, no machine runs on it now", directory.display());
            (false, Finding::good(CHECK, found))
        }
        Err(DurableError::InUse { owner, .. }) => {
            let found = format!("{}, its machine runs{owner}", directory.display());
            (true, Finding::good(CHECK, found))
        }
        Err(error) => {
            let advice = "Give it to the account that runs tanist.";
            (false, Finding::bad(CHECK, error.to_string(), advice))
        }
    }
}

async fn port(check: &'static str, listen: &str, process: Process) -> Finding {
    if process == Process::Runs {
        return Finding::good(check, format!("{listen}, in use by the machine"));
    }
    match TcpListener::bind(listen).await {
        Ok(_) => Finding::good(check, format!("{listen} is free")),
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => {
                    "Another program listens there: end it, or choose another port in [listen] and for this [[member]] on all machines."
                }
                ErrorKind::AddrNotAvailable => {
                    "No network card of this computer has this address: correct [listen], or set the address up."
                }
                ErrorKind::PermissionDenied => "Choose a port above 1024, or give the account the right.",
                _ => "Correct [listen].",
            };
            Finding::bad(check, format!("{listen}: {error}"), advice)
        }
    }
}

/// The nearest directory that is there.
fn existing(directory: &Path) -> PathBuf {
    let found = directory.ancestors().find(|directory| directory.is_dir());
    found.filter(|found| *found != Path::new("")).unwrap_or(Path::new(".")).to_owned()
}

pub(super) fn room(config: &Config) -> Finding {
    let free = fs4::available_space(existing(&config.data_dir));
    let least = config.health.min_free.unwrap_or(0);
    match free {
        Ok(free) if free < least => Finding::bad(
            "room",
            format!("{} MiB free, health.min_free wants {}", free >> 20, least >> 20),
            "Make room, or lower health.min_free: a machine below it doesn't reign.",
        ),
        Ok(free) => Finding::good("room", format!("{} MiB free on the data directory's disk", free >> 20)),
        Err(error) => Finding::bad("room", error.to_string(), "The disk must tell how much is free."),
    }
}

pub(super) fn sync(config: &Config) -> Finding {
    match probe::fsync(&existing(&config.data_dir)) {
        Ok(times) => {
            sync_times(times.percentile(50), times.percentile(99), times.max(), config.health.slow_sync)
        }
        Err(error) => Finding::bad(
            "sync",
            in_words(&error),
            "The account that runs tanist must be able to write there.",
        ),
    }
}

fn sync_times(middle: Duration, p99: Duration, worst: Duration, slow: Option<Duration>) -> Finding {
    let found = format!("4 KiB to disk in {middle:.1?} (p99 {p99:.1?}, worst {worst:.1?})");
    if middle < TOO_FAST {
        let advice = "No disk is so fast: a RAM disk, or a file system or controller that doesn't wait for the disk. A power cut may lose \
                      acknowledged writes here.";
        return Finding::warning("sync", found, advice);
    }
    if slow.is_some_and(|slow| worst >= slow) {
        let advice = "With health.slow_sync such a machine counts as unhealthy: another disk, or less load on this one.";
        return Finding::bad("sync", found, advice);
    }
    if middle > SLOW {
        return Finding::warning("sync", found, "Each write waits for that: an SSD makes them faster.");
    }
    Finding::good("sync", found)
}

fn wall_clock(now_ms: Option<u64>) -> Finding {
    match now_ms {
        Some(now) if now >= NEVER_SET_MS => Finding::good("clock", "set"),
        _ => Finding::warning(
            "clock",
            "it was never set",
            "Nothing that keeps data safe depends on it, but times in logs, events and copies will be wrong.",
        ),
    }
}

/// By how much a timer came late, at worst.
async fn late_ticks() -> Duration {
    let mut worst = Duration::ZERO;
    for _ in 0..TICKS {
        let began = Instant::now();
        tokio::time::sleep(TICK).await;
        worst = worst.max(began.elapsed().saturating_sub(TICK));
    }
    worst
}

fn timer(late: Duration, heartbeat: Duration) -> Finding {
    let found = format!("a timer of {TICK:?} came {late:.1?} late at worst");
    if late < heartbeat {
        return Finding::good("timer", found);
    }
    let advice = "This computer is too busy, or pauses (a virtual machine, power saving): raise timing.heartbeat and timing.lease on all \
                  machines, or take load away.";
    Finding::warning("timer", found, advice)
}

/// Connections, files and links each take one. The machine raises its own limit as far as it may.
#[cfg(unix)]
fn open_files(config: &Config) -> Option<Finding> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum?;
    let wanted = descriptors::wanted(config);
    let found = format!("{limit} may be open, limits.connections and all else want {wanted}");
    Some(match limit >= wanted {
        true => Finding::good("open files", found),
        false => Finding::warning(
            "open files",
            found,
            "Fewer clients can be connected: raise the limit (LimitNOFILE in a systemd unit, ulimit -Hn), or lower limits.connections.",
        ),
    })
}

/// Whether a program can be found where the system would look.
fn runnable(field: &'static str, program: &str) -> Finding {
    let path = Path::new(program);
    let found = if path.components().count() > 1 {
        is_program(path).then(|| path.to_owned())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).map(|place| place.join(program));
        let places = places.flat_map(|place| [place.with_extension("exe"), place]);
        places.into_iter().find(|place| is_program(place))
    };
    match found {
        Some(path) => Finding::good(field, path.display().to_string()),
        None => Finding::bad(
            field,
            format!("{program} isn't a program that can be run"),
            "Give its full path, and the right to run it to the account that runs tanist.",
        ),
    }
}

fn is_program(path: &Path) -> bool {
    let Ok(file) = std::fs::metadata(path) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.is_file() && file.permissions().mode() & 0o111 != 0
    }
    #[cfg(not(unix))]
    file.is_file()
}

pub(super) fn copies(config: &Config) -> Option<Finding> {
    let backup = config.backup.as_ref()?;
    let directory = &backup.directory;
    let test = existing(directory).join(format!(".tanist-doctor-{}", std::process::id()));
    let written = std::fs::write(&test, b"x").and_then(|()| std::fs::remove_file(&test));
    if let Err(error) = written {
        let found = format!("{}: {error}", directory.display());
        return Some(Finding::bad("copies", found, "Give it to the account that runs tanist."));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let device = |path: &Path| std::fs::metadata(existing(path)).ok().map(|file| file.dev());
        if device(directory).is_some() && device(directory) == device(&config.data_dir) {
            let found = format!("{} is on the same disk as the data", directory.display());
            let advice = "A copy elsewhere survives this disk: set backup.directory to another one.";
            return Some(Finding::warning("copies", found, advice));
        }
    }
    Some(Finding::good("copies", directory.display().to_string()))
}

/// What a name resolves to.
pub(super) async fn resolve(address: &str) -> std::io::Result<Vec<std::net::SocketAddr>> {
    Ok(lookup_host(address).await?.collect())
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn disks_are_judged_by_what_a_sync_takes() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let verdict = |middle, worst| sync_times(middle, worst, worst, Some(ms(1000))).verdict;
        assert_eq!(verdict(us(200), ms(5)), Verdict::Good);
        assert_eq!(verdict(us(2), us(90)), Verdict::Warning);
        assert_eq!(verdict(ms(60), ms(90)), Verdict::Warning);
        assert_eq!(verdict(us(200), ms(1500)), Verdict::Bad);
        assert_eq!(sync_times(us(200), ms(1), ms(1500), None).verdict, Verdict::Good);
    }

    #[test]
    fn clocks_and_timers_that_are_off_are_told() {
        assert_eq!(wall_clock(Some(NEVER_SET_MS + 1)).verdict, Verdict::Good);
        assert_eq!(wall_clock(Some(0)).verdict, Verdict::Warning);
        assert_eq!(wall_clock(None).verdict, Verdict::Warning);
        let heartbeat = Duration::from_millis(100);
        assert_eq!(timer(Duration::from_millis(16), heartbeat).verdict, Verdict::Good);
        assert_eq!(timer(Duration::from_millis(160), heartbeat).verdict, Verdict::Warning);
    }

    #[tokio::test]
    async fn a_port_that_another_program_has_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap().to_string();
        let taken = port("http port", &address, Process::Stands).await;
        assert_eq!(taken.verdict, Verdict::Bad);
        assert!(taken.advice.unwrap().contains("Another program listens there"));
        assert_eq!(port("http port", &address, Process::Runs).await.verdict, Verdict::Good);
        drop(other);
        assert_eq!(port("http port", &address, Process::Stands).await.verdict, Verdict::Good);
        let foreign = port("peer port", "192.0.2.1:7450", Process::Stands).await;
        assert!(foreign.verdict == Verdict::Bad && foreign.advice.unwrap().contains("network card"));
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_judged_as_the_machine_judges_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::TempDir::new().unwrap();
        let (file, key) = (dir.path().join("tanist.toml"), dir.path().join("cluster.key"));
        let text = "cluster = \"wall\"\nid = \"a\"\nkey_file = \"cluster.key\"\n\
                    [[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n";
        for path in [&key, &dir.path().join("cluster.key.next")] {
            std::fs::write(path, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        for (mode, verdict) in [(0o600, Verdict::Good), (0o640, Verdict::Bad), (0o644, Verdict::Bad)] {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            let config = Config::parse(&file, text).unwrap();
            let found = secrecy(&file, &config);
            assert_eq!(found.len(), 2, "both keys: {found:?}");
            assert_eq!(found[0].verdict, verdict, "{mode:o}");
            assert_eq!(config.check_secrets(&file).is_ok(), verdict == Verdict::Good, "{mode:o}");
            let advice = found[0].advice.clone().unwrap_or_default();
            assert_eq!(advice.starts_with("chmod 600 "), verdict == Verdict::Bad, "{advice}");
        }
    }

    #[test]
    fn certificate_whose_end_is_near_is_told() {
        let dir = tempfile::TempDir::new().unwrap();
        let (cert_file, key_file) = (dir.path().join("t.crt"), dir.path().join("t.key"));
        let config = |days: i64| {
            let now = clock::wall_ms().unwrap() / 1000;
            let end = i64::try_from(now).unwrap() + days * 24 * 3600 + 60;
            let key = rcgen::KeyPair::generate().unwrap();
            let mut parameters = rcgen::CertificateParams::new(vec!["pc-1".to_owned()]).unwrap();
            // rcgen has no other way from a number of seconds.
            let epoch = rcgen::date_time_ymd(1970, 1, 1);
            parameters.not_after = epoch + Duration::from_secs(end.unsigned_abs());
            std::fs::write(&cert_file, parameters.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(&key_file, key.serialize_pem()).unwrap();
            let text = format!(
                "cluster = \"wall\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n\
                 [tls]\ncert_file = {cert_file:?}\nkey_file = {key_file:?}\n\
                 [[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n"
            );
            certificate(&Config::parse(Path::new("tanist.toml"), &text).unwrap()).unwrap()
        };
        assert_eq!(config(40).verdict, Verdict::Good);
        let soon = config(29);
        assert!(soon.verdict == Verdict::Warning && soon.found.contains("29 days"), "{soon:?}");
        assert_eq!(config(-2).verdict, Verdict::Bad);
    }

    #[cfg(unix)]
    #[test]
    fn programs_are_found_as_the_system_finds_them() {
        assert_eq!(runnable("service.command", "/bin/sh").verdict, Verdict::Good);
        assert_eq!(runnable("service.command", "sh").verdict, Verdict::Good);
        for missing in ["/no/such/program", "no-such-program", "/etc/passwd", "/tmp"] {
            let found = runnable("service.command", missing);
            assert!(found.verdict == Verdict::Bad && found.found.contains(missing), "{found:?}");
        }
    }
}
