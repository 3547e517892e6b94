//! What the store counts.

use prometheus::{Histogram, IntCounter, IntGauge, Registry};
use reveille_runtime::metrics::{FAST_SECONDS, MetricsError, counter, gauge, histogram};

/// Metrics of the embedded store.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `reveille_store_write_duration_seconds`: from taking a write to its verdict.
    pub write_duration: Histogram,
    /// `reveille_store_commit_duration_seconds`: writing one batch and flushing it to the disk.
    pub commit_duration: Histogram,
    /// `reveille_store_batch_size`: writes per batch.
    pub batch_size: Histogram,
    /// `reveille_store_queue_depth`: writes waiting for a batch.
    pub queue_depth: IntGauge,
    /// `reveille_store_writes_total`: writes made durable.
    pub writes: IntCounter,
    /// `reveille_store_write_failures_total`: writes the engine failed to keep.
    pub failures: IntCounter,
    /// `reveille_store_refusals_total`: writes not taken because the queue was full.
    pub refusals: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Where the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            write_duration: histogram(
                registry,
                "reveille_store_write_duration_seconds",
                "Time from taking a write to its verdict.",
                FAST_SECONDS,
            )?,
            commit_duration: histogram(
                registry,
                "reveille_store_commit_duration_seconds",
                "Time to write one batch and flush it to the disk.",
                FAST_SECONDS,
            )?,
            batch_size: histogram(registry, "reveille_store_batch_size", "Writes per batch.", BATCH_SIZES)?,
            queue_depth: gauge(registry, "reveille_store_queue_depth", "Writes waiting for a batch.")?,
            writes: counter(registry, "reveille_store_writes_total", "Writes made durable.")?,
            failures: counter(
                registry,
                "reveille_store_write_failures_total",
                "Writes that the storage engine failed to keep.",
            )?,
            refusals: counter(registry, "reveille_store_refusals_total", "Writes refused because the queue was full.")?,
        })
    }
}

const BATCH_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
