//! How often something had which size: counted in fixed buckets without a lock, told as Prometheus tells it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the buckets of a histogram end, the bounds included.
#[derive(Debug)]
pub(crate) struct Scale<const N: usize> {
    pub(crate) bounds: [u64; N],
    /// So many of what is counted are one of what is told: microseconds that are told as milliseconds, say.
    pub(crate) per_unit: u64,
}

#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    scale: &'static Scale<N>,
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

/// What a histogram comes to: each bucket's upper bound (`f64::MAX`: none) and count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    pub(crate) sum: f64,
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Distribution {
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

impl<const N: usize> Histogram<N> {
    pub(crate) fn new(scale: &'static Scale<N>) -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self { scale, counts, beyond: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, value: u64, times: u64) {
        let bucket = self.scale.bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.beyond, |bucket| &self.counts[bucket]).fetch_add(times, Relaxed);
        self.sum.fetch_add(value.saturating_mul(times), Relaxed);
    }

    /// Adds many with one addition to each bucket.
    pub(crate) fn add_all(&self, values: impl Iterator<Item = u64>) {
        let (mut counts, mut beyond, mut sum) = ([0u64; N], 0u64, 0u64);
        for value in values {
            match self.scale.bounds.iter().position(|bound| value <= *bound) {
                Some(bucket) => counts[bucket] += 1,
                None => beyond += 1,
            }
            sum += value;
        }
        for (count, more) in
            self.counts.iter().zip(counts).chain([(&self.beyond, beyond)]).filter(|(_, more)| *more > 0)
        {
            count.fetch_add(more, Relaxed);
        }
        self.sum.fetch_add(sum, Relaxed);
    }

    pub(crate) fn distribution(&self) -> Distribution {
        let unit = self.scale.per_unit as f64;
        let within = self.scale.bounds.iter().zip(&self.counts);
        let buckets = within.map(|(bound, count)| (*bound as f64 / unit, count.load(Relaxed)));
        let buckets = buckets.chain([(f64::MAX, self.beyond.load(Relaxed))]).collect();
        Distribution { sum: self.sum.load(Relaxed) as f64 / unit, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SCALE: Scale<2> = Scale { bounds: [10, 1000], per_unit: 10 };

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it() {
        let (one_by_one, together) = (Histogram::new(&SCALE), Histogram::new(&SCALE));
        let values = [0, 10, 11, 1000, 1001, 5000];
        values.iter().for_each(|value| one_by_one.add(*value, 1));
        together.add_all(values.into_iter());
        let expected = Distribution { sum: 702.2, buckets: vec![(1.0, 2), (100.0, 2), (f64::MAX, 2)] };
        assert_eq!(one_by_one.distribution(), expected);
        assert_eq!(together.distribution(), expected);
        together.add(3, 4);
        assert_eq!(together.distribution().count(), 10);
    }
}
