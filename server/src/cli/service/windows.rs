//! Services by the service manager of Windows; how it is spoken to is in the crate `tanist-windows`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tanist_windows::{
    Access, Control, EventLog, Installation, Session,
    events::{Entry, FAILED, Operators, Severity},
    firewall::Firewall,
    one_line::one_line,
};
use tokio::sync::{mpsc, oneshot};

use super::{Plan, ServiceStatus, stop_time, writable};
use crate::{
    causes::in_words,
    commands::{self, Host, Phase, Wish},
    config::Config,
};

/// An account of the service's own: it is made by Windows with the service, has no password, may do no more than any user, and its
/// name stands in the folders' rights. `LocalService` is shared with services of others, who could read the cluster's key then.
fn account(plan: &Plan) -> String {
    plan.account.clone().unwrap_or_else(|| format!(r"NT SERVICE\{}", plan.name))
}

fn installation(plan: &Plan) -> Installation {
    Installation {
        name: plan.name.clone(),
        description: format!(
            "Tanist, replicated SQLite master: {} of {}. Configuration: {}",
            plan.config.id,
            plan.config.cluster,
            plan.file.display()
        ),
        program: plan.program.clone(),
        arguments: vec![
            "service".into(),
            "run".into(),
            "--name".into(),
            plan.name.clone().into(),
            "--config".into(),
            plan.file.clone().into(),
        ],
        account: account(plan),
        stop_time: stop_time(&plan.config),
    }
}

fn failed(why: String) -> anyhow::Error {
    anyhow::Error::msg(why)
}

pub(super) fn print(plan: &Plan) -> anyhow::Result<()> {
    let Installation { name, description, program, arguments, account, stop_time } = installation(plan);
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    println!("service:     {name}, started at boot (delayed), and again after a failure");
    println!("description: {description}");
    println!("command:     \"{}\" {}", program.display(), arguments.join(" "));
    println!("account:     {account}");
    println!("shutdown:    Windows waits up to {} s for it", stop_time.as_secs());
    for (folder, access) in folders(plan) {
        println!("folder:      {} ({access:?})", folder.display());
    }
    Ok(())
}

/// Folders that the account needs, the widest right last.
fn folders(plan: &Plan) -> Vec<(PathBuf, Access)> {
    let folder = plan.file.parent().unwrap_or(Path::new(".")).to_owned();
    let mut folders = vec![(folder.clone(), Access::Read)];
    let access = |folder: &Path| if *folder == plan.config.data_dir { Access::Data } else { Access::Write };
    folders.extend(writable(&plan.config).into_iter().map(|folder| (folder.to_owned(), access(folder))));
    if plan.config.log.files.is_none() {
        folders.push((logs(&plan.file), Access::Write));
    }
    folders
}

/// Where the log is, if the configuration doesn't say it: a service has no standard error output.
fn logs(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).join("logs")
}

pub(super) fn install(plan: &Plan) -> anyhow::Result<()> {
    let installation = installation(plan);
    // Before anything that stands there is used.
    let files = plan.config.watched_files().into_iter().map(|(_, file)| file).chain([plan.file.clone()]);
    for place in folders(plan).into_iter().map(|(folder, _)| folder).chain(files) {
        tanist_windows::check(&place, plan.trust_folder).map_err(failed)?;
    }
    for setting in tanist_windows::install(&installation)? {
        println!("Note: this system doesn't know {setting} of services.");
    }
    // The account is there when the service is.
    for (folder, access) in folders(plan) {
        tanist_windows::restrict(&folder, &installation.account, access, plan.trust_folder)
            .map_err(failed)?;
    }
    tanist_windows::register_source().map_err(failed)
}

pub(super) fn firewall(firewall: &Firewall) -> anyhow::Result<()> {
    tanist_windows::set_firewall(firewall).map_err(failed)
}

pub(super) fn start(name: &str) -> anyhow::Result<()> {
    Ok(tanist_windows::start(name)?)
}

pub(super) fn stop(name: &str) -> anyhow::Result<()> {
    Ok(tanist_windows::stop(name)?)
}

pub(super) fn uninstall(name: &str) -> anyhow::Result<()> {
    tanist_windows::uninstall(name)?;
    // Old entries are shown without their frame then; other services of this program register the source at their next install.
    tanist_windows::unregister_source().map_err(failed)
}

pub(super) fn status(name: &str) -> anyhow::Result<ServiceStatus> {
    let known = tanist_windows::status(name)?;
    Ok(ServiceStatus {
        name: name.to_owned(),
        installed: known.is_some(),
        state: known.as_ref().map_or("none", |status| status.state).to_owned(),
        at_boot: known.as_ref().is_some_and(|status| status.at_boot),
        pid: known.and_then(|status| status.pid),
    })
}

/// Becomes the service.
pub(super) fn run(name: &str, file: &Path) -> anyhow::Result<()> {
    // A configuration that can't be read is told by the run itself, in the Event Log.
    let limit = Config::load(file).map_or(super::STOP, |config| stop_time(&config));
    let file = file.to_owned();
    tanist_windows::run(name, limit, move |session| machine(session, &file)).map_err(failed)
}

/// Runs the machine as the service's work.
fn machine(mut session: Session, file: &Path) -> Result<(), String> {
    let events = EventLog::open().map_err(|error| format!("start a thread: {error}"))?;
    let give = events.giver();
    let (ready, stopping) = (session.ready(), session.stopping());
    let (wishes, host) = Host::new(move |phase| match phase {
        Phase::Ready => ready(),
        Phase::Stopping => stopping(),
    });
    if let Some(controls) = session.controls() {
        let forward = move || controls.into_iter().for_each(|control| pass_on(control, &wishes));
        std::thread::Builder::new()
            .name("service-controls".into())
            .spawn(forward)
            .map_err(|error| format!("start a thread: {error}"))?;
    }
    let host =
        host.with_log_directory(logs(file)).with_observer(Box::new(Operators::new(give.clone()).layer()));
    let ended = crate::cli::runtime().and_then(|runtime| runtime.block_on(commands::run(file, host)));
    let ended = ended.with_context(|| format!("configuration {}", file.display()));
    if let Err(error) = &ended {
        give(Entry {
            id: FAILED,
            severity: Severity::Error,
            text: format!("tanist has ended: {}", one_line(&in_words(&error))),
        });
    }
    events.close();
    ended.map_err(|error| in_words(&error))
}

fn pass_on(control: Control, wishes: &mpsc::Sender<Wish>) {
    // A machine that has ended has no more wishes to grant.
    match control {
        Control::Stop(why) => drop(wishes.blocking_send(Wish::Stop(why))),
        Control::Suspend(done) => {
            let (answer, answered) = oneshot::channel();
            if wishes.blocking_send(Wish::GiveUpThrone(answer)).is_ok() {
                let _ = answered.blocking_recv();
            }
            let _ = done.try_send(());
        }
    }
}
