//! What the registrar counts.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};
use reveille_runtime::metrics::{
    FAST_SECONDS, MetricsError, SLOW_SECONDS, counter, counter_vec, gauge, histogram, histogram_vec,
};

/// Metrics shared by all shards of a node.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `reveille_registrar_bindings`: bindings held, expired ones until their minute comes.
    pub bindings: IntGauge,
    /// `reveille_registrar_records`: addresses-of-record held.
    pub records: IntGauge,
    /// `reveille_registrar_record_bytes`: size of the records as held.
    pub record_bytes: IntGauge,
    /// `reveille_registrar_waiters`: requests waiting in a bucket for a phone to wake.
    pub waiters: IntGauge,
    /// `reveille_registrar_registers_total{outcome}`: REGISTERs by what became of them.
    pub registers: IntCounterVec,
    /// `reveille_registrar_pushes_total{class}`: pushes asked for, after coalescing.
    pub pushes: IntCounterVec,
    /// `reveille_registrar_pushes_coalesced_total`: pushes not asked for, since one for that token was under way.
    pub pushes_coalesced: IntCounter,
    /// `reveille_registrar_pushes_limited_total`: pushes not asked for, since the token had its share (P-116).
    pub pushes_limited: IntCounter,
    /// `reveille_registrar_refreshes_total{event}`: refresh pushes by whether they were the first or the second of their period, were
    /// put off or crowded out by the node's pace; and bindings so pushed that were renewed, lapsed, or ended otherwise (P-096, P-097).
    pub refreshes: IntCounterVec,
    /// `reveille_registrar_refreshing`: bindings whose refresh push was sent or put off and whose phone has not come.
    pub refreshing: IntGauge,
    /// `reveille_registrar_dead_targets_total`: push targets dropped on the word of the push service (P-154).
    pub dead_targets: IntCounter,
    /// `reveille_registrar_dead_marks`: dead push targets that are known here, whichever node heard of them (P-156).
    pub dead_marks: IntGauge,
    /// `reveille_wakeup_duration_seconds{outcome}`: from entering the bucket to leaving it.
    pub wakeups: HistogramVec,
    /// `reveille_registrar_write_duration_seconds`: from handing a record over to its verdict.
    pub write_duration: Histogram,
    /// `reveille_registrar_deferred`: records that are newer in memory than in the store, which is away.
    pub deferred: IntGauge,
    /// `reveille_registrar_write_failures_total`: records the store did not keep.
    pub write_failures: IntCounter,
    /// `reveille_registrar_records_unreadable_total`: stored records skipped because their bytes make no sense.
    pub unreadable: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Where the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            bindings: gauge(registry, "reveille_registrar_bindings", "Bindings held.")?,
            records: gauge(registry, "reveille_registrar_records", "Addresses-of-record held.")?,
            record_bytes: gauge(registry, "reveille_registrar_record_bytes", "Size of the records held, in bytes.")?,
            deferred: gauge(
                registry,
                "reveille_registrar_deferred",
                "Records newer in memory than in the store, to be written when it is back.",
            )?,
            waiters: gauge(registry, "reveille_registrar_waiters", "Requests waiting for a phone to wake.")?,
            registers: counter_vec(
                registry,
                "reveille_registrar_registers_total",
                "REGISTER requests by outcome.",
                &["outcome"],
            )?,
            pushes: counter_vec(registry, "reveille_registrar_pushes_total", "Pushes asked for.", &["class"])?,
            pushes_coalesced: counter(
                registry,
                "reveille_registrar_pushes_coalesced_total",
                "Pushes spared because one was under way.",
            )?,
            pushes_limited: counter(
                registry,
                "reveille_registrar_pushes_limited_total",
                "Pushes refused because the token had its share.",
            )?,
            refreshes: counter_vec(
                registry,
                "reveille_registrar_refreshes_total",
                "Refresh pushes, and what became of their bindings.",
                &["event"],
            )?,
            refreshing: gauge(
                registry,
                "reveille_registrar_refreshing",
                "Bindings whose phone was asked to refresh and has not come.",
            )?,
            dead_targets: counter(
                registry,
                "reveille_registrar_dead_targets_total",
                "Push targets dropped because the push service called them dead.",
            )?,
            dead_marks: gauge(
                registry,
                "reveille_registrar_dead_marks",
                "Dead push targets known to this node, its own and those that other nodes told of.",
            )?,
            wakeups: histogram_vec(
                registry,
                "reveille_wakeup_duration_seconds",
                "Time a request waited for a phone to wake.",
                SLOW_SECONDS,
                &["outcome"],
            )?,
            write_duration: histogram(
                registry,
                "reveille_registrar_write_duration_seconds",
                "Time until the store answered a write.",
                FAST_SECONDS,
            )?,
            write_failures: counter(
                registry,
                "reveille_registrar_write_failures_total",
                "Records the store did not keep.",
            )?,
            unreadable: counter(
                registry,
                "reveille_registrar_records_unreadable_total",
                "Stored records that could not be read.",
            )?,
        })
    }
}
