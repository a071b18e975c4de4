//! What is logged, and where to: the standard error output, rolling files, and a host's own observer.

use std::sync::OnceLock;

use anyhow::Context as _;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use super::log_file::LogFile;
use crate::config::{Config, LogFiles, LogFormat};

/// Sees what is logged, by a filter of its own.
pub type Observer = BoxedLayer;

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Lines that wait for the disk; when it is slower, further ones are left out of the file.
const WAITING_LINES: usize = 8192;

/// What is logged: as the environment says, or else the file.
pub(super) fn log_filter(config: &Config) -> anyhow::Result<EnvFilter> {
    let given = std::env::var("TANIST_LOG").ok().filter(|filter| !filter.is_empty());
    // The file's is checked even when it doesn't count.
    let parse = |filter: &str| {
        EnvFilter::try_new(filter).with_context(|| {
            format!("log.filter {filter:?}: expected such as \"info\" or \"tanist_server=debug\"")
        })
    };
    let file = parse(&config.log.filter)?;
    given.map_or(Ok(file), |given| parse(&given))
}

/// Keeps the log running, and writes what waits when it is dropped.
pub(super) struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    _file: Option<WorkerGuard>,
}

impl Logging {
    /// Starts to log. An embedding program may have its own logging already: that one is used then.
    pub(super) fn start(
        config: &Config,
        files: Option<&LogFiles>,
        observer: Option<Observer>,
    ) -> anyhow::Result<Logging> {
        let (filter, handle) = reload::Layer::new(log_filter(config)?);
        let format = config.log.format;
        let color =
            std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
        let mut lines = layer(format, color, std::io::stderr);
        let mut guard = None;
        if let Some(files) = files {
            let (file, keeps) = open(files)?;
            lines = Box::new(lines.and_then(layer(format, false, file)));
            guard = Some(keeps);
        }
        let mut layers: Vec<BoxedLayer> = vec![Box::new(lines.with_filter(filter))];
        layers.extend(observer);
        drop(tracing_subscriber::registry().with(layers).try_init());
        Ok(Logging { filter: handle, _file: guard })
    }

    /// Logs by another filter from now on.
    pub(super) fn set_filter(&self, filter: EnvFilter) {
        drop(self.filter.reload(filter));
    }
}

fn layer<W>(format: LogFormat, color: bool, writer: W) -> BoxedLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(color).with_writer(writer);
    match format {
        LogFormat::Text => Box::new(layer.with_target(false)),
        LogFormat::Json => Box::new(layer.json()),
    }
}

/// The files, behind a thread: nobody who logs waits for the disk.
fn open(files: &LogFiles) -> anyhow::Result<(NonBlocking, WorkerGuard)> {
    let file = LogFile::open(files)
        .with_context(|| format!("log.directory: write to {}", files.directory.display()))?;
    Ok(NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(file))
}

/// A panic's message goes to the log, too: a service has no terminal.
pub(super) fn log_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!(panic = %panic, "a part of this program has failed");
            usual(panic);
        }));
    });
}
