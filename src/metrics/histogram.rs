//! A histogram that many threads fill with two atomic additions per call, one call for many observations.
//!
//! Invariants:
//! - Observations are whole numbers of a small unit. The exposition converts them to the base unit, as Prometheus
//!   requires.
//! - A reader may see an observation in its bucket and not yet in the sum.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
struct HistogramCells {
    /// Upper bounds of all buckets except the last, in the small unit.
    bounds: Box<[u64]>,
    /// Number of observations in each bucket. There is one bucket more than bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// Small units per base unit.
    scale: f64,
}

/// Counts of observations in buckets. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct FastHistogram(Arc<HistogramCells>);

impl FastHistogram {
    /// Creates `count` buckets and one for larger values. The first bucket's bound is `first`; each further bound is
    /// `factor` times the previous one. `scale` small units are one base unit.
    pub(super) fn new(first: u64, factor: u64, count: u32, scale: f64) -> Self {
        let bounds: Box<[u64]> = (0..count).map(|nth| first * factor.pow(nth)).collect();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(HistogramCells { bounds, counts, sum: AtomicU64::new(0), scale }))
    }

    /// Counts a value that was seen `times` times.
    pub(crate) fn observe(&self, value: u64, times: u64) {
        let HistogramCells { bounds, counts, sum, .. } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < value);
        // Relaxed, here and where the counts are read: nothing else is ordered by them.
        counts[bucket].fetch_add(times, Ordering::Relaxed);
        sum.fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }
}

impl EncodeMetric for FastHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let HistogramCells { bounds, counts, sum, scale } = &*self.0;
        let bounds = bounds.iter().map(|bound| *bound as f64 / scale).chain([f64::INFINITY]);
        // Relaxed: a scrape may see some of the counts before an observation and some after it.
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = sum.load(Ordering::Relaxed) as f64 / scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_are_in_their_bucket_and_in_the_sum() {
        let histogram = FastHistogram::new(10, 4, 3, 1e6);
        for (value, times) in [(0, 1), (10, 2), (11, 3), (160, 4), (161, 5)] {
            histogram.observe(value, times);
        }
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("h", "H", histogram);
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, &registry).expect("a string takes all");
        for line in [
            "h_sum 0.001498",
            "h_count 15",
            "h_bucket{le=\"0.00001\"} 3",
            "h_bucket{le=\"0.00004\"} 6",
            "h_bucket{le=\"0.00016\"} 10",
            "h_bucket{le=\"+Inf\"} 15",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
