//! The master's end of a rejoin: one snapshot, read in a thread of its own.
//!
//! Owns that thread's way to the stream: a task of the runtime does what the thread asks for, one thing at a time. The thread itself
//! never enters the runtime, whose timers must not be used once it shuts down; when the task goes with the runtime, the thread is told by that.

use std::{path::Path, time::Instant};

use bytes::Bytes;
use tanist_api::RejoinProgress;
use tanist_replication::MemberId;
use tanist_store::{CopyOut, PageSums, Snapshot};
use tanist_transport::SecureStream;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{Board, Head, LOG_EVERY, RejoinError, compress, fetch::write_list, receive, send};

/// What the thread wants of the stream, and where the answer goes.
enum Wish {
    Send(Head, Bytes, oneshot::Sender<Result<u64, RejoinError>>),
    Receive(oneshot::Sender<Result<(Head, Bytes, u64), RejoinError>>),
}

/// Does what the thread asks for, until it asks no more.
async fn carry(stream: SecureStream, mut wishes: mpsc::Receiver<Wish>) {
    let (mut sender, mut receiver) = stream.into_split();
    while let Some(wish) = wishes.recv().await {
        match wish {
            Wish::Send(head, body, answer) => drop(answer.send(send(&mut sender, &head, body).await)),
            Wish::Receive(answer) => drop(answer.send(receive(&mut receiver).await)),
        }
    }
}

struct Serve<'a> {
    stream: mpsc::Sender<Wish>,
    directory: &'a Path,
    peer: &'a MemberId,
    board: &'a Board,
    sums: &'a PageSums,
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
    let (wishes, wished) = mpsc::channel(1);
    runtime.spawn(carry(stream, wished));
    let progress = RejoinProgress::default();
    let mut serve = Serve { stream: wishes, directory, peer, board, sums, progress };
    let result = serve.run();
    match &result {
        Ok(()) => board.remove(peer),
        Err(RejoinError::Replica(why)) => board.waits(peer, why.clone()),
        Err(error @ RejoinError::Store(_)) => {
            board.remove(peer);
            let _ = serve.send(Head::Failed(error.to_string()), Bytes::new());
        }
        Err(_) => board.remove(peer),
    }
    result
}

impl Serve<'_> {
    /// Asks the stream's task for something and waits for it; both end with the runtime.
    fn ask<T>(
        &self,
        wish: impl FnOnce(oneshot::Sender<Result<T, RejoinError>>) -> Wish,
    ) -> Result<T, RejoinError> {
        let stops = || RejoinError::Link("this machine stops".to_owned());
        let (answer, answered) = oneshot::channel();
        self.stream.blocking_send(wish(answer)).map_err(|_| stops())?;
        answered.blocking_recv().map_err(|_| stops())?
    }

    fn send(&mut self, head: Head, body: Bytes) -> Result<(), RejoinError> {
        self.progress.bytes += self.ask(|answer| Wish::Send(head, body, answer))?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(Head, Bytes), RejoinError> {
        let (head, body, bytes) = self.ask(Wish::Receive)?;
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
        self.send(head, listed.unwrap_or_default())?;
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
            self.send(Head::Answer(encoding, plain_len), body)?;
            if let Some(whole) = copy.whole_hash() {
                self.send(Head::End(whole), Bytes::new())?;
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

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use tanist_store::{Database, Options};
    use tanist_transport::{ClusterKey, Config, Limits, Transport, TransportEvent};

    use super::*;

    fn config(me: &str, key: &ClusterKey) -> Config {
        Config {
            cluster: "test".parse().unwrap(),
            me: me.parse().unwrap(),
            incarnation: [u8::try_from(me.len()).unwrap(); 16],
            keys: key.clone().into(),
            addresses: vec![],
            admit_strangers: false,
            program: tanist_transport::Program::silent(),
            names: tanist_transport::Names::default(),
            lives: tanist_transport::Lives::default(),
            limits: Limits::default(),
        }
    }

    /// Streams that `a` has opened to `b`, with both transports; the last is what `b` has got.
    async fn streams(count: usize) -> (Transport, Transport, Vec<SecureStream>, Vec<SecureStream>) {
        let key = ClusterKey::generate();
        let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (events, _a_events) = mpsc::channel(64);
        let a = Transport::start(config("a", &key), vec![listener()], events);
        let (events, mut b_events) = mpsc::channel(64);
        let b = Transport::start(config("bb", &key), vec![listener()], events);
        let addresses = |of: &Transport| vec![of.local_addr().unwrap().to_string()];
        a.set_peers(vec![("bb".parse().unwrap(), addresses(&b))]);
        b.set_peers(vec![("a".parse().unwrap(), addresses(&a))]);
        let (mut near, mut far) = (vec![], vec![]);
        while near.len() < count {
            near.push(a.open_copy(&"bb".parse().unwrap()).await.unwrap());
            while far.len() < near.len() {
                if let TransportEvent::CopyRequested { stream, .. } = b_events.recv().await.unwrap() {
                    far.push(stream);
                }
            }
        }
        (a, b, near, far)
    }

    /// Whoever waits is woken by the runtime's timers before it is by its sockets, or the other way round: many wait, often.
    #[test]
    fn rejoins_end_without_a_panic_when_the_runtime_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let sums = Database::open(directory.path(), Options::default()).unwrap().sums();
        for _ in 0..10 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (a, b, replicas, masters) = runtime.block_on(streams(12));
            let serving = |stream| {
                let (handle, board) = (runtime.handle().clone(), Arc::new(Board::default()));
                let (path, sums) = (directory.path().to_owned(), Arc::clone(&sums));
                std::thread::spawn(move || {
                    let peer = "a".parse().unwrap();
                    serve(&handle, &path, &peer, &board, &sums, stream)
                })
            };
            let threads: Vec<_> = masters.into_iter().map(serving).collect();
            // They wait for the replica's first word, which doesn't come before the process stops.
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
            runtime.shutdown_timeout(Duration::from_millis(200));
            let since = Instant::now();
            for thread in threads {
                let result = thread.join().expect("the thread must not panic");
                assert!(matches!(result, Err(RejoinError::Link(_))), "{result:?}");
            }
            assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
            drop((a, b, replicas));
        }
    }
}
