//! A line in the log for requests that were refused for who sent them: 401, 403, 421, 429.
//!
//! So many a minute at most, so that whoever knocks can't fill the disk; how many were left out is said with the next line. Never the
//! secret, and of what the sender chose only the route that it met.

use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use parking_lot::Mutex;

use super::addressed::Ends;

/// Lines at once,
const BURST: f64 = 20.0;
/// and a second after that.
const EACH_SECOND: f64 = 1.0;

/// How much may be said.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<Budget>);

#[derive(Debug)]
struct Budget {
    lines: f64,
    counted_at: Instant,
    left_out: u64,
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals(Mutex::new(Budget { lines: BURST, counted_at: Instant::now(), left_out: 0 }))
    }
}

impl Refusals {
    /// `Some`: a line may be written, and so many were left out before it.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut budget = self.0.lock();
        let passed = now.saturating_duration_since(budget.counted_at).min(Duration::from_secs(3600));
        budget.counted_at = now;
        budget.lines = (budget.lines + passed.as_secs_f64() * EACH_SECOND).min(BURST);
        if budget.lines < 1.0 {
            budget.left_out += 1;
            return None;
        }
        budget.lines -= 1.0;
        Some(std::mem::take(&mut budget.left_out))
    }

    /// Writes the line, if this is such a refusal.
    pub(super) fn note(
        &self,
        status: StatusCode,
        method: &Method,
        route: &str,
        ends: Option<&Ends>,
        token: Option<&str>,
    ) {
        let is_refusal = matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::MISDIRECTED_REQUEST
                | StatusCode::TOO_MANY_REQUESTS
        );
        if is_refusal && let Some(left_out) = self.take(Instant::now()) {
            let peer = ends.map(|ends| ends.peer.to_string());
            tracing::warn!(
                status = status.as_u16(),
                peer = peer.as_deref().unwrap_or("unknown"),
                %method,
                route,
                token = token.unwrap_or("none that is known"),
                left_out,
                "a request was refused"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_those_left_out_are_counted() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let said = (0..1000).filter(|_| refusals.take(start).is_some()).count();
        assert_eq!(said, 20);
        let later = start + Duration::from_secs(1);
        assert_eq!((refusals.take(later), refusals.take(later)), (Some(980), None));
        assert_eq!(refusals.take(later + Duration::from_secs(2)), Some(1));
    }
}
