//! What the dispatchers count. Labels come from enums and the configuration; never a token, a URL or a host (P-173).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use reveille_push::Outcome;
use reveille_runtime::metrics::{MetricsError, counter_vec, gauge_vec, histogram_vec};

use crate::provider::Provider;

/// The metrics of every dispatcher.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    queue_depth: IntGaugeVec,
    connections: IntGaugeVec,
    retries: IntCounterVec,
    token_age: IntGaugeVec,
    breaker_state: IntGaugeVec,
    alarms: IntCounterVec,
    pub(crate) ssrf_rejections: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let credential = &["pns", "credential"];
        Ok(Self {
            requests: counter_vec(
                registry,
                "reveille_push_requests_total",
                "Pushes by their final verdict.",
                &["pns", "outcome", "reason"],
            )?,
            duration: histogram_vec(
                registry,
                "reveille_push_request_duration_seconds",
                "From a push request's start to its answer, one attempt.",
                SEND_SECONDS,
                &["pns"],
            )?,
            queue_depth: gauge_vec(registry, "reveille_push_queue_depth", "Pushes waiting to be sent.", credential)?,
            connections: gauge_vec(
                registry,
                "reveille_push_connections",
                "Open HTTP/2 connections to push services.",
                &["pns"],
            )?,
            retries: counter_vec(
                registry,
                "reveille_push_retries_total",
                "Attempts after the first, by why they were made.",
                &["pns", "reason"],
            )?,
            token_age: gauge_vec(
                registry,
                "reveille_push_token_age_seconds",
                "Age of the credential token in use.",
                credential,
            )?,
            breaker_state: gauge_vec(
                registry,
                "reveille_push_breaker_state",
                "0: pushes flow; 1: the credential is being tried again; 2: the credential is withdrawn.",
                credential,
            )?,
            alarms: counter_vec(
                registry,
                "reveille_push_alarms_total",
                "Answers and states that an operator should look at, by what they were.",
                &["pns", "credential", "reason"],
            )?,
            ssrf_rejections: counter_vec(
                registry,
                "reveille_push_ssrf_rejections_total",
                "Web Push targets refused because of their host or address.",
                &["class"],
            )?,
        })
    }

    /// Open connections to services of that name.
    pub(crate) fn connections(&self, pns: &str) -> IntGauge {
        self.connections.with_label_values(&[pns])
    }

    /// The metrics of one dispatcher.
    pub(crate) fn of(&self, provider: &dyn Provider) -> LaneMetrics {
        let labels = &[provider.pns(), provider.name()];
        LaneMetrics {
            pns: provider.pns(),
            credential: provider.name().into(),
            requests: self.requests.clone(),
            retries: self.retries.clone(),
            duration: self.duration.with_label_values(&[provider.pns()]),
            queue_depth: self.queue_depth.with_label_values(labels),
            token_age: self.token_age.with_label_values(labels),
            breaker_state: self.breaker_state.with_label_values(labels),
            alarms: self.alarms.clone(),
        }
    }
}

/// The metrics of one dispatcher.
#[derive(Clone)]
pub(crate) struct LaneMetrics {
    pns: &'static str,
    credential: Arc<str>,
    requests: IntCounterVec,
    retries: IntCounterVec,
    duration: Histogram,
    pub(crate) queue_depth: IntGauge,
    token_age: IntGauge,
    pub(crate) breaker_state: IntGauge,
    alarms: IntCounterVec,
}

impl LaneMetrics {
    /// A push got its final verdict.
    pub(crate) fn verdict(&self, outcome: Outcome, reason: &'static str) {
        self.requests.with_label_values(&[self.pns, outcome.as_str(), reason]).inc();
    }

    /// An attempt was answered.
    pub(crate) fn answered(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    /// Something an operator should look at.
    pub(crate) fn alarm(&self, reason: &'static str) {
        self.alarms.with_label_values(&[self.pns, &*self.credential, reason]).inc();
    }

    /// A push is sent again.
    pub(crate) fn retry(&self, reason: &'static str) {
        self.retries.with_label_values(&[self.pns, reason]).inc();
    }

    /// Reads the age of the provider's token.
    pub(crate) fn token_age(&self, provider: &dyn Provider, now: SystemTime) {
        if let Some(age) = provider.token_age(now) {
            self.token_age.set(i64::try_from(age).unwrap_or(i64::MAX));
        }
    }
}

/// 10 ms to 10 s.
const SEND_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
