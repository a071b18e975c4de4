//! `tanist run`: one machine, until it is told to stop.
//!
//! Owns logging and signals; everything else is [`crate::Server`].

use std::path::Path;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::reload::Reload;
use crate::{
    Server, ServerError,
    config::{Config, LogFormat},
    stop::stop_signal,
};

/// Runs a machine from its configuration file.
///
/// # Errors
/// When the configuration is wrong, something it names can't be used, or the machine's own disk fails.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let text = Config::read(path)?;
    let mut config = Config::parse(path, &text)?;
    let set_filter = start_logging(&config)?;
    for warning in config.warnings() {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    let mut reload = Reload::watch(path, text);
    let mut stop = std::pin::pin!(stop_signal());
    'start: loop {
        let mut server = Server::start(config.clone()).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            http = %server.http_address(),
            peer = %server.peer_address(),
            "tanist runs"
        );
        loop {
            tokio::select! {
                signal = &mut stop => {
                    tracing::info!(signal, "stopping");
                    server.stop().await;
                    tracing::info!("stopped");
                    return Ok(());
                }
                change = reload.next() => match change {
                    Ok(change) => {
                        config.take_over(change.config);
                        server.apply(&config);
                        server.set_notice(None);
                        set_filter(change.filter);
                        // By the new filter, so that whoever asks for more sees that it is so.
                        let (file, fields) = (path.display(), change.fields.join(", "));
                        if !fields.is_empty() {
                            tracing::info!(%file, fields, "the configuration has changed");
                        }
                    }
                    Err(why) => {
                        let why = format!("{why}: refused, the old configuration stays in force");
                        tracing::error!("{why}");
                        server.set_notice(Some(why));
                    }
                },
                error = server.failed() => match error {
                    ServerError::RankChanged => {
                        tracing::info!(why = %error, "starting anew");
                        server.stop().await;
                        continue 'start;
                    }
                    error => {
                        server.end_hooks().await;
                        return Err(error).context("this machine must stop");
                    }
                },
            }
        }
    }
}

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

/// Sets another filter.
type SetFilter = Box<dyn Fn(EnvFilter)>;

fn start_logging(config: &Config) -> anyhow::Result<SetFilter> {
    let color =
        std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(log_filter(config)?)
        .with_writer(std::io::stderr)
        .with_ansi(color);
    // An embedding program may have its own logging already: that one is used then.
    Ok(match config.log.format {
        LogFormat::Text => {
            let builder = builder.with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            drop(builder.try_init());
            Box::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            drop(builder.try_init());
            Box::new(move |filter| drop(handle.reload(filter)))
        }
    })
}
