//! Thin helpers over the Prometheus registry, so that each crate's `metrics.rs` is a list of names and nothing more.
//!
//! A registry is always passed in: two nodes in one process count apart, and a test reads its own. Names follow
//! `reveille_<area>_<what>_<unit>[_total]`; label values come from enums, never from the wire.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// A metric could not be registered, which is a mistake in the code: a bad or a doubled name.
pub type MetricsError = prometheus::Error;

/// What this crate counts itself.
#[derive(Debug, Clone)]
pub struct RuntimeMetrics {
    /// `reveille_gate_refusals_total{actor}`: requests turned away at a gate.
    pub gate_refusals: IntCounterVec,
    /// `reveille_actor_restarts_total{actor}`: children that supervisors started again.
    pub actor_restarts: IntCounterVec,
}

impl RuntimeMetrics {
    /// Registers the metrics of gates and supervisors.
    ///
    /// # Errors
    /// Where the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            gate_refusals: counter_vec(
                registry,
                "reveille_gate_refusals_total",
                "Requests refused because an actor's queue was full or the actor was down.",
                &["actor"],
            )?,
            actor_restarts: counter_vec(
                registry,
                "reveille_actor_restarts_total",
                "Actors started again by their supervisor.",
                &["actor"],
            )?,
        })
    }

    /// The refusal counter for the gates of one kind of actor.
    pub fn gate(&self, actor: &'static str) -> IntCounter {
        self.gate_refusals.with_label_values(&[actor])
    }
}

/// Registers `reveille_build_info{version,revision}`, whose value is always 1.
///
/// # Errors
/// Where the registry has it already.
pub fn build_info(registry: &Registry, version: &str, revision: &str) -> Result<(), MetricsError> {
    let help = "The running build; the value is always 1.";
    gauge_vec(registry, "reveille_build_info", help, &["version", "revision"])?
        .with_label_values(&[version, revision])
        .set(1);
    Ok(())
}

/// Registers a counter.
///
/// # Errors
/// On a bad name or one taken already.
pub fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
    registered(registry, IntCounter::new(name, help)?)
}

/// Registers a family of counters.
///
/// # Errors
/// On a bad name or one taken already.
pub fn counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// Registers a gauge.
///
/// # Errors
/// On a bad name or one taken already.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
    registered(registry, IntGauge::new(name, help)?)
}

/// Registers a family of gauges.
///
/// # Errors
/// On a bad name or one taken already.
pub fn gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

/// Registers a histogram; `buckets` are upper bounds in the unit of the name, ascending.
///
/// # Errors
/// On a bad name or bucket list, or a name taken already.
pub fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, MetricsError> {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}

/// Registers a family of histograms; `buckets` as in [`histogram`].
///
/// # Errors
/// On a bad name or bucket list, or a name taken already.
pub fn histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> Result<HistogramVec, MetricsError> {
    registered(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
}

/// Everything in the registry, in Prometheus' text form.
///
/// # Errors
/// Where a family cannot be written, which is a mistake in the code.
pub fn encode(registry: &Registry) -> Result<String, MetricsError> {
    let mut out = Vec::with_capacity(16 * 1024);
    TextEncoder::new().encode(&registry.gather(), &mut out)?;
    String::from_utf8(out).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Seconds, for work inside the process: 10 µs to 10 s.
pub const FAST_SECONDS: &[f64] = &[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Seconds, for what waits on a network or a phone: 10 ms to 150 s, with a bound at each SIP timer in use.
pub const SLOW_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 150.0];

fn registered<T>(registry: &Registry, metric: T) -> Result<T, MetricsError>
where
    T: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_written() {
        let registry = Registry::new();
        build_info(&registry, "1.2.3", "abc").unwrap();
        let runtime = RuntimeMetrics::new(&registry).unwrap();
        runtime.gate("shard").inc_by(3);
        counter(&registry, "reveille_test_total", "A counter.").unwrap().inc();
        gauge(&registry, "reveille_test_level", "A gauge.").unwrap().set(-4);
        histogram(&registry, "reveille_test_seconds", "A histogram.", FAST_SECONDS).unwrap().observe(0.002);
        let waits = histogram_vec(&registry, "reveille_wait_seconds", "Waits.", SLOW_SECONDS, &["outcome"]).unwrap();
        waits.with_label_values(&["woken"]).observe(2.5);
        let text = encode(&registry).unwrap();
        for line in [
            "reveille_build_info{revision=\"abc\",version=\"1.2.3\"} 1",
            "reveille_gate_refusals_total{actor=\"shard\"} 3",
            "reveille_test_total 1",
            "reveille_test_level -4",
            "reveille_test_seconds_bucket{le=\"0.005\"} 1",
            "reveille_wait_seconds_bucket{outcome=\"woken\",le=\"4\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_doubled_name_is_an_error_and_no_panic() {
        let registry = Registry::new();
        counter(&registry, "reveille_test_total", "A counter.").unwrap();
        assert!(counter(&registry, "reveille_test_total", "Again.").is_err());
        assert!(gauge(&registry, "no spaces", "Bad.").is_err());
    }
}
