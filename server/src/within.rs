//! Work that may never come back, such as a call on a disk that doesn't answer: waited for no longer than it is worth.

use std::time::Duration;

use tokio::{sync::oneshot, time::timeout};

/// Does the work on a thread of its own; `None` when it hasn't come back in this time, or has failed. The thread is then left
/// alone: it holds up neither a runtime nor the process's end.
pub(crate) async fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let run = move || drop(tell.send(work()));
    std::thread::Builder::new().name("within".to_owned()).spawn(run).ok()?;
    timeout(limit, told).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_come_back_is_waited_for_no_longer() {
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        assert_eq!(within(Duration::from_secs(30), || 7).await, Some(7));
        assert_eq!(within(Duration::from_millis(20), move || held.recv().is_ok()).await, None);
    }
}
