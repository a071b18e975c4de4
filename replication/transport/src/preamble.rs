//! The first bytes of a connection, in plain text: enough to say clearly why two programs can't talk.
//!
//! Owns their form, which later versions keep up to the version number. Never trusted: the handshake binds both
//! preambles, and the encrypted hello says again who is who. Read `handshake.rs` next.

use tanist_replication::MemberId;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{Channel, ClusterId, HandshakeError, PREAMBLE_VERSION};

const MAGIC: [u8; 8] = *b"\x89tanist\n";
const NONCE: usize = 16;

/// What the dialling side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) channel: Channel,
    pub(crate) cluster: ClusterId,
    pub(crate) from: MemberId,
    /// Random: no two connections have the same prologue.
    pub(crate) nonce: [u8; NONCE],
}

/// What the accepting side makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Go,
    NotTanist,
    WrongVersion,
    Malformed,
    WrongCluster,
    UnknownMember,
}

/// What the accepting side answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: u16,
    pub(crate) status: Status,
    pub(crate) cluster: ClusterId,
    /// Random: a recorded handshake message fits no second connection.
    pub(crate) nonce: [u8; NONCE],
}

impl Status {
    const ALL: [Status; 6] = [
        Status::Go,
        Status::NotTanist,
        Status::WrongVersion,
        Status::Malformed,
        Status::WrongCluster,
        Status::UnknownMember,
    ];
}

/// Randomness for a preamble.
pub(crate) fn nonce() -> Result<[u8; NONCE], HandshakeError> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| HandshakeError::NoRandomness)?;
    Ok(nonce)
}

impl Opening {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(PREAMBLE_VERSION.to_be_bytes());
        out.push(self.channel.code());
        out.extend(self.nonce);
        put_text(&mut out, self.cluster.as_str());
        put_text(&mut out, self.from.as_str());
        out
    }

    /// Reads one and keeps its exact bytes in `bytes`, for the prologue.
    pub(crate) async fn read(
        from: &mut (impl AsyncRead + Unpin),
        bytes: &mut Vec<u8>,
    ) -> Result<Opening, HandshakeError> {
        let version = read_start(from, bytes).await?;
        if version != PREAMBLE_VERSION {
            return Err(HandshakeError::Version { found: version, expected: PREAMBLE_VERSION });
        }
        let code = take(from, bytes, 1).await?[0];
        let channel = Channel::from_code(code).ok_or(HandshakeError::Malformed("unknown channel"))?;
        let nonce = read_nonce(from, bytes).await?;
        let cluster = read_cluster(from, bytes).await?;
        let from = read_text(from, bytes)
            .await?
            .parse()
            .map_err(|_| HandshakeError::Malformed("invalid member id"))?;
        Ok(Opening { channel, cluster, from, nonce })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version.to_be_bytes());
        out.push(self.status as u8);
        out.extend(self.nonce);
        put_text(&mut out, self.cluster.as_str());
        out
    }

    /// Reads one and keeps its exact bytes in `bytes`, for the prologue.
    pub(crate) async fn read(
        from: &mut (impl AsyncRead + Unpin),
        bytes: &mut Vec<u8>,
    ) -> Result<Answer, HandshakeError> {
        let version = read_start(from, bytes).await?;
        if version != PREAMBLE_VERSION {
            // What follows may look different in that version.
            return Err(HandshakeError::Version { found: version, expected: PREAMBLE_VERSION });
        }
        let code = take(from, bytes, 1).await?[0];
        let status =
            *Status::ALL.get(usize::from(code)).ok_or(HandshakeError::Malformed("unknown status"))?;
        let nonce = read_nonce(from, bytes).await?;
        let cluster = read_cluster(from, bytes).await?;
        Ok(Answer { version, status, cluster, nonce })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= 63, "ids have at most 63 bytes, found {}", text.len());
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

async fn take<'b>(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &'b mut Vec<u8>,
    count: usize,
) -> Result<&'b [u8], HandshakeError> {
    let at = bytes.len();
    bytes.resize(at + count, 0);
    from.read_exact(&mut bytes[at..]).await?;
    Ok(&bytes[at..])
}

async fn read_start(from: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Result<u16, HandshakeError> {
    // Byte by byte, so that a foreign protocol is recognised by its first wrong byte.
    for expected in MAGIC {
        if take(from, bytes, 1).await?[0] != expected {
            return Err(HandshakeError::NotTanist);
        }
    }
    let version = take(from, bytes, 2).await?;
    Ok(u16::from_be_bytes([version[0], version[1]]))
}

async fn read_nonce(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<[u8; NONCE], HandshakeError> {
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(take(from, bytes, NONCE).await?);
    Ok(nonce)
}

async fn read_text(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<String, HandshakeError> {
    let length = usize::from(take(from, bytes, 1).await?[0]);
    if length > 63 {
        return Err(HandshakeError::Malformed("an id of more than 63 bytes"));
    }
    let text = take(from, bytes, length).await?;
    std::str::from_utf8(text)
        .map(str::to_owned)
        .map_err(|_| HandshakeError::Malformed("an id that is no text"))
}

async fn read_cluster(
    from: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<ClusterId, HandshakeError> {
    read_text(from, bytes).await?.parse().map_err(|_| HandshakeError::Malformed("invalid cluster id"))
}
