//! `[registrar]`, `[security]`, `[limits]`, `[admin]` and `[telemetry]`.

use ipnet::IpNet;
use reveille_runtime::telemetry;

use super::{Checker, DAY, SECOND, join};
use crate::config::{
    model::{Admin, Limits, LogFormat, Protection, Registrar, StrongAlternative, Telemetry},
    raw,
};

impl Checker {
    pub(super) fn registrar(&mut self, raw: &raw::Registrar) -> Registrar {
        if !raw.shards.is_power_of_two() || raw.shards > MOST_SHARDS {
            self.fault("registrar.shards", format!("must be a power of two up to {MOST_SHARDS}, got {}", raw.shards));
        }
        // RFC 3261 §10.3: a request of an hour or more is never too brief, so a longer minimum could not be enforced.
        let min_expires = self.span("registrar.min_expires", raw.min_expires, SECOND, 3_600 * SECOND);
        let max_expires = self.span("registrar.max_expires", raw.max_expires, 60 * SECOND, 365 * DAY);
        if max_expires < min_expires {
            self.fault("registrar.max_expires", "must not be below registrar.min_expires");
        }
        let default_expires = raw.default_expires.0;
        if default_expires < min_expires || default_expires > max_expires {
            self.fault("registrar.default_expires", "must lie between registrar.min_expires and registrar.max_expires");
        }
        Registrar {
            shards: raw.shards,
            min_expires,
            max_expires,
            default_expires,
            max_bindings: self.number("registrar.max_bindings", raw.max_bindings, 1, 1_000),
            max_contacts: self.number("registrar.max_contacts", raw.max_contacts, 1, 1_000),
            flow_timer: self.span("registrar.flow_timer", raw.flow_timer, 10 * SECOND, 3_600 * SECOND),
            queue: self.number("registrar.queue", raw.queue, 1, 10_000_000),
        }
    }

    pub(super) fn alternatives(&mut self, raw: &[raw::Alternative]) -> Vec<StrongAlternative> {
        let kinds = [
            ("loopback", Protection::Loopback),
            ("ipsec-esp", Protection::IpsecEsp),
            ("wireguard", Protection::Wireguard),
        ];
        let mut alternatives = Vec::new();
        for (index, raw) in raw.iter().enumerate() {
            let at = format!("security.strong_alternative[{index}]");
            let kind = self.choice(&join(&at, "kind"), &raw.kind, &kinds, &[]);
            let net = raw.net.as_deref().and_then(|text| text.parse::<IpNet>().ok());
            let Some(net) = net else {
                self.fault(&join(&at, "net"), "is required: a network such as 192.0.2.0/24");
                continue;
            };
            if kind == Some(Protection::Loopback) && !is_loopback(&net) {
                self.fault(&join(&at, "net"), format!("{net} reaches beyond the loopback addresses"));
            }
            if let Some(kind) = kind {
                alternatives.push(StrongAlternative { net, kind });
            }
        }
        alternatives
    }

    pub(super) fn limits(&mut self, raw: &raw::Limits) -> Limits {
        let mut time = |name: &str, value| self.span(&join("limits", name), value, SECOND / 10, DAY);
        let handshake_timeout = time("handshake_timeout", raw.handshake_timeout);
        let first_message_timeout = time("first_message_timeout", raw.first_message_timeout);
        let message_timeout = time("message_timeout", raw.message_timeout);
        let idle_timeout = time("idle_timeout", raw.idle_timeout);
        let retry_after_min = self.span("limits.retry_after_min", raw.retry_after_min, SECOND, 3_600 * SECOND);
        let retry_after_max = self.span("limits.retry_after_max", raw.retry_after_max, SECOND, 3_600 * SECOND);
        if retry_after_max < retry_after_min {
            self.fault("limits.retry_after_max", "must not be below limits.retry_after_min");
        }
        Limits {
            // RFC 3261 §18.1.1: 65535 octets must be receivable.
            message_size: self.number("limits.message_size", raw.message_size, 65_535, 16 << 20),
            connections: raw.connections,
            connections_per_source: raw.connections_per_source,
            connects_per_source: raw.connects_per_source,
            accepts: raw.accepts,
            handshakes: raw.handshakes,
            messages_per_flow: raw.messages_per_flow,
            messages_burst: raw.messages_burst,
            exempt: raw.exempt.clone(),
            queue_messages: self.number("limits.queue_messages", raw.queue_messages, 1, 1_000_000),
            queue_bytes: self.number("limits.queue_bytes", raw.queue_bytes, 65_536, 1 << 30),
            handshake_timeout,
            first_message_timeout,
            message_timeout,
            idle_timeout,
            worker_queue: self.number("limits.worker_queue", raw.worker_queue, 1, 10_000_000),
            transactions: self.number("limits.transactions", raw.transactions, 1, 100_000_000),
            retry_after_min,
            retry_after_max,
        }
    }

    pub(super) fn admin(&mut self, raw: &raw::Admin) -> Admin {
        let token = raw.token_file.as_deref().and_then(|path| self.secret_file("admin.token_file", Some(path)));
        if let Some((path, token)) = &token
            && token.trim_ascii().len() < crate::admin::SHORTEST_TOKEN
        {
            self.fault("admin.token_file", format!("the token in {} is shorter than 16 characters", path.display()));
        }
        Admin { addr: raw.addr, token_file: token.map(|(path, _)| path) }
    }

    pub(super) fn telemetry(&mut self, raw: &raw::Telemetry) -> Option<Telemetry> {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = self.choice("telemetry.format", &raw.format, &formats, &[]);
        if let Err(error) = telemetry::check_level(&raw.level) {
            self.fault("telemetry.level", error.to_string());
        }
        Some(Telemetry { format: format?, level: raw.level.clone() })
    }
}

fn is_loopback(net: &IpNet) -> bool {
    net.network().is_loopback() && net.broadcast().is_loopback()
}

/// The number of shards travels in 16 bits.
const MOST_SHARDS: u32 = 32_768;
