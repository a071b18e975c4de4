//! What machines know of each other beside the protocol: whose data directory is whose, where names have led, where others are.
//!
//! Owns what is told about that between drivers, in packets of their own, and when it is written to `node.db`. Decides nothing of
//! the protocol. Read `tanist_transport::Lives` and `Names` for what it is used for.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use minicbor::{Decode, Encode, bytes::ByteArray};
use tanist_replication::MemberId;
use tanist_transport::{Channel, Lives, Names, Packet, Transport};

use crate::{
    config::units::{MOST_ADDRESSES, is_peer_address},
    durable::{Durable, DurableError},
};

/// More members than these there aren't.
const MOST_MEMBERS: usize = 64;

/// What one machine tells another. A map in CBOR, which no message of the protocol is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Aside {
    /// The founding of the cluster, if the teller knows it; believed of a master that serves.
    #[n(0)]
    founding: Option<ByteArray<16>>,
    /// Where members say that they are reached, as the teller has heard it from themselves.
    #[n(1)]
    members: Vec<Whereabouts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Whereabouts {
    #[n(0)]
    member: MemberId,
    #[n(1)]
    addresses: Vec<String>,
}

impl Aside {
    /// `None`: a message of the protocol, or of nobody.
    pub(crate) fn read(packet: &Packet) -> Option<Aside> {
        const MAP: u8 = 5;
        let is_map = packet.head.first().is_some_and(|first| first >> 5 == MAP);
        let read: Aside = is_map.then(|| minicbor::decode(&packet.head).ok())??;
        (packet.body.is_empty() && read.members.len() <= MOST_MEMBERS).then_some(read)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Acquaintance {
    lives: Lives,
    names: Names,
    /// What is told now.
    aside: Aside,
    /// Whom it wasn't told yet.
    untold: BTreeSet<MemberId>,
    /// The founding stands in `node.db`.
    kept: bool,
    /// The foundings that others know; believed once they are the master.
    heard: BTreeMap<MemberId, [u8; 16]>,
}

impl Acquaintance {
    pub(crate) fn new(lives: Lives, names: Names) -> Acquaintance {
        Acquaintance {
            lives,
            names,
            aside: Aside::default(),
            untold: BTreeSet::new(),
            kept: false,
            heard: BTreeMap::new(),
        }
    }

    /// Writes down what was learnt; called before anything counts that came over a new connection.
    ///
    /// # Errors
    /// When `node.db` can't be written.
    pub(crate) fn keep(&self, durable: &Durable) -> Result<(), DurableError> {
        for (member, life) in self.lives.take_changes() {
            durable.keep_life(&member, &life)?;
        }
        for (name, address) in self.names.take_changes() {
            if let Err(error) = durable.keep_name(&name, address) {
                tracing::warn!(%error, name, "where a name leads isn't remembered over a restart");
            }
        }
        Ok(())
    }

    /// The members have changed.
    ///
    /// # Errors
    /// When `node.db` can't be written.
    pub(crate) fn retain(
        &self,
        durable: &Durable,
        is_member: impl Fn(&MemberId) -> bool,
    ) -> Result<(), DurableError> {
        self.lives.retain(is_member).iter().try_for_each(|gone| durable.forget_life(gone))
    }

    /// The cluster whose data this machine has is `founding`'s: its own reign began on it, or a master that serves says so. `false`:
    /// it is another one's.
    ///
    /// # Errors
    /// When `node.db` can't be written.
    pub(crate) fn confirm(&mut self, durable: &Durable, founding: [u8; 16]) -> Result<bool, DurableError> {
        self.lives.learn_founding(founding);
        if self.lives.founding() != Some(founding) {
            return Ok(false);
        }
        if !self.kept {
            durable.keep_founding(founding)?;
            self.kept = true;
        }
        Ok(true)
    }

    /// A link is up: the other end is told everything anew.
    pub(crate) fn greet(&mut self, peer: MemberId) {
        self.untold.insert(peer);
    }

    /// Tells what is new, to whom it is.
    pub(crate) fn tell(&mut self, transport: &Transport) {
        let members = transport.whereabouts();
        let now = Aside {
            founding: self.lives.founding().filter(|_| self.kept).map(ByteArray::from),
            members: members
                .iter()
                .take(MOST_MEMBERS)
                .map(|(member, addresses)| Whereabouts {
                    member: member.clone(),
                    addresses: addresses.clone(),
                })
                .collect(),
        };
        if now != self.aside {
            self.aside = now;
            self.untold.extend(members.into_iter().map(|(member, _)| member));
        }
        self.untold.retain(|peer| {
            if !transport.is_connected(peer, Channel::Control) {
                // It is greeted when it comes.
                return false;
            }
            let head = minicbor::to_vec(&self.aside).unwrap_or_default();
            transport.send(peer, Channel::Control, Packet { head: head.into(), body: Bytes::new() }).is_err()
        });
    }

    /// Another machine has told this.
    pub(crate) fn hear(&mut self, from: MemberId, aside: Aside, transport: &Transport) {
        for Whereabouts { member, addresses } in aside.members {
            if addresses.len() <= MOST_ADDRESSES && addresses.iter().all(|address| is_peer_address(address)) {
                transport.hear_of(&member, &addresses);
            }
        }
        if let Some(founding) = aside.founding
            && (self.heard.len() < MOST_MEMBERS || self.heard.contains_key(&from))
        {
            self.heard.insert(from, founding.into());
        }
    }

    /// `master` serves: the founding that it knows is the cluster's. `false`: this machine's data is another one's.
    ///
    /// # Errors
    /// When `node.db` can't be written.
    pub(crate) fn believe(&mut self, durable: &Durable, master: &MemberId) -> Result<bool, DurableError> {
        match self.heard.remove(master) {
            Some(founding) => self.confirm(durable, founding),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use tanist_replication::{Message, Term, wire};

    use super::*;

    #[test]
    fn what_is_told_reads_back_and_is_no_message_of_the_protocol() {
        let member =
            Whereabouts { member: "pc-2".parse().unwrap(), addresses: vec!["10.0.0.2:7450".to_owned()] };
        let aside = Aside { founding: Some([7; 16].into()), members: vec![member] };
        let packet = |head: Bytes| Packet { head, body: Bytes::new() };
        let bytes: Bytes = minicbor::to_vec(&aside).unwrap().into();
        assert!(wire::decode(&bytes, Bytes::new()).is_err());
        assert_eq!(Aside::read(&packet(bytes.clone())), Some(aside));
        for end in 0..bytes.len() {
            assert!(Aside::read(&packet(bytes.slice(..end))).is_none(), "{end}");
        }
        let (head, body) = wire::encode(Message::Resync { term: Term(3) });
        assert_eq!(Aside::read(&Packet { head, body }), None);
        assert_eq!(Aside::read(&packet(Bytes::new())), None);
    }
}
