//! Keeps the word of what is stored on the disk while the machine runs, once a second, in a thread of its own: a sync more must
//! not delay a write.
//!
//! Owns how old that word may become. Read `tanist_store::Memory` for what it is good for.

use std::{sync::mpsc, thread, time::Duration};

use tanist_store::Memory;

/// What was stored longer ago than this is remembered.
const EVERY: Duration = Duration::from_secs(1);

/// The thread; dropped, it has ended.
pub(crate) struct Remember {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Remember {
    pub(crate) fn start(memory: Memory) -> Remember {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let mut told = false;
            while stopped.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                match memory.flush() {
                    Ok(()) => told = false,
                    // The older word stays, and is true.
                    Err(error) if !std::mem::replace(&mut told, true) => {
                        tracing::warn!(%error, "what is stored can't be kept in mind: a lost WAL might not be noticed");
                    }
                    Err(_) => {}
                }
            }
        };
        let thread = thread::Builder::new().name("remember".into()).spawn(run);
        let thread =
            thread.inspect_err(|error| tracing::error!(%error, "a lost WAL might not be noticed")).ok();
        Remember { stop: Some(stop), thread }
    }
}

impl Drop for Remember {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
