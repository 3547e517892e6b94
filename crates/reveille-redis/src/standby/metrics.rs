//! What a standby counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use reveille_runtime::metrics::{MetricsError, counter, counter_vec, gauge};

/// Metrics of the standby.
#[derive(Clone, Debug)]
pub struct StandbyMetrics {
    /// `reveille_standby_shards`: shards followed.
    pub shards: IntGauge,
    /// `reveille_standby_shards_warm`: those of which nothing is missing.
    pub warm: IntGauge,
    /// `reveille_standby_records`: records held of them, sealed.
    pub records: IntGauge,
    /// `reveille_standby_bytes`: octets that these take.
    pub bytes: IntGauge,
    /// `reveille_standby_lag_milliseconds`: how old, at most, the oldest of them is.
    pub lag: IntGauge,
    /// `reveille_standby_lag_entries`: entries that the last reading found waiting.
    pub behind: IntGauge,
    /// `reveille_standby_entries_total`: entries followed.
    pub entries: IntCounter,
    /// `reveille_standby_fills_total`: shards whose records were read whole.
    pub fills: IntCounter,
    /// `reveille_standby_gaps_total`: shards that were given up because entries were missing.
    pub gaps: IntCounter,
    /// `reveille_standby_successions_total{result}`: shards taken over, `warm` without reading a record or `cold`.
    pub successions: IntCounterVec,
}

impl StandbyMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Where the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let level = |name: &str, help: &str| gauge(registry, name, help);
        let count = |name: &str, help: &str| counter(registry, name, help);
        Ok(Self {
            shards: level("reveille_standby_shards", "Shards of other nodes that this one follows.")?,
            warm: level("reveille_standby_shards_warm", "Shards followed of which nothing is missing.")?,
            records: level("reveille_standby_records", "Records held of shards that are followed.")?,
            bytes: level("reveille_standby_bytes", "Octets that records of shards that are followed take.")?,
            lag: level("reveille_standby_lag_milliseconds", "How old, at most, the shard read longest ago is.")?,
            behind: level("reveille_standby_lag_entries", "Entries that the last reading found waiting.")?,
            entries: count("reveille_standby_entries_total", "Entries of change feeds followed.")?,
            fills: count("reveille_standby_fills_total", "Shards whose records were read whole, to follow them.")?,
            gaps: count("reveille_standby_gaps_total", "Shards forgotten because entries of their feed were missing.")?,
            successions: counter_vec(
                registry,
                "reveille_standby_successions_total",
                "Shards taken over: warm without reading a record, or cold.",
                &["result"],
            )?,
        })
    }
}
