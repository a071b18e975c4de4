//! The service itself: what the service manager starts, and how it is kept informed.
//!
//! Owns the states that are reported. While the machine starts or stops, a thread reports progress, so that the service manager
//! waits for as long as is needed, but not for ever. What is done is a closure's.

use std::{
    ffi::OsString,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use windows_service::{
    define_windows_service,
    service::{
        PowerEventParam, ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus,
        ServiceType,
    },
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
};

/// Progress is reported so often, and promised for three times as long.
const STEP: Duration = Duration::from_secs(1);
/// Windows gives services two seconds before it sleeps.
const SLEEP: Duration = Duration::from_millis(1800);
/// Controls that wait; there are few, and none is worth waiting for.
const CONTROLS: usize = 8;
/// The service's own exit code for a failure; more is in the Event Log.
const FAILURE: u32 = 1;

/// What Windows wants of the service.
#[derive(Debug)]
pub enum Control {
    /// End well. Why, in a word.
    Stop(&'static str),
    /// The computer goes to sleep in less than two seconds. Answered when it may.
    Suspend(SyncSender<()>),
}

/// The service as it runs.
#[derive(Debug)]
pub struct Session {
    controls: Option<Receiver<Control>>,
    reporter: Arc<Reporter>,
}

impl Session {
    /// What Windows wants, as it comes; given out once. After a stop nothing more comes.
    pub fn controls(&mut self) -> Option<Receiver<Control>> {
        self.controls.take()
    }

    /// A way to say that the service does its work from now on.
    pub fn ready(&self) -> impl Fn() + Send + Sync + 'static {
        let reporter = Arc::clone(&self.reporter);
        move || reporter.enter(ServiceState::Running)
    }

    /// A way to say that it ends: the service manager waits for it, as long as it was told.
    pub fn stopping(&self) -> impl Fn() + Send + Sync + 'static {
        let reporter = Arc::clone(&self.reporter);
        move || reporter.enter(ServiceState::StopPending)
    }
}

type Body = Box<dyn FnOnce(Session) -> Result<(), String> + Send>;

struct Given {
    name: String,
    limit: Duration,
    body: Mutex<Option<Body>>,
}

/// Windows calls a function without a context, once in a process.
static GIVEN: OnceLock<Given> = OnceLock::new();

define_windows_service!(service_main, main);

/// Becomes the service `name`, which the service manager has just started, and returns when it has ended. `body` does its work; an error
/// makes the service manager start it again. Starting and stopping may take `limit` each.
///
/// # Errors
/// When this process wasn't started by the service manager.
pub fn run(
    name: &str,
    limit: Duration,
    body: impl FnOnce(Session) -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let given = Given { name: name.to_owned(), limit, body: Mutex::new(Some(Box::new(body))) };
    if GIVEN.set(given).is_err() {
        return Err("this process is a service already".to_owned());
    }
    service_dispatcher::start(name, service_main).map_err(|error| {
        format!(
            "only the service manager of Windows starts this: `tanist service start` asks it to ({error})"
        )
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main(_: Vec<OsString>) {
    let Some(given) = GIVEN.get() else { return };
    let Some(body) = lock(&given.body).take() else { return };
    let reporter = Arc::new(Reporter::new(given.limit));
    let (sender, controls) = sync_channel(CONTROLS);
    let Ok(handle) = service_control_handler::register(&given.name, handler(sender, Arc::clone(&reporter)))
    else {
        return; // nobody to tell
    };
    reporter.begin(handle);
    let session = Session { controls: Some(controls), reporter: Arc::clone(&reporter) };
    let ended = body(session);
    reporter.end(ended.is_ok());
}

fn handler(
    controls: SyncSender<Control>,
    reporter: Arc<Reporter>,
) -> impl FnMut(ServiceControl) -> ServiceControlHandlerResult + Send + 'static {
    move |control| match control {
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            // Before this returns: from then on no control may come any more.
            reporter.enter(ServiceState::StopPending);
            let why = match control {
                ServiceControl::Stop => "the service is stopped",
                _ => "the system shuts down",
            };
            let _ = controls.try_send(Control::Stop(why));
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::PowerEvent(PowerEventParam::Suspend) => {
            let (done, wait) = sync_channel(1);
            if controls.try_send(Control::Suspend(done)).is_ok() {
                let _ = wait.recv_timeout(SLEEP);
            }
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::PowerEvent(_) => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    }
}

/// Tells the service manager how far the service is.
#[derive(Debug)]
struct Reporter {
    limit: Duration,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    handle: Option<ServiceStatusHandle>,
    state: ServiceState,
    since: Instant,
    checkpoint: u32,
    exit: u32,
}

impl Reporter {
    fn new(limit: Duration) -> Reporter {
        let now = Now {
            handle: None,
            state: ServiceState::StartPending,
            since: Instant::now(),
            checkpoint: 1,
            exit: 0,
        };
        Reporter { limit, now: Mutex::new(now) }
    }

    fn begin(self: &Arc<Self>, handle: ServiceStatusHandle) {
        let mut now = lock(&self.now);
        now.handle = Some(handle);
        now.report();
        drop(now);
        let reporter = Arc::downgrade(self);
        let progress = move || {
            loop {
                std::thread::sleep(STEP);
                let Some(reporter) = reporter.upgrade() else { return };
                let mut now = lock(&reporter.now);
                let is_pending = matches!(now.state, ServiceState::StartPending | ServiceState::StopPending);
                if is_pending && now.since.elapsed() < reporter.limit {
                    now.checkpoint += 1;
                    now.report();
                }
            }
        };
        // Without it the service manager is less patient, that is all.
        let _ = std::thread::Builder::new().name("service-progress".into()).spawn(progress);
    }

    /// The states are passed in one direction only.
    fn enter(&self, state: ServiceState) {
        let mut now = lock(&self.now);
        let is_next = match state {
            ServiceState::Running => now.state == ServiceState::StartPending,
            ServiceState::StopPending => {
                matches!(now.state, ServiceState::StartPending | ServiceState::Running)
            }
            _ => now.state != ServiceState::Stopped,
        };
        if is_next {
            now.state = state;
            now.since = Instant::now();
            now.checkpoint = 1;
            now.report();
        }
    }

    fn end(&self, well: bool) {
        lock(&self.now).exit = if well { 0 } else { FAILURE };
        self.enter(ServiceState::Stopped);
    }
}

impl Now {
    fn report(&self) {
        let is_pending = matches!(self.state, ServiceState::StartPending | ServiceState::StopPending);
        let status = ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: self.state,
            controls_accepted: match self.state {
                ServiceState::Running => {
                    ServiceControlAccept::STOP
                        | ServiceControlAccept::PRESHUTDOWN
                        | ServiceControlAccept::POWER_EVENT
                }
                _ => ServiceControlAccept::empty(),
            },
            exit_code: match self.exit {
                0 => ServiceExitCode::Win32(0),
                code => ServiceExitCode::ServiceSpecific(code),
            },
            checkpoint: if is_pending { self.checkpoint } else { 0 },
            wait_hint: if is_pending { STEP * 3 } else { Duration::ZERO },
            process_id: None,
        };
        if let Some(handle) = self.handle {
            // The next report says it again.
            let _ = handle.set_service_status(status);
        }
    }
}
