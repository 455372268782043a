//! Percentiles of durations.

/// The percentiles that are reported, per mille.
pub const PERCENTILES: [usize; 4] = [500, 900, 990, 999];

/// Durations in nanoseconds, in ascending order.
#[derive(Debug, Clone)]
pub struct Latencies {
    sorted: Vec<u64>,
}

impl Latencies {
    /// Return the latencies of measured durations; nothing where there are none.
    pub fn new(mut nanoseconds: Vec<u64>) -> Option<Latencies> {
        nanoseconds.sort_unstable();
        (!nanoseconds.is_empty()).then_some(Latencies { sorted: nanoseconds })
    }

    /// Return how many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Return a percentile in µs, by the nearest rank: the least duration that this share does not exceed.
    pub fn percentile(&self, per_mille: usize) -> f64 {
        let rank = (per_mille * self.count()).div_ceil(1000);
        self.sorted[rank.clamp(1, self.count()) - 1] as f64 / 1e3
    }

    /// Return the longest, in µs.
    pub fn max(&self) -> f64 {
        self.percentile(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let latencies = Latencies::new((1..=1000).rev().map(|i| i * 1000).collect()).unwrap();
        assert_eq!(PERCENTILES.map(|per_mille| latencies.percentile(per_mille)), [500.0, 900.0, 990.0, 999.0]);
        assert_eq!((latencies.max(), latencies.percentile(0), latencies.count()), (1000.0, 1.0, 1000));
        assert!(Latencies::new(Vec::new()).is_none());
    }
}
