//! The service in the service manager's database.

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use windows_service::{
    service::{
        Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceExitCode,
        ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState,
        ServiceType,
    },
    service_manager::{ServiceManager, ServiceManagerAccess},
};

/// How often a service that starts or stops is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A service that starts or stops and gives no sign of progress for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// `ERROR_ACCESS_DENIED`
const ACCESS_DENIED: i32 = 5;
/// `ERROR_INVALID_LEVEL`
const INVALID_LEVEL: i32 = 124;
/// `ERROR_SERVICE_ALREADY_RUNNING`
const ALREADY_RUNNING: i32 = 1056;
/// `ERROR_SERVICE_DOES_NOT_EXIST`
const DOES_NOT_EXIST: i32 = 1060;
/// `ERROR_SERVICE_NOT_ACTIVE`
const NOT_ACTIVE: i32 = 1062;
/// `ERROR_SERVICE_MARKED_FOR_DELETE`
const MARKED_FOR_DELETE: i32 = 1072;

/// Why the service manager didn't do it.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no such service.
    #[error("service {0} isn't installed")]
    NotInstalled(String),
    /// The service manager refused.
    #[error("{what}: {why}{}", advice(*code))]
    Windows {
        /// What was tried.
        what: String,
        /// What it said.
        why: String,
        /// Its number.
        code: Option<i32>,
    },
    /// It ended instead of starting.
    #[error("service {name} has ended at once ({exit}): the Event Log (Application, source Tanist) says why")]
    Ended {
        /// The service.
        name: String,
        /// How.
        exit: String,
    },
    /// It neither starts nor stops.
    #[error("service {name} is {state} and makes no progress")]
    Stuck {
        /// The service.
        name: String,
        /// Its state.
        state: &'static str,
    },
}

fn advice(code: Option<i32>) -> &'static str {
    match code {
        Some(ACCESS_DENIED) => "; run this as administrator",
        Some(MARKED_FOR_DELETE) => {
            "; the old service goes when every program that has it open has ended: close the Services window"
        }
        _ => "",
    }
}

fn code(error: &windows_service::Error) -> Option<i32> {
    match error {
        windows_service::Error::Winapi(error) => error.raw_os_error(),
        _ => None,
    }
}

fn failed<'a>(what: &'a str) -> impl Fn(windows_service::Error) -> ServiceError + 'a {
    move |error| {
        let why = match &error {
            windows_service::Error::Winapi(error) => error.to_string(),
            other => other.to_string(),
        };
        ServiceError::Windows { what: what.to_owned(), why, code: code(&error) }
    }
}

/// What is to be installed.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The service's name.
    pub name: String,
    /// What people read in the Services window.
    pub description: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// As whom it runs: `NT SERVICE\<name>`, `LocalSystem`, or another built-in account without a password.
    pub account: String,
    /// How long a shutdown of Windows may wait for it.
    pub stop_time: Duration,
}

/// How a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `running`, `starting`, `stopping`, `stopped`, `failed` or `paused`.
    pub state: &'static str,
    /// Whether Windows starts it.
    pub at_boot: bool,
    /// Its process, while it runs.
    pub pid: Option<u32>,
}

/// Installs a service, or changes it to what it shall be. It isn't started. Gives the settings that this system doesn't know (Wine lacks some).
///
/// # Errors
/// See [`ServiceError`].
pub fn install(installation: &Installation) -> Result<Vec<&'static str>, ServiceError> {
    let name = &installation.name;
    let what = format!("install service {name}");
    let fail = failed(&what);
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(&fail)?;
    let info = ServiceInfo {
        name: name.into(),
        display_name: name.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: installation.program.clone(),
        launch_arguments: installation.arguments.clone(),
        dependencies: vec![],
        account_name: Some(installation.account.clone().into())
            .filter(|_| installation.account != "LocalSystem"),
        account_password: None,
    };
    // To let it be started again takes the right to start it.
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::QUERY_CONFIG | ServiceAccess::START;
    let service = match manager.open_service(name, access) {
        Ok(service) => {
            service.change_config(&info).map_err(&fail)?;
            service
        }
        Err(error) if code(&error) == Some(DOES_NOT_EXIST) => {
            manager.create_service(&info, access).map_err(&fail)?
        }
        Err(error) => return Err(fail(error)),
    };
    let again = |seconds| ServiceAction {
        action_type: ServiceActionType::Restart,
        delay: Duration::from_secs(seconds),
    };
    let failure = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(3600)),
        reboot_msg: None,
        command: None,
        actions: Some(vec![again(1), again(5), again(30)]),
    };
    let settings = [
        ("its description", service.set_description(&installation.description)),
        // After what Windows itself needs at boot: the others have machines that run already.
        ("a delayed start", service.set_delayed_auto_start(true)),
        ("the time for a shutdown", service.set_preshutdown_timeout(installation.stop_time)),
        ("a start after a failure", service.update_failure_actions(failure)),
        // When its disk fails, for instance.
        ("a start after it has ended by itself", service.set_failure_actions_on_non_crash_failures(true)),
    ];
    let mut unknown = vec![];
    for (setting, result) in settings {
        match result {
            Err(error) if code(&error) == Some(INVALID_LEVEL) => unknown.push(setting),
            result => result.map_err(&fail)?,
        }
    }
    Ok(unknown)
}

fn open(name: &str, access: ServiceAccess) -> Result<Service, ServiceError> {
    let what = format!("open service {name}");
    let manager =
        ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).map_err(failed(&what))?;
    manager.open_service(name, access).map_err(|error| match code(&error) {
        Some(DOES_NOT_EXIST) => ServiceError::NotInstalled(name.to_owned()),
        _ => failed(&what)(error),
    })
}

fn word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Running => "running",
        ServiceState::StartPending | ServiceState::ContinuePending => "starting",
        ServiceState::StopPending => "stopping",
        ServiceState::Stopped => "stopped",
        ServiceState::Paused | ServiceState::PausePending => "paused",
    }
}

/// Waits until the service is in the state, as long as it makes progress.
fn wait(name: &str, service: &Service, wanted: ServiceState) -> Result<(), ServiceError> {
    let what = format!("look at service {name}");
    let (mut seen, mut since) = (None, Instant::now());
    loop {
        let status = service.query_status().map_err(failed(&what))?;
        let state = status.current_state;
        if state == wanted {
            return Ok(());
        }
        if state == ServiceState::Stopped {
            let exit = match status.exit_code {
                ServiceExitCode::Win32(code) => format!("error {code}"),
                ServiceExitCode::ServiceSpecific(code) => format!("its own error {code}"),
            };
            return Err(ServiceError::Ended { name: name.to_owned(), exit });
        }
        let now = Some((state, status.checkpoint));
        if seen != now {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() > STUCK.max(status.wait_hint * 2) {
            return Err(ServiceError::Stuck { name: name.to_owned(), state: word(state) });
        }
        std::thread::sleep(LOOK);
    }
}

/// Starts a service and waits until it runs. One that runs is left alone.
///
/// # Errors
/// See [`ServiceError`].
pub fn start(name: &str) -> Result<(), ServiceError> {
    let service = open(name, ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
    match service.start::<&str>(&[]) {
        Err(error) if code(&error) != Some(ALREADY_RUNNING) => {
            Err(failed(&format!("start service {name}"))(error))
        }
        _ => wait(name, &service, ServiceState::Running),
    }
}

/// Stops a service and waits until it has ended. One that doesn't run is left alone.
///
/// # Errors
/// See [`ServiceError`].
pub fn stop(name: &str) -> Result<(), ServiceError> {
    let service = open(name, ServiceAccess::STOP | ServiceAccess::QUERY_STATUS)?;
    let what = format!("stop service {name}");
    let state = service.query_status().map_err(failed(&what))?.current_state;
    if state == ServiceState::StartPending {
        // It can't be stopped before; one that fails has stopped.
        if let Err(ServiceError::Ended { .. }) = wait(name, &service, ServiceState::Running) {
            return Ok(());
        }
    }
    match service.stop() {
        Err(error) if code(&error) == Some(NOT_ACTIVE) => Ok(()),
        Err(error)
            if service.query_status().is_ok_and(|now| now.current_state == ServiceState::StopPending) =>
        {
            drop(error);
            wait(name, &service, ServiceState::Stopped)
        }
        Err(error) => Err(failed(&what)(error)),
        Ok(_) => wait(name, &service, ServiceState::Stopped),
    }
}

/// Stops a service and removes it.
///
/// # Errors
/// See [`ServiceError`].
pub fn uninstall(name: &str) -> Result<(), ServiceError> {
    stop(name)?;
    let what = format!("remove service {name}");
    open(name, ServiceAccess::DELETE)?.delete().map_err(failed(&what))
}

/// How a service is; `None` when there is none of that name.
///
/// # Errors
/// See [`ServiceError`].
pub fn status(name: &str) -> Result<Option<Status>, ServiceError> {
    let what = format!("look at service {name}");
    let service = match open(name, ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG) {
        Err(ServiceError::NotInstalled(_)) => return Ok(None),
        opened => opened?,
    };
    let status = service.query_status().map_err(failed(&what))?;
    let config = service.query_config().map_err(failed(&what))?;
    let has_failed = status.current_state == ServiceState::Stopped
        && matches!(status.exit_code, ServiceExitCode::ServiceSpecific(_));
    Ok(Some(Status {
        state: if has_failed { "failed" } else { word(status.current_state) },
        at_boot: config.start_type == ServiceStartType::AutoStart,
        pid: status.process_id,
    }))
}
