//! Who is who: a plain preamble that names version and cluster, a Noise handshake with the cluster key, and an encrypted
//! greeting that names the members.
//!
//! The preambles are the handshake's prologue: changing them breaks it. Owns no connection afterwards. A replayed first
//! message leads nowhere: the answer depends on a fresh key of the acceptor.

use minicbor::{Decode, Encode};
use snow::{Builder, HandshakeState, params::NoiseParams};
use tanist_replication::MemberId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Channel, Config, LinkError, PROTOCOL_VERSION, Packet, stream::SecureStream};

const MAGIC: &[u8; 6] = b"TANIST";
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Why an acceptor refuses, as one byte of its preamble.
const OK: u8 = 0;
const OTHER_VERSION: u8 = 1;
const OTHER_CLUSTER: u8 = 2;
const UNKNOWN_MEMBER: u8 = 3;
const DUPLICATE_ID: u8 = 4;

#[derive(Encode, Decode)]
struct Greeting {
    #[n(0)]
    from: MemberId,
    #[n(1)]
    to: MemberId,
    #[cbor(n(2), with = "minicbor::bytes")]
    incarnation: [u8; 16],
}

struct Preamble {
    version: u16,
    /// The channel (dialler) or the verdict (acceptor).
    code: u8,
    cluster: String,
    member: String,
    bytes: Vec<u8>,
}

fn preamble(code: u8, config: &Config) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(PROTOCOL_VERSION.to_be_bytes());
    bytes.push(code);
    for text in [config.cluster.as_str(), config.me.as_str()] {
        bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX)); // both are at most 63 long
        bytes.extend(text.as_bytes());
    }
    bytes
}

async fn read_preamble(stream: &mut TcpStream) -> Result<Preamble, LinkError> {
    let mut bytes = vec![0; 10];
    read(stream, &mut bytes).await?;
    if bytes[..6] != MAGIC[..] {
        return Err(LinkError::NotTanist);
    }
    let version = u16::from_be_bytes([bytes[6], bytes[7]]);
    let code = bytes[8];
    let mut texts = Vec::with_capacity(2);
    let mut length = usize::from(bytes[9]);
    for last in [false, true] {
        let start = bytes.len();
        bytes.resize(start + length + usize::from(!last), 0);
        read(stream, &mut bytes[start..]).await?;
        let text = String::from_utf8_lossy(&bytes[start..start + length]).into_owned();
        texts.push(text.chars().filter(|c| !c.is_control()).collect::<String>());
        if !last {
            length = usize::from(bytes[start + length]);
        }
    }
    let member = texts.pop().unwrap_or_default();
    let cluster = texts.pop().unwrap_or_default();
    Ok(Preamble { version, code, cluster, member, bytes })
}

async fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(), LinkError> {
    match stream.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(LinkError::NotTanist),
        Err(error) => Err(error.into()),
    }
}

fn noise(config: &Config, initiator: bool, prologue: &[u8]) -> Result<HandshakeState, LinkError> {
    let params: NoiseParams = PATTERN.parse().map_err(|_| LinkError::Damaged("the Noise pattern"))?;
    let builder = Builder::new(params)
        .psk(0, config.key.bytes())
        .and_then(|builder| builder.prologue(prologue))
        .map_err(|_| LinkError::Damaged("the Noise parameters"))?;
    let state = if initiator { builder.build_initiator() } else { builder.build_responder() };
    state.map_err(|_| LinkError::Damaged("the Noise parameters"))
}

async fn write_step(stream: &mut TcpStream, noise: &mut HandshakeState) -> Result<(), LinkError> {
    let mut message = [0; 256];
    let length = noise.write_message(&[], &mut message[2..]).map_err(|_| LinkError::Key)?;
    let prefix = u16::try_from(length).map_err(|_| LinkError::Key)?.to_be_bytes();
    message[..2].copy_from_slice(&prefix);
    stream.write_all(&message[..2 + length]).await?;
    Ok(())
}

async fn read_step(stream: &mut TcpStream, noise: &mut HandshakeState) -> Result<(), LinkError> {
    let mut length = [0; 2];
    // An acceptor with another key closes here.
    read(stream, &mut length).await.map_err(closed_means_key)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > 256 {
        return Err(LinkError::Damaged("a handshake message too long"));
    }
    let mut message = vec![0; length];
    read(stream, &mut message).await.map_err(closed_means_key)?;
    noise.read_message(&message, &mut [0; 256]).map(drop).map_err(|_| LinkError::Key)
}

fn closed_means_key(error: LinkError) -> LinkError {
    match error {
        LinkError::NotTanist => LinkError::Key,
        LinkError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionReset => LinkError::Key,
        other => other,
    }
}

fn secure(stream: TcpStream, noise: HandshakeState, limit: usize) -> Result<SecureStream, LinkError> {
    let noise = noise.into_stateless_transport_mode().map_err(|_| LinkError::Key)?;
    Ok(SecureStream::new(stream, noise, limit))
}

fn greeting(config: &Config, to: &MemberId) -> Packet {
    let greeting = Greeting { from: config.me.clone(), to: to.clone(), incarnation: config.incarnation };
    Packet { head: minicbor::to_vec(&greeting).unwrap_or_default().into(), body: Default::default() }
}

async fn read_greeting(stream: &mut SecureStream) -> Result<Greeting, LinkError> {
    let packet = stream.recv().await?.ok_or(LinkError::Closed)?;
    minicbor::decode(&packet.head).map_err(|_| LinkError::Damaged("a greeting"))
}

/// The dialler's side.
pub(crate) async fn dial(
    config: &Config,
    mut stream: TcpStream,
    peer: &MemberId,
    channel: Channel,
) -> Result<SecureStream, LinkError> {
    let own = preamble(channel as u8, config);
    stream.write_all(&own).await?;
    let theirs = read_preamble(&mut stream).await?;
    if theirs.version != PROTOCOL_VERSION {
        return Err(LinkError::Version { found: theirs.version, expected: PROTOCOL_VERSION });
    }
    if theirs.cluster != config.cluster.as_str() {
        return Err(LinkError::Cluster { found: theirs.cluster, expected: config.cluster.to_string() });
    }
    match theirs.code {
        OK => {}
        UNKNOWN_MEMBER => return Err(LinkError::Refusal(format!("{} is no configured member there", config.me))),
        DUPLICATE_ID => return Err(LinkError::DuplicateId(config.me.to_string())),
        code => return Err(LinkError::Refusal(format!("code {code}"))),
    }
    let mut noise = noise(config, true, &[&own[..], &theirs.bytes].concat())?;
    write_step(&mut stream, &mut noise).await?;
    read_step(&mut stream, &mut noise).await?;
    let mut secured = secure(stream, noise, config.limits.message(channel))?;
    secured.send(greeting(config, peer)).await?;
    let answer = read_greeting(&mut secured).await?;
    if answer.from != *peer {
        return Err(LinkError::Member { found: answer.from.to_string(), expected: peer.to_string() });
    }
    Ok(secured)
}

/// The acceptor's side: who it is and what the connection is for.
pub(crate) async fn accept(
    config: &Config,
    mut stream: TcpStream,
    is_known: impl Fn(&str) -> bool,
) -> Result<(MemberId, Channel, SecureStream), LinkError> {
    let theirs = read_preamble(&mut stream).await?;
    let duplicate = theirs.member == config.me.as_str() && theirs.cluster == config.cluster.as_str();
    let verdict = if theirs.version != PROTOCOL_VERSION {
        OTHER_VERSION
    } else if theirs.cluster != config.cluster.as_str() {
        OTHER_CLUSTER
    } else if duplicate {
        DUPLICATE_ID
    } else if !is_known(&theirs.member) {
        UNKNOWN_MEMBER
    } else {
        OK
    };
    let own = preamble(verdict, config);
    stream.write_all(&own).await?;
    match verdict {
        OK => {}
        OTHER_VERSION => {
            return Err(LinkError::Version { found: theirs.version, expected: PROTOCOL_VERSION });
        }
        OTHER_CLUSTER => {
            return Err(LinkError::Cluster { found: theirs.cluster, expected: config.cluster.to_string() });
        }
        DUPLICATE_ID => return Err(LinkError::DuplicateId(theirs.member)),
        _ => return Err(LinkError::Unknown(theirs.member)),
    }
    let channel = match theirs.code {
        0 => Channel::Control,
        1 => Channel::Bulk,
        2 => Channel::Copy,
        _ => return Err(LinkError::Damaged("an unknown channel")),
    };
    let mut noise = noise(config, false, &[&theirs.bytes[..], &own].concat())?;
    read_step(&mut stream, &mut noise).await?;
    write_step(&mut stream, &mut noise).await?;
    // Until it is known who it is, nothing large is taken.
    let mut secured = secure(stream, noise, 4096)?;
    let hello = read_greeting(&mut secured).await?;
    if hello.from.as_str() != theirs.member {
        return Err(LinkError::Member { found: hello.from.to_string(), expected: theirs.member });
    }
    secured.send(greeting(config, &hello.from)).await?;
    if hello.to != config.me {
        return Err(LinkError::Member { found: config.me.to_string(), expected: hello.to.to_string() });
    }
    secured.receiver.set_limit(config.limits.message(channel));
    Ok((hello.from, channel, secured))
}
