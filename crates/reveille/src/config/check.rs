//! From what was written to what is meant: every check within and across keys, all faults at once.

mod auth;
mod cluster;
mod files;
mod listener;
mod push;
mod rest;
mod store;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ConfigError,
    describe::{Span, join},
    model::{Config, Purpose},
    raw::Raw,
};

/// Checks everything. A configuration comes back only if there is no fault.
pub(super) fn check(raw: &Raw, base: &Path) -> (Option<Config>, Vec<ConfigError>) {
    let mut checker = Checker { base: base.to_path_buf(), faults: Vec::new(), warnings: Vec::new() };
    let config = checker.config(raw);
    let Checker { faults, warnings, .. } = checker;
    let config = config.filter(|_| faults.is_empty()).map(|config| Config { warnings, ..config });
    (config, faults)
}

/// Collects faults and warnings on the way.
struct Checker {
    base: PathBuf,
    faults: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Checker {
    fn config(&mut self, raw: &Raw) -> Option<Config> {
        // Each part is looked at before any is unwrapped: one part's faults must not hide another's.
        let domains = self.domains(&raw.domains);
        let roles = self.roles(raw);
        let node = self.node(&raw.node, roles);
        let mut listeners = self.listeners(&raw.listener, raw.cluster.as_ref());
        let push = self.push(&raw.push);
        let auth = self.auth(&raw.auth, domains.first().map(String::as_str), is_push_wanted(raw));
        let store = self.store(&raw.store, &raw.node);
        let cluster = self.cluster(raw, roles, &listeners);
        let registrar = self.registrar(&raw.registrar);
        let strong_alternatives = self.alternatives(&raw.security.strong_alternative);
        let limits = self.limits(&raw.limits);
        let admin = self.admin(&raw.admin);
        let telemetry = self.telemetry(&raw.telemetry);
        self.across(raw);
        // Said to the operator among the warnings.
        listeners.retain(|listener| roles.edge || listener.purpose != Purpose::Public);
        Some(Config {
            domains,
            node,
            listeners,
            auth: auth?,
            store: store?,
            cluster,
            registrar,
            push: push?,
            strong_alternatives,
            limits,
            admin,
            telemetry: telemetry?,
            warnings: Vec::new(),
        })
    }

    /// What only shows when sections are seen together.
    fn across(&mut self, raw: &Raw) {
        if raw.push.min_expires > raw.registrar.max_expires {
            self.fault("push.min_expires", "must not be above registrar.max_expires");
        }
        let mut doors = raw.listener.iter().filter(|listener| listener.purpose != "cluster");
        let secured = doors.any(|listener| listener.transport == "tls");
        if is_push_wanted(raw) && is_on(raw, "edge") && !secured && raw.security.strong_alternative.is_empty() {
            self.warn("push is configured, but without a tls listener no phone can register for it (P-112)");
        }
    }

    fn fault(&mut self, key: &str, reason: impl Into<String>) {
        self.faults.push(ConfigError { key: key.to_owned(), reason: reason.into() });
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// `value` as one of `choices`; later versions' choices get a fault of their own.
    fn choice<T: Clone>(&mut self, key: &str, value: &str, choices: &[(&str, T)], later: &[&str]) -> Option<T> {
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
            return Some(choice.clone());
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        if value.is_empty() {
            self.fault(key, format!("is required: one of {names}"));
        } else if later.contains(&value) {
            self.fault(key, format!("{value:?} is {}; use one of {names}", super::NOT_YET));
        } else {
            self.fault(key, format!("must be one of {names}, got {value:?}"));
        }
        None
    }

    fn span(&mut self, key: &str, value: Span, least: Duration, most: Duration) -> Duration {
        if value.0 < least || value.0 > most {
            let show = humantime::format_duration;
            self.fault(key, format!("must be between {} and {}, got {}", show(least), show(most), show(value.0)));
        }
        value.0
    }

    fn number<N: Copy + PartialOrd + std::fmt::Display>(&mut self, key: &str, value: N, least: N, most: N) -> N {
        if value < least || value > most {
            self.fault(key, format!("must be between {least} and {most}, got {value}"));
        }
        value
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
}

/// Whether the node has this role.
fn is_on(raw: &Raw, role: &str) -> bool {
    raw.node.roles.iter().any(|present| present == role)
}

/// Whether any push service is configured, well or badly.
fn is_push_wanted(raw: &Raw) -> bool {
    let push = &raw.push;
    !push.apns.is_empty() || !push.fcm.is_empty() || push.webpush.is_some() || !push.webhook.is_empty()
}

/// A host name (RFC 1123 labels) or an IP address, IPv6 with or without brackets; lower case.
fn host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Some(match address {
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("[{address}]"),
        });
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    // A last label of digits only would be a malformed IPv4 address.
    let is_name = text.len() <= 253
        && text.split('.').all(label)
        && !text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    is_name.then(|| text.to_ascii_lowercase())
}

/// `host` or `host:port`.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Some(host) = host(text) {
        return Some((host, None));
    }
    let (name, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    // An IPv6 address before a port must be in brackets.
    if name.contains(':') && !name.starts_with('[') {
        return None;
    }
    Some((host(name)?, Some(port)))
}

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);
