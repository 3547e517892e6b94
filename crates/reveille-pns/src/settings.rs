//! What the binary has to say about the push services: plain structs, filled from the configuration.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use url::Url;

/// Every credential and the limits they share.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `[push.apns.NAME]`
    pub apns: Vec<ApnsSettings>,
    /// `[push.fcm.NAME]`
    pub fcm: Vec<FcmSettings>,
    /// `[push.webpush]`
    pub webpush: Option<WebPushSettings>,
    /// `[push.webhook.NAME]`
    pub webhooks: Vec<WebhookSettings>,
    /// What bounds every dispatcher.
    pub limits: Limits,
}

/// One APNs signing key and the apps it may push to.
#[derive(Debug, Clone)]
pub struct ApnsSettings {
    /// NAME of `[push.apns.NAME]`.
    pub name: String,
    /// Apple's Team ID, ten of `[A-Z0-9]`.
    pub team_id: String,
    /// The key's id, ten characters.
    pub key_id: String,
    /// The `.p8` file.
    pub key_file: PathBuf,
    /// The bundle ids this credential serves (P-118).
    pub topics: Vec<String>,
    /// Whether this is the sandbox, `pn-provider=apns.dev` (P-014).
    pub sandbox: bool,
    /// Whether a phone whose only token is a `voip` one gets refresh pushes over it (P-098).
    pub voip_refresh: bool,
    /// In place of Apple's host.
    pub endpoint: Option<Url>,
    /// In place of the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// One Firebase project.
#[derive(Debug, Clone)]
pub struct FcmSettings {
    /// NAME of `[push.fcm.NAME]`.
    pub name: String,
    /// The project id, which `pn-param` names.
    pub project: String,
    /// Other spellings of it in `pn-param`: project numbers (P-017).
    pub aliases: Vec<String>,
    /// The service account's JSON file.
    pub service_account_file: PathBuf,
    /// In place of `https://fcm.googleapis.com`.
    pub endpoint: Option<Url>,
    /// Messages a minute at most, below the project's quota (P-165).
    pub messages_per_minute: u32,
    /// The member of a message that names the device: `token`, or `fid` (P-168).
    pub target_field: String,
    /// In place of `https://oauth2.googleapis.com/token`. What the JSON file says is not used (P-159).
    pub token_endpoint: Option<Url>,
    /// In place of the system's roots, for both endpoints.
    pub ca_file: Option<PathBuf>,
}

/// Web Push with VAPID.
#[derive(Debug, Clone)]
pub struct WebPushSettings {
    /// The P-256 private key: PEM, PKCS#8 or SEC1.
    pub vapid_key_file: PathBuf,
    /// Keys that subscriptions may still have been made under, newest first (P-132).
    pub former_vapid_key_files: Vec<PathBuf>,
    /// Keys of subscriptions that get an encrypted payload, by push URL: JSON (P-137).
    pub payload_keys_file: Option<PathBuf>,
    /// Whether pushes for requests that are no calls are urgent as well (P-129).
    pub urgent_requests: bool,
    /// The `sub` claim: a `mailto:` or `https:` contact (RFC 8292 §2.1).
    pub subject: String,
    /// Push services that may be sent to: `host`, `host:port`, `*.host`, `*.host:port` (P-138).
    pub allow_hosts: Vec<String>,
    /// Networks past the address check of P-139; for a lab only.
    pub allow_addresses: Vec<IpNet>,
    /// In place of the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// A push service of the operator's own.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// NAME of `[push.webhook.NAME]`.
    pub name: String,
    /// What phones call it in `pn-provider`.
    pub provider: String,
    /// Where batches are posted.
    pub url: Url,
    /// Values of `pn-param` that are served (P-118); `*` is any. Where there are none, phones send none.
    pub params: Vec<String>,
    /// The key that requests are signed with, 32 octets or more.
    pub key_file: PathBuf,
    /// In place of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Wake requests in one batch.
    pub batch: usize,
    /// How long a push that is no call may wait for company.
    pub batch_time: Duration,
    /// Headers to send along.
    pub headers: Vec<(String, String)>,
}

/// The Web Push services of the common browsers: the default of [`WebPushSettings::allow_hosts`].
pub const DEFAULT_ALLOW_HOSTS: &[&str] =
    &["fcm.googleapis.com", "updates.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com"];

/// What bounds each dispatcher and its connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Jobs a dispatcher holds; past it, refreshes are shed first.
    pub queue: usize,
    /// Jobs started in one turn.
    pub batch: usize,
    /// How long pushes other than calls wait for company.
    pub gather: Duration,
    /// HTTP/2 connections to one address.
    pub max_connections: usize,
    /// Concurrent streams on one connection; the peer's own limit applies where it is lower.
    pub streams: usize,
    /// DNS, TCP, TLS and HTTP/2 set-up together.
    pub connect_timeout: Duration,
    /// One attempt, from route to answer; the job's deadline applies where it is earlier.
    pub request_timeout: Duration,
    /// Between keep-alive PINGs.
    pub keep_alive: Duration,
    /// How long a PING may stay unanswered.
    pub keep_alive_timeout: Duration,
    /// Web Push origins (host, port, address) connected to at a time.
    pub origins: usize,
    /// Consecutive refusals of a credential after which it is no longer announced (P-122).
    pub breaker_threshold: u32,
    /// After how long a withdrawn credential is tried again; doubles up to twenty times this.
    pub breaker_probe: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 10_000,
            batch: 256,
            gather: Duration::from_millis(2),
            max_connections: 4,
            streams: 200,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(10),
            origins: 256,
            breaker_threshold: 5,
            breaker_probe: Duration::from_secs(30),
        }
    }
}

/// A setting that cannot be used. `key` is the configuration's name for it, without values of secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SettingsError {
    /// Such as `push.apns.main.key_file`.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl SettingsError {
    pub(crate) fn new(key: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self { key: key.into(), reason: reason.to_string() }
    }
}
