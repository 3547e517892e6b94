//! The dispatchers against the lab push service and its faults. Each test ends by asking the lab whether anything reached it
//! without a credential or against a rule: nothing may (P-122).

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod connections;
mod credentials;
mod webhook;

use std::path::PathBuf;

use reveille_pns::{ApnsSettings, FcmSettings, Limits, Settings, WebPushSettings};
use reveille_push::{Outcome, Provider, PushClass, PushTarget, WebhookName};
use reveille_testkit::pns::{self, Device, DeviceKind, LabConfig, LabFiles, LabPns};
use support::{Node, node};
use tokio::sync::oneshot;

/// A lab and the dispatchers of every provider toward it.
struct Field {
    lab: LabPns,
    node: Node,
    files: LabFiles,
    _dir: tempfile::TempDir,
}

impl Field {
    async fn new() -> Self {
        Self::with(LabConfig::default(), Limits::default()).await
    }

    async fn with(config: LabConfig, limits: Limits) -> Self {
        let lab = LabPns::start(config).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = lab.write_credentials(dir.path()).unwrap();
        let node = node(settings(&files, limits)).await;
        Self { lab, node, files, _dir: dir }
    }

    fn device(&self, kind: impl Into<DeviceKind>) -> Device {
        self.lab.register_device(kind)
    }

    async fn push(&self, device: &Device, class: PushClass) -> Outcome {
        self.node.push(&target(device), class).await
    }

    fn call(&self, device: &Device, patience: std::time::Duration) -> oneshot::Receiver<Outcome> {
        self.node.submit(&target(device), PushClass::Call, patience, reveille_push::Ticket::new())
    }

    /// Attempts after the first that were made for this reason.
    fn retries(&self, pns: &str, reason: &str) -> u64 {
        self.node.value(&format!(r#"reveille_push_retries_total{{pns="{pns}",reason="{reason}"}}"#))
    }

    /// P-122: nothing without a credential, and nothing against the rules.
    fn was_sound(&self) {
        assert_eq!(self.lab.unauthenticated_total(), 0, "P-122");
        for provider in pns::Provider::ALL {
            assert_eq!(self.lab.counts(provider).malformed, 0, "{provider:?}");
        }
    }
}

fn target(device: &Device) -> PushTarget {
    let name = device.provider.as_str();
    let provider = Provider::from_token(name).unwrap_or_else(|| Provider::Webhook(WebhookName::new(name).unwrap()));
    PushTarget::new(provider, device.param.as_deref(), &device.prid).unwrap()
}

fn apns(files: &LabFiles) -> ApnsSettings {
    ApnsSettings {
        name: "lab".to_owned(),
        team_id: files.apns_team_id.clone(),
        key_id: files.apns_key_id.clone(),
        key_file: files.apns_key_p8.clone(),
        topics: vec![files.apns_topic.clone()],
        sandbox: false,
        voip_refresh: false,
        endpoint: Some(files.endpoints.apns.parse().unwrap()),
        ca_file: Some(files.ca_pem.clone()),
    }
}

fn sandbox(files: &LabFiles) -> ApnsSettings {
    ApnsSettings {
        name: "sandbox".to_owned(),
        key_id: files.apns_sandbox_key_id.clone(),
        key_file: files.apns_sandbox_key_p8.clone(),
        sandbox: true,
        endpoint: Some(files.endpoints.apns_sandbox.parse().unwrap()),
        ..apns(files)
    }
}

fn webpush(files: &LabFiles, vapid_key_file: PathBuf) -> WebPushSettings {
    WebPushSettings {
        vapid_key_file,
        former_vapid_key_files: Vec::new(),
        payload_keys_file: None,
        urgent_requests: false,
        subject: files.vapid_subject.clone(),
        allow_hosts: vec![files.endpoints.webpush_host.clone()],
        allow_addresses: vec!["127.0.0.0/8".parse().unwrap()],
        ca_file: Some(files.ca_pem.clone()),
    }
}

fn settings(files: &LabFiles, limits: Limits) -> Settings {
    Settings {
        apns: vec![apns(files), sandbox(files)],
        fcm: vec![FcmSettings {
            name: "lab".to_owned(),
            project: files.fcm_project.clone(),
            aliases: Vec::new(),
            service_account_file: files.fcm_service_account_json.clone(),
            endpoint: Some(files.endpoints.fcm.parse().unwrap()),
            messages_per_minute: 540_000,
            target_field: "token".to_owned(),
            token_endpoint: Some(files.endpoints.fcm_token.parse().unwrap()),
            ca_file: Some(files.ca_pem.clone()),
        }],
        webpush: Some(webpush(files, files.vapid_key_pem.clone())),
        webhooks: Vec::new(),
        limits,
    }
}
