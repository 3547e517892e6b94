//! What the edge counts. Labels come from enums and listener names, never from the wire.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use reveille_registrar::flow::Transport;

use crate::{limits::Refusal, queue::CloseReason};

/// Metrics of the edge; counters of the hot path are looked up once.
pub(crate) struct Metrics {
    transports: Vec<PerTransport>,
    closed: Vec<IntCounter>,
    refused: IntCounterVec,
    rejected: IntCounterVec,
    handshake_failures: IntCounterVec,
    handshakes: HistogramVec,
    certificate_expiry: GaugeVec,
    reload_failures: IntCounterVec,
    datagrams_dropped: IntCounterVec,
    pub(crate) keepalives_crlf: IntCounter,
    pub(crate) keepalives_stun: IntCounter,
    pub(crate) throttled: IntCounter,
    pub(crate) accept_errors: IntCounter,
}

/// Metrics of one transport.
pub(crate) struct PerTransport {
    pub(crate) flows: IntGauge,
    pub(crate) opened: IntCounter,
    pub(crate) messages_in: IntCounter,
    pub(crate) messages_out: IntCounter,
    pub(crate) overloaded: IntCounter,
}

/// Why a datagram was dropped; a metric label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DatagramDrop {
    /// Its sender is above its rate.
    Rate,
    /// Our own send queue is full.
    QueueFull,
    /// The system would not send it.
    SendFailed,
    /// A panic while it was taken.
    Fault,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let flows = IntGaugeVec::new(Opts::new("reveille_edge_flows", "Open connections."), &["transport"])?;
        registry.register(Box::new(flows.clone()))?;
        let opened = counter("reveille_flow_open_total", "Connections opened, either way.", &["transport"])?;
        let closed = counter("reveille_flow_close_total", "Connections closed.", &["reason"])?;
        let received = counter("reveille_edge_messages_received_total", "SIP messages received.", &["transport"])?;
        let sent = counter("reveille_edge_messages_sent_total", "SIP messages queued to be sent.", &["transport"])?;
        let overloaded = counter(
            "reveille_edge_overload_total",
            "Messages the proxy had no room for: answered 503 or dropped.",
            &["transport"],
        )?;
        let keepalives = counter("reveille_edge_keepalives_total", "Keep-alives answered.", &["kind"])?;
        let handshakes = HistogramVec::new(
            HistogramOpts::new("reveille_tls_handshake_duration_seconds", "Time of completed TLS handshakes.")
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            &["side"],
        )?;
        registry.register(Box::new(handshakes.clone()))?;
        let certificate_expiry = GaugeVec::new(
            Opts::new("reveille_certificate_expiry_timestamp_seconds", "When a certificate in use ends, Unix time."),
            &["listener"],
        )?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let transports = TRANSPORTS
            .into_iter()
            .map(|transport| {
                let label = &[transport_label(transport)];
                PerTransport {
                    flows: flows.with_label_values(label),
                    opened: opened.with_label_values(label),
                    messages_in: received.with_label_values(label),
                    messages_out: sent.with_label_values(label),
                    overloaded: overloaded.with_label_values(label),
                }
            })
            .collect();
        let throttled = IntCounter::new(
            "reveille_edge_throttled_total",
            "Times a connection above its message rate was read more slowly.",
        )?;
        registry.register(Box::new(throttled.clone()))?;
        let accept_errors =
            IntCounter::new("reveille_edge_accept_errors_total", "Failed accepts: out of file descriptors or memory.")?;
        registry.register(Box::new(accept_errors.clone()))?;
        Ok(Self {
            transports,
            closed: CloseReason::ALL.into_iter().map(|reason| closed.with_label_values(&[reason.as_str()])).collect(),
            refused: counter("reveille_edge_refused_total", "Connections refused by a limit.", &["reason"])?,
            rejected: counter(
                "reveille_edge_malformed_total",
                "What could not be read as SIP.",
                &["transport", "code"],
            )?,
            handshake_failures: counter(
                "reveille_tls_handshake_failures_total",
                "TLS handshakes that failed.",
                &["side", "reason"],
            )?,
            handshakes,
            certificate_expiry,
            reload_failures: counter(
                "reveille_certificate_reload_failures_total",
                "Changed certificate files that could not be used.",
                &["listener"],
            )?,
            datagrams_dropped: counter("reveille_edge_datagrams_dropped_total", "Datagrams dropped.", &["reason"])?,
            keepalives_crlf: keepalives.with_label_values(&["crlf"]),
            keepalives_stun: keepalives.with_label_values(&["stun"]),
            throttled,
            accept_errors,
        })
    }

    /// The metrics of one transport.
    pub(crate) fn transport(&self, transport: Transport) -> &PerTransport {
        // Built from `TRANSPORTS`, which lists every transport by its number.
        &self.transports[transport as usize]
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        if let Some(counter) = self.closed.get(reason as usize) {
            counter.inc();
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refused.with_label_values(&[refusal.as_str()]).inc();
    }

    pub(crate) fn rejected(&self, transport: Transport, status: u16) {
        let code = match status {
            413 => "413",
            414 => "414",
            505 => "505",
            513 => "513",
            _ => "400",
        };
        self.rejected.with_label_values(&[transport_label(transport), code]).inc();
    }

    pub(crate) fn datagram_dropped(&self, why: DatagramDrop) {
        let label = match why {
            DatagramDrop::Rate => "rate",
            DatagramDrop::QueueFull => "queue_full",
            DatagramDrop::SendFailed => "send_failed",
            DatagramDrop::Fault => "fault",
        };
        self.datagrams_dropped.with_label_values(&[label]).inc();
    }

    pub(crate) fn handshake(&self, side: Side) -> Histogram {
        self.handshakes.with_label_values(&[side.as_str()])
    }

    pub(crate) fn handshake_failed(&self, side: Side, reason: &'static str) {
        self.handshake_failures.with_label_values(&[side.as_str(), reason]).inc();
    }

    pub(crate) fn certificate_expiry(&self, listener: &str) -> Gauge {
        self.certificate_expiry.with_label_values(&[listener])
    }

    pub(crate) fn reload_failed(&self, listener: &str) {
        self.reload_failures.with_label_values(&[listener]).inc();
    }
}

/// Which side of a handshake we are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// We accepted the connection.
    Server,
    /// We opened it.
    Client,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

fn transport_label(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Ws => "ws",
        Transport::Wss => "wss",
        Transport::Quic => "quic",
    }
}

const TRANSPORTS: [Transport; 6] =
    [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss, Transport::Quic];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_listed_by_number() {
        for (index, transport) in TRANSPORTS.into_iter().enumerate() {
            assert_eq!(transport as usize, index);
        }
    }
}
