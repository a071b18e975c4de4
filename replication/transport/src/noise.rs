//! The cryptography of an open connection: one direction seals, the other opens.
//!
//! Owns the message counters. Never sees a socket. Read `handshake.rs` for where the keys come from.

use std::sync::Arc;

use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::{ClusterKey, FrameError};

/// Bytes that authentication adds to each message.
pub(crate) const TAG: usize = 16;
/// Most bytes of plain text in one message.
pub(crate) const MAX_PLAIN: usize = 65535 - TAG;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Begins a handshake. Both preambles stand in the prologue: if anybody changed them, it fails.
pub(crate) fn handshake(
    key: &ClusterKey,
    prologue: &[u8],
    initiator: bool,
) -> Result<HandshakeState, snow::Error> {
    let builder = Builder::new(PATTERN.parse()?).psk(0, key.bytes())?.prologue(prologue)?;
    if initiator { builder.build_initiator() } else { builder.build_responder() }
}

/// Both directions of a connection whose handshake is done.
pub(crate) fn split(state: HandshakeState) -> Result<(Sealer, Opener), snow::Error> {
    let state = Arc::new(state.into_stateless_transport_mode()?);
    Ok((Sealer { state: Arc::clone(&state), counter: 0 }, Opener { state, counter: 0 }))
}

/// Encrypts what we send.
pub(crate) struct Sealer {
    state: Arc<StatelessTransportState>,
    counter: u64,
}

impl Sealer {
    /// Writes length and cipher text of `plain` to the start of `out` and returns how many bytes that is.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, FrameError> {
        assert!(plain.len() <= MAX_PLAIN, "seal {} bytes, at most {MAX_PLAIN}", plain.len());
        let (length, rest) = out.split_at_mut(2);
        let sealed =
            self.state.write_message(self.counter, plain, rest).map_err(|_| FrameError::Exhausted)?;
        self.counter += 1;
        length.copy_from_slice(&(sealed as u16).to_be_bytes());
        Ok(sealed + 2)
    }
}

/// Decrypts what we receive.
pub(crate) struct Opener {
    state: Arc<StatelessTransportState>,
    counter: u64,
}

impl Opener {
    /// Writes the plain text of `sealed` to the start of `out`, which has room for it, and returns its length.
    pub(crate) fn open(&mut self, sealed: &[u8], out: &mut [u8]) -> Result<usize, FrameError> {
        let plain = self.state.read_message(self.counter, sealed, out).map_err(|_| FrameError::Corrupt)?;
        self.counter += 1;
        Ok(plain)
    }
}
