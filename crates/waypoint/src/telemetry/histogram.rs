//! Histograms with Envoy's buckets.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of Envoy's default buckets.
pub const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram of whole numbers.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one is for what exceeds all bounds.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// Takes a value.
    pub fn record(&self, value: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a bucket's bound is far below 2^52"
        )]
        let at = BUCKETS.partition_point(|bound| *bound < value as f64);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// The values so far.
    #[must_use]
    pub fn read(&self) -> HistogramValue {
        let mut cumulative = [0; BUCKETS.len()];
        let mut count = 0;
        for (at, bucket) in self.counts.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if let Some(slot) = cumulative.get_mut(at) {
                *slot = count;
            }
        }
        HistogramValue {
            cumulative,
            count,
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// What a histogram has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistogramValue {
    /// Values up to each bound of [`BUCKETS`].
    pub cumulative: [u64; BUCKETS.len()],
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl HistogramValue {
    /// The bound below which that share (0 to 1) of the values lies, at the grain of the buckets.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate by buckets anyhow")]
        let rank = self.count as f64 * share;
        #[expect(clippy::cast_precision_loss, reason = "an estimate by buckets anyhow")]
        let at = self.cumulative.iter().position(|c| *c as f64 >= rank);
        at.map_or(BUCKETS[BUCKETS.len() - 1], |at| BUCKETS[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_bound() {
        let h = Histogram::default();
        for v in [0, 1, 2, 5, 6, 4_000_000] {
            h.record(v);
        }
        let read = h.read();
        assert_eq!(read.cumulative[..4], [1, 2, 4, 5]);
        assert_eq!(
            (read.count, read.cumulative[18], read.sum),
            (6, 5, 4_000_014)
        );
        assert!((read.quantile(0.5) - 5.0).abs() < f64::EPSILON);
    }
}
