//! `tanist run`: one machine, until it is told to stop.
//!
//! Owns logging and signals; everything else is [`crate::Server`].

use std::path::Path;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::{
    Server, ServerError,
    config::{Config, LogFormat},
};

/// Runs a machine from its configuration file.
///
/// # Errors
/// When the configuration is wrong, something it names can't be used, or the machine's own disk fails.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    start_logging(&config)?;
    for warning in config.warnings() {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    loop {
        let mut server = Server::start(config.clone()).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            http = %server.http_address(),
            peer = %server.peer_address(),
            "tanist runs"
        );
        tokio::select! {
            signal = stop_signal() => {
                tracing::info!(signal, "stopping");
                server.stop().await;
                tracing::info!("stopped");
                return Ok(());
            }
            error = server.failed() => match error {
                ServerError::RankChanged => {
                    tracing::info!(why = %error, "starting anew");
                    server.stop().await;
                }
                error => {
                    server.end_hooks().await;
                    return Err(error).context("this machine must stop");
                }
            },
        }
    }
}

fn start_logging(config: &Config) -> anyhow::Result<()> {
    let filter = std::env::var("TANIST_LOG").unwrap_or_else(|_| config.log.filter.clone());
    let filter = EnvFilter::try_new(&filter).with_context(|| {
        format!("log.filter {filter:?}: expected such as \"info\" or \"tanist_server=debug\"")
    })?;
    let color =
        std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    let started = match config.log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // An embedding program may have its own logging already: that one is used then.
    drop(started);
    Ok(())
}

async fn stop_signal() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = tokio::signal::ctrl_c() => "interrupt",
                _ = terminate.recv() => "terminate",
            };
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    "interrupt"
}
