//! Who takes part: member ids, ranks and addresses.

use std::{fmt, str::FromStr, sync::Arc};

use minicbor::{Decode, Encode};

/// Name of a machine in the cluster, such as `pc-2`: 1 to 63 letters, digits, `-`, `_` or `.`. Identity is this id
/// (with the cluster's id), never an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Arc<str>);

/// A text that can't be a member id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("member id {found:?}: expected 1 to 63 letters, digits, '-', '_' or '.'")]
pub struct MemberIdError {
    found: String,
}

impl MemberId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MemberId {
    type Err = MemberIdError;

    fn from_str(text: &str) -> Result<MemberId, MemberIdError> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits {
            Ok(MemberId(text.into()))
        } else {
            Err(MemberIdError { found: text.chars().take(80).collect() })
        }
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<C> Encode<C> for MemberId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for MemberId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<MemberId, minicbor::decode::Error> {
        d.str()?.parse().map_err(|error: MemberIdError| minicbor::decode::Error::message(error))
    }
}

/// Nearness to the throne: 1 is first; 0 is a witness, which votes and holds no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Rank(#[n(0)] pub u32);

impl Rank {
    /// A voter without data.
    pub const WITNESS: Rank = Rank(0);

    /// Whether the member votes but holds no replica.
    #[must_use]
    pub fn is_witness(self) -> bool {
        self == Rank::WITNESS
    }
}

/// Addresses that one member may have, for peers and for clients each.
const MOST_ADDRESSES: usize = 8;
/// Longest address in bytes; a DNS name has at most 253.
const ADDRESS_LENGTH: usize = 280;

/// Where a machine is reached, as its own configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Addresses {
    /// `host:port` for peers, in order of preference.
    #[n(0)]
    pub peer: Vec<String>,
    /// Base URLs for clients.
    #[n(1)]
    pub urls: Vec<String>,
}

impl Addresses {
    /// Whether their number and lengths are bounded enough for the record.
    pub(crate) fn fits(&self) -> bool {
        let fits = |list: &[String]| {
            list.len() <= MOST_ADDRESSES && list.iter().all(|address| address.len() <= ADDRESS_LENGTH)
        };
        fits(&self.peer) && fits(&self.urls)
    }
}

/// A configured machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    /// Its name.
    #[n(0)]
    pub id: MemberId,
    /// Its nearness to the throne.
    #[n(1)]
    pub rank: Rank,
    /// `host:port` for peers, in order of preference.
    #[n(2)]
    pub peer_addresses: Vec<String>,
    /// Base URLs for clients, such as `http://10.0.0.2:8080`.
    #[n(3)]
    pub urls: Vec<String>,
    /// It doesn't count as a voter: it has been silent for long, or has never answered yet.
    #[n(4)]
    #[cbor(default)]
    pub absent: bool,
}

impl Member {
    /// Whether it is reached elsewhere than this says.
    pub(crate) fn has_moved(&self, to: &Addresses) -> bool {
        (&self.peer_addresses, &self.urls) != (&to.peer, &to.urls)
    }
}
