//! A machine's monotonic clock: it runs fast or slow, changes its rate, and shows anything after a power cut.
//!
//! Never goes back while the machine is up: that is what the protocol builds on.

use tanist_replication::Time;

use super::At;

/// From a moment of virtual time on, the clock showed this and ran at this rate.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from: At,
    shows: u64,
    ppm: i64,
}

#[derive(Debug, Clone)]
pub struct Clock(Vec<Piece>);

impl Clock {
    pub fn new(from: At, shows: u64, ppm: i64) -> Clock {
        Clock(vec![Piece { from, shows, ppm }])
    }

    /// What it shows at a moment.
    pub fn read(&self, at: At) -> Time {
        let piece = self.0.iter().rev().find(|piece| piece.from <= at).unwrap_or(&self.0[0]);
        let passed = i128::from(at.saturating_sub(piece.from));
        Time(piece.shows + (passed * i128::from(1_000_000 + piece.ppm) / 1_000_000) as u64)
    }

    /// The moment when it shows `time`, or just after.
    pub fn moment(&self, time: Time) -> At {
        let piece = self.0.iter().rev().find(|piece| piece.shows <= time.0).unwrap_or(&self.0[0]);
        let own = i128::from(time.0.saturating_sub(piece.shows));
        let mut at = piece.from + (own * 1_000_000 / i128::from(1_000_000 + piece.ppm)) as u64;
        while self.read(at) < time {
            at += 1;
        }
        at
    }

    /// Runs at another rate from now on.
    pub fn set_rate(&mut self, now: At, ppm: i64) {
        let shows = self.read(now).0;
        self.0.push(Piece { from: now, shows, ppm });
    }

    /// Starts anew after a power cut, at whatever it shows then.
    pub fn restart(&mut self, now: At, shows: u64) {
        let ppm = self.0.last().map_or(0, |piece| piece.ppm);
        self.0 = vec![Piece { from: now, shows, ppm }];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_read_backwards_over_changes_of_its_rate() {
        let mut clock = Clock::new(0, 500, 20_000);
        clock.set_rate(1_000_000, -20_000);
        clock.set_rate(3_000_000, 10_000);
        let mut last = Time(0);
        for at in (0..5_000_000).step_by(999) {
            let shows = clock.read(at);
            assert!(shows >= last, "it never goes back");
            last = shows;
            let moment = clock.moment(shows);
            assert!(moment <= at && clock.read(moment) >= shows, "{at}: {moment}");
        }
    }
}
