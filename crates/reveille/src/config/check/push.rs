//! `[push]` and its services.

use std::{collections::HashMap, path::Path, time::Duration};

use rustls::SignatureScheme;
use serde::Deserialize;

use super::{Checker, DAY, SECOND, auth::is_name_byte, files::signs, host_and_port, join};
use crate::config::{
    model::{Apns, Fcm, HostRule, Push, Unsupported, WebPush},
    raw,
};

mod webhook;

impl Checker {
    pub(super) fn push(&mut self, raw: &raw::Push) -> Option<Push> {
        let answers = [("reject", Unsupported::Reject), ("accept", Unsupported::Accept)];
        let unsupported = self.choice("push.unsupported", &raw.unsupported, &answers, &[]);
        let apns = self.all_apns(raw);
        let fcm = self.all_fcm(raw);
        let webpush = raw.webpush.as_ref().map(|raw| self.webpush(raw));
        let webhooks = self.all_webhooks(raw);
        Some(Push {
            // P-067: the answer must be there before the caller gives up, or an upstream Timer C fires.
            call_wait: self.span("push.call_wait", raw.call_wait, SECOND, 150 * SECOND),
            request_wait: self.span("push.request_wait", raw.request_wait, SECOND, 20 * SECOND),
            awake_window: self.span("push.awake_window", raw.awake_window, Duration::ZERO, DAY),
            flow_patience: self.span("push.flow_patience", raw.flow_patience, SECOND / 10, 30 * SECOND),
            min_expires: self.span("push.min_expires", raw.min_expires, 300 * SECOND, 30 * DAY),
            pnsreg: self.span("push.pnsreg", raw.pnsreg, 121 * SECOND, DAY),
            refresh: raw.refresh,
            refresh_rate: self.number("push.refresh_rate", raw.refresh_rate, 1, 1_000_000),
            voip_expires: self.span("push.voip_expires", raw.voip_expires, Duration::ZERO, 30 * DAY),
            max_contacts: self.number("push.max_contacts", raw.max_contacts, 1, 100),
            waiters_per_aor: self.number("push.waiters_per_aor", raw.waiters_per_aor, 1, 10_000),
            queue: self.number("push.queue", raw.queue, 1, 10_000_000),
            unsupported: unsupported?,
            apns,
            fcm,
            webpush: match webpush {
                Some(webpush) => Some(webpush?),
                None => None,
            },
            webhooks,
        })
    }

    fn all_apns(&mut self, raw: &raw::Push) -> Vec<Apns> {
        let mut taken: HashMap<(String, String, bool), String> = HashMap::new();
        let mut all = Vec::new();
        for (name, raw) in &raw.apns {
            let at = format!("push.apns.{name}");
            self.name(&at, name);
            let Some(apns) = self.apns(&at, name, raw) else { continue };
            for topic in &apns.topics {
                let app = (apns.team_id.clone(), topic.clone(), apns.sandbox);
                if let Some(other) = taken.insert(app, name.clone()) {
                    self.fault(&join(&at, "topics"), format!("{topic} has a credential already, push.apns.{other}"));
                }
            }
            all.push(apns);
        }
        all
    }

    fn apns(&mut self, at: &str, name: &str, raw: &raw::Apns) -> Option<Apns> {
        for (field, value) in [("team_id", &raw.team_id), ("key_id", &raw.key_id)] {
            if value.len() != 10 || !value.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()) {
                self.fault(&join(at, field), "must be ten capital letters and digits");
            }
        }
        if raw.topics.is_empty() {
            self.fault(&join(at, "topics"), "at least one bundle id is required");
        }
        for (index, topic) in raw.topics.iter().enumerate() {
            let key = format!("{at}.topics[{index}]");
            if !topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
                || !topic.contains('.')
            {
                self.fault(&key, format!("must be a bundle id such as org.example.phone, got {topic:?}"));
            } else if topic.ends_with(".voip") {
                self.fault(&key, "must be the bundle id alone: .voip is added where it is due");
            }
        }
        let environments = [("production", false), ("sandbox", true)];
        let sandbox = self.choice(&join(at, "environment"), &raw.environment, &environments, &[]);
        let key_file = self.p256_key(&join(at, "key_file"), raw.key_file.as_deref());
        let endpoint = self.endpoint(&join(at, "endpoint"), raw.endpoint.as_deref(), false);
        let ca_file = self.authorities(&join(at, "ca_file"), raw.ca_file.as_deref());
        Some(Apns {
            name: name.to_owned(),
            team_id: raw.team_id.clone(),
            key_id: raw.key_id.clone(),
            key_file: key_file?,
            topics: raw.topics.clone(),
            sandbox: sandbox?,
            voip_refresh: raw.voip_refresh,
            endpoint,
            ca_file,
        })
    }

    fn all_fcm(&mut self, raw: &raw::Push) -> Vec<Fcm> {
        let mut taken: HashMap<String, String> = HashMap::new();
        let mut all = Vec::new();
        for (name, raw) in &raw.fcm {
            let at = format!("push.fcm.{name}");
            self.name(&at, name);
            let Some(fcm) = self.fcm(&at, name, raw) else { continue };
            for alias in fcm.aliases.iter().chain([&fcm.project]) {
                if let Some(other) = taken.insert(alias.clone(), name.clone()) {
                    self.fault(&at, format!("{alias} is a project or alias already, of push.fcm.{other}"));
                }
            }
            all.push(fcm);
        }
        all
    }

    fn fcm(&mut self, at: &str, name: &str, raw: &raw::Fcm) -> Option<Fcm> {
        let account = self.service_account(&join(at, "service_account_file"), raw.service_account_file.as_deref());
        let endpoint = self.endpoint(&join(at, "endpoint"), raw.endpoint.as_deref(), false);
        let token_endpoint = self.endpoint(&join(at, "token_endpoint"), raw.token_endpoint.as_deref(), true);
        let ca_file = self.authorities(&join(at, "ca_file"), raw.ca_file.as_deref());
        for (index, alias) in raw.aliases.iter().enumerate() {
            if alias.is_empty() || !alias.bytes().all(is_name_byte) {
                self.fault(&format!("{at}.aliases[{index}]"), "must be letters, digits, dots, hyphens or underscores");
            }
        }
        let per_minute = join(at, "messages_per_minute");
        let messages_per_minute = self.number(&per_minute, raw.messages_per_minute, 1, 100_000_000);
        let fields = [("token", "token"), ("fid", "fid")];
        let target_field = self.choice(&join(at, "target_field"), &raw.target_field, &fields, &[]);
        let (service_account_file, account) = account?;
        let project = raw.project.clone().or(account.project_id);
        // The project becomes part of a request path.
        let Some(project) = project.filter(|project| !project.is_empty() && project.bytes().all(is_name_byte)) else {
            self.fault(&join(at, "project"), "must be a Firebase project id; the service account names none");
            return None;
        };
        let name = name.to_owned();
        Some(Fcm {
            name,
            project,
            aliases: raw.aliases.clone(),
            service_account_file,
            messages_per_minute,
            target_field: target_field?.to_owned(),
            endpoint,
            token_endpoint,
            ca_file,
        })
    }

    fn service_account(&mut self, key: &str, path: Option<&Path>) -> Option<(std::path::PathBuf, ServiceAccount)> {
        let (path, content) = self.secret_file(key, path)?;
        let Ok(account) = serde_json::from_slice::<ServiceAccount>(&content) else {
            self.fault(
                key,
                format!("{} is no service account: it needs client_email, private_key and token_uri", path.display()),
            );
            return None;
        };
        if account.client_email.is_empty() || !account.token_uri.starts_with("https://") {
            self.fault(key, format!("{} has no client_email or no https token_uri", path.display()));
        }
        if !signs(account.private_key.as_bytes(), SignatureScheme::RSA_PKCS1_SHA256) {
            self.fault(key, format!("{} has no RSA private_key", path.display()));
        }
        Some((path, account))
    }

    fn webpush(&mut self, raw: &raw::WebPush) -> Option<WebPush> {
        let at = "push.webpush";
        let vapid_key_file = self.p256_key(&join(at, "vapid_key_file"), raw.vapid_key_file.as_deref());
        let former = raw.former_vapid_key_files.iter().enumerate().map(|(index, path)| {
            let key = format!("{at}.former_vapid_key_files[{index}]");
            self.p256_key(&key, Some(path))
        });
        let former = former.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>();
        let payload = raw.payload_keys_file.as_deref();
        let payload_keys_file = payload.and_then(|path| self.payload_keys(&join(at, "payload_keys_file"), path));
        if raw.former_vapid_key_files.len() > 3 {
            self.fault(
                &join(at, "former_vapid_key_files"),
                "at most three: each costs old subscriptions a refused request",
            );
        }
        if !(raw.subject.starts_with("mailto:") || raw.subject.starts_with("https://")) {
            self.fault(&join(at, "subject"), "is required: a mailto: or https: URI");
        }
        if raw.allow_hosts.is_empty() {
            self.fault(&join(at, "allow_hosts"), "at least one host is required (P-138)");
        }
        let mut allow_hosts = Vec::new();
        for (index, text) in raw.allow_hosts.iter().enumerate() {
            match host_rule(text) {
                Some(rule) => allow_hosts.push(rule),
                None => self.fault(
                    &format!("{at}.allow_hosts[{index}]"),
                    format!("must be host, host:port or *.host, with a host name of two labels or more, got {text:?}"),
                ),
            }
        }
        if !raw.allow_addresses.is_empty() {
            self.warn("push.webpush.allow_addresses lets push requests reach networks that are closed to them by default (P-139)");
        }
        let ca_file = self.authorities(&join(at, "ca_file"), raw.ca_file.as_deref());
        let (subject, allow_addresses) = (raw.subject.clone(), raw.allow_addresses.clone());
        Some(WebPush {
            vapid_key_file: vapid_key_file?,
            former_vapid_key_files: former?,
            payload_keys_file,
            urgent_requests: raw.urgent_requests,
            subject,
            allow_hosts,
            allow_addresses,
            ca_file,
        })
    }

    /// The keys themselves are looked at where they are used.
    fn payload_keys(&mut self, key: &str, path: &Path) -> Option<std::path::PathBuf> {
        let (path, content) = self.secret_file(key, Some(path))?;
        if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&content).is_err() {
            self.fault(key, format!("{} is no JSON object", path.display()));
        }
        Some(path)
    }

    fn name(&mut self, at: &str, name: &str) {
        if name.is_empty() || name.len() > 63 || !name.bytes().all(is_name_byte) {
            self.fault(at, "the name must be 1 to 63 letters, digits, dots, hyphens or underscores");
        }
    }

    /// An https URL; with a path only where one makes sense. Plain http is never an option (P-113).
    fn endpoint(&mut self, key: &str, text: Option<&str>, with_path: bool) -> Option<String> {
        let text = text?;
        let wanted = if with_path { "https://host[:port]/path" } else { "https://host[:port]" };
        let parsed = text.strip_prefix("https://").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
        let fits = parsed.is_some_and(|(authority, path)| {
            host_and_port(authority).is_some()
                && (with_path || path.is_empty())
                && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        });
        if !fits {
            self.fault(key, format!("must be {wanted}, got {text:?}"));
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }
}

/// What we need of a service account's file; the rest of it is Google's.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    token_uri: String,
    project_id: Option<String>,
}

fn host_rule(text: &str) -> Option<HostRule> {
    let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
    let (host, port) = host_and_port(rest)?;
    // P-138: never an address, never a single label.
    let is_name = host.contains('.') && host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
    is_name.then_some(HostRule { host, below, port })
}
