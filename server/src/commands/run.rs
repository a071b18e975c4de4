//! `tanist run`: one machine, until it is told to stop.
//!
//! Owns the course from the configuration file to the clean end; who asks for it is a [`Host`], everything else is
//! [`crate::Server`].

use std::path::Path;

use anyhow::{Context as _, bail};

use super::{
    host::{Host, Phase, Wish},
    logging::{Logging, log_panics},
    reload::Reload,
};
use crate::{
    DriverError, Server, ServerError,
    config::{Config, LogFiles},
    descriptors,
};

/// Runs a machine from its configuration file until its host wishes it to stop.
///
/// # Errors
/// When the configuration is wrong, something it names can't be used, or the machine's own disk fails.
pub async fn run(path: &Path, mut host: Host) -> anyhow::Result<()> {
    let text = Config::read(path)?;
    let mut config = Config::parse(path, &text)?;
    config.check_secrets(path)?;
    let files = config.log.files.clone().or_else(|| host.log_directory.take().map(LogFiles::of));
    let logging = Logging::start(&config, files.as_ref(), host.observer.take())?;
    log_panics();
    descriptors::raise(&config);
    for warning in config.warnings() {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    warn_of_write_filters();
    let mut reload = Reload::watch(path, text, &config);
    'start: loop {
        let mut server = Server::start(config.clone()).await?;
        if config.end_notice {
            server.tell_of_end();
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            http = %server.http_address(),
            peer = %server.peer_address(),
            "tanist runs"
        );
        host.tell(Phase::Ready);
        loop {
            tokio::select! {
                wish = host.wish() => match wish {
                    Wish::Stop(signal) => {
                        tracing::info!(signal, "stopping");
                        host.tell(Phase::Stopping);
                        let left = server.end().await.left;
                        if !left.is_empty() {
                            let left = left.join(", ");
                            tracing::error!(left, "ended without waiting for its disk");
                            bail!(
                                "ended without waiting for its disk, which doesn't answer ({left}): the next start looks what is \
                                 there, and the process is gone when the disk answers"
                            );
                        }
                        tracing::info!("stopped");
                        return Ok(());
                    }
                    Wish::Reload => reload.ask(),
                    Wish::GiveUpThrone(done) => {
                        server.give_up_throne().await;
                        let _ = done.send(());
                    }
                },
                change = reload.next() => match change {
                    Ok(change) => {
                        config.take_over(change.config);
                        server.apply(&config);
                        server.set_notice(None);
                        logging.set_filter(change.filter);
                        // By the new filter, so that whoever asks for more sees that it is so.
                        let (file, fields) = (path.display(), change.fields.join(", "));
                        if !fields.is_empty() {
                            tracing::info!(%file, fields, "the configuration has changed");
                        }
                    }
                    Err(why) => {
                        // A fixed text: hosts tell it by that.
                        tracing::error!(why, "refused, the old configuration stays in force");
                        server.set_notice(Some(format!("{why}: refused, the old configuration stays in force")));
                    }
                },
                error = server.failed() => match error {
                    ServerError::RankChanged | ServerError::Driver(DriverError::Anew(_)) => {
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

/// Embedded editions of Windows can keep all that is written in memory, and forget it at the next boot.
#[cfg(windows)]
fn warn_of_write_filters() {
    for (filter, look_with) in tanist_windows::write_filters() {
        tracing::warn!(
            filter,
            look_with,
            "a write filter of Windows is installed: exclude the data directory from it, or what is written is lost at the next boot"
        );
    }
}

#[cfg(not(windows))]
fn warn_of_write_filters() {}
