//! What is logged, and where to: the standard error output, rolling files, and a host's own observer.

use std::sync::OnceLock;

use anyhow::Context as _;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::MakeWriter,
    layer::{Layered, SubscriberExt as _},
    reload,
};

use super::{lines::Lines, log_file::LogFile};
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
        let (subscriber, logging) = Logging::build(config, files, observer)?;
        // Not `init`, which takes in what `log` gets, too, where a dependency has switched that on.
        drop(tracing::subscriber::set_global_default(subscriber));
        Ok(logging)
    }

    fn build(
        config: &Config,
        files: Option<&LogFiles>,
        observer: Option<Observer>,
    ) -> anyhow::Result<(Layered<Vec<BoxedLayer>, Registry>, Logging)> {
        let (filter, handle) = reload::Layer::new(log_filter(config)?);
        let format = config.log.format;
        // Consoles before Windows 10 know no colours.
        let color = !cfg!(windows)
            && std::env::var_os("NO_COLOR").is_none()
            && std::io::IsTerminal::is_terminal(&std::io::stderr());
        let mut lines = layer(format, color, std::io::stderr);
        let mut guard = None;
        if let Some(files) = files {
            let (file, keeps) = open(files)?;
            lines = Box::new(lines.and_then(layer(format, false, file)));
            guard = Some(keeps);
        }
        let mut layers: Vec<BoxedLayer> = vec![Box::new(lines.with_filter(filter))];
        layers.extend(observer);
        Ok((tracing_subscriber::registry().with(layers), Logging { filter: handle, _file: guard }))
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
    let layer = tracing_subscriber::fmt::layer().with_ansi(color).with_writer(Lines::to(writer, color));
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

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{Arc, Mutex},
    };

    use tanist_windows::events::Operators;

    use super::*;

    #[test]
    fn observer_sees_what_the_filter_hides_and_the_file_gets_what_it_lets_pass() {
        let text = "cluster = \"wall\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n\
                    [log]\nfilter = \"error\"\n[[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n";
        let config = Config::parse(Path::new("t.toml"), text).unwrap();
        let dir = tempfile::TempDir::new().unwrap();
        let files = LogFiles::of(dir.path().to_owned());
        let seen = Arc::new(Mutex::new(vec![]));
        let into = Arc::clone(&seen);
        let observer = Operators::new(move |entry| into.lock().unwrap().push(entry.id)).layer();
        let (subscriber, logging) = Logging::build(&config, Some(&files), Some(Box::new(observer))).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "tanist_server::commands::run", "tanist runs");
            tracing::error!(target: "tanist_server::elsewhere", "a failure");
            logging.set_filter(EnvFilter::new("info"));
            tracing::info!(target: "tanist_server::commands::run", "stopped");
        });
        drop(logging);
        assert_eq!(*seen.lock().unwrap(), [1, 2]);
        let text = std::fs::read_to_string(dir.path().join("tanist.log")).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("a failure") && lines[1].contains("stopped"), "{text}");
    }
}
