//! Large answers that their clients haven't taken yet: how much of them there may be in memory, `limits.answers`.
//!
//! An answer stays in memory until the client's socket has taken it; `socket.rs` cuts off a client that takes nothing.
//! Small answers don't count: `limits.connections` bounds them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiError, socket::Usage};
use crate::clock;

/// Larger ones count, in bytes.
const SMALL: u64 = 64 << 10;
/// One permit, in bytes.
const UNIT: u64 = 1 << 10;

/// The room that there is.
#[derive(Debug)]
pub(super) struct Untaken {
    room: Arc<Semaphore>,
    all: u32,
}

/// Bytes that take their room with them.
struct Kept {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Untaken {
    /// For so many bytes.
    pub(super) fn new(bytes: usize) -> Untaken {
        let all = u32::try_from(bytes as u64 / UNIT).unwrap_or(u32::MAX).max(1);
        Untaken { room: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// # Errors
    /// When there is none: the request isn't begun.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        if self.room.available_permits() > 0 { Ok(()) } else { Err(full()) }
    }

    /// Counts an answer until its client has taken it. One that tells what was done (`must_leave`) takes what room there is.
    ///
    /// # Errors
    /// When there isn't enough; the answer is gone, nothing was changed by it.
    pub(super) fn keep(
        &self,
        response: Response,
        must_leave: bool,
        usage: Option<&Usage>,
    ) -> Result<Response, ApiError> {
        let size = response.body().size_hint().exact().filter(|size| *size > SMALL);
        let Some(size) = size else { return Ok(response) };
        let wanted = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all);
        let take = |count| Arc::clone(&self.room).try_acquire_many_owned(count).ok();
        let left = || take(u32::try_from(self.room.available_permits()).unwrap_or(u32::MAX));
        let room = match take(wanted) {
            Some(room) => Some(room),
            None if must_leave => left(),
            None => return Err(full()),
        };
        if let Some(usage) = usage {
            usage.expect(clock::now_ns());
        }
        Ok(response.map(|body| Body::new(KeptBody { body, room })))
    }
}

/// A body whose first bytes, which are all, take the room with them.
struct KeptBody {
    body: Body,
    room: Option<OwnedSemaphorePermit>,
}

impl hyper::body::Body for KeptBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| {
            frame.map_data(|bytes| match self.room.take() {
                Some(room) => Bytes::from_owner(Kept { bytes, _room: room }),
                None => bytes,
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn full() -> ApiError {
    ApiError::overloaded("answers that clients haven't taken yet fill the room for them (limits.answers)")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn answer(size: usize) -> Response {
        Response::new(Body::from(vec![7; size]))
    }

    #[tokio::test]
    async fn large_answers_count_until_their_bytes_are_gone() {
        let untaken = Untaken::new(1 << 20);
        let small: Vec<_> = (0..100).map(|_| untaken.keep(answer(64 << 10), false, None).unwrap()).collect();
        let first = untaken.keep(answer(600 << 10), false, None).unwrap();
        assert_eq!(first.body().size_hint().exact(), Some(600 << 10), "it still tells its length");
        let mut body = first.into_body();
        assert!(untaken.keep(answer(600 << 10), false, None).is_err());
        untaken.check().unwrap();
        // What tells of a change leaves in any case, and takes the rest.
        let told = untaken.keep(answer(600 << 10), true, None).unwrap();
        assert!(untaken.check().is_err());
        drop(told);
        untaken.check().unwrap();
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.frame().await.is_none());
        drop(body);
        assert!(untaken.keep(answer(600 << 10), false, None).is_err(), "the socket still has the bytes");
        assert_eq!((bytes.len(), bytes[0]), (600 << 10, 7));
        drop(bytes);
        // One that is larger than all there is may leave alone.
        let whole = untaken.keep(answer(3 << 20), false, None).unwrap();
        assert!(untaken.keep(answer(100 << 10), false, None).is_err());
        drop((small, whole));
        untaken.keep(answer(1 << 20), false, None).unwrap();
    }
}
