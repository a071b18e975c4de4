//! How two members make sure of each other: preambles in plain text, Noise with the cluster key, then an encrypted
//! hello with both names.
//!
//! Owns the order of these steps and the words for what goes wrong. Never keeps state between connections. Read
//! `preamble.rs` and `noise.rs` for the steps.

use std::{io, net::SocketAddr};

use minicbor::{Decode, Encode, bytes::ByteArray};
use snow::HandshakeState;
use tanist_replication::MemberId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    Channel, ClusterId, ClusterKey, Config, PREAMBLE_VERSION, Program,
    keys::KeyMark,
    lives::{Life, Stranger},
    noise::{self, Opener, Sealer, TAG},
    preamble::{self, Answer, Opening, Status},
    stream::SecureStream,
};

/// Longest handshake message or hello in bytes.
const MAX_MESSAGE: usize = 4096;

/// Why two ends didn't come together. "Peer" is the other end, whichever dialled.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Another program listens there or dialled here.
    #[error("peer does not speak this program's peer protocol")]
    NotTanist,
    /// It is older or newer.
    #[error("peer speaks protocol version {found}, expected {expected}")]
    Version {
        /// The peer's.
        found: u16,
        /// Ours.
        expected: u16,
    },
    /// The two programs have no version of the protocol in common.
    #[error("{}", no_common_version(.peer, .theirs, .ours))]
    NoCommonVersion {
        /// The peer.
        peer: MemberId,
        /// What it runs.
        theirs: Box<Program>,
        /// What this machine runs.
        ours: Box<Program>,
    },
    /// It belongs elsewhere.
    #[error("peer belongs to cluster '{found}', expected '{expected}'")]
    Cluster {
        /// The peer's.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// The cluster's name is the same, its key is not; or somebody changed the handshake on its way.
    #[error("cluster key differs between peer and this member")]
    Key,
    /// A member we don't have in our list dialled us.
    #[error("'{0}' is not a member known here")]
    UnknownMember(MemberId),
    /// The peer doesn't have us in its list.
    #[error("peer does not know this member, '{0}'")]
    NotKnownThere(MemberId),
    /// The address belongs to another member.
    #[error("peer is member '{found}', expected '{expected}'")]
    WrongMember {
        /// Who it says it is.
        found: MemberId,
        /// Who was wanted.
        expected: MemberId,
    },
    /// Two live processes have one id.
    #[error("member id '{0}' is in use by another live process")]
    IdInUse(MemberId),
    /// The peer knows another data directory under our id.
    #[error(
        "the peer lets another data directory go by '{0}' than this machine's, which is a copy of it, was set back in time, or was \
         replaced. If this is the one that keeps the name, stop it and run `tanist adopt` here; otherwise empty its data directory"
    )]
    CopyHere(MemberId),
    /// We know another data directory under the peer's id.
    #[error(
        "'{0}' has another data directory than the one that is known here by this name: a copy of it, one that was set back in time, or \
         one that was replaced. If it is the one that keeps the name, stop it and run `tanist adopt` there; otherwise empty its data \
         directory"
    )]
    CopyThere(MemberId),
    /// Its data is another cluster's.
    #[error(
        "'{0}' and this machine hold data of two clusters, founded apart under one name. On the one that is wrong move state.db, \
         state.db-wal, state.db-shm and node.db away and start it again: it gets the data from the master"
    )]
    OtherFounding(MemberId),
    /// It keeps to no order we know.
    #[error("peer sent a malformed handshake: {0}")]
    Malformed(&'static str),
    /// It took too long.
    #[error("handshake not done in time")]
    Timeout,
    /// It hung up.
    #[error("peer closed the connection during the handshake")]
    Closed,
    /// The socket failed.
    #[error("handshake: {0}")]
    Io(io::Error),
    /// The operating system gave no randomness.
    #[error("handshake: no randomness from the operating system")]
    NoRandomness,
}

fn no_common_version(peer: &MemberId, theirs: &Program, ours: &Program) -> String {
    let older = if theirs.protocol.max < ours.protocol.max { peer.as_str() } else { "this machine" };
    format!(
        "peer '{peer}' runs Tanist {}, which speaks the peer protocol {}; this machine runs {}, which speaks {}: upgrade {older}",
        theirs.version, theirs.protocol, ours.version, ours.protocol
    )
}

/// What the peer's program is, if the two can talk.
fn acquaint(config: &Config, peer: &MemberId, said: Option<Program>) -> Result<Program, HandshakeError> {
    let theirs = said.unwrap_or_else(Program::silent);
    theirs.check()?;
    match config.program.agree(&theirs) {
        Some(_) => Ok(theirs),
        None => Err(HandshakeError::NoCommonVersion {
            peer: peer.clone(),
            theirs: Box::new(theirs),
            ours: Box::new(config.program.clone()),
        }),
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                HandshakeError::Closed
            }
            _ => HandshakeError::Io(error),
        }
    }
}

/// The encrypted hello of the dialling side.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Hello {
    #[n(0)]
    pub(crate) from: MemberId,
    #[n(1)]
    pub(crate) to: MemberId,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) incarnation: [u8; 16],
    /// Where the dialling side is reached.
    #[n(3)]
    #[cbor(default)]
    pub(crate) addresses: Vec<String>,
    /// What the dialling side runs; nothing from a program that is older than this field.
    #[n(6)]
    pub(crate) program: Option<Program>,
    /// Which data directory it runs on.
    #[n(4)]
    pub(crate) life: Option<Life>,
    /// The founding of the cluster whose data it has, if it knows.
    #[n(5)]
    pub(crate) founding: Option<ByteArray<16>>,
}

/// What the accepting side thinks of a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Verdict {
    #[n(0)]
    Welcome,
    #[n(1)]
    WrongMember,
    #[n(2)]
    IdInUse,
    #[n(3)]
    UnknownMember,
    #[n(4)]
    Copy,
    #[n(5)]
    OtherFounding,
    /// No common version of the protocol.
    #[n(6)]
    NoCommonVersion,
}

impl From<Stranger> for Verdict {
    fn from(stranger: Stranger) -> Verdict {
        match stranger {
            Stranger::Copy => Verdict::Copy,
            Stranger::OtherFounding => Verdict::OtherFounding,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct HelloAnswer {
    #[n(0)]
    pub(crate) from: MemberId,
    #[n(1)]
    pub(crate) verdict: Verdict,
    /// What the accepting side runs; nothing from a program that is older than this field.
    #[n(4)]
    pub(crate) program: Option<Program>,
    /// Which data directory the accepting side runs on.
    #[n(2)]
    pub(crate) life: Option<Life>,
    /// The founding of the cluster whose data it has, if it knows.
    #[n(3)]
    pub(crate) founding: Option<ByteArray<16>>,
}

/// The dialling side, on a fresh connection. The caller bounds the time.
pub(crate) async fn dial(
    mut socket: TcpStream,
    config: &Config,
    key: &ClusterKey,
    to: &MemberId,
    channel: Channel,
) -> Result<SecureStream, HandshakeError> {
    let address = socket.peer_addr()?;
    let (ends, program) = dial_on(&mut socket, config, key, to, channel).await?;
    let (limit, key) = (config.limits.message(channel), KeyMark::of(key));
    Ok(SecureStream::new(socket, ends, limit, to.clone(), address, key).of_program(program))
}

/// The dialling side's steps, on any stream.
pub(crate) async fn dial_on(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    config: &Config,
    key: &ClusterKey,
    to: &MemberId,
    channel: Channel,
) -> Result<((Sealer, Opener), Program), HandshakeError> {
    let (mut sealer, mut opener) = prove_on(socket, config, key, channel).await?;
    let hello = Hello {
        from: config.me.clone(),
        to: to.clone(),
        incarnation: config.incarnation,
        addresses: config.addresses.clone(),
        program: Some(config.program.clone()),
        life: config.lives.own(),
        founding: config.lives.founding().map(ByteArray::from),
    };
    send_sealed(socket, &mut sealer, &hello).await?;
    let answer: HelloAnswer = receive_sealed(socket, &mut opener).await?;
    match answer.verdict {
        Verdict::Welcome | Verdict::NoCommonVersion if answer.from == *to => {}
        Verdict::Welcome | Verdict::WrongMember | Verdict::NoCommonVersion => {
            return Err(HandshakeError::WrongMember { found: answer.from, expected: to.clone() });
        }
        Verdict::IdInUse => return Err(HandshakeError::IdInUse(config.me.clone())),
        Verdict::UnknownMember => return Err(HandshakeError::NotKnownThere(config.me.clone())),
        Verdict::Copy => return Err(HandshakeError::CopyHere(config.me.clone())),
        Verdict::OtherFounding => return Err(HandshakeError::OtherFounding(to.clone())),
    }
    let lives = &config.lives;
    match lives.judge(to, answer.life.as_ref(), answer.founding.as_deref()) {
        Ok(()) => {}
        Err(Stranger::Copy) => return Err(HandshakeError::CopyThere(to.clone())),
        Err(Stranger::OtherFounding) => return Err(HandshakeError::OtherFounding(to.clone())),
    }
    if let (Channel::Control, Some(life)) = (channel, &answer.life) {
        lives.learn(to, life);
    }
    let program = acquaint(config, to, answer.program)?;
    match answer.verdict {
        Verdict::NoCommonVersion => Err(HandshakeError::Malformed("no common version, though there is one")),
        _ => Ok(((sealer, opener), program)),
    }
}

/// The dialling side's steps up to where both ends have shown the key, and nobody has said yet who he is.
pub(crate) async fn prove_on(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    config: &Config,
    key: &ClusterKey,
    channel: Channel,
) -> Result<(Sealer, Opener), HandshakeError> {
    let opening = Opening {
        channel,
        cluster: config.cluster.clone(),
        from: config.me.clone(),
        nonce: preamble::nonce()?,
    };
    let mut prologue = opening.encode();
    socket.write_all(&prologue).await?;
    let answer = Answer::read(socket, &mut prologue).await?;
    match answer.status {
        Status::Go if answer.cluster == config.cluster => {}
        Status::Go | Status::WrongCluster => {
            return Err(HandshakeError::Cluster { found: answer.cluster, expected: config.cluster.clone() });
        }
        Status::NotTanist | Status::Malformed => {
            return Err(HandshakeError::Malformed("it could not read our preamble"));
        }
        Status::WrongVersion => {
            return Err(HandshakeError::Version { found: answer.version, expected: PREAMBLE_VERSION });
        }
        Status::UnknownMember => return Err(HandshakeError::NotKnownThere(config.me.clone())),
    }

    let mut noise = noise::handshake(key, &prologue, true).map_err(|_| HandshakeError::NoRandomness)?;
    send_handshake(socket, &mut noise).await?;
    receive_handshake(socket, &mut noise).await?;
    noise::split(noise).map_err(|_| HandshakeError::Malformed("handshake not finished"))
}

/// A connection that another member dialled.
pub(crate) struct Accepted {
    pub(crate) channel: Channel,
    pub(crate) hello: Hello,
    pub(crate) stream: SecureStream,
    /// The key that it was made with.
    pub(crate) key: KeyMark,
}

/// The accepting side. `knows` says who is a member; `judge` has the last word. The caller bounds the time.
pub(crate) async fn accept(
    socket: &mut Option<TcpStream>,
    config: &Config,
    address: SocketAddr,
    knows: impl Fn(&MemberId) -> bool,
    judge: impl FnOnce(&Hello, Channel) -> Verdict,
) -> Result<Accepted, HandshakeError> {
    let Some(stream) = socket.as_mut() else { return Err(HandshakeError::Closed) };
    let (channel, hello, ends, key) = accept_on(stream, config, knows, judge).await?;
    let Some(stream) = socket.take() else { return Err(HandshakeError::Closed) };
    let limit = config.limits.message(channel);
    let stream = SecureStream::new(stream, ends, limit, hello.from.clone(), address, key);
    Ok(Accepted { channel, hello, stream, key })
}

/// The accepting side's steps, on any stream.
pub(crate) async fn accept_on(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    config: &Config,
    knows: impl Fn(&MemberId) -> bool,
    judge: impl FnOnce(&Hello, Channel) -> Verdict,
) -> Result<(Channel, Hello, (Sealer, Opener), KeyMark), HandshakeError> {
    let mut prologue = Vec::new();
    let opening = Opening::read(stream, &mut prologue).await;
    let result = match opening {
        Ok(opening) if opening.cluster != config.cluster => {
            Err(HandshakeError::Cluster { found: opening.cluster, expected: config.cluster.clone() })
        }
        // A process under our own id is told so, but only once it has shown the key.
        Ok(opening) if opening.from != config.me && !knows(&opening.from) => {
            Err(HandshakeError::UnknownMember(opening.from))
        }
        other => other,
    };
    let status = match &result {
        Ok(_) => Status::Go,
        Err(HandshakeError::NotTanist) => Status::NotTanist,
        Err(HandshakeError::Version { .. }) => Status::WrongVersion,
        Err(HandshakeError::Cluster { .. }) => Status::WrongCluster,
        Err(HandshakeError::UnknownMember(_)) => Status::UnknownMember,
        Err(HandshakeError::Malformed(_)) => Status::Malformed,
        Err(_) => return Err(result.err().unwrap_or(HandshakeError::Closed)),
    };
    let answer = Answer {
        version: PREAMBLE_VERSION,
        status,
        cluster: config.cluster.clone(),
        nonce: preamble::nonce()?,
    }
    .encode();
    stream.write_all(&answer).await?;
    let opening = result?;
    prologue.extend(answer);

    let message = receive_message(stream).await?;
    let (mut noise, key) = match key_of(&message, config, &prologue) {
        Err(error) => {
            if matches!(error, HandshakeError::Key) {
                // An empty message tells the dialling side.
                stream.write_all(&[0, 0]).await?;
            }
            return Err(error);
        }
        Ok(found) => found,
    };
    send_handshake(stream, &mut noise).await?;
    let (mut sealer, mut opener) =
        noise::split(noise).map_err(|_| HandshakeError::Malformed("handshake not finished"))?;
    let mut hello: Hello = receive_sealed(stream, &mut opener).await?;
    if hello.from != opening.from {
        return Err(HandshakeError::Malformed("two different ids"));
    }
    let known = acquaint(config, &hello.from, hello.program.clone());
    let verdict = match &known {
        Err(HandshakeError::NoCommonVersion { .. }) if hello.to == config.me => Verdict::NoCommonVersion,
        _ => judge(&hello, opening.channel),
    };
    let answer = HelloAnswer {
        from: config.me.clone(),
        verdict,
        program: Some(config.program.clone()),
        life: config.lives.own(),
        founding: config.lives.founding().map(ByteArray::from),
    };
    send_sealed(stream, &mut sealer, &answer).await?;
    hello.program = Some(known?);
    match verdict {
        // Without a common version nobody comes here.
        Verdict::Welcome | Verdict::NoCommonVersion => {}
        Verdict::WrongMember => {
            return Err(HandshakeError::WrongMember { found: config.me.clone(), expected: hello.to });
        }
        Verdict::IdInUse => return Err(HandshakeError::IdInUse(hello.from)),
        Verdict::UnknownMember => return Err(HandshakeError::UnknownMember(hello.from)),
        Verdict::Copy => return Err(HandshakeError::CopyThere(hello.from)),
        Verdict::OtherFounding => return Err(HandshakeError::OtherFounding(hello.from)),
    }
    Ok((opening.channel, hello, (sealer, opener), key))
}

/// By which of our keys the dialling side's first message was made.
fn key_of(
    message: &[u8],
    config: &Config,
    prologue: &[u8],
) -> Result<(HandshakeState, KeyMark), HandshakeError> {
    let mut wrong = HandshakeError::Key;
    for key in config.keys.now().all() {
        let mut noise = noise::handshake(key, prologue, false).map_err(|_| HandshakeError::NoRandomness)?;
        match read_handshake(message, &mut noise) {
            Ok(()) => return Ok((noise, KeyMark::of(key))),
            Err(error) => wrong = error,
        }
    }
    Err(wrong)
}

pub(crate) async fn send_handshake(
    socket: &mut (impl AsyncWrite + Unpin),
    noise: &mut HandshakeState,
) -> Result<(), HandshakeError> {
    let mut message = [0; 2 + 128];
    let length = noise.write_message(&[], &mut message[2..]).map_err(|_| HandshakeError::NoRandomness)?;
    message[..2].copy_from_slice(&(length as u16).to_be_bytes());
    Ok(socket.write_all(&message[..2 + length]).await?)
}

pub(crate) async fn receive_handshake(
    socket: &mut (impl AsyncRead + Unpin),
    noise: &mut HandshakeState,
) -> Result<(), HandshakeError> {
    let message = receive_message(socket).await?;
    read_handshake(&message, noise)
}

fn read_handshake(message: &[u8], noise: &mut HandshakeState) -> Result<(), HandshakeError> {
    let mut payload = [0; MAX_MESSAGE];
    if message.is_empty() {
        return Err(HandshakeError::Key);
    }
    // Cut short before the tag can be checked: not a matter of keys.
    if message.len() < 32 + TAG {
        return Err(HandshakeError::Malformed("a handshake message that is too short"));
    }
    noise.read_message(message, &mut payload).map_err(|_| HandshakeError::Key)?;
    Ok(())
}

async fn receive_message(socket: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, HandshakeError> {
    let length = usize::from(socket.read_u16().await?);
    if length > MAX_MESSAGE {
        return Err(HandshakeError::Malformed("a handshake message that is too long"));
    }
    let mut message = vec![0; length];
    socket.read_exact(&mut message).await?;
    Ok(message)
}

async fn send_sealed(
    socket: &mut (impl AsyncWrite + Unpin),
    sealer: &mut Sealer,
    message: &impl Encode<()>,
) -> Result<(), HandshakeError> {
    let plain = minicbor::to_vec(message).map_err(|_| HandshakeError::Malformed("hello not encodable"))?;
    let mut sealed = [0; 2 + MAX_MESSAGE];
    let length = sealer.seal(&plain, &mut sealed).map_err(|_| HandshakeError::Malformed("hello too long"))?;
    Ok(socket.write_all(&sealed[..length]).await?)
}

async fn receive_sealed<T: for<'b> Decode<'b, ()>>(
    socket: &mut (impl AsyncRead + Unpin),
    opener: &mut Opener,
) -> Result<T, HandshakeError> {
    let sealed = receive_message(socket).await?;
    let mut plain = [0; MAX_MESSAGE];
    let length = opener.open(&sealed, &mut plain).map_err(|_| HandshakeError::Malformed("damaged hello"))?;
    minicbor::decode(&plain[..length]).map_err(|_| HandshakeError::Malformed("unreadable hello"))
}
