//! Percentiles of durations.

/// The percentiles that are reported.
pub const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

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

    /// Return a percentile in µs, by the nearest rank: the least duration that this percentage does not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.count() as f64).ceil() as usize;
        self.sorted[rank.clamp(1, self.count()) - 1] as f64 / 1e3
    }

    /// Return the longest, in µs.
    pub fn max(&self) -> f64 {
        self.percentile(100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let latencies = Latencies::new((1..=1000).rev().map(|i| i * 1000).collect()).unwrap();
        assert_eq!(PERCENTILES.map(|percent| latencies.percentile(percent)), [500.0, 900.0, 990.0, 999.0]);
        assert_eq!((latencies.max(), latencies.percentile(0.0), latencies.count()), (1000.0, 1.0, 1000));
        assert!(Latencies::new(Vec::new()).is_none());
    }
}
