//! "Here I am", said on the local network while this machine runs.
//!
//! Owns when it is said, and goodbye at a clean stop; a machine that dies says nothing. Nothing depends on it: when the
//! network lets nobody multicast, a line in the log says so and that is all. Read `tanist_discovery` for what is said.

use crate::config::Config;

#[cfg(feature = "discovery")]
pub(crate) use enabled::Here;

/// Nothing is ever said by a program that was built without it.
#[cfg(not(feature = "discovery"))]
#[derive(Debug)]
pub(crate) struct Here;

#[cfg(not(feature = "discovery"))]
impl Here {
    pub(crate) fn say(_: &Config) -> Option<Here> {
        None
    }

    pub(crate) async fn goodbye(self) {}
}

#[cfg(feature = "discovery")]
mod enabled {
    use std::{sync::Arc, time::Duration};

    use tanist_discovery::{Announcement, Announcer, Error};
    use tokio::task::JoinHandle;

    use super::Config;

    /// How often the system is asked what it has against it.
    const LOOK: Duration = Duration::from_secs(5);

    /// It is being said.
    #[derive(Debug)]
    pub(crate) struct Here {
        announcer: Arc<Announcer>,
        looking: JoinHandle<()>,
    }

    fn start(config: &Config) -> Result<Option<Announcer>, Error> {
        let Some(discovery) = &config.discovery else { return Ok(None) };
        let said = Announcement::new(config.cluster.as_str(), config.id.as_str(), &config.me().urls)?;
        Announcer::start(&said, &discovery.addresses).map(Some)
    }

    impl Here {
        /// Says it from now on, if it is configured.
        pub(crate) fn say(config: &Config) -> Option<Here> {
            let announcer = match start(config) {
                Ok(announcer) => Arc::new(announcer?),
                Err(why) => {
                    tracing::warn!(%why, "discovery: this machine is not announced");
                    return None;
                }
            };
            tracing::info!(urls = ?config.me().urls, "announced on the local network");
            let looked_at = Arc::clone(&announcer);
            let looking = tokio::spawn(async move {
                let mut told = None;
                loop {
                    tokio::time::sleep(LOOK).await;
                    let why = looked_at.trouble();
                    if why.is_some() && why != told {
                        tracing::warn!(why, "discovery: the network takes no announcements");
                        told = why;
                    }
                }
            });
            Some(Here { announcer, looking })
        }

        /// Says goodbye.
        pub(crate) async fn goodbye(self) {
            self.looking.abort();
            let _ = self.looking.await;
            let _ = tokio::task::spawn_blocking(move || drop(self.announcer)).await;
        }
    }
}
