//! `[discovery]`: whether this machine says on the local network that it is there.

use std::net::IpAddr;

use tanist_replication::Member;

use super::{
    raw::RawDiscovery,
    resolved::{ConfigError, Fields},
};

/// Addresses that may be given.
const ADDRESSES_MAX: usize = 16;

/// This machine says on the local network where clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// On the network cards with these addresses; on all when empty.
    pub addresses: Vec<IpAddr>,
}

impl Discovery {
    pub(super) fn of(
        fields: &Fields<'_>,
        raw: &RawDiscovery,
        me: Option<&Member>,
    ) -> Result<Option<Discovery>, ConfigError> {
        let addresses = raw
            .addresses
            .iter()
            .map(|text| {
                let expected = "IP addresses of this machine, such as \"192.168.1.20\"";
                text.parse().map_err(|_| fields.error("discovery.addresses", format!("{text:?}"), expected))
            })
            .collect::<Result<Vec<IpAddr>, _>>()?;
        if addresses.len() > ADDRESSES_MAX {
            let found = format!("{} addresses", addresses.len());
            return Err(fields.error("discovery.addresses", found, &format!("{ADDRESSES_MAX} at most")));
        }
        if !raw.announce {
            return Ok(None);
        }
        let no = |expected| Err(fields.error("discovery.announce", "true", expected));
        if !cfg!(feature = "discovery") {
            return no("false: this program was built without the feature \"discovery\"");
        }
        if me.is_none_or(|me| me.urls.is_empty()) {
            return no("a url for this machine in its [[member]] section, which others can reach");
        }
        Ok(Some(Discovery { addresses }))
    }
}
