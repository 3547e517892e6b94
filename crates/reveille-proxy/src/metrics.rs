//! What the request path counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use reveille_registrar::flow::Transport;
use reveille_sip::method::Method;

/// Metrics of the request path, shared by all workers.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    refused: IntCounterVec,
    challenges: IntCounter,
    register: Histogram,
    contexts: IntGauge,
    dead_flows: IntCounter,
    dropped: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a metric of one of these names is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("reveille_sip_requests_total", "SIP requests taken from the network."),
                &["method", "transport"],
            )?,
            responses: IntCounterVec::new(
                Opts::new("reveille_sip_responses_total", "Final SIP responses sent to whoever asked."),
                &["method", "code_class"],
            )?,
            refused: IntCounterVec::new(
                Opts::new("reveille_sip_refused_total", "Requests answered by us with a failure, by status code."),
                &["method", "code"],
            )?,
            challenges: IntCounter::new("reveille_auth_challenges_total", "Digest challenges sent.")?,
            register: Histogram::with_opts(
                HistogramOpts::new("reveille_sip_register_duration_seconds", "From a REGISTER to its durable 200.")
                    .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]),
            )?,
            contexts: IntGauge::new("reveille_proxy_contexts", "Requests in hand: forwarding, waiting, or absorbing.")?,
            dead_flows: IntCounter::new(
                "reveille_flows_found_dead_total",
                "Flows that looked open and proved dead when a request was sent on them.",
            )?,
            dropped: IntCounterVec::new(
                Opts::new("reveille_sip_dropped_total", "Messages dropped without an answer."),
                &["reason"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.responses.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.challenges.clone()))?;
        registry.register(Box::new(metrics.register.clone()))?;
        registry.register(Box::new(metrics.contexts.clone()))?;
        registry.register(Box::new(metrics.dead_flows.clone()))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn request(&self, method: Method, transport: Transport) {
        self.requests.with_label_values(&[method_label(method), transport.uri_param()]).inc();
    }

    pub(crate) fn final_response(&self, method: Method, status: u16) {
        self.responses.with_label_values(&[method_label(method), class_label(status)]).inc();
    }

    pub(crate) fn refused(&self, method: Method, status: u16) {
        let mut digits = [0; 3];
        self.refused.with_label_values(&[method_label(method), code_label(status, &mut digits)]).inc();
    }

    pub(crate) fn challenged(&self) {
        self.challenges.inc();
    }

    pub(crate) fn registered(&self, seconds: f64) {
        self.register.observe(seconds);
    }

    pub(crate) fn context_opened(&self) {
        self.contexts.inc();
    }

    pub(crate) fn context_closed(&self) {
        self.contexts.dec();
    }

    pub(crate) fn flow_found_dead(&self) {
        self.dead_flows.inc();
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.with_label_values(&[reason]).inc();
    }
}

/// A label from the enumeration of methods; extension methods share one, since their names come from the wire (S-236).
fn method_label(method: Method) -> &'static str {
    match method.as_str() {
        "" => "other",
        name => name,
    }
}

fn class_label(status: u16) -> &'static str {
    match status / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "6xx",
    }
}

/// The code as three digits without an allocation; our own refusals are always 300..=699.
fn code_label(status: u16, digits: &mut [u8; 3]) -> &str {
    *digits = [(status / 100 % 10) as u8 + b'0', (status / 10 % 10) as u8 + b'0', (status % 10) as u8 + b'0'];
    std::str::from_utf8(digits).unwrap_or("other")
}
