//! Devices of the lab push service: their addresses, what wakes them and what a test decides about them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rand::RngCore as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::keys::names;

/// A push service family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Apple Push Notification service.
    Apns,
    /// Its sandbox: another host, another key, tokens of its own (P-014).
    ApnsSandbox,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm,
    /// Web Push (RFC 8030) with VAPID (RFC 8292).
    WebPush,
    /// A service of the operator's own, behind a webhook.
    Webhook,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Apns, Self::ApnsSandbox, Self::Fcm, Self::WebPush, Self::Webhook];

    /// The value of `pn-provider` (RFC 8599 §14.5).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::ApnsSandbox => "apns.dev",
            Self::Fcm => "fcm",
            Self::WebPush => "webpush",
            Self::Webhook => names::WEBHOOK_PROVIDER,
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// What a token is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// APNs `voip`: calls only.
    Voip,
    /// APNs `remote`: alerts and background pushes.
    Remote,
    /// The one service of FCM and Web Push.
    Any,
}

/// The kinds of device the lab can make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// APNs with a VoIP token alone (`pn-param` ends in `.voip`, P-011).
    ApnsVoip,
    /// APNs with a remote token alone (P-012).
    ApnsRemote,
    /// APNs with both (`voip&remote`, P-013).
    ApnsVoipRemote,
    /// APNs sandbox with both (P-014).
    ApnsSandbox,
    /// FCM (P-016).
    Fcm,
    /// Web Push (P-018).
    WebPush,
    /// A service behind a webhook (P-021).
    Webhook,
}

impl DeviceKind {
    /// The service family.
    pub fn provider(self) -> Provider {
        match self {
            Self::ApnsVoip | Self::ApnsRemote | Self::ApnsVoipRemote => Provider::Apns,
            Self::ApnsSandbox => Provider::ApnsSandbox,
            Self::Fcm => Provider::Fcm,
            Self::WebPush => Provider::WebPush,
            Self::Webhook => Provider::Webhook,
        }
    }
}

/// The usual device of a provider; for APNs the one with both tokens, which can be woken for anything.
impl From<Provider> for DeviceKind {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::Apns => Self::ApnsVoipRemote,
            Provider::ApnsSandbox => Self::ApnsSandbox,
            Provider::Fcm => Self::Fcm,
            Provider::WebPush => Self::WebPush,
            Provider::Webhook => Self::Webhook,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DeviceId(pub(super) u64);

/// An app instance registered with the lab. `Debug` shows the provider alone.
pub struct Device {
    /// Its push service.
    pub provider: Provider,
    /// `pn-param`, decoded; none for Web Push.
    pub param: Option<String>,
    /// `pn-prid`, decoded.
    pub prid: String,
    /// Pushes that reached the device.
    pub wakes: mpsc::Receiver<Wake>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// A push, as the device receives it.
#[derive(Clone, Debug)]
pub struct Wake {
    /// When it reached the device.
    pub at: Instant,
    /// The service it came through.
    pub provider: Provider,
    /// The token it was addressed to.
    pub service: Service,
    /// Whether the sender asked for delivery at once (APNs priority 10, FCM HIGH, Web Push `high`).
    pub urgent: bool,
    /// How long the service may keep it, where the sender said; zero means now or never.
    pub ttl: Option<Duration>,
    /// The headers a test may look at: `apns-*` for APNs, `ttl`, `urgency` and `topic` for Web Push.
    pub headers: BTreeMap<String, String>,
    /// The body: never a word about the caller (P-106).
    pub body: bytes::Bytes,
}

/// How the lab treats pushes to one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accepts and wakes the device.
    Accept,
    /// The token is dead: APNs 410 `Unregistered` with this time (now, if none), FCM 404 `UNREGISTERED`, Web Push 410.
    Gone {
        /// When the device was last known unregistered.
        since: Option<SystemTime>,
    },
    /// As `Gone`, but Web Push answers 404; the same as `Gone` elsewhere.
    NotFound,
    /// Refuses with a 400 that blames the request, not the token.
    Refuse,
    /// 429, with `Retry-After` where a time is given.
    Throttle {
        /// Whole seconds are sent.
        retry_after: Option<Duration>,
    },
    /// 503.
    Unavailable,
    /// This status with a page of HTML, as a gateway in front of a service answers.
    Html(u16),
    /// The stream ends without an answer; `processed` says whether it counts as seen (RST_STREAM with CANCEL) or was never
    /// touched (REFUSED_STREAM).
    Reset {
        /// Whether the device is woken for all that.
        processed: bool,
    },
    /// 401 or 403 as if the credential were bad, whatever it is.
    CredentialFault,
    /// As if the credential's time were over, whatever it is: a renewed one fares no better.
    ExpiredCredential,
    /// Accepts and never wakes the device.
    Blackhole,
    /// Accepts at once and wakes the device after this time.
    Delay(Duration),
    /// Holds the answer back this long, then accepts and wakes the device.
    SlowAnswer(Duration),
}

/// Address material of a new device: (`pn-param`, `pn-prid`, tokens as the provider sees them).
pub(super) fn address(kind: DeviceKind, webpush_origin: &str) -> (Option<String>, String, Vec<(Service, String)>) {
    let apns = |services: &str| Some(format!("{}.{}.{services}", names::APNS_TEAM_ID, names::APNS_BUNDLE));
    match kind {
        DeviceKind::ApnsVoip => {
            let token = random_hex(32);
            (apns("voip"), token.clone(), vec![(Service::Voip, token)])
        }
        DeviceKind::ApnsRemote => {
            let token = random_hex(32);
            (apns("remote"), token.clone(), vec![(Service::Remote, token)])
        }
        DeviceKind::ApnsVoipRemote | DeviceKind::ApnsSandbox => {
            let (voip, remote) = (random_hex(32), random_hex(32));
            let prid = format!("{voip}:voip&{remote}:remote");
            (apns("voip&remote"), prid, vec![(Service::Voip, voip), (Service::Remote, remote)])
        }
        DeviceKind::Fcm => {
            let token = format!("{}:APA91b{}", random_hex(11), random_hex(48));
            (Some(names::FCM_PROJECT.to_owned()), token.clone(), vec![(Service::Any, token)])
        }
        DeviceKind::Webhook => {
            let token = random_hex(24);
            (Some(names::WEBHOOK_PARAM.to_owned()), token.clone(), vec![(Service::Any, token)])
        }
        DeviceKind::WebPush => {
            let path = format!("/push/{}", random_hex(24));
            (None, format!("{webpush_origin}{path}"), vec![(Service::Any, path)])
        }
    }
}

/// `bytes` random bytes in lower-case hex.
pub(super) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    rand::rng().fill_bytes(&mut buffer);
    hex::encode(buffer)
}
