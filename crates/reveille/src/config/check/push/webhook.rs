//! `[push.webhook.NAME]`

use std::{collections::HashMap, time::Duration};

use reveille_push::WebhookName;

use super::{Checker, SECOND, join};
use crate::config::{model::Webhook, raw};

impl Checker {
    pub(super) fn all_webhooks(&mut self, raw: &raw::Push) -> Vec<Webhook> {
        let mut taken: HashMap<String, String> = HashMap::new();
        let mut all = Vec::new();
        for (name, raw) in &raw.webhook {
            let at = format!("push.webhook.{name}");
            self.name(&at, name);
            let Some(webhook) = self.webhook(&at, name, raw) else { continue };
            if let Some(other) = taken.insert(webhook.provider.clone(), name.clone()) {
                let provider = &webhook.provider;
                self.fault(&join(&at, "provider"), format!("{provider} is served already, by push.webhook.{other}"));
            }
            all.push(webhook);
        }
        all
    }

    fn webhook(&mut self, at: &str, name: &str, raw: &raw::Webhook) -> Option<Webhook> {
        let provider = raw.provider.clone().unwrap_or_else(|| name.to_owned()).to_ascii_lowercase();
        if let Err(error) = WebhookName::new(&provider) {
            self.fault(&join(at, "provider"), format!("{error}, got {provider:?}"));
        }
        if raw.url.is_none() {
            self.fault(&join(at, "url"), "is required: https://host[:port]/path");
        }
        let url = self.endpoint(&join(at, "url"), raw.url.as_deref(), true);
        for (index, param) in raw.params.iter().enumerate() {
            if param.is_empty() || param.chars().any(char::is_control) {
                self.fault(&format!("{at}.params[{index}]"), "must be a pn-param, or * for any");
            }
        }
        let key = join(at, "key_file");
        let key_file = self.secret_file(&key, raw.key_file.as_deref());
        if key_file.as_ref().is_some_and(|(_, content)| content.trim_ascii_end().len() < 32) {
            self.fault(&key, "must hold 32 octets or more");
        }
        let ca_file = self.authorities(&join(at, "ca_file"), raw.ca_file.as_deref());
        for (header, value) in &raw.headers {
            let fits = header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && !header.is_empty();
            if !fits || value.chars().any(char::is_control) || header.to_ascii_lowercase().starts_with("reveille-") {
                self.fault(&format!("{at}.headers.{header}"), "is no header that could be set");
            }
        }
        let batch = self.number(&join(at, "batch"), raw.batch, 1, 1000);
        let batch_time = self.span(&join(at, "batch_time"), raw.batch_time, Duration::ZERO, SECOND);
        Some(Webhook {
            name: name.to_owned(),
            provider,
            url: url?,
            params: raw.params.clone(),
            key_file: key_file?.0,
            ca_file,
            batch,
            batch_time,
            headers: raw.headers.clone().into_iter().collect(),
        })
    }
}
