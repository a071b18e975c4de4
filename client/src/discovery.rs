//! The first hosts, as they are heard on the local network.
//!
//! Owns the step from what anybody may say to what a client may ask. Read `tanist_discovery` for how it is heard.

use std::time::Duration;

use tanist_discovery::find;

use crate::{Builder, Error};

impl Builder {
    /// Takes also those machines of this cluster as hosts that are heard on the local network, behind the given ones. Waits
    /// until one is heard, at most for so long, and a moment more for the others.
    ///
    /// Anybody on the network can say that he is such a machine. So a client with a token takes only `https://` hosts,
    /// which the authority's certificate proves; without a token it may ask a stranger.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), tanist_client::Error> {
    /// # use std::time::Duration;
    /// let client = tanist_client::Client::builder().discover("office", Duration::from_secs(2)).await?.build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Hosts`] when the network can't be listened to. That nobody is heard is told by [`Builder::build`], if
    /// no host was given either.
    pub async fn discover(self, cluster: &str, within: Duration) -> Result<Builder, Error> {
        let name = cluster.to_owned();
        let (builder, listening) = (self, tokio::task::spawn_blocking(move || heard(&name, within)));
        match listening.await {
            Ok(found) => Ok(builder.found(found?)),
            Err(error) => Err(Error::Runtime(format!("listen to the local network: {error}"))),
        }
    }

    /// As [`Builder::discover`], for programs without an async runtime.
    ///
    /// # Errors
    /// The same.
    pub fn discover_blocking(self, cluster: &str, within: Duration) -> Result<Builder, Error> {
        let found = heard(cluster, within)?;
        Ok(self.found(found))
    }
}

fn heard(cluster: &str, within: Duration) -> Result<Vec<String>, Error> {
    let found = find(cluster, within, &[]).map_err(|error| Error::Hosts(error.to_string()))?;
    Ok(found.iter().flat_map(|machine| machine.urls().iter().cloned()).collect())
}
