//! The parsers of bytes from other machines, without a socket: what `tests/fuzz` feeds with hostile bytes.
//!
//! Owns no rule of its own and is no interface for programs; the transport itself never uses it. Read `handshake.rs`
//! and `framing.rs` for what is parsed.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use snow::HandshakeState;
use tanist_replication::MemberId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use crate::{
    Channel, ClusterId, ClusterKey, Config, FrameError, HandshakeError, Limits, Packet,
    framing::Decoder,
    handshake::{self, Hello, HelloAnswer, Verdict},
    noise::{self, MAX_PLAIN, Opener, Sealer, TAG},
    preamble::{self, Answer, Opening, Status},
};

/// A preamble that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    /// The bytes taken from the stream.
    pub read: Vec<u8>,
    /// What it says, encoded again.
    pub encoded: Vec<u8>,
}

/// Reads the dialling side's preamble.
///
/// # Errors
/// When the bytes are none, or too few.
pub fn opening(mut bytes: &[u8]) -> Result<Preamble, HandshakeError> {
    let mut read = Vec::new();
    let opening = ready(Opening::read(&mut bytes, &mut read))?;
    Ok(Preamble { read, encoded: opening.encode() })
}

/// Reads the accepting side's preamble.
///
/// # Errors
/// When the bytes are none, or too few.
pub fn answer(mut bytes: &[u8]) -> Result<Preamble, HandshakeError> {
    let mut read = Vec::new();
    let answer = ready(Answer::read(&mut bytes, &mut read))?;
    Ok(Preamble { read, encoded: answer.encode() })
}

/// Reads a hello (decrypted) and gives it encoded again.
#[must_use]
pub fn hello(bytes: &[u8]) -> Option<Vec<u8>> {
    minicbor::to_vec(minicbor::decode::<Hello>(bytes).ok()?).ok()
}

/// Reads the answer to a hello (decrypted) and gives it encoded again.
#[must_use]
pub fn hello_answer(bytes: &[u8]) -> Option<Vec<u8>> {
    minicbor::to_vec(minicbor::decode::<HelloAnswer>(bytes).ok()?).ok()
}

/// What the other end of a handshake says; `None` is what a member would say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer<'a> {
    /// The first bytes.
    pub preamble: Option<&'a [u8]>,
    /// In place of the proof that it has the key, length included.
    pub proof: Option<&'a [u8]>,
    /// The hello or its answer: the plain text after a proof, else the bytes as they are.
    pub hello: Option<&'a [u8]>,
}

/// Accepts a connection from `peer`.
///
/// # Errors
/// What the accepting side makes of it.
pub fn accept(peer: Peer<'_>) -> Result<(Channel, MemberId), HandshakeError> {
    let config = config("pc-1");
    let (mut here, there) = duplex(1 << 14);
    let accepting = async move {
        let knows = |id: &MemberId| id.as_str() == "pc-2";
        let judge = |hello: &Hello, _| match (hello.from.as_str(), hello.to.as_str()) {
            ("pc-1", _) => Verdict::IdInUse,
            (_, "pc-1") => Verdict::Welcome,
            _ => Verdict::WrongMember,
        };
        handshake::accept_on(&mut here, &config, knows, judge).await
    };
    let (channel, hello, ..) = ready(async { tokio::join!(accepting, play_dialler(there, peer)).0 })?;
    Ok((channel, hello.from))
}

/// Dials `peer`.
///
/// # Errors
/// What the dialling side makes of it.
pub fn dial(peer: Peer<'_>) -> Result<(), HandshakeError> {
    let config = config("pc-1");
    let (mut here, there) = duplex(1 << 14);
    let dialling = async move {
        let key = config.keys.now().key;
        handshake::dial_on(&mut here, &config, &key, &member("pc-2"), Channel::Control).await
    };
    ready(async { tokio::join!(dialling, play_acceptor(there, peer)).0 }).map(drop)
}

async fn play_dialler(mut stream: DuplexStream, peer: Peer<'_>) -> Result<(), HandshakeError> {
    let config = config("pc-2");
    let (cluster, from) = (config.cluster.clone(), config.me.clone());
    let opening = Opening { channel: Channel::Control, cluster, from, nonce: preamble::nonce()? };
    let mut prologue = peer.preamble.map_or_else(|| opening.encode(), <[u8]>::to_vec);
    stream.write_all(&prologue).await?;
    if let Some(proof) = peer.proof {
        return send_raw(&mut stream, proof, peer.hello).await;
    }
    Answer::read(&mut stream, &mut prologue).await?;
    let mut noise =
        noise::handshake(&config.keys.now().key, &prologue, true).map_err(|_| HandshakeError::Key)?;
    handshake::send_handshake(&mut stream, &mut noise).await?;
    handshake::receive_handshake(&mut stream, &mut noise).await?;
    let (from, to, incarnation) = (config.me, member("pc-1"), config.incarnation);
    let program = Some(config.program);
    let hello =
        Hello { from, to, incarnation, addresses: config.addresses, program, life: None, founding: None };
    send_hello(&mut stream, noise, peer.hello, minicbor::to_vec(hello).unwrap_or_default()).await
}

async fn play_acceptor(mut stream: DuplexStream, peer: Peer<'_>) -> Result<(), HandshakeError> {
    let config = config("pc-2");
    let mut prologue = Vec::new();
    Opening::read(&mut stream, &mut prologue).await?;
    let (version, cluster) = (crate::PREAMBLE_VERSION, config.cluster.clone());
    let answer = Answer { version, status: Status::Go, cluster, nonce: preamble::nonce()? };
    let answer = peer.preamble.map_or_else(|| answer.encode(), <[u8]>::to_vec);
    stream.write_all(&answer).await?;
    prologue.extend(answer);
    if let Some(proof) = peer.proof {
        return send_raw(&mut stream, proof, peer.hello).await;
    }
    let mut noise =
        noise::handshake(&config.keys.now().key, &prologue, false).map_err(|_| HandshakeError::Key)?;
    handshake::receive_handshake(&mut stream, &mut noise).await?;
    handshake::send_handshake(&mut stream, &mut noise).await?;
    let answer =
        HelloAnswer { from: config.me, verdict: Verdict::Welcome, program: None, life: None, founding: None };
    send_hello(&mut stream, noise, peer.hello, minicbor::to_vec(answer).unwrap_or_default()).await
}

async fn send_raw(
    stream: &mut DuplexStream,
    proof: &[u8],
    hello: Option<&[u8]>,
) -> Result<(), HandshakeError> {
    stream.write_all(proof).await?;
    stream.write_all(hello.unwrap_or_default()).await?;
    hear_out(stream).await
}

/// Says nothing more and listens until the other end has done.
async fn hear_out(stream: &mut DuplexStream) -> Result<(), HandshakeError> {
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn send_hello(
    stream: &mut DuplexStream,
    noise: HandshakeState,
    hello: Option<&[u8]>,
    otherwise: Vec<u8>,
) -> Result<(), HandshakeError> {
    let (mut sealer, _) = noise::split(noise).map_err(|_| HandshakeError::Key)?;
    let plain = hello.unwrap_or(&otherwise);
    let sealed = seal(&mut sealer, &plain[..plain.len().min(MAX_PLAIN)]);
    stream.write_all(&sealed).await?;
    hear_out(stream).await
}

/// The receiving end of a connection whose peer has the key and seals whatever it likes.
pub struct Frames {
    sealer: Sealer,
    decoder: Decoder,
}

impl Frames {
    /// An end that takes packets of up to `limit` bytes.
    ///
    /// # Errors
    /// When there is no randomness for the keys.
    pub fn new(limit: usize) -> Result<Frames, FrameError> {
        let (sealer, opener) = ends().map_err(|_| FrameError::Corrupt)?;
        Ok(Frames { sealer, decoder: Decoder::new(opener, limit) })
    }

    /// The bytes of one sealed message, of at most 65,519 plain bytes.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        seal(&mut self.sealer, plain)
    }

    /// Takes `bytes` from the wire, at most `piece` at a time, and gives the packets that they complete.
    ///
    /// # Errors
    /// What ends the connection.
    pub fn feed(&mut self, mut bytes: &[u8], piece: usize) -> Result<Vec<Packet>, FrameError> {
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            let space = self.decoder.space();
            let count = piece.clamp(1, space.len()).min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.decoder.filled(count);
            bytes = &bytes[count..];
            while let Some(packet) = self.decoder.next()? {
                packets.push(packet);
            }
        }
        Ok(packets)
    }

    /// What it means that the connection ends here.
    ///
    /// # Errors
    /// When it ends within a packet.
    pub fn at_end(&self) -> Result<(), FrameError> {
        self.decoder.at_end()
    }

    /// Bytes reserved for what has arrived and was announced.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.decoder.reserved()
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frames")
    }
}

fn member(id: &str) -> MemberId {
    let Ok(id) = id.parse() else { unreachable!("a fixed id is valid") };
    id
}

fn config(me: &str) -> Config {
    let Ok(cluster) = "plant-4".parse::<ClusterId>() else { unreachable!("a fixed id is valid") };
    let key = ClusterKey::from_bytes(*b"a key that only these tests use.");
    Config {
        cluster,
        me: member(me),
        incarnation: [7; 16],
        keys: key.into(),
        addresses: vec!["10.0.0.1:7450".to_owned()],
        admit_strangers: false,
        program: crate::Program::silent(),
        names: crate::Names::default(),
        lives: crate::Lives::default(),
        limits: Limits::default(),
    }
}

/// One direction of a connection whose handshake is done.
fn ends() -> Result<(Sealer, Opener), snow::Error> {
    let key = ClusterKey::from_bytes([7; 32]);
    let mut dialler = noise::handshake(&key, b"prologue", true)?;
    let mut acceptor = noise::handshake(&key, b"prologue", false)?;
    let (mut message, mut payload) = ([0; 256], [0; 256]);
    let length = dialler.write_message(&[], &mut message)?;
    acceptor.read_message(&message[..length], &mut payload)?;
    let length = acceptor.write_message(&[], &mut message)?;
    dialler.read_message(&message[..length], &mut payload)?;
    Ok((noise::split(dialler)?.0, noise::split(acceptor)?.1))
}

fn seal(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plain.len() + 2 + TAG];
    let length = sealer.seal(plain, &mut out).unwrap_or(0);
    out.truncate(length);
    out
}

/// Runs a future whose parts wait only for each other; where all of them wait, a clock would end it.
fn ready<T>(future: impl Future<Output = Result<T, HandshakeError>>) -> Result<T, HandshakeError> {
    let mut future = pin!(future);
    for _ in 0..100 {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
    }
    Err(HandshakeError::Timeout)
}
