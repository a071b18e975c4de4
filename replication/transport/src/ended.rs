//! Word that a process has ended, from another process on its computer that knows.
//!
//! Owns the telling; what the peers make of it is in `accept.rs`. For computers that don't refuse connections to a port on
//! which nobody listens any more, so that the end of a process would otherwise be seen by its silence alone.

use std::sync::Arc;

use tanist_replication::MemberId;
use tokio::task::JoinSet;

use crate::{Channel, Config, OpenError, dial};

/// Tells each of `peers` (its id and its `host:port` addresses) that the process which `config` describes, by its
/// [`Config::me`] and [`Config::incarnation`], has ended. To be called only when that is certain and can't change: they drop
/// the lease of that process at once (`protocol.md` R11). They ignore it when they have heard a newer process of the member.
/// Gives the peers that could not be told, and why. Takes as long as the [`Limits`](crate::Limits) of `config` let one dial
/// take.
pub async fn tell_of_end(config: Config, peers: Vec<(MemberId, Vec<String>)>) -> Vec<(MemberId, OpenError)> {
    let config = Arc::new(config);
    let mut telling = JoinSet::new();
    for (peer, addresses) in peers {
        let config = Arc::clone(&config);
        telling.spawn(async move {
            // The hello says it all.
            let told = dial::dial(&config, &peer, &addresses, Channel::Ended).await;
            told.err().map(|error| (peer, error))
        });
    }
    telling.join_all().await.into_iter().flatten().collect()
}
