//! What the store counts.

use prometheus::{Histogram, IntCounter, IntGauge, Registry};
use reveille_runtime::metrics::{FAST_SECONDS, MetricsError, counter, gauge, histogram};

/// Metrics of the Redis store.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `reveille_redis_write_duration_seconds`: from taking a write to its verdict.
    pub write_duration: Histogram,
    /// `reveille_redis_batch_duration_seconds`: from sending a batch to its replies.
    pub batch_duration: Histogram,
    /// `reveille_redis_batch_size`: records per batch.
    pub batch_size: Histogram,
    /// `reveille_redis_queue_depth`: writes taken and not yet answered.
    pub queue_depth: IntGauge,
    /// `reveille_redis_healthy`: 1 while the last exchange of writes succeeded.
    pub healthy: IntGauge,
    /// `reveille_redis_writes_total`: writes acknowledged.
    pub writes: IntCounter,
    /// `reveille_redis_write_failures_total`: writes whose fate is not known.
    pub failures: IntCounter,
    /// `reveille_redis_fenced_total`: writes refused because the shard is owned elsewhere.
    pub fenced: IntCounter,
    /// `reveille_redis_conflicts_total`: writes refused because the record was at another version.
    pub conflicts: IntCounter,
    /// `reveille_redis_refusals_total`: writes not taken because the queue was full.
    pub refusals: IntCounter,
    /// `reveille_redis_retries_total`: calls sent again.
    pub retries: IntCounter,
    /// `reveille_redis_records_read_total`: records read to serve a shard, one by one or with all others of it.
    pub records_read: IntCounter,
    /// `reveille_redis_damaged_total`: stored records that do not open.
    pub damaged: IntCounter,
    /// `reveille_redis_connections_total`: connections opened or tried.
    pub connections: IntCounter,
    /// `reveille_redis_connection_losses_total`: exchanges that failed for want of a reply.
    pub losses: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Where the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let count = |name: &str, help: &str| counter(registry, name, help);
        Ok(Self {
            write_duration: histogram(
                registry,
                "reveille_redis_write_duration_seconds",
                "Time from taking a write to its verdict.",
                FAST_SECONDS,
            )?,
            batch_duration: histogram(
                registry,
                "reveille_redis_batch_duration_seconds",
                "Time from sending a batch of writes to its replies.",
                FAST_SECONDS,
            )?,
            batch_size: histogram(registry, "reveille_redis_batch_size", "Records per batch.", BATCH_SIZES)?,
            queue_depth: gauge(registry, "reveille_redis_queue_depth", "Writes taken and not yet answered.")?,
            healthy: gauge(registry, "reveille_redis_healthy", "1 while writes get replies.")?,
            writes: count("reveille_redis_writes_total", "Writes acknowledged.")?,
            failures: count("reveille_redis_write_failures_total", "Writes whose fate is not known.")?,
            fenced: count("reveille_redis_fenced_total", "Writes refused because the shard is owned elsewhere.")?,
            conflicts: count(
                "reveille_redis_conflicts_total",
                "Writes refused because the record was at another version.",
            )?,
            refusals: count("reveille_redis_refusals_total", "Writes refused because the queue was full.")?,
            retries: count("reveille_redis_retries_total", "Calls sent again.")?,
            records_read: count(
                "reveille_redis_records_read_total",
                "Records read to serve a shard, one by one or with the whole of it.",
            )?,
            damaged: count("reveille_redis_damaged_total", "Stored records that do not open.")?,
            connections: count("reveille_redis_connections_total", "Connections opened or tried.")?,
            losses: count("reveille_redis_connection_losses_total", "Exchanges that failed for want of a reply.")?,
        })
    }
}

const BATCH_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
