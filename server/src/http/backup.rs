//! `GET /v1/backup`: a copy of the whole database from this machine's replica, as a stream.
//!
//! A thread reads one snapshot and sends as fast as the client takes it: a few chunks ahead, then it waits. Owns the limits
//! on that: a client that takes nothing for `limits.backup_stall`, or not all within `limits.backup_time`, is cut off, for
//! while the snapshot lives the WAL grows. Read `crate::backup` for the format.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::{Arc, mpsc as sync_mpsc},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::Frame;
use tanist_api::{HEADER_DATABASE_BYTES, code};
use tanist_store::{PageSums, Snapshot, StoreError, Target};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    ApiError, AppState,
    actor::Actor,
    execute::insert_position,
    query::{min_position, wait_until_stored},
    socket::Usage,
};
use crate::{
    backup::{COPY_SUFFIX, LEVEL, LEVELS, Source, write_copy},
    reader::ReadError,
};

/// So many copies at once; more would only slow each other down, and keep the WAL longer.
pub(super) const COPIES: usize = 2;
/// Bytes that are sent at once.
const CHUNK: usize = 64 << 10;
/// Chunks that may wait for the client.
const AHEAD: usize = 4;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    stall: Duration,
    total: Duration,
}

pub(super) async fn get(
    State(state): State<AppState>,
    actor: Actor,
    usage: Option<Extension<Arc<Usage>>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let state = &*state.0;
    let level = level(query.as_deref())?;
    let Some(sums) = state.sums.clone().filter(|_| !state.readers.is_witness()) else {
        return Err(ApiError::read(ReadError::Witness));
    };
    if let Some(min) = min_position(&headers)? {
        wait_until_stored(state, min).await?;
    }
    let Ok(permit) = Arc::clone(&state.copies).try_acquire_owned() else {
        return Err(ApiError::overloaded(format!(
            "{COPIES} copies are being taken from this machine already"
        )));
    };
    if let Some(usage) = usage {
        usage.copy();
    }
    let limits = state.limits();
    let patience = Patience { stall: limits.backup_stall, total: limits.backup_time };
    let (target, body) = start(state.source.clone(), sums, level, patience, permit, actor).await?;
    let position = target.stamp.position;
    let name = format!("{}-{}.{}{COPY_SUFFIX}", state.source.cluster, position.term.0, position.txid.0);
    let mut response = (StatusCode::OK, Body::new(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(HEADER_DATABASE_BYTES, HeaderValue::from(target.bytes()));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    insert_position(headers, position);
    Ok(response)
}

fn level(query: Option<&str>) -> Result<i32, ApiError> {
    let mut level = LEVEL;
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name != "level" {
            return Err(ApiError::bad_request(format!("query: found {name:?}, expected level")));
        }
        level = value.parse().ok().filter(|level| LEVELS.contains(level)).ok_or_else(|| {
            let (least, most) = (LEVELS.start(), LEVELS.end());
            ApiError::bad_request(format!("level: found {value:?}, expected a number from {least} to {most}"))
        })?;
    }
    Ok(level)
}

/// Begins a copy in a thread of its own; answers when its snapshot is there.
async fn start(
    source: Source,
    sums: Arc<PageSums>,
    level: i32,
    patience: Patience,
    permit: OwnedSemaphorePermit,
    actor: Actor,
) -> Result<(Target, CopyBody), ApiError> {
    let (chunks, from_thread) = mpsc::unbounded_channel();
    let (credits, credit) = sync_mpsc::channel();
    let (tell_target, target) = oneshot::channel();
    for _ in 0..AHEAD {
        let _ = credits.send(());
    }
    let run = move || {
        let _permit = permit;
        let snapshot = match Snapshot::open_numbered(&source.directory, &sums) {
            Ok(snapshot) => snapshot,
            Err(error) => return drop(tell_target.send(Err(error))),
        };
        if tell_target.send(Ok(snapshot.target().clone())).is_err() {
            return;
        }
        let begun = Instant::now();
        let out = Client { chunks, credit, waiting: Vec::with_capacity(CHUNK), begun, patience };
        serve(&source, snapshot, level, &actor, out);
    };
    let internal = |why: String| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code::STORAGE, format!("take a copy: {why}"))
    };
    std::thread::Builder::new()
        .name("copy".to_owned())
        .spawn(run)
        .map_err(|error| internal(error.to_string()))?;
    let target = target.await.unwrap_or_else(|_| Err(StoreError::Exchange("its thread ended".to_owned())));
    let target = target.map_err(|error| internal(error.to_string()))?;
    if target.stamp.position == tanist_replication::Position::ZERO {
        return Err(ApiError::not_fresh("this replica holds no data yet"));
    }
    Ok((target, CopyBody { chunks: from_thread, credits, ended: false }))
}

fn serve(source: &Source, snapshot: Snapshot, level: i32, actor: &Actor, mut out: Client) {
    // Who has got everything that there is should be on record.
    let token = actor.0.as_deref();
    let position = snapshot.target().stamp.position;
    let taken = write_copy(source, snapshot, level, &mut out);
    let seconds = out.begun.elapsed().as_secs_f32();
    match taken {
        Ok(manifest) => {
            tracing::info!(token, %position, bytes = manifest.frame_bytes, seconds, "a copy was taken");
            let _ = out.chunks.send(Chunk::End);
        }
        Err(error) => {
            tracing::warn!(token, %position, seconds, %error, "a copy was cut off");
            let _ = out.chunks.send(Chunk::CutOff(error.to_string()));
        }
    }
}

#[derive(Debug)]
enum Chunk {
    Bytes(Bytes),
    /// All is said.
    End,
    /// The client must see that it isn't whole.
    CutOff(String),
}

/// The thread's end: takes the copy's bytes and waits until the client has room for them.
struct Client {
    chunks: mpsc::UnboundedSender<Chunk>,
    /// One for each chunk that may still be sent.
    credit: sync_mpsc::Receiver<()>,
    waiting: Vec<u8>,
    begun: Instant,
    patience: Patience,
}

impl Client {
    fn send(&mut self) -> io::Result<()> {
        use sync_mpsc::RecvTimeoutError::{Disconnected, Timeout};
        let Patience { stall, total } = self.patience;
        let left = total.saturating_sub(self.begun.elapsed());
        let cut_off = |why: String| io::Error::new(io::ErrorKind::TimedOut, why);
        if left.is_zero() {
            return Err(cut_off(format!("not all of it was taken within {total:?} (limits.backup_time)")));
        }
        match self.credit.recv_timeout(stall.min(left)) {
            Ok(()) => {}
            Err(Timeout) if stall <= left => {
                return Err(cut_off(format!("the client took nothing for {stall:?} (limits.backup_stall)")));
            }
            Err(Timeout) => {
                return Err(cut_off(format!(
                    "not all of it was taken within {total:?} (limits.backup_time)"
                )));
            }
            Err(Disconnected) => {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"));
            }
        }
        let chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK));
        let _ = self.chunks.send(Chunk::Bytes(chunk.into()));
        Ok(())
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..count]);
        if self.waiting.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() { Ok(()) } else { self.send() }
    }
}

/// The connection's end: gives a credit back for each chunk taken.
struct CopyBody {
    chunks: mpsc::UnboundedReceiver<Chunk>,
    credits: sync_mpsc::Sender<()>,
    ended: bool,
}

impl hyper::body::Body for CopyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let chunk = match self.chunks.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(chunk) => chunk,
        };
        let why = match chunk {
            Some(Chunk::Bytes(bytes)) => {
                let _ = self.credits.send(());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Some(Chunk::End) => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Chunk::CutOff(why)) => why,
            None => "its thread ended".to_owned(),
        };
        self.ended = true;
        Poll::Ready(Some(Err(io::Error::other(why))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_a_number_within_its_bounds() {
        assert_eq!(level(None).unwrap(), LEVEL);
        assert_eq!(level(Some("level=9")).unwrap(), 9);
        for query in ["level=0", "level=10", "level=-1", "level=", "level=x", "levels=3", "level=3&x=1"] {
            assert!(level(Some(query)).is_err(), "{query}");
        }
    }
}
