//! Latencies counted in buckets of fixed width relative to their value.
//!
//! Owns the counting; a quantile is at most 1/64 above the true value. Never allocates while recording.

use std::time::Duration;

/// Linear steps within each power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Up to 2^40 ns, 18 minutes; what is longer counts as that.
const MAX_NS: u64 = (1 << 40) - 1;
const BUCKETS: usize = bucket(MAX_NS) + 1;

/// Counts of durations.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0, max_ns: 0 }
    }
}

const fn bucket(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEP_BITS;
    (shift as u64 * STEPS + (ns >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket - shift * STEPS + 1) << shift) - 1
}

impl Histogram {
    pub(in crate::cli) fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(MAX_NS).min(MAX_NS);
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub(in crate::cli) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub(in crate::cli) fn count(&self) -> u64 {
        self.count
    }

    pub(in crate::cli) fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The smallest value that so many per cent of all don't exceed; zero when nothing was recorded.
    pub(in crate::cli) fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(bucket).min(self.max_ns));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_ends_at_most_a_64th_above_it() {
        let mut previous = 0;
        for ns in (0..5000)
            .chain((13..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 77]))
            .chain([MAX_NS])
        {
            let index = bucket(ns);
            assert!(index >= previous && index < BUCKETS, "{ns}");
            previous = index;
            let end = upper(index);
            assert!(end >= ns && end - ns <= ns / 64, "{ns}: bucket ends at {end}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_values() {
        let mut all = Histogram::default();
        assert_eq!(all.percentile(50), Duration::ZERO);
        for half in [1..=500, 501..=1000] {
            let mut part = Histogram::default();
            half.for_each(|us| part.record(Duration::from_micros(us)));
            all.merge(&part);
        }
        assert_eq!((all.count(), all.max()), (1000, Duration::from_millis(1)));
        for (percent, us) in [(50, 500.0), (99, 990.0), (100, 1000.0)] {
            let found = all.percentile(percent).as_secs_f64() * 1e6;
            assert!(found >= us && found <= us * 65.0 / 64.0, "p{percent}: {found}");
        }
        all.record(Duration::from_secs(86_400));
        assert_eq!(all.max(), Duration::from_nanos(MAX_NS));
    }
}
