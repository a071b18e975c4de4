//! The master's end of a rejoin: one snapshot, read in a thread of its own.

use std::{path::Path, time::Instant};

use bytes::Bytes;
use tanist_api::RejoinProgress;
use tanist_replication::MemberId;
use tanist_store::{CopyOut, PageSums, Snapshot};
use tanist_transport::{SecureReceiver, SecureSender, SecureStream};
use tokio::runtime::Handle;

use super::{Board, Head, LOG_EVERY, RejoinError, compress, fetch::write_list, receive, send};

struct Serve<'a> {
    runtime: &'a Handle,
    directory: &'a Path,
    peer: &'a MemberId,
    board: &'a Board,
    sums: &'a PageSums,
    sender: SecureSender,
    receiver: SecureReceiver,
    progress: RejoinProgress,
}

/// Brings `peer` in line with this machine's database, whose sums these are, in the calling (blocking) thread; `runtime` drives the stream.
///
/// # Errors
/// When the stream breaks, the database can't be read or the replica gives up; it then asks again.
pub(crate) fn serve(
    runtime: &Handle,
    directory: &Path,
    peer: &MemberId,
    board: &Board,
    sums: &PageSums,
    stream: SecureStream,
) -> Result<(), RejoinError> {
    let (sender, receiver) = stream.into_split();
    let progress = RejoinProgress::default();
    let mut serve = Serve { runtime, directory, peer, board, sums, sender, receiver, progress };
    let result = serve.run();
    match &result {
        Ok(()) => board.remove(peer),
        Err(RejoinError::Replica(why)) => board.waits(peer, why.clone()),
        Err(error @ RejoinError::Store(_)) => {
            board.remove(peer);
            let _ = serve.send(&Head::Failed(error.to_string()), Bytes::new());
        }
        Err(_) => board.remove(peer),
    }
    result
}

impl Serve<'_> {
    fn send(&mut self, head: &Head, body: Bytes) -> Result<(), RejoinError> {
        self.progress.bytes += self.runtime.block_on(send(&mut self.sender, head, body))?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(Head, Bytes), RejoinError> {
        let (head, body, bytes) = self.runtime.block_on(receive(&mut self.receiver))?;
        self.progress.bytes += bytes;
        Ok((head, body))
    }

    fn run(&mut self) -> Result<(), RejoinError> {
        let (Head::Ask(from, key, all), _) = self.receive()? else {
            return Err(RejoinError::Unexpected("expected what the replica is first".to_owned()));
        };
        let started = Instant::now();
        let snapshot = Snapshot::open_numbered(self.directory, self.sums)?;
        let target = snapshot.target().clone();
        let changed = if all { None } else { self.sums.changed_since(&from, &target) };
        let listed = changed.as_deref().map(write_list);
        let mut copy = match changed {
            Some(changed) => CopyOut::of_changed(snapshot, key, changed)?,
            None => CopyOut::of(snapshot, key),
        };
        self.sums.give(target.stamp);
        let (peer, position) = (self.peer, target.stamp.position);
        let only_changed = listed.is_some();
        let pages = copy.changed().map_or(target.pages, |list| u32::try_from(list.len()).unwrap_or(u32::MAX));
        tracing::info!(
            %peer, from = %from.position, %position, pages, only_changed,
            "rejoin: comparing a replica"
        );
        (self.progress.pages, self.progress.only_changed) = (pages, only_changed);
        let head = Head::Target(target.stamp, target.page_size, target.pages, target.history, only_changed);
        self.send(&head, listed.unwrap_or_default())?;
        let mut logged = started;
        loop {
            self.board.set(peer, self.progress.clone());
            let (first, count, hashes) = match self.receive()? {
                (Head::Question(first, count), hashes) => (first, count, hashes),
                (Head::GivenUp(why), _) => return Err(RejoinError::Replica(why)),
                _ => return Err(RejoinError::Unexpected("expected a question".to_owned())),
            };
            let plain = copy.differing(first, count, &hashes)?;
            self.progress.compared = first + count - 1;
            self.progress.moved = copy.moved();
            let plain_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            let (encoding, body) = compress(plain);
            self.send(&Head::Answer(encoding, plain_len), body)?;
            if let Some(whole) = copy.whole_hash() {
                self.send(&Head::End(whole), Bytes::new())?;
                break;
            }
            if logged.elapsed() > LOG_EVERY {
                logged = Instant::now();
                let RejoinProgress { compared, moved, bytes, .. } = self.progress;
                tracing::info!(%peer, compared, of_pages = pages, sent_pages = moved, bytes, "rejoin: in progress");
            }
        }
        // The snapshot isn't needed any more; held longer, it would only let the WAL grow.
        drop(copy);
        self.progress.placing = true;
        self.board.set(peer, self.progress.clone());
        let RejoinProgress { moved, bytes, .. } = self.progress;
        let seconds = started.elapsed().as_secs_f32();
        tracing::info!(%peer, %position, pages, sent_pages = moved, bytes, seconds, "rejoin: sent what differs");
        match self.receive() {
            Ok((Head::GivenUp(why), _)) => Err(RejoinError::Replica(why)),
            // It says again what it is when it is ready, however long that takes.
            _ => Ok(()),
        }
    }
}
