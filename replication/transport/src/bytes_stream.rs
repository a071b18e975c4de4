//! A [`SecureStream`] as plain bytes in both directions, for a protocol that has framing of its own.
//!
//! Owns two tasks and a bounded buffer for each direction. Ends both directions when either fails, and when the key that
//! the connection was made with isn't accepted any more.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use crate::{KeyRing, Packet, SecureReceiver, SecureSender, SecureStream, StreamError, keys};

/// Bytes on their way in each direction; also the largest packet.
const BUFFER: usize = 64 << 10;

impl SecureStream {
    /// The connection as bytes. Must be called within a runtime, which then carries them: the socket moves there.
    ///
    /// # Errors
    /// When the socket can't move.
    pub fn into_bytes(self, ring: &KeyRing) -> Result<DuplexStream, StreamError> {
        let (key, mut accepted) = (self.key(), ring.subscribe());
        let (sender, receiver) = self.here()?.into_split();
        let (near, far) = duplex(BUFFER);
        let (from_near, to_near) = split(far);
        tokio::spawn(async move {
            // Both together: an end that can't be told apart from a break ends the other direction too.
            let carried = async { tokio::join!(send(from_near, sender), receive(receiver, to_near)) };
            tokio::select! {
                _ = carried => {}
                () = keys::dropped(&mut accepted, key) => {}
            }
        });
        Ok(near)
    }
}

async fn send(mut from: ReadHalf<DuplexStream>, mut sender: SecureSender) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BUFFER / 4);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let packet = Packet { head: Bytes::new(), body: buffer.split().freeze() };
        if sender.send(packet).await.is_err() {
            return;
        }
    }
    let _ = sender.finish().await;
}

async fn receive(mut receiver: SecureReceiver, mut to: WriteHalf<DuplexStream>) {
    while let Ok(Some(packet)) = receiver.recv().await {
        if to.write_all(&packet.body).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
